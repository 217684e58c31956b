//! A file that is looked at about once a second, by its metadata and its content. It follows
//! links at every look, so the swapped `..data` link of a Kubernetes volume is just another file.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::credential::TokenDigest;

pub struct WatchedFile {
    path: PathBuf,
    /// What the last whole read saw.
    last: Option<(Stamp, ContentHash)>,
}

/// SHA-256 of a file's content.
pub type ContentHash = TokenDigest;

/// What a look found.
pub enum Look {
    /// The content of the last whole read still stands there.
    Same,
    Read {
        content: Vec<u8>,
        hash: ContentHash,
    },
}

impl WatchedFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file unless its metadata says that nothing has changed since the last read. Fails
    /// if it can't be read, or changed while it was.
    pub fn look(&mut self) -> io::Result<Look> {
        let mut file = File::open(&self.path)?;
        let before = Stamp::of(&file.metadata()?);
        if let Some((stamp, _)) = &self.last
            && *stamp == before
            && before.is_settled()
        {
            return Ok(Look::Same);
        }
        let mut content = Vec::with_capacity(usize::try_from(before.bytes).unwrap_or(0));
        file.read_to_end(&mut content)?;
        if Stamp::of(&file.metadata()?) != before {
            return Err(io::Error::other("it is being written to at this moment"));
        }
        let hash = TokenDigest::of(&content);
        let known = self.last.replace((before, hash));
        Ok(match known {
            Some((_, last)) if last == hash => Look::Same,
            _ => Look::Read { content, hash },
        })
    }

    /// Whether the last look saw a file that had stood unchanged for a while.
    pub fn is_settled(&self) -> bool {
        self.last.as_ref().is_some_and(|(stamp, _)| stamp.is_settled())
    }
}

/// Metadata that changes with the content, except for two writes within one tick of the file
/// system's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Only a stamp that is some seconds old tells a later write from the one it shows.
    fn is_settled(&self) -> bool {
        let changed = UNIX_EPOCH + Duration::from_secs(self.changed.0.unsigned_abs());
        SystemTime::now().duration_since(changed).is_ok_and(|age| age >= SETTLED)
    }
}

const SETTLED: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn content(look: io::Result<Look>) -> Option<String> {
        match look.expect("readable") {
            Look::Same => None,
            Look::Read { content, .. } => Some(String::from_utf8(content).expect("text")),
        }
    }

    #[test]
    fn a_change_is_seen_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut watched = WatchedFile::new(&path);
        assert!(watched.look().is_err());
        fs::write(&path, "one").expect("written");
        assert_eq!(content(watched.look()).as_deref(), Some("one"));
        assert_eq!(content(watched.look()), None);
        fs::write(&path, "two").expect("written");
        assert_eq!(content(watched.look()).as_deref(), Some("two"));
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("file"), version).expect("written");
        }
        std::os::unix::fs::symlink("v1", at("..data")).expect("linked");
        std::os::unix::fs::symlink("..data/file", at("file")).expect("linked");
        let mut watched = WatchedFile::new(at("file"));
        assert_eq!(content(watched.look()).as_deref(), Some("v1"));
        std::os::unix::fs::symlink("v2", at("..tmp")).expect("linked");
        fs::rename(at("..tmp"), at("..data")).expect("swapped");
        assert_eq!(content(watched.look()).as_deref(), Some("v2"));
    }
}

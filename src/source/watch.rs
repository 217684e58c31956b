//! A file that is looked at about once a second, by its metadata and its content. It follows
//! links at every look, so the swapped `..data` link of a Kubernetes volume is just another file.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::open_regular;
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
        let mut file = open_regular(&self.path)?;
        let before = Stamp::of(&file.metadata()?);
        if let Some((stamp, _)) = &self.last
            && *stamp == before
            && before.is_settled()
        {
            return Ok(Look::Same);
        }
        if before.bytes > BYTES_MAX {
            return Err(io::Error::other("it is larger than 1 GiB"));
        }
        let mut content = Vec::with_capacity(before.bytes as usize);
        (&mut file).take(BYTES_MAX).read_to_end(&mut content)?;
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
    fn is_settled(&self) -> bool {
        self.last.as_ref().is_some_and(|(stamp, _)| stamp.is_settled())
    }
}

/// Files that belong together, such as a certificate and its key.
pub struct WatchedFiles {
    files: Vec<(WatchedFile, bool)>,
    moving: bool,
}

impl WatchedFiles {
    /// What they hold now is no change: read them after this.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let files = paths.into_iter().map(|path| (WatchedFile::new(path), true)).collect();
        let mut watched = Self { files, moving: false };
        watched.differ();
        watched
    }

    /// One look at all of them. Whether there was a change, told once, when two looks agree on it.
    pub fn have_changed(&mut self) -> bool {
        if self.differ() {
            self.moving = true;
            return false;
        }
        std::mem::take(&mut self.moving)
    }

    /// Whether any is not as the last look saw it; to be gone or unreadable is a difference too.
    fn differ(&mut self) -> bool {
        let mut differ = false;
        for (file, readable) in &mut self.files {
            let look = file.look();
            let was_readable = std::mem::replace(readable, look.is_ok());
            differ |= *readable != was_readable || matches!(look, Ok(Look::Read { .. }));
        }
        differ
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

/// Some millions of rows.
const BYTES_MAX: u64 = 1 << 30;
const SETTLED: Duration = Duration::from_secs(2);

/// A file whose content counts when two looks agree on it.
pub struct Tracked<T> {
    name: &'static str,
    file: WatchedFile,
    pace: Pace<T>,
    fault: Option<String>,
}

impl<T> Tracked<T> {
    /// `name` is what the log calls it.
    pub fn new(name: &'static str, path: &Path) -> Self {
        Self { name, file: WatchedFile::new(path), pace: Pace::default(), fault: None }
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What keeps the content from counting.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// One look at the file. A fault is logged once, and its end too.
    pub fn step(&mut self, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Step<'_, T> {
        let seen = match self.file.look() {
            Ok(Look::Same) => Seen::Same,
            Ok(Look::Read { content, hash }) => Seen::Content(hash, read(&content)),
            Err(error) => Seen::Fault(error.to_string()),
        };
        let begun = self.pace.begun;
        let (step, fault) = self.pace.step(seen, self.file.is_settled());
        let path = self.file.path().display();
        match (&self.fault, &fault) {
            (known, Some(fault)) if known.as_ref() != Some(fault) => {
                let still = if begun {
                    "the last good one stays in force"
                } else {
                    "nothing is in force until it is mended"
                };
                tracing::error!(file = %path, "{}: {fault}: {still}", self.name);
            }
            (Some(_), None) => tracing::info!(file = %path, "{}: good again", self.name),
            _ => {}
        }
        self.fault = fault;
        step
    }
}

/// What one look at a file saw.
enum Seen<T> {
    /// What the last successful look saw.
    Same,
    Content(ContentHash, Result<T, String>),
    Fault(String),
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a, T> {
    Wait,
    /// What is in force stands in the file.
    Confirm,
    /// New, valid, and seen once.
    Preview(&'a T),
    /// New, valid, and seen twice.
    Apply(T),
}

/// Decides when a file's content counts: when two looks agree on it. At the start, a file that has
/// not been touched for some time counts at once.
struct Pace<T> {
    /// Whether any content has counted.
    begun: bool,
    /// The content in force; `None` while another one is in sight.
    applied: Option<ContentHash>,
    latest: Option<(ContentHash, Result<Option<T>, String>)>,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self { begun: false, applied: None, latest: None }
    }
}

impl<T> Pace<T> {
    /// The step, and the fault that keeps the file from counting.
    fn step(&mut self, seen: Seen<T>, settled: bool) -> (Step<'_, T>, Option<String>) {
        let first_sight = match seen {
            Seen::Fault(fault) => return (Step::Wait, Some(fault)),
            Seen::Same => false,
            Seen::Content(hash, read) => {
                self.latest = Some((hash, read.map(Some)));
                true
            }
        };
        let Some((hash, read)) = &mut self.latest else { return (Step::Wait, None) };
        let value = match read {
            Err(fault) => return (Step::Wait, Some(fault.clone())),
            Ok(value) => value,
        };
        if self.applied == Some(*hash) {
            *value = None;
            return (Step::Confirm, None);
        }
        let at_once = settled && !self.begun;
        if first_sight && !at_once {
            self.applied = None;
            let value = value.as_ref().expect("it was just read");
            return (Step::Preview(value), None);
        }
        self.begun = true;
        self.applied = Some(*hash);
        (Step::Apply(value.take().expect("it is applied once")), None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hash(content: &str) -> ContentHash {
        ContentHash::of(content.as_bytes())
    }

    #[test]
    fn content_counts_when_two_looks_agree() {
        let mut pace = Pace::default();
        let read = |text: &'static str| Seen::Content(hash(text), Ok(text));
        assert_eq!(pace.step(read("one"), false).0, Step::Preview(&"one"));
        assert_eq!(pace.step(Seen::Same, false).0, Step::Apply("one"));
        assert_eq!(pace.step(Seen::Same, true).0, Step::Confirm);
        assert_eq!(pace.step(read("cut"), true).0, Step::Preview(&"cut"));
        assert_eq!(pace.step(read("two"), true).0, Step::Preview(&"two"));
        let fault = Seen::Content(hash("bad"), Err("bad".to_owned()));
        assert_eq!(pace.step(fault, true), (Step::Wait, Some("bad".to_owned())));
        assert_eq!(pace.step(Seen::Same, true), (Step::Wait, Some("bad".to_owned())));
        assert_eq!(pace.step(read("one"), true).0, Step::Preview(&"one"));
        assert_eq!(pace.step(Seen::Same, true).0, Step::Apply("one"));
    }

    #[test]
    fn a_file_that_has_stood_for_some_time_counts_at_once_at_the_start() {
        let mut pace = Pace::default();
        assert_eq!(pace.step(Seen::Content(hash("one"), Ok("one")), true).0, Step::Apply("one"));
    }

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
    fn a_change_of_several_files_is_told_once_when_they_stand_still() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = [folder.path().join("one"), folder.path().join("two")];
        let write = |index: usize, text| fs::write(&paths[index], text).expect("written");
        write(0, "a");
        write(1, "b");
        let mut watched = WatchedFiles::new(paths.iter().map(|it| it.as_path()));
        let mut told = || (watched.have_changed(), watched.have_changed(), watched.have_changed());
        assert_eq!(told(), (false, false, false), "as they were");
        write(1, "c");
        assert_eq!(told(), (false, true, false), "one has changed");
        fs::remove_file(&paths[0]).expect("removed");
        assert_eq!(told(), (false, true, false), "one is gone");
        write(0, "a");
        assert_eq!(told(), (false, true, false), "it is back");
        write(0, "d");
        assert!(!watched.have_changed());
        write(1, "e");
        assert!(!watched.have_changed(), "the other one follows");
        assert!(watched.have_changed());
    }

    #[test]
    fn what_is_no_file_is_a_fault_and_no_trap() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("made");
        let sparse = folder.path().join("sparse");
        fs::File::create(&sparse).and_then(|file| file.set_len(1 << 36)).expect("made");
        for path in [&pipe, &sparse, folder.path(), Path::new("/dev/zero")] {
            assert!(WatchedFile::new(path).look().is_err(), "{}", path.display());
        }
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

//! The enrolment file: which tokens belong to the credentials that a cloud administers, by their
//! digests. Its form is that of the `file` source. It is replaced as a whole and by one command at
//! a time, so nobody reads half of it and no row is lost; it never holds a token.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

use super::file::{CredentialReader, Faults, Format, Row};
use super::watch::{Look, WatchedFile};
use crate::credential::{CredentialId, Status, TenantId, TokenDigest};

pub struct Enrolment {
    path: PathBuf,
}

impl Enrolment {
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All rows; none where there is no file yet.
    pub fn rows(&self) -> Result<Vec<Row>, String> {
        Ok(read(&self.path)?.map(|(rows, _)| rows).unwrap_or_default())
    }

    /// Fails if it could not be changed: to be known before a secret is made that would be lost.
    pub fn probe(&self) -> Result<(), String> {
        let change = Change::begin(&self.path)?;
        change.draft().map(drop)
    }

    /// Enrols a token, in the place of the one that the credential had, which is told.
    pub fn put(&self, row: &Row) -> Result<Option<TokenDigest>, String> {
        let mut change = Change::begin(&self.path)?;
        let own = |other: &Row| other.is_of(row.tenant(), row.id());
        let taken = change.rows.iter().find(|other| !own(other) && other.digest() == row.digest());
        if let Some(other) = taken {
            return Err(format!(
                "{}: this is the token of {} already",
                self.path.display(),
                other.id()
            ));
        }
        let replaced = match change.rows.iter_mut().find(|other| own(other)) {
            Some(known) => Some(*std::mem::replace(known, row.clone()).digest()),
            None => {
                change.rows.push(row.clone());
                None
            }
        };
        change.commit()?;
        Ok(replaced)
    }

    /// Notes the status that the cloud has now. Tells if the credential is enrolled.
    pub fn set_status(
        &self,
        tenant: &TenantId,
        id: &CredentialId,
        status: Status,
    ) -> Result<bool, String> {
        let mut change = Change::begin(&self.path)?;
        let Some(row) = change.rows.iter_mut().find(|row| row.is_of(tenant, id)) else {
            return Ok(false);
        };
        row.set_status(status);
        change.commit()?;
        Ok(true)
    }

    /// Tells if the credential was enrolled.
    pub fn remove(&self, tenant: &TenantId, id: &CredentialId) -> Result<bool, String> {
        let mut change = Change::begin(&self.path)?;
        let before = change.rows.len();
        change.rows.retain(|row| !row.is_of(tenant, id));
        if change.rows.len() == before {
            return Ok(false);
        }
        change.commit()?;
        Ok(true)
    }
}

/// The rows of a file, and whether its last line has an end.
fn read(path: &Path) -> Result<Option<(Vec<Row>, bool)>, String> {
    let content = match WatchedFile::new(path).look() {
        Ok(Look::Read { content, .. }) => content,
        Ok(Look::Same) => unreachable!("the first look reads"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: cannot be read: {error}", path.display())),
    };
    let rows = CredentialReader::new(Format::of(path)).read_rows(&content);
    let rows = rows.map_err(|Faults(faults)| {
        let lines = faults.iter().map(|fault| format!("{}: {fault}", path.display()));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Some((rows, content.ends_with(b"\n") || content.ends_with(b"]"))))
}

/// A change in the making. Nobody else makes one until this is dropped.
struct Change {
    /// Without symbolic links: what is replaced is the file, and not a link to it.
    path: PathBuf,
    rows: Vec<Row>,
    _lock: File,
}

impl Change {
    fn begin(path: &Path) -> Result<Self, String> {
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(unchanged(path, &error)),
        };
        let lock = lock(&path).map_err(|error| unchanged(&path, &error))?;
        let rows = match read(&path)? {
            None => Vec::new(),
            Some((rows, true)) => rows,
            Some((_, false)) => {
                return Err(format!(
                    "{}: ends within a line, as a file that was cut: see that it is whole, and end \
                     the line",
                    path.display()
                ));
            }
        };
        Ok(Self { path, rows, _lock: lock })
    }

    fn commit(self) -> Result<(), String> {
        let draft = self.draft()?;
        let replace = || {
            draft.persist(&self.path)?;
            File::open(directory_of(&self.path))?.sync_all()
        };
        replace().map_err(|error| unchanged(&self.path, &error))
    }

    /// The whole new file, on disk beside the old one, with its owner and mode.
    fn draft(&self) -> Result<NamedTempFile, String> {
        let text = written(&self.rows, Format::of(&self.path));
        let text = text.ok_or_else(|| {
            let what = io::Error::other("a row would not be read as it is meant");
            unchanged(&self.path, &what)
        })?;
        let draft = || {
            let name = self.path.file_name().unwrap_or_default().to_string_lossy();
            let mut draft = tempfile::Builder::new()
                .prefix(&format!(".{name}-"))
                .tempfile_in(directory_of(&self.path))?;
            draft.write_all(text.as_bytes())?;
            if let Ok(old) = fs::metadata(&self.path) {
                let new = draft.as_file().metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(draft.as_file(), Some(old.uid()), Some(old.gid()))?;
                }
                let mode = fs::Permissions::from_mode(old.mode() & 0o777);
                draft.as_file().set_permissions(mode)?;
            }
            draft.as_file().sync_all()?;
            Ok(draft)
        };
        draft().map_err(|error: io::Error| unchanged(&self.path, &error))
    }
}

fn unchanged(path: &Path, error: &io::Error) -> String {
    format!("{}: cannot be changed: {error}", path.display())
}

/// The rows as text; none if they would be read as others.
fn written(rows: &[Row], format: Format) -> Option<String> {
    let json = |row: &Row| serde_json::to_string(row).ok();
    let lines: Vec<String> = rows.iter().map(json).collect::<Option<_>>()?;
    let text = match format {
        _ if rows.is_empty() => "[]\n".to_owned(),
        Format::JsonLines => lines.iter().map(|line| format!("{line}\n")).collect(),
        Format::Yaml => serde_saphyr::to_string(&rows).ok()?,
    };
    let text = match format {
        Format::JsonLines => text,
        Format::Yaml => format!("{HEADER}\n{text}"),
    };
    let read = CredentialReader::new(format).read_rows(text.as_bytes()).ok()?;
    let again: Vec<String> = read.iter().map(json).collect::<Option<_>>()?;
    (again == lines && text.ends_with('\n')).then_some(text)
}

const HEADER: &str =
    "# `scim-guard credential` writes this file anew: rows are kept, other comments are not.";

/// A lock of the file itself would end with it. This one lasts until it is dropped; its file stays.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(name)?;
    let begun = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another command is changing it all the time"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A change takes some milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::credential::{Credential, Expiry};
    use crate::source::file::About;

    fn row(id: &str, token: &str) -> Row {
        let credential = Credential {
            id: CredentialId::parse(id).expect("valid"),
            tenant: tenant(),
            digest: TokenDigest::of(token.as_bytes()),
            status: Status::Enabled,
            expiry: Expiry::At(Timestamp::from_millis(1_800_000_000_000)),
        };
        let about = About {
            create_time: Some(Timestamp::from_millis(1_700_000_000_000)),
            label: Some("1e3: # 'Okta' \u{e9}".to_owned()),
            hint: Some("0123".to_owned()),
        };
        Row::new(&credential, about)
    }

    fn tenant() -> TenantId {
        TenantId::parse("z-1").expect("valid")
    }

    fn ids(enrolment: &Enrolment) -> Vec<String> {
        let mut ids: Vec<_> = enrolment
            .rows()
            .expect("readable")
            .iter()
            .map(|row| row.id().as_str().to_owned())
            .collect();
        ids.sort();
        ids
    }

    /// A folder, and a place in it where no file is yet.
    fn bench(name: &str) -> (tempfile::TempDir, Enrolment) {
        let folder = tempfile::tempdir().expect("a folder");
        let enrolment = Enrolment::at(&folder.path().join(name));
        (folder, enrolment)
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        for name in ["enrolment.yaml", "enrolment.jsonl"] {
            let (_folder, enrolment) = bench(name);
            assert_eq!(ids(&enrolment), Vec::<String>::new());
            for (id, token) in [("007", "a"), ("c-2", "b"), ("null", "c")] {
                assert_eq!(enrolment.put(&row(id, token)), Ok(None));
            }
            let rows = enrolment.rows().expect("readable");
            assert_eq!(rows[0].about(), row("007", "a").about());
            let listing: Vec<_> = rows.iter().map(Row::credential).collect();
            let wanted = [row("007", "a"), row("c-2", "b"), row("null", "c")];
            assert_eq!(listing, wanted.map(|row| row.credential()));
            let mode = fs::metadata(enrolment.path()).expect("it is there").mode();
            assert_eq!(mode & 0o777, 0o600);
            for id in ["007", "c-2", "null"] {
                let id = CredentialId::parse(id).expect("valid");
                assert_eq!(enrolment.remove(&tenant(), &id), Ok(true));
                assert_eq!(enrolment.remove(&tenant(), &id), Ok(false));
            }
            let text = fs::read_to_string(enrolment.path()).expect("it is there");
            assert!(text.ends_with("[]\n"), "{text}");
            assert_eq!(ids(&enrolment), Vec::<String>::new());
        }
    }

    #[test]
    fn rows_of_people_are_kept_and_so_are_mode_and_link() {
        let (folder, enrolment) = bench("link.yaml");
        let text = "\
# Ours.
- credential_id: theirs
  tenant: z-other
  digest: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  insecure_no_expiry: true
  credential_type: BearerToken
  created_by: somebody
  hint: abcd
";
        let file = folder.path().join("file.yaml");
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        std::os::unix::fs::symlink("file.yaml", enrolment.path()).expect("linked");
        enrolment.put(&row("c-1", "a")).expect("changed");
        let now = fs::read_to_string(&file).expect("it is there");
        assert!(now.starts_with(HEADER) && !now.contains("Ours"), "{now}");
        let bare = |line: &str| line.trim_start_matches(['-', ' ']).to_owned();
        let kept: Vec<_> = now.lines().map(bare).collect();
        for line in text.lines().skip(1).map(bare) {
            assert!(kept.contains(&line), "{line} in {now}");
        }
        assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o640);
        assert!(enrolment.path().is_symlink());
    }

    #[test]
    fn a_credential_has_one_token_and_a_token_one_credential() {
        let (_folder, enrolment) = bench("enrolment.yaml");
        enrolment.put(&row("c-1", "a")).expect("changed");
        assert_eq!(enrolment.put(&row("c-1", "b")), Ok(Some(TokenDigest::of(b"a"))));
        let refusal = enrolment.put(&row("c-2", "b")).expect_err("taken");
        assert!(refusal.contains("the token of c-1 already"), "{refusal}");
        assert_eq!(ids(&enrolment), ["c-1"]);
        let id = CredentialId::parse("c-1").expect("valid");
        assert_eq!(enrolment.set_status(&tenant(), &id, Status::Disabled), Ok(true));
        let rows = enrolment.rows().expect("readable");
        let credential = rows[0].credential();
        assert_eq!(credential.status, Status::Disabled);
        assert_eq!(credential.digest, TokenDigest::of(b"b"));
    }

    #[test]
    fn a_broken_file_is_told_and_not_touched() {
        for (text, told) in [
            ("", "write []"),
            ("- credential_id: c-1\n", "is required"),
            ("- { tenant: z-1, planted: secret }\n", "unknown key"),
            ("[] # cut", "ends within a line"),
        ] {
            let (folder, enrolment) = bench("enrolment.yaml");
            fs::write(enrolment.path(), text).expect("written");
            let refusal = enrolment.put(&row("c-1", "a")).expect_err(text);
            assert!(refusal.contains(told) && !refusal.contains("secret"), "{refusal}");
            assert!(enrolment.probe().is_err(), "{text}");
            assert_eq!(fs::read_to_string(enrolment.path()).expect("it is there"), text);
            let left = fs::read_dir(folder.path()).expect("a folder").count();
            assert_eq!(left, 2, "the file and its lock");
        }
        let enrolment = Enrolment::at(Path::new("/nowhere/enrolment.yaml"));
        assert!(enrolment.probe().is_err_and(|told| told.contains("cannot be changed")));
    }

    #[test]
    fn commands_at_the_same_time_lose_no_row() {
        let (_folder, enrolment) = bench("enrolment.yaml");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let enrolment = &enrolment;
                scope.spawn(move || {
                    for number in 0..5 {
                        let name = format!("c-{writer}-{number}");
                        enrolment.put(&row(&name, &name)).expect("changed");
                    }
                });
            }
        });
        assert_eq!(ids(&enrolment).len(), 40);
    }

    /// Whoever dies before the new file has its name leaves the old one in force, and a draft that
    /// disturbs nobody.
    #[test]
    fn a_crash_before_the_rename_changes_nothing() {
        let (folder, enrolment) = bench("enrolment.yaml");
        enrolment.put(&row("c-1", "a")).expect("changed");
        let mut change = Change::begin(enrolment.path()).expect("begun");
        change.rows.push(row("c-2", "b"));
        let draft = change.draft().expect("drafted").keep().expect("kept").1;
        drop(change); // As the system does for a process that dies.
        assert_eq!(ids(&enrolment), ["c-1"]);
        assert_eq!(ids(&Enrolment::at(&draft)), ["c-1", "c-2"], "it was whole before the rename");
        enrolment.put(&row("c-3", "c")).expect("changed");
        assert_eq!(ids(&enrolment), ["c-1", "c-3"]);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3);
    }
}

//! Puts a backup in the place of a store, while nobody uses that. What the replaced store had
//! taken away since is taken away again, and the new one is disputed until an operator accepts it.
//! No file is deleted but what an earlier attempt has left half done.

mod difference;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnection, SqliteJournalMode};
use sqlx::{query, query_scalar};

use super::sqlite::OpenError;
use super::sqlite::batch::Batch;
use super::sqlite::connection::Connection;
use super::sqlite::place::{Place, beside, create_private, inspect};
use super::sqlite::{read, schema};
use super::{AuditEntry, Failed, Lease, Nonce, Record, StoredToken};
use crate::clock::Timestamp;
use crate::credential::Revision;
use crate::credential::feed::{Head, History};

pub use self::difference::{Difference, What};

/// What a restore has led to, for a person to read.
#[derive(Debug)]
pub struct Restored {
    pub head: Head,
    /// Where the store lies that was in its place.
    pub replaced: Option<PathBuf>,
    /// Why that one could not be read: nothing was carried over from it then.
    pub unreadable: Option<String>,
    /// What was otherwise in the replaced store than in the backup.
    pub differences: Vec<Difference>,
    /// The admin tokens that open the new one, beside those of the config.
    pub tokens: Vec<StoredToken>,
}

#[derive(Debug)]
pub enum RestoreError {
    /// There is no such backup.
    Missing(PathBuf),
    /// Changes lie beside it that are not in it: it is a copy of a store in use.
    Unfinished(PathBuf),
    Backup(OpenError),
    Store(OpenError),
    Io(PathBuf, io::Error),
    Failed(Failed),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(file) => write!(f, "{}: there is no such backup", file.display()),
            Self::Unfinished(file) => write!(
                f,
                "{}: is a copy of a store in use, with changes in a file that ends in `-wal`: \
                 take one made by `scim-guard store backup`",
                file.display()
            ),
            Self::Backup(error) => write!(f, "backup {error}"),
            Self::Store(error) => write!(f, "store {error}"),
            Self::Io(file, error) => write!(f, "{}: {error}", file.display()),
            Self::Failed(failed) => write!(f, "the backup cannot be put in place: {failed}"),
        }
    }
}

impl std::error::Error for RestoreError {}

impl From<Failed> for RestoreError {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<sqlx::Error> for RestoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Puts a backup in place; `exact` as it is, without the restrictions that came after it. Up to
/// the last step, which is one rename, the store stays as it was.
pub async fn restore(
    backup: &Path,
    store: &Path,
    exact: bool,
    now: Timestamp,
) -> Result<Restored, RestoreError> {
    let place = Place::take(store, true).map_err(RestoreError::Store)?;
    let io = |error| RestoreError::Io(place.file.clone(), error);
    let draft = place.beside(".restoring");
    let made = make(backup, &place, &draft, exact, now).await;
    let replaced = match &made {
        Ok(_) => swap(&place, &draft, now).map_err(io)?,
        Err(_) => {
            let _ = fs::remove_file(&draft);
            None
        }
    };
    made.map(|made| Restored { replaced, ..made })
}

/// Makes the new store beside the present one.
async fn make(
    backup: &Path,
    place: &Place,
    draft: &Path,
    exact: bool,
    now: Timestamp,
) -> Result<Restored, RestoreError> {
    copy(backup, draft)?;
    let mut copy = open_copy(draft, backup).await?;
    let past = Past::of(place, &mut copy).await?;
    let differences = past.replay(&mut copy, exact, now).await?;
    let head = read::head(&mut copy).await?;
    let tokens = read::stored_tokens(&mut copy).await?;
    drop(copy);
    let synced = File::open(draft).and_then(|file| file.sync_all());
    synced.map_err(|error| RestoreError::Io(draft.to_owned(), error))?;
    Ok(Restored { head, replaced: None, unreadable: past.unreadable, differences, tokens })
}

/// The backup itself is only read.
fn copy(backup: &Path, draft: &Path) -> Result<(), RestoreError> {
    if inspect(backup).map_err(RestoreError::Backup)?.is_none() {
        return Err(RestoreError::Missing(backup.to_owned()));
    }
    if fs::metadata(beside(backup, "-wal")).is_ok_and(|it| it.len() > 0) {
        return Err(RestoreError::Unfinished(backup.to_owned()));
    }
    let copy = || {
        for suffix in ["", "-journal", "-wal"] {
            match fs::remove_file(beside(draft, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        io::copy(&mut File::open(backup)?, &mut create_private(draft)?).map(|_| ())
    };
    copy().map_err(|error| RestoreError::Io(draft.to_owned(), error))
}

async fn open_copy(draft: &Path, backup: &Path) -> Result<Connection, RestoreError> {
    let refused = |error| RestoreError::Backup(OpenError::of(backup, error));
    let mut copy = Connection::open(draft, SqliteJournalMode::Delete).await.map_err(refused)?;
    check(&mut copy, "PRAGMA integrity_check(1)")
        .await
        .map_err(|why| RestoreError::Backup(OpenError::Damaged(backup.to_owned(), why.0)))?;
    schema::bring_up_to_date(&mut copy, backup).await.map_err(RestoreError::Backup)?;
    Ok(copy)
}

async fn check(connection: &mut SqliteConnection, pragma: &'static str) -> Result<(), Failed> {
    let told: String = query_scalar(pragma).fetch_one(connection).await?;
    if told == "ok" { Ok(()) } else { Err(Failed(told)) }
}

/// The store that is replaced, as far as it matters to the one that comes.
#[derive(Default)]
struct Past {
    unreadable: Option<String>,
    head: Option<Head>,
    /// All that it knows.
    histories: Vec<History>,
    /// Whether it comes after the backup: it has all of the backup's changes.
    descends: bool,
    leases: Vec<Lease>,
    tokens: Vec<StoredToken>,
    nonces: Vec<(Nonce, Timestamp)>,
    differences: Vec<Difference>,
}

impl Past {
    async fn of(place: &Place, copy: &mut SqliteConnection) -> Result<Self, RestoreError> {
        let unreadable = |why: String| Ok(Self { unreadable: Some(why), ..Self::default() });
        match inspect(&place.file) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Self::default()),
            Err(error @ OpenError::Damaged(..)) => return unreadable(error.to_string()),
            Err(error) => return Err(RestoreError::Store(error)),
        }
        let error = match Connection::open(&place.file, SqliteJournalMode::Wal).await {
            Ok(present) => match Self::read(place, present, copy).await {
                Ok(past) => return Ok(past),
                Err(failed) => failed.0,
            },
            Err(error) => match OpenError::of(&place.file, error) {
                error @ OpenError::InUse(_) => return Err(RestoreError::Store(error)),
                error => error.to_string(),
            },
        };
        unreadable(error)
    }

    async fn read(
        place: &Place,
        mut present: Connection,
        copy: &mut SqliteConnection,
    ) -> Result<Self, Failed> {
        check(&mut present, "PRAGMA quick_check(1)").await?;
        schema::bring_up_to_date(&mut present, &place.file)
            .await
            .map_err(|error| Failed(error.to_string()))?;
        let head = read::head(&mut present).await?;
        let mut histories = read::histories(&mut present, false).await?;
        histories.extend(read::histories(&mut present, true).await?);
        histories.push(head.position.history.clone());
        let leases = read::leases(&mut present).await?;
        let tokens = read::stored_tokens(&mut present).await?;
        let nonces = read::nonces(&mut present).await?;
        // From here on all of it is in its one file.
        drop(present);

        let path = place.file.to_str().ok_or_else(|| Failed("not UTF-8".to_owned()))?;
        query("ATTACH ? AS present").bind(path).execute(&mut *copy).await?;
        let compared = difference::all(copy).await;
        query("DETACH present").execute(&mut *copy).await?;
        let (fork, differences) = compared?;
        let descends = fork == read::head(copy).await?.position.revision;
        let head = Some(head);
        Ok(Self {
            unreadable: None,
            head,
            histories,
            descends,
            leases,
            tokens,
            nonces,
            differences,
        })
    }

    /// Makes the copy a new life of the store.
    async fn replay(
        &self,
        copy: &mut SqliteConnection,
        exact: bool,
        now: Timestamp,
    ) -> Result<Vec<Difference>, RestoreError> {
        let ended = read::head(copy).await?.position;
        let mut position = ended.clone();
        position.history = History::random();
        position.revision = self.first_revision(ended.revision);
        position.mark = ended.mark.then(position.revision, position.history.as_str().as_bytes());

        let mut batch = Batch::default();
        batch.history(&position.history, now);
        for history in self.histories.iter().chain([&ended.history]) {
            batch.dispute(history);
        }
        // A change without a text: whoever comes from before it must list anew.
        batch.log(&position, now, None);
        let mut differences = self.differences.clone();
        differences.iter_mut().for_each(|difference| difference.carried &= !exact);
        let mut record: Option<Record> = None;
        for difference in differences.iter().filter(|it| it.carried) {
            let key = difference.key();
            if record.as_ref().map(Record::key) != key {
                record = match &key {
                    Some(key) => read::record(copy, key).await?,
                    None => None,
                };
            }
            if let Some(edit) = difference.edit(record.as_mut()) {
                batch.edit(&mut position, edit, &difference.tenant, now);
            }
        }
        for lease in &self.leases {
            batch.lease(lease);
        }
        for token in self.tokens.iter().filter(|_| !exact) {
            batch.token(token);
        }
        for (nonce, until) in &self.nonces {
            batch.nonce(nonce, *until);
        }
        let carried = differences.iter().filter(|it| it.carried).count();
        batch.audit(&entry(now, carried), position.revision);
        batch.run(copy).await?;
        Ok(differences)
    }

    /// Above all revisions that were ever given. Where the lost store is not at hand to say how
    /// far it had come, it is further than any has.
    fn first_revision(&self, backup: Revision) -> Revision {
        let known = self.head.as_ref().map_or(backup, |head| head.position.revision.max(backup));
        Revision(known.0 + if self.descends { 1 } else { 1_000_000_000 })
    }
}

fn entry(time: Timestamp, carried: usize) -> AuditEntry {
    AuditEntry {
        time,
        actor: "-".to_owned(),
        peer: String::new(),
        request_id: String::new(),
        action: "store.restore",
        tenant: None,
        credential_id: None,
        detail: format!("{carried} restrictions carried over"),
    }
}

/// Puts the draft in the place of the store. That one gets a second name first, so that there is a
/// whole store in place at any moment.
fn swap(place: &Place, draft: &Path, now: Timestamp) -> io::Result<Option<PathBuf>> {
    let time = now.to_string().replace(['-', ':'], "");
    let aside = place.beside(&format!(".replaced-{time}"));
    let present = place.file.exists();
    if present {
        second_name(&place.file, &aside)?;
    }
    // Of one that could not be read, or is missing. SQLite would take them for the new one's.
    for suffix in ["-wal", "-journal"] {
        match fs::rename(place.beside(suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    place.sync()?;
    fs::rename(draft, &place.file)?;
    place.sync()?;
    Ok(present.then_some(aside))
}

/// A link, or a copy where the filesystem knows no links.
fn second_name(file: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(file, name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let mut made = create_private(name)?;
            io::copy(&mut File::open(file)?, &mut made)?;
            made.sync_all()
        }
        done => done,
    }
}

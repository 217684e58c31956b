//! Where a store lies: its directory, the files beside it, and the lock that makes it ours alone.
//! Looks at a file without touching it, and refuses what is not a store that we can keep.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};

/// A store's place, locked until this is dropped.
pub struct Place {
    /// The store itself, as an absolute path without symbolic links.
    pub file: PathBuf,
    directory: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory if it is missing. The lock is a file of its own: a lock of the store's
    /// file would be lost as soon as this process closes that file anywhere.
    pub fn take(path: &Path, insecure_network_store: bool) -> Result<Self, OpenError> {
        let within = |error| OpenError::Io(path.to_owned(), error);
        make_directory(directory_of(path)).map_err(within)?;
        let file = absolute(path).map_err(within)?;
        let directory = directory_of(&file).to_owned();
        if let Some(name) = network_filesystem(&directory).map_err(within)?
            && !insecure_network_store
        {
            return Err(OpenError::Network(file, name));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(beside(&file, ".lock"))
            .map_err(within)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, directory, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(file)),
            Err(error) => Err(within(error.into())),
        }
    }

    /// A file beside the store, of its name and a suffix.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.file, suffix)
    }

    /// Whether a file, which need not be there, lies on the same disk.
    pub fn shares_disk(&self, file: &Path) -> io::Result<bool> {
        let disk = |directory: &Path| fs::metadata(directory).map(|it| it.dev());
        Ok(disk(directory_of(file))? == disk(&self.directory)?)
    }

    /// Makes it last which files there are.
    pub fn sync(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }
}

/// Why a store cannot be opened. It was not touched.
#[derive(Debug)]
pub enum OpenError {
    InUse(PathBuf),
    /// It lies on a network filesystem of this name.
    Network(PathBuf, &'static str),
    /// It is something else.
    Foreign(PathBuf, &'static str),
    /// It was written by a later version, whose schema has this number.
    Newer(PathBuf, u32),
    /// It is a store, and it cannot be read.
    Damaged(PathBuf, String),
    /// There is no store, only the changes that one had yet to take in.
    Orphaned(PathBuf),
    Io(PathBuf, io::Error),
    Failed(PathBuf, sqlx::Error),
}

impl OpenError {
    /// What SQLite said to a file.
    pub fn of(file: &Path, error: sqlx::Error) -> Self {
        let file = file.to_owned();
        match primary_code(&error) {
            Some(BUSY) => Self::InUse(file),
            Some(CORRUPT | NOT_A_DATABASE) => Self::Damaged(file, error.to_string()),
            _ => Self::Failed(file, error),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(file) => write!(
                f,
                "{}: is in use by another process: stop it, or name another store",
                file.display()
            ),
            Self::Network(file, name) => write!(
                f,
                "{}: lies on a network filesystem ({name}), where locks and power losses are not \
                 safe: put it on a local disk, or set `insecure_network_store: true`",
                file.display()
            ),
            Self::Foreign(file, what) => {
                write!(f, "{}: {what}: name another file, or move it away", file.display())
            }
            Self::Newer(file, version) => write!(
                f,
                "{}: was written by a later version of scim-guard (schema {version}): run that \
                 version, or restore a backup made by this one",
                file.display()
            ),
            Self::Damaged(file, why) => write!(
                f,
                "{}: is damaged: {why}: restore a backup with `scim-guard store restore`",
                file.display()
            ),
            Self::Orphaned(file) => write!(
                f,
                "{}: is missing, but changes to it are there in a file that ends in `-wal`: put \
                 the store back, or move that file away",
                file.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Failed(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Failed(_, error) => Some(error),
            _ => None,
        }
    }
}

/// The number that a store has for its schema; `None` if there is no file. Only the file's own
/// bytes are read: SQLite would already write beside it.
pub fn inspect(file: &Path) -> Result<Option<u32>, OpenError> {
    let foreign = |what| Err(OpenError::Foreign(file.to_owned(), what));
    let header = match header(file) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io(file.to_owned(), error)),
    };
    if header.is_empty() {
        return foreign("is empty, which a store never is");
    }
    let Some(header) = header.first_chunk::<HEADER_LEN>().filter(|it| it.starts_with(MAGIC)) else {
        return foreign("is not an SQLite database");
    };
    let number = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().expect("within"));
    if number(APPLICATION_ID_AT) != APPLICATION_ID {
        return foreign("is the database of another program");
    }
    // SQLite does not miss the end of a last page. What is in the write-ahead log may not be in
    // the file yet.
    let length = u64::from(number(PAGE_COUNT_AT)) * page_bytes(header);
    let logged = fs::metadata(beside(file, "-wal")).is_ok_and(|it| it.len() > 0);
    let cut = fs::metadata(file).is_ok_and(|it| it.len() < length);
    if cut && !logged {
        return Err(OpenError::Damaged(file.to_owned(), "its end is missing".to_owned()));
    }
    Ok(Some(number(USER_VERSION_AT)))
}

fn page_bytes(header: &[u8; HEADER_LEN]) -> u64 {
    match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        bytes => bytes.into(),
    }
}

fn header(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(HEADER_LEN as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a file that only we may read, which must not be there yet.
pub fn create_private(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The path with its directory, which must be there, and the file, if it is there, resolved.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    if let Ok(file) = fs::canonicalize(path) {
        return Ok(file);
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(fs::canonicalize(directory_of(path))?.join(name))
}

pub fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = directory_of(directory);
    make_directory(above)?;
    DirBuilder::new().mode(0o700).create(directory)?;
    sync_directory(above)
}

/// FUSE is let through, since it does not tell whether a disk or a network stands behind it.
fn network_filesystem(directory: &Path) -> io::Result<Option<&'static str>> {
    let kind = statfs(directory)?.f_type as u32;
    Ok(NETWORK_FILESYSTEMS.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name))
}

/// By the numbers of `statfs(2)`.
const NETWORK_FILESYSTEMS: [(u32, &str); 10] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB2"),
    (0xff53_4d42, "CIFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x0bd0_0bd0, "Lustre"),
    (0x7375_7245, "Coda"),
];

/// The code that SQLite gave, without what makes it finer.
pub fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

pub const BUSY: u32 = 5;
pub const IO_ERROR: u32 = 10;
pub const CORRUPT: u32 = 11;
pub const FULL: u32 = 13;
pub const NOT_A_DATABASE: u32 = 26;

/// `ScGd`.
pub const APPLICATION_ID: u32 = 0x5363_4764;
const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_LEN: usize = 100;
const PAGE_COUNT_AT: usize = 28;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

//! Room on the disk that is kept for what takes rights away: a file that is given up when there
//! is none left, and made again later. Until then nothing else may grow, or it would take the room.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use tokio::time::Instant;

use super::place::{create_private, directory_of};

pub struct Reserve {
    file: PathBuf,
    held: bool,
    /// When it last failed to be made.
    failed: Option<Instant>,
}

impl Reserve {
    /// Makes the file if it is missing and there is room.
    pub fn new(file: PathBuf) -> Self {
        let held = fs::metadata(&file).is_ok_and(|it| it.len() == BYTES as u64);
        let mut reserve = Self { file, held, failed: None };
        reserve.refill();
        reserve
    }

    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Gives the room up; false if there was none.
    pub fn free(&mut self) -> bool {
        std::mem::take(&mut self.held) && fs::remove_file(&self.file).is_ok()
    }

    /// Makes it again, if there is room for more than just that. Costs nothing while it is held.
    pub fn refill(&mut self) {
        if self.held || !room(directory_of(&self.file)) {
            return;
        }
        // A quota is not seen above.
        if self.failed.is_none_or(|time| time.elapsed() > PAUSE) {
            self.held = fill(&self.file, BYTES).is_ok();
            if !self.held {
                self.failed = Some(Instant::now());
                let _ = fs::remove_file(&self.file);
            }
        }
    }
}

fn room(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|it| it.f_bavail * it.f_frsize >= 2 * BYTES as u64)
}

/// Writes it out: a file with a hole would hold no room.
fn fill(file: &Path, bytes: usize) -> io::Result<()> {
    let _ = fs::remove_file(file);
    let mut made = create_private(file)?;
    // Not all zero, which some filesystems would not store either.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect();
    made.write_all(&noise)?;
    made.sync_all()
}

/// Whether there is no room for a few more pages, by trying: SQLite does not tell a full quota
/// from a broken disk.
pub fn is_exhausted(probe: &Path) -> bool {
    let tried = fill(probe, PROBE_BYTES);
    let _ = fs::remove_file(probe);
    tried.is_err_and(|error| {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    })
}

const BYTES: usize = 1024 * 1024;
const PROBE_BYTES: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_secs(10);

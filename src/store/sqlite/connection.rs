//! A connection that has closed its file when it is dropped. One of the library closes it some
//! time later, in a thread of its own, when somebody else may already count on the file.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection as _};

/// Shares its file with nobody.
pub struct Connection(Option<SqliteConnection>);

impl Connection {
    pub async fn open(file: &Path, journal: SqliteJournalMode) -> Result<Self, sqlx::Error> {
        let connection = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(false)
            .locking_mode(SqliteLockingMode::Exclusive)
            .journal_mode(journal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Nothing of a store is to be found in a directory for everybody's files.
            .pragma("temp_store", "MEMORY")
            .busy_timeout(Duration::from_secs(1))
            .disable_statement_logging()
            .connect()
            .await?;
        Ok(Self(Some(connection)))
    }
}

impl Deref for Connection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Connection {
    /// Waits for a few writes to the disk. The thread is for those who drop it within a runtime,
    /// where nobody may wait in this way.
    fn drop(&mut self) {
        let Some(connection) = self.0.take() else { return };
        let closed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.map(|runtime| runtime.block_on(connection.close()))
        });
        match closed.join() {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("a store was not closed well; it is mended when it is next opened"),
        }
    }
}

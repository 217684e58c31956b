//! The tables: how they are made, brought up to date, and opened. A version of the schema says
//! from which version on it can be read, so that a program that is one version older still works.

use std::fs::{self, File};
use std::path::Path;

use sqlx::sqlite::{SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, raw_sql};

use super::connection::Connection;
use super::place::{APPLICATION_ID, OpenError, Place, create_private, inspect};
use crate::clock::Timestamp;
use crate::credential::feed::{History, Mark};

/// Opens the store of a place, making it if there is none; tells whether it did.
pub async fn open(place: &Place, now: Timestamp) -> Result<(Connection, bool), OpenError> {
    let created = match inspect(&place.file)? {
        Some(number) => {
            version(&place.file, number)?;
            false
        }
        None => {
            create(place, now).await?;
            true
        }
    };
    let failed = |error| OpenError::of(&place.file, error);
    let mut connection =
        Connection::open(&place.file, SqliteJournalMode::Wal).await.map_err(failed)?;
    bring_up_to_date(&mut connection, &place.file).await?;
    // Whatever the file is, from here on it is locked for as long as the connection lives.
    raw_sql("BEGIN IMMEDIATE; COMMIT").execute(&mut *connection).await.map_err(failed)?;
    Ok((connection, created))
}

/// Makes the missing tables of an older store.
pub async fn bring_up_to_date(
    connection: &mut SqliteConnection,
    file: &Path,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::of(file, error);
    let number: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let have = version(file, number)? as usize;
    if have >= MIGRATIONS.len() {
        return Ok(());
    }
    let script = format!(
        "BEGIN IMMEDIATE; {} PRAGMA application_id = {APPLICATION_ID}; \
         PRAGMA user_version = {}; COMMIT",
        MIGRATIONS[have..].concat(),
        user_version(VERSION, READABLE_FROM),
    );
    raw_sql(AssertSqlSafe(script)).execute(connection).await.map_err(failed)?;
    Ok(())
}

/// The version of a store's schema, unless it is too new for us.
fn version(file: &Path, number: u32) -> Result<u32, OpenError> {
    let (version, readable_from) = (number / 1000, number % 1000);
    if readable_from > VERSION {
        return Err(OpenError::Newer(file.to_owned(), version));
    }
    Ok(version)
}

/// One number of the file's header holds both, so that they are known before anything is opened.
const fn user_version(version: u32, readable_from: u32) -> u32 {
    version * 1000 + readable_from
}

/// Makes an empty store beside and puts it in place whole.
async fn create(place: &Place, now: Timestamp) -> Result<(), OpenError> {
    let io = |error| OpenError::Io(place.file.clone(), error);
    if place.beside("-wal").exists() {
        return Err(OpenError::Orphaned(place.file.clone()));
    }
    let draft = place.beside(".new");
    for left_over in [&draft, &place.beside(".new-journal")] {
        if left_over.exists() {
            fs::remove_file(left_over).map_err(io)?;
        }
    }
    create_private(&draft).map_err(io)?;
    let mut connection = Connection::open(&draft, SqliteJournalMode::Delete)
        .await
        .map_err(|error| OpenError::of(&draft, error))?;
    bring_up_to_date(&mut connection, &draft).await?;
    let failed = |error| OpenError::of(&draft, error);
    sqlx::query("INSERT INTO store (one, history, began, mark) VALUES (1, ?, ?, ?)")
        .bind(History::random().to_string())
        .bind(now.as_millis())
        .bind(Mark::default().to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    drop(connection);
    File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&draft, &place.file).map_err(io)?;
    place.sync().map_err(io)
}

/// In order; a store has the first so many. They only add.
const MIGRATIONS: [&str; 2] = [include_str!("1.sql"), include_str!("2.sql")];
pub const VERSION: u32 = MIGRATIONS.len() as u32;
/// The oldest program that still works with what we write.
const READABLE_FROM: u32 = 1;

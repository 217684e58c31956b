//! The engine of one process: a SQLite file that nobody else may open. All goes through a single
//! connection, which is locked for each question and each transaction, so that reads are of one
//! moment and writes follow each other. A transaction is put together first and then written.

pub(super) mod batch;
pub(super) mod connection;
pub(super) mod place;
pub(super) mod read;
mod reserve;
pub(super) mod schema;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{query, raw_sql};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use self::batch::Batch;
use self::connection::Connection;
use self::place::{Place, absolute, create_private, directory_of, sync_directory};
use self::reserve::Reserve;
use super::{
    AuditEntry, AuditRow, Failed, Filter, Lease, Nonce, Order, Record, Records, Store, StoredToken,
    WriteError, Written,
};
use crate::clock::Timestamp;
use crate::credential::feed::{
    Changes, Gone, Head, History, Page, PageKey, Position, TenantRow, Use,
};
use crate::credential::{TenantId, TokenDigest};

pub use self::place::OpenError;

pub struct Sqlite {
    kept: Arc<Mutex<Kept>>,
    latest: Arc<watch::Sender<Position>>,
    runtime: Handle,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether the file may lie on a network filesystem, whose locks may let two processes write.
    pub insecure_network_store: bool,
}

pub struct Opened {
    pub store: Sqlite,
    /// Whether it was not there before.
    pub created: bool,
}

/// What there is once. The place is left last, when the file is closed.
struct Kept {
    connection: Connection,
    reserve: Reserve,
    place: Place,
}

impl Sqlite {
    /// Opens a store and locks it for life, or makes an empty one. The directory is made too if
    /// it is missing.
    pub async fn open(path: &Path, options: Options, now: Timestamp) -> Result<Opened, OpenError> {
        let place = Place::take(path, options.insecure_network_store)?;
        let (mut connection, created) = schema::open(&place, now).await?;
        let damaged = |failed: Failed| OpenError::Damaged(place.file.clone(), failed.0);
        let head = read::head(&mut connection).await.map_err(damaged)?;
        let reserve = Reserve::new(place.beside(".reserve"));
        if !reserve.is_held() {
            tracing::error!(
                store = %place.file.display(),
                "the disk is full: only what takes rights away will be written"
            );
        }
        let kept = Arc::new(Mutex::new(Kept { connection, reserve, place }));
        let (latest, _) = watch::channel(head.position);
        Ok(Opened {
            store: Self { kept, latest: Arc::new(latest), runtime: Handle::current() },
            created,
        })
    }

    async fn lock(&self) -> OwnedMutexGuard<Kept> {
        self.kept.clone().lock_owned().await
    }

    /// Writes a batch to its end, also when the caller does not wait for it any more.
    async fn commit(
        &self,
        mut kept: OwnedMutexGuard<Kept>,
        write: Write,
    ) -> Result<(), WriteError> {
        let latest = self.latest.clone();
        // On the runtime that opened the store, which goes on when a caller's ends.
        let task = self.runtime.spawn(async move {
            kept.write(&write).await?;
            if let Some(position) = write.position {
                latest.send_replace(position);
            }
            Ok(())
        });
        task.await.unwrap_or_else(|error| Err(WriteError::Failed(Failed(error.to_string()))))
    }

    /// Writes what does not make the store grow for long.
    async fn keep(&self, kept: OwnedMutexGuard<Kept>, batch: Batch) -> Result<(), Failed> {
        Ok(self.commit(kept, Write { batch, room: Room::Any, position: None }).await?)
    }
}

struct Write {
    batch: Batch,
    room: Room,
    /// Where it leads.
    position: Option<Position>,
}

/// What a write may use when the disk is full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// The reserve: it takes rights away, ends a dispute, or is a lease.
    Reserved,
    /// What can be found.
    Any,
    /// Nothing: it would also take what the reserve has given up for others.
    None,
}

impl Kept {
    async fn write(&mut self, write: &Write) -> Result<(), WriteError> {
        self.reserve.refill();
        if write.room == Room::None && !self.reserve.is_held() {
            return Err(WriteError::Full);
        }
        let mut done = self.attempt(&write.batch).await;
        if matches!(done, Err(WriteError::Full))
            && write.room == Room::Reserved
            && self.reserve.free()
        {
            tracing::error!(
                store = %self.place.file.display(),
                "the disk is full: only what takes rights away is still written"
            );
            self.checkpoint().await;
            done = self.attempt(&write.batch).await;
        }
        if !self.reserve.is_held() {
            // The write-ahead log begins again in the room that it has, instead of growing.
            self.checkpoint().await;
        }
        done
    }

    async fn attempt(&mut self, batch: &Batch) -> Result<(), WriteError> {
        let Err(error) = batch.run(&mut self.connection).await else { return Ok(()) };
        let full = match place::primary_code(&error) {
            Some(place::FULL) => true,
            Some(place::IO_ERROR) => reserve::is_exhausted(&self.place.beside(".probe")),
            _ => false,
        };
        Err(if full { WriteError::Full } else { WriteError::Failed(error.into()) })
    }

    /// Takes the write-ahead log into the store, as far as that goes.
    async fn checkpoint(&mut self) {
        let _ = raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *self.connection).await;
    }

    async fn vacuum_into(&mut self, file: &Path) -> Result<Head, Failed> {
        let path = file.to_str().ok_or_else(|| Failed("a path must be UTF-8".to_owned()))?;
        query("VACUUM INTO ?").bind(path).execute(&mut *self.connection).await?;
        read::head(&mut self.connection).await
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn write(&self, order: Order) -> Result<Written, WriteError> {
        // Nobody can write between this view and its edits: the connection is ours until then.
        let mut kept = self.lock().await;
        let view = read::view(&mut kept.connection, &order.tenant, order.digest.as_ref()).await?;
        let edits = (order.decide)(&view)?;
        let mut head = read::head(&mut kept.connection).await?;
        if edits.is_empty() {
            return Ok(Written { head, changed: false });
        }
        let mut batch = Batch::default();
        for edit in edits {
            batch.edit(&mut head.position, edit, &order.tenant, order.audit.time);
        }
        batch.audit(&order.audit, head.position.revision);
        let position = Some(head.position.clone());
        let room = if order.restricts { Room::Reserved } else { Room::None };
        self.commit(kept, Write { batch, room, position }).await?;
        Ok(Written { head, changed: true })
    }

    async fn head(&self) -> Result<Head, Failed> {
        read::head(&mut self.lock().await.connection).await
    }

    async fn page(
        &self,
        after: Option<&PageKey>,
        tenants: Option<&[TenantId]>,
        rows: usize,
    ) -> Result<Page, Failed> {
        read::page(&mut self.lock().await.connection, after, tenants, rows).await
    }

    async fn changes(
        &self,
        after: &Position,
        tenants: Option<&[TenantId]>,
        most: usize,
    ) -> Result<Result<Changes, Gone>, Failed> {
        read::changes(&mut self.lock().await.connection, after, tenants, most).await
    }

    async fn tenants(&self) -> Result<Vec<TenantRow>, Failed> {
        read::tenants(&mut self.lock().await.connection).await
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantRow>, Failed> {
        read::tenant(&mut self.lock().await.connection, tenant).await
    }

    async fn records(&self, filter: &Filter) -> Result<Records, Failed> {
        read::records(&mut self.lock().await.connection, filter).await
    }

    async fn record(&self, key: &PageKey) -> Result<Option<Record>, Failed> {
        read::record(&mut self.lock().await.connection, key).await
    }

    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Record>), Failed> {
        let mut kept = self.lock().await;
        let record = read::by_digest(&mut kept.connection, digest).await?;
        Ok((read::head(&mut kept.connection).await?, record))
    }

    async fn note_used(&self, used: &[Use]) -> Result<(), Failed> {
        let mut batch = Batch::default();
        for ((tenant, id), time) in used {
            batch.add(
                "UPDATE credentials SET last_used = ?3 WHERE tenant = ?1 AND id = ?2 \
                 AND (last_used IS NULL OR last_used < ?3)",
                [tenant.as_str().into(), id.as_str().into(), (*time).into()],
            );
        }
        self.keep(self.lock().await, batch).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, Failed> {
        read::leases(&mut self.lock().await.connection).await
    }

    async fn put_lease(&self, lease: &Lease) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch.lease(lease);
        // Without its lease a replica is not told the head, and a new one has no table then.
        let write = Write { batch, room: Room::Reserved, position: None };
        Ok(self.commit(self.lock().await, write).await?)
    }

    async fn remove_lease(&self, instance: &str) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch.add("DELETE FROM leases WHERE instance = ?", [instance.into()]);
        self.keep(self.lock().await, batch).await
    }

    async fn dispute(&self, held: &History) -> Result<(), Failed> {
        let mut kept = self.lock().await;
        // An operator may have agreed since the report came in.
        if read::histories(&mut kept.connection, true).await?.contains(held) {
            return Ok(());
        }
        let disputed = read::head(&mut kept.connection).await?.disputed;
        if disputed && read::histories(&mut kept.connection, false).await?.contains(held) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.dispute(held);
        Ok(self.commit(kept, Write { batch, room: Room::Reserved, position: None }).await?)
    }

    async fn accept(&self, audit: AuditEntry) -> Result<Head, Failed> {
        let mut kept = self.lock().await;
        let ended = read::head(&mut kept.connection).await?.position;
        let position = Position { history: History::random(), ..ended.clone() };
        let mut batch = Batch::default();
        batch.add("UPDATE histories SET accepted = 1", []);
        batch.add(
            "INSERT INTO histories (history, accepted) VALUES (?, 1) ON CONFLICT DO NOTHING",
            [ended.history.as_str().into()],
        );
        batch.history(&position.history, audit.time);
        batch.audit(&audit, position.revision);
        self.commit(kept, Write { batch, room: Room::Reserved, position: Some(position) }).await?;
        self.head().await
    }

    async fn append_audit(&self, entry: AuditEntry) -> Result<(), Failed> {
        let mut kept = self.lock().await;
        let revision = read::head(&mut kept.connection).await?.position.revision;
        let mut batch = Batch::default();
        batch.audit(&entry, revision);
        Ok(self.commit(kept, Write { batch, room: Room::None, position: None }).await?)
    }

    async fn audit(&self, after: u64, rows: usize) -> Result<Vec<AuditRow>, Failed> {
        read::audit(&mut self.lock().await.connection, after, rows).await
    }

    async fn stored_tokens(&self) -> Result<Vec<StoredToken>, Failed> {
        read::stored_tokens(&mut self.lock().await.connection).await
    }

    async fn put_token(&self, token: &StoredToken) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch.token(token);
        self.keep(self.lock().await, batch).await
    }

    async fn take_nonce(
        &self,
        nonce: &Nonce,
        until: Timestamp,
        restricts: bool,
    ) -> Result<bool, Failed> {
        let mut kept = self.lock().await;
        if read::knows_nonce(&mut kept.connection, nonce).await? {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.nonce(nonce, until);
        let room = if restricts { Room::Reserved } else { Room::None };
        self.commit(kept, Write { batch, room, position: None }).await?;
        Ok(true)
    }

    async fn forget_nonces(&self, by: Timestamp) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch.add("DELETE FROM nonces WHERE until <= ?", [by.into()]);
        self.keep(self.lock().await, batch).await
    }

    async fn note_read(&self, tenant: &TenantId, begun: Timestamp) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch.add(
            "INSERT INTO reads (tenant, begun) VALUES (?, ?) \
             ON CONFLICT (tenant) DO UPDATE SET begun = excluded.begun",
            [tenant.as_str().into(), begun.into()],
        );
        self.keep(self.lock().await, batch).await
    }

    async fn reads(&self) -> Result<Vec<(TenantId, Timestamp)>, Failed> {
        read::reads(&mut self.lock().await.connection).await
    }

    async fn compact(&self, before: Timestamp) -> Result<(), Failed> {
        let mut batch = Batch::default();
        batch
            .add("UPDATE log SET text = NULL WHERE text IS NOT NULL AND time < ?", [before.into()]);
        self.keep(self.lock().await, batch).await
    }

    async fn backup(&self, to: &Path) -> Result<Head, Failed> {
        let failed = |error: std::io::Error| Failed(format!("{}: {error}", to.display()));
        let mut kept = self.lock().await;
        let file = absolute(to).map_err(failed)?;
        if !kept.reserve.is_held() && kept.place.shares_disk(&file).map_err(failed)? {
            let what = "the disk is full, and what is left of it is for what takes rights away";
            return Err(Failed(format!("{}: {what}: name another disk", to.display())));
        }
        let made = create_private(&file).map_err(failed)?;
        let done = kept.vacuum_into(&file).await;
        drop(kept);
        let lasting = made.sync_all().and_then(|()| sync_directory(directory_of(&file)));
        let done = done.and_then(|head| lasting.map(|()| head).map_err(failed));
        if done.is_err() {
            let _ = fs::remove_file(&file);
        }
        done
    }

    fn latest(&self) -> watch::Receiver<Position> {
        self.latest.subscribe()
    }
}

impl From<WriteError> for Failed {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Denied(denied) => Self(format!("denied: {denied:?}")),
            WriteError::Full => Self("no room is left on the disk".to_owned()),
            WriteError::Failed(failed) => failed,
        }
    }
}

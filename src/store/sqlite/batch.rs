//! What one transaction writes, put together before it begins: so it can be made a second time.

use sqlx::sqlite::SqliteConnection;
use sqlx::{query, raw_sql};

use crate::clock::Timestamp;
use crate::credential::feed::{History, Position};
use crate::credential::{Expiry, Revision, TenantId};
use crate::store::{AuditEntry, Edit, Lease, Nonce, Record, StoredToken, log_text};

#[derive(Default)]
pub struct Batch {
    statements: Vec<(&'static str, Vec<Value>)>,
}

impl Batch {
    pub fn add<const N: usize>(&mut self, sql: &'static str, values: [Value; N]) {
        self.statements.push((sql, values.into()));
    }

    /// Makes an edit with the next revision, and moves the position there.
    pub fn edit(&mut self, position: &mut Position, edit: Edit, tenant: &TenantId, at: Timestamp) {
        let text = log_text(&edit, tenant);
        position.revision = Revision(position.revision.0 + 1);
        position.mark = position.mark.then(position.revision, text.as_bytes());
        self.log(position, at, Some(text));
        let revision = position.revision.into();
        match edit {
            Edit::Put(record) => self.put(&Record { revision: position.revision, ..record }),
            Edit::Delete(id) => self.add(
                "DELETE FROM credentials WHERE tenant = ? AND id = ?",
                [tenant.as_str().into(), id.as_str().into()],
            ),
            Edit::PutTenant(synchronization) => self.add(
                "INSERT INTO tenants (tenant, synchronization, revision) VALUES (?, ?, ?) \
                 ON CONFLICT DO UPDATE SET \
                 synchronization = excluded.synchronization, revision = excluded.revision",
                [tenant.as_str().into(), synchronization.as_str().into(), revision],
            ),
            Edit::DeleteTenant => {
                self.add("DELETE FROM tenants WHERE tenant = ?", [tenant.as_str().into()]);
            }
        }
    }

    /// Numbers a change, and makes it the latest.
    pub fn log(&mut self, position: &Position, at: Timestamp, text: Option<String>) {
        let (revision, mark) = (Value::from(position.revision), position.mark.to_string());
        self.add(
            "INSERT INTO log (revision, mark, time, text) VALUES (?, ?, ?, ?)",
            [revision.clone(), mark.as_str().into(), at.into(), text.as_deref().into()],
        );
        self.add("UPDATE store SET revision = ?, mark = ?", [revision, mark.as_str().into()]);
    }

    pub fn audit(&mut self, entry: &AuditEntry, revision: Revision) {
        self.add(
            "INSERT INTO audit (revision, time, actor, peer, request_id, action, tenant, \
             credential_id, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                revision.into(),
                entry.time.into(),
                entry.actor.as_str().into(),
                entry.peer.as_str().into(),
                entry.request_id.as_str().into(),
                entry.action.into(),
                entry.tenant.as_ref().map(TenantId::as_str).into(),
                entry.credential_id.as_ref().map(|id| id.as_str()).into(),
                entry.detail.as_str().into(),
            ],
        );
    }

    /// Begins a new one.
    pub fn history(&mut self, history: &History, began: Timestamp) {
        self.add(
            "UPDATE store SET history = ?, began = ?, disputed = 0",
            [history.as_str().into(), began.into()],
        );
    }

    pub fn dispute(&mut self, held: &History) {
        self.add("UPDATE store SET disputed = 1", []);
        self.add(
            "INSERT INTO histories (history, accepted) VALUES (?, 0) ON CONFLICT DO NOTHING",
            [held.as_str().into()],
        );
    }

    pub fn lease(&mut self, lease: &Lease) {
        let report = &lease.report;
        let applied = report.applied.as_ref().map(Position::to_string);
        let max_stale = i64::try_from(report.max_stale.as_millis()).unwrap_or(i64::MAX);
        self.add(
            "INSERT OR REPLACE INTO leases (instance, name, applied, max_stale) \
             VALUES (?, ?, ?, ?)",
            [
                lease.instance.as_str().into(),
                report.name.as_str().into(),
                applied.as_deref().into(),
                Value::Integer(max_stale),
            ],
        );
    }

    pub fn token(&mut self, token: &StoredToken) {
        self.add(
            "INSERT OR REPLACE INTO tokens (name, digest) VALUES (?, ?)",
            [token.name.as_str().into(), Value::Blob(token.digest.as_bytes().to_vec())],
        );
    }

    pub fn nonce(&mut self, nonce: &Nonce, until: Timestamp) {
        self.add(
            "INSERT INTO nonces (nonce, until) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [Value::Blob(nonce.as_bytes().to_vec()), until.into()],
        );
    }

    fn put(&mut self, record: &Record) {
        let credential = &record.credential;
        let expires = match credential.expiry {
            Expiry::At(end) => end.into(),
            Expiry::Never => Value::Null,
        };
        self.add(
            "INSERT INTO credentials (tenant, id, digest, status, expires, revision, created, \
             label, hint, origin, mirrored, created_by, enrolled, last_used, successor) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'local', ?, ?, ?, ?, ?) \
             ON CONFLICT (tenant, id) DO UPDATE SET digest = excluded.digest, \
             status = excluded.status, expires = excluded.expires, revision = excluded.revision, \
             created = excluded.created, label = excluded.label, hint = excluded.hint, \
             mirrored = excluded.mirrored, created_by = excluded.created_by, \
             enrolled = excluded.enrolled, last_used = excluded.last_used, \
             successor = excluded.successor",
            [
                credential.tenant.as_str().into(),
                credential.id.as_str().into(),
                Value::Blob(credential.digest.as_bytes().to_vec()),
                credential.status.as_str().into(),
                expires,
                record.revision.into(),
                record.create_time.into(),
                record.label.as_str().into(),
                record.hint.as_deref().into(),
                record.origin.text().as_deref().into(),
                record.created_by.as_str().into(),
                Value::Integer(record.enrolled.into()),
                record.last_used.map_or(Value::Null, Value::from),
                record.successor.as_ref().map(|id| id.as_str()).into(),
            ],
        );
    }

    /// Writes all of it or nothing, and leaves the connection without a transaction in any case.
    /// Begins and ends by hand: a transaction of the library counts itself as open for ever when
    /// SQLite has already rolled it back, as it does when the disk is full.
    pub async fn run(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let done = self.run_within(connection).await;
        if done.is_err() {
            // It fails if there is nothing left to roll back.
            let _ = raw_sql("ROLLBACK").execute(connection).await;
        }
        done
    }

    async fn run_within(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for (sql, values) in &self.statements {
            let statement = values.iter().fold(query(*sql), |query, value| match value {
                Value::Null => query.bind(None::<i64>),
                Value::Integer(number) => query.bind(number),
                Value::Text(text) => query.bind(text.as_str()),
                Value::Blob(bytes) => query.bind(bytes.as_slice()),
            });
            statement.execute(&mut *connection).await?;
        }
        raw_sql("COMMIT").execute(connection).await?;
        Ok(())
    }
}

#[derive(Clone)]
pub enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Integer(time.as_millis())
    }
}

impl From<Revision> for Value {
    fn from(revision: Revision) -> Self {
        Self::Integer(revision.0.cast_signed())
    }
}

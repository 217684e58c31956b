//! What the admin API keeps: tenants, credentials, a log of numbered changes, an audit log, and
//! who follows. An engine keeps it and decides nothing; what may be written is decided by the
//! order that it is given.

pub mod lags;
pub mod memory;
pub mod replicas;
pub mod restore;
pub mod sqlite;
#[cfg(test)]
mod suite;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::credential::feed::{
    Change, Changes, Gone, Head, History, Page, PageKey, Position, Report, Row, TenantRow, Use,
};
use crate::credential::{
    Credential, CredentialId, Expiry, Revision, Status, TenantId, TokenDigest,
};

/// A credential with all that its owner wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub credential: Credential,
    /// Of its latest change; 0 until it is written.
    pub revision: Revision,
    pub create_time: Timestamp,
    pub label: String,
    /// The last characters of the token, by which people tell two apart; none if we never saw it.
    pub hint: Option<String>,
    pub origin: Origin,
    /// Name of the admin token by which it was made.
    pub created_by: String,
    /// Whether the token was made elsewhere.
    pub enrolled: bool,
    /// Coarse, and changed without a revision.
    pub last_used: Option<Timestamp>,
    /// Who took its place at a rotation.
    pub successor: Option<CredentialId>,
}

impl Record {
    pub fn row(&self) -> Row {
        Row { credential: Arc::new(self.credential.clone()), revision: self.revision }
    }

    pub fn key(&self) -> PageKey {
        (self.credential.tenant.clone(), self.credential.id.clone())
    }

    pub fn expires_by(&self, time: Timestamp) -> bool {
        matches!(self.credential.expiry, Expiry::At(end) if end <= time)
    }
}

/// Whose credential it is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Ours.
    Local,
    /// A cloud's.
    Mirrored(Provider, Standing),
}

/// A cloud whose credentials can be mirrored here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Tencent,
    Alibaba,
}

impl Provider {
    const ALL: [Self; 2] = [Self::Tencent, Self::Alibaba];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tencent => "tencent",
            Self::Alibaba => "alibaba",
        }
    }
}

/// How a mirrored credential stands with its cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it was listed.
    Listed,
    /// Made through us, and in no listing yet.
    Awaited,
    /// In the listing no more: refused.
    Unlisted,
    /// Disabled here; the cloud is still to be told.
    DisablePending,
    /// Disabled here; the cloud is still to be told that it is to be deleted.
    DeletePending,
    /// Nobody has told us its token, so it is refused as an unknown one. Not kept in a store.
    NotEnrolled,
}

impl Standing {
    const ALL: [Self; 6] = [
        Self::Listed,
        Self::Awaited,
        Self::Unlisted,
        Self::DisablePending,
        Self::DeletePending,
        Self::NotEnrolled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Awaited => "awaited",
            Self::Unlisted => "unlisted",
            Self::DisablePending => "disable_pending",
            Self::DeletePending => "delete_pending",
            Self::NotEnrolled => "not_enrolled",
        }
    }
}

impl Origin {
    /// As engines keep it: none for what is ours.
    pub fn text(self) -> Option<String> {
        match self {
            Self::Local => None,
            Self::Mirrored(provider, standing) => {
                Some(format!("{} {}", provider.as_str(), standing.as_str()))
            }
        }
    }

    pub fn of_text(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else { return Some(Self::Local) };
        let (provider, standing) = text.split_once(' ')?;
        let provider = Provider::ALL.into_iter().find(|it| it.as_str() == provider)?;
        let standing = Standing::ALL.into_iter().find(|it| it.as_str() == standing)?;
        Some(Self::Mirrored(provider, standing))
    }
}

/// What a transaction sees of the one tenant that it is about.
#[derive(Clone, Debug)]
pub struct View {
    /// None if it is not declared.
    pub tenant: Option<TenantRow>,
    /// All of the tenant's credentials, by id.
    pub records: Vec<Record>,
    /// Whose the digest named by the order is, in whichever tenant.
    pub digest_owner: Option<PageKey>,
}

impl View {
    pub fn record(&self, id: &CredentialId) -> Option<&Record> {
        self.records.iter().find(|record| record.credential.id == *id)
    }
}

/// One change to be made. Each gets a revision of its own, in the order given.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Writes the record, whose revision is set.
    Put(Record),
    Delete(CredentialId),
    /// Declares the tenant, or sets its switch.
    PutTenant(Status),
    DeleteTenant,
}

/// A transaction: it reads, decides and writes as if it were alone.
pub struct Order {
    pub tenant: TenantId,
    /// A digest that is about to be taken.
    pub digest: Option<TokenDigest>,
    pub decide: Decide,
    /// Written in the same transaction if anything is.
    pub audit: AuditEntry,
    /// Whether it can only take rights away. Such a one commits even when the disk is full.
    pub restricts: bool,
}

/// No edit means that all is as it was asked for already.
pub type Decide = Box<dyn FnOnce(&View) -> Result<Vec<Edit>, Denied> + Send>;

/// Why a transaction must not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    TenantUnknown,
    /// It still has credentials.
    TenantInUse,
    CredentialUnknown,
    DigestTaken(PageKey),
    /// These credentials take all the places that the tenant has.
    LimitReached(Vec<Record>),
    /// It was replaced before.
    Rotated(CredentialId),
}

/// What a transaction has done.
#[derive(Clone, Debug)]
pub struct Written {
    pub head: Head,
    /// Whether anything was written.
    pub changed: bool,
}

#[derive(Debug)]
pub enum WriteError {
    Denied(Denied),
    /// There is no room; what takes rights away still gets through.
    Full,
    Failed(Failed),
}

impl From<Failed> for WriteError {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// The engine could not do it. Nothing was written, unless the connection to it broke.
#[derive(Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// Who did what. It holds no secret, and no digest either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub time: Timestamp,
    /// Name of the admin token; `-` for one that nobody knows.
    pub actor: String,
    /// The peer's address; empty for what we do ourselves.
    pub peer: String,
    pub request_id: String,
    /// Such as `credential.disable`.
    pub action: &'static str,
    pub tenant: Option<TenantId>,
    pub credential_id: Option<CredentialId>,
    /// What else is worth knowing.
    pub detail: String,
}

/// An audit entry with its number, and the revision that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub number: u64,
    pub revision: Revision,
    pub time: Timestamp,
    pub actor: String,
    pub peer: String,
    pub request_id: String,
    pub action: String,
    pub tenant: Option<TenantId>,
    pub credential_id: Option<CredentialId>,
    pub detail: String,
}

/// Which of a tenant's credentials are asked for.
#[derive(Clone, Debug)]
pub struct Filter {
    pub tenant: TenantId,
    pub after: Option<CredentialId>,
    /// Only those that end by then.
    pub expires_by: Option<Timestamp>,
    pub rows: usize,
}

impl Filter {
    /// What it lets through of a tenant's records, which are sorted by id.
    pub fn of(&self, mut records: Vec<Record>) -> Records {
        records.retain(|record| self.expires_by.is_none_or(|time| record.expires_by(time)));
        let total = records.len();
        records.retain(|it| self.after.as_ref().is_none_or(|after| it.credential.id > *after));
        let more = records.len() > self.rows;
        records.truncate(self.rows);
        let next = records.last().filter(|_| more).map(|last| last.credential.id.clone());
        Records { records, total, next }
    }
}

#[derive(Clone, Debug)]
pub struct Records {
    pub records: Vec<Record>,
    /// How many there are over all pages.
    pub total: usize,
    pub next: Option<CredentialId>,
}

/// A replica as it was last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Chosen at random by each process.
    pub instance: String,
    pub report: Report,
}

/// SHA-256 of what makes a signed request unlike all others of its key.
pub type Nonce = TokenDigest;

/// An admin token that the store itself knows, by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    pub name: String,
    pub digest: TokenDigest,
}

/// An engine. All reads are of the latest committed state.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Runs an order as one transaction. When it returns, what it wrote survives a power loss.
    async fn write(&self, order: Order) -> Result<Written, WriteError>;

    async fn head(&self) -> Result<Head, Failed>;

    /// A page of all rows, ordered by tenant and id; `tenants` leaves others out.
    async fn page(
        &self,
        after: Option<&PageKey>,
        tenants: Option<&[TenantId]>,
        rows: usize,
    ) -> Result<Page, Failed>;

    /// At most `most` changes after a position.
    async fn changes(
        &self,
        after: &Position,
        tenants: Option<&[TenantId]>,
        most: usize,
    ) -> Result<Result<Changes, Gone>, Failed>;

    async fn tenants(&self) -> Result<Vec<TenantRow>, Failed>;

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantRow>, Failed>;

    async fn records(&self, filter: &Filter) -> Result<Records, Failed>;

    async fn record(&self, key: &PageKey) -> Result<Option<Record>, Failed>;

    /// The credential of a digest, and the head as of the same moment.
    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Record>), Failed>;

    /// Notes uses; an older one than is known changes nothing.
    async fn note_used(&self, used: &[Use]) -> Result<(), Failed>;

    async fn leases(&self) -> Result<Vec<Lease>, Failed>;

    /// Keeps name, position and `max_stale` of a report, not its uses.
    async fn put_lease(&self, lease: &Lease) -> Result<(), Failed>;

    async fn remove_lease(&self, instance: &str) -> Result<(), Failed>;

    /// Notes that somebody holds a state which this store has never been in. One of a history that
    /// was accepted is none.
    async fn dispute(&self, held: &History) -> Result<(), Failed>;

    /// Ends the dispute in favour of the present state: a new history begins, and the old ones,
    /// those held by others included, are accepted.
    async fn accept(&self, audit: AuditEntry) -> Result<Head, Failed>;

    async fn append_audit(&self, entry: AuditEntry) -> Result<(), Failed>;

    /// Entries after a number, oldest first.
    async fn audit(&self, after: u64, rows: usize) -> Result<Vec<AuditRow>, Failed>;

    async fn stored_tokens(&self) -> Result<Vec<StoredToken>, Failed>;

    async fn put_token(&self, token: &StoredToken) -> Result<(), Failed>;

    /// Notes a nonce until a time; whether nobody has brought it before. Like an order, one of a
    /// request that can only take rights away is taken even when the disk is full.
    async fn take_nonce(
        &self,
        nonce: &Nonce,
        until: Timestamp,
        restricts: bool,
    ) -> Result<bool, Failed>;

    /// Forgets the nonces that were to be kept until then.
    async fn forget_nonces(&self, by: Timestamp) -> Result<(), Failed>;

    /// Notes when the last whole read of a mirrored tenant's cloud began that is written here.
    async fn note_read(&self, tenant: &TenantId, begun: Timestamp) -> Result<(), Failed>;

    async fn reads(&self) -> Result<Vec<(TenantId, Timestamp)>, Failed>;

    /// Throws away the texts of changes made before a time. Their numbers and marks stay.
    async fn compact(&self, before: Timestamp) -> Result<(), Failed>;

    /// Writes a consistent copy to a new file.
    async fn backup(&self, to: &std::path::Path) -> Result<Head, Failed>;

    /// The latest position; changes with every write.
    fn latest(&self) -> watch::Receiver<Position>;
}

/// A change as the log keeps it: a text that marks are made over.
pub fn log_text(edit: &Edit, tenant: &TenantId) -> String {
    let value = match edit {
        Edit::Put(record) => {
            let credential = &record.credential;
            serde_json::json!({
                "credential": credential.id.as_str(),
                "tenant": tenant.as_str(),
                "digest": credential.digest.to_string(),
                "status": credential.status.as_str(),
                "expires": match credential.expiry {
                    Expiry::At(end) => Some(end.as_millis()),
                    Expiry::Never => None,
                },
            })
        }
        Edit::Delete(id) => {
            serde_json::json!({ "deleted": id.as_str(), "tenant": tenant.as_str() })
        }
        Edit::PutTenant(status) => {
            serde_json::json!({ "tenant": tenant.as_str(), "synchronization": status.as_str() })
        }
        Edit::DeleteTenant => serde_json::json!({ "tenant_deleted": tenant.as_str() }),
    };
    value.to_string()
}

/// The change that a text of the log tells; `None` if it is not one of ours.
pub fn log_change(text: &str, revision: Revision) -> Option<Change> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| value[key].as_str();
    if let Some(tenant) = word("tenant_deleted") {
        let tenant = TenantId::parse(tenant).ok()?;
        return Some(Change::TenantDeleted { tenant, revision });
    }
    let tenant = TenantId::parse(word("tenant")?).ok()?;
    if let Some(id) = word("deleted") {
        let id = CredentialId::parse(id).ok()?;
        return Some(Change::CredentialDeleted { tenant, id, revision });
    }
    if let Some(id) = word("credential") {
        let credential = Credential {
            id: CredentialId::parse(id).ok()?,
            tenant,
            digest: TokenDigest::parse(word("digest")?)?,
            status: word("status")?.parse().ok()?,
            expiry: match &value["expires"] {
                serde_json::Value::Null => Expiry::Never,
                end => Expiry::At(Timestamp::from_millis(end.as_i64()?)),
            },
        };
        return Some(Change::Credential(Row { credential: Arc::new(credential), revision }));
    }
    let synchronization = word("synchronization")?.parse().ok()?;
    Some(Change::Tenant(TenantRow { tenant, synchronization, revision }))
}

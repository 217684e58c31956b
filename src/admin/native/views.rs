//! What the native API shows to people: the JSON that replicas do not need. Theirs stands in
//! `source/wire.rs`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::{Created, Dispute};
use crate::credential::{Expiry, Revision};
use crate::store::replicas::{Receipt, ReplicaState};
use crate::store::{AuditRow, Origin, Record, Records};

pub use crate::source::wire::{
    ChangesJson, HeadJson, HeardJson, KeyJson, LookupJson, PageJson, ReportJson, RowJson,
    TenantJson,
};

/// A credential: all that is known of a token but the token.
#[derive(Serialize, ToSchema)]
#[schema(as = Credential)]
pub struct CredentialJson {
    pub credential_id: String,
    pub tenant: String,
    /// Always `BearerToken`.
    pub credential_type: &'static str,
    /// `Enabled` or `Disabled`.
    pub status: &'static str,
    pub create_time: String,
    /// The first instant at which it is no longer good; none if it never ends.
    pub expire_time: Option<String>,
    pub label: String,
    /// The last 4 characters of the token; none if we never saw it.
    pub hint: Option<String>,
    /// `local`: it is ours; or the cloud that it is mirrored from, `tencent` or `alibaba`.
    pub origin: &'static str,
    /// How a mirrored one stands with its cloud: `listed`, `awaited` (made through us and not listed
    /// yet), `unlisted` (refused), `disable_pending` and `delete_pending` (refused here, and the cloud
    /// is still to be told), or `not_enrolled` (nobody has told us its token).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<&'static str>,
    /// The name of the admin token by which it was made.
    pub created_by: String,
    /// To the minute; none if it was never used.
    pub last_used: Option<String>,
    /// Whether the token was made elsewhere and told to us.
    pub enrolled: bool,
    /// Of its latest change.
    pub revision: u64,
    /// `unknown` if the token was enrolled by its digest: nobody has seen how long it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<&'static str>,
}

impl From<&Record> for CredentialJson {
    fn from(record: &Record) -> Self {
        let credential = &record.credential;
        let (origin, cloud) = match record.origin {
            Origin::Local => ("local", None),
            Origin::Mirrored(provider, standing) => (provider.as_str(), Some(standing.as_str())),
        };
        Self {
            credential_id: credential.id.to_string(),
            tenant: credential.tenant.to_string(),
            credential_type: "BearerToken",
            status: credential.status.as_str(),
            create_time: record.create_time.to_string(),
            expire_time: match credential.expiry {
                Expiry::At(end) => Some(end.to_string()),
                Expiry::Never => None,
            },
            label: record.label.clone(),
            hint: record.hint.clone(),
            origin,
            cloud,
            created_by: record.created_by.clone(),
            last_used: record.last_used.map(|time| time.to_string()),
            enrolled: record.enrolled,
            revision: record.revision.0,
            strength: (record.enrolled && record.hint.is_none()).then_some("unknown"),
        }
    }
}

/// A new credential. This is the only time that its token is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedCredential)]
pub struct CreatedJson {
    #[serde(flatten)]
    credential: CredentialJson,
    /// The token, unless it was made elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<&Created> for CreatedJson {
    fn from(created: &Created) -> Self {
        Self {
            credential: (&created.record).into(),
            secret: created.secret.as_ref().map(|secret| secret.reveal().to_owned()),
        }
    }
}

/// Some of a tenant's credentials, by id.
#[derive(Serialize, ToSchema)]
#[schema(as = CredentialPage)]
pub struct CredentialsJson {
    credentials: Vec<CredentialJson>,
    /// How many there are over all pages.
    total: usize,
    /// What to ask `after`; none after the last page.
    next: Option<String>,
}

impl From<&Records> for CredentialsJson {
    fn from(records: &Records) -> Self {
        Self {
            credentials: records.records.iter().map(CredentialJson::from).collect(),
            total: records.total,
            next: records.next.as_ref().map(ToString::to_string),
        }
    }
}

/// The number of the change by which something has gone.
#[derive(Serialize, ToSchema)]
#[schema(as = Deleted)]
pub struct DeletedJson {
    revision: u64,
}

impl From<Revision> for DeletedJson {
    fn from(revision: Revision) -> Self {
        Self { revision: revision.0 }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = TenantList)]
pub struct TenantsJson {
    pub tenants: Vec<TenantJson>,
}

/// The switch that stops all of a tenant's provisioning.
#[derive(Serialize, ToSchema)]
#[schema(as = Synchronization)]
pub struct SynchronizationJson {
    /// `Enabled` or `Disabled`.
    pub status: String,
}

/// A running proxy.
#[derive(Serialize, ToSchema)]
#[schema(as = Replica)]
pub struct ReplicaJson {
    /// A label, such as the host's name.
    name: String,
    /// Chosen at random by each process.
    instance: String,
    /// The position that it has applied, `HISTORY:REVISION:MARK`; none before its first table.
    applied: Option<String>,
    /// `applied`, `unloaded` (its first table will have the change), `pending`, or `expired` (not
    /// heard for so long that it refuses by itself).
    state: &'static str,
    /// When a pending one refuses by itself at the latest.
    refuses_by: Option<String>,
    /// When it last reported.
    heard: String,
}

impl From<&ReplicaState> for ReplicaJson {
    fn from(replica: &ReplicaState) -> Self {
        Self {
            name: replica.name.clone(),
            instance: instance(replica),
            applied: replica.applied.as_ref().map(ToString::to_string),
            state: replica.state.as_str(),
            refuses_by: replica.refuses_by.map(|time| time.to_string()),
            heard: replica.heard.to_string(),
        }
    }
}

/// A running proxy's name.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplicaName)]
pub struct ReplicaNameJson {
    name: String,
    instance: String,
}

impl From<&ReplicaState> for ReplicaNameJson {
    fn from(replica: &ReplicaState) -> Self {
        Self { name: replica.name.clone(), instance: instance(replica) }
    }
}

/// Behind the name of its token, if it came by one.
fn instance(replica: &ReplicaState) -> String {
    replica.instance.rsplit(':').next().unwrap_or_default().to_owned()
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReplicaList)]
pub struct ReplicasJson {
    replicas: Vec<ReplicaJson>,
}

impl From<&[ReplicaState]> for ReplicasJson {
    fn from(replicas: &[ReplicaState]) -> Self {
        Self { replicas: replicas.iter().map(ReplicaJson::from).collect() }
    }
}

/// How far a change has come.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptJson {
    revision: u64,
    /// No decision anywhere uses a state without the change. Also if there are no replicas.
    complete: bool,
    replicas: Vec<ReplicaJson>,
    /// Until when there may be replicas that this store has never heard of.
    settles_by: Option<String>,
}

impl From<&Receipt> for ReceiptJson {
    fn from(receipt: &Receipt) -> Self {
        Self {
            revision: receipt.revision.0,
            complete: receipt.complete,
            replicas: receipt.replicas.iter().map(ReplicaJson::from).collect(),
            settles_by: receipt.settles_by.map(|time| time.to_string()),
        }
    }
}

/// Where the store stands, and what accepting that would bring back.
#[derive(Serialize, ToSchema)]
#[schema(as = Dispute)]
pub struct DisputeJson {
    #[serde(flatten)]
    head: HeadJson,
    /// Credentials that replicas hold as revoked and this store as good.
    would_revive: Vec<KeyJson>,
    /// Replicas that may know of more: they hold a state that this store does not have, or have not
    /// been heard by this process, and have not told how the two differ.
    uncompared: Vec<ReplicaNameJson>,
    /// When this process began to listen.
    listening_since: String,
    /// Until when there may be replicas of which this process has not heard yet.
    compares_by: Option<String>,
    replicas: Vec<ReplicaJson>,
}

impl From<&Dispute> for DisputeJson {
    fn from(dispute: &Dispute) -> Self {
        let uncompared = dispute.replicas.iter().filter(|replica| !replica.compared);
        Self {
            head: (&dispute.head).into(),
            would_revive: dispute.would_revive.iter().map(KeyJson::from).collect(),
            uncompared: uncompared.map(ReplicaNameJson::from).collect(),
            listening_since: dispute.listening_since.to_string(),
            compares_by: dispute.compares_by.map(|time| time.to_string()),
            replicas: dispute.replicas.iter().map(ReplicaJson::from).collect(),
        }
    }
}

/// Who did what.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditEntryJson {
    number: u64,
    /// The change that it belongs to, or the latest one before it.
    revision: u64,
    time: String,
    /// The name of the admin token; `-` for one that nobody knows.
    actor: String,
    /// Where the request came from; empty for what we do ourselves.
    peer: String,
    request_id: String,
    /// Such as `credential.disable`.
    action: String,
    tenant: Option<String>,
    credential_id: Option<String>,
    detail: String,
}

impl From<&AuditRow> for AuditEntryJson {
    fn from(row: &AuditRow) -> Self {
        Self {
            number: row.number,
            revision: row.revision.0,
            time: row.time.to_string(),
            actor: row.actor.clone(),
            peer: row.peer.clone(),
            request_id: row.request_id.clone(),
            action: row.action.clone(),
            tenant: row.tenant.as_ref().map(ToString::to_string),
            credential_id: row.credential_id.as_ref().map(ToString::to_string),
            detail: row.detail.clone(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub struct AuditJson {
    pub entries: Vec<AuditEntryJson>,
    /// What to ask `after`; none after the last page.
    pub next: Option<u64>,
}

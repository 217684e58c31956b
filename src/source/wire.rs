//! The native API as replicas and the admin API speak it with each other: the JSON of pages,
//! changes and reports. Unknown keys are passed over, so that versions can differ by one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::config::value::Span;
use crate::credential::feed::{
    self, Changes, Head, Heard, History, Lag, Page, PageKey, Position, Report, TenantRow,
};
use crate::credential::{
    Credential, CredentialId, Expiry, Malformed, Revision, TenantId, TokenDigest,
};

/// Where the store stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Head)]
pub struct HeadJson {
    /// The store's present life; a restored store has another.
    pub history: String,
    /// The number of the latest change.
    pub revision: u64,
    /// The end of the hash chain over all changes, in hex.
    pub mark: String,
    /// A replica has seen a later state than this store: nothing is loosened until
    /// `POST /v1/history/accept`.
    #[serde(default)]
    pub disputed: bool,
    /// Histories that were ended by an operator.
    #[serde(default)]
    pub accepts: Vec<String>,
    /// When the history began.
    pub began: String,
}

impl From<&Head> for HeadJson {
    fn from(head: &Head) -> Self {
        let Position { history, revision, mark } = &head.position;
        Self {
            history: history.to_string(),
            revision: revision.0,
            mark: mark.to_string(),
            disputed: head.disputed,
            accepts: head.accepts.iter().map(History::to_string).collect(),
            began: head.began.to_string(),
        }
    }
}

impl TryFrom<&HeadJson> for Head {
    type Error = Malformed;

    fn try_from(json: &HeadJson) -> Result<Self, Malformed> {
        Ok(Self {
            position: position(&json.history, json.revision, &json.mark)?,
            disputed: json.disputed,
            accepts: json.accepts.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
            began: Timestamp::parse(&json.began).ok_or(Malformed)?,
        })
    }
}

/// The answer to a report.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Heard)]
pub struct HeardJson {
    #[serde(flatten)]
    pub head: HeadJson,
    /// Tenants that are mirrored from a cloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrored: Vec<LagJson>,
}

/// How far a mirrored tenant is behind its cloud.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Lag)]
pub struct LagJson {
    pub tenant: String,
    /// Milliseconds since the last whole read of the cloud began; none before the first.
    pub age_ms: Option<u64>,
    /// Milliseconds between two reads.
    pub interval_ms: u64,
}

impl From<&Heard> for HeardJson {
    fn from(heard: &Heard) -> Self {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let lag = |lag: &Lag| LagJson {
            tenant: lag.tenant.to_string(),
            age_ms: lag.age.map(millis),
            interval_ms: millis(lag.interval),
        };
        Self { head: (&heard.head).into(), mirrored: heard.lags.iter().map(lag).collect() }
    }
}

impl TryFrom<&HeardJson> for Heard {
    type Error = Malformed;

    fn try_from(json: &HeardJson) -> Result<Self, Malformed> {
        let lag = |lag: &LagJson| {
            Ok(Lag {
                tenant: TenantId::parse(&lag.tenant).map_err(|_| Malformed)?,
                age: lag.age_ms.map(Duration::from_millis),
                interval: Duration::from_millis(lag.interval_ms),
            })
        };
        let lags = json.mirrored.iter().map(lag).collect::<Result<_, _>>()?;
        Ok(Self { head: (&json.head).try_into()?, lags })
    }
}

fn position(history: &str, revision: u64, mark: &str) -> Result<Position, Malformed> {
    let (history, revision) = (history.parse()?, Revision(revision));
    Ok(Position { history, revision, mark: mark.parse()? })
}

/// A credential as replicas need it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Row)]
pub struct RowJson {
    pub credential_id: String,
    pub tenant: String,
    /// Only for the role `replica`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub status: String,
    /// RFC 3339; none if it never ends.
    pub expire_time: Option<String>,
    pub revision: u64,
}

impl RowJson {
    pub fn of(row: &feed::Row, with_digest: bool) -> Self {
        let credential = &row.credential;
        Self {
            credential_id: credential.id.to_string(),
            tenant: credential.tenant.to_string(),
            digest: with_digest.then(|| credential.digest.to_string()),
            status: credential.status.as_str().to_owned(),
            expire_time: match credential.expiry {
                Expiry::At(end) => Some(end.to_string()),
                Expiry::Never => None,
            },
            revision: row.revision.0,
        }
    }
}

impl TryFrom<&RowJson> for feed::Row {
    type Error = Malformed;

    fn try_from(json: &RowJson) -> Result<Self, Malformed> {
        let credential = Credential {
            id: CredentialId::parse(&json.credential_id).map_err(|_| Malformed)?,
            tenant: tenant(&json.tenant)?,
            digest: json.digest.as_deref().and_then(TokenDigest::parse).ok_or(Malformed)?,
            status: json.status.parse()?,
            expiry: match &json.expire_time {
                Some(end) => Expiry::At(Timestamp::parse(end).ok_or(Malformed)?),
                None => Expiry::Never,
            },
        };
        Ok(Self { credential: Arc::new(credential), revision: Revision(json.revision) })
    }
}

fn tenant(text: &str) -> Result<TenantId, Malformed> {
    TenantId::parse(text).map_err(|_| Malformed)
}

/// A tenant's switch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TenantState)]
pub struct TenantJson {
    pub tenant: String,
    /// `Disabled` stops all of the tenant's provisioning.
    pub synchronization: String,
    pub revision: u64,
}

impl From<&TenantRow> for TenantJson {
    fn from(row: &TenantRow) -> Self {
        Self {
            tenant: row.tenant.to_string(),
            synchronization: row.synchronization.as_str().to_owned(),
            revision: row.revision.0,
        }
    }
}

impl TryFrom<&TenantJson> for TenantRow {
    type Error = Malformed;

    fn try_from(json: &TenantJson) -> Result<Self, Malformed> {
        Ok(Self {
            tenant: tenant(&json.tenant)?,
            synchronization: json.synchronization.parse()?,
            revision: Revision(json.revision),
        })
    }
}

/// Some of the table. The first page names the position from which to follow.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TablePage)]
pub struct PageJson {
    #[serde(flatten)]
    pub head: HeadJson,
    pub rows: Vec<RowJson>,
    /// All tenants; on the first page only.
    #[serde(default)]
    pub tenants: Vec<TenantJson>,
    /// What to ask `after`; none after the last page.
    pub next: Option<String>,
}

impl PageJson {
    pub fn of(page: &Page, with_digests: bool) -> Self {
        Self {
            head: (&page.head).into(),
            rows: page.rows.iter().map(|row| RowJson::of(row, with_digests)).collect(),
            tenants: page.tenants.iter().map(TenantJson::from).collect(),
            next: page.next.as_ref().map(|(tenant, id)| format!("{tenant}:{id}")),
        }
    }
}

impl TryFrom<&PageJson> for Page {
    type Error = Malformed;

    fn try_from(json: &PageJson) -> Result<Self, Malformed> {
        Ok(Self {
            head: (&json.head).try_into()?,
            rows: json.rows.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            tenants: json.tenants.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            next: json.next.as_deref().map(page_key).transpose()?,
        })
    }
}

/// Reads `TENANT:ID`, of which neither part can have a colon.
pub fn page_key(text: &str) -> Result<PageKey, Malformed> {
    let (tenant_id, id) = text.split_once(':').ok_or(Malformed)?;
    Ok((tenant(tenant_id)?, CredentialId::parse(id).map_err(|_| Malformed)?))
}

/// One change. Its `type` is the name of the server-sent event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[schema(as = Change)]
pub enum ChangeJson {
    Credential(RowJson),
    Deleted {
        credential_id: String,
        tenant: String,
        revision: u64,
    },
    Tenant(TenantJson),
    #[serde(rename = "tenant_deleted")]
    TenantDeleted {
        tenant: String,
        revision: u64,
    },
}

impl ChangeJson {
    pub fn of(change: &feed::Change, with_digest: bool) -> Self {
        match change {
            feed::Change::Credential(row) => Self::Credential(RowJson::of(row, with_digest)),
            feed::Change::CredentialDeleted { tenant, id, revision } => Self::Deleted {
                credential_id: id.to_string(),
                tenant: tenant.to_string(),
                revision: revision.0,
            },
            feed::Change::Tenant(row) => Self::Tenant(row.into()),
            feed::Change::TenantDeleted { tenant, revision } => {
                Self::TenantDeleted { tenant: tenant.to_string(), revision: revision.0 }
            }
        }
    }

    /// The name of its server-sent event.
    pub fn event(&self) -> &'static str {
        match self {
            Self::Credential(_) => "credential",
            Self::Deleted { .. } => "deleted",
            Self::Tenant(_) | Self::TenantDeleted { .. } => "tenant",
        }
    }
}

impl TryFrom<&ChangeJson> for feed::Change {
    type Error = Malformed;

    fn try_from(json: &ChangeJson) -> Result<Self, Malformed> {
        Ok(match json {
            ChangeJson::Credential(row) => Self::Credential(row.try_into()?),
            ChangeJson::Deleted { credential_id, tenant: tenant_id, revision } => {
                Self::CredentialDeleted {
                    tenant: tenant(tenant_id)?,
                    id: CredentialId::parse(credential_id).map_err(|_| Malformed)?,
                    revision: Revision(*revision),
                }
            }
            ChangeJson::Tenant(row) => Self::Tenant(row.try_into()?),
            ChangeJson::TenantDeleted { tenant: tenant_id, revision } => {
                Self::TenantDeleted { tenant: tenant(tenant_id)?, revision: Revision(*revision) }
            }
        })
    }
}

/// Changes in order, up to the position that stands here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Changes)]
pub struct ChangesJson {
    pub history: String,
    pub revision: u64,
    pub mark: String,
    pub changes: Vec<ChangeJson>,
    /// Where the store stands; there is more to ask for if that is further on.
    pub head: HeadJson,
}

impl ChangesJson {
    pub fn of(changes: &Changes, with_digests: bool) -> Self {
        let Position { history, revision, mark } = &changes.position;
        Self {
            history: history.to_string(),
            revision: revision.0,
            mark: mark.to_string(),
            changes: changes.changes.iter().map(|it| ChangeJson::of(it, with_digests)).collect(),
            head: (&changes.head).into(),
        }
    }
}

impl TryFrom<&ChangesJson> for Changes {
    type Error = Malformed;

    fn try_from(json: &ChangesJson) -> Result<Self, Malformed> {
        Ok(Self {
            changes: json.changes.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            position: position(&json.history, json.revision, &json.mark)?,
            head: (&json.head).try_into()?,
        })
    }
}

/// The answer about one digest.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Lookup)]
pub struct LookupJson {
    #[serde(flatten)]
    pub head: HeadJson,
    pub row: RowJson,
}

/// A credential by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CredentialKey)]
pub struct KeyJson {
    pub tenant: String,
    pub credential_id: String,
}

impl From<&PageKey> for KeyJson {
    fn from((tenant, id): &PageKey) -> Self {
        Self { tenant: tenant.to_string(), credential_id: id.to_string() }
    }
}

impl TryFrom<&KeyJson> for PageKey {
    type Error = Malformed;

    fn try_from(json: &KeyJson) -> Result<Self, Malformed> {
        let id = CredentialId::parse(&json.credential_id).map_err(|_| Malformed)?;
        Ok((tenant(&json.tenant)?, id))
    }
}

/// A credential's latest use, to the minute.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Use)]
pub struct UseJson {
    #[serde(flatten)]
    pub key: KeyJson,
    pub time: String,
}

/// What a replica tells of itself every few seconds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Report)]
pub struct ReportJson {
    /// A label, such as the host's name.
    pub name: String,
    /// The position that it has applied, `HISTORY:REVISION:MARK`; none before its first table.
    pub applied: Option<String>,
    /// The longest that it accepts on an unconfirmed table, such as `12h`.
    #[schema(value_type = String)]
    pub max_stale: Span,
    /// The position of the store as of which it has compared what it holds with that. Without it,
    /// one that holds a state which the store does not have counts as not compared.
    #[serde(default)]
    pub compared: Option<String>,
    /// What it holds as revoked and this store as good; told in a dispute.
    #[serde(default)]
    pub would_revive: Vec<KeyJson>,
    /// Uses of credentials since its last report.
    #[serde(default)]
    pub used: Vec<UseJson>,
}

impl From<&Report> for ReportJson {
    fn from(report: &Report) -> Self {
        let used = |(key, time): &feed::Use| UseJson { key: key.into(), time: time.to_string() };
        Self {
            name: report.name.clone(),
            applied: report.applied.as_ref().map(Position::to_string),
            max_stale: Span(report.max_stale),
            compared: report.compared.as_ref().map(Position::to_string),
            would_revive: report.would_revive.iter().map(KeyJson::from).collect(),
            used: report.used.iter().map(used).collect(),
        }
    }
}

impl TryFrom<&ReportJson> for Report {
    type Error = Malformed;

    fn try_from(json: &ReportJson) -> Result<Self, Malformed> {
        let used = |it: &UseJson| -> Result<feed::Use, Malformed> {
            Ok(((&it.key).try_into()?, Timestamp::parse(&it.time).ok_or(Malformed)?))
        };
        Ok(Self {
            name: json.name.chars().filter(|it| !it.is_control()).take(128).collect(),
            applied: json.applied.as_deref().map(str::parse).transpose()?,
            max_stale: json.max_stale.0,
            compared: json.compared.as_deref().map(str::parse).transpose()?,
            would_revive: json
                .would_revive
                .iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            used: json.used.iter().map(used).collect::<Result<_, _>>()?,
        })
    }
}

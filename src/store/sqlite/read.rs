//! What is asked of the tables. Each question is answered by an index, and all parts of an answer
//! are of one moment, since nobody else uses the connection meanwhile.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, query, query_scalar};

use crate::clock::Timestamp;
use crate::credential::feed::{
    Changes, Gone, Head, History, Mark, Page, PageKey, Position, Report, TenantRow,
};
use crate::credential::{
    Credential, CredentialId, Expiry, Revision, Status, TenantId, TokenDigest,
};
use crate::store::{
    AuditRow, Failed, Filter, Lease, Nonce, Origin, Record, Records, StoredToken, View, log_change,
};

type Connection = SqliteConnection;

/// Those with a digest: one without is none that we could check.
macro_rules! records {
    ($rest:literal) => {
        concat!(
            "SELECT tenant, id, digest, status, expires, revision, created, label, hint, ",
            "mirrored, created_by, enrolled, last_used, successor ",
            "FROM credentials WHERE digest IS NOT NULL AND ",
            $rest
        )
    };
}

pub async fn head(connection: &mut Connection) -> Result<Head, Failed> {
    let row = query("SELECT history, began, disputed, revision, mark FROM store")
        .fetch_one(&mut *connection)
        .await?;
    let accepts = histories(connection, true).await?;
    let history = parsed(&row, "history")?;
    let revision = Revision(row.try_get::<i64, _>("revision")?.cast_unsigned());
    Ok(Head {
        position: Position { history, revision, mark: parsed(&row, "mark")? },
        disputed: row.try_get("disputed")?,
        accepts,
        began: time(&row, "began")?,
    })
}

/// The histories that were accepted, or those that others hold in a dispute.
pub async fn histories(
    connection: &mut Connection,
    accepted: bool,
) -> Result<Vec<History>, Failed> {
    let rows = query("SELECT history FROM histories WHERE accepted = ? ORDER BY history")
        .bind(accepted)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| parsed(row, "history")).collect()
}

pub async fn view(
    connection: &mut Connection,
    tenant_id: &TenantId,
    digest: Option<&TokenDigest>,
) -> Result<View, Failed> {
    let rows = query(records!("tenant = ? ORDER BY id"))
        .bind(tenant_id.as_str())
        .fetch_all(&mut *connection)
        .await?;
    let digest_owner = match digest {
        Some(digest) => by_digest(connection, digest).await?.map(|record| record.key()),
        None => None,
    };
    Ok(View {
        tenant: tenant(connection, tenant_id).await?,
        records: rows.iter().map(record_of).collect::<Result<_, _>>()?,
        digest_owner,
    })
}

pub async fn page(
    connection: &mut Connection,
    after: Option<&PageKey>,
    wanted: Option<&[TenantId]>,
    most: usize,
) -> Result<Page, Failed> {
    let after_key = after.map_or(("", ""), |(tenant, id)| (tenant.as_str(), id.as_str()));
    let asked = match wanted {
        None => query(records!("(tenant, id) > (?, ?) ORDER BY tenant, id LIMIT ?")),
        Some(_) => query(records!(
            "(tenant, id) > (?, ?) AND tenant IN (SELECT value FROM json_each(?4)) \
             ORDER BY tenant, id LIMIT ?3"
        )),
    };
    let asked = asked.bind(after_key.0).bind(after_key.1).bind(limit(most.saturating_add(1)));
    let asked = match wanted {
        None => asked,
        Some(wanted) => asked.bind(json(wanted)),
    };
    let rows = asked.fetch_all(&mut *connection).await?;
    let more = rows.len() > most;
    let records = rows.iter().take(most).map(record_of).collect::<Result<Vec<_>, _>>()?;
    let mut tenants = if after.is_none() { tenants(connection).await? } else { Vec::new() };
    tenants.retain(|row| wanted.is_none_or(|wanted| wanted.contains(&row.tenant)));
    Ok(Page {
        head: head(connection).await?,
        next: records.last().filter(|_| more).map(Record::key),
        rows: records.iter().map(Record::row).collect(),
        tenants,
    })
}

pub async fn changes(
    connection: &mut Connection,
    after: &Position,
    wanted: Option<&[TenantId]>,
    most: usize,
) -> Result<Result<Changes, Gone>, Failed> {
    let head = head(connection).await?;
    let known = after.history == head.position.history
        && mark_at(connection, after.revision).await? == Some(after.mark);
    if !known {
        return Ok(Err(Gone::Unknown));
    }
    let rows =
        query("SELECT revision, mark, text FROM log WHERE revision > ? ORDER BY revision LIMIT ?")
            .bind(after.revision.0.cast_signed())
            .bind(limit(most))
            .fetch_all(connection)
            .await?;
    let mut position = after.clone();
    let mut changes = Vec::new();
    for row in &rows {
        position.revision = Revision(row.try_get::<i64, _>("revision")?.cast_unsigned());
        position.mark = parsed(row, "mark")?;
        // A text that a later version wrote is as good as none: the rows say what it led to.
        let text: Option<&str> = row.try_get("text")?;
        let Some(change) = text.and_then(|text| log_change(text, position.revision)) else {
            return Ok(Err(Gone::Compacted));
        };
        if wanted.is_none_or(|wanted| wanted.contains(change.tenant())) {
            changes.push(change);
        }
    }
    Ok(Ok(Changes { changes, position, head }))
}

/// The mark that a revision has; 0 stands before the first.
pub async fn mark_at(
    connection: &mut Connection,
    revision: Revision,
) -> Result<Option<Mark>, Failed> {
    if revision == Revision(0) {
        return Ok(Some(Mark::default()));
    }
    let row = query("SELECT mark FROM log WHERE revision = ?")
        .bind(revision.0.cast_signed())
        .fetch_optional(connection)
        .await?;
    row.map(|row| parsed(&row, "mark")).transpose()
}

pub async fn tenants(connection: &mut Connection) -> Result<Vec<TenantRow>, Failed> {
    let rows = query("SELECT tenant, synchronization, revision FROM tenants ORDER BY tenant")
        .fetch_all(connection)
        .await?;
    rows.iter().map(tenant_of).collect()
}

pub async fn tenant(
    connection: &mut Connection,
    tenant: &TenantId,
) -> Result<Option<TenantRow>, Failed> {
    let row = query("SELECT tenant, synchronization, revision FROM tenants WHERE tenant = ?")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(tenant_of).transpose()
}

pub async fn records(connection: &mut Connection, filter: &Filter) -> Result<Records, Failed> {
    let expires_by = filter.expires_by.map(Timestamp::as_millis);
    let total: i64 = query_scalar(
        "SELECT count(*) FROM credentials WHERE digest IS NOT NULL AND tenant = ?1 \
         AND (?2 IS NULL OR expires <= ?2)",
    )
    .bind(filter.tenant.as_str())
    .bind(expires_by)
    .fetch_one(&mut *connection)
    .await?;
    let rows = query(records!(
        "tenant = ?1 AND (?2 IS NULL OR expires <= ?2) AND id > ?3 ORDER BY id LIMIT ?4"
    ))
    .bind(filter.tenant.as_str())
    .bind(expires_by)
    .bind(filter.after.as_ref().map_or("", CredentialId::as_str))
    .bind(limit(filter.rows.saturating_add(1)))
    .fetch_all(connection)
    .await?;
    let taken = rows.iter().take(filter.rows);
    let records = taken.map(record_of).collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > filter.rows;
    let next = records.last().filter(|_| more).map(|record| record.credential.id.clone());
    Ok(Records { records, total: usize::try_from(total).unwrap_or(0), next })
}

pub async fn record(connection: &mut Connection, key: &PageKey) -> Result<Option<Record>, Failed> {
    let row = query(records!("tenant = ? AND id = ?"))
        .bind(key.0.as_str())
        .bind(key.1.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(record_of).transpose()
}

pub async fn by_digest(
    connection: &mut Connection,
    digest: &TokenDigest,
) -> Result<Option<Record>, Failed> {
    let row = query(records!("digest = ?"))
        .bind(digest.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(record_of).transpose()
}

pub async fn leases(connection: &mut Connection) -> Result<Vec<Lease>, Failed> {
    let rows = query("SELECT instance, name, applied, max_stale FROM leases ORDER BY instance")
        .fetch_all(connection)
        .await?;
    rows.iter().map(lease_of).collect()
}

pub async fn audit(
    connection: &mut Connection,
    after: u64,
    rows: usize,
) -> Result<Vec<AuditRow>, Failed> {
    let rows = query(
        "SELECT number, revision, time, actor, peer, request_id, action, tenant, credential_id, \
         detail FROM audit WHERE number > ? ORDER BY number LIMIT ?",
    )
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(limit(rows))
    .fetch_all(connection)
    .await?;
    rows.iter().map(audit_of).collect()
}

pub async fn stored_tokens(connection: &mut Connection) -> Result<Vec<StoredToken>, Failed> {
    let rows =
        query("SELECT name, digest FROM tokens ORDER BY number").fetch_all(connection).await?;
    let token = |row: &SqliteRow| {
        Ok(StoredToken { name: row.try_get("name")?, digest: digest_of(row, "digest")? })
    };
    rows.iter().map(token).collect()
}

fn record_of(row: &SqliteRow) -> Result<Record, Failed> {
    let expiry = match row.try_get("expires")? {
        Some(end) => Expiry::At(Timestamp::from_millis(end)),
        None => Expiry::Never,
    };
    let credential = Credential {
        id: id_of(row.try_get("id")?)?,
        tenant: tenant_id_of(row.try_get("tenant")?)?,
        digest: digest_of(row, "digest")?,
        status: status_of(row, "status")?,
        expiry,
    };
    let mirrored: Option<&str> = row.try_get("mirrored")?;
    let unknown = || unreadable("mirrored", mirrored.unwrap_or_default());
    let origin = Origin::of_text(mirrored).ok_or_else(unknown)?;
    let successor: Option<&str> = row.try_get("successor")?;
    Ok(Record {
        credential,
        revision: Revision(row.try_get::<i64, _>("revision")?.cast_unsigned()),
        create_time: time(row, "created")?,
        label: row.try_get("label")?,
        hint: row.try_get("hint")?,
        origin,
        created_by: row.try_get("created_by")?,
        enrolled: row.try_get("enrolled")?,
        last_used: row.try_get::<Option<i64>, _>("last_used")?.map(Timestamp::from_millis),
        successor: successor.map(id_of).transpose()?,
    })
}

fn tenant_of(row: &SqliteRow) -> Result<TenantRow, Failed> {
    Ok(TenantRow {
        tenant: tenant_id_of(row.try_get("tenant")?)?,
        synchronization: status_of(row, "synchronization")?,
        revision: Revision(row.try_get::<i64, _>("revision")?.cast_unsigned()),
    })
}

fn lease_of(row: &SqliteRow) -> Result<Lease, Failed> {
    let applied: Option<&str> = row.try_get("applied")?;
    let applied = applied.map(|text| text.parse().map_err(|_| unreadable("applied", text)));
    let max_stale: i64 = row.try_get("max_stale")?;
    let report = Report {
        name: row.try_get("name")?,
        applied: applied.transpose()?,
        max_stale: std::time::Duration::from_millis(max_stale.cast_unsigned()),
        compared: None,
        would_revive: Vec::new(),
        used: Vec::new(),
    };
    Ok(Lease { instance: row.try_get("instance")?, report })
}

fn audit_of(row: &SqliteRow) -> Result<AuditRow, Failed> {
    let tenant: Option<&str> = row.try_get("tenant")?;
    let credential_id: Option<&str> = row.try_get("credential_id")?;
    Ok(AuditRow {
        number: row.try_get::<i64, _>("number")?.cast_unsigned(),
        revision: Revision(row.try_get::<i64, _>("revision")?.cast_unsigned()),
        time: time(row, "time")?,
        actor: row.try_get("actor")?,
        peer: row.try_get("peer")?,
        request_id: row.try_get("request_id")?,
        action: row.try_get("action")?,
        tenant: tenant.map(tenant_id_of).transpose()?,
        credential_id: credential_id.map(id_of).transpose()?,
        detail: row.try_get("detail")?,
    })
}

fn tenant_id_of(text: &str) -> Result<TenantId, Failed> {
    TenantId::parse(text).map_err(|_| unreadable("tenant", text))
}

pub async fn reads(connection: &mut Connection) -> Result<Vec<(TenantId, Timestamp)>, Failed> {
    let rows =
        query("SELECT tenant, begun FROM reads ORDER BY tenant").fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok((tenant_id_of(row.try_get("tenant")?)?, time(row, "begun")?)))
        .collect()
}

pub async fn nonces(connection: &mut Connection) -> Result<Vec<(Nonce, Timestamp)>, Failed> {
    let rows = query("SELECT nonce, until FROM nonces").fetch_all(connection).await?;
    rows.iter().map(|row| Ok((digest_of(row, "nonce")?, time(row, "until")?))).collect()
}

pub async fn knows_nonce(connection: &mut Connection, nonce: &Nonce) -> Result<bool, Failed> {
    let known = query_scalar("SELECT EXISTS (SELECT 1 FROM nonces WHERE nonce = ?)")
        .bind(&nonce.as_bytes()[..])
        .fetch_one(connection)
        .await?;
    Ok(known)
}

fn id_of(text: &str) -> Result<CredentialId, Failed> {
    CredentialId::parse(text).map_err(|_| unreadable("credential id", text))
}

fn digest_of(row: &SqliteRow, column: &str) -> Result<TokenDigest, Failed> {
    let bytes: &[u8] = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| unreadable(column, "a digest of another length"))?;
    Ok(TokenDigest::from_bytes(bytes))
}

fn status_of(row: &SqliteRow, column: &str) -> Result<Status, Failed> {
    parsed(row, column)
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, Failed> {
    Ok(Timestamp::from_millis(row.try_get(column)?))
}

fn parsed<T: std::str::FromStr>(row: &SqliteRow, column: &str) -> Result<T, Failed> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| unreadable(column, text))
}

fn unreadable(what: &str, value: &str) -> Failed {
    Failed(format!("the store holds a {what} that cannot be read: {value}"))
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn json(tenants: &[TenantId]) -> String {
    let texts: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
    serde_json::json!(texts).to_string()
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

//! What a store has otherwise than its backup, and which of it takes rights away.

use std::fmt;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, query, query_scalar};

use crate::clock::Timestamp;
use crate::credential::feed::PageKey;
use crate::credential::{CredentialId, Expiry, Revision, Status, TenantId};
use crate::store::{Edit, Failed, Origin, Record, Standing};

/// Something that was done since the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub tenant: TenantId,
    /// None if it is about the tenant itself.
    pub credential: Option<CredentialId>,
    pub what: What,
    /// Who has taken the credential's place.
    pub successor: Option<CredentialId>,
    /// Whether it was done again here; else it is lost.
    pub carried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Came,
    Went,
    /// It is not there, and may never have been: that store has another past than the backup.
    Absent,
    /// The credential, or the tenant's synchronization.
    Switched(Status),
    Expires(Expiry),
    /// Another token was bound to the id.
    Rebound,
}

impl Difference {
    /// None if it is about the tenant itself.
    pub fn key(&self) -> Option<PageKey> {
        self.credential.clone().map(|id| (self.tenant.clone(), id))
    }

    /// What does it again, to a record as it has become so far.
    pub fn edit(&self, record: Option<&mut Record>) -> Option<Edit> {
        let Some(record) = record else {
            return match self.what {
                What::Went => Some(Edit::DeleteTenant),
                What::Switched(status) => Some(Edit::PutTenant(status)),
                _ => None,
            };
        };
        match self.what {
            What::Came | What::Absent => return None,
            What::Went => return Some(Edit::Delete(record.credential.id.clone())),
            What::Switched(status) => {
                record.credential.status = status;
                // Whether its cloud knows nobody can say here, and to tell it twice does no harm.
                if let Origin::Mirrored(provider, _) = record.origin {
                    record.origin = Origin::Mirrored(provider, Standing::DisablePending);
                }
            }
            What::Expires(expiry) => {
                record.credential.expiry = expiry;
                record.successor = self.successor.clone().or(record.successor.take());
            }
            // A listing would bring the old token back.
            What::Rebound if record.origin != Origin::Local => {
                return Some(Edit::Delete(record.credential.id.clone()));
            }
            // The token that it has here was taken away, and the other one is not known here.
            What::Rebound => record.credential.status = Status::Disabled,
        }
        Some(Edit::Put(record.clone()))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.credential {
            Some(id) => write!(f, "{}/{id}: ", self.tenant)?,
            None => write!(f, "tenant {}: ", self.tenant)?,
        }
        match self.what {
            What::Came => f.write_str("created")?,
            What::Went => f.write_str("deleted")?,
            What::Absent => return f.write_str("not in the replaced store; kept"),
            What::Switched(Status::Enabled) => f.write_str("enabled")?,
            What::Switched(Status::Disabled) => f.write_str("disabled")?,
            What::Expires(Expiry::At(end)) => write!(f, "set to expire at {end}")?,
            What::Expires(Expiry::Never) => f.write_str("set to expire never")?,
            What::Rebound => f.write_str("bound to another token")?,
        }
        f.write_str(match (self.carried, self.what) {
            (true, What::Rebound) => " since the backup; disabled here",
            (true, _) => " since the backup; carried over",
            (false, _) => " since the backup; lost",
        })
    }
}

/// Compares with the store that is attached as `present`; tells also the last revision up to
/// which both have made the same changes.
pub async fn all(copy: &mut SqliteConnection) -> Result<(Revision, Vec<Difference>), Failed> {
    let fork: Option<i64> = query_scalar(
        "SELECT max(a.revision) FROM main.log a JOIN present.log b \
         ON a.revision = b.revision AND a.mark = b.mark",
    )
    .fetch_one(&mut *copy)
    .await?;
    let fork = Revision(fork.unwrap_or(0).cast_unsigned());
    let mut found = credentials(copy, fork).await?;
    found.extend(tenants(copy, fork).await?);
    Ok((fork, found))
}

async fn credentials(
    copy: &mut SqliteConnection,
    fork: Revision,
) -> Result<Vec<Difference>, Failed> {
    let changed = query(
        "SELECT a.tenant, a.id, a.revision, a.expires AS expired, a.status AS was, b.status, \
         b.expires, b.successor, b.mirrored, a.digest IS NOT b.digest AS rebound \
         FROM main.credentials a LEFT JOIN present.credentials b USING (tenant, id) \
         WHERE a.digest IS NOT NULL AND (b.status IS NOT a.status \
         OR b.expires IS NOT a.expires OR b.digest IS NOT a.digest \
         OR b.mirrored LIKE '%_pending') ORDER BY a.tenant, a.id",
    )
    .fetch_all(&mut *copy)
    .await?;
    let came = query(
        "SELECT b.tenant, b.id FROM present.credentials b \
         LEFT JOIN main.credentials a USING (tenant, id) WHERE a.id IS NULL \
         ORDER BY b.tenant, b.id",
    )
    .fetch_all(copy)
    .await?;
    let mut found = Vec::new();
    for row in &changed {
        for (what, carried) in of_credential(row, fork)? {
            found.push(difference(row, what, carried)?);
        }
    }
    for row in &came {
        found.push(difference(row, What::Came, false)?);
    }
    Ok(found)
}

/// What is disabled, ends earlier or is gone is carried over. One that is not there has gone only
/// if it was there once: at the fork.
fn of_credential(row: &SqliteRow, fork: Revision) -> Result<Vec<(What, bool)>, Failed> {
    let Some(status) = status(row, "status")? else {
        return Ok(vec![gone(revision(row)? <= fork)]);
    };
    let mut found = Vec::new();
    if row.try_get("rebound")? {
        found.push((What::Rebound, true));
    }
    let mirrored: Option<&str> = row.try_get("mirrored")?;
    let is_pending = mirrored.is_some_and(|text| text.ends_with("_pending"));
    if status != self::status(row, "was")?.unwrap_or(Status::Disabled) || is_pending {
        found.push((What::Switched(status), status == Status::Disabled));
    }
    let (had, has): (Option<i64>, Option<i64>) = (row.try_get("expired")?, row.try_get("expires")?);
    if had != has {
        let earlier = has.is_some_and(|has| had.is_none_or(|had| has < had));
        let expiry = has.map_or(Expiry::Never, |end| Expiry::At(Timestamp::from_millis(end)));
        found.push((What::Expires(expiry), earlier));
    }
    Ok(found)
}

async fn tenants(copy: &mut SqliteConnection, fork: Revision) -> Result<Vec<Difference>, Failed> {
    let changed = query(
        "SELECT a.tenant, NULL AS id, a.revision, b.synchronization AS status, \
         EXISTS (SELECT 1 FROM main.credentials c WHERE c.tenant = a.tenant \
         AND c.revision > ?) AS in_use \
         FROM main.tenants a LEFT JOIN present.tenants b USING (tenant) \
         WHERE b.synchronization IS NOT a.synchronization ORDER BY a.tenant",
    )
    .bind(fork.0.cast_signed())
    .fetch_all(&mut *copy)
    .await?;
    let came = query(
        "SELECT b.tenant, NULL AS id FROM present.tenants b \
         LEFT JOIN main.tenants a USING (tenant) WHERE a.tenant IS NULL ORDER BY b.tenant",
    )
    .fetch_all(copy)
    .await?;
    let mut found = Vec::new();
    for row in &changed {
        let (what, carried) = match status(row, "status")? {
            Some(status) => (What::Switched(status), status == Status::Disabled),
            None => gone(revision(row)? <= fork && !row.try_get("in_use")?),
        };
        found.push(difference(row, what, carried)?);
    }
    for row in &came {
        found.push(difference(row, What::Came, false)?);
    }
    Ok(found)
}

fn gone(was_there: bool) -> (What, bool) {
    if was_there { (What::Went, true) } else { (What::Absent, false) }
}

fn difference(row: &SqliteRow, what: What, carried: bool) -> Result<Difference, Failed> {
    let unreadable = |_| Failed("the store holds an id that cannot be read".to_owned());
    let credential: Option<&str> = row.try_get("id")?;
    // Only what is about a credential that both have has one.
    let successor: Option<&str> = row.try_get("successor").unwrap_or_default();
    Ok(Difference {
        tenant: TenantId::parse(row.try_get("tenant")?).map_err(unreadable)?,
        credential: credential.map(CredentialId::parse).transpose().map_err(unreadable)?,
        what,
        successor: successor.map(CredentialId::parse).transpose().map_err(unreadable)?,
        carried,
    })
}

fn status(row: &SqliteRow, column: &str) -> Result<Option<Status>, Failed> {
    let text: Option<&str> = row.try_get(column)?;
    let status = text.map(str::parse).transpose();
    status.map_err(|_| Failed("the store holds a status that cannot be read".to_owned()))
}

fn revision(row: &SqliteRow) -> Result<Revision, Failed> {
    Ok(Revision(row.try_get::<i64, _>("revision")?.cast_unsigned()))
}

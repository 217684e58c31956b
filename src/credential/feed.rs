//! What an admin API tells those who follow it: numbered changes, and where among them one stands.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, rand};

use crate::clock::Timestamp;

use super::{Credential, CredentialId, Malformed, Revision, Status, TenantId};

/// One life of a store, named at random. A restored store, and one whose state an operator has
/// accepted, begin a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct History(Arc<str>);

impl History {
    pub fn random() -> Self {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).expect("the system's random source works");
        Self(hex::encode(bytes).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for History {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let fits =
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits { Ok(Self(text.into())) } else { Err(Malformed) }
    }
}

/// The end of a hash chain over all changes of a store. Two stores that were one and have lost or
/// gained changes apart have the same numbers with other marks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mark([u8; 8]);

impl Mark {
    /// The mark after one more change.
    pub fn then(self, revision: Revision, change: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        context.update(&revision.0.to_be_bytes());
        context.update(change);
        Self(*context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mark {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Malformed)?;
        Ok(Self(bytes))
    }
}

/// A place in a store's changes: all up to this one, and which ones they were. Written as
/// `HISTORY:REVISION:MARK`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub history: History,
    pub revision: Revision,
    pub mark: Mark,
}

impl Position {
    /// Before the first change of a history.
    pub fn start(history: History) -> Self {
        Self { history, revision: Revision(0), mark: Mark::default() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.history, self.revision.0, self.mark)
    }
}

impl FromStr for Position {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or(Malformed);
        let history = next()?.parse()?;
        let revision = Revision(next()?.parse().map_err(|_| Malformed)?);
        Ok(Self { history, revision, mark: next()?.parse()? })
    }
}

/// A credential as of its latest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub credential: Arc<Credential>,
    pub revision: Revision,
}

impl Row {
    pub fn key(&self) -> PageKey {
        (self.credential.tenant.clone(), self.credential.id.clone())
    }
}

/// A tenant as of its latest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    pub tenant: TenantId,
    /// The switch that stops all of a tenant's provisioning.
    pub synchronization: Status,
    pub revision: Revision,
}

/// One numbered change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Credential(Row),
    CredentialDeleted { tenant: TenantId, id: CredentialId, revision: Revision },
    Tenant(TenantRow),
    TenantDeleted { tenant: TenantId, revision: Revision },
}

impl Change {
    pub fn revision(&self) -> Revision {
        match self {
            Self::Credential(row) => row.revision,
            Self::Tenant(row) => row.revision,
            Self::CredentialDeleted { revision, .. } | Self::TenantDeleted { revision, .. } => {
                *revision
            }
        }
    }

    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Credential(row) => &row.credential.tenant,
            Self::Tenant(row) => &row.tenant,
            Self::CredentialDeleted { tenant, .. } | Self::TenantDeleted { tenant, .. } => tenant,
        }
    }
}

/// Where a store stands, and what became of its past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub position: Position,
    /// Somebody has seen a later state of this store than it has itself. Until an operator accepts
    /// the present one, nothing is loosened by it.
    pub disputed: bool,
    /// Histories that were ended by an operator: whoever holds one of them may list anew.
    pub accepts: Vec<History>,
    /// When the history began.
    pub began: Timestamp,
}

/// Some of a table. The first page names the position from which to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub head: Head,
    pub rows: Vec<Row>,
    /// All tenants; on the first page only.
    pub tenants: Vec<TenantRow>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<PageKey>,
}

/// The last row of a page.
pub type PageKey = (TenantId, CredentialId);

/// Changes in order and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Those asked for, up to `position`; others in between were left out as asked.
    pub changes: Vec<Change>,
    pub position: Position,
    pub head: Head,
}

/// Why changes after a position cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// They were, and their texts are thrown away: list again.
    Compacted,
    /// The store has never been there: it lost changes, or is another one.
    Unknown,
}

/// A credential's latest use, to the minute.
pub type Use = (PageKey, Timestamp);

/// What a replica tells of itself. It is a lease: the admin API counts on the replica until it
/// says goodbye, or must have stopped accepting by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A label, such as the host's name.
    pub name: String,
    /// What it has applied; none before its first table.
    pub applied: Option<Position>,
    /// The longest that it accepts on an unconfirmed table.
    pub max_stale: Duration,
    /// Where the store was when what is held was last compared with it, or brought to it.
    pub compared: Option<Position>,
    /// What would be accepted again if the present state were accepted; told by replicas that
    /// hold a later one once they have compared, and not all of it if it is much.
    pub would_revive: Vec<PageKey>,
    /// Uses since the last report.
    pub used: Vec<Use>,
}

/// The longest between two reports of a replica whose reports are answered.
pub const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The answer to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub head: Head,
    /// Tenants that are a cloud's first. What the head says of them is as old as these tell.
    pub lags: Vec<Lag>,
}

/// How far a mirrored tenant is behind its cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    pub tenant: TenantId,
    /// Since the beginning of the last whole read of the cloud; none before the first.
    pub age: Option<Duration>,
    /// Between two reads.
    pub interval: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let mark = Mark::default().then(Revision(1), b"change");
        let position = Position { history: History::random(), revision: Revision(7), mark };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "a", "a:1", "a:1:00", "a:x:0000000000000000", "-:1:0000000000000000"] {
            assert_eq!(bad.parse::<Position>(), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn a_mark_tells_other_changes_numbers_and_orders_apart() {
        let first = Mark::default().then(Revision(1), b"a");
        assert_ne!(first, Mark::default().then(Revision(1), b"b"));
        assert_ne!(first, Mark::default().then(Revision(2), b"a"));
        assert_ne!(first.then(Revision(2), b"b"), Mark::default().then(Revision(2), b"b"));
    }
}

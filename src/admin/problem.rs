//! Why something was not done, whichever dialect has asked.

use std::time::Duration;

use super::Caller;
use crate::config::Role;
use crate::credential::feed::{Gone, PageKey};
use crate::credential::{CredentialId, Revision, TenantId};
use crate::store::{Denied, Failed, Provider, Record, WriteError};

/// Why something was not done, to be told in the words of a dialect.
#[derive(Debug)]
pub enum Problem {
    Unauthenticated,
    /// Too many failed logins from there.
    LoginsLimited {
        retry_after: Duration,
    },
    RoleInsufficient {
        role: Role,
        needed: Role,
    },
    Invalid {
        field: &'static str,
        what: String,
    },
    TenantUnknown(TenantId),
    TenantInUse,
    TenantConfigured,
    CredentialUnknown(CredentialId),
    RevisionUnknown {
        head: Revision,
    },
    /// By a credential that is named if the caller may know of it.
    DigestTaken(Option<PageKey>),
    LimitReached(Vec<Record>),
    Rotated(CredentialId),
    /// The tenant is a cloud's: what it lacks there cannot be made here.
    OwnedByCloud(Provider),
    /// Its cloud did not do it.
    CloudUnavailable {
        what: String,
        retry_after: Option<Duration>,
    },
    /// Its cloud may have made a credential whose token nobody will ever know: one of these.
    CloudUncertain {
        what: String,
        candidates: Vec<Record>,
    },
    /// There are too many replicas for one more.
    ReplicasLimited,
    /// Changes after a position are not to be had; list again.
    Gone(Gone),
    /// There is no room for anything but what takes rights away.
    StoreFull,
    StoreFailed(String),
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        Self::StoreFailed(failed.0)
    }
}

impl Problem {
    pub(super) fn of(error: WriteError, tenant: &TenantId, id: Option<CredentialId>) -> Self {
        let denied = match error {
            WriteError::Denied(denied) => denied,
            WriteError::Full => return Self::StoreFull,
            WriteError::Failed(failed) => return failed.into(),
        };
        match (denied, id) {
            (Denied::CredentialUnknown, Some(id)) => Self::CredentialUnknown(id),
            (Denied::TenantUnknown | Denied::CredentialUnknown, _) => {
                Self::TenantUnknown(tenant.clone())
            }
            (Denied::TenantInUse, _) => Self::TenantInUse,
            (Denied::DigestTaken(owner), _) => Self::DigestTaken(Some(owner)),
            (Denied::LimitReached(records), _) => Self::LimitReached(records),
            (Denied::Rotated(successor), _) => Self::Rotated(successor),
        }
    }

    /// Without what is not the caller's to know.
    pub(super) fn seen_by(self, caller: &Caller) -> Self {
        match self {
            Self::DigestTaken(owner) => {
                Self::DigestTaken(owner.filter(|(tenant, _)| caller.member.sees(tenant)))
            }
            other => other,
        }
    }
}

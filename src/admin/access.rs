//! Who asks, and what each role may.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Member, Problem};
use crate::clock::Timestamp;
use crate::config::Role;
use crate::credential::TenantId;

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub struct Caller {
    pub member: Arc<Member>,
    /// When the certificate ends by which it was let in.
    pub certificate_end: Option<Timestamp>,
    pub peer: String,
    pub request_id: String,
}

impl Caller {
    pub(super) fn new(member: Arc<Member>, peer: IpAddr, request_id: String) -> Self {
        let peer = peer.to_canonical().to_string();
        Self { member, certificate_end: None, peer, request_id }
    }

    pub(super) fn may(&self, right: Right) -> Result<(), Problem> {
        let granted = match self.member.role {
            Role::Operator => true,
            Role::Responder => matches!(right, Right::See | Right::Disable),
            Role::Reader => matches!(right, Right::See | Right::Follow),
            Role::Replica => matches!(right, Right::Follow | Right::Report),
        };
        if granted {
            Ok(())
        } else {
            Err(Problem::RoleInsufficient { role: self.member.role, needed: right.role() })
        }
    }

    /// A tenant that is not the caller's is as good as none.
    pub(super) fn may_in(&self, right: Right, tenant: &TenantId) -> Result<(), Problem> {
        self.may(right)?;
        if self.member.sees(tenant) { Ok(()) } else { Err(Problem::TenantUnknown(tenant.clone())) }
    }

    /// The lease of an instance, which belongs to the member that has reported it: no other one speaks
    /// for it.
    pub(super) fn lease(&self, instance: &str) -> String {
        format!("{}:{instance}", self.member.name)
    }

    /// Whether it may see digests.
    pub fn sees_digests(&self) -> bool {
        self.member.role == Role::Replica
    }
}

/// What a role may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    See,
    Disable,
    Change,
    Follow,
    Report,
}

impl Right {
    /// The least role that has it.
    fn role(self) -> Role {
        match self {
            Self::See => Role::Reader,
            Self::Disable => Role::Responder,
            Self::Change => Role::Operator,
            Self::Follow | Self::Report => Role::Replica,
        }
    }
}

//! What those who follow the table are told, and what they tell.

use std::time::Duration;

use super::access::Right;
use super::{Caller, Problem, Service};
use crate::credential::feed::{Changes, Head, Heard, Page, PageKey, Position, Report};
use crate::credential::{Revision, TenantId, TokenDigest};
use crate::store::replicas::{Future, Receipt, ReplicaState};
use crate::store::{AuditEntry, Record};

impl Service {
    /// A page of the table. Each full read is audited: it is what a thief would take.
    pub async fn page(
        &self,
        caller: &Caller,
        after: Option<&PageKey>,
        tenant: Option<&TenantId>,
        rows: usize,
    ) -> Result<Page, Problem> {
        let scope = self.scope(caller, tenant)?;
        if after.is_none() {
            let entry =
                AuditEntry { tenant: tenant.cloned(), ..self.entry_of(caller, "table.read") };
            self.note(entry).await;
        }
        Ok(self.store.page(after, scope.as_deref(), rows).await?)
    }

    pub async fn changes(
        &self,
        caller: &Caller,
        after: &Position,
        tenant: Option<&TenantId>,
        most: usize,
    ) -> Result<Changes, Problem> {
        let scope = self.scope(caller, tenant)?;
        self.store.changes(after, scope.as_deref(), most).await?.map_err(Problem::Gone)
    }

    /// The row of a digest, if the caller may know of it.
    pub async fn lookup(
        &self,
        caller: &Caller,
        digest: &TokenDigest,
    ) -> Result<(Head, Option<Record>), Problem> {
        caller.may(Right::Follow)?;
        let (head, record) = self.store.lookup(digest).await?;
        let record = record.filter(|record| caller.member.sees(&record.credential.tenant));
        Ok((head, record))
    }

    pub async fn report(
        &self,
        caller: &Caller,
        instance: &str,
        mut report: Report,
    ) -> Result<Heard, Problem> {
        caller.may(Right::Report)?;
        let fits = (1..=64).contains(&instance.len())
            && instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !fits {
            let what = "must be 1 to 64 of A-Z a-z 0-9 -".to_owned();
            return Err(Problem::Invalid { field: "instance", what });
        }
        report.used.retain(|((tenant, _), _)| caller.member.sees(tenant));
        report.would_revive.retain(|(tenant, _)| caller.member.sees(tenant));
        report.would_revive.truncate(REVIVED_MAX);
        let (instance, now) = (caller.lease(instance), self.clock.now());
        if !self.replicas.has_room(&instance, &now).await? {
            return Err(Problem::ReplicasLimited);
        }
        let mut heard = self.replicas.report(&instance, report, &now).await?;
        heard.lags.retain(|lag| caller.member.sees(&lag.tenant));
        Ok(heard)
    }

    pub async fn deregister(&self, caller: &Caller, instance: &str) -> Result<(), Problem> {
        caller.may(Right::Report)?;
        Ok(self.replicas.remove(&caller.lease(instance)).await?)
    }

    pub async fn replicas(&self, caller: &Caller) -> Result<Vec<ReplicaState>, Problem> {
        caller.may(Right::See)?;
        Ok(self.replicas.all(&self.clock.now()).await?)
    }

    pub async fn receipt(
        &self,
        caller: &Caller,
        revision: Revision,
        wait: Duration,
    ) -> Result<Receipt, Problem> {
        caller.may(Right::See)?;
        let receipt = self.replicas.receipt_within(revision, wait, || self.clock.now()).await?;
        match receipt {
            Ok(receipt) => Ok(receipt),
            Err(Future) => {
                let head = self.store.head().await?.position.revision;
                Err(Problem::RevisionUnknown { head })
            }
        }
    }

    /// The tenants that a follower is told of; all of them if none is named.
    fn scope(
        &self,
        caller: &Caller,
        tenant: Option<&TenantId>,
    ) -> Result<Option<Vec<TenantId>>, Problem> {
        match tenant {
            Some(tenant) => {
                caller.may_in(Right::Follow, tenant)?;
                Ok(Some(vec![tenant.clone()]))
            }
            None => {
                caller.may(Right::Follow)?;
                Ok(caller.member.tenants.clone())
            }
        }
    }
}

/// Keys that are kept of one replica: as many as it tells, and a person reads.
const REVIVED_MAX: usize = 100;

//! Tenants that are a cloud's: what is done to them goes through their mirrors.

use std::future::Future;
use std::sync::Arc;

use super::access::Right;
use super::mirror::{Mirror, Wish};
use super::{
    Caller, Changed, Created, Lifetime, NewToken, Patch, Problem, Secret, Service, rules, told,
};
use crate::credential::feed::PageKey;
use crate::credential::{Status, TenantId};
use crate::source::cloud::CloudSecret;
use crate::store::{Origin, Record, View};

impl Service {
    /// From now on the tenants of these are changed through them.
    pub fn mirror(&self, mirrors: &[Arc<Mirror>]) {
        let by_tenant = mirrors.iter().map(|it| (it.tenant().clone(), Arc::clone(it)));
        let set = self.mirrors.set(by_tenant.collect());
        assert!(set.is_ok(), "mirrors are made once");
    }

    pub(super) fn mirror_of(&self, tenant: &TenantId) -> Option<Arc<Mirror>> {
        self.mirrors.get()?.get(tenant).cloned()
    }

    /// Through which mirror a credential is changed. One of our own, made before its tenant was
    /// mirrored, stays ours.
    pub(super) async fn mirror_for(&self, key: &PageKey) -> Result<Option<Arc<Mirror>>, Problem> {
        let Some(mirror) = self.mirror_of(&key.0) else { return Ok(None) };
        let known = self.store.record(key).await?;
        let is_ours = known.is_some_and(|record| record.origin == Origin::Local);
        Ok((!is_ours).then_some(mirror))
    }

    /// The label is ours, the status the cloud's too.
    pub(super) async fn patch_mirrored(
        &self,
        mirror: &Arc<Mirror>,
        caller: &Caller,
        key: &PageKey,
        patch: Patch,
        action: &'static str,
    ) -> Result<Changed, Problem> {
        if let Some(status) = patch.status {
            let (mirror, id) = (Arc::clone(mirror), key.1.clone());
            let audit = self.entry(caller, action, &key.0, Some(&id));
            let changed = async move {
                match status {
                    Status::Disabled => mirror.disable(&id, audit).await,
                    Status::Enabled => mirror.enable(&id, audit).await,
                }
            };
            to_the_end(changed).await?;
        }
        let id = key.1.clone();
        if patch.label.is_some() {
            let label = Patch { status: None, ..patch.clone() };
            let decide = move |view: &View| rules::patch(view, &id, &label);
            self.change(caller, key, "credential.label", false, decide).await?;
        }
        let record = self.found(key).await?;
        Ok(Changed { revision: self.store.head().await?.position.revision, record })
    }

    /// Learns the token of a credential that is a cloud's.
    pub async fn enroll(
        &self,
        caller: &Caller,
        key: &PageKey,
        secret: Secret,
    ) -> Result<Changed, Problem> {
        let (tenant, id) = key;
        caller.may_in(Right::Change, tenant)?;
        self.declared(tenant).await?;
        let Some(mirror) = self.mirror_for(key).await? else {
            let what = "is of a credential that is ours: POST its tenant's credentials".to_owned();
            return Err(Problem::Invalid { field: "id", what });
        };
        let (digest, hint) = told(secret)?;
        let audit = self.entry(caller, "credential.enroll", tenant, Some(id));
        let (named, by) = (id.clone(), caller.member.name.clone());
        let enrolled =
            to_the_end(async move { mirror.enroll(&named, digest, hint, by, audit).await });
        enrolled.await.map_err(|problem| problem.seen_by(caller))?;
        let record = self.found(key).await?;
        Ok(Changed { revision: self.store.head().await?.position.revision, record })
    }

    pub(super) fn wish(
        &self,
        caller: &Caller,
        mirror: &Mirror,
        lifetime: Lifetime,
        label: &str,
    ) -> Result<Wish, Problem> {
        if lifetime != Lifetime::Default && mirror.fixed_lifetime().is_some() {
            let what = "cannot be chosen: the cloud gives each credential the same time".to_owned();
            return Err(Problem::Invalid { field: "expire_in", what });
        }
        let now = self.clock.now().wall;
        Ok(Wish {
            lifetime: self.end(lifetime, false, now)?.since(now),
            label: rules::checked_label(label)?.to_owned(),
            by: caller.member.name.clone(),
        })
    }
}

/// Goes on also when nobody waits for the answer any more: what was begun in a cloud is to be known
/// here.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let gone = |_| Problem::StoreFailed("the process is about to end".to_owned());
    tokio::spawn(work).await.map_err(gone)?
}

pub(super) async fn whole(
    work: impl Future<Output = Result<(Record, CloudSecret), Problem>> + Send + 'static,
) -> Result<Created, Problem> {
    let (record, secret) = to_the_end(work).await?;
    Ok(Created { record, secret: Some(NewToken::Cloud(secret)) })
}

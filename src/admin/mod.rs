//! The embedded admin API: one service, whichever dialect asks. It knows who may do what, what a
//! credential must look like, and leaves the keeping to the store.

mod access;
pub mod alibaba;
pub mod face;
mod followers;
pub mod keys;
pub mod members;
pub mod mirror;
mod mirrored;
pub mod native;
mod problem;
pub(crate) mod rules;
mod signed;
pub mod tencent;
#[cfg(test)]
mod testing;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Now, Timestamp, Uptime};
use crate::config::{AdminLimits, Role};
use crate::credential::feed::{Head, PageKey, TenantRow};
use crate::credential::token::{self, MintedToken};
use crate::credential::{
    Credential, CredentialId, Expiry, Revision, Status, TenantId, TokenDigest,
};
use crate::server::ClientCertificate;
use crate::source::cloud::CloudSecret;
use crate::store::replicas::{ReplicaState, Replicas};
use crate::store::{
    AuditEntry, AuditRow, Denied, Edit, Failed, Filter, Nonce, Order, Origin, Record, Records,
    Store, View, Written,
};
use crate::telemetry::metrics::Metrics;
pub use access::Caller;
use access::Right;
pub use keys::AccessKeys;
pub use members::{Member, Members, Rejected};
use mirror::Mirror;
use mirrored::{to_the_end, whole};
pub use problem::Problem;
pub use rules::Overlap;

/// The service under all dialects.
pub struct Service {
    store: Arc<dyn Store>,
    replicas: Arc<Replicas>,
    members: Arc<Members>,
    keys: AccessKeys,
    limits: ArcSwap<AdminLimits>,
    /// Tenants that the config names: they cannot be deleted.
    configured: ArcSwap<HashSet<TenantId>>,
    /// Tenants that are a cloud's.
    mirrors: OnceLock<HashMap<TenantId, Arc<Mirror>>>,
    /// When the present minute of failed logins began, and how many of it were audited.
    failures: Mutex<(Uptime, u32)>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// When a new credential shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the config says.
    Default,
    In(Duration),
    At(Timestamp),
}

/// The token of a new credential.
pub enum Secret {
    /// To be made, and shown once.
    Mint,
    /// One that somebody has already.
    Known(String),
    Digest(TokenDigest),
}

/// What was made.
pub struct Created {
    pub record: Record,
    /// The token, if it was made for this.
    pub secret: Option<NewToken>,
}

/// A token that nobody has seen yet.
pub enum NewToken {
    Ours(MintedToken),
    Cloud(CloudSecret),
}

impl NewToken {
    /// To be shown once.
    pub fn reveal(&self) -> &str {
        match self {
            Self::Ours(token) => token.reveal(),
            Self::Cloud(secret) => secret.reveal(),
        }
    }
}

/// A change that was made, or was so already.
pub struct Changed {
    pub record: Record,
    /// The store's revision as of it.
    pub revision: Revision,
}

/// What an operator is shown before a new history begins.
pub struct Dispute {
    pub head: Head,
    /// Credentials that replicas refuse and this store says are good.
    pub would_revive: Vec<PageKey>,
    pub replicas: Vec<ReplicaState>,
    /// When this process began to listen.
    pub listening_since: Timestamp,
    /// Until when replicas that it has not heard may tell what they hold.
    pub compares_by: Option<Timestamp>,
}

/// What a credential is to be from now on; what is not named stays.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    pub status: Option<Status>,
    pub label: Option<String>,
}

impl Service {
    pub fn new(
        store: Arc<dyn Store>,
        replicas: Arc<Replicas>,
        members: Arc<Members>,
        limits: AdminLimits,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (limits, configured) = (ArcSwap::from_pointee(limits), ArcSwap::default());
        let failures = Mutex::new((clock.now().boot, 0));
        let keys = AccessKeys::default();
        let mirrors = OnceLock::new();
        Self {
            store,
            replicas,
            members,
            keys,
            limits,
            configured,
            mirrors,
            failures,
            clock,
            metrics,
        }
    }

    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    pub fn keys(&self) -> &AccessKeys {
        &self.keys
    }

    pub fn limits(&self) -> Arc<AdminLimits> {
        self.limits.load_full()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Declares the tenants that are new.
    pub async fn declare(&self, tenants: &HashSet<TenantId>) -> Result<(), Failed> {
        let known: HashSet<_> =
            self.store.tenants().await?.into_iter().map(|row| row.tenant).collect();
        for tenant in tenants.difference(&known) {
            let audit = self.own_entry("tenant.declare", Some(tenant.clone()));
            let decide = Box::new(rules::declare);
            match self.write(tenant, None, false, audit, decide).await {
                Ok(_) => {}
                Err(Problem::StoreFailed(what)) => return Err(Failed(what)),
                Err(problem) => return Err(Failed(format!("tenant {tenant}: {problem:?}"))),
            }
        }
        Ok(())
    }

    /// Takes over limits and tenants of a config; the tenants are declared.
    pub fn configure(&self, limits: &AdminLimits, tenants: HashSet<TenantId>) {
        self.limits.store(Arc::new(limits.clone()));
        self.configured.store(Arc::new(tenants));
    }

    /// Whose token it is. A failed login is audited, as far as strangers may make us write.
    pub async fn authenticate(
        &self,
        token: &[u8],
        peer: IpAddr,
        request_id: String,
    ) -> Result<Caller, Problem> {
        let now = self.clock.now();
        match self.members.authenticate(token, peer, &now) {
            Ok(member) => Ok(Caller::new(member, peer, request_id)),
            Err(rejected) => Err(self.rejected(rejected, peer, request_id, &now).await),
        }
    }

    /// Counts and audits the failed login of one who has signed a request.
    pub async fn login_failed(&self, peer: IpAddr, request_id: String) -> Problem {
        let now = self.clock.now();
        self.rejected(self.members.failed(peer, &now), peer, request_id, &now).await
    }

    async fn rejected(
        &self,
        rejected: Rejected,
        peer: IpAddr,
        request_id: String,
        now: &Now,
    ) -> Problem {
        if let Rejected::Limited { retry_after } = rejected {
            return Problem::LoginsLimited { retry_after };
        }
        if self.is_to_be_audited(now) {
            let entry = AuditEntry {
                actor: "-".to_owned(),
                peer: peer.to_canonical().to_string(),
                request_id,
                ..self.own_entry("login.fail", None)
            };
            self.note(entry).await;
        }
        Problem::Unauthenticated
    }

    /// For whom the certificate of a connection stands, if it is named and has not ended since.
    pub fn recognize(
        &self,
        certificate: &ClientCertificate,
        peer: IpAddr,
        request_id: String,
    ) -> Option<Caller> {
        let member = self.members.holder(certificate)?;
        let caller = Caller::new(member, peer, request_id);
        let caller = Caller { certificate_end: certificate.end, ..caller };
        self.members.holds(&caller, &self.clock.now()).then_some(caller)
    }

    /// Whether a signed request is the first with its nonce, which counts for its key. It is known
    /// for longer than a request of that time is taken. On a full disk only the nonces of those who
    /// take rights away, and may, are still kept.
    pub async fn is_fresh(
        &self,
        caller: &Caller,
        nonce: &str,
        time: Timestamp,
        restricts: bool,
    ) -> Result<bool, Problem> {
        let restricts = restricts && caller.may(Right::Disable).is_ok();
        let nonce = Nonce::of(format!("{}\n{nonce}", caller.member.name).as_bytes());
        Ok(self.store.take_nonce(&nonce, time.plus(NONCES_KEPT), restricts).await?)
    }

    fn is_to_be_audited(&self, now: &Now) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if now.boot.since(failures.0) >= FAILURES_TIME {
            *failures = (now.boot, 0);
        }
        failures.1 += 1;
        failures.1 <= FAILURES_AUDITED
    }

    // Credentials.

    /// Makes a credential; one that is made disabled has never been good.
    pub async fn create(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        lifetime: Lifetime,
        label: &str,
        secret: Secret,
        status: Status,
    ) -> Result<Created, Problem> {
        caller.may_in(Right::Change, tenant)?;
        if let Some(mirror) = self.mirror_of(tenant) {
            if !matches!(secret, Secret::Mint) || status == Status::Disabled {
                return Err(Problem::OwnedByCloud(mirror.provider()));
            }
            let wish = self.wish(caller, &mirror, lifetime, label)?;
            let audit = self.entry(caller, "credential.create", tenant, None);
            return whole(async move { mirror.create(&wish, audit).await }).await;
        }
        let (mut record, minted) = self.new_record(caller, tenant, lifetime, label, secret)?;
        record.credential.status = status;
        let action = if minted.is_some() { "credential.create" } else { "credential.enroll" };
        let audit = self.entry(caller, action, tenant, Some(&record.credential.id));
        let most = self.limits.load().credentials_per_tenant;
        let (digest, new) = (record.credential.digest, record.clone());
        let decide = Box::new(move |view: &View| rules::create(view, &new, most));
        let written = self.write(tenant, Some(digest), false, audit, decide).await;
        let written = written.map_err(|problem| problem.seen_by(caller))?;
        let record = Record { revision: written.head.position.revision, ..record };
        Ok(Created { record, secret: minted.map(NewToken::Ours) })
    }

    pub async fn rotate(
        &self,
        caller: &Caller,
        key: &PageKey,
        overlap: Overlap,
        lifetime: Lifetime,
    ) -> Result<Created, Problem> {
        let (tenant, id) = key;
        caller.may_in(Right::Change, tenant)?;
        let label = self.record(caller, key).await?.label;
        if let Some(mirror) = self.mirror_for(key).await? {
            let wish = self.wish(caller, &mirror, lifetime, &label)?;
            let audit = self.entry(caller, "credential.rotate", tenant, Some(id));
            let id = id.clone();
            return whole(async move { mirror.rotate(&id, overlap, &wish, audit).await }).await;
        }
        if let Some(mirror) = self.mirror_of(tenant) {
            return Err(Problem::OwnedByCloud(mirror.provider()));
        }
        let (record, secret) = self.new_record(caller, tenant, lifetime, &label, Secret::Mint)?;
        let leaked = if overlap == Overlap::Leaked { ", leaked" } else { "" };
        let audit = AuditEntry {
            detail: format!("replaced by {}{leaked}", record.credential.id),
            ..self.entry(caller, "credential.rotate", tenant, Some(id))
        };
        let most = self.limits.load().credentials_per_tenant;
        let now = self.clock.now().wall;
        let (old, new, digest) = (id.clone(), record.clone(), record.credential.digest);
        let decide =
            Box::new(move |view: &View| rules::rotate(view, &old, &new, overlap, most, now));
        let written = self.write(tenant, Some(digest), false, audit, decide).await?;
        let record = Record { revision: written.head.position.revision, ..record };
        Ok(Created { record, secret: secret.map(NewToken::Ours) })
    }

    /// Changes status and label, together if both are named and it is ours.
    pub async fn patch(
        &self,
        caller: &Caller,
        key: &PageKey,
        patch: Patch,
    ) -> Result<Changed, Problem> {
        let restricts = patch.status == Some(Status::Disabled);
        let right = if restricts && patch.label.is_none() { Right::Disable } else { Right::Change };
        caller.may_in(right, &key.0)?;
        if let Some(label) = &patch.label {
            rules::checked_label(label)?;
        }
        let action = match patch.status {
            Some(Status::Disabled) => "credential.disable",
            Some(Status::Enabled) => "credential.enable",
            None => "credential.label",
        };
        let id = key.1.clone();
        if let Some(mirror) = self.mirror_for(key).await? {
            return self.patch_mirrored(&mirror, caller, key, patch, action).await;
        }
        let decide = move |view: &View| rules::patch(view, &id, &patch);
        self.change(caller, key, action, restricts, decide).await
    }

    pub async fn delete(&self, caller: &Caller, key: &PageKey) -> Result<Revision, Problem> {
        let (tenant, id) = key;
        caller.may_in(Right::Change, tenant)?;
        let audit = self.entry(caller, "credential.delete", tenant, Some(id));
        if let Some(mirror) = self.mirror_for(key).await? {
            let id = id.clone();
            to_the_end(async move { mirror.delete(&id, audit).await }).await?;
            return Ok(self.store.head().await?.position.revision);
        }
        let gone = id.clone();
        let decide = Box::new(move |view: &View| rules::delete(view, &gone));
        let written = self.write(tenant, None, true, audit, decide).await?;
        Ok(written.head.position.revision)
    }

    pub async fn record(&self, caller: &Caller, key: &PageKey) -> Result<Record, Problem> {
        caller.may_in(Right::See, &key.0)?;
        self.declared(&key.0).await?;
        self.found(key).await
    }

    async fn found(&self, key: &PageKey) -> Result<Record, Problem> {
        let record = match self.mirror_of(&key.0) {
            Some(mirror) => mirror.record(&key.1).await?,
            None => self.store.record(key).await?,
        };
        record.ok_or_else(|| Problem::CredentialUnknown(key.1.clone()))
    }

    pub async fn records(&self, caller: &Caller, filter: &Filter) -> Result<Records, Problem> {
        caller.may_in(Right::See, &filter.tenant)?;
        self.declared(&filter.tenant).await?;
        match self.mirror_of(&filter.tenant) {
            Some(mirror) => Ok(filter.of(mirror.all().await?)),
            None => Ok(self.store.records(filter).await?),
        }
    }

    // Tenants.

    pub async fn tenants(&self, caller: &Caller) -> Result<Vec<TenantRow>, Problem> {
        caller.may(Right::See)?;
        let mut tenants = self.store.tenants().await?;
        tenants.retain(|row| caller.member.sees(&row.tenant));
        Ok(tenants)
    }

    pub async fn tenant(&self, caller: &Caller, tenant: &TenantId) -> Result<TenantRow, Problem> {
        caller.may_in(Right::See, tenant)?;
        self.declared(tenant).await
    }

    /// Declares a tenant; whether it is new.
    pub async fn put_tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
    ) -> Result<(TenantRow, bool), Problem> {
        caller.may_in(Right::Change, tenant)?;
        let audit = self.entry(caller, "tenant.declare", tenant, None);
        self.change_tenant(tenant, false, audit, rules::declare).await
    }

    pub async fn delete_tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
    ) -> Result<Revision, Problem> {
        caller.may_in(Right::Change, tenant)?;
        if self.configured.load().contains(tenant) {
            return Err(Problem::TenantConfigured);
        }
        let audit = self.entry(caller, "tenant.delete", tenant, None);
        let decide = Box::new(rules::delete_tenant);
        let written = self.write(tenant, None, true, audit, decide).await?;
        Ok(written.head.position.revision)
    }

    pub async fn set_synchronization(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        status: Status,
    ) -> Result<Revision, Problem> {
        caller.may_in(Right::Change, tenant)?;
        let audit = AuditEntry {
            detail: status.as_str().to_owned(),
            ..self.entry(caller, "tenant.synchronization", tenant, None)
        };
        let restricts = status == Status::Disabled;
        let rule = move |view: &View| rules::set_synchronization(view, status);
        let (row, _) = self.change_tenant(tenant, restricts, audit, rule).await?;
        Ok(row.revision)
    }

    // The store as a whole.

    pub async fn dispute(&self, caller: &Caller) -> Result<Dispute, Problem> {
        caller.may(Right::See)?;
        let head = self.store.head().await?;
        let now = self.clock.now();
        let replicas = self.replicas.all(&now).await?;
        let mut would_revive: Vec<_> =
            replicas.iter().flat_map(|replica| replica.would_revive.iter().cloned()).collect();
        would_revive.retain(|(tenant, _)| caller.member.sees(tenant));
        would_revive.sort();
        would_revive.dedup();
        let (listening_since, compares_by) =
            (self.replicas.since.wall, self.replicas.compares_by(&now));
        Ok(Dispute { head, would_revive, replicas, listening_since, compares_by })
    }

    pub async fn accept(&self, caller: &Caller) -> Result<Head, Problem> {
        caller.may(Right::Change)?;
        self.everywhere(caller)?;
        Ok(self.store.accept(self.entry_of(caller, "history.accept")).await?)
    }

    pub async fn backup(&self, caller: &Caller, to: &std::path::Path) -> Result<Head, Problem> {
        caller.may(Right::Change)?;
        self.everywhere(caller)?;
        let entry = AuditEntry {
            detail: to.display().to_string(),
            ..self.entry_of(caller, "store.backup")
        };
        self.note(entry).await;
        Ok(self.store.backup(to).await?)
    }

    /// Audits what changes nothing. A disk without room must keep nobody from the table or from a
    /// backup, so it is done all the same, and told elsewhere.
    async fn note(&self, entry: AuditEntry) {
        let (action, actor, peer) = (entry.action, entry.actor.clone(), entry.peer.clone());
        if let Err(failed) = self.store.append_audit(entry).await {
            self.metrics.audit_write_failures.inc();
            tracing::error!(action, actor, peer, "this could not be audited: {failed}");
        }
    }

    /// Entries after a number, and the number after which there are more.
    pub async fn audit(
        &self,
        caller: &Caller,
        after: u64,
        rows: usize,
    ) -> Result<(Vec<AuditRow>, Option<u64>), Problem> {
        caller.may(Right::See)?;
        let mut found = self.store.audit(after, rows + 1).await?;
        let more = found.len() > rows;
        found.truncate(rows);
        let next = found.last().filter(|_| more).map(|row| row.number);
        found.retain(|row| {
            caller.member.tenants.is_none() || {
                row.tenant.as_ref().is_some_and(|tenant| caller.member.sees(tenant))
            }
        });
        Ok((found, next))
    }

    /// Work for about once a minute. What fails of it keeps nothing else from being done.
    pub async fn tidy(&self) -> Result<(), Failed> {
        let now = self.clock.now();
        // A clock that jumps ahead for a moment makes nothing forgotten.
        let sure = now.wall.min(now.ratchet);
        let kept = Timestamp::from_millis(sure.as_millis() - LOG_KEPT.as_millis() as i64);
        let swept = self.replicas.sweep(&now).await;
        let forgotten = self.store.forget_nonces(sure).await;
        let compacted = self.store.compact(kept).await;
        swept.and(forgotten).and(compacted)
    }

    // What these lean on.

    fn new_record(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        lifetime: Lifetime,
        label: &str,
        secret: Secret,
    ) -> Result<(Record, Option<MintedToken>), Problem> {
        let now = self.clock.now().wall;
        let enrolled = !matches!(secret, Secret::Mint);
        let end = self.end(lifetime, enrolled, now)?;
        let (digest, hint, minted) = match secret {
            Secret::Mint => {
                let token = MintedToken::mint();
                (token.digest(), Some(token::hint(token.reveal())), Some(token))
            }
            known => {
                let (digest, hint) = told(known)?;
                (digest, hint, None)
            }
        };
        let credential = Credential {
            id: CredentialId::random(),
            tenant: tenant.clone(),
            digest,
            status: Status::Enabled,
            expiry: Expiry::At(end),
        };
        let record = Record {
            credential,
            revision: Revision(0),
            create_time: now,
            label: rules::checked_label(label)?.to_owned(),
            hint,
            origin: Origin::Local,
            created_by: caller.member.name.clone(),
            enrolled,
            last_used: None,
            successor: None,
        };
        Ok((record, minted))
    }

    fn end(
        &self,
        lifetime: Lifetime,
        enrolled: bool,
        now: Timestamp,
    ) -> Result<Timestamp, Problem> {
        let limits = self.limits.load();
        let (end, field) = match lifetime {
            Lifetime::Default if enrolled => {
                let what = "say when it ends, by expire_in or expire_time: nobody else can know";
                return Err(Problem::Invalid { field: "expire_time", what: what.to_owned() });
            }
            Lifetime::Default => return Ok(now.plus(limits.expire_default.0)),
            Lifetime::In(time) => (now.plus(time), "expire_in"),
            Lifetime::At(end) => (end, "expire_time"),
        };
        let (soonest, latest) = (now.plus(limits.expire_min.0), now.plus(limits.expire_max.0));
        // An enrolled token may be near its end already.
        if end > latest || end <= now || (!enrolled && end < soonest) {
            let least =
                if enrolled { "the future".to_owned() } else { format!("{}", limits.expire_min) };
            let what = format!("must be between {least} and {} from now", limits.expire_max);
            return Err(Problem::Invalid { field, what });
        }
        Ok(end)
    }

    async fn change(
        &self,
        caller: &Caller,
        key: &PageKey,
        action: &'static str,
        restricts: bool,
        rule: impl FnOnce(&View) -> Result<Vec<Edit>, Denied> + Send + 'static,
    ) -> Result<Changed, Problem> {
        let (tenant, id) = key;
        let audit = self.entry(caller, action, tenant, Some(id));
        let wanted = id.clone();
        let sight = move |view: &View, edits: &[Edit]| {
            let put = edits.iter().find_map(|edit| match edit {
                Edit::Put(record) => Some(record),
                _ => None,
            });
            put.or_else(|| view.record(&wanted)).cloned()
        };
        let (mut record, written) = self.sighted(tenant, restricts, audit, rule, sight).await?;
        if written.changed {
            record.revision = written.head.position.revision;
        }
        Ok(Changed { revision: record.revision, record })
    }

    /// The tenant as it is from then on, and whether that is new.
    async fn change_tenant(
        &self,
        tenant: &TenantId,
        restricts: bool,
        audit: AuditEntry,
        rule: impl FnOnce(&View) -> Result<Vec<Edit>, Denied> + Send + 'static,
    ) -> Result<(TenantRow, bool), Problem> {
        let named = tenant.clone();
        let sight = move |view: &View, edits: &[Edit]| match edits {
            [Edit::PutTenant(synchronization)] => Some(TenantRow {
                tenant: named,
                synchronization: *synchronization,
                revision: Revision(0),
            }),
            _ => view.tenant.clone(),
        };
        let (mut row, written) = self.sighted(tenant, restricts, audit, rule, sight).await?;
        if written.changed {
            row.revision = written.head.position.revision;
        }
        Ok((row, written.changed))
    }

    /// Writes, and tells what the transaction itself has seen: a moment later it may be otherwise.
    async fn sighted<T: Clone + Send + Sync + 'static>(
        &self,
        tenant: &TenantId,
        restricts: bool,
        audit: AuditEntry,
        rule: impl FnOnce(&View) -> Result<Vec<Edit>, Denied> + Send + 'static,
        sight: impl FnOnce(&View, &[Edit]) -> Option<T> + Send + 'static,
    ) -> Result<(T, Written), Problem> {
        let seen: Arc<OnceLock<T>> = Arc::default();
        let place = Arc::clone(&seen);
        let decide = Box::new(move |view: &View| {
            let edits = rule(view)?;
            if let Some(sight) = sight(view, &edits) {
                let _ = place.set(sight);
            }
            Ok(edits)
        });
        let written = self.write(tenant, None, restricts, audit, decide).await?;
        Ok((seen.get().expect("a rule that says yes has seen it").clone(), written))
    }

    async fn write(
        &self,
        tenant: &TenantId,
        digest: Option<TokenDigest>,
        restricts: bool,
        audit: AuditEntry,
        decide: crate::store::Decide,
    ) -> Result<Written, Problem> {
        let id = audit.credential_id.clone();
        let order = Order { tenant: tenant.clone(), digest, decide, audit, restricts };
        self.store.write(order).await.map_err(|error| Problem::of(error, tenant, id))
    }

    async fn declared(&self, tenant: &TenantId) -> Result<TenantRow, Problem> {
        let row = self.store.tenant(tenant).await?;
        row.ok_or_else(|| Problem::TenantUnknown(tenant.clone()))
    }

    /// What concerns all tenants is not for those who see some.
    fn everywhere(&self, caller: &Caller) -> Result<(), Problem> {
        match caller.member.tenants {
            None => Ok(()),
            Some(_) => {
                Err(Problem::RoleInsufficient { role: caller.member.role, needed: Role::Operator })
            }
        }
    }

    fn entry(
        &self,
        caller: &Caller,
        action: &'static str,
        tenant: &TenantId,
        id: Option<&CredentialId>,
    ) -> AuditEntry {
        AuditEntry {
            tenant: Some(tenant.clone()),
            credential_id: id.cloned(),
            ..self.entry_of(caller, action)
        }
    }

    fn entry_of(&self, caller: &Caller, action: &'static str) -> AuditEntry {
        AuditEntry {
            actor: caller.member.name.clone(),
            peer: caller.peer.clone(),
            request_id: caller.request_id.clone(),
            ..self.own_entry(action, None)
        }
    }

    fn own_entry(&self, action: &'static str, tenant: Option<TenantId>) -> AuditEntry {
        AuditEntry {
            time: self.clock.now().wall,
            actor: "scim-guard".to_owned(),
            peer: String::new(),
            request_id: String::new(),
            action,
            tenant,
            credential_id: None,
            detail: String::new(),
        }
    }
}

/// The digest of a token that somebody has, and what people may see of it.
fn told(secret: Secret) -> Result<(TokenDigest, Option<String>), Problem> {
    match secret {
        Secret::Known(text) => Ok((rules::strong(&text)?, Some(token::hint(&text)))),
        Secret::Digest(digest) if digest != TokenDigest::of(b"") => Ok((digest, None)),
        Secret::Digest(_) => {
            let what = "is the digest of an empty text: the variable was not set".to_owned();
            Err(Problem::Invalid { field: "digest", what })
        }
        Secret::Mint => {
            let what = "is missing: name `digest` or `secret`".to_owned();
            Err(Problem::Invalid { field: "digest", what })
        }
    }
}

/// Failed logins of a minute that are audited, from wherever they come; the rest is counted.
const FAILURES_AUDITED: u32 = 20;
const FAILURES_TIME: Duration = Duration::from_secs(60);

/// Four times as long as it takes a signed request to become too old: a clock that is set back a
/// little brings none back.
const NONCES_KEPT: Duration = Duration::from_secs(3600);

/// How long the log's texts are kept for followers that were away.
const LOG_KEPT: Duration = Duration::from_secs(48 * 3600);

//! The engine that forgets: for tests and for the simulation, which also takes its state away,
//! puts older ones back and copies it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    AuditEntry, AuditRow, Denied, Edit, Failed, Filter, Lease, Nonce, Order, Record, Records,
    Store, StoredToken, View, WriteError, Written, log_change, log_text,
};
use crate::clock::Timestamp;
use crate::credential::feed::{
    Changes, Gone, Head, History, Mark, Page, PageKey, Position, TenantRow, Use,
};
use crate::credential::{Revision, TenantId, TokenDigest};

pub struct Memory {
    state: Mutex<State>,
    latest: watch::Sender<Position>,
}

/// All that an engine keeps.
#[derive(Clone)]
pub struct State {
    history: History,
    began: Timestamp,
    disputed: bool,
    /// Histories held by others while the store was disputed.
    contenders: BTreeSet<History>,
    accepts: BTreeSet<History>,
    tenants: BTreeMap<TenantId, TenantRow>,
    records: BTreeMap<PageKey, Record>,
    digests: BTreeMap<TokenDigest, PageKey>,
    /// By revision, from 1; the text is gone when it was compacted.
    log: Vec<Entry>,
    audit: Vec<AuditRow>,
    leases: BTreeMap<String, Lease>,
    tokens: Vec<StoredToken>,
    nonces: BTreeMap<Nonce, Timestamp>,
    reads: BTreeMap<TenantId, Timestamp>,
}

#[derive(Clone)]
struct Entry {
    mark: Mark,
    time: Timestamp,
    text: Option<String>,
}

impl State {
    fn new(began: Timestamp) -> Self {
        Self {
            history: History::random(),
            began,
            disputed: false,
            contenders: BTreeSet::new(),
            accepts: BTreeSet::new(),
            tenants: BTreeMap::new(),
            records: BTreeMap::new(),
            digests: BTreeMap::new(),
            log: Vec::new(),
            audit: Vec::new(),
            leases: BTreeMap::new(),
            tokens: Vec::new(),
            nonces: BTreeMap::new(),
            reads: BTreeMap::new(),
        }
    }

    /// The state as it goes on in the place of another one: under a new name, and disputed.
    pub fn restored(self, began: Timestamp) -> Self {
        let contenders = self.contenders.into_iter().chain([self.history]).collect();
        Self { history: History::random(), began, disputed: true, contenders, ..self }
    }

    fn position(&self) -> Position {
        Position {
            history: self.history.clone(),
            revision: Revision(self.log.len() as u64),
            mark: self.log.last().map_or_else(Mark::default, |entry| entry.mark),
        }
    }

    fn head(&self) -> Head {
        Head {
            position: self.position(),
            disputed: self.disputed,
            accepts: self.accepts.iter().cloned().collect(),
            began: self.began,
        }
    }

    fn mark_at(&self, revision: Revision) -> Option<Mark> {
        match revision.0 {
            0 => Some(Mark::default()),
            number => self.log.get(number as usize - 1).map(|entry| entry.mark),
        }
    }

    fn view(&self, tenant: &TenantId, digest: Option<&TokenDigest>) -> View {
        let of_tenant = |(key, _): &(&PageKey, &Record)| key.0 == *tenant;
        View {
            tenant: self.tenants.get(tenant).cloned(),
            records: self.records.iter().filter(of_tenant).map(|(_, it)| it.clone()).collect(),
            digest_owner: digest.and_then(|digest| self.digests.get(digest).cloned()),
        }
    }

    fn make(&mut self, edit: Edit, tenant: &TenantId, time: Timestamp) {
        let text = log_text(&edit, tenant);
        let revision = Revision(self.log.len() as u64 + 1);
        let mark = self.position().mark.then(revision, text.as_bytes());
        self.log.push(Entry { mark, time, text: Some(text) });
        match edit {
            Edit::Put(record) => {
                let record = Record { revision, ..record };
                let key = record.key();
                self.digests.retain(|_, owner| *owner != key);
                self.digests.insert(record.credential.digest, key.clone());
                self.records.insert(key, record);
            }
            Edit::Delete(id) => {
                let key = (tenant.clone(), id);
                self.records.remove(&key);
                self.digests.retain(|_, owner| *owner != key);
            }
            Edit::PutTenant(synchronization) => {
                let row = TenantRow { tenant: tenant.clone(), synchronization, revision };
                self.tenants.insert(tenant.clone(), row);
            }
            Edit::DeleteTenant => drop(self.tenants.remove(tenant)),
        }
    }

    fn note(&mut self, entry: AuditEntry, revision: Revision) {
        let number = self.audit.len() as u64 + 1;
        self.audit.push(AuditRow {
            number,
            revision,
            time: entry.time,
            actor: entry.actor,
            peer: entry.peer,
            request_id: entry.request_id,
            action: entry.action.to_owned(),
            tenant: entry.tenant,
            credential_id: entry.credential_id,
            detail: entry.detail,
        });
    }
}

impl Memory {
    pub fn new(began: Timestamp) -> Self {
        Self::with(State::new(began))
    }

    /// A store that starts from a state.
    pub fn with(state: State) -> Self {
        let (latest, _) = watch::channel(state.position());
        Self { state: Mutex::new(state), latest }
    }

    /// A copy of all that is kept.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// All credentials, as they are.
    pub fn all(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Memory {
    async fn write(&self, order: Order) -> Result<Written, WriteError> {
        let mut state = self.lock();
        let view = state.view(&order.tenant, order.digest.as_ref());
        let edits = (order.decide)(&view).map_err(WriteError::Denied)?;
        let changed = !edits.is_empty();
        for edit in edits {
            state.make(edit, &order.tenant, order.audit.time);
        }
        if changed {
            let revision = state.position().revision;
            state.note(order.audit, revision);
            self.latest.send_replace(state.position());
        }
        Ok(Written { head: state.head(), changed })
    }

    async fn head(&self) -> Result<Head, Failed> {
        Ok(self.lock().head())
    }

    async fn page(
        &self,
        after: Option<&PageKey>,
        tenants: Option<&[TenantId]>,
        rows: usize,
    ) -> Result<Page, Failed> {
        let state = self.lock();
        let wanted = |tenant: &TenantId| tenants.is_none_or(|tenants| tenants.contains(tenant));
        let mut found: Vec<_> = state
            .records
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| *key > after) && wanted(&key.0))
            .take(rows + 1)
            .map(|(_, record)| record.row())
            .collect();
        let more = found.len() > rows;
        found.truncate(rows);
        let last = found.last().filter(|_| more).map(|row| &row.credential);
        let next = last.map(|credential| (credential.tenant.clone(), credential.id.clone()));
        let all = state.tenants.values().filter(|row| wanted(&row.tenant));
        let tenants = if after.is_none() { all.cloned().collect() } else { Vec::new() };
        Ok(Page { head: state.head(), rows: found, tenants, next })
    }

    async fn changes(
        &self,
        after: &Position,
        tenants: Option<&[TenantId]>,
        most: usize,
    ) -> Result<Result<Changes, Gone>, Failed> {
        let state = self.lock();
        let known = after.history == state.history
            && state.mark_at(after.revision).is_some_and(|mark| mark == after.mark);
        if !known {
            return Ok(Err(Gone::Unknown));
        }
        let mut position = after.clone();
        let mut changes = Vec::new();
        for entry in state.log.iter().skip(after.revision.0 as usize).take(most) {
            let Some(text) = &entry.text else { return Ok(Err(Gone::Compacted)) };
            position.revision = Revision(position.revision.0 + 1);
            position.mark = entry.mark;
            let change = log_change(text, position.revision).expect("we wrote it");
            if tenants.is_none_or(|tenants| tenants.contains(change.tenant())) {
                changes.push(change);
            }
        }
        Ok(Ok(Changes { changes, position, head: state.head() }))
    }

    async fn tenants(&self) -> Result<Vec<TenantRow>, Failed> {
        Ok(self.lock().tenants.values().cloned().collect())
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantRow>, Failed> {
        Ok(self.lock().tenants.get(tenant).cloned())
    }

    async fn records(&self, filter: &Filter) -> Result<Records, Failed> {
        let mut all = self.lock().view(&filter.tenant, None).records;
        all.retain(|record| filter.expires_by.is_none_or(|time| record.expires_by(time)));
        let total = all.len();
        if let Some(after) = &filter.after {
            all.retain(|record| record.credential.id > *after);
        }
        let more = all.len() > filter.rows;
        all.truncate(filter.rows);
        let next = all.last().filter(|_| more).map(|record| record.credential.id.clone());
        Ok(Records { records: all, total, next })
    }

    async fn record(&self, key: &PageKey) -> Result<Option<Record>, Failed> {
        Ok(self.lock().records.get(key).cloned())
    }

    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Record>), Failed> {
        let state = self.lock();
        let record = state.digests.get(digest).and_then(|key| state.records.get(key)).cloned();
        Ok((state.head(), record))
    }

    async fn note_used(&self, used: &[Use]) -> Result<(), Failed> {
        let mut state = self.lock();
        for (key, time) in used {
            if let Some(record) = state.records.get_mut(key) {
                record.last_used = record.last_used.max(Some(*time));
            }
        }
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, Failed> {
        Ok(self.lock().leases.values().cloned().collect())
    }

    async fn put_lease(&self, lease: &Lease) -> Result<(), Failed> {
        let mut kept = lease.clone();
        kept.report.used.clear();
        kept.report.compared = None;
        kept.report.would_revive.clear();
        self.lock().leases.insert(lease.instance.clone(), kept);
        Ok(())
    }

    async fn remove_lease(&self, instance: &str) -> Result<(), Failed> {
        self.lock().leases.remove(instance);
        Ok(())
    }

    async fn dispute(&self, held: &History) -> Result<(), Failed> {
        let mut state = self.lock();
        if state.accepts.contains(held) {
            return Ok(());
        }
        state.disputed = true;
        state.contenders.insert(held.clone());
        Ok(())
    }

    async fn accept(&self, audit: AuditEntry) -> Result<Head, Failed> {
        let mut state = self.lock();
        let ended = std::mem::replace(&mut state.history, History::random());
        let contenders = std::mem::take(&mut state.contenders);
        state.accepts.extend(contenders.into_iter().chain([ended]));
        state.disputed = false;
        state.began = audit.time;
        let revision = state.position().revision;
        state.note(audit, revision);
        self.latest.send_replace(state.position());
        Ok(state.head())
    }

    async fn append_audit(&self, entry: AuditEntry) -> Result<(), Failed> {
        let mut state = self.lock();
        let revision = state.position().revision;
        state.note(entry, revision);
        Ok(())
    }

    async fn audit(&self, after: u64, rows: usize) -> Result<Vec<AuditRow>, Failed> {
        let state = self.lock();
        Ok(state.audit.iter().skip(after as usize).take(rows).cloned().collect())
    }

    async fn stored_tokens(&self) -> Result<Vec<StoredToken>, Failed> {
        Ok(self.lock().tokens.clone())
    }

    async fn put_token(&self, token: &StoredToken) -> Result<(), Failed> {
        let mut state = self.lock();
        state.tokens.retain(|known| known.name != token.name);
        state.tokens.push(token.clone());
        Ok(())
    }

    async fn take_nonce(
        &self,
        nonce: &Nonce,
        until: Timestamp,
        _restricts: bool,
    ) -> Result<bool, Failed> {
        let mut state = self.lock();
        let fresh = !state.nonces.contains_key(nonce);
        if fresh {
            state.nonces.insert(*nonce, until);
        }
        Ok(fresh)
    }

    async fn forget_nonces(&self, by: Timestamp) -> Result<(), Failed> {
        self.lock().nonces.retain(|_, until| *until > by);
        Ok(())
    }

    async fn note_read(&self, tenant: &TenantId, begun: Timestamp) -> Result<(), Failed> {
        self.lock().reads.insert(tenant.clone(), begun);
        Ok(())
    }

    async fn reads(&self) -> Result<Vec<(TenantId, Timestamp)>, Failed> {
        Ok(self.lock().reads.clone().into_iter().collect())
    }

    async fn compact(&self, before: Timestamp) -> Result<(), Failed> {
        let mut state = self.lock();
        for entry in state.log.iter_mut().filter(|entry| entry.time < before) {
            entry.text = None;
        }
        Ok(())
    }

    async fn backup(&self, _: &Path) -> Result<Head, Failed> {
        Err(Failed("a store in memory has no file to copy".to_owned()))
    }

    fn latest(&self) -> watch::Receiver<Position> {
        self.latest.subscribe()
    }
}

impl From<Denied> for WriteError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

//! The one who changes the table. Each change is made in this order: write the row, raise the epoch,
//! forget what was cached, wait until every worker has come round its loop; then it is applied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::table::Table;
use super::{Authority, TenantState};
use crate::clock::{Now, Timestamp};
use crate::credential::feed::{Change, PageKey, Row, TenantRow, Use};
use crate::credential::{Credential, Expiry, Revision, Status, TenantId, TokenDigest};

pub struct Applier {
    authority: Arc<Authority>,
    table: Table,
    /// The latest change of each tenant that is known, its deletion included.
    tenants: HashMap<TenantId, Revision>,
    /// Returns once every worker has come round its loop.
    round: Box<dyn Fn() + Send>,
    /// Whether anything has changed since the last round, and since the last census.
    unsettled: bool,
    uncounted: bool,
}

impl Applier {
    pub fn new(authority: Arc<Authority>, round: Box<dyn Fn() + Send>) -> Self {
        let (table, tenants) = (Table::new(), HashMap::new());
        Self { authority, table, tenants, round, unsettled: false, uncounted: true }
    }

    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    pub fn rows(&self) -> impl Iterator<Item = &Credential> {
        self.table.rows()
    }

    pub fn get(&self, key: &PageKey) -> Option<&Credential> {
        self.table.get(key)
    }

    /// Whether a row of the table has this digest.
    pub fn knows(&self, digest: &TokenDigest) -> bool {
        self.authority.index.get(digest).is_some()
    }

    /// Whether a tenant's provisioning goes on, as far as is known.
    pub fn synchronizes(&self, tenant: &TenantId) -> bool {
        self.authority.tenants.load().get(tenant).is_none_or(|state| state.synchronizes())
    }

    pub fn used_since(&self, time: Timestamp) -> impl Iterator<Item = Use> {
        self.table.used_since(time)
    }

    /// Waits until no worker is within a decision that was begun before the changes made so far.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            (self.round)();
        }
    }

    /// Makes one change of a feed.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Credential(row) => self.put(row.clone()),
            Change::CredentialDeleted { tenant, id, revision } => {
                let key = (tenant.clone(), id.clone());
                self.act(|table, index, changed| table.remove(&key, *revision, index, changed));
            }
            Change::Tenant(row) => self.put_tenant(row),
            Change::TenantDeleted { tenant, revision } => self.forget_tenant(tenant, *revision),
        }
    }

    pub fn put(&mut self, row: Row) {
        self.tenant(&row.credential.tenant);
        self.act(|table, index, changed| table.put(row, index, changed));
    }

    /// Merges a whole listing that was begun at `floor`.
    pub fn list(&mut self, rows: Vec<Row>, tenants: &[TenantRow], floor: Revision) {
        self.replace_tenants(tenants, &rows, floor);
        self.act(|table, index, changed| table.list(rows, floor, index, changed));
    }

    /// Makes the table what a listing of another history says.
    pub fn rebase(&mut self, rows: Vec<Row>, tenants: &[TenantRow]) {
        self.replace_tenants(tenants, &rows, Revision(u64::MAX));
        self.act(|table, index, changed| table.rebase(rows, index, changed));
    }

    /// Makes of a change only what takes rights away.
    pub fn restrict(&mut self, change: &Change) {
        match change {
            Change::Credential(row) => self.restrict_row(&row.credential),
            Change::CredentialDeleted { tenant, id, .. } => {
                let key = (tenant.clone(), id.clone());
                self.act(|table, index, changed| table.strike(&key, index, changed));
            }
            Change::Tenant(row) if row.synchronization == Status::Disabled => self.switch(row),
            Change::Tenant(_) | Change::TenantDeleted { .. } => {}
        }
    }

    pub fn restrict_row(&mut self, by: &Credential) {
        self.act(|table, index, changed| table.restrict(by, index, changed));
    }

    fn act(
        &mut self,
        act: impl FnOnce(&mut Table, &super::table::Index, &mut dyn FnMut(&TokenDigest)),
    ) {
        let (authority, unsettled) = (&self.authority, &mut self.unsettled);
        act(&mut self.table, &authority.index, &mut |digest| {
            authority.epochs.raise(digest);
            authority.cache.invalidate(digest);
            *unsettled = true;
        });
        self.uncounted |= self.unsettled;
    }

    /// A tenant's state, which comes to be with its first row.
    fn tenant(&self, tenant: &TenantId) -> Arc<TenantState> {
        let tenants = self.authority.tenants.load();
        if let Some(state) = tenants.get(tenant) {
            return Arc::clone(state);
        }
        let state = Arc::new(TenantState::enabled());
        let mut tenants = HashMap::clone(&tenants);
        tenants.insert(tenant.clone(), Arc::clone(&state));
        self.authority.tenants.store(Arc::new(tenants));
        state
    }

    /// Takes a tenant's row, unless a newer one is here or has been.
    fn put_tenant(&mut self, row: &TenantRow) {
        let known = self.tenants.entry(row.tenant.clone()).or_default();
        if *known < row.revision {
            *known = row.revision;
            self.switch(row);
        }
    }

    fn switch(&mut self, row: &TenantRow) {
        let state = self.tenant(&row.tenant);
        self.unsettled |= state.set_synchronization(row.synchronization);
    }

    fn forget_tenant(&mut self, tenant: &TenantId, revision: Revision) {
        self.tenants.insert(tenant.clone(), revision);
        let mut tenants = HashMap::clone(&self.authority.tenants.load());
        tenants.remove(tenant);
        self.authority.tenants.store(Arc::new(tenants));
    }

    /// Makes the tenants those of a listing, but for what has changed since it was begun at `floor`.
    /// Keeps the states of tenants that go on: grants hold them.
    fn replace_tenants(&mut self, tenants: &[TenantRow], rows: &[Row], floor: Revision) {
        let old = self.authority.tenants.load_full();
        self.tenants.retain(|_, changed| *changed > floor);
        let changed = |tenant: &&TenantId| self.tenants.contains_key(*tenant);
        let deleted = |tenant: &&TenantId| changed(tenant) && !old.contains_key(*tenant);
        let named = rows.iter().map(|row| &row.credential.tenant);
        let listed = tenants.iter().map(|row| &row.tenant).chain(named);
        let present = listed.filter(|it| !deleted(it)).chain(old.keys().filter(changed));
        let state = |tenant: &TenantId| {
            let known = old.get(tenant).cloned();
            (tenant.clone(), known.unwrap_or_else(|| Arc::new(TenantState::enabled())))
        };
        self.authority.tenants.store(Arc::new(present.map(state).collect()));
        tenants.iter().for_each(|row| self.put_tenant(row));
    }

    /// Sets the metrics that describe the rows, if any have changed or `due`. It counts over all of
    /// them, which are many.
    pub fn take_census(&mut self, due: bool, now: &Now) {
        if !std::mem::take(&mut self.uncounted) && !due {
            return;
        }
        let metrics = &self.authority.metrics;
        let count = |state: &str, is: &dyn Fn(&Credential) -> bool| {
            let count = self.table.rows().filter(|row| is(row)).count();
            metrics.credentials.with_label_values(&[state]).set(count as i64);
        };
        let ended = |row: &Credential| matches!(row.expiry, Expiry::At(end) if end <= now.wall);
        count("enabled", &|row| row.status == Status::Enabled && !ended(row));
        count("disabled", &|row| row.status == Status::Disabled);
        count("expired", &|row| row.status == Status::Enabled && ended(row));
        let deny = self.authority.deny.load();
        count("denied", &|row| deny.names(row));

        let ends = |row: &Credential| match row.expiry {
            Expiry::At(end) if row.status == Status::Enabled && end > now.wall => Some(end),
            _ => None,
        };
        let mut ending: Vec<_> =
            self.table.rows().filter_map(|row| Some((ends(row)?, &row.id))).collect();
        for (within, days) in [("7d", 7), ("30d", 30), ("90d", 90)] {
            let limit = now.wall.plus(Duration::from_secs(days * 86_400));
            let count = ending.iter().filter(|(end, _)| *end <= limit).count();
            metrics.credentials_expiring.with_label_values(&[within]).set(count as i64);
        }
        if ending.len() > SOONEST {
            ending.select_nth_unstable(SOONEST);
            ending.truncate(SOONEST);
        }
        metrics.credential_expiry.reset();
        for (end, id) in ending {
            metrics.credential_expiry.with_label_values(&[id.as_str()]).set(end.as_seconds());
        }
    }
}

/// Credentials whose end is a metric.
const SOONEST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_late_listing_neither_switches_a_tenant_back_nor_brings_it_back() {
        let text = "credentials: { source: file, file: { path: c.yaml } }";
        let config = Config::parse(text, std::path::Path::new("/")).expect("valid").credentials;
        let authority = Authority::new(&config, Arc::new(Metrics::new()));
        let mut applier = Applier::new(Arc::clone(&authority), Box::new(|| {}));
        let id = |name| TenantId::parse(name).expect("valid");
        let row = |name, synchronization, revision| {
            let revision = Revision(revision);
            TenantRow { tenant: id(name), synchronization, revision }
        };
        let listing = [row("z-1", Status::Enabled, 1), row("z-2", Status::Enabled, 2)];
        applier.list(Vec::new(), &listing, Revision(3));
        applier.change(&Change::Tenant(row("z-1", Status::Disabled, 4)));
        applier.change(&Change::TenantDeleted { tenant: id("z-2"), revision: Revision(5) });
        applier.change(&Change::Tenant(row("z-3", Status::Enabled, 6)));
        let switch = |name: &str| authority.tenants.load().get(name).map(|it| it.synchronizes());
        applier.list(Vec::new(), &listing, Revision(3));
        assert_eq!(["z-1", "z-2", "z-3"].map(switch), [Some(false), None, Some(true)]);
        applier.list(Vec::new(), &[row("z-1", Status::Enabled, 7)], Revision(7));
        assert_eq!(["z-1", "z-2", "z-3"].map(switch), [Some(true), None, None]);
        // Another store's numbers mean nothing.
        applier.rebase(Vec::new(), &[row("z-1", Status::Disabled, 2)]);
        assert_eq!(switch("z-1"), Some(false));
    }
}

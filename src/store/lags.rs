//! How old what is mirrored of a cloud is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Now;
use crate::credential::TenantId;
use crate::credential::feed::Lag;

/// The mirrored tenants, each with the beginning of the last whole read that is written.
#[derive(Default)]
pub struct Lags(Mutex<BTreeMap<TenantId, Mirrored>>);

struct Mirrored {
    read: Option<Now>,
    interval: Duration,
}

impl Lags {
    /// From now on the tenant is a cloud's first. `read` is when its last whole read began.
    pub fn declare(&self, tenant: &TenantId, interval: Duration, read: Option<Now>) {
        self.all().insert(tenant.clone(), Mirrored { read, interval });
    }

    /// What a read that was begun then has told is in the store.
    pub fn read(&self, tenant: &TenantId, begun: Now) {
        if let Some(known) = self.all().get_mut(tenant) {
            known.read = Some(begun);
        }
    }

    /// To be called before the head is read for which it counts.
    pub fn at(&self, now: &Now) -> Vec<Lag> {
        let lag = |(tenant, known): (&TenantId, &Mirrored)| Lag {
            tenant: tenant.clone(),
            age: known.read.as_ref().map(|then| now.age(then)),
            interval: known.interval,
        };
        self.all().iter().map(lag).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<TenantId, Mirrored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

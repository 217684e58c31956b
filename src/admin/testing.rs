//! A service over the store in memory, for the tests of the signed dialects.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http_body_util::BodyExt;

use super::keys::AccessKeys;
use super::signed::Desk;
use super::{Members, Service};
use crate::clock::{Clock, Timestamp};
use crate::config::value::{SecretRef, TenantName};
use crate::config::{AccessKey, AdminLimits, Role};
use crate::credential::TenantId;
use crate::signature::Key;
use crate::store::memory::Memory;
use crate::store::replicas::Replicas;
use crate::store::{AuditRow, Store};
use crate::telemetry::metrics::Metrics;

pub const START: Timestamp = Timestamp::from_millis(1_800_000_000_250);
const HOUR: Duration = Duration::from_secs(3600);

/// An admin API with the tenants `z-1` and `z-2`, and an access key of each role, which is called so;
/// `operator-1` sees `z-1` only.
pub struct World {
    pub clock: Clock,
    pub store: Arc<Memory>,
    pub service: Arc<Service>,
    pub metrics: Arc<Metrics>,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Memory::new(START));
        let engine: Arc<dyn Store> = store.clone();
        let replicas = Replicas::load(Arc::clone(&engine), HOUR, clock.now()).await;
        let replicas = Arc::new(replicas.expect("in memory"));
        let metrics = Arc::new(Metrics::new());
        let limits = AdminLimits::default();
        let members = Arc::new(Members::new(Vec::new()));
        let (now, counts) = (clock.clone(), Arc::clone(&metrics));
        let service = Service::new(engine, replicas, members, limits.clone(), now, counts);
        let tenants = ["z-1", "z-2"].map(|it| TenantId::parse(it).expect("valid"));
        let tenants = tenants.into_iter().collect();
        service.declare(&tenants).await.expect("in memory");
        service.configure(&limits, tenants);
        let folder = tempfile::tempdir().expect("a folder");
        let keys = [
            ("operator", Role::Operator),
            ("responder", Role::Responder),
            ("reader", Role::Reader),
            ("operator-1", Role::Operator),
        ];
        let keys = keys.map(|(id, role)| {
            let path = folder.path().join(id);
            std::fs::write(&path, secret(id)).expect("written");
            let only = id.ends_with("-1").then(|| TenantId::parse("z-1").expect("valid"));
            let tenants = only.into_iter().map(TenantName).collect();
            AccessKey { id: id.to_owned(), secret: SecretRef::File(path), role, tenants }
        });
        service.keys().configure(AccessKeys::load(&keys).unwrap_or_default());
        Self { clock, store, service: Arc::new(service), metrics, _folder: folder }
    }

    pub fn desk(&self) -> Desk {
        Desk::new(Arc::clone(&self.service), Arc::clone(&self.metrics))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    pub async fn audited(&self, action: &str) -> Vec<AuditRow> {
        let all = self.store.audit(0, usize::MAX).await.expect("in memory");
        all.into_iter().filter(|row| row.action == action).collect()
    }

    /// How many requests were answered so.
    pub fn counted(&self, action: &str, class: &str) -> u64 {
        self.metrics.admin_requests.with_label_values(&[action, class]).get()
    }
}

pub fn secret(id: &str) -> String {
    format!("planted-secret-of-{id}")
}

pub fn key<'a>(id: &'a str, secret: &'a str) -> Key<'a> {
    Key { id, secret, token: None }
}

pub async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

//! The admin API in this process: its store, its service, its face.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::clouds::cloud;
use super::{Failure, tell_listening};
use crate::admin::face::AdminApi;
use crate::admin::mirror::Mirror;
use crate::admin::{AccessKeys, Members, Service, keys, members};
use crate::clock::Clock;
use crate::config::value::{RouteTenant, Size, Span};
use crate::config::{Admin, Config, Limits};
use crate::credential::TenantId;
use crate::server::{Acceptor, Face, Listener, Tls, Transport};
use crate::store::Store;
use crate::store::replicas::{Progress, Replicas};
use crate::store::sqlite::{OpenError, Options, Sqlite};
use crate::telemetry::metrics::Metrics;

/// What there is before anybody is let in.
pub struct Core {
    pub store: Arc<dyn Store>,
    pub replicas: Arc<Replicas>,
    service: Arc<Service>,
    mirrors: Vec<Arc<Mirror>>,
}

impl Core {
    /// Opens the store, and on its first start makes the operator's token. Waits with `patience`
    /// for a store that another process has.
    pub async fn open(
        config: &Config,
        admin: &Admin,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let path = &admin.store.0;
        let failed = |what: String| Failure(format!("admin.store: {what}"));
        let (loaded, keys) = load(admin)?;
        let options = Options { insecure_network_store: admin.insecure_network_store };
        let now = clock.now();
        let mut told = false;
        let opened = loop {
            match Sqlite::open(path, options, now.wall).await {
                Err(OpenError::InUse(_)) if clock.now().boot.since(now.boot) < patience => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!("another process has the store; waiting for its end");
                    }
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                opened => break opened.map_err(|error| failed(error.to_string()))?,
            }
        };
        let store: Arc<dyn Store> = Arc::new(opened.store);
        // Whoever had it before has answered reports until just now.
        let now = clock.now();
        members::first_operator(&*store, &members::file_beside(path)).await.map_err(failed)?;
        let of_store = |error: crate::store::Failed| failed(error.0);
        let members = Members::new(store.stored_tokens().await.map_err(of_store)?);
        members.configure(loaded, &admin.certificates);
        let max_stale = &config.credentials.max_stale;
        let longest = max_stale.reads.0.max(max_stale.writes.0);
        let replicas = Replicas::load(Arc::clone(&store), longest, now).await.map_err(of_store)?;
        let replicas = Arc::new(replicas);
        let service = Service::new(
            Arc::clone(&store),
            Arc::clone(&replicas),
            Arc::new(members),
            admin.limits.clone(),
            clock.clone(),
            Arc::clone(metrics),
        );
        let tenants = tenants(config, admin);
        service.declare(&tenants).await.map_err(of_store)?;
        service.configure(&admin.limits, tenants);
        let mirrors = mirrors(admin, &store, &replicas, clock, metrics).await?;
        service.mirror(&mirrors);
        service.keys().configure(keys);
        Ok(Self { store, replicas, service: Arc::new(service), mirrors })
    }
}

/// Who may use it.
fn load(admin: &Admin) -> Result<(Vec<members::Loaded>, Vec<keys::Loaded>), Failure> {
    match (Members::load(&admin.tokens), AccessKeys::load(&admin.access_keys)) {
        (Ok(tokens), Ok(keys)) => Ok((tokens, keys)),
        (tokens, keys) => {
            let faults = tokens.err().into_iter().chain(keys.err()).flatten();
            Err(Failure(faults.collect::<Vec<_>>().join("\n")))
        }
    }
}

/// All tenants that the config names.
fn tenants(config: &Config, admin: &Admin) -> HashSet<TenantId> {
    let routes = config.proxy.iter().flat_map(|proxy| &proxy.routes);
    let routed = routes.filter_map(|route| match &route.tenant {
        RouteTenant::One(tenant) => Some(tenant.clone()),
        RouteTenant::ByPath => None,
    });
    let mirrored = admin.mirror.iter().filter_map(|it| it.tenant());
    let named = admin.tenants.iter().chain(mirrored).map(|tenant| tenant.0.clone());
    named.chain(routed).collect()
}

/// The mirrors of a config, before they begin.
async fn mirrors(
    admin: &Admin,
    store: &Arc<dyn Store>,
    replicas: &Arc<Replicas>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Arc<Mirror>>, Failure> {
    let mut mirrors = Vec::new();
    for (index, config) in admin.mirror.iter().enumerate() {
        let failed = |what| Failure(format!("admin.mirror[{index}]: {what}"));
        let (tencent, alibaba) = (config.tencent.as_ref(), config.alibaba.as_ref());
        let cloud = cloud(tencent, alibaba, clock, metrics).map_err(failed)?;
        let (store, replicas) = (Arc::clone(store), Arc::clone(replicas));
        let (clock, metrics) = (clock.clone(), Arc::clone(metrics));
        let interval = config.interval.0;
        let mirror = Mirror::load(cloud, interval, store, replicas, clock, metrics).await;
        mirrors.push(mirror.map_err(|error| failed(error.to_string()))?);
    }
    let reads = store.reads().await.map_err(|error| Failure(format!("admin.store: {error}")))?;
    let is_left = |tenant: &TenantId| !mirrors.iter().any(|mirror| mirror.tenant() == tenant);
    for (tenant, _) in reads.iter().filter(|(tenant, _)| is_left(tenant)) {
        tracing::warn!(
            %tenant,
            "this tenant was mirrored and is no more: its credentials stay as the cloud last listed \
             them, until they are changed here"
        );
    }
    Ok(mirrors)
}

/// For a process that drains, and has the store until it ends.
pub const STORE_PATIENCE: Duration = Duration::from_secs(120);
const STORE_PAUSE: Duration = Duration::from_millis(50);

/// The admin API at work.
pub struct AdminFace {
    core: Core,
    face: Arc<Face>,
    acceptor: Acceptor,
    /// Ends streams and long waits.
    leaving: CancellationToken,
    keeper: JoinHandle<()>,
    mirrors: Vec<JoinHandle<()>>,
}

/// A config of the admin API that was read and may be put into force.
pub struct Prepared {
    tokens: Vec<members::Loaded>,
    keys: Vec<keys::Loaded>,
    tenants: HashSet<TenantId>,
}

impl AdminFace {
    pub fn start(
        core: Core,
        config: &Admin,
        listener: Listener,
        tls: Option<Arc<Tls>>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        tell_listening("admin", &listener, tls.is_some());
        // It fails for no socket that listens.
        let _ = listener.limit_send_buffer(SEND_BUFFER_BYTES);
        let limits = Limits {
            request_body: Size(1 << 20),
            // Streams end by themselves before that.
            request_time: Span::seconds(3600),
            connections: CONNECTIONS,
            ..Limits::default()
        };
        let limits = Arc::new(ArcSwap::from_pointee(limits));
        let leaving = CancellationToken::new();
        let api = AdminApi::new(
            Arc::clone(&core.service),
            Arc::clone(metrics),
            config.tencent_time_offset,
            leaving.clone(),
        );
        let face = Face::start("admin", 1, &limits, metrics, move |_| api.clone());
        let face = Arc::new(face);
        let acceptor = face.accept(listener, Transport { tls, ..Transport::default() });
        let keeper = tokio::spawn(keep(
            Arc::clone(&core.service),
            Arc::clone(&core.replicas),
            Arc::clone(metrics),
        ));
        let run =
            |mirror: &Arc<Mirror>| tokio::spawn(Arc::clone(mirror).run(None, leaving.clone()));
        let mirrors = core.mirrors.iter().map(run).collect();
        Self { core, face, acceptor, leaving, keeper, mirrors }
    }

    /// Does what can fail: reads the tokens and keys that a new config names, and declares its tenants,
    /// which are no harm should the rest of the config not come into force.
    pub async fn prepare(&self, config: &Config, admin: &Admin) -> Result<Prepared, Failure> {
        let (tokens, keys) = load(admin)?;
        let tenants = tenants(config, admin);
        let declared = self.core.service.declare(&tenants).await;
        declared.map_err(|failed| Failure(format!("admin.tenants: {failed}")))?;
        Ok(Prepared { tokens, keys, tenants })
    }

    pub fn reconfigure(&self, admin: &Admin, prepared: Prepared, tls: Option<Arc<Tls>>) {
        self.core.service.members().configure(prepared.tokens, &admin.certificates);
        self.core.service.keys().configure(prepared.keys);
        self.core.service.configure(&admin.limits, prepared.tenants);
        self.acceptor.secure(Transport { tls, ..Transport::default() });
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.core.service
    }

    pub fn face(&self) -> &Arc<Face> {
        &self.face
    }

    /// Ends streams, and lets requests finish until the deadline.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.leaving.cancel();
        self.face.drain(std::iter::once(&self.acceptor), deadline).await
    }

    pub async fn stop(self) {
        self.leaving.cancel();
        self.keeper.abort();
        for mirror in self.mirrors {
            let _ = mirror.await;
        }
        // Each may take as long as a cloud does, so all do at once.
        let mirrors = self.core.mirrors.iter().cloned();
        let finishing: JoinSet<_> = mirrors.map(async |mirror| mirror.finish().await).collect();
        finishing.join_all().await;
        self.face.end([self.acceptor]).await;
    }
}

/// Replicas hold a stream and report beside it; people and programs come on top.
const CONNECTIONS: usize = 4096;

/// What the system holds for a client that does not read: it would be megabytes for each stream
/// by itself.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Counts replicas, and tidies up.
async fn keep(service: Arc<Service>, replicas: Arc<Replicas>, metrics: Arc<Metrics>) {
    let mut rounds = tokio::time::interval(ROUND);
    for round in 0_u64.. {
        rounds.tick().await;
        if let Ok(all) = replicas.all(&service.clock().now()).await {
            for state in Progress::ALL {
                let count = all.iter().filter(|replica| replica.state == state).count();
                metrics.replicas.with_label_values(&[state.as_str()]).set(count as i64);
            }
        }
        if round.is_multiple_of(12)
            && let Err(failed) = service.tidy().await
        {
            tracing::warn!("the admin API's store cannot be tidied up: {failed}");
        }
    }
}

const ROUND: Duration = Duration::from_secs(5);

//! Wiring: makes the parts from a config, replaces them at a reload, and takes them down in order.

mod admin;
mod certificates;
mod clouds;
mod entrance;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::authority::drive::Driver;
use crate::authority::files::{self, INTERVAL};
use crate::authority::follow::{Follower, Terms};
use crate::authority::{ASKS_MAX, Applier, Authority};
use crate::clock::{Clock, Uptime};
use crate::config::value::{ListenAddress, Span};
use crate::config::{self, Config, Limits, Source};
use crate::decision::{self, Decision};
use crate::ops::{Ops, Scrapes};
use crate::proxy::{self, Proxy};
use crate::server::{Acceptor, Face, Inherited, Listener, Transport};
use crate::source::Feed;
use crate::source::client;
use crate::source::embedded::Embedded;
use crate::source::native::Native;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Traces};
use admin::{AdminFace, Core};
use certificates::Certificates;
use clouds::CloudSource;
use entrance::{DECISION, Door, Doors, Entrance, LISTENERS, bind, doors, tell_listening, unusable};

/// The running product. Must be made and used within a tokio runtime.
pub struct App {
    config: Config,
    clock: Clock,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    proxy: Option<ProxyFace>,
    decision: Option<DecisionFace>,
    admin: Option<AdminFace>,
    ops: Option<OpsFace>,
    driver: Option<Driver>,
    cloud: Option<CloudSource>,
    certificates: Arc<Certificates>,
    minder: Minder,
    log_end: Receiver<()>,
    traces_end: Option<Receiver<()>>,
}

struct ProxyFace {
    shared: Arc<proxy::Shared>,
    entrance: Entrance,
}

struct DecisionFace {
    shared: Arc<decision::Shared>,
    entrance: Entrance,
}

struct OpsFace {
    face: Arc<Face>,
    scrapes: watch::Sender<Scrapes>,
    acceptor: Acceptor,
}

/// Why a start or a reload did not happen. It names the key, what is wrong and what to do.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl App {
    /// Starts everything that the config names, on sockets of its own where none is `inherited`.
    /// Access lines go to `access`, and spans where `traces` says, if anywhere.
    pub async fn start(
        config: Config,
        clock: Clock,
        access: impl io::Write + Send + 'static,
        traces: Option<traces::Settings>,
        mut inherited: Inherited,
    ) -> Result<Self, Failure> {
        let metrics = Arc::new(Metrics::new());
        // It may be a while until all is there, and who looks meanwhile should not be alarmed.
        metrics.config_last_reload_successful.set(1);
        let authority = Authority::new(&config.credentials, Arc::clone(&metrics));
        let draining = Arc::new(AtomicBool::new(false));

        // All that can fail comes before the first thread.
        let settings =
            config.proxy.as_ref().map(|proxy| settings(proxy, &config.log)).transpose()?;
        let Doors { proxy: doors, decision: asked_at, admin: admin_tls, watched } = doors(&config)?;
        let follows_another = !inherited.is_empty();
        let mut listen = |key, address: ListenAddress| match inherited.take(&address) {
            Some(listener) => listener.map_err(|error| unusable(key, &address, &error)),
            None => bind(key, &address),
        };
        let mut open = |key, doors: Vec<Door>| {
            let open = |door: Door| listen(key, door.address.clone()).map(|it| (door, it));
            doors.into_iter().map(open).collect::<Result<Vec<_>, _>>()
        };
        let proxy_listeners = open(LISTENERS, doors)?;
        let decision_listeners = open(DECISION, asked_at)?;
        let mut listen = |key, address| listen(key, ListenAddress::Tcp(address));
        let ops_listener =
            config.ops.as_ref().map(|it| listen("ops.listen", it.listen)).transpose()?;
        let admin_listener =
            config.admin.as_ref().map(|it| listen("admin.listen", it.listen)).transpose()?;
        if let Some(address) = inherited.addresses().next() {
            return Err(Failure(format!(
                "LISTEN_FDS brings a socket that listens on {address}, which the config does not name: \
                 name it, or do not pass it"
            )));
        }
        let core = match &config.admin {
            Some(admin) => {
                // Whoever held these sockets before may still hold the store.
                let patience = if follows_another { admin::STORE_PATIENCE } else { Duration::ZERO };
                Some(Core::open(&config, admin, &clock, &metrics, patience).await?)
            }
            None => None,
        };
        let (cloud, feed) = match CloudSource::start(&config, &clock, &metrics).await? {
            Some((cloud, feed)) => (Some(cloud), Some(feed)),
            None => (None, feed(&config, core.as_ref(), &clock, &metrics)?),
        };
        // There is no worker to wait for until the proxy is there.
        let workers: Arc<OnceLock<Round>> = Arc::default();
        let round = || {
            let workers = Arc::clone(&workers);
            move || workers.get().into_iter().for_each(|round| round())
        };
        let (credentials, known) = (&config.credentials, Arc::clone(&authority));
        let files = files::Follower::start(credentials, known, clock.clone(), Arc::new(round()))
            .map_err(|invalid| Failure(invalid.to_string()))?;

        let traces =
            traces.map(|settings| start_traces(&settings, &clock, &metrics)).transpose()?;
        let (traces, traces_end) = traces.unzip();
        let (log, log_end) = AccessLog::start(access, config.log.format, Arc::clone(&metrics));
        let proxy = config.proxy.as_ref().zip(settings).map(|(config, settings)| {
            let settings = ArcSwap::from_pointee(settings);
            let (clock, metrics) = (clock.clone(), Arc::clone(&metrics));
            let shared = Arc::new(proxy::Shared { settings, clock, metrics });
            ProxyFace::start(config, shared, &authority, log.clone(), traces.clone())
        });
        let asked = config.proxy.as_ref().filter(|_| !config.decision.is_empty());
        let decision = asked.map(|proxy| {
            let settings = decision::Settings::new(proxy, &config.decision, &config.log);
            let settings = ArcSwap::from_pointee(settings);
            let (clock, metrics) = (clock.clone(), Arc::clone(&metrics));
            let draining = Arc::clone(&draining);
            let shared = Arc::new(decision::Shared { settings, clock, metrics, draining });
            DecisionFace::start(proxy, shared, &authority, log.clone(), traces.clone())
        });
        drop((log, traces)); // Their threads end with the last worker.
        let rounds = [
            proxy.as_ref().map(|proxy| proxy.entrance.face.round()),
            decision.as_ref().map(|decision| decision.entrance.face.round()),
        ];
        let rounds: Vec<_> = rounds.into_iter().flatten().collect();
        let made = workers.set(Box::new(move || rounds.iter().for_each(|round| round())));
        assert!(made.is_ok(), "workers are made once");
        let driver = feed.map(|feed| {
            let applier = Applier::new(Arc::clone(&authority), Box::new(round()));
            let follower = Follower::new(applier, terms(&config), &clock.now());
            let (asks, wanted) = tokio::sync::mpsc::channel(ASKS_MAX);
            authority.answer_by(asks);
            Driver::start(feed, follower, clock.clone(), wanted)
        });
        let admin = core.zip(config.admin.as_ref()).zip(admin_listener);
        let admin = admin.map(|((core, admin), listener)| {
            AdminFace::start(core, admin, listener, admin_tls, &metrics)
        });
        let certificates = Arc::new(Certificates::new(clock.clone(), Arc::clone(&metrics)));
        certificates.replace(watched);
        let minder = Minder::start(Minded {
            files,
            clock: clock.clone(),
            proxy: proxy.as_ref().map(|proxy| Arc::clone(&proxy.shared)),
            admin: admin.as_ref().map(|admin| Arc::clone(admin.service())),
            certificates: Arc::clone(&certificates),
        });

        let ops = ops_listener.map(|listener| {
            let (authority, metrics) = (Arc::clone(&authority), Arc::clone(&metrics));
            let draining = Arc::clone(&draining);
            let (clock, decides) = (clock.clone(), proxy.is_some());
            let scrapes = watch::Sender::default();
            OpsFace::start(Ops { authority, decides, clock, metrics, draining, scrapes }, listener)
        });
        let mut app = Self {
            config,
            clock,
            authority,
            metrics,
            draining,
            proxy,
            decision,
            admin,
            ops,
            driver,
            cloud,
            certificates,
            minder,
            log_end,
            traces_end,
        };
        if follows_another {
            // Whoever has these sockets beside us may have a table: a request that comes to us
            // would be refused for nothing.
            app.loaded(LOAD_PATIENCE).await;
        }
        if let Some(proxy) = &mut app.proxy {
            proxy.entrance.open(proxy_listeners);
        }
        if let Some(decision) = &mut app.decision {
            decision.entrance.open(decision_listeners);
        }
        app.tell_config();
        Ok(app)
    }

    /// Waits for the table, and no longer than that.
    pub fn loaded(&self, patience: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (authority, clock) = (Arc::clone(&self.authority), self.clock.clone());
        async move {
            let begun = clock.now().boot;
            while !authority.is_loaded() && clock.now().boot.since(begun) < patience {
                tokio::time::sleep(LOAD_PAUSE).await;
            }
        }
    }

    /// The admin API of this process.
    pub fn admin(&self) -> Option<&Arc<crate::admin::Service>> {
        self.admin.as_ref().map(AdminFace::service)
    }

    /// Whether there is a table to decide by.
    pub fn is_loaded(&self) -> bool {
        self.authority.is_loaded()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A closure that returns once every worker of every face has come round its loop.
    pub fn round(&self) -> impl Fn() + Send + Sync + 'static {
        let faces = [
            self.proxy.as_ref().map(|it| &it.entrance.face),
            self.decision.as_ref().map(|it| &it.entrance.face),
            self.admin.as_ref().map(AdminFace::face),
            self.ops.as_ref().map(|it| &it.face),
        ];
        let rounds: Vec<_> = faces.into_iter().flatten().map(|face| face.round()).collect();
        move || rounds.iter().for_each(|round| round())
    }

    /// Puts a new config into force: loads, builds and binds all of it first, so that one that
    /// fails changes nothing.
    pub async fn reload(&mut self, new: Result<Config, String>) -> Result<(), Failure> {
        let outcome = match new {
            Ok(new) => self.replace(new).await,
            Err(what) => Err(Failure(what)),
        };
        self.metrics.config_last_reload_successful.set(i64::from(outcome.is_ok()));
        outcome
    }

    async fn replace(&mut self, new: Config) -> Result<(), Failure> {
        if let Some(key) = self.config.restart_needed(&new) {
            return Err(Failure(format!("{key} has changed, which needs a restart")));
        }
        let Doors { proxy: doors, decision: asked_at, admin: admin_tls, watched } = doors(&new)?;
        let prepared = match (&self.admin, &new.admin) {
            (Some(face), Some(admin)) => Some(face.prepare(&new, admin).await?),
            _ => None,
        };
        let settings = new.proxy.as_ref().map(|proxy| settings(proxy, &new.log)).transpose()?;
        let forwarding = self.proxy.as_ref().map(|it| it.entrance.plan(LISTENERS, doors));
        let forwarding = forwarding.transpose()?;
        let deciding = self.decision.as_ref().map(|it| it.entrance.plan(DECISION, asked_at));
        let deciding = deciding.transpose()?;
        if let (Some(face), Some(settings), Some(proxy), Some(plan)) =
            (&mut self.proxy, settings, &new.proxy, forwarding)
        {
            face.shared.settings.store(Arc::new(settings));
            face.entrance.limits.store(Arc::new(proxy.limits.clone()));
            face.entrance.change(plan);
        }
        if let (Some(face), Some(proxy), Some(plan)) = (&mut self.decision, &new.proxy, deciding) {
            let settings = decision::Settings::new(proxy, &new.decision, &new.log);
            let settings = settings.succeeding(&face.shared.settings.load());
            face.shared.settings.store(Arc::new(settings));
            face.entrance.limits.store(Arc::new(patient(&proxy.limits)));
            face.entrance.change(plan);
        }
        self.certificates.replace(watched);
        if let (Some(face), Some(admin), Some(prepared)) = (&self.admin, &new.admin, prepared) {
            face.reconfigure(admin, prepared, admin_tls);
        }
        if let Some(driver) = &self.driver {
            driver.reconfigure(terms(&new));
        }
        self.authority.reconfigure(&new.credentials);
        self.config = new;
        self.tell_config();
        Ok(())
    }

    fn tell_config(&self) {
        self.metrics.config_hash.reset();
        let hash = format!("{:08x}", crc32fast::hash(self.config.to_yaml().as_bytes()));
        self.metrics.config_hash.with_label_values(&[&hash]).set(1.0);
        self.metrics.config_last_reload_successful.set(1);
        self.metrics.config_last_reload_success_time.set(self.clock.now().wall.as_seconds());
    }

    /// Says no to `/readyz`, goes on accepting for `drain.delay` unless `hurried`, and then lets
    /// requests finish until `drain.deadline`. Whether none was cut off.
    pub async fn drain(&self, hurried: bool) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        let mut finished = true;
        let proxy = self.proxy.as_ref().map(|proxy| &proxy.entrance);
        let decision = self.decision.as_ref().map(|decision| &decision.entrance);
        if let Some(drain) = self.config.proxy.as_ref().map(|proxy| &proxy.drain) {
            if !hurried {
                proxy.into_iter().chain(decision).for_each(|it| it.face.leave());
                tokio::time::sleep(drain.delay.0).await;
            }
            let left = async |entrance: Option<&Entrance>| match entrance {
                Some(entrance) => entrance.drain(drain.deadline.0).await,
                None => 0,
            };
            let (forwarding, deciding) = tokio::join!(left(proxy), left(decision));
            let connections = forwarding + deciding;
            self.metrics.drain_cut_off.inc_by(connections as u64);
            finished = connections == 0;
            if !finished {
                tracing::error!(connections, "drain.deadline has passed; what is left is cut off");
            }
        }
        if let Some(admin) = &self.admin
            && !admin.drain(ADMIN_DRAIN).await
        {
            tracing::warn!("the admin API's last requests are cut off");
            finished = false;
        }
        finished
    }

    /// Ends all threads and waits until the last line is written.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        self.minder.stop();
        if let Some(proxy) = self.proxy {
            proxy.entrance.end().await;
        }
        if let Some(decision) = self.decision {
            decision.entrance.end().await;
        }
        // Nothing is decided here any more, which the admin API may be told.
        if let Some(driver) = self.driver {
            driver.stop();
        }
        if let Some(cloud) = self.cloud {
            cloud.stop().await;
        }
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        if self.log_end.recv_timeout(LOG_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("standard output is not read; the last access lines are lost");
        }
        let traces_end = self.traces_end.map(|end| end.recv_timeout(TRACES_PATIENCE));
        if traces_end == Some(Err(RecvTimeoutError::Timeout)) {
            tracing::warn!("the receiver of traces is slow; the last spans are lost");
        }
        if let Some(ops) = self.ops {
            if self.metrics.drain_cut_off.get() > 0 {
                ops.be_seen(&self.clock, hurry).await;
            }
            ops.face.end([ops.acceptor]).await;
        }
    }
}

/// Then clients are told that we know nothing, which is better than no answer.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);
const LOAD_PAUSE: Duration = Duration::from_millis(20);
/// For whoever reads the metrics to do so once more.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(15);
const LOG_PATIENCE: Duration = Duration::from_secs(2);
const TRACES_PATIENCE: Duration = Duration::from_secs(3);
/// For what the admin API still answers when we leave.
const ADMIN_DRAIN: Duration = Duration::from_secs(5);

/// Returns once every worker has come round its loop.
type Round = Box<dyn Fn() + Send + Sync>;

fn terms(config: &Config) -> Terms {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    Terms::new(config.replica.name.clone().unwrap_or_else(host), &config.credentials)
}

/// The admin API that is followed, if the source is one.
fn feed(
    config: &Config,
    core: Option<&Core>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<dyn Feed>>, Failure> {
    Ok(match config.credentials.source {
        Source::File | Source::Tencent | Source::Alibaba => None,
        Source::Embedded => {
            let core = core.expect("a checked config has an admin section");
            let (store, replicas) = (Arc::clone(&core.store), Arc::clone(&core.replicas));
            Some(Arc::new(Embedded::new(store, replicas, clock.clone())))
        }
        Source::Native => {
            let native = config.credentials.native.as_ref().expect("a checked config has it");
            let instance = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            let native = Native::new(native, instance, clock.clone(), Arc::clone(metrics));
            let failed = |what| Failure(format!("credentials.native: {what}"));
            Some(Arc::new(native.map_err(failed)?))
        }
    })
}

fn settings(proxy: &config::Proxy, log: &config::Log) -> Result<proxy::Settings, Failure> {
    proxy::Settings::new(proxy, log).map_err(|faults| Failure(faults.join("\n")))
}

fn start_traces(
    settings: &traces::Settings,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<(Traces, Receiver<()>), Failure> {
    let certificate = settings.certificate.as_deref();
    let http = client::pool(settings.is_secure(), certificate, 1)
        .map_err(|what| Failure(format!("{}: {what}", settings.certificate_name)))?;
    let started = Traces::start(settings, http, clock.clone(), Arc::clone(metrics));
    let started = started.map_err(Failure)?;
    let receiver = settings.receiver();
    tracing::info!(receiver, "spans are sent");
    if settings.exposes_headers() {
        tracing::warn!(
            receiver,
            "the receiver's headers cross the network in clear text: use https://"
        );
    }
    Ok(started)
}

impl ProxyFace {
    fn start(
        config: &config::Proxy,
        shared: Arc<proxy::Shared>,
        authority: &Arc<Authority>,
        log: AccessLog,
        traces: Option<Traces>,
    ) -> Self {
        let limits = Arc::new(ArcSwap::from_pointee(config.limits.clone()));
        let (parts, authority) = (Arc::clone(&shared), Arc::clone(authority));
        let face = Face::start("proxy", workers(config), &limits, &shared.metrics, move |timers| {
            let spans = traces.as_ref().map(Traces::buffer);
            Proxy::new(Arc::clone(&parts), authority.seat(), log.buffer(), spans, timers)
        });
        Self { shared, entrance: Entrance::new("proxy", face, limits) }
    }
}

impl DecisionFace {
    fn start(
        config: &config::Proxy,
        shared: Arc<decision::Shared>,
        authority: &Arc<Authority>,
        log: AccessLog,
        traces: Option<Traces>,
    ) -> Self {
        let limits = Arc::new(ArcSwap::from_pointee(patient(&config.limits)));
        let (parts, authority) = (Arc::clone(&shared), Arc::clone(authority));
        let face = Face::start("decision", workers(config), &limits, &shared.metrics, move |_| {
            let spans = traces.as_ref().map(Traces::buffer);
            Decision::new(Arc::clone(&parts), authority.seat(), log.buffer(), spans)
        });
        Self { shared, entrance: Entrance::new("decision", face, limits) }
    }
}

fn workers(config: &config::Proxy) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.workers.unwrap_or_else(cores)
}

/// Edges keep connections for up to an hour, and ask again over one that we have just closed.
fn patient(limits: &Limits) -> Limits {
    Limits { idle_timeout: limits.idle_timeout.max(Span::seconds(3660)), ..limits.clone() }
}

impl OpsFace {
    fn start(ops: Ops, listener: Listener) -> Self {
        tell_listening("ops", &listener, false);
        let limits =
            Arc::new(ArcSwap::from_pointee(Limits { connections: 256, ..Limits::default() }));
        let metrics = Arc::clone(&ops.metrics);
        let scrapes = ops.scrapes.clone();
        let face = Face::start("ops", 1, &limits, &metrics, move |_| ops.clone());
        let face = Arc::new(face);
        let acceptor = face.accept(listener, Transport::default());
        Self { face, scrapes, acceptor }
    }

    /// Waits until the metrics are read once more, if that is soon: what happened at the end would
    /// never be known otherwise.
    async fn be_seen(&self, clock: &Clock, hurry: impl Future<Output = ()>) {
        let mut scrapes = self.scrapes.subscribe();
        let (next, now) = (scrapes.borrow_and_update().next(), clock.uptime());
        let is_near = |next: Uptime| next.since(now).max(now.since(next)) < SCRAPE_PATIENCE;
        if next.is_some_and(is_near) {
            let seen = tokio::time::timeout(SCRAPE_PATIENCE, scrapes.changed());
            tokio::select! {
                _ = seen => {}
                () = hurry => {}
            }
        }
    }
}

/// The thread that looks after files and clocks once a second.
struct Minder {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// What the minder looks after.
struct Minded {
    files: files::Follower,
    clock: Clock,
    proxy: Option<Arc<proxy::Shared>>,
    admin: Option<Arc<crate::admin::Service>>,
    certificates: Arc<Certificates>,
}

impl Minded {
    fn look(&mut self) {
        self.clock.settle();
        self.files.poll();
        if let Some(proxy) = &self.proxy {
            proxy.settings.load().refresh();
        }
        if let Some(admin) = &self.admin {
            admin.members().refresh();
            admin.keys().refresh();
        }
        self.certificates.poll();
    }
}

impl Minder {
    fn start(mut minded: Minded) -> Self {
        let (stop, stopped) = channel();
        let mind = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                minded.look();
            }
        };
        let thread = std::thread::Builder::new().name("minder".into()).spawn(mind);
        Self { stop, thread: thread.expect("a thread can be started") }
    }

    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the minder has panicked");
        }
    }
}

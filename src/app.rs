//! Wiring: makes the parts from a config, replaces them at a reload, and takes them down in order.

mod certificates;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;

use crate::authority::Authority;
use crate::authority::files::{Follower, INTERVAL};
use crate::clock::Clock;
use crate::config::{self, Config, Limits};
use crate::ops::Ops;
use crate::proxy::{Proxy, Settings, Shared};
use crate::server::{Acceptor, Face, Tls, bind};
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use certificates::{Certificates, Watched};

/// The running product. Must be made and used within a tokio runtime.
pub struct App {
    config: Config,
    clock: Clock,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    proxy: Option<ProxyFace>,
    ops: Option<OpsFace>,
    certificates: Arc<Certificates>,
    minder: Minder,
    log_end: Receiver<()>,
}

struct ProxyFace {
    face: Arc<Face>,
    shared: Arc<Shared>,
    limits: Arc<ArcSwap<Limits>>,
    /// With the address as configured.
    acceptors: Vec<(SocketAddr, Acceptor)>,
}

struct OpsFace {
    face: Arc<Face>,
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
    /// Starts everything that the config names. Access lines go to `access`.
    pub fn start(
        config: Config,
        clock: Clock,
        access: impl io::Write + Send + 'static,
    ) -> Result<Self, Failure> {
        let metrics = Arc::new(Metrics::new());
        let authority = Authority::new(&config.credentials, Arc::clone(&metrics));
        let draining = Arc::new(AtomicBool::new(false));

        // All that can fail comes before the first thread.
        let settings =
            config.proxy.as_ref().map(|proxy| settings(proxy, &config.log)).transpose()?;
        let (doors, watched) = doors(config.proxy.as_ref())?;
        let listeners: Vec<_> =
            doors.into_iter().map(Door::bind).collect::<Result<_, Failure>>()?;
        let ops_listener = match &config.ops {
            Some(ops) => Some(bind_for("ops.listen", ops.listen.0)?),
            None => None,
        };

        let (log, log_end) = AccessLog::start(access, config.log.format, Arc::clone(&metrics));
        let proxy = config.proxy.as_ref().zip(settings).map(|(config, settings)| {
            let settings = ArcSwap::from_pointee(settings);
            let (clock, metrics) = (clock.clone(), Arc::clone(&metrics));
            let shared = Arc::new(Shared { settings, clock, metrics });
            ProxyFace::start(config, shared, &authority, log)
        });
        let round: Arc<dyn Fn() + Send + Sync> = match &proxy {
            Some(proxy) => Arc::new(proxy.face.round()),
            None => Arc::new(|| {}),
        };
        let follower =
            Follower::start(&config.credentials, Arc::clone(&authority), clock.clone(), round)
                .map_err(|invalid| Failure(invalid.to_string()))?;
        let minded = proxy.as_ref().map(|proxy| Arc::clone(&proxy.shared));
        let certificates = Arc::new(Certificates::new(clock.clone(), Arc::clone(&metrics)));
        certificates.replace(watched);
        let minder = Minder::start(follower, clock.clone(), minded, Arc::clone(&certificates));

        let ops = ops_listener.map(|listener| {
            let (authority, metrics) = (Arc::clone(&authority), Arc::clone(&metrics));
            let draining = Arc::clone(&draining);
            let clock = clock.clone();
            OpsFace::start(Ops { authority, clock, metrics, draining }, listener)
        });
        let mut app = Self {
            config,
            clock,
            authority,
            metrics,
            draining,
            proxy,
            ops,
            certificates,
            minder,
            log_end,
        };
        if let Some(proxy) = &mut app.proxy {
            listeners.into_iter().for_each(|(door, listener)| proxy.accept(door, listener));
        }
        app.tell_config();
        Ok(app)
    }

    /// Whether there is a table to decide by.
    pub fn is_loaded(&self) -> bool {
        self.authority.is_loaded()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Puts a new config into force: loads, builds and binds all of it first, so that one that
    /// fails changes nothing.
    pub fn reload(&mut self, new: Result<Config, String>) -> Result<(), Failure> {
        let outcome = new.map_err(Failure).and_then(|new| self.replace(new));
        self.metrics.config_last_reload_successful.set(i64::from(outcome.is_ok()));
        outcome
    }

    fn replace(&mut self, new: Config) -> Result<(), Failure> {
        if let Some(key) = self.config.restart_needed(&new) {
            return Err(Failure(format!("{key} has changed, which needs a restart")));
        }
        if let (Some(proxy), Some(config)) = (&mut self.proxy, &new.proxy) {
            let settings = settings(config, &new.log)?;
            let (doors, watched) = doors(Some(config))?;
            let mut superfluous: Vec<_> = proxy.acceptors.iter().map(|(it, _)| *it).collect();
            let (mut kept, mut bound) = (Vec::new(), Vec::new());
            for door in doors {
                match superfluous.iter().position(|it| *it == door.address) {
                    Some(place) => {
                        superfluous.remove(place);
                        kept.push(door);
                    }
                    None => bound.push(door.bind()?),
                }
            }
            proxy.shared.settings.store(Arc::new(settings));
            proxy.limits.store(Arc::new(config.limits.clone()));
            self.certificates.replace(watched);
            proxy.keep(kept);
            bound.into_iter().for_each(|(door, listener)| proxy.accept(door, listener));
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
        let Some((proxy, config)) = self.proxy.as_ref().zip(self.config.proxy.as_ref()) else {
            return true;
        };
        if !hurried {
            proxy.face.leave();
            tokio::time::sleep(config.drain.delay.0).await;
        }
        let acceptors = proxy.acceptors.iter().map(|(_, acceptor)| acceptor);
        let finished = proxy.face.drain(acceptors, config.drain.deadline.0).await;
        if !finished {
            let connections = proxy.face.connections();
            tracing::error!(connections, "drain.deadline has passed; what is left is cut off");
        }
        finished
    }

    /// Ends all threads and waits until the last line is written.
    pub async fn stop(self) {
        self.minder.stop();
        if let Some(ops) = self.ops {
            ops.face.end([ops.acceptor]).await;
        }
        if let Some(proxy) = self.proxy {
            proxy.face.end(proxy.acceptors.into_iter().map(|(_, acceptor)| acceptor)).await;
        }
        if self.log_end.recv_timeout(LOG_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("standard output is not read; the last access lines are lost");
        }
    }
}

const LOG_PATIENCE: Duration = Duration::from_secs(2);

fn settings(proxy: &config::Proxy, log: &config::Log) -> Result<Settings, Failure> {
    Settings::new(proxy, log).map_err(|faults| Failure(faults.join("\n")))
}

/// What a listener is to be: its address as configured, and how it is secured.
struct Door {
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Door {
    fn bind(self) -> Result<(Self, TcpListener), Failure> {
        let listener = bind_for("proxy.listeners", self.address)?;
        Ok((self, listener))
    }
}

/// The doors of the proxy, with the files of those that have some read.
fn doors(proxy: Option<&config::Proxy>) -> Result<(Vec<Door>, Vec<Watched>), Failure> {
    let (mut doors, mut watched, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let listeners = proxy.into_iter().flat_map(|proxy| &proxy.listeners);
    for (index, listener) in listeners.enumerate() {
        let place = format!("proxy.listeners[{index}].tls");
        let load = |tls| Watched::load(tls, &place, listener.address);
        let mut door = Door { address: listener.address.0, tls: None };
        match listener.tls.as_ref().map(load).transpose() {
            Ok(loaded) => {
                door.tls = loaded.as_ref().map(|it| Arc::clone(&it.tls));
                watched.extend(loaded);
            }
            Err(told) => faults.extend(told),
        }
        doors.push(door);
    }
    if faults.is_empty() { Ok((doors, watched)) } else { Err(Failure(faults.join("\n"))) }
}

fn bind_for(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    bind(address).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => ": stop who listens there, or choose another port",
            io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
            io::ErrorKind::PermissionDenied => ": choose a port above 1023",
            _ => "",
        };
        Failure(format!("{key}: cannot listen on {address}: {error}{mend}"))
    })
}

/// Tells where a face can be found, which port 0 leaves to the system.
fn tell_listening(face: &str, listener: &TcpListener, tls: bool) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(face, %address, tls, "listening"),
        Err(error) => tracing::warn!(face, "listening at an unknown address: {error}"),
    }
}

impl ProxyFace {
    fn start(
        config: &config::Proxy,
        shared: Arc<Shared>,
        authority: &Arc<Authority>,
        log: AccessLog,
    ) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.workers.unwrap_or_else(cores);
        let limits = Arc::new(ArcSwap::from_pointee(config.limits.clone()));
        let (parts, authority) = (Arc::clone(&shared), Arc::clone(authority));
        let face = Face::start("proxy", workers, &limits, &shared.metrics, move |timers| {
            Proxy::new(Arc::clone(&parts), authority.seat(), log.buffer(), timers)
        });
        Self { face: Arc::new(face), shared, limits, acceptors: Vec::new() }
    }

    fn accept(&mut self, door: Door, listener: TcpListener) {
        tell_listening("proxy", &listener, door.tls.is_some());
        self.acceptors.push((door.address, self.face.accept(listener, door.tls)));
    }

    /// Goes on with these doors of those that there are, and with no others.
    fn keep(&mut self, doors: Vec<Door>) {
        let mut known = std::mem::take(&mut self.acceptors);
        for door in doors {
            let place = known.iter().position(|(address, _)| *address == door.address);
            let (address, acceptor) = known.remove(place.expect("it is one of them"));
            acceptor.secure(door.tls);
            self.acceptors.push((address, acceptor));
        }
        known.into_iter().for_each(|(_, acceptor)| acceptor.stop());
    }
}

impl OpsFace {
    fn start(ops: Ops, listener: TcpListener) -> Self {
        tell_listening("ops", &listener, false);
        let limits =
            Arc::new(ArcSwap::from_pointee(Limits { connections: 256, ..Limits::default() }));
        let metrics = Arc::clone(&ops.metrics);
        let face = Face::start("ops", 1, &limits, &metrics, move |_| ops.clone());
        let face = Arc::new(face);
        let acceptor = face.accept(listener, None);
        Self { face, acceptor }
    }
}

/// The thread that looks after files and clocks once a second.
struct Minder {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Minder {
    fn start(
        mut follower: Follower,
        clock: Clock,
        proxy: Option<Arc<Shared>>,
        certificates: Arc<Certificates>,
    ) -> Self {
        let (stop, stopped) = channel();
        let mind = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                clock.settle();
                follower.poll();
                if let Some(proxy) = &proxy {
                    proxy.settings.load().refresh_secrets();
                }
                certificates.poll();
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

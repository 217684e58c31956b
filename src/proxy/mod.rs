//! The face that forwards requests. A request passes from the server through route, token and gate
//! to `forward`; whatever refuses it on the way is answered here.

mod answer;
mod forward;
mod headers;
mod pool;
mod record;
mod upstream;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use prometheus::Histogram;

use crate::authority::Seat;
use crate::clock::Clock;
use crate::config::value::{Authorization, Network};
use crate::config::{self, LogPath};
use crate::gate::{Gate, Refused};
use crate::route::{Routes, Target, Unclear};
use crate::server::timer::Timers;
use crate::server::{Connection, Service, Unshown};
use crate::source::watch::{Step, Tracked};
use crate::telemetry::access::LineBuffer;
use crate::telemetry::metrics::Metrics;
use forward::{Body, Forward};
use pool::{Pool, Pools};
use record::{FACE, Record};

/// What a reload replaces as a whole.
pub struct Settings {
    routes: Routes,
    /// By the routes' index.
    upstreams: Vec<Arc<Upstream>>,
    trusted_proxies: Vec<Network>,
    request_body: u64,
    body_idle_timeout: Duration,
    /// How paths are logged; `None` if there is no access log.
    access: Option<LogPath>,
}

impl Settings {
    /// Fails if secrets cannot be read; each text names the key and the file.
    pub fn new(proxy: &config::Proxy, log: &config::Log) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut upstreams = Vec::new();
        for (index, route) in proxy.routes.iter().enumerate() {
            match Upstream::new(&route.upstream) {
                Ok(upstream) => upstreams.push(Arc::new(upstream)),
                Err(what) => {
                    faults.push(format!("proxy.routes[{index}].upstream.authorization: {what}"));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            routes: Routes::new(&proxy.routes),
            upstreams,
            trusted_proxies: proxy.trusted_proxies.clone(),
            request_body: proxy.limits.request_body.0,
            body_idle_timeout: proxy.limits.body_idle_timeout.0,
            access: log.access.then_some(log.path),
        })
    }

    /// Looks whether secrets have changed. One that cannot be read stays as it was.
    pub fn refresh_secrets(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.refresh_secret());
    }
}

/// A backend, and what we show it.
pub struct Upstream {
    /// Unique in this process, also over reloads: pools go by it.
    number: u64,
    config: config::Upstream,
    url_authority: String,
    secret: ArcSwapOption<HeaderValue>,
    secret_file: Option<Mutex<Tracked<HeaderValue>>>,
}

impl Upstream {
    fn new(config: &config::Upstream) -> Result<Self, String> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let upstream = Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            config: config.clone(),
            url_authority: config.url.authority(),
            secret: ArcSwapOption::empty(),
            secret_file: match &config.authorization {
                Authorization::File(path) => {
                    Some(Mutex::new(Tracked::new("upstream.authorization", path)))
                }
                Authorization::Remove | Authorization::Keep => None,
            },
        };
        upstream.refresh_secret();
        match (&upstream.secret_file, upstream.secret()) {
            (Some(file), None) => {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let fault = file.fault().unwrap_or_default();
                Err(format!("{}: {fault}", file.path().display()))
            }
            _ => Ok(upstream),
        }
    }

    fn secret(&self) -> Option<Arc<HeaderValue>> {
        self.secret.load_full()
    }

    /// A changed secret counts when two looks agree on it, the first one at once.
    fn refresh_secret(&self) {
        let Some(file) = &self.secret_file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.step(|content| headers::secret_value(content).map_err(str::to_owned)) {
            Step::Apply(value) => self.secret.store(Some(Arc::new(value))),
            Step::Preview(value) if self.secret.load().is_none() => {
                self.secret.store(Some(Arc::new(value.clone())));
            }
            Step::Preview(_) | Step::Confirm | Step::Wait => {}
        }
    }
}

/// What all workers share.
pub struct Shared {
    pub settings: ArcSwap<Settings>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

/// One worker's proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    gate: Gate,
    local: Rc<Local>,
}

/// What belongs to one worker alone.
struct Local {
    clock: Clock,
    metrics: Arc<Metrics>,
    request_duration: Histogram,
    decision_duration: Histogram,
    lines: LineBuffer,
    timers: Timers,
    pools: RefCell<Pools>,
}

impl Local {
    fn pool<T>(&self, upstream: u64, act: impl FnOnce(&mut Pool) -> T) -> T {
        act(self.pools.borrow_mut().entry(upstream).or_default())
    }

    fn keep(&self, upstream: u64, connection: pool::Connection) {
        let now = self.timers.coarse_millis();
        self.pool(upstream, |pool| pool.put(connection, now));
    }
}

impl Proxy {
    pub fn new(shared: Arc<Shared>, seat: Seat, lines: LineBuffer, timers: &Timers) -> Self {
        let metrics = Arc::clone(&shared.metrics);
        let gate = Gate::new(seat, shared.clock.clone());
        let local = Local {
            clock: shared.clock.clone(),
            request_duration: metrics.request_duration.with_label_values(&[FACE]),
            decision_duration: metrics.decision_duration.with_label_values(&[FACE]),
            metrics,
            lines,
            timers: timers.clone(),
            pools: RefCell::default(),
        };
        Self { shared, gate, local: Rc::new(local) }
    }

    async fn serve(
        &self,
        settings: &Settings,
        parts: &Parts,
        body: &mut Option<Incoming>,
        client: &Connection,
        record: &mut Record,
    ) -> Result<Response<Body>, Refused> {
        let Unshown { query: raw_query, fragment, two_lengths } = client.unshown();
        if two_lengths {
            return Err(Unclear::Framing("the length of the body is told more than once").into());
        }
        if fragment {
            return Err(Unclear::Target("the request target has a fragment").into());
        }
        let target = Target::parse(parts)?;
        let place = settings.routes.find(&target)?; // Known now, told only after authentication.
        if let Some(place) = &place {
            record.placed(place);
        }
        let access = target.access(&parts.method);
        let now = record.begun();
        let permit =
            self.gate.admit(&parts.method, &parts.headers, place.as_ref(), access, &now).await?;
        record.decided(permit.credential());
        let place = place.as_ref().expect("the gate permits nothing without a place");
        let proxy = self;
        let (permit, target) = (&permit, &target);
        let raw_query = raw_query.as_deref();
        let forward = Forward { proxy, settings, client, parts, target, place, permit, raw_query };
        forward.send(body, record).await
    }
}

impl Service for Proxy {
    type Body = Body;
    type BodyError = std::io::Error;

    async fn call(&self, request: Request<Incoming>, client: &Connection) -> Response<Body> {
        let settings = self.shared.settings.load_full();
        let (parts, body) = request.into_parts();
        let mut record = Record::open(&self.local, &parts, client, settings.access);
        let mut body = Some(body);
        let served = self.serve(&settings, &parts, &mut body, client, &mut record).await;
        let mut response = served.unwrap_or_else(|refused| {
            record.refused(&refused);
            refused.refusal.response(&record.request_id).map(Body::whole)
        });
        // A client that still waits for `100 Continue` sends no body after another answer.
        let waits = !record.has_forwarded() && parts.headers.contains_key(EXPECT);
        if let Some(body) = body.filter(|_| !waits) {
            client.discard(body);
        }
        if waits {
            // Whether a body follows is not known, and so neither is where the next request begins.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| body.follow(record)) // Told when the last byte has gone.
    }

    fn tick(&self) {
        self.local.lines.flush();
        let now = self.local.timers.coarse_millis();
        let mut pools = self.local.pools.borrow_mut();
        pools.retain(|_, pool| {
            pool.sweep(now);
            !pool.is_empty()
        });
    }
}

//! The face that forwards requests. A request passes from the server through route, token and gate
//! to `forward`; whatever refuses it on the way is answered here.

mod answer;
mod backend;
mod balance;
mod connect;
mod forward;
mod headers;
mod name;
mod pool;
mod socket;
mod tls;
mod upstream;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::EXPECT;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::authority::Seat;
use crate::clock::Clock;
use crate::config;
use crate::config::value::Network;
use crate::gate::{Gate, Refused};
use crate::record::{Logged, Record, Recorder};
use crate::refusal::Refusal;
use crate::route::{Place, Routes, Target};
use crate::server::timer::Timers;
use crate::server::{Connection, HeadFault, Service};
use crate::telemetry::access::LineBuffer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::SpanBuffer;
use backend::Upstream;
use forward::{Body, Forward};
use pool::{Pool, Pools};

/// What a reload replaces as a whole.
pub struct Settings {
    routes: Routes,
    /// By the routes' index; none where requests are only decided on.
    upstreams: Vec<Option<Upstream>>,
    trusted_proxies: Vec<Network>,
    request_body: u64,
    body_idle_timeout: Duration,
    logged: Logged,
}

impl Settings {
    /// Fails if secrets or certificates cannot be read; each text names the key and the file.
    pub fn new(proxy: &config::Proxy, log: &config::Log) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut upstreams = Vec::new();
        for (index, route) in proxy.routes.iter().enumerate() {
            let place = format!("proxy.routes[{index}].upstream");
            match route.upstream.as_ref().map(|it| Upstream::new(it, &place)).transpose() {
                Ok(upstream) => upstreams.push(upstream),
                Err(told) => faults.extend(told),
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
            logged: log.into(),
        })
    }

    fn upstream(&self, place: &Place<'_>) -> Option<&Upstream> {
        self.upstreams[place.route.index].as_ref()
    }

    /// Looks whether secrets and certificates have changed. What cannot be read stays as it was.
    pub fn refresh(&self) {
        self.upstreams.iter().flatten().for_each(Upstream::refresh);
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
    recorder: Rc<Recorder>,
    timers: Timers,
    pools: RefCell<Pools>,
}

impl Local {
    fn pool(&self, upstream: &Upstream) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        Rc::clone(pools.entry(upstream.number).or_insert_with(|| Rc::new(Pool::new(upstream))))
    }
}

impl Proxy {
    pub fn new(
        shared: Arc<Shared>,
        seat: Seat,
        lines: LineBuffer,
        spans: Option<SpanBuffer>,
        timers: &Timers,
    ) -> Self {
        let gate = Gate::new(seat, shared.clock.clone());
        let (clock, metrics) = (shared.clock.clone(), Arc::clone(&shared.metrics));
        let recorder = Rc::new(Recorder::new("proxy", clock, metrics, lines, spans));
        let local = Local { recorder, timers: timers.clone(), pools: RefCell::default() };
        Self { shared, gate, local: Rc::new(local) }
    }

    fn record(&self, parts: &Parts, client: &Connection, logged: Logged) -> Box<Record> {
        let trace = headers::trace(&parts.headers);
        Record::open(&self.local.recorder, parts, trace, client, logged)
    }

    async fn serve(
        &self,
        settings: &Settings,
        parts: &Parts,
        body: &mut Option<Incoming>,
        client: &Connection,
        record: &mut Record,
    ) -> Result<Response<Body>, Refused> {
        let raw_query = client.raw_query();
        let target = Target::parse(parts)?;
        let place = settings.routes.find(&target)?; // Known now, told only after authentication.
        let place = place.filter(|place| settings.upstream(place).is_some());
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
        let mut record = self.record(&parts, client, settings.logged);
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
            client.end_unframed(response.headers_mut());
        }
        response.map(|body| body.follow(record)) // Told when the last byte has gone.
    }

    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        client: &Connection,
    ) -> Response<Body> {
        let logged = self.shared.settings.load().logged;
        let (parts, _) = request.into_parts();
        let mut record = self.record(&parts, client, logged);
        let refused = Refused::from(Refusal::from(fault));
        record.refused(&refused);
        let response = refused.refusal.response(&record.request_id);
        response.map(|bytes| Body::whole(bytes).follow(record))
    }

    fn tick(&self) {
        self.local.recorder.flush();
        let now = self.local.timers.coarse_millis();
        let mut pools = self.local.pools.borrow_mut();
        pools.retain(|_, pool| pool.sweep(now));
    }
}

//! The face that answers other proxies: whether a request of theirs may pass, and whose it is.
//! Each listener speaks one edge's dialect, which the config fixes and nothing in a request can
//! change. A dialect turns the question into the original request; from there on it is decided as
//! in the proxy, and the dialect words the answer. No body is read and nothing is forwarded here.

mod extauthz;
mod grpc;
mod subrequest;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use crate::authority::Seat;
use crate::clock::Clock;
use crate::config::value::{Authorization, Network};
use crate::config::{self, Edge};
use crate::credential::TenantId;
use crate::gate::{Gate, Permit, Refused};
use crate::identity;
use crate::record::{Logged, Record, Recorder, TRACEPARENT, Trace, single};
use crate::refusal::{REQUEST_ID, Refusal};
use crate::route::{Place, Routes, Target, Unclear};
use crate::server::{Connection, HeadFault, Service};
use crate::telemetry::access::LineBuffer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::SpanBuffer;
use subrequest::{Family, Profile};

/// What a reload replaces as a whole.
pub struct Settings {
    routes: Routes,
    /// By the routes' index: whether the backend is to see the client's `Authorization`.
    keeps_authorization: Vec<bool>,
    /// By the name that the server has for a listener.
    listeners: HashMap<String, Listener>,
    logged: Logged,
}

struct Listener {
    dialect: Dialect,
    tenant: Option<TenantId>,
    allow_from: Vec<Network>,
}

enum Dialect {
    Subrequest(&'static Family, Profile),
    /// What stands before the original path.
    ExtAuthz(String),
    Grpc,
}

impl Settings {
    pub fn new(proxy: &config::Proxy, decision: &[config::Decision], log: &config::Log) -> Self {
        let keeps = |route: &config::Route| {
            let upstream = route.upstream.as_ref();
            upstream.is_some_and(|upstream| upstream.authorization == Authorization::Keep)
        };
        let listeners = decision.iter().enumerate();
        let listeners = listeners.map(|(index, it)| (it.name(index), Listener::new(it)));
        Self {
            routes: Routes::new(&proxy.routes),
            keeps_authorization: proxy.routes.iter().map(keeps).collect(),
            listeners: listeners.collect(),
            logged: log.into(),
        }
    }
}

impl Listener {
    fn new(config: &config::Decision) -> Self {
        let dialect = match config.edge {
            Edge::Nginx => Dialect::Subrequest(&subrequest::ORIGINAL_URI, Profile::Narrow),
            Edge::IngressNginx => Dialect::Subrequest(&subrequest::ORIGINAL_URL, Profile::Narrow),
            Edge::Caddy | Edge::Traefik | Edge::Haproxy => {
                Dialect::Subrequest(&subrequest::FORWARDED, Profile::Plain)
            }
            Edge::Envoy => Dialect::ExtAuthz(match &config.prefix {
                Some(prefix) => prefix.to_string(),
                None => extauthz::PREFIX.to_owned(),
            }),
            Edge::EnvoyGrpc => Dialect::Grpc,
        };
        let tenant = config.tenant.as_ref().map(|name| name.0.clone());
        Self { dialect, tenant, allow_from: config.allow_from.clone() }
    }

    fn lets_ask(&self, client: &Connection) -> bool {
        let peer = client.peer.ip();
        self.allow_from.is_empty() || self.allow_from.iter().any(|it| it.contains(peer))
    }

    fn knows(&self, place: &Place<'_>) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == place.tenant.name)
    }
}

/// What all workers share.
pub struct Shared {
    pub settings: ArcSwap<Settings>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Set when we are about to leave.
    pub draining: Arc<AtomicBool>,
}

/// One worker's part.
pub struct Decision {
    shared: Arc<Shared>,
    gate: Gate,
    recorder: Rc<Recorder>,
}

/// Where a question came from, and by which terms it is answered.
#[derive(Clone, Copy)]
struct Asker<'a> {
    face: &'a Decision,
    settings: &'a Settings,
    listener: &'a Listener,
    client: &'a Connection,
}

impl Asker<'_> {
    /// Answers a question, which the dialect reads as the original request. With a status of 200
    /// the request may pass, and with no other one.
    async fn answer(
        &self,
        question: Parts,
        read: impl FnOnce(Parts) -> Result<Parts, Refusal>,
    ) -> Response<Bytes> {
        let mut record = self.face.record(&question, self.client, self.settings.logged);
        match self.decide(question, read, &mut record).await {
            Ok(response) => {
                record.allowed(response.status());
                response
            }
            Err(refused) => {
                record.refused(&refused);
                refused.refusal.response(&record.request_id)
            }
        }
    }

    async fn decide(
        &self,
        question: Parts,
        read: impl FnOnce(Parts) -> Result<Parts, Refusal>,
        record: &mut Record,
    ) -> Result<Response<Bytes>, Refused> {
        if !self.listener.lets_ask(self.client) {
            return Err(Refusal::AddressRefused.into());
        }
        let original = read(question)?;
        record.about(&original);
        let target = Target::parse(&original)?;
        let routes = &self.settings.routes;
        if target.host.is_none() && routes.need_hosts() {
            return Err(Unclear::Framing("the original request's host is not told").into());
        }
        let place = routes.find(&target)?.filter(|place| self.listener.knows(place));
        if let Some(place) = &place {
            record.placed(place);
        }
        let (method, headers) = (&original.method, &original.headers);
        let (access, now) = (target.access(method), record.begun());
        let admitted = self.face.gate.admit(method, headers, place.as_ref(), access, &now);
        let admitted = tokio::time::timeout(PATIENCE, admitted).await;
        let permit = admitted.map_err(|_| Refusal::UndecidedLookup)??;
        record.decided(permit.credential());
        let place = place.as_ref().expect("the gate permits nothing without a place");
        Ok(self.allowed(&permit, place, &record.request_id))
    }

    /// Every identity header, so that none of the client's own is left in its place.
    fn allowed(&self, permit: &Permit, place: &Place<'_>, request_id: &str) -> Response<Bytes> {
        let id = permit.credential().map_or(ANONYMOUS, |credential| credential.id.as_str());
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        let value = |text| HeaderValue::from_str(text).expect("ids have letters, digits and . _ -");
        headers.insert(identity::CREDENTIAL_ID, value(id));
        headers.insert(identity::TENANT, value(place.tenant.name));
        headers.insert(REQUEST_ID, value(request_id));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.settings.keeps_authorization[place.route.index] {
            response.extensions_mut().insert(KeepsAuthorization);
        }
        response
    }
}

/// Who reads a path that is open to all. No credential can have this id.
const ANONYMOUS: &str = "(anonymous)";

/// An answer after which the backend is to see the client's `Authorization`.
#[derive(Clone)]
struct KeepsAuthorization;

/// The headers that the edge is to take away from what it forwards.
fn removed(response: &Response<Bytes>) -> Option<&'static str> {
    let keeps = response.extensions().get::<KeepsAuthorization>().is_some();
    (!keeps).then_some(AUTHORIZATION.as_str())
}

/// Edges give up after a second, some after 200 ms, and lose what we would have said.
const PATIENCE: Duration = Duration::from_millis(150);

impl Decision {
    pub fn new(
        shared: Arc<Shared>,
        seat: Seat,
        lines: LineBuffer,
        spans: Option<SpanBuffer>,
    ) -> Self {
        let gate = Gate::new(seat, shared.clock.clone());
        let (clock, metrics) = (shared.clock.clone(), Arc::clone(&shared.metrics));
        let recorder = Rc::new(Recorder::new("decision", clock, metrics, lines, spans));
        Self { shared, gate, recorder }
    }

    fn record(&self, question: &Parts, client: &Connection, logged: Logged) -> Box<Record> {
        let said = single(&question.headers, TRACEPARENT).and_then(Trace::parse);
        let trace = said.unwrap_or_else(Trace::begin);
        Record::open(&self.recorder, question, trace, client, logged)
    }

    /// Refuses what cannot be asked: there is no such listener any more, or no proper request.
    fn turn_away(
        &self,
        refusal: Refusal,
        question: &Parts,
        client: &Connection,
        settings: &Settings,
    ) -> Response<Bytes> {
        let mut record = self.record(question, client, settings.logged);
        record.refused(&refusal.into());
        let response = refusal.response(&record.request_id);
        match settings.listeners.get(&*client.listener).map(|it| &it.dialect) {
            Some(Dialect::Subrequest(_, profile)) => profile.word(response),
            _ => response,
        }
    }
}

impl Service for Decision {
    type Body = Body;
    type BodyError = Box<dyn std::error::Error + Send + Sync>;

    async fn call(&self, request: Request<Incoming>, client: &Connection) -> Response<Body> {
        let settings = &*self.shared.settings.load_full();
        let Some(listener) = settings.listeners.get(&*client.listener) else {
            // A reload has closed it, and left its connections to their owners.
            let (question, _) = request.into_parts();
            let refusal = Refusal::AddressRefused;
            let mut response = self.turn_away(refusal, &question, client, settings);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response.map(whole);
        };
        let asker = Asker { face: self, settings, listener, client };
        if let Dialect::Grpc = listener.dialect {
            return grpc::serve(asker, request).await;
        }
        let (question, body) = request.into_parts();
        let waits = !body.is_end_stream() && question.headers.contains_key(EXPECT);
        let mut response = match &listener.dialect {
            Dialect::Subrequest(family, profile) => {
                profile.word(asker.answer(question, |it| family.original(it)).await)
            }
            Dialect::ExtAuthz(prefix) => {
                let original = |it| extauthz::original(it, prefix);
                extauthz::word(asker.answer(question, original).await)
            }
            Dialect::Grpc => unreachable!("served above"),
        };
        if waits {
            // Whether a body follows is not known, and so neither is where the next one begins.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            client.discard(body);
        }
        response.map(whole)
    }

    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        client: &Connection,
    ) -> Response<Body> {
        let (question, _) = request.into_parts();
        let settings = self.shared.settings.load();
        self.turn_away(fault.into(), &question, client, &settings).map(whole)
    }

    fn tick(&self) {
        self.recorder.flush();
    }
}

pub type Body = Either<Full<Bytes>, tonic::body::Body>;

fn whole(bytes: Bytes) -> Body {
    Either::Left(Full::new(bytes))
}

//! The face that answers other proxies: whether a request of theirs may pass, and whose it is.
//! Each listener speaks one edge's dialect, which the config fixes and nothing in a request can
//! change. A dialect turns the question into the original request; from there on it is decided as
//! in the proxy, and the dialect words the answer. Nothing is forwarded here, and no body counts.

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
use http::header::{CACHE_CONTROL, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use crate::authority::Seat;
use crate::clock::Clock;
use crate::config::value::{Authorization, Network};
use crate::config::{self, Edge};
use crate::credential::TenantId;
use crate::gate::{Gate, Refused};
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
    listeners: HashMap<String, Arc<Listener>>,
    /// Those that a reload has closed, for the connections that are left of them.
    closed: HashMap<String, Arc<Listener>>,
    logged: Logged,
    header_bytes: u64,
    header_timeout: Duration,
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
        let listeners = listeners.map(|(index, it)| (it.name(index), Arc::new(Listener::new(it))));
        Self {
            routes: Routes::new(&proxy.routes),
            keeps_authorization: proxy.routes.iter().map(keeps).collect(),
            listeners: listeners.collect(),
            closed: HashMap::new(),
            logged: log.into(),
            header_bytes: proxy.limits.header_bytes.0,
            header_timeout: proxy.limits.header_timeout.0,
        }
    }

    /// Where the connection came in, and whether others still can.
    fn listener(&self, client: &Connection) -> (&Listener, bool) {
        let name = &*client.listener;
        let (open, closed) = (self.listeners.get(name), self.closed.get(name));
        let listener = open.or(closed).expect("a listener that there is or was");
        (listener, open.is_some())
    }

    /// Itself, in the place of these: what they listened to is closed where it is not named now.
    pub fn succeeding(mut self, before: &Self) -> Self {
        let known = before.closed.iter().chain(&before.listeners);
        let left = known.filter(|(name, _)| !self.listeners.contains_key(*name));
        self.closed = left.map(|(name, it)| (name.clone(), Arc::clone(it))).collect();
        self
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

/// What a question is answered by.
#[derive(Clone, Copy)]
struct Terms<'a> {
    face: &'a Decision,
    settings: &'a Settings,
    listener: &'a Listener,
    client: &'a Connection,
}

/// A decision, before a dialect words it.
enum Answer {
    Allowed(Allowed),
    Refused(Response<Bytes>),
}

struct Allowed {
    /// Every header that the backend trusts, so that none of the client's own is left in its place.
    identity: [(HeaderName, HeaderValue); 3],
    /// Whether the backend is to see the client's `Authorization`.
    keeps_authorization: bool,
}

impl Terms<'_> {
    /// Answers a question, which the dialect reads as the original request.
    async fn answer(
        &self,
        question: Parts,
        read: impl FnOnce(Parts) -> Result<Parts, Refusal>,
    ) -> Answer {
        let mut record = self.face.record(&question, self.client, self.settings.logged);
        match self.decide(question, read, &mut record).await {
            Ok(allowed) => {
                record.allowed(StatusCode::OK);
                Answer::Allowed(allowed)
            }
            Err(refused) => {
                record.refused(&refused);
                Answer::Refused(refused.refusal.response(&record.request_id))
            }
        }
    }

    async fn decide(
        &self,
        question: Parts,
        read: impl FnOnce(Parts) -> Result<Parts, Refusal>,
        record: &mut Record,
    ) -> Result<Allowed, Refused> {
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
        let id = permit.credential().map_or(ANONYMOUS, |credential| credential.id.as_str());
        let value = |text| HeaderValue::from_str(text).expect("ids have letters, digits and . _ -");
        Ok(Allowed {
            identity: [
                (HeaderName::from_static(identity::CREDENTIAL_ID), value(id)),
                (HeaderName::from_static(identity::TENANT), value(place.tenant.name)),
                (REQUEST_ID, value(&record.request_id)),
            ],
            keeps_authorization: self.settings.keeps_authorization[place.route.index],
        })
    }

    /// Answers in the listener's dialect.
    async fn respond(&self, question: Request<Incoming>) -> Response<Body> {
        let (question, body) = question.into_parts();
        let mut response = match &self.listener.dialect {
            Dialect::Subrequest(family, profile) => {
                let answer = self.answer(question, |it| family.original(it)).await;
                profile.word(answer.into_response())
            }
            Dialect::ExtAuthz(prefix) => {
                let answer = self.answer(question, |it| extauthz::original(it, prefix)).await;
                extauthz::word(answer)
            }
            Dialect::Grpc => return grpc::serve(*self, Request::from_parts(question, body)).await,
        };
        // An edge that announces its client's body and keeps it to itself would have its next
        // question taken for that body.
        if !body.is_end_stream() {
            self.client.end_unframed(response.headers_mut());
            self.client.discard(body);
        }
        response.map(whole)
    }
}

impl Answer {
    /// With exactly 200 a request may pass, and with nothing else.
    fn into_response(self) -> Response<Bytes> {
        match self {
            Self::Allowed(allowed) => {
                let mut response = Response::new(Bytes::new());
                *response.headers_mut() = HeaderMap::from_iter(allowed.identity);
                let never = HeaderValue::from_static("no-store");
                response.headers_mut().insert(CACHE_CONTROL, never);
                response
            }
            Self::Refused(response) => response,
        }
    }
}

/// Who reads a path that is open to all. No credential can have this id.
const ANONYMOUS: &str = "(anonymous)";

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
}

impl Service for Decision {
    type Body = Body;
    type BodyError = Box<dyn std::error::Error + Send + Sync>;

    async fn call(&self, request: Request<Incoming>, client: &Connection) -> Response<Body> {
        let settings = &*self.shared.settings.load_full();
        let (listener, is_open) = settings.listener(client);
        let terms = Terms { face: self, settings, listener, client };
        let mut response = terms.respond(request).await;
        if !is_open || !listener.lets_ask(client) {
            client.end_after(response.headers_mut());
        }
        response
    }

    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        client: &Connection,
    ) -> Response<Body> {
        let settings = self.shared.settings.load();
        let (question, _) = request.into_parts();
        let mut record = self.record(&question, client, settings.logged);
        let refused = Refused::from(Refusal::from(fault));
        record.refused(&refused);
        let response = refused.refusal.response(&record.request_id);
        let (listener, _) = settings.listener(client);
        let response = match &listener.dialect {
            Dialect::Subrequest(_, profile) => profile.word(response),
            Dialect::ExtAuthz(_) | Dialect::Grpc => response,
        };
        response.map(whole)
    }

    fn tick(&self) {
        self.recorder.flush();
    }
}

pub type Body = Either<Full<Bytes>, tonic::body::Body>;

fn whole(bytes: Bytes) -> Body {
    Either::Left(Full::new(bytes))
}

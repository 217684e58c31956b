//! What is known of one request while it is under way. Told once, when the last byte of the answer
//! has gone or nobody waits for it any more: in a line, in the counters and in the histograms, and in
//! spans if its trace is sampled.

mod journey;
mod trace;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::AsHeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use prometheus::Histogram;

use crate::clock::{Clock, Now, Uptime};
use crate::config::{self, LogPath};
use crate::credential::{Credential, token};
use crate::gate::Refused;
use crate::refusal::{Outcome, REQUEST_ID, Refusal};
use crate::route::{Place, Route};
use crate::server::{Connection, Fate};
use crate::telemetry::access::{Line, LineBuffer};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::SpanBuffer;
use journey::Journey;
pub use trace::{TRACEPARENT, TRACESTATE, Trace};

/// Where one worker of a face tells of its requests.
pub struct Recorder {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    face: &'static str,
    request_duration: Histogram,
    decision_duration: Histogram,
    lines: LineBuffer,
    spans: Option<SpanBuffer>,
}

impl Recorder {
    /// Without `spans` nobody asks for traces.
    pub fn new(
        face: &'static str,
        clock: Clock,
        metrics: Arc<Metrics>,
        lines: LineBuffer,
        spans: Option<SpanBuffer>,
    ) -> Self {
        let (request_duration, decision_duration) = (
            metrics.request_duration.with_label_values(&[face]),
            metrics.decision_duration.with_label_values(&[face]),
        );
        Self { clock, metrics, face, request_duration, decision_duration, lines, spans }
    }

    /// Hands over the lines and spans that have gathered.
    pub fn flush(&self) {
        self.lines.flush();
        if let Some(spans) = &self.spans {
            spans.flush();
        }
    }
}

/// What is told of a request's path, and where.
#[derive(Clone, Copy)]
pub struct Logged {
    /// Whether there is an access log.
    line: bool,
    path: LogPath,
}

impl From<&config::Log> for Logged {
    fn from(log: &config::Log) -> Self {
        Self { line: log.access, path: log.path }
    }
}

pub struct Record {
    pub request_id: String,
    pub trace: Trace,
    /// The client's address; none over a Unix socket.
    pub client: Option<Rc<str>>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    recorder: Rc<Recorder>,
    begun: Now,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    route: Option<Arc<Route>>,
    decided: bool,
    forwarding: bool,
    credential: Option<Arc<Credential>>,
    status: u16,
    outcome: Outcome,
    reason: &'static str,
    upstream: Option<Duration>,
    logged: Logged,
    /// None if its trace is not sampled.
    journey: Option<Box<Journey>>,
    fate: Fate,
}

impl Record {
    pub fn open(
        recorder: &Rc<Recorder>,
        parts: &Parts,
        mut trace: Trace,
        connection: &Connection,
        logged: Logged,
    ) -> Box<Self> {
        recorder.metrics.requests_in_flight.inc();
        let spans = recorder.spans.as_ref();
        let journey =
            spans.and_then(|it| Journey::begin(it.sampler(), &mut trace, parts, connection));
        Box::new(Self {
            request_id: request_id(&parts.headers),
            trace,
            client: connection.address.clone(),
            fate: connection.fate(),
            bytes_in: 0,
            bytes_out: 0,
            recorder: Rc::clone(recorder),
            begun: recorder.clock.now(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            route: None,
            decided: false,
            forwarding: false,
            credential: None,
            status: 0,
            outcome: Refusal::ClientGone.outcome(),
            reason: Refusal::ClientGone.reason(),
            upstream: None,
            logged,
            journey,
        })
    }

    pub fn begun(&self) -> Now {
        self.begun
    }

    /// Another proxy asked, and this is what it asked about.
    pub fn about(&mut self, original: &Parts) {
        (self.method, self.uri) = (original.method.clone(), original.uri.clone());
        if let Some(journey) = &mut self.journey {
            journey.about(original);
        }
    }

    pub fn placed(&mut self, place: &Place<'_>) {
        self.route = Some(Arc::clone(place.route));
    }

    /// The decision has been made; `credential` is whose token it was.
    pub fn decided(&mut self, credential: Option<&Arc<Credential>>) {
        let elapsed = self.elapsed();
        self.recorder.decision_duration.observe(elapsed.as_secs_f64());
        self.decided = true;
        if let Some(journey) = &mut self.journey {
            journey.decided = Some(elapsed);
        }
        self.credential = credential.cloned();
    }

    /// From now on the request's body is asked for.
    pub fn forwarding(&mut self) {
        self.forwarding = true;
    }

    pub fn has_forwarded(&self) -> bool {
        self.forwarding
    }

    /// How the client says that it came, where that is known better than by the connection.
    pub fn scheme(&mut self, scheme: &'static str) {
        if let Some(journey) = &mut self.journey {
            journey.scheme = scheme;
        }
    }

    /// The backend is asked from now on; `server` is its name if there is one for all of it.
    pub fn calling(&mut self, now: Uptime, server: Option<&str>) {
        if let Some(journey) = &mut self.journey {
            journey.call(self.trace.span(), now.since(self.begun.boot), server);
        }
    }

    /// The head of the backend's answer is here.
    pub fn answered(&mut self, since: Uptime, status: StatusCode) {
        let time = self.recorder.clock.uptime().since(since);
        self.recorder.metrics.upstream_duration.observe(time.as_secs_f64());
        self.upstream = Some(time);
        if let Some(journey) = &mut self.journey {
            journey.answered(time, status);
        }
    }

    pub fn allowed(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.outcome = Outcome::Allowed;
        self.reason = self.admission();
    }

    pub fn refused(&mut self, refused: &Refused) {
        let refusal = refused.refusal;
        if !self.decided {
            self.decided(refused.credential.as_ref());
            if let Some(journey) = &mut self.journey {
                journey.refused = true;
            }
        }
        if let Some(credential) = &refused.credential {
            self.recorder.metrics.credential_refused(credential.id.as_str(), refusal.reason());
        }
        self.status = refusal.status().as_u16();
        self.outcome = refusal.outcome();
        self.reason = refusal.reason();
    }

    /// Nobody waits for the answer any more.
    pub fn client_gone(&mut self) {
        self.broken(Refusal::ClientGone.reason());
    }

    /// The answer could not be finished.
    pub fn broken(&mut self, reason: &'static str) {
        self.outcome = Outcome::Failed;
        self.reason = reason;
    }

    /// Why it may pass.
    fn admission(&self) -> &'static str {
        if self.credential.is_some() { "allowed" } else { "open" }
    }

    fn elapsed(&self) -> Duration {
        self.recorder.clock.uptime().since(self.begun.boot)
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("", |route| &route.label)
    }

    fn path(&self) -> &str {
        if self.logged.path == LogPath::Full { self.uri.path() } else { self.route() }
    }

    fn agent(&self) -> &str {
        let agent = self.user_agent.as_ref().and_then(|agent| agent.to_str().ok());
        agent.unwrap_or_default()
    }

    fn write_line(&self, duration: Duration) {
        let credential = self.credential.as_deref();
        self.recorder.lines.write(&Line {
            time: self.begun.wall,
            face: self.recorder.face,
            method: logged_method(&self.method),
            path: self.path(),
            route: self.route(),
            status: self.status,
            outcome: self.outcome.as_str(),
            reason: self.reason,
            tenant: credential.map(|credential| credential.tenant.as_str()),
            credential_id: credential.map(|credential| credential.id.as_str()),
            client: self.client.as_deref(),
            request_id: &self.request_id,
            trace_id: self.trace.id(),
            user_agent: self.agent(),
            duration,
            upstream_duration: self.upstream,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // It may have been us who went away.
        if let Some(limit) = self.fate.get().filter(|_| self.reason == Refusal::ClientGone.reason())
        {
            self.reason = limit;
        }
        let duration = self.elapsed();
        let metrics = &self.recorder.metrics;
        metrics.requests_in_flight.dec();
        self.recorder.request_duration.observe(duration.as_secs_f64());
        let route = self.route.as_ref().map_or("none", |route| &route.label);
        let method = method_label(&self.method);
        let labels = [self.recorder.face, route, method, self.outcome.as_str(), self.reason];
        metrics.requests.with_label_values(&labels).inc();
        if self.logged.line {
            self.write_line(duration);
        }
        if let Some((journey, spans)) = self.journey.take().zip(self.recorder.spans.as_ref()) {
            spans.tell(journey.end(self, duration));
        }
    }
}

/// Strangers choose methods, and may write there what is not to be logged.
fn logged_method(method: &Method) -> &str {
    let text = method.as_str();
    let usual = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if text.len() <= 20 && text.bytes().all(usual) { text } else { "_OTHER" }
}

/// A closed set: strangers choose methods.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

/// The client's request id if it is one that can be logged, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let usable = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(allowed) && !id.contains(token::PREFIX)
    };
    match single(headers, REQUEST_ID).filter(usable) {
        Some(id) => id.to_owned(),
        None => {
            let mut digits = [0; 32];
            hex::encode_to_slice(fastrand::u128(..).to_be_bytes(), &mut digits).expect("it fits");
            std::str::from_utf8(&digits).expect("hexadecimal digits").to_owned()
        }
    }
}

/// A header that is there once, as text.
pub fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_requests_are_kept_if_they_can_be_logged() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append(REQUEST_ID, text.parse().expect("a value"));
            request_id(&headers)
        };
        assert_eq!(id("a.B_c-1"), "a.B_c-1");
        for bad in ["", "a b", "a/b", "scimg_secret", &"x".repeat(65)] {
            assert_eq!(id(bad).len(), 32, "{bad}");
        }
    }

    #[test]
    fn methods_that_nobody_knows_are_not_logged() {
        let logged = |text: &str| logged_method(&text.parse().expect("a method")).to_owned();
        for method in ["GET", "QUERY", "BASELINE-CONTROL"] {
            assert_eq!(logged(method), method);
        }
        for method in ["scimg_secret", "get", &"X".repeat(21)] {
            assert_eq!(logged(method), "_OTHER", "{method}");
        }
    }
}

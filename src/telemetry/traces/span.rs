//! The spans of one request, with the names that OpenTelemetry's conventions for HTTP give to what is
//! known of it. Query strings, bodies and `Authorization` headers are never among what it is given.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::Authority;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use crate::clock::Uptime;
use crate::credential::{Credential, token};
use crate::telemetry::access::redacted;

/// What a worker tells of a request that is sampled, once its last byte has gone.
pub struct Spans {
    pub trace: u128,
    pub flags: u8,
    /// What other systems have said in `tracestate`.
    pub state: String,
    /// The client's span, if it named one.
    pub parent: Option<u64>,
    pub begun: Uptime,
    pub duration: Duration,
    /// One of a closed set.
    pub method: &'static str,
    /// Empty if there is none for the target.
    pub route: String,
    pub path: String,
    pub scheme: &'static str,
    /// As the client named us.
    pub host: String,
    pub client: Option<String>,
    pub user_agent: String,
    /// 0 if the client was gone before it got an answer.
    pub status: u16,
    pub outcome: &'static str,
    pub reason: &'static str,
    /// What went wrong, if it was not the client.
    pub error: Option<&'static str>,
    pub credential: Option<Arc<Credential>>,
    pub decision: Option<Decision>,
    pub upstream: Option<Call>,
}

/// All times count from the request's begin.
pub struct Decision {
    pub ended: Duration,
    pub outcome: &'static str,
    pub reason: &'static str,
}

/// The exchange with the backend, to the head of its answer.
pub struct Call {
    /// The span that the backend has been told of.
    pub span: u64,
    /// Empty if it is one of several.
    pub server: String,
    pub begun: Duration,
    /// None if no answer came.
    pub answer: Option<(Duration, u16)>,
}

impl Spans {
    /// How many there are.
    pub fn count(&self) -> usize {
        1 + usize::from(self.decision.is_some()) + usize::from(self.upstream.is_some())
    }

    /// Puts them into the exporter's form. `begun` is when the request came.
    pub fn write(self, begun: SystemTime, scope: &InstrumentationScope, out: &mut Vec<SpanData>) {
        let server = fastrand::u64(1..);
        let draft = Draft { spans: &self, begun, scope, state: self.state() };
        out.push(draft.request(server));
        out.extend(self.decision.as_ref().map(|decision| draft.decision(server, decision)));
        out.extend(self.upstream.as_ref().map(|call| draft.call(server, call)));
    }

    fn state(&self) -> TraceState {
        let text = &self.state;
        let clean = !text.contains(token::PREFIX);
        clean.then(|| text.parse().ok()).flatten().unwrap_or_default()
    }

    fn ids(&self) -> impl Iterator<Item = KeyValue> {
        let credential = self.credential.as_deref();
        let pairs = credential.map(|credential| {
            [
                ("scim_guard.tenant", credential.tenant.as_str()),
                (CREDENTIAL_ID, credential.id.as_str()),
            ]
        });
        pairs.into_iter().flatten().map(|(key, value)| KeyValue::new(key, value.to_owned()))
    }
}

struct Draft<'a> {
    spans: &'a Spans,
    begun: SystemTime,
    scope: &'a InstrumentationScope,
    state: TraceState,
}

impl Draft<'_> {
    fn request(&self, id: u64) -> SpanData {
        let spans = self.spans;
        // The conventions have this name for methods beyond the closed set.
        let method = if spans.method == OTHER { "HTTP" } else { spans.method };
        let name = match spans.route.as_str() {
            "" => method.to_owned(),
            route => format!("{method} {route}"),
        };
        let mut attributes = vec![
            KeyValue::new(METHOD, spans.method),
            KeyValue::new("url.scheme", spans.scheme),
            KeyValue::new(OUTCOME, spans.outcome),
            KeyValue::new(REASON, spans.reason),
        ];
        attributes.extend(text("http.route", &spans.route));
        attributes.extend(text("url.path", redacted(&spans.path)));
        attributes.extend(address(redacted(&spans.host)));
        attributes.extend(text("client.address", spans.client.as_deref().unwrap_or_default()));
        attributes.extend(text("user_agent.original", redacted(&spans.user_agent)));
        if spans.status != 0 {
            attributes.push(KeyValue::new(STATUS, i64::from(spans.status)));
        }
        attributes.extend(spans.ids());
        let error = match spans.error {
            Some(error) => Some(Value::from(error)),
            None => (spans.status >= 500).then(|| spans.status.to_string().into()),
        };
        let parent = spans.parent.unwrap_or_default();
        let mut span = self.span(id, parent, SpanKind::Server, name.into(), attributes, error);
        span.parent_span_is_remote = spans.parent.is_some();
        self.between(span, Duration::ZERO, spans.duration)
    }

    fn decision(&self, parent: u64, decision: &Decision) -> SpanData {
        let mut attributes =
            vec![KeyValue::new(OUTCOME, decision.outcome), KeyValue::new(REASON, decision.reason)];
        attributes.extend(self.spans.ids());
        let (id, name) = (fastrand::u64(1..), "decision".into());
        let span = self.span(id, parent, SpanKind::Internal, name, attributes, None);
        self.between(span, Duration::ZERO, decision.ended)
    }

    fn call(&self, parent: u64, call: &Call) -> SpanData {
        let method = self.spans.method;
        let mut attributes = vec![KeyValue::new(METHOD, method)];
        attributes.extend(address(&call.server));
        let (ended, error) = match call.answer {
            Some((ended, status)) => {
                attributes.push(KeyValue::new(STATUS, i64::from(status)));
                (ended, (status >= 400).then(|| status.to_string().into()))
            }
            None => (self.spans.duration, Some(self.spans.reason.into())),
        };
        let name = if method == OTHER { "HTTP" } else { method };
        let span = self.span(call.span, parent, SpanKind::Client, name.into(), attributes, error);
        self.between(span, call.begun, ended)
    }

    fn span(
        &self,
        id: u64,
        parent: u64,
        span_kind: SpanKind,
        name: Cow<'static, str>,
        mut attributes: Vec<KeyValue>,
        error: Option<Value>,
    ) -> SpanData {
        let status = if error.is_some() { Status::error("") } else { Status::Unset };
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        let (trace, id) = (TraceId::from(self.spans.trace), SpanId::from(id));
        let flags = TraceFlags::new(self.spans.flags);
        SpanData {
            span_context: SpanContext::new(trace, id, flags, false, self.state.clone()),
            parent_span_id: SpanId::from(parent),
            parent_span_is_remote: false,
            span_kind,
            name,
            start_time: self.begun,
            end_time: self.begun,
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn between(&self, mut span: SpanData, begun: Duration, ended: Duration) -> SpanData {
        (span.start_time, span.end_time) = (self.begun + begun, self.begun + ended);
        span
    }
}

fn text(key: &'static str, value: &str) -> Option<KeyValue> {
    (!value.is_empty()).then(|| KeyValue::new(key, value.to_owned()))
}

/// The name and port of a server, as far as they can be told apart.
fn address(authority: &str) -> impl Iterator<Item = KeyValue> {
    let authority = authority.parse::<Authority>().ok();
    let parts = authority.map(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port)));
        [Some(KeyValue::new("server.address", host)), port]
    });
    parts.into_iter().flatten().flatten()
}

/// How a method is told that is none of the closed set.
const OTHER: &str = "_OTHER";
const METHOD: &str = "http.request.method";
const STATUS: &str = "http.response.status_code";
const OUTCOME: &str = "scim_guard.outcome";
const REASON: &str = "scim_guard.reason";
const CREDENTIAL_ID: &str = "scim_guard.credential_id";

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> Spans {
        Spans {
            trace: 0xabc,
            flags: 1,
            state: "a=b,c=d".to_owned(),
            parent: Some(7),
            begun: crate::clock::Clock::system().uptime(),
            duration: Duration::from_millis(9),
            method: "GET",
            route: "/scim/v2".to_owned(),
            path: "/scim/v2/Users".to_owned(),
            scheme: "https",
            host: "[::1]:8443".to_owned(),
            client: Some("10.0.0.1".to_owned()),
            user_agent: "agent".to_owned(),
            status: 200,
            outcome: "allowed",
            reason: "allowed",
            error: None,
            credential: None,
            decision: Some(Decision {
                ended: Duration::from_millis(1),
                outcome: "allowed",
                reason: "allowed",
            }),
            upstream: Some(Call {
                span: 9,
                server: "backend:9000".to_owned(),
                begun: Duration::from_millis(2),
                answer: Some((Duration::from_millis(8), 200)),
            }),
        }
    }

    fn written(spans: Spans) -> Vec<SpanData> {
        let (count, mut out) = (spans.count(), Vec::new());
        let scope = InstrumentationScope::builder("test").build();
        spans.write(SystemTime::UNIX_EPOCH, &scope, &mut out);
        assert_eq!(out.len(), count);
        out
    }

    fn attribute(span: &SpanData, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.to_string())
    }

    #[test]
    fn decision_and_call_are_children_of_the_request() {
        let spans = written(spans());
        let [request, decision, call] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(request.parent_span_id, SpanId::from(7));
        assert!(request.parent_span_is_remote);
        let own = request.span_context.span_id();
        assert_eq!([decision.parent_span_id, call.parent_span_id], [own, own]);
        assert_eq!(call.span_context.span_id(), SpanId::from(9), "as the backend was told");
        let kinds = [&request.span_kind, &decision.span_kind, &call.span_kind];
        assert_eq!(kinds, [&SpanKind::Server, &SpanKind::Internal, &SpanKind::Client]);
        let at = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        let times = spans.iter().map(|it| (at(it.start_time), at(it.end_time)));
        let expected = [(0, 9), (0, 1), (2, 8)];
        let millis = Duration::from_millis;
        assert!(times.eq(expected.map(|(begun, ended)| (millis(begun), millis(ended)))));
        for span in &spans {
            assert_eq!(span.span_context.trace_id(), TraceId::from(0xabc));
            assert_eq!(span.span_context.trace_state().header(), "a=b,c=d");
            assert_eq!(span.status, Status::Unset);
        }
    }

    #[test]
    fn spans_have_the_names_of_the_conventions() {
        let spans = written(spans());
        assert_eq!(
            spans.iter().map(|span| &*span.name).collect::<Vec<_>>(),
            ["GET /scim/v2", "decision", "GET"]
        );
        for (span, key, value) in [
            (0, "http.request.method", "GET"),
            (0, "http.route", "/scim/v2"),
            (0, "url.path", "/scim/v2/Users"),
            (0, "url.scheme", "https"),
            (0, "server.address", "::1"),
            (0, "server.port", "8443"),
            (0, "client.address", "10.0.0.1"),
            (0, "user_agent.original", "agent"),
            (0, "http.response.status_code", "200"),
            (0, "scim_guard.outcome", "allowed"),
            (1, "scim_guard.reason", "allowed"),
            (2, "server.address", "backend"),
            (2, "server.port", "9000"),
            (2, "http.response.status_code", "200"),
        ] {
            assert_eq!(attribute(&spans[span], key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn what_a_stranger_names_makes_no_name_of_a_span() {
        let odd = Spans { method: OTHER, route: String::new(), host: "a b".to_owned(), ..spans() };
        let span = &written(odd)[0];
        assert_eq!(span.name, "HTTP");
        assert_eq!(attribute(span, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(attribute(span, "server.address"), None);
    }

    #[test]
    fn what_went_wrong_is_told_by_its_reason_or_its_status() {
        let call = Call { answer: None, ..spans().upstream.expect("there") };
        let ours = Spans { status: 504, reason: "upstream_timeout", ..spans() };
        let ours = Spans { error: Some("upstream_timeout"), upstream: Some(call), ..ours };
        let theirs = || spans().upstream.expect("there");
        let theirs = Call { answer: Some((Duration::from_millis(8), 500)), ..theirs() };
        let theirs = Spans { status: 500, upstream: Some(theirs), ..spans() };
        for (spans, error) in [(ours, "upstream_timeout"), (theirs, "500")] {
            let spans = written(spans);
            for index in [0, 2] {
                assert_eq!(attribute(&spans[index], "error.type").as_deref(), Some(error));
                assert_eq!(spans[index].status, Status::error(""));
            }
            assert_eq!(attribute(&spans[1], "error.type"), None);
        }
    }

    #[test]
    fn a_token_is_not_told_wherever_a_client_puts_it() {
        let planted = || "x-scimg_planted".to_owned();
        let state = "a=scimg_planted".to_owned();
        let spans = Spans { path: planted(), user_agent: planted(), host: planted(), ..spans() };
        let text = format!("{:?}", written(Spans { state, ..spans }));
        assert!(!text.contains("planted"), "{text}");
    }
}

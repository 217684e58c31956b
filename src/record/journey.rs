//! What is gathered of a request whose trace is sampled, beside what its record knows anyway.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, StatusCode, header};

use super::{Record, TRACESTATE, Trace, method_label};
use crate::refusal::{Outcome, Refusal};
use crate::server::Connection;
use crate::telemetry::traces::{Call, Decision, Sampler, Spans};

pub struct Journey {
    /// The client's span, if it named one.
    parent: Option<u64>,
    state: String,
    host: String,
    pub scheme: &'static str,
    pub decided: Option<Duration>,
    pub refused: bool,
    call: Option<Call>,
}

impl Journey {
    /// Puts a span of ours into the trace. `None` if it is not sampled.
    pub fn begin(
        sampler: &Sampler,
        trace: &mut Trace,
        parts: &Parts,
        connection: &Connection,
    ) -> Option<Box<Self>> {
        let parent = trace.is_from_client.then(|| (trace.span(), trace.is_sampled()));
        let sampled = sampler.samples(trace.number(), parent.map(|(_, sampled)| sampled));
        trace.go_on(fastrand::u64(1..), sampled);
        sampled.then(|| {
            Box::new(Self {
                parent: parent.map(|(span, _)| span),
                state: if parent.is_some() { state(parts) } else { String::new() },
                host: host(parts).to_owned(),
                scheme: if connection.is_tls() { "https" } else { "http" },
                decided: None,
                refused: false,
                call: None,
            })
        })
    }

    /// Another proxy asked, and this is what it asked about.
    pub fn about(&mut self, original: &Parts) {
        host(original).clone_into(&mut self.host);
    }

    /// `span` is the one that the backend is told of.
    pub fn call(&mut self, span: u64, begun: Duration, server: Option<&str>) {
        let server = server.unwrap_or_default().to_owned();
        self.call = Some(Call { span, server, begun, answer: None });
    }

    /// `time` is how long it took.
    pub fn answered(&mut self, time: Duration, status: StatusCode) {
        if let Some(call) = &mut self.call {
            call.answer = Some((call.begun + time, status.as_u16()));
        }
    }

    /// All that is to be told.
    pub fn end(self, record: &Record, duration: Duration) -> Spans {
        let (outcome, reason) = (record.outcome, record.reason);
        let gone = reason == Refusal::ClientGone.reason();
        let broken = record.status >= 500 && outcome != Outcome::Allowed
            || outcome == Outcome::Failed && !gone;
        let decision = self.decided.map(|ended| match self.refused {
            true => Decision { ended, outcome: outcome.as_str(), reason },
            false => {
                let outcome = Outcome::Allowed.as_str();
                Decision { ended, outcome, reason: record.admission() }
            }
        });
        Spans {
            trace: record.trace.number(),
            flags: record.trace.flags(),
            state: self.state,
            parent: self.parent,
            begun: record.begun.boot,
            duration,
            method: method_label(&record.method),
            route: record.route().to_owned(),
            path: record.path().to_owned(),
            scheme: self.scheme,
            host: self.host,
            client: record.client.as_deref().map(str::to_owned),
            user_agent: record.agent().to_owned(),
            status: record.status,
            outcome: outcome.as_str(),
            reason,
            error: broken.then_some(reason),
            credential: record.credential.clone(),
            decision,
            upstream: self.call,
        }
    }
}

fn host(parts: &Parts) -> &str {
    // Over HTTP/2 it is a part of the target.
    let of_target = parts.uri.authority().map(|authority| authority.as_str());
    of_target.or_else(|| parts.headers.get(header::HOST)?.to_str().ok()).unwrap_or_default()
}

/// It may be told in several lines, which are one list.
fn state(parts: &Parts) -> String {
    let lines = parts.headers.get_all(TRACESTATE).iter();
    let lines = lines.filter_map(|line| HeaderValue::to_str(line).ok());
    lines.collect::<Vec<_>>().join(",")
}

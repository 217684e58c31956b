//! The thread that sends spans: it lets them gather for a while and posts them to the receiver,
//! one batch after the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::InstrumentationScope;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout, timeout_at};

use super::settings::Settings;
use super::span::Spans;
use crate::clock::{Clock, Uptime};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::with_causes;

/// Connections to the receiver, with TLS as its endpoint wants it.
pub type Pool = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

pub(super) struct Export {
    exporter: SpanExporter,
    fault: Fault,
    receiver: String,
    scope: InstrumentationScope,
    clock: Clock,
    metrics: Arc<Metrics>,
    backlog: Arc<AtomicUsize>,
    timeout: Duration,
    batch: usize,
    delay: Duration,
    gathered: Vec<SpanData>,
    complaints: Complaints,
}

/// Why the receiver could not be asked, which the exporter keeps to itself.
type Fault = Arc<Mutex<Option<String>>>;

impl Export {
    pub fn new(
        settings: &Settings,
        http: Pool,
        clock: Clock,
        metrics: Arc<Metrics>,
        backlog: Arc<AtomicUsize>,
    ) -> Result<Self, String> {
        let fault = Fault::default();
        let client = Client { http, fault: Arc::clone(&fault) };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.endpoint.to_string())
            .with_timeout(settings.timeout)
            .build()
            .map_err(|error| format!("traces cannot be sent: {error}"))?;
        exporter.set_resource(&settings.resource);
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self {
            exporter,
            fault,
            receiver: settings.receiver(),
            scope,
            clock,
            metrics,
            backlog,
            timeout: settings.timeout,
            batch: settings.batch,
            delay: settings.delay,
            gathered: Vec::new(),
            complaints: Complaints::default(),
        })
    }

    /// Until all workers have hung up, and what they told is sent.
    pub async fn run(mut self, mut told: UnboundedReceiver<Vec<Spans>>) {
        while let Some(first) = told.recv().await {
            self.take(first);
            let due = Instant::now() + self.delay;
            while self.gathered.len() < self.batch {
                let Ok(Some(more)) = timeout_at(due, told.recv()).await else { break };
                self.take(more);
            }
            self.send().await;
        }
    }

    fn take(&mut self, told: Vec<Spans>) {
        for spans in told {
            let begun = self.clock.wall_at(spans.begun);
            spans.write(begun, &self.scope, &mut self.gathered);
        }
    }

    async fn send(&mut self) {
        while !self.gathered.is_empty() {
            let count = self.gathered.len().min(self.batch);
            let batch = self.gathered.drain(..count).collect();
            // With all that is tried again.
            let sent = timeout(self.timeout, self.exporter.export(batch)).await;
            self.backlog.fetch_sub(count, Ordering::Relaxed);
            let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
            let failure = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(fault.unwrap_or_else(|| error.to_string())),
                Err(_) => Some(fault.unwrap_or_else(|| "no answer in time".to_owned())),
            };
            if let Some(why) = failure {
                self.metrics.spans_dropped.inc_by(count as u64);
                if let Some(spans) = self.complaints.count(count, self.clock.uptime()) {
                    let receiver = &self.receiver;
                    tracing::warn!(receiver, spans, "spans are lost: {why}");
                }
            }
        }
    }
}

/// Losses are told once a minute at most.
#[derive(Default)]
struct Complaints {
    last: Option<Uptime>,
    untold: usize,
}

impl Complaints {
    /// How many are to be told of now, if it is time.
    fn count(&mut self, lost: usize, now: Uptime) -> Option<usize> {
        self.untold += lost;
        if self.last.is_some_and(|last| now.since(last) < COMPLAINT_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Client {
    http: Pool,
    fault: Fault,
}

impl Client {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.request(request.map(Full::new)).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.exchange(request).await;
        let fault = answer.as_ref().err().map(|error| with_causes(&**error));
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        answer
    }
}

const ANSWER_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn losses_are_told_once_a_minute_and_none_is_left_out() {
        let clock = Clock::manual(Timestamp::from_millis(0));
        let mut complaints = Complaints::default();
        assert_eq!(complaints.count(3, clock.uptime()), Some(3));
        clock.advance(Duration::from_secs(59));
        assert_eq!(complaints.count(4, clock.uptime()), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(complaints.count(5, clock.uptime()), Some(9));
    }
}

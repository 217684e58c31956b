//! The face for operators: liveness, readiness, metrics, version. It never says no because of a
//! table that has grown old: then every pod would leave at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::clock::{Clock, Uptime};
use crate::server::{Connection, HeadFault, Service};
use crate::telemetry::metrics::Metrics;

#[derive(Clone)]
pub struct Ops {
    pub authority: Arc<Authority>,
    /// Whether requests are decided here. An admin API alone needs no table, and one whose store is
    /// disputed must be reached to be told what to do.
    pub decides: bool,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Set when we are about to leave.
    pub draining: Arc<AtomicBool>,
    pub scrapes: watch::Sender<Scrapes>,
}

/// When the metrics were read last, and the time before.
#[derive(Clone, Copy, Default)]
pub struct Scrapes {
    last: Option<Uptime>,
    before: Option<Uptime>,
}

impl Scrapes {
    /// When they will be read again, if that can be told.
    pub fn next(self) -> Option<Uptime> {
        let (last, before) = self.last.zip(self.before)?;
        Some(last.plus(last.since(before)))
    }
}

impl Ops {
    fn answer(&self, method: &Method, path: &str, query: &str) -> (StatusCode, Content) {
        if ![Method::GET, Method::HEAD].contains(method) {
            return (StatusCode::METHOD_NOT_ALLOWED, Content::Text("only GET and HEAD\n".into()));
        }
        match path {
            "/livez" => (StatusCode::OK, Content::Text("ok\n".into())),
            "/readyz" => self.readiness(query),
            "/metrics" => (StatusCode::OK, self.metrics()),
            "/version" => (StatusCode::OK, version()),
            _ => {
                let known = "known here: /livez /readyz /metrics /version\n";
                (StatusCode::NOT_FOUND, Content::Text(known.into()))
            }
        }
    }

    /// `?exclude=table` leaves the table out, for sidecars whose pod must start without it;
    /// `?verbose` tells all checks.
    fn readiness(&self, query: &str) -> (StatusCode, Content) {
        let has = |wanted: &str| query.split('&').any(|parameter| parameter == wanted);
        let draining = self.draining.load(Ordering::Relaxed);
        let loaded = self.authority.is_loaded();
        let excluded = has("exclude=table") || !self.decides;
        let ready = !draining && (loaded || excluded);
        let mut text = String::new();
        if has("verbose") || !ready {
            let mark = |good: bool| if good { "[+]" } else { "[-]" };
            let aside = if excluded { " (excluded)" } else { "" };
            let age = self.authority.age(&self.clock.now()).unwrap_or_default();
            text =
                format!("{}table loaded{aside}\n{}not draining\n", mark(loaded), mark(!draining));
            if loaded {
                text += &format!("[i]table confirmed {} s ago\n", age.as_secs());
            }
        }
        let (status, verdict) = match ready {
            true => (StatusCode::OK, "ok\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        };
        (status, Content::Text(text + verdict))
    }

    fn metrics(&self) -> Content {
        self.metrics.table_age.reset();
        if let Some(age) = self.authority.age(&self.clock.now()) {
            self.metrics.table_age.with_label_values(&["credentials"]).set(age.as_secs_f64());
        }
        for (tenant, age) in self.authority.lags(&self.clock.now()) {
            let age = age.map_or(f64::INFINITY, |age| age.as_secs_f64());
            self.metrics.table_age.with_label_values(&[tenant.as_str()]).set(age);
        }
        let now = Some(self.clock.uptime());
        self.scrapes.send_modify(|it| *it = Scrapes { last: now, before: it.last });
        Content::Metrics(self.metrics.render())
    }
}

enum Content {
    Text(String),
    Metrics(Vec<u8>),
    Json(String),
}

fn version() -> Content {
    let version = serde_json::json!({ "name": "scim-guard", "version": env!("CARGO_PKG_VERSION") });
    Content::Json(format!("{version}\n"))
}

impl Service for Ops {
    type Body = Full<Bytes>;
    type BodyError = Infallible;

    async fn call(&self, request: Request<Incoming>, _: &Connection) -> Response<Full<Bytes>> {
        let uri = request.uri();
        let (status, content) =
            self.answer(request.method(), uri.path(), uri.query().unwrap_or_default());
        content.response(status)
    }

    fn refuse(
        &self,
        fault: HeadFault,
        _: Request<Incoming>,
        _: &Connection,
    ) -> Response<Full<Bytes>> {
        Content::Text(format!("{}\n", fault.detail())).response(fault.status())
    }
}

impl Content {
    fn response(self, status: StatusCode) -> Response<Full<Bytes>> {
        let (kind, bytes) = match self {
            Self::Text(text) => ("text/plain; charset=utf-8", text.into()),
            Self::Metrics(text) => ("text/plain; version=0.0.4; charset=utf-8", text.into()),
            Self::Json(text) => ("application/json", text.into()),
        };
        let mut response = Response::new(Full::new(bytes));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

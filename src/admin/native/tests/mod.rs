//! The native API over the store in memory.

mod access;
mod credentials;
mod follow;
mod stream;
mod upkeep;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::input::Peer;
use super::{Native, Response};
use crate::admin::{Members, Service};
use crate::clock::{Clock, Timestamp};
use crate::config::value::{Instant, SecretRef, TenantName};
use crate::config::{AdminLimits, AdminToken, Role};
use crate::credential::TenantId;
use crate::store::memory::Memory;
use crate::store::replicas::Replicas;
use crate::telemetry::metrics::Metrics;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const BEAT: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(10);

/// An admin API with the tenants `z-1` and `z-2`, and a token for each role: its name and `-token`,
/// filled up with dots. Those that end in `-1` see `z-1` only.
struct World {
    clock: Clock,
    store: Arc<Memory>,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    native: Native,
    folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl World {
    async fn new() -> Self {
        Self::with_limit(2).await
    }

    async fn with_limit(most: usize) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Memory::new(START));
        let engine: Arc<dyn crate::store::Store> = store.clone();
        let replicas =
            Replicas::load(Arc::clone(&engine), HOUR, clock.now()).await.expect("in memory");
        let limits = AdminLimits { credentials_per_tenant: most, ..AdminLimits::default() };
        let members = Arc::new(Members::new(Vec::new()));
        let replicas = Arc::new(replicas);
        let service = Service::new(
            engine,
            replicas,
            members,
            limits.clone(),
            clock.clone(),
            Arc::new(Metrics::new()),
        );
        let service = Arc::new(service);
        let tenants = ["z-1", "z-2"].map(|it| TenantId::parse(it).expect("valid"));
        let tenants = tenants.into_iter().collect();
        service.declare(&tenants).await.expect("in memory");
        service.configure(&limits, tenants);
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let native =
            Native::with_beat(Arc::clone(&service), Arc::clone(&metrics), stop.clone(), BEAT);
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { clock, store, service, metrics, stop, native, folder };
        world.admit(&[
            ("operator", Role::Operator),
            ("responder", Role::Responder),
            ("reader", Role::Reader),
            ("replica", Role::Replica),
            ("operator-1", Role::Operator),
            ("reader-1", Role::Reader),
            ("replica-1", Role::Replica),
        ]);
        world
    }

    /// From now on these tokens are good and no others.
    fn admit(&self, tokens: &[(&str, Role)]) {
        self.admit_until(tokens, None);
    }

    fn admit_until(&self, tokens: &[(&str, Role)], end: Option<Timestamp>) {
        let config = tokens.iter().map(|(name, role)| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, token(name)).expect("written");
            let only = name.ends_with("-1").then(|| TenantId::parse("z-1").expect("valid"));
            AdminToken {
                name: (*name).to_owned(),
                role: *role,
                tenants: only.into_iter().map(TenantName).collect(),
                expires: end.map(Instant),
                token: SecretRef::File(path),
            }
        });
        let config: Vec<_> = config.collect();
        self.service.members().configure(Members::load(&config).expect("readable"), &[]);
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Response {
        let mut request = request.body(body.into()).expect("valid");
        request.extensions_mut().insert(Peer(Some(Ipv4Addr::LOCALHOST.into())));
        self.native.router.clone().oneshot(request).await.expect("it always answers")
    }

    /// Asks as the holder of a token. A body of `null` is none.
    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> Answer {
        let request = request(who, method, path);
        let response = if body.is_null() {
            self.send(request, Body::empty()).await
        } else {
            self.send(request.header(CONTENT_TYPE, "application/json"), body.to_string()).await
        };
        Answer::of(response).await
    }

    async fn get(&self, who: &str, path: &str) -> Answer {
        self.ask(who, "GET", path, Value::Null).await
    }

    /// A new credential of `z-1`, whose id is answered.
    async fn create(&self) -> String {
        let answer = self.ask("operator", "POST", CREDENTIALS, json!({})).await;
        answer.expect(201).body["credential_id"].as_str().expect("an id").to_owned()
    }
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).expect("JSON"),
        };
        assert_eq!(parts.headers["cache-control"], "no-store");
        assert!(parts.headers.contains_key("x-request-id"));
        if parts.status.as_u16() >= 400 {
            assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json");
            assert_eq!(body["status"], parts.status.as_u16());
            let code = body["code"].as_str().expect("a code");
            assert_eq!(body["type"], format!("urn:scim-guard:problem:{code}"));
            for member in ["title", "detail"] {
                assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}");
            }
        }
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// A refusal of this kind.
    fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.body["code"], code);
        answer
    }

    fn revision(&self) -> u64 {
        let revision = self.headers.get("scim-guard-revision").expect("a write's header");
        revision.to_str().expect("text").parse().expect("a number")
    }
}

fn token(who: &str) -> String {
    format!("{who:.<14}-token")
}

fn request(who: &str, method: &str, path: &str) -> http::request::Builder {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = Request::builder().method(method).uri(path);
    request.header(AUTHORIZATION, format!("Bearer {}", token(who)))
}

fn report(name: &str, applied: Option<&str>) -> Value {
    json!({ "name": name, "applied": applied, "max_stale": "1h" })
}

const CREDENTIALS: &str = "/v1/tenants/z-1/credentials";

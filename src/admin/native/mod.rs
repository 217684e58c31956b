//! The native dialect: `/v1/…` in JSON, with problem details and an OpenAPI description that is
//! made from the handlers. It translates and decides nothing: that is the service's.

#[expect(unused_qualifications, reason = "by the macros of utoipa")]
mod credentials;
#[expect(unused_qualifications, reason = "by the macros of utoipa")]
mod follow;
mod input;
mod openapi;
mod problem;
mod stream;
mod tenants;
#[cfg(test)]
mod tests;
#[expect(unused_qualifications, reason = "by the macros of utoipa")]
mod upkeep;
mod views;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body::Frame;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Service;
use crate::credential::Revision;
use crate::refusal::REQUEST_ID;
use crate::server::{self, Connection, HeadFault};
use crate::telemetry::metrics::Metrics;
use input::{Peer, RequestId};
pub use openapi::openapi;
use problem::{Cause, Fault, PROBLEM_TYPE};

/// The face, cheap to clone: one for each worker.
#[derive(Clone)]
pub struct Native {
    router: Router,
}

/// What all requests share.
pub struct Shared {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    /// Ends what would go on for long when we leave.
    stop: CancellationToken,
    /// Between two heartbeats of a stream.
    beat: Duration,
    /// The operation of each method and path.
    actions: HashMap<(Method, String), String>,
    openapi: String,
}

impl Native {
    /// `stop` ends streams and waiting receipts; it is to be cancelled before the face drains.
    pub fn new(service: Arc<Service>, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self::with_beat(service, metrics, stop, BEAT)
    }

    /// What a request for nothing that there is is told.
    pub fn nothing_here(headers: &HeaderMap) -> Response {
        let mut response = Fault::of_status(StatusCode::NOT_FOUND).into_response();
        always(response.headers_mut(), &request_id(headers));
        response
    }

    fn with_beat(
        service: Arc<Service>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
        beat: Duration,
    ) -> Self {
        let (router, description) = operations().split_for_parts();
        let actions = openapi::actions(&description);
        let openapi = openapi();
        let shared = Arc::new(Shared { service, metrics, stop, beat, actions, openapi });
        let router = router
            .fallback(async || Fault::of_status(StatusCode::NOT_FOUND))
            .layer(from_fn_with_state(Arc::clone(&shared), observe))
            .with_state(shared);
        Self { router }
    }
}

const BEAT: Duration = Duration::from_secs(5);

/// Everything that can be asked.
fn operations() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(credentials::create_credential, credentials::list_credentials))
        .routes(routes!(
            credentials::show_credential,
            credentials::patch_credential,
            credentials::delete_credential
        ))
        .routes(routes!(credentials::rotate_credential))
        .routes(routes!(credentials::put_digest))
        .routes(routes!(tenants::list_tenants))
        .routes(routes!(tenants::show_tenant, tenants::put_tenant, tenants::delete_tenant))
        .routes(routes!(tenants::show_synchronization, tenants::put_synchronization))
        .routes(routes!(follow::read_table))
        .routes(routes!(follow::read_changes))
        .routes(routes!(follow::look_up))
        .routes(routes!(follow::put_replica, follow::delete_replica))
        .routes(routes!(follow::list_replicas))
        .routes(routes!(follow::show_receipt))
        .routes(routes!(upkeep::show_history))
        .routes(routes!(upkeep::accept_history))
        .routes(routes!(upkeep::back_up))
        .routes(routes!(upkeep::read_audit))
        .routes(routes!(upkeep::read_openapi))
}

/// What goes for every request: its id, its count, and what no answer may lack.
async fn observe(
    State(shared): State<Arc<Shared>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let id = request_id(request.headers());
    let action = action(&shared, &request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = match request.extensions().get() {
        Some(Ambiguous(what)) => Fault::new(&problem::AMBIGUOUS, *what).into_response(),
        None => in_our_words(next.run(request).await),
    };
    if let Some(Cause(cause)) = response.extensions_mut().remove() {
        tracing::error!(request_id = id, action, "the admin API failed: {cause}");
    }
    always(response.headers_mut(), &id);
    let class = match response.status().as_u16() {
        ..400 => "2xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    shared.metrics.admin_requests.with_label_values(&[action, class]).inc();
    response
}

/// What no answer may lack.
fn always(headers: &mut HeaderMap, request_id: &str) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, HeaderValue::from_str(request_id).expect("it is printable"));
}

/// Problem details in the place of a refusal that our HTTP library has written by itself.
fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_ours = kind.is_some_and(|kind| kind.as_bytes() == PROBLEM_TYPE.as_bytes());
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut ours = Fault::of_status(status).into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        ours.headers_mut().insert(ALLOW, allow.clone());
    }
    ours
}

/// The operation's id, which is one of a closed set.
fn action<'a>(shared: &'a Shared, request: &Request<Body>) -> &'a str {
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    shared.actions.get(&(method, path.to_owned())).map_or("none", String::as_str)
}

/// The client's request id if it is one that can be logged, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let mut given = headers.get_all(REQUEST_ID).iter();
    let id = given.next().filter(|_| given.next().is_none()).and_then(|id| id.to_str().ok());
    let usable = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(allowed) && !input::holds_token(id)
    };
    match id.filter(usable) {
        Some(id) => id.to_owned(),
        None => format!("{:032x}", fastrand::u128(..)),
    }
}

/// An answer to a write, which names the store's revision as of it.
fn revised(revision: Revision, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(REVISION, revision.0.into());
    response
}

const REVISION: HeaderName = HeaderName::from_static("scim-guard-revision");

impl server::Service for Native {
    type Body = Body;
    type BodyError = axum::Error;

    async fn call(&self, request: Request<Incoming>, connection: &Connection) -> Response {
        let (mut parts, incoming) = request.into_parts();
        parts.extensions.insert(Peer(connection.peer.ip()));
        if let Some(certificate) = connection.client_certificate() {
            parts.extensions.insert(Arc::clone(certificate));
        }
        let ambiguous = ambiguity(&parts);
        if let Some(ambiguous) = ambiguous {
            parts.extensions.insert(ambiguous);
        }
        let waits = parts.headers.contains_key(EXPECT);
        let loan =
            Arc::new(Loan { body: Mutex::new(Some(incoming)), begun: AtomicBool::new(false) });
        let request = Request::from_parts(parts, Body::new(Lent(Arc::clone(&loan))));
        let mut response =
            self.router.clone().oneshot(request).await.unwrap_or_else(|no| match no {});
        let rest = loan.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Who still waits for `100 Continue` may send the body or not: where the next request
        // begins cannot be known.
        let waits = waits && !loan.begun.load(Ordering::Relaxed);
        if let Some(rest) = rest.filter(|_| !waits) {
            connection.discard(rest);
        }
        if waits || ambiguous.is_some() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn refuse(&self, fault: HeadFault, request: Request<Incoming>, _: &Connection) -> Response {
        let kind = match fault {
            HeadFault::Framing(_) | HeadFault::Target(_) => &problem::AMBIGUOUS,
            HeadFault::Authorization(_) => &problem::LOGIN_MALFORMED,
            HeadFault::TooLarge(_) => &problem::HEAD_TOO_LARGE,
        };
        let mut response = Fault::new(kind, fault.detail()).into_response();
        always(response.headers_mut(), &request_id(request.headers()));
        response
    }
}

/// A request that somebody before us may have read otherwise.
#[derive(Clone, Copy)]
pub(super) struct Ambiguous(&'static str);

pub(super) fn ambiguity(parts: &Parts) -> Option<Ambiguous> {
    // RFC 9112 section 3.2.
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() || (host.is_none() && parts.version == Version::HTTP_11) {
        return Some(Ambiguous("send one Host header"));
    }
    let named = parts.uri.authority().zip(host);
    let differs = named.is_some_and(|(target, host)| {
        !target.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    });
    differs.then_some(Ambiguous("the target names another host than the Host header"))
}

/// A request's body that can be taken back, to be read to its end when nobody wanted it.
struct Loan {
    body: Mutex<Option<Incoming>>,
    begun: AtomicBool,
}

struct Lent(Arc<Loan>);

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.begun.store(true, Ordering::Relaxed);
        match &mut *self.0.body.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }
}

//! One listener for three dialects. The clouds' SDKs know the path `/` and no other, and sign what
//! they send; whatever else comes is native.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONNECTION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::Service;
use super::alibaba::Alibaba;
use super::native::{self, Native};
use super::signed::{Desk, Received};
use super::tencent::Tencent;
use crate::config::value::TimeOffset;
use crate::server::{self, Connection, HeadFault};
use crate::signature;
use crate::telemetry::metrics::Metrics;

/// All of it, cheap to clone: one for each worker.
#[derive(Clone)]
pub struct AdminApi {
    native: Native,
    tencent: Arc<Tencent>,
    alibaba: Arc<Alibaba>,
}

/// A dialect of signed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Tencent,
    Alibaba,
}

impl AdminApi {
    /// `stop` ends streams and waiting receipts; it is to be cancelled before the face drains.
    pub fn new(
        service: Arc<Service>,
        metrics: Arc<Metrics>,
        tencent_time_offset: TimeOffset,
        stop: CancellationToken,
    ) -> Self {
        let desk = || Desk::new(Arc::clone(&service), Arc::clone(&metrics));
        Self {
            tencent: Arc::new(Tencent::new(desk(), tencent_time_offset)),
            alibaba: Arc::new(Alibaba::new(desk())),
            native: Native::new(service, metrics, stop),
        }
    }
}

impl server::Service for AdminApi {
    type Body = Body;
    type BodyError = axum::Error;

    async fn call(&self, request: Request<Incoming>, connection: &Connection) -> Response {
        let (parts, body) = request.into_parts();
        let signed = Signed::of_head(&parts);
        let is_form = parts.method == Method::POST && is_form(&parts.headers);
        let is_native = parts.uri.path() != "/" || (signed.is_none() && !is_form);
        // Nobody's request, in whichever dialect, and not every signature covers the host.
        if is_native || native::ambiguity(&parts).is_some() {
            return self.native.call(Request::from_parts(parts, body), connection).await;
        }
        let received = Received::read(parts, body, connection).await;
        let mut response = match signed.or_else(|| Signed::of_parameters(received.form())) {
            Some(Signed::Tencent) => self.tencent.answer(&received).await,
            Some(Signed::Alibaba) => self.alibaba.answer(&received).await,
            None => Native::nothing_here(&received.headers),
        };
        if received.is_awaited {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response {
        self.native.refuse(fault, request, connection)
    }
}

impl Signed {
    fn of_head(parts: &Parts) -> Option<Self> {
        let authorization = parts.headers.get(AUTHORIZATION).map_or(&b""[..], |it| it.as_bytes());
        let has = |name| parts.headers.contains_key(name);
        if authorization.starts_with(b"TC3-") {
            Some(Self::Tencent)
        } else if authorization.starts_with(b"ACS3-") {
            Some(Self::Alibaba)
        } else if has("x-tc-action") {
            Some(Self::Tencent)
        } else if has("x-acs-action") {
            Some(Self::Alibaba)
        } else {
            Self::of_parameters(parts.uri.query().unwrap_or_default())
        }
    }

    /// By the parameter that holds the key's id.
    fn of_parameters(text: &str) -> Option<Self> {
        text.split('&').find_map(|pair| match pair.split('=').next() {
            Some("SecretId") => Some(Self::Tencent),
            Some("AccessKeyId") => Some(Self::Alibaba),
            _ => None,
        })
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], |it| it.as_bytes());
    let form = signature::FORM.as_bytes();
    kind.get(..form.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(form))
}

//! What the two dialects of signed requests have in common: a request with all of its body, the six
//! actions, the count of failed logins, and how many requests a second are served.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde_json::{Map, Value};

use super::{Problem, Service};
use crate::clock::{Timestamp, Uptime};
use crate::credential::Status;
use crate::server::Connection;
use crate::signature;
use crate::telemetry::metrics::Metrics;

/// A request as its signature is checked: nothing decoded.
pub struct Received {
    pub method: Method,
    pub headers: HeaderMap,
    pub peer: IpAddr,
    path: String,
    query: String,
    body: Result<Bytes, Unreadable>,
    /// Whether the client still waits for `100 Continue`. It may send the body or not: where its next
    /// request begins cannot be known.
    pub is_awaited: bool,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    TooLarge,
    Late,
    Broken,
}

impl Received {
    pub async fn read(parts: Parts, mut incoming: Incoming, connection: &Connection) -> Self {
        let raw = connection.raw_query().and_then(|bytes| String::from_utf8(bytes).ok());
        let query = raw.unwrap_or_else(|| parts.uri.query().unwrap_or_default().to_owned());
        let declared = incoming.size_hint().lower();
        let is_begun = declared <= BODY_BYTES_MAX as u64;
        let body = if is_begun {
            let read = Limited::new(&mut incoming, BODY_BYTES_MAX).collect();
            match tokio::time::timeout(BODY_TIME, read).await {
                Ok(Ok(body)) => Ok(body.to_bytes()),
                Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unreadable::TooLarge),
                Ok(Err(_)) => Err(Unreadable::Broken),
                Err(_) => Err(Unreadable::Late),
            }
        } else {
            Err(Unreadable::TooLarge)
        };
        let is_awaited = !is_begun && parts.headers.contains_key(EXPECT);
        if body.is_err() && !is_awaited {
            connection.discard(incoming);
        }
        let peer = connection.peer.ip().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Self { is_awaited, ..Self::new(parts, query, body, peer) }
    }

    fn new(mut parts: Parts, query: String, body: Result<Bytes, Unreadable>, peer: IpAddr) -> Self {
        // HTTP/2 tells it in the target alone.
        let authority = parts.uri.authority().map(|it| HeaderValue::from_str(it.as_str()));
        if let Some(Ok(authority)) = authority
            && !parts.headers.contains_key(HOST)
        {
            parts.headers.insert(HOST, authority);
        }
        let path = parts.uri.path().to_owned();
        let (method, headers) = (parts.method, parts.headers);
        Self { method, headers, peer, path, query, body, is_awaited: false }
    }

    pub fn request(&self) -> Result<signature::Request<'_>, Unreadable> {
        let body = self.body.as_ref().map_err(|why| *why)?;
        Ok(signature::Request {
            method: self.method.as_str(),
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            body,
        })
    }

    /// A header's text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn query(&self) -> &str {
        &self.query
    }

    /// The body as a text, empty if it is none.
    pub fn form(&self) -> &str {
        self.body.as_ref().ok().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default()
    }

    #[cfg(test)]
    pub fn of(request: http::Request<Vec<u8>>) -> Self {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let within = body.len() <= BODY_BYTES_MAX;
        let body = within.then(|| body.into()).ok_or(Unreadable::TooLarge);
        Self::new(parts, query, body, IpAddr::from([127, 0, 0, 1]))
    }
}

/// Far more than any action needs: strangers too may have as much of our memory.
const BODY_BYTES_MAX: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(30);

/// What both clouds can be asked to do, each by its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    List,
    UpdateStatus,
    Delete,
    GetSynchronization,
    SetSynchronization,
}

impl Action {
    /// Whether it can only take rights away, with these parameters.
    pub fn restricts<'a>(self, parameter: impl Fn(&str) -> Option<&'a str>) -> bool {
        let disables = |name| parameter(name) == Some(Status::Disabled.as_str());
        match self {
            Self::Delete => true,
            Self::UpdateStatus => disables("NewStatus"),
            Self::SetSynchronization => disables(SYNCHRONIZATION),
            Self::Create | Self::List | Self::GetSynchronization => false,
        }
    }
}

/// The synchronization of a tenant, as a parameter and in answers.
pub const SYNCHRONIZATION: &str = "SCIMSynchronizationStatus";
/// There are no pages; a tenant cannot have as many.
pub const ROWS_MAX: usize = 1 << 20;

/// What an answer tells.
pub type Fields = Map<String, Value>;

pub fn fields<const N: usize>(pairs: [(&str, Value); N]) -> Fields {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Where a dialect finds the service, and what is counted for it.
pub struct Desk {
    pub service: Arc<Service>,
    metrics: Arc<Metrics>,
    /// By key and action.
    seconds: Mutex<HashMap<(String, &'static str), Second>>,
}

/// When it began, and how many requests came in it.
struct Second {
    began: Uptime,
    count: u32,
}

impl Desk {
    pub fn new(service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics, seconds: Mutex::default() }
    }

    /// Counts a failed login, and tells the fault; or another one if too many came from there.
    pub async fn failed<F: From<Problem>>(
        &self,
        received: &Received,
        request_id: &str,
        reason: &'static str,
        fault: F,
    ) -> F {
        let problem = self.service.login_failed(received.peer, request_id.to_owned()).await;
        let limited = matches!(problem, Problem::LoginsLimited { .. });
        let reason = if limited { "limited" } else { reason };
        self.metrics.admin_login_failures.with_label_values(&[reason]).inc();
        if limited { problem.into() } else { fault }
    }

    /// Whether one more request fits into this second; if not, how many there are.
    pub fn pace(&self, key: &str, action: &'static str, most: u32) -> Result<(), u32> {
        let now = self.service.clock().now().boot;
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Second { began: now, count: 0 };
        let second = seconds.entry((key.to_owned(), action)).or_insert(fresh);
        if now.since(second.began) >= Duration::from_secs(1) {
            *second = Second { began: now, count: 0 };
        }
        second.count = second.count.saturating_add(1);
        if second.count <= most { Ok(()) } else { Err(second.count) }
    }

    /// Whether a time, which is told in whole seconds, lies within so much of now in either direction.
    pub fn is_near(&self, time: Timestamp, window: Duration) -> bool {
        let second = |time: Timestamp| time.as_millis().div_euclid(1000);
        let now = second(self.service.clock().now().wall);
        now.abs_diff(second(time)) <= window.as_secs()
    }

    pub fn count(&self, action: &str, class: &str) {
        self.metrics.admin_requests.with_label_values(&[action, class]).inc();
    }
}

pub fn response(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let set = |(name, value): (HeaderName, _)| (name, HeaderValue::from_static(value));
    response.headers_mut().extend([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store")].map(set));
    response
}

/// A random id in the form of a UUID of version 4.
pub fn uuid() -> String {
    let random = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let digits = format!("{random:032x}");
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

/// The name of a parameter that nobody knows, if it can be shown: it may be a secret in the wrong
/// place.
pub fn shown(name: &str) -> &str {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if plain && name.len() <= 40 { name } else { "(another one)" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For these alone there is room on a full disk.
    #[test]
    fn what_only_takes_rights_away_is_told_from_the_rest() {
        for (action, name, value, expected) in [
            (Action::Delete, "", "", true),
            (Action::UpdateStatus, "NewStatus", "Disabled", true),
            (Action::UpdateStatus, "NewStatus", "Enabled", false),
            (Action::UpdateStatus, "", "", false),
            (Action::SetSynchronization, "SCIMSynchronizationStatus", "Disabled", true),
            (Action::SetSynchronization, "NewStatus", "Disabled", false),
            (Action::Create, "NewStatus", "Disabled", false),
            (Action::List, "", "", false),
            (Action::GetSynchronization, "", "", false),
        ] {
            let restricts = action.restricts(|it| (it == name).then_some(value));
            assert_eq!(restricts, expected, "{action:?} {name} {value}");
        }
    }
}

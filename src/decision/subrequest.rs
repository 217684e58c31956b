//! Edges that ask with a request of their own, whose headers tell of the original: nginx, Caddy,
//! Traefik, HAProxy. Method, path and query of the question itself mean nothing.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use crate::refusal::Refusal;
use crate::server::read_target;

/// The headers of one kind of edge, which must set each of them itself. Others may come from its
/// client and are not looked at.
pub struct Family {
    method: HeaderName,
    target: HeaderName,
    /// None if the target is a whole URL.
    host: Option<HeaderName>,
}

pub static ORIGINAL_URI: Family = Family {
    method: HeaderName::from_static("x-original-method"),
    target: HeaderName::from_static("x-original-uri"),
    host: Some(HeaderName::from_static("x-original-host")),
};

pub static ORIGINAL_URL: Family = Family {
    method: HeaderName::from_static("x-original-method"),
    target: HeaderName::from_static("x-original-url"),
    host: None,
};

pub static FORWARDED: Family = Family {
    method: HeaderName::from_static("x-forwarded-method"),
    target: HeaderName::from_static("x-forwarded-uri"),
    host: Some(HeaderName::from_static("x-forwarded-host")),
};

impl Family {
    /// The original request, with the question's other headers: they are the client's.
    pub fn original(&self, mut question: Parts) -> Result<Parts, Refusal> {
        let headers = &question.headers;
        let malformed = Refusal::FramingInvalid;
        let method = once(headers, &self.method).and_then(|it| Method::from_bytes(it).ok());
        let method = method.ok_or(malformed(NO_METHOD))?;
        let target = once(headers, &self.target).ok_or(malformed(NO_TARGET))?;
        let (host, target) = match &self.host {
            None => {
                let (host, target) = split_url(target).ok_or(malformed(NO_URL))?;
                (Some(host), target)
            }
            Some(name) if headers.contains_key(name) => {
                (Some(once(headers, name).ok_or(malformed(NO_HOST))?), target)
            }
            Some(_) => (None, target),
        };
        let uri = read_target(target)?;
        let host = host.map(HeaderValue::from_bytes).transpose().map_err(|_| malformed(NO_HOST))?;
        // Only the oldest version knows requests without a host.
        question.version = if host.is_some() { Version::HTTP_11 } else { Version::HTTP_10 };
        question.headers.remove(HOST);
        question.headers.extend(host.map(|host| (HOST, host)));
        (question.method, question.uri) = (method, uri);
        Ok(question)
    }
}

/// A header that is there once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// Host and target of a URL that nginx has put together of its client's words: whatever stands
/// before the first slash is the host, and must be one.
fn split_url(url: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = url.strip_prefix(b"https://").or_else(|| url.strip_prefix(b"http://"))?;
    rest.iter().position(|byte| *byte == b'/').map(|end| rest.split_at(end))
}

const NO_METHOD: &str = "the original request's method is not told once and well-formed";
const NO_TARGET: &str = "the original request's target is not told once";
const NO_HOST: &str = "the original request's host is not told once and well-formed";
const NO_URL: &str = "the original request's URL is not a whole one";

/// What an edge can pass on to its client.
#[derive(Clone, Copy)]
pub enum Profile {
    Plain,
    /// 200, 401 and 403 alone, and no bodies, which would cost it a connection each. It answers
    /// 500 to anything else, which is right for 503: identity providers try that again.
    Narrow,
}

impl Profile {
    pub fn word(self, response: Response<Bytes>) -> Response<Bytes> {
        match self {
            Self::Plain => response,
            Self::Narrow => narrow(response),
        }
    }
}

fn narrow(response: Response<Bytes>) -> Response<Bytes> {
    let mut response = response.map(|_| Bytes::new());
    response.headers_mut().remove(CONTENT_TYPE);
    let status = response.status();
    if ![200, 401, 403, 503].contains(&status.as_u16()) {
        response.headers_mut().insert(STATUS, HeaderValue::from(status.as_u16()));
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
}

/// What the status would have been.
const STATUS: HeaderName = HeaderName::from_static("x-scim-guard-status");

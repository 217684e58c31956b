//! Envoy's `ext_authz` over HTTP: the question is the original's head behind a prefix, and has no
//! body. Envoy lets a request pass at exactly 200.

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Response, Uri};

use super::Answer;
use crate::refusal::Refusal;

/// What the prefix is if the config says nothing.
pub const PREFIX: &str = "/check";

pub fn original(mut question: Parts, prefix: &str) -> Result<Parts, Refusal> {
    let mut uri = std::mem::take(&mut question.uri).into_parts();
    let whole = uri.path_and_query.as_ref().map_or("", PathAndQuery::as_str);
    let rest = if prefix == "/" { Some(whole) } else { whole.strip_prefix(prefix) };
    let rest = rest.filter(|rest| rest.starts_with('/'));
    let rest =
        rest.ok_or(Refusal::FramingInvalid("the path is not behind the listener's prefix"))?;
    uri.path_and_query = Some(rest.parse().expect("a part of one that starts with a slash"));
    question.uri = Uri::from_parts(uri).expect("only its path has changed");
    Ok(question)
}

pub fn word(answer: Answer) -> Response<Bytes> {
    let removes = matches!(&answer, Answer::Allowed(allowed) if !allowed.keeps_authorization);
    let mut response = answer.into_response();
    if removes {
        response.headers_mut().insert(REMOVED, HeaderValue::from_static("authorization"));
    }
    response
}

/// What Envoy is to take away from the request that it forwards.
const REMOVED: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

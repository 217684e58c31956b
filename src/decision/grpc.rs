//! Envoy's `ext_authz` over gRPC (`envoy.service.auth.v3.Authorization`), and the health service
//! that it may look at. Of Envoy's messages only the fields that are used are known here.

mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::{Allowed, Answer, Body, Terms};
use crate::identity::is_identity;
use crate::record::single;
use crate::refusal::Refusal;
use crate::server::read_target;
use wire::{
    CheckRequest, CheckResponse, Header, HealthCheckRequest, HealthCheckResponse, HttpRequest,
};

pub async fn serve(terms: Terms<'_>, request: Request<Incoming>) -> Response<Body> {
    let (question, body) = request.into_parts();
    let misplaced = match terms.listener.lets_ask(terms.client) {
        true => misplaced(&question),
        false => Some(StatusCode::FORBIDDEN),
    };
    // gRPC's own errors come with 200, which other edges would take for a permit.
    if let Some(status) = misplaced {
        terms.client.discard(body);
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = status;
        return response;
    }
    let is_check = question.uri.path() == CHECK;
    let request = Request::from_parts(question, body);
    // A client's head is within these limits, and protobuf adds a few bytes a header.
    let bytes = 2 * terms.settings.header_bytes as usize;
    let answered = async {
        match is_check {
            true => {
                let mut grpc = Grpc::new(ProstCodec::default());
                grpc = grpc.apply_max_message_size_config(Some(bytes), None);
                grpc.unary(Check(terms), request).await
            }
            false => Grpc::new(ProstCodec::default()).unary(Health(terms), request).await,
        }
    };
    let timer = terms.client.timers().timer();
    let answered = timer.limit(terms.settings.header_timeout, answered).await;
    let late = || Status::deadline_exceeded("the question is too slow").into_http();
    answered.unwrap_or_else(|_| late()).map(Either::Right)
}

/// The status for what is no call of ours.
fn misplaced(question: &Parts) -> Option<StatusCode> {
    let kind = single(&question.headers, CONTENT_TYPE).unwrap_or_default();
    if question.version != Version::HTTP_2 || !kind.starts_with("application/grpc") {
        return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    (![CHECK, HEALTH].contains(&question.uri.path())).then_some(StatusCode::NOT_FOUND)
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + 'a>>;

struct Check<'a>(Terms<'a>);

impl<'a> UnaryService<CheckRequest> for Check<'a> {
    type Response = CheckResponse;
    type Future = Answered<'a, CheckResponse>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let terms = self.0;
        Box::pin(async move {
            let question = request.into_inner().into_http().unwrap_or_default();
            let (mut original, ()) = Request::new(()).into_parts();
            let fault = read(&question, &mut original).err();
            // As far as it could be read, so that a line can tell of it.
            let forged = forged(&original);
            let answer = terms.answer(original, |it| fault.map_or(Ok(it), Err)).await;
            Ok(tonic::Response::new(word(answer, forged)))
        })
    }
}

struct Health<'a>(Terms<'a>);

impl<'a> UnaryService<HealthCheckRequest> for Health<'a> {
    type Response = HealthCheckResponse;
    type Future = Answered<'a, HealthCheckResponse>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let serving = !self.0.face.shared.draining.load(Ordering::Relaxed);
        let answer = match request.get_ref().service.as_str() {
            "" | "envoy.service.auth.v3.Authorization" => Ok(HealthCheckResponse::new(serving)),
            _ => Err(Status::not_found("there is no such service here")),
        };
        Box::pin(std::future::ready(answer.map(tonic::Response::new)))
    }
}

fn read(question: &HttpRequest, original: &mut Parts) -> Result<(), Refusal> {
    let malformed = Refusal::FramingInvalid;
    original.version = Version::HTTP_10; // Which alone knows requests without a host.
    if question.headers().count() > HEADERS_MAX {
        return Err(Refusal::HeadTooLarge("there are too many header fields"));
    }
    let mut agrees = true;
    for header in question.headers() {
        let value = header.value().ok_or(malformed("a header is told in two ways"))?;
        // What stands beside the headers is told among them too.
        match header.key.to_ascii_lowercase().as_str() {
            ":method" => agrees &= value == question.method.as_bytes(),
            ":path" => agrees &= value == question.path.as_bytes(),
            ":authority" | "host" => agrees &= value == question.host.as_bytes(),
            name if name.starts_with(':') => {}
            name => {
                let name = HeaderName::from_bytes(name.as_bytes());
                let header = name.ok().zip(HeaderValue::from_bytes(value).ok());
                let (name, value) = header.ok_or(malformed("a header is malformed"))?;
                original.headers.append(name, value);
            }
        }
    }
    if !agrees {
        return Err(malformed("the question contradicts itself"));
    }
    if !question.host.is_empty() {
        let host = HeaderValue::from_str(&question.host);
        let host = host.map_err(|_| malformed("the original request's host is malformed"))?;
        original.headers.insert(HOST, host);
        original.version = Version::HTTP_11;
    }
    original.method = Method::from_bytes(question.method.as_bytes())
        .map_err(|_| malformed("the original request's method is missing or malformed"))?;
    original.uri = read_target(question.path.as_bytes())?;
    Ok(())
}

/// As many as over HTTP/1.
const HEADERS_MAX: usize = 100;

/// What the client sent that a backend could take for a header of ours.
fn forged(original: &Parts) -> Vec<String> {
    let names = original.headers.keys().map(HeaderName::as_str);
    names.filter(|name| is_identity(name)).map(str::to_owned).collect()
}

fn word(answer: Answer, forged: Vec<String>) -> CheckResponse {
    match answer {
        Answer::Allowed(Allowed { identity, keeps_authorization }) => {
            let ours = |name: &String| identity.iter().any(|(known, _)| known == name.as_str());
            let mut removed = forged;
            removed.retain(|name| !ours(name));
            removed.extend((!keeps_authorization).then(|| "authorization".to_owned()));
            CheckResponse::allowed(
                identity.iter().map(|(name, value)| header(name, value)),
                removed,
            )
        }
        Answer::Refused(response) => refused(&response),
    }
}

fn refused(response: &Response<Bytes>) -> CheckResponse {
    let code = match response.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::PermissionDenied,
    };
    let headers = response.headers().iter().map(|(name, value)| header(name, value));
    CheckResponse::denied(code, response.status().as_u16(), headers, response.body())
}

fn header(name: &HeaderName, value: &HeaderValue) -> Header {
    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
    Header { key: name.as_str().to_owned(), value, raw_value: Vec::new() }
}

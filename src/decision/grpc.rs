//! Envoy's `ext_authz` over gRPC (`envoy.service.auth.v3.Authorization`), and the health service
//! that it may look at. Of Envoy's messages only the fields that are used are known here.

mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;

use super::{Asker, removed};
use crate::identity::is_identity;
use crate::record::single;
use crate::refusal::Refusal;
use crate::server::read_target;
use wire::{CheckRequest, CheckResponse, HttpRequest};

pub async fn serve(asker: Asker<'_>, request: Request<Incoming>) -> Response<super::Body> {
    let (parts, body) = request.into_parts();
    // gRPC's own errors come with 200, which other edges would take for a permit.
    if let Some(status) = misplaced(&parts) {
        asker.client.discard(body);
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = status;
        return response;
    }
    let is_check = parts.uri.path() == CHECK;
    let request = Request::from_parts(parts, body);
    let answered = async {
        match is_check {
            true => grpc(ProstCodec::default()).unary(Check(asker), request).await,
            false => grpc(ProstCodec::default()).unary(Health(asker), request).await,
        }
    };
    let timer = asker.client.timers().timer();
    let answered = timer.limit(QUESTION_TIME, answered).await;
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

/// For a question to arrive whole.
const QUESTION_TIME: Duration = Duration::from_secs(10);

fn grpc<C: tonic::codec::Codec>(codec: C) -> Grpc<C> {
    Grpc::new(codec).apply_max_message_size_config(Some(QUESTION_BYTES), None)
}

/// Envoy takes 60 KiB of headers unless told otherwise, and sends no body unless told to.
const QUESTION_BYTES: usize = 1 << 20;

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + 'a>>;

struct Check<'a>(Asker<'a>);

impl<'a> UnaryService<CheckRequest> for Check<'a> {
    type Response = CheckResponse;
    type Future = Answered<'a, CheckResponse>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let asker = self.0;
        Box::pin(async move {
            let question = request.into_inner().into_http().unwrap_or_default();
            let (original, fault) = original(&question);
            let read = |original| fault.map_or(Ok(original), Err);
            let response = asker.answer(original, read).await;
            Ok(tonic::Response::new(word(&response, &question)))
        })
    }
}

struct Health<'a>(Asker<'a>);

impl<'a> UnaryService<HealthCheckRequest> for Health<'a> {
    type Response = HealthCheckResponse;
    type Future = Answered<'a, HealthCheckResponse>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let draining = self.0.face.shared.draining.load(Ordering::Relaxed);
        let status = if draining { ServingStatus::NotServing } else { ServingStatus::Serving };
        let answer = match request.get_ref().service.as_str() {
            "" | "envoy.service.auth.v3.Authorization" => {
                Ok(HealthCheckResponse { status: status.into() })
            }
            _ => Err(Status::not_found("there is no such service here")),
        };
        Box::pin(std::future::ready(answer.map(tonic::Response::new)))
    }
}

/// The original request as far as it can be read, and what is wrong with it.
fn original(question: &HttpRequest) -> (Parts, Option<Refusal>) {
    let (mut original, ()) = Request::new(()).into_parts();
    original.version = Version::HTTP_10; // Which alone knows requests without a host.
    let fault = read(question, &mut original).err();
    (original, fault)
}

fn read(question: &HttpRequest, original: &mut Parts) -> Result<(), Refusal> {
    let malformed = Refusal::FramingInvalid;
    for (name, value) in question.headers() {
        // Envoy's own words for what stands beside the headers, too.
        let told = match name {
            ":method" => Some(&question.method),
            ":path" => Some(&question.path),
            ":authority" | "host" => Some(&question.host),
            _ if name.starts_with(':') => continue,
            _ => None,
        };
        match told {
            Some(told) if told.as_bytes() == value => {}
            Some(_) => return Err(malformed("the question contradicts itself")),
            None => {
                let name = HeaderName::from_bytes(name.as_bytes());
                let header = name.ok().zip(HeaderValue::from_bytes(value).ok());
                let (name, value) = header.ok_or(malformed("a header is malformed"))?;
                original.headers.append(name, value);
            }
        }
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

fn word(response: &Response<Bytes>, question: &HttpRequest) -> CheckResponse {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), text(value)));
    let code = match response.status() {
        StatusCode::OK => return CheckResponse::allowed(headers, taken_away(response, question)),
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::PermissionDenied,
    };
    CheckResponse::denied(code, response.status().as_u16(), headers, response.body())
}

/// The token, and whatever a backend could take for a header of ours.
fn taken_away(response: &Response<Bytes>, question: &HttpRequest) -> Vec<String> {
    let is_ours = |name: &&str| is_identity(name) && !response.headers().contains_key(*name);
    let forged = question.headers().map(|(name, _)| name).filter(is_ours);
    let mut names: Vec<String> = forged.map(str::to_owned).collect();
    names.extend(removed(response).map(str::to_owned));
    names
}

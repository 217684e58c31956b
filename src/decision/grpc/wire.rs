//! The messages of `envoy/service/auth/v3` and of `grpc/health/v1`, with the fields that we read
//! and write. Fields that are not named here are skipped, as protobuf wants it.

use prost::Message;
use tonic::Code;

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct AttributeContext {
    #[prost(message, optional, tag = "4")]
    request: Option<OriginalRequest>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct OriginalRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

/// It has the client's token.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct HttpRequest {
    #[prost(string, tag = "2")]
    pub method: String,
    /// A map in the definition, which is this on the wire; so a name that comes twice shows.
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Header>,
    /// With the query.
    #[prost(string, tag = "4")]
    pub path: String,
    #[prost(string, tag = "5")]
    pub host: String,
    /// In place of `headers` if Envoy is told to encode raw headers.
    #[prost(message, optional, tag = "13")]
    header_map: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    headers: Vec<Header>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Header {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

impl Header {
    /// `None` if there are two.
    pub fn value(&self) -> Option<&[u8]> {
        match (self.value.as_bytes(), self.raw_value.as_slice()) {
            (value, b"") | (b"", value) => Some(value),
            _ => None,
        }
    }
}

impl CheckRequest {
    pub fn into_http(self) -> Option<HttpRequest> {
        self.attributes?.request?.http
    }
}

impl HttpRequest {
    pub fn headers(&self) -> impl Iterator<Item = &Header> {
        self.headers.iter().chain(self.header_map.iter().flat_map(|map| &map.headers))
    }
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub denied_response: Option<DeniedHttpResponse>,
    #[prost(message, optional, tag = "3")]
    pub ok_response: Option<OkHttpResponse>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct DeniedHttpResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    pub body: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct OkHttpResponse {
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

/// `OVERWRITE_IF_EXISTS_OR_ADD`: what the client sent under the name is gone.
const OVERWRITE: i32 = 2;

fn overwriting(header: Header) -> HeaderValueOption {
    HeaderValueOption { header: Some(header), append_action: OVERWRITE }
}

impl CheckResponse {
    pub fn allowed(headers: impl Iterator<Item = Header>, headers_to_remove: Vec<String>) -> Self {
        let headers = headers.map(overwriting).collect();
        Self {
            status: Some(Status { code: Code::Ok.into() }),
            ok_response: Some(OkHttpResponse { headers, headers_to_remove }),
            denied_response: None,
        }
    }

    pub fn denied(
        code: Code,
        status: u16,
        headers: impl Iterator<Item = Header>,
        body: &[u8],
    ) -> Self {
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: status.into() }),
            headers: headers.map(overwriting).collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        Self {
            status: Some(Status { code: code.into() }),
            denied_response: Some(denied),
            ok_response: None,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl HealthCheckResponse {
    /// `SERVING` or `NOT_SERVING`.
    pub fn new(serving: bool) -> Self {
        Self { status: if serving { 1 } else { 2 } }
    }
}

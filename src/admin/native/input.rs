//! Reads what clients send, strictly: an unknown name or a wrong type is told by the field's name,
//! and never by its value. Whoever can be asked at all is found here too: without a [`Caller`]
//! nothing can be asked of the service.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::Shared;
use super::problem::{self, Fault};
use crate::admin::{Caller, Problem};
use crate::clock::Timestamp;
use crate::config::value::Span;
use crate::credential::feed::PageKey;
use crate::credential::token::{ADMIN_PREFIX, PREFIX};
use crate::credential::{CredentialId, Status, TenantId, TokenDigest};
use crate::server::ClientCertificate;

/// Where a request came from. Whoever runs the router puts it among the request's extensions.
#[derive(Clone, Copy)]
pub struct Peer(pub Option<IpAddr>);

#[derive(Clone)]
pub struct RequestId(pub String);

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Fault> {
        let peer = parts.extensions.get::<Peer>();
        let peer = peer.and_then(|peer| peer.0).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let id = parts.extensions.get::<RequestId>();
        let id = id.map_or(String::new(), |id| id.0.clone());
        let certificate = parts.extensions.get::<Arc<ClientCertificate>>();
        if let Some(certificate) =
            certificate.filter(|_| !parts.headers.contains_key(AUTHORIZATION))
            && let Some(caller) = shared.service.recognize(certificate, peer, id.clone())
        {
            return Ok(caller);
        }
        let token = bearer(&parts.headers)?.to_owned();
        let caller = shared.service.authenticate(&token, peer, id).await;
        caller.map_err(|problem| {
            let reason = match problem {
                Problem::LoginsLimited { .. } => "limited",
                _ => "unknown",
            };
            shared.metrics.admin_login_failures.with_label_values(&[reason]).inc();
            problem.into()
        })
    }
}

/// The token of the one `Authorization` header (RFC 6750 section 2.1). No other place is looked at.
fn bearer(headers: &HeaderMap) -> Result<&[u8], Fault> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let missing = || Fault::new(&problem::TOKEN_MISSING, "send `Authorization: Bearer TOKEN`");
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Fault::new(&problem::LOGIN_MALFORMED, "send one Authorization header"));
    }
    let (scheme, token) = value.as_bytes().split_at_checked(7).ok_or_else(missing)?;
    let token = token.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() {
        return Err(missing());
    }
    Ok(token)
}

/// The tenant that the path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InTenant {
    #[param(value_type = String)]
    pub tenant: TenantId,
}

/// The credential that the path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfCredential {
    #[param(value_type = String)]
    pub tenant: TenantId,
    #[param(value_type = String)]
    pub id: CredentialId,
}

impl OfCredential {
    pub fn key(self) -> PageKey {
        (self.tenant, self.id)
    }
}

/// The last variable part of the path, whatever it is.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for InTenant {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let path = path(parts).await?;
        Ok(Self { tenant: id(&path, "tenant", TenantId::parse)? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfCredential {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let path = path(parts).await?;
        let tenant = id(&path, "tenant", TenantId::parse)?;
        Ok(Self { tenant, id: id(&path, "id", CredentialId::parse)? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let path = path(parts).await?;
        let last = path.iter().last().map(|(_, value)| value.to_owned());
        Ok(Self(last.unwrap_or_default()))
    }
}

async fn path(parts: &mut Parts) -> Result<RawPathParams, Fault> {
    let path = RawPathParams::from_request_parts(parts, &()).await;
    path.map_err(|_| Fault::invalid("path", "must be UTF-8"))
}

fn id<T, E: std::fmt::Display>(
    path: &RawPathParams,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Fault> {
    let value = path.iter().find(|(it, _)| *it == name).map_or("", |(_, value)| value);
    if holds_token(value) {
        return Err(Fault::invalid(name, "is a token: tokens have no place in a path"));
    }
    parse(value).map_err(|error| Fault::invalid(name, format!("is not valid: {error}")))
}

/// The parameters of a query, each at most once.
pub struct Query(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        Self::of(&parts.uri)
    }
}

impl Query {
    fn of(uri: &Uri) -> Result<Self, Fault> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Fault::invalid("query", "cannot be read"))?;
        let mut found = BTreeMap::new();
        for (name, value) in pairs.0 {
            if found.insert(name.clone(), value).is_some() {
                return Err(Fault::invalid(printable(&name), "is given twice"));
            }
        }
        Ok(Self(found))
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A parameter that `parse` takes; `wanted` says what it wants.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let value = self.text(name).map(|text| parse(&text).ok_or_else(|| wants(name, wanted)));
        value.transpose()
    }

    /// How many rows a page may have.
    pub fn rows(&mut self, default: usize, most: usize) -> Result<usize, Fault> {
        let positive = |text: &str| text.parse().ok().filter(|&rows: &u64| rows > 0);
        let rows = self.parsed("rows", "a number of rows, 1 at least", positive)?;
        Ok(rows.map_or(default, |rows| usize::try_from(rows).unwrap_or(most).min(most)))
    }

    pub fn span(&mut self, name: &str) -> Result<Option<Duration>, Fault> {
        self.parsed(name, SPAN, |text| {
            let seconds = || text.parse().ok().map(Duration::from_secs);
            span(text).or_else(seconds)
        })
    }

    pub fn tenant(&mut self) -> Result<Option<TenantId>, Fault> {
        self.parsed("tenant", "a tenant's id", |text| TenantId::parse(text).ok())
    }

    /// Refuses what nobody has asked for. Not for what replicas ask: they may be newer than we are.
    pub fn end(self) -> Result<(), Fault> {
        match self.0.into_keys().next() {
            Some(name) => Err(Fault::invalid(printable(&name), "is no parameter of this")),
            None => Ok(()),
        }
    }
}

/// A body, which may have been empty.
pub struct Payload(Vec<u8>);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let read = Limited::new(body, BODY_BYTES_MAX).collect();
        let read = tokio::time::timeout(BODY_TIME, read).await.map_err(|_| {
            Fault::new(&problem::BODY_TIMEOUT, format!("send it within {} s", BODY_TIME.as_secs()))
        })?;
        let bytes = match read {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let detail = format!("a body may have {BODY_BYTES_MAX} bytes");
                return Err(Fault::new(&problem::BODY_TOO_LARGE, detail));
            }
            Err(_) => return Err(Fault::of_status(StatusCode::BAD_REQUEST)),
        };
        if !bytes.is_empty() && !is_json(&parts.headers) {
            return Err(Fault::new(&problem::MEDIA_TYPE, "send `Content-Type: application/json`"));
        }
        Ok(Self(bytes.to_vec()))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "application/merge-patch+json"
}

impl Payload {
    /// A value that another program has made. Unknown members are passed over.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Fault> {
        let mut reader = serde_json::Deserializer::from_slice(&self.0);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." || error.inner().is_syntax() => "body".to_owned(),
                path => path,
            };
            Fault::invalid(printable(&field), "is missing or not what it should be")
        })
    }
}

/// The members of a body that is a JSON object; an empty body has none. Who takes them takes no
/// query: a parameter such as `dry_run` would be passed over, and the thing be done.
pub struct Members(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Members {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        Query::of(request.uri())?.end()?;
        let Payload(bytes) = Payload::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(Fault::invalid("body", "must be a JSON object")),
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                Err(Fault::invalid("body", format!("is no JSON at {place}")))
            }
        }
    }
}

impl Members {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A member that `read` takes; `wanted` says what it wants. `null` is no way to leave it out.
    fn taken<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let value = self.0.remove(name);
        value.map(|value| read(&value).ok_or_else(|| wants(name, wanted))).transpose()
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        self.taken(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        self.taken(name, "true or false", Value::as_bool)
    }

    pub fn span(&mut self, name: &str) -> Result<Option<Duration>, Fault> {
        self.taken(name, SPAN, |value| match value {
            Value::String(text) => span(text),
            number => number.as_u64().map(Duration::from_secs),
        })
    }

    pub fn time(&mut self, name: &str) -> Result<Option<Timestamp>, Fault> {
        let wanted = "a time with its zone, such as 2027-11-22T00:00:00Z";
        self.taken(name, wanted, |value| value.as_str().and_then(Timestamp::parse))
    }

    pub fn status(&mut self, name: &str) -> Result<Option<Status>, Fault> {
        let read = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        self.taken(name, "Enabled or Disabled", read)
    }

    pub fn digest(&mut self, name: &str) -> Result<Option<TokenDigest>, Fault> {
        let wanted = "sha256: and 64 hexadecimal digits";
        self.taken(name, wanted, |value| value.as_str().and_then(TokenDigest::parse))
    }

    /// Refuses what nobody has asked for.
    pub fn end(self) -> Result<(), Fault> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(Fault::invalid(printable(&name), "is no member of this")),
            None => Ok(()),
        }
    }
}

fn wants(name: &str, wanted: &str) -> Fault {
    Fault::invalid(name, format!("must be {wanted}"))
}

fn span(text: &str) -> Option<Duration> {
    text.parse().ok().map(|Span(span)| span)
}

/// Whether somebody has put a token of ours where it does not belong. It is to go no further.
pub fn holds_token(text: &str) -> bool {
    [PREFIX, ADMIN_PREFIX].iter().any(|prefix| text.contains(prefix))
}

/// A name that is not ours, fit to be shown.
fn printable(name: &str) -> String {
    if holds_token(name) {
        return "(a token)".to_owned();
    }
    name.chars().filter(|it| !it.is_control()).take(64).collect()
}

const SPAN: &str = "a whole number and a unit out of ms, s, m, h, d and y (365 days), such as 90d, \
                    or a whole number of seconds";
const BODY_BYTES_MAX: usize = 1 << 20;
const BODY_TIME: Duration = Duration::from_secs(30);

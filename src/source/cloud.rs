//! The words in which both clouds' SCIM credentials are told, and the line on which both are asked:
//! one request a connection, signed anew each time, bounded in bytes and time. Nothing here tries
//! twice: whether that is safe is for the caller to know.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::{Answer, Pool, date_of, pool};
use crate::clock::{Clock, Timestamp};
use crate::config::read_secret;
use crate::config::value::{AdminUrl, SecretRef};
use crate::credential::{BearerToken, CredentialId, Expiry, Status, TenantId, TokenDigest};
use crate::signature::{Headers, Key};
use crate::store::Provider;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::with_causes;

/// The SCIM credentials of one zone or directory, as a cloud administers them. No call but `create`
/// tells a secret.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    fn provider(&self) -> Provider;

    /// What metrics and logs call it, and where its rows say that they come from.
    fn name(&self) -> &'static str {
        self.provider().as_str()
    }

    fn tenant(&self) -> &TenantId;

    /// All of them, or an error.
    async fn list(&self) -> Result<Vec<Listed>, CloudError>;

    /// How long a new one lives where the cloud takes no wish.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// Makes one that lives as long, or, where the cloud takes no wish, as long as that gives it.
    /// After an uncertain one, `list` tells whether it is there.
    async fn create(&self, lifetime: Duration) -> Result<Created, CloudError>;

    /// A status that it has already is set again.
    async fn set_status(&self, id: &CredentialId, status: Status) -> Result<(), CloudError>;

    async fn delete(&self, id: &CredentialId) -> Result<(), CloudError>;
}

/// A credential as its cloud tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: CredentialId,
    /// Disabled unless the cloud says Enabled.
    pub status: Status,
    pub created: Option<Timestamp>,
    pub expiry: Expiry,
}

/// A new credential with its secret, which is told this once.
#[derive(Debug)]
pub struct Created {
    pub listed: Listed,
    pub secret: CloudSecret,
}

/// A token made by a cloud.
pub struct CloudSecret(String);

impl CloudSecret {
    /// Takes what a client can send as a bearer token.
    fn parse(text: String) -> Option<Self> {
        BearerToken::parse(text.as_bytes()).is_some().then_some(Self(text))
    }

    /// The secret, to be shown once to whom it was made for.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for CloudSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudSecret(..)")
    }
}

/// Why a cloud did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudError {
    /// Nothing was done: we ask too often.
    Throttled { retry_after: Option<Duration> },
    /// Nothing was done: by the cloud's clock the signature is too old or of the future. Trying again
    /// does not help before the clock is right.
    Clock { ours_ahead_millis: Option<i64> },
    /// Nothing was done: our key is not known, or may not do this. Somebody has to mend it.
    Refused(String),
    /// There is no such credential.
    Missing,
    /// There is no such zone or directory.
    TenantMissing(String),
    /// It has as many credentials as it may have, expired and disabled ones among them.
    LimitReached(String),
    /// A listing that cannot be the whole one of this tenant. What was known before still stands.
    Implausible(String),
    /// Certainly nothing was done: the cloud was not reached, or tells nothing about what it was only
    /// asked to read.
    Unreachable(String),
    /// Something may have been done: the answer to a change was lost, or tells nothing.
    Uncertain(String),
    /// Any other no of the cloud.
    Failed { code: String, message: String },
}

impl CloudError {
    /// The label of metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Clock { .. } => "clock",
            Self::Refused(_) => "refused",
            Self::Missing => "missing",
            Self::TenantMissing(_) => "tenant_missing",
            Self::LimitReached(_) => "limit_reached",
            Self::Implausible(_) => "implausible",
            Self::Unreachable(_) => "unreachable",
            Self::Uncertain(_) => "uncertain",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether all is as it was before.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Uncertain(_))
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled { retry_after: Some(wait) } => {
                write!(f, "asked too often: again in {} ms", wait.as_millis())
            }
            Self::Throttled { retry_after: None } => f.write_str("asked too often"),
            Self::Clock { ours_ahead_millis: Some(millis @ 0..) } => {
                write!(f, "the clock here is {millis} ms ahead of the cloud's")
            }
            Self::Clock { ours_ahead_millis: Some(millis) } => {
                write!(f, "the clock here is {} ms behind the cloud's", millis.unsigned_abs())
            }
            Self::Clock { ours_ahead_millis: None } => {
                f.write_str("the clock here and the cloud's differ too much")
            }
            Self::Refused(what) => write!(f, "our key is refused: {what}"),
            Self::Missing => f.write_str("there is no such credential"),
            Self::TenantMissing(what) => write!(f, "there is no such tenant: {what}"),
            Self::LimitReached(what) => write!(f, "there are as many as there may be: {what}"),
            Self::Implausible(what) => write!(f, "this is no whole listing: {what}"),
            Self::Unreachable(what) => f.write_str(what),
            Self::Uncertain(what) => write!(f, "done or not, that is unknown: {what}"),
            Self::Failed { code, message } => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for CloudError {}

/// Whether a request changes anything, if it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Change,
}

impl Effect {
    /// What it means that no answer tells the outcome.
    pub(super) fn lost(self, what: impl Into<String>) -> CloudError {
        match self {
            Self::Read => CloudError::Unreachable(what.into()),
            Self::Change => CloudError::Uncertain(what.into()),
        }
    }
}

/// What an error code of a cloud comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    Throttled,
    Clock,
    Refused,
    /// The key is a good one, and may not do this.
    Forbidden,
    Missing,
    TenantMissing,
    LimitReached,
    /// Something broke in the cloud, at whatever point.
    Broken,
}

/// An error as the cloud tells it.
pub(super) struct Complaint<'a> {
    pub code: &'a str,
    pub message: &'a str,
    /// By which the cloud's support finds the request.
    pub request: &'a str,
    /// What it takes to be allowed it, as policies write it.
    pub permission: String,
    pub retry_after: Option<Duration>,
}

impl Complaint<'_> {
    /// Finds the code, or the family that it belongs to, among those that mean something to us.
    pub(super) fn mean(
        &self,
        codes: &[(&str, Meaning)],
        effect: Effect,
        answer: &Told,
    ) -> CloudError {
        let belongs = |family: &str| {
            let rest = self.code.strip_prefix(family);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let known = codes.iter().find(|(family, _)| belongs(family)).map(|(_, meaning)| *meaning);
        let broken = answer.status.is_server_error().then_some(Meaning::Broken);
        let text = format!("{}: {}", printable(self.code), self.message());
        match known.or(broken) {
            Some(Meaning::Throttled) => CloudError::Throttled { retry_after: self.retry_after },
            Some(Meaning::Clock) => {
                CloudError::Clock { ours_ahead_millis: answer.ours_ahead_millis }
            }
            Some(Meaning::Refused) => CloudError::Refused(text),
            Some(Meaning::Forbidden) => {
                CloudError::Refused(format!("{text}: it needs {}", self.permission))
            }
            Some(Meaning::Missing) => CloudError::Missing,
            Some(Meaning::TenantMissing) => CloudError::TenantMissing(text),
            Some(Meaning::LimitReached) => CloudError::LimitReached(text),
            Some(Meaning::Broken) => effect.lost(text),
            None => CloudError::Failed { code: printable(self.code), message: self.message() },
        }
    }

    fn message(&self) -> String {
        format!("{} (request {})", printable(self.message), printable(self.request))
    }
}

/// A foreign text for the log.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

/// A credential as a cloud writes it.
pub(super) struct Row<'a> {
    pub tenant: &'a str,
    pub id: &'a str,
    pub status: &'a str,
    pub created: Option<&'a str>,
    pub expires: Option<&'a str>,
}

impl Row<'_> {
    /// Fails on what no credential of the tenant has; above all on one that would never end.
    pub(super) fn read(
        &self,
        own: &TenantId,
        time: impl Fn(&str) -> Option<Timestamp>,
    ) -> Result<Listed, String> {
        if self.tenant != own.as_str() {
            return Err(format!("a credential of {}", printable(self.tenant)));
        }
        let id = CredentialId::parse(self.id).map_err(|_| "a credential without an id")?;
        let time = |text: Option<&str>, what| match text {
            Some(text) => {
                let told = || format!("{id} has no {what} that can be read: {}", printable(text));
                time(text).map(Some).ok_or_else(told)
            }
            None => Ok(None),
        };
        let created = time(self.created, "creation time")?;
        let end = time(self.expires, "expiry")?.ok_or_else(|| format!("{id} has no expiry"))?;
        let status = self.status.parse().unwrap_or(Status::Disabled);
        Ok(Listed { id, status, created, expiry: Expiry::At(end) })
    }
}

/// All rows of a listing that tells how many they are.
pub(super) fn whole_listing(
    total: u64,
    rows: impl Iterator<Item = Result<Listed, String>>,
) -> Result<Vec<Listed>, CloudError> {
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(CloudError::Implausible)?;
    if rows.len() as u64 != total {
        let what = format!("{} credentials, and it says {total}", rows.len());
        return Err(CloudError::Implausible(what));
    }
    let mut seen = HashSet::new();
    match rows.iter().find(|row| !seen.insert(&row.id)) {
        Some(twin) => Err(CloudError::Implausible(format!("{} stands there twice", twin.id))),
        None => Ok(rows),
    }
}

/// What an answer holds. What does not fit is not quoted: it may hold a secret.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> Option<T> {
    serde_json::from_value(answer).ok()
}

/// A new credential. What is wrong with it is not quoted, since a secret stands there too; it is lost
/// then.
pub(super) fn created(
    listed: Result<Listed, String>,
    secret: Option<String>,
) -> Result<Created, CloudError> {
    let unfit =
        |_| CloudError::Uncertain("a new credential has come that is not understood".to_owned());
    let listed = listed.map_err(unfit)?;
    match secret.and_then(CloudSecret::parse) {
        Some(secret) => Ok(Created { listed, secret }),
        None => {
            let what = format!("{} has come without a secret that can be used", listed.id);
            Err(CloudError::Uncertain(what))
        }
    }
}

/// Which key signs, as references to its parts.
pub(super) struct KeyRefs {
    pub id: SecretRef,
    pub secret: SecretRef,
    pub token: Option<SecretRef>,
}

/// The parts of a key as they are now.
pub(super) struct KeyParts {
    id: String,
    secret: String,
    token: Option<String>,
}

impl KeyRefs {
    pub(super) fn read(&self) -> Result<KeyParts, CloudError> {
        let read = |reference| read_secret(reference).map_err(CloudError::Unreachable);
        Ok(KeyParts {
            id: read(&self.id)?,
            secret: read(&self.secret)?,
            token: self.token.as_ref().map(read).transpose()?,
        })
    }
}

impl KeyParts {
    pub(super) fn key(&self) -> Key<'_> {
        Key { id: &self.id, secret: &self.secret, token: self.token.as_deref() }
    }
}

/// An answer that came whole.
pub(super) struct Told {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
    pub ours_ahead_millis: Option<i64>,
}

impl Told {
    /// What it comes to that this is no answer of the API, but that of something before it.
    pub(super) fn foreign(&self, effect: Effect) -> CloudError {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return CloudError::Throttled { retry_after: self.retry_after() };
        }
        effect.lost(format!("HTTP {} with something that the API does not say", self.status))
    }

    /// How long the answer asks us to wait; an hour at most.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let asked = self.number("retry-after").map(Duration::from_secs);
        asked.map(|wait| wait.min(WAIT_MAX))
    }

    pub(super) fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }
}

/// Where a cloud is asked.
pub(super) struct Line {
    /// Holds no idle connection: one that is closed just then would swallow a change.
    pool: Pool,
    endpoint: AdminUrl,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// How long one request may take, from the look-up of the name to the last byte.
    patience: Duration,
}

impl Line {
    /// Fails if the certificates of `ca` cannot be read.
    pub(super) fn new(
        endpoint: &AdminUrl,
        ca: Option<&Path>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let pool = pool(endpoint.secure, ca, 0)?;
        Ok(Self { pool, endpoint: endpoint.clone(), clock, metrics, patience: PATIENCE })
    }

    /// As it must be signed.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.authority
    }

    /// The time of signatures.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// Posts what was signed, once.
    pub(super) async fn post(
        &self,
        effect: Effect,
        query: &str,
        headers: Headers,
        body: Vec<u8>,
    ) -> Result<Told, CloudError> {
        let request = self.request(query, headers, body)?;
        let sent = tokio::time::timeout(self.patience, self.send(effect, request)).await;
        let late = || format!("{}: no answer within {:?}", self.endpoint, self.patience);
        sent.unwrap_or_else(|_| Err(effect.lost(late())))
    }

    fn request(
        &self,
        query: &str,
        headers: Headers,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, CloudError> {
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/{mark}{query}", self.endpoint))
            .body(Full::from(body))
            .map_err(|error| CloudError::Unreachable(format!("{}: {error}", self.endpoint)))?;
        for (name, value) in headers {
            // Only what was read from a reference can have such characters.
            let unfit = || format!("the key has characters that {name} cannot have");
            let mut value =
                HeaderValue::try_from(value).map_err(|_| CloudError::Unreachable(unfit()))?;
            value.set_sensitive(name == "authorization" || name.ends_with("token"));
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    async fn send(
        &self,
        effect: Effect,
        request: Request<Full<Bytes>>,
    ) -> Result<Told, CloudError> {
        let text = |what: String| format!("{}: {what}", self.endpoint);
        let response = self.pool.request(request).await.map_err(|error| {
            let what = text(with_causes(&error));
            if error.is_connect() { CloudError::Unreachable(what) } else { effect.lost(what) }
        })?;
        let (parts, body) = response.into_parts();
        let ours_ahead_millis = date_of(&parts.headers).map(|date| {
            let ahead = self.clock.witness(date);
            self.metrics.clock_skew.set(ahead as f64 / 1e3);
            -ahead
        });
        let answer = Answer::read(parts, body, ANSWER_BYTES_MAX).await;
        let Answer { status, headers, body } = answer.map_err(|what| effect.lost(text(what)))?;
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Told { status, headers, json, ours_ahead_millis })
    }
}

pub(super) const WAIT_MAX: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(15);
/// A listing has two credentials.
const ANSWER_BYTES_MAX: usize = 1 << 20;

//! Every way in which the native API says no, as problem details (RFC 9457). Nothing that a
//! client sent is repeated but the names of fields: it may be a secret in the wrong place.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::views::{CredentialJson, HeadJson, KeyJson};
use crate::admin::Problem;
use crate::credential::feed::{Gone, Head};
use crate::store::Record;
use crate::store::replicas::LEASES_MAX;

/// One no: of which kind, and what is to be said about this one.
#[derive(Debug)]
pub struct Fault {
    kind: &'static Kind,
    detail: String,
    /// Further members of the body.
    more: Map<String, Value>,
    retry_after: Option<u64>,
    /// For the log alone.
    cause: Option<String>,
}

/// Status, stable code, and a title that is the same at each occurrence.
#[derive(Debug)]
pub struct Kind(u16, &'static str, &'static str);

pub const INVALID: Kind = Kind(400, "invalid", "The request is not valid");
pub const AMBIGUOUS: Kind =
    Kind(400, "framing_invalid", "The request can be understood in two ways");
pub const LOGIN_MALFORMED: Kind =
    Kind(400, "authorization_malformed", "The Authorization header is ambiguous");
pub const TOKEN_MISSING: Kind = Kind(401, "token_missing", "An admin token is required");
pub const TOKEN_INVALID: Kind = Kind(401, "invalid_token", "The admin token opens nothing");
pub const ROLE: Kind = Kind(403, "role_insufficient", "The token's role does not allow this");
pub const ROUTE_UNKNOWN: Kind = Kind(404, "route_unknown", "There is no such endpoint");
const TENANT_UNKNOWN: Kind = Kind(404, "tenant_unknown", "The tenant is not declared");
const CREDENTIAL_UNKNOWN: Kind = Kind(404, "credential_unknown", "There is no such credential");
const DIGEST_UNKNOWN: Kind = Kind(404, "digest_unknown", "No credential has this digest");
const REVISION_UNKNOWN: Kind = Kind(404, "revision_unknown", "There is no such revision yet");
const METHOD: Kind = Kind(405, "method_not_allowed", "The endpoint does not know this method");
pub const BODY_TIMEOUT: Kind = Kind(408, "body_timeout", "The body did not arrive in time");
const TENANT_IN_USE: Kind = Kind(409, "tenant_in_use", "The tenant still has credentials");
const TENANT_CONFIGURED: Kind = Kind(409, "tenant_configured", "The config names the tenant");
const DIGEST_TAKEN: Kind = Kind(409, "digest_taken", "The token belongs to a credential already");
const LIMIT_REACHED: Kind = Kind(409, "limit_reached", "The tenant has no place left");
const OWNED_BY_CLOUD: Kind = Kind(409, "owned_by_cloud", "The tenant's credentials are a cloud's");
const ROTATED: Kind = Kind(409, "rotated", "The credential was rotated before");
const CHANGES_COMPACTED: Kind =
    Kind(410, "changes_compacted", "The changes after this position are not kept any more");
const HISTORY_UNKNOWN: Kind =
    Kind(410, "history_unknown", "The store has never been at this position");
pub const BODY_TOO_LARGE: Kind = Kind(413, "body_too_large", "The body is too large");
pub const HEAD_TOO_LARGE: Kind = Kind(431, "head_too_large", "The request's head is too large");
pub const MEDIA_TYPE: Kind = Kind(415, "media_type_unsupported", "The body is not JSON");
const LOGINS_LIMITED: Kind = Kind(429, "logins_limited", "Too many failed logins");
const INTERNAL: Kind = Kind(500, "internal", "Something went wrong here");
const CLOUD_UNAVAILABLE: Kind = Kind(503, "cloud_unavailable", "The cloud did not do it");
const CLOUD_UNCERTAIN: Kind = Kind(504, "cloud_uncertain", "The cloud may have done it");
const REPLICAS_LIMITED: Kind = Kind(503, "replicas_limited", "There are too many replicas");
const STORE_FULL: Kind = Kind(503, "store_full", "The store has no room");
const STORE_FAILED: Kind = Kind(503, "store_failed", "The store does not work");
pub const BACKUP_FAILED: Kind = Kind(503, "backup_failed", "The backup could not be written");

/// What a refusal looks like; some have more members, which their description names.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemJson {
    /// A URN for each kind.
    r#type: String,
    title: &'static str,
    status: u16,
    /// What is wrong this time, and how to mend it.
    detail: String,
    /// The kind in one stable word.
    code: &'static str,
    /// Which field of the request is meant; only with the code `invalid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
}

/// Left with an answer for those who write logs.
#[derive(Clone)]
pub struct Cause(pub String);

impl Fault {
    pub fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), more: Map::new(), retry_after: None, cause: None }
    }

    /// A field that is not what it should be. `what` goes on after the field's name.
    pub fn invalid(field: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let field = field.into();
        Self::new(&INVALID, format!("`{field}` {what}")).with("field", field)
    }

    /// The answer for a digest that is nobody's: it counts only together with its head.
    pub fn digest_unknown(head: &Head) -> Self {
        let fault = Self::new(&DIGEST_UNKNOWN, "no credential that you may see has this digest");
        match serde_json::to_value(HeadJson::from(head)) {
            Ok(Value::Object(more)) => Self { more, ..fault },
            _ => unreachable!("a head is an object"),
        }
    }

    /// In the place of an answer that our HTTP library has written by itself.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(&ROUTE_UNKNOWN, "see /v1/openapi.json"),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(&METHOD, "the header Allow tells which"),
            status if status.is_client_error() => Self::new(&INVALID, "it could not be read"),
            _ => Self::new(&INTERNAL, "the log has more"),
        }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn caused_by(self, cause: String) -> Self {
        Self { cause: Some(cause), ..self }
    }

    /// RFC 6750 section 3. No error code for those who sent no token (3.1).
    fn challenge(&self) -> Option<String> {
        let error = match self.kind.1 {
            "token_missing" => return Some(CHALLENGE.to_owned()),
            "invalid_token" => "invalid_token",
            "authorization_malformed" => "invalid_request",
            "role_insufficient" => "insufficient_scope",
            _ => return None,
        };
        Some(format!("{CHALLENGE}, error=\"{error}\""))
    }
}

const CHALLENGE: &str = "Bearer realm=\"scim-guard-admin\"";

impl IntoResponse for Fault {
    fn into_response(mut self) -> Response {
        let challenge = self.challenge();
        let Kind(status, code, title) = *self.kind;
        let field = match self.more.remove("field") {
            Some(Value::String(field)) => Some(field),
            _ => None,
        };
        let body = ProblemJson {
            r#type: format!("urn:scim-guard:problem:{code}"),
            title,
            status,
            detail: self.detail,
            code,
            field,
            more: self.more,
        };
        let body = serde_json::to_vec(&body).expect("plain text has a JSON form");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).expect("written above");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if let Some(challenge) = challenge {
            let value = HeaderValue::from_str(&challenge).expect("our own words are ASCII");
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

pub const PROBLEM_TYPE: &str = "application/problem+json";

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Unauthenticated => {
                Self::new(&TOKEN_INVALID, "the token is unknown here, or has ended")
            }
            Problem::LoginsLimited { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1000).max(1) as u64;
                let detail =
                    format!("too many failed logins from your address; try in {seconds} s");
                Self::new(&LOGINS_LIMITED, detail).retry_after(seconds)
            }
            Problem::RoleInsufficient { role, needed } => {
                let detail = if role == needed {
                    format!("this needs the role {} for all tenants", needed.as_str())
                } else {
                    let (role, needed) = (role.as_str(), needed.as_str());
                    format!("the token has the role {role}; this needs the role {needed}")
                };
                Self::new(&ROLE, detail).with("role", role.as_str()).with("needed", needed.as_str())
            }
            Problem::Invalid { field, what } => Self::invalid(field, what),
            Problem::TenantUnknown(tenant) => Self::new(
                &TENANT_UNKNOWN,
                format!(
                    "no tenant {tenant}: declare it by a route, by `admin.tenants` or by PUT \
                     /v1/tenants/{tenant}"
                ),
            ),
            Problem::TenantInUse => {
                Self::new(&TENANT_IN_USE, "delete its credentials first; then nobody gets in")
            }
            Problem::TenantConfigured => Self::new(
                &TENANT_CONFIGURED,
                "take it out of the config's routes and `admin.tenants` first",
            ),
            Problem::CredentialUnknown(id) => {
                Self::new(&CREDENTIAL_UNKNOWN, format!("the tenant has no credential {id}"))
            }
            Problem::RevisionUnknown { head } => {
                let detail = format!("the latest revision is {}", head.0);
                Self::new(&REVISION_UNKNOWN, detail).with("head", head.0)
            }
            Problem::DigestTaken(owner) => digest_taken(owner.as_ref().map(KeyJson::from)),
            Problem::LimitReached(records) => limit_reached(&records),
            Problem::Rotated(successor) => Self::new(
                &ROTATED,
                format!("{successor} has taken its place: rotate that one, or delete it first"),
            )
            .with("successor", successor.as_str()),
            Problem::OwnedByCloud(provider) => Self::new(
                &OWNED_BY_CLOUD,
                format!(
                    "the tenant's credentials are {}'s: create one without a token, or tell the token \
                     of one that is there with PUT .../credentials/ID/digest",
                    provider.as_str()
                ),
            ),
            Problem::CloudUnavailable { what, retry_after } => {
                let seconds = retry_after.map_or(5, |wait| wait.as_secs().max(1));
                Self::new(&CLOUD_UNAVAILABLE, what).retry_after(seconds)
            }
            Problem::CloudUncertain { what, candidates } => cloud_uncertain(&what, &candidates),
            Problem::ReplicasLimited => Self::new(
                &REPLICAS_LIMITED,
                format!(
                    "{LEASES_MAX} are known that may go on accepting: each process keeps its instance, \
                     and takes its leave with DELETE /v1/replicas/INSTANCE"
                ),
            )
            .retry_after(60),
            Problem::Gone(Gone::Compacted) => {
                Self::new(&CHANGES_COMPACTED, "read /v1/table anew, and follow from there")
            }
            Problem::Gone(Gone::Unknown) => Self::new(
                &HISTORY_UNKNOWN,
                "the position is of another history, or of changes that this store has lost: \
                 compare the head of /v1/table",
            ),
            Problem::StoreFull => Self::new(
                &STORE_FULL,
                "there is no room for new things; what takes rights away still works",
            )
            .retry_after(60),
            Problem::StoreFailed(cause) => {
                Self::new(&STORE_FAILED, "try again; the log tells why it failed")
                    .retry_after(5)
                    .caused_by(cause)
            }
        }
    }
}

fn digest_taken(owner: Option<KeyJson>) -> Fault {
    match owner {
        Some(KeyJson { tenant, credential_id }) => {
            let detail = format!("it is credential {credential_id} of tenant {tenant}");
            let owner = json!({ "tenant": tenant, "credential_id": credential_id });
            Fault::new(&DIGEST_TAKEN, detail).with("owner", owner)
        }
        None => Fault::new(&DIGEST_TAKEN, "a token opens one tenant only: use another one"),
    }
}

/// The cloud may have done it, and its answer is lost.
fn cloud_uncertain(what: &str, candidates: &[Record]) -> Fault {
    let ids: Vec<_> = candidates.iter().map(|it| it.credential.id.as_str()).collect();
    let these = match ids.as_slice() {
        [] => "it lists none that is new: try again in a while".to_owned(),
        ids => format!(
            "nobody knows the tokens of {}: delete the one that was made just now, and create \
             another",
            ids.join(", ")
        ),
    };
    let views = candidates.iter().map(CredentialJson::from);
    let views = views.map(|view| serde_json::to_value(view).expect("plain values"));
    Fault::new(&CLOUD_UNCERTAIN, format!("{what}; {these}"))
        .with("candidates", views.collect::<Vec<_>>())
}

fn limit_reached(records: &[Record]) -> Fault {
    let views: Vec<_> = records.iter().map(CredentialJson::from).collect();
    let each = views.iter().map(|view| {
        let end = view.expire_time.as_deref().map_or("never ends".to_owned(), |end| {
            format!("ends {end}") // In the past too: an expired one keeps its place.
        });
        format!("{} ({}, {end})", view.credential_id, view.status)
    });
    let each = each.collect::<Vec<_>>().join(", ");
    let detail = format!(
        "the tenant has {} credentials, expired ones included, and may have no more: {each}. Free a \
         place with DELETE .../credentials/ID, or replace one at once with POST \
         .../credentials/ID/rotate {{\"leaked\": true}}",
        records.len(),
    );
    let views = views.into_iter().map(|view| serde_json::to_value(view).expect("plain values"));
    Fault::new(&LIMIT_REACHED, detail).with("credentials", views.collect::<Vec<_>>())
}

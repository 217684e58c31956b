//! Every way to say no, in one place: the status, the challenge, the SCIM error body (RFC 7644
//! section 3.12) and the word that logs, metrics and `explain` use.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use crate::server::HeadFault;

/// Why a request is not forwarded, or its answer not passed on. The order is the one in which
/// they are looked for, but that an address is refused before all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    FramingInvalid(&'static str),
    TargetAmbiguous(&'static str),
    HeadTooLarge(&'static str),
    MethodRefused,
    AuthorizationMalformed(&'static str),
    AuthorizationMissing,
    UndecidedUnloaded,
    UndecidedLookup,
    UnknownWhileStale,
    TokenUnknown,
    TenantMismatch,
    CredentialDisabled,
    CredentialDenied,
    CredentialExpired,
    UndecidedStale,
    ClockUncertain,
    RouteUnknown,
    SynchronizationDisabled,
    AddressRefused,
    BodyTooLarge,
    BodyTimeout,
    /// Nobody is there to read this.
    ClientGone,
    UpstreamUnavailable,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamRefusedUs,
}

/// What became of a request, as dashboards want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    /// Known bad.
    Refused,
    /// We cannot say.
    Undecided,
    /// Allowed, and then something broke.
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Undecided => "undecided",
            Self::Failed => "failed",
        }
    }
}

/// The scheme that RFC 7644 section 2 wants told with every 401.
const CHALLENGE: &str = "Bearer realm=\"scim\"";
const CHALLENGE_TOKEN: &str = "Bearer realm=\"scim\", error=\"invalid_token\"";
const CHALLENGE_REQUEST: &str = "Bearer realm=\"scim\", error=\"invalid_request\"";

/// All that is said about a refusal.
struct Words {
    reason: &'static str,
    status: StatusCode,
    outcome: Outcome,
    detail: &'static str,
}

impl Words {
    /// Strangers can ask for many of these, so it is put together at once: neither our own words
    /// nor a request id have anything that JSON writes otherwise.
    fn body(&self, request_id: &str) -> Bytes {
        let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        debug_assert!(![self.detail, request_id].iter().any(|it| it.bytes().any(special)));
        // RFC 7644 section 3.12 has the status as a string.
        let parts = [
            r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"status":""#,
            self.status.as_str(),
            r#"","detail":""#,
            self.detail,
            " (request ",
            request_id,
            r#")"}"#,
        ];
        parts.concat().into()
    }
}

impl Refusal {
    /// The stable word in logs and metrics.
    pub fn reason(self) -> &'static str {
        self.words().reason
    }

    pub fn status(self) -> StatusCode {
        self.words().status
    }

    pub fn outcome(self) -> Outcome {
        self.words().outcome
    }

    fn words(self) -> Words {
        use Outcome::{Failed, Refused, Undecided};
        let (reason, status, outcome, detail) = match self {
            Self::FramingInvalid(detail) => ("framing_invalid", 400, Refused, detail),
            Self::TargetAmbiguous(detail) => ("target_ambiguous", 400, Refused, detail),
            Self::HeadTooLarge(detail) => ("head_too_large", 431, Refused, detail),
            Self::MethodRefused => {
                ("method_refused", 405, Refused, "this method is not served here")
            }
            Self::AuthorizationMalformed(detail) => {
                ("authorization_malformed", 400, Refused, detail)
            }
            Self::AuthorizationMissing => {
                ("authorization_missing", 401, Refused, "a bearer token is required")
            }
            Self::UndecidedUnloaded => {
                ("undecided_unloaded", 503, Undecided, "credentials are not loaded yet; try again")
            }
            Self::UndecidedLookup => {
                ("undecided_lookup", 503, Undecided, "the token could not be looked up; try again")
            }
            Self::UnknownWhileStale => (
                "unknown_while_stale",
                503,
                Undecided,
                "the token is not known here, and news of credentials is overdue; try again",
            ),
            Self::TokenUnknown => ("token_unknown", 401, Refused, UNKNOWN),
            Self::TenantMismatch => ("tenant_mismatch", 401, Refused, UNKNOWN),
            Self::CredentialDisabled => {
                ("credential_disabled", 401, Refused, "the bearer token has been disabled")
            }
            Self::CredentialDenied => {
                ("credential_denied", 401, Refused, "the bearer token has been denied")
            }
            Self::CredentialExpired => {
                ("credential_expired", 401, Refused, "the bearer token has expired")
            }
            Self::UndecidedStale => {
                ("undecided_stale", 503, Undecided, "news of credentials is overdue; try again")
            }
            Self::ClockUncertain => (
                "clock_uncertain",
                503,
                Undecided,
                "the token's expiry cannot be judged at the moment; try again",
            ),
            Self::RouteUnknown => ("route_unknown", 404, Refused, "there is no such endpoint here"),
            Self::SynchronizationDisabled => (
                "synchronization_disabled",
                403,
                Refused,
                "provisioning is switched off for this tenant; its operator can switch it on",
            ),
            Self::AddressRefused => {
                ("address_refused", 403, Refused, "this address may not ask here")
            }
            Self::BodyTooLarge => {
                ("body_too_large", 413, Refused, "the request's body is too large")
            }
            Self::BodyTimeout => {
                ("body_timeout", 408, Failed, "the request's body did not arrive in time")
            }
            Self::ClientGone => ("client_gone", 400, Failed, "the client broke off its request"),
            Self::UpstreamUnavailable => (
                "upstream_unavailable",
                503,
                Failed,
                "the SCIM server cannot be reached; try again",
            ),
            Self::UpstreamBroken => {
                ("upstream_broken", 502, Failed, "the SCIM server gave no proper answer")
            }
            Self::UpstreamTimeout => {
                ("upstream_timeout", 504, Failed, "the SCIM server did not answer in time")
            }
            Self::UpstreamRefusedUs => (
                "upstream_refused_us",
                503,
                Failed,
                "the SCIM server does not accept this proxy; its operator must mend that",
            ),
        };
        let status = StatusCode::from_u16(status).expect("written above");
        Words { reason, status, outcome, detail }
    }

    /// RFC 6750 section 3. No error code for those who sent no token (3.1).
    fn challenge(self) -> Option<HeaderValue> {
        let Words { status, detail, .. } = self.words();
        match (self, status.as_u16()) {
            (Self::AuthorizationMissing, _) => Some(HeaderValue::from_static(CHALLENGE)),
            (Self::CredentialDisabled | Self::CredentialDenied | Self::CredentialExpired, _) => {
                let told = format!("{CHALLENGE_TOKEN}, error_description=\"{detail}\"");
                Some(HeaderValue::try_from(told).expect("our own words are ASCII"))
            }
            (_, 401) => Some(HeaderValue::from_static(CHALLENGE_TOKEN)),
            (_, 400) => Some(HeaderValue::from_static(CHALLENGE_REQUEST)),
            _ => None,
        }
    }

    /// Whole seconds: some identity providers ignore a date.
    fn retry_after(self) -> Option<&'static str> {
        match self {
            Self::UndecidedUnloaded | Self::UndecidedLookup => Some("2"),
            Self::UnknownWhileStale | Self::UndecidedStale | Self::ClockUncertain => Some("30"),
            Self::UpstreamUnavailable => Some("5"),
            Self::UpstreamRefusedUs => Some("60"),
            _ => None,
        }
    }

    /// The answer. The request id stands in `detail` too, which is what consoles show.
    pub fn response(self, request_id: &str) -> Response<Bytes> {
        let words = self.words();
        let mut response = Response::new(words.body(request_id));
        *response.status_mut() = words.status;
        let headers = response.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/scim+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if self == Self::MethodRefused {
            headers.insert(ALLOW, HeaderValue::from_static(METHODS));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

impl From<HeadFault> for Refusal {
    fn from(fault: HeadFault) -> Self {
        match fault {
            HeadFault::Framing(detail) => Self::FramingInvalid(detail),
            HeadFault::Target(detail) => Self::TargetAmbiguous(detail),
            HeadFault::Authorization(detail) => Self::AuthorizationMalformed(detail),
            HeadFault::TooLarge(detail) => Self::HeadTooLarge(detail),
        }
    }
}

/// With those that the server adds.
const HEADERS: usize = 6;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The methods of SCIM, and those that ask about them. Others pass too; RFC 9110 section 15.5.6
/// wants a list.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The same bytes for a token of another tenant: it is nobody's business that it exists.
const UNKNOWN: &str = "the bearer token is not known here";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: Refusal, status: u16, challenge: Option<&str>, retry_after: Option<&str>) {
        let response = refusal.response("r-1");
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(response.status(), status, "{refusal:?}");
        assert_eq!(header(&WWW_AUTHENTICATE), challenge, "{refusal:?}");
        assert_eq!(header(&RETRY_AFTER), retry_after, "{refusal:?}");
        assert_eq!(header(&CACHE_CONTROL), Some("no-store"));
        assert_eq!(header(&CONTENT_TYPE), Some("application/scim+json"));
        let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["status"], status.to_string());
        assert!(body["detail"].as_str().is_some_and(|detail| detail.ends_with("(request r-1)")));
    }

    #[test]
    fn each_refusal_has_its_status_challenge_and_patience() {
        let realm = "Bearer realm=\"scim\"";
        let invalid = "Bearer realm=\"scim\", error=\"invalid_token\"";
        check(Refusal::AuthorizationMissing, 401, Some(realm), None);
        check(Refusal::TokenUnknown, 401, Some(invalid), None);
        let expired = format!("{invalid}, error_description=\"the bearer token has expired\"");
        check(Refusal::CredentialExpired, 401, Some(&expired), None);
        let request = "Bearer realm=\"scim\", error=\"invalid_request\"";
        check(Refusal::AuthorizationMalformed("x"), 400, Some(request), None);
        check(Refusal::UndecidedUnloaded, 503, None, Some("2"));
        check(Refusal::UndecidedStale, 503, None, Some("30"));
        check(Refusal::RouteUnknown, 404, None, None);
        check(Refusal::HeadTooLarge("x"), 431, None, None);
        check(Refusal::MethodRefused, 405, None, None);
        check(Refusal::BodyTooLarge, 413, None, None);
        check(Refusal::UpstreamTimeout, 504, None, None);
        check(Refusal::UpstreamUnavailable, 503, None, Some("5"));
    }

    #[test]
    fn a_foreign_tenants_token_is_answered_like_an_unknown_one() {
        let unknown = Refusal::TokenUnknown.response("r-1");
        let foreign = Refusal::TenantMismatch.response("r-1");
        assert_eq!(unknown.body(), foreign.body());
        assert_eq!(unknown.headers(), foreign.headers());
        assert_eq!(unknown.status(), foreign.status());
    }
}

//! Every way in which this dialect says no, by the codes that Alibaba Cloud documents. Nothing that
//! a client sent is repeated but the host that it has named, and the string to sign, which it has
//! made itself and which holds no secret.

use std::borrow::Cow;

use crate::admin::Problem;
use crate::admin::signed::Unreadable;
use crate::signature;

#[derive(Debug)]
pub struct Fault {
    pub status: u16,
    pub code: Cow<'static, str>,
    pub message: String,
    /// For the log alone; only of what is our own fault.
    pub cause: Option<String>,
}

impl Fault {
    pub fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { status, code: code.into(), message: message.into(), cause: None }
    }

    pub fn missing(parameter: &str) -> Self {
        let told = format!("{parameter} is mandatory for this action.");
        Self::new(400, format!("Missing{parameter}"), told)
    }

    pub fn invalid(parameter: &str, what: &str) -> Self {
        let code = format!("InvalidParameter.{parameter}");
        Self::new(400, code, format!("The specified {parameter} {what}."))
    }

    pub fn directory_unknown() -> Self {
        Self::new(404, "EntityNotExists.Directory", "The directory does not exist.")
    }

    pub fn credential_unknown() -> Self {
        Self::new(404, "EntityNotExists.SCIMCredential", "The SCIM credential does not exist.")
    }

    fn caused_by(self, cause: String) -> Self {
        Self { cause: Some(cause), ..self }
    }

    fn storage(cause: String) -> Self {
        let told = "The request has failed due to a temporary failure of the server.";
        Self::new(503, "ServiceUnavailable", told).caused_by(cause)
    }
}

impl From<Unreadable> for Fault {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::TooLarge => {
                Self::new(413, "RequestTooLarge", "A body may have 64 KiB at most.")
            }
            Unreadable::Late | Unreadable::Broken => {
                Self::new(400, "InvalidParameter.Format", "The body did not arrive whole.")
            }
        }
    }
}

impl From<signature::Fault> for Fault {
    fn from(fault: signature::Fault) -> Self {
        use signature::Fault as It;
        let code = match fault {
            It::Mismatch { string_to_sign } => {
                let told = format!("{MISMATCH} server string to sign is:{string_to_sign}");
                return Self::new(400, "SignatureDoesNotMatch", told);
            }
            It::Body => {
                let told = format!("{MISMATCH} The body does not have the x-acs-content-sha256.");
                return Self::new(400, "SignatureDoesNotMatch", told);
            }
            It::Missing("x-acs-date" | "Timestamp") => return Self::missing("Timestamp"),
            It::Missing("x-acs-signature-nonce") => return Self::missing("SignatureNonce"),
            It::Missing("x-acs-action") => return Self::missing("Action"),
            It::Missing("x-acs-version") => return Self::missing("Version"),
            It::Missing(
                part @ ("AccessKeyId" | "Signature" | "SignatureNonce" | "SignatureMethod"
                | "SignatureVersion"),
            ) => return Self::missing(part),
            It::Method => "InvalidSignatureMethod",
            It::Malformed("x-acs-date" | "Timestamp") => "InvalidTimeStamp.Format",
            It::Malformed("query" | "body" | "parameters") => "InvalidParameter.Format",
            It::Missing(_) | It::Malformed(_) | It::Unsigned(_) => "IncompleteSignature",
        };
        Self::new(400, code, format!("The request is not signed as it should be: {fault}."))
    }
}

const MISMATCH: &str = "Specified signature is not matched with our calculation.";

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::CloudUnavailable { what, .. } | Problem::CloudUncertain { what, .. } => {
                let told = format!("The mirrored cloud did not do it: {what}.");
                Self::new(503, "ServiceUnavailable", told)
            }
            Problem::Unauthenticated => {
                let told = "Specified access key is not found.";
                Self::new(404, "InvalidAccessKeyId.NotFound", told)
            }
            Problem::LoginsLimited { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1000).max(1);
                let told = format!("Too many failed logins from your address; try in {seconds} s.");
                Self::new(400, "Throttling.User", told)
            }
            Problem::RoleInsufficient { role, needed } => {
                let (role, needed) = (role.as_str(), needed.as_str());
                let told = format!("The key has the role {role}; this needs the role {needed}.");
                Self::new(403, "Forbidden.RAM", told)
            }
            Problem::Invalid { field, what } => Self::invalid(field, &what),
            Problem::TenantUnknown(_) => Self::directory_unknown(),
            Problem::CredentialUnknown(_) => Self::credential_unknown(),
            Problem::LimitReached(records) => Self::new(
                409,
                "LimitExceeded.SCIMCredential",
                format!(
                    "The number of SCIM credentials exceeds the limit: the directory has {}, \
                     expired ones included.",
                    records.len()
                ),
            ),
            Problem::StoreFull => Self::storage("there is no room in the store".to_owned()),
            Problem::StoreFailed(cause) => Self::storage(cause),
            // No action of this dialect leads there.
            other @ (Problem::DigestTaken(_)
            | Problem::TenantInUse
            | Problem::TenantConfigured
            | Problem::RevisionUnknown { .. }
            | Problem::Rotated(_)
            | Problem::OwnedByCloud(_)
            | Problem::ReplicasLimited
            | Problem::Gone(_)) => {
                let fault = Self::new(500, "InternalError", "Something went wrong here.");
                fault.caused_by(format!("{other:?}"))
            }
        }
    }
}

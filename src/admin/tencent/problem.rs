//! Every way in which this dialect says no, by the codes that Tencent Cloud documents. Nothing that
//! a client sent is repeated but the names of parameters.

use crate::admin::Problem;
use crate::admin::signed::Unreadable;
use crate::signature;

#[derive(Debug)]
pub struct Fault {
    pub code: &'static str,
    pub message: String,
    /// For the log alone; only of what is our own fault.
    pub cause: Option<String>,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None }
    }

    pub fn missing(parameter: &str) -> Self {
        Self::new("MissingParameter", format!("The parameter {parameter} is missing."))
    }

    pub fn zone_unknown() -> Self {
        Self::new("FailedOperation.ZoneIdNotExist", "The space ID does not exist.")
    }

    pub fn credential_unknown() -> Self {
        Self::new("InvalidParameter.ScimCredentialNotFound", "The SCIM key does not exist.")
    }

    fn caused_by(self, cause: String) -> Self {
        Self { cause: Some(cause), ..self }
    }
}

impl From<Unreadable> for Fault {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::TooLarge => {
                Self::new("RequestSizeLimitExceeded", "A body may have 64 KiB at most.")
            }
            Unreadable::Late | Unreadable::Broken => {
                Self::new("InvalidRequest", "The body did not arrive whole.")
            }
        }
    }
}

impl From<signature::Fault> for Fault {
    fn from(fault: signature::Fault) -> Self {
        use signature::Fault as It;
        let code = match fault {
            It::Missing(part @ ("SecretId" | "Timestamp" | "Nonce" | "Signature")) => {
                return Self::missing(part);
            }
            It::Missing("x-tc-timestamp") => return Self::missing("Timestamp"),
            It::Malformed("query" | "body" | "parameters" | "Timestamp") => "InvalidParameter",
            It::Method | It::Missing(_) | It::Malformed(_) | It::Unsigned(_) => {
                "AuthFailure.InvalidAuthorization"
            }
            It::Body | It::Mismatch { .. } => "AuthFailure.SignatureFailure",
        };
        Self::new(code, format!("The request is not signed as it should be: {fault}."))
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::CloudUnavailable { what, .. } | Problem::CloudUncertain { what, .. } => {
                Self::new("InternalError", format!("The mirrored cloud did not do it: {what}."))
            }
            Problem::Unauthenticated => {
                Self::new("AuthFailure.SecretIdNotFound", "The SecretId is not found.")
            }
            Problem::LoginsLimited { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1000).max(1);
                let told = format!("Too many failed logins from your address; try in {seconds} s.");
                Self::new("RequestLimitExceeded.IPLimitExceeded", told)
            }
            Problem::RoleInsufficient { role, needed } => {
                let (role, needed) = (role.as_str(), needed.as_str());
                let told = format!("The key has the role {role}; this needs the role {needed}.");
                Self::new("AuthFailure.UnauthorizedOperation", told)
            }
            Problem::Invalid { field: "expire_in", what } => {
                Self::new("InvalidParameter.ParamError", format!("ExpireDuration {what}."))
            }
            Problem::Invalid { field, what } => {
                Self::new("InvalidParameter", format!("{field} {what}."))
            }
            Problem::TenantUnknown(_) => Self::zone_unknown(),
            Problem::CredentialUnknown(_) => Self::credential_unknown(),
            Problem::LimitReached(records) => Self::new(
                "LimitExceeded.ScimCredentialLimitExceeded",
                format!(
                    "The number of SCIM keys exceeds the limit: the space has {}, expired ones \
                     included.",
                    records.len()
                ),
            ),
            Problem::DigestTaken(_) => Self::new(
                "FailedOperation.ScimCredentialGenerateError",
                "The SCIM key could not be generated.",
            ),
            Problem::StoreFull => Self::storage("there is no room in the store".to_owned()),
            Problem::StoreFailed(cause) => Self::storage(cause),
            // No action of this dialect leads there.
            other @ (Problem::TenantInUse
            | Problem::TenantConfigured
            | Problem::RevisionUnknown { .. }
            | Problem::Rotated(_)
            | Problem::OwnedByCloud(_)
            | Problem::ReplicasLimited
            | Problem::Gone(_)) => {
                let fault = Self::new("InternalError", "Something went wrong here.");
                fault.caused_by(format!("{other:?}"))
            }
        }
    }
}

impl Fault {
    fn storage(cause: String) -> Self {
        let told = "The store does not work; the log has more.";
        Self::new("FailedOperation.DBOperationError", told).caused_by(cause)
    }
}

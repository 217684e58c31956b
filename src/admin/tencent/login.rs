//! Who has signed, and for what: by TC3-HMAC-SHA256 in headers, or by the older scheme among the
//! parameters.

use serde_json::Value;

use super::actions::ACTIONS;
use super::parameters::Parameters;
use super::problem::Fault;
use crate::admin::signed::Action;
use crate::clock::Timestamp;
use crate::signature::{Request, pairs, tc3, tencent_v1};

pub struct Login<'a> {
    request: Request<'a>,
    scheme: Scheme<'a>,
}

enum Scheme<'a> {
    Tc3(tc3::Claim<'a>),
    V1(tencent_v1::Claim),
}

impl<'a> Login<'a> {
    pub fn read(request: Request<'a>) -> Result<Self, Fault> {
        let in_headers = ["authorization", "x-tc-action"];
        let scheme = if in_headers.iter().any(|name| request.headers.contains_key(*name)) {
            let claim = tc3::Claim::read(request)?;
            if ![SERVICE, claim.host_label()].contains(&claim.service) {
                let told = format!("The service in the scope must be {SERVICE}.");
                return Err(Fault::new("AuthFailure.InvalidAuthorization", told));
            }
            Scheme::Tc3(claim)
        } else {
            Scheme::V1(tencent_v1::Claim::read(request)?)
        };
        Ok(Self { request, scheme })
    }

    pub fn key_id(&self) -> &str {
        match &self.scheme {
            Scheme::Tc3(claim) => claim.key_id,
            Scheme::V1(claim) => &claim.key_id,
        }
    }

    pub fn time(&self) -> Timestamp {
        match &self.scheme {
            Scheme::Tc3(claim) => claim.time,
            Scheme::V1(claim) => claim.time,
        }
    }

    /// What no other request has that is meant. The cloud asks for a nonce that is new only among
    /// those of its second, and some SDKs choose it from few: the signature is over all of it. By
    /// TC3 two requests may well be the same.
    pub fn nonce(&self) -> Option<String> {
        match &self.scheme {
            Scheme::Tc3(_) => None,
            Scheme::V1(claim) => Some(hex::encode(&claim.signature)),
        }
    }

    /// Whether it can only take rights away.
    pub fn restricts(&self, action: Action) -> bool {
        match &self.scheme {
            Scheme::Tc3(_) => false,
            Scheme::V1(claim) => action.restricts(|name| claim.parameter(name)),
        }
    }

    /// Of temporary keys.
    pub fn token(&self) -> Option<&str> {
        let token = match &self.scheme {
            Scheme::Tc3(claim) => claim.token,
            Scheme::V1(claim) => claim.parameter("Token"),
        };
        token.filter(|token| !token.is_empty())
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let verified = match &self.scheme {
            Scheme::Tc3(claim) => claim.verify(secret),
            Scheme::V1(claim) => claim.verify(secret),
        };
        Ok(verified?)
    }

    /// The action, and its name.
    pub fn action(&self) -> Result<(Action, &'static str), Fault> {
        let (version, action) = match &self.scheme {
            Scheme::Tc3(claim) => (claim.version, claim.action),
            Scheme::V1(claim) => (claim.parameter("Version"), claim.parameter("Action")),
        };
        let version =
            version.filter(|it| !it.is_empty()).ok_or_else(|| Fault::missing("Version"))?;
        let action = action.filter(|it| !it.is_empty()).ok_or_else(|| Fault::missing("Action"))?;
        if version != VERSION {
            return Err(Fault::new("NoSuchVersion", format!("The version must be {VERSION}.")));
        }
        let named = ACTIONS.into_iter().find(|(_, name)| *name == action);
        named.ok_or_else(|| Fault::new("InvalidAction", "There is no such action."))
    }

    pub fn parameters(&self) -> Result<Parameters, Fault> {
        let Request { method, query, headers, body, .. } = self.request;
        if let Scheme::V1(claim) = &self.scheme {
            let own = claim.parameters.iter().filter(|(name, _)| !COMMON.contains(&name.as_str()));
            return Parameters::of_pairs(own.cloned().collect());
        }
        if method == "GET" {
            let invalid = || Fault::new("InvalidParameter", "The query cannot be read.");
            return Parameters::of_pairs(pairs(query).ok_or_else(invalid)?);
        }
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("application/json") {
            return Err(Fault::new("InvalidRequest", "Send the Content-Type application/json."));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Parameters::of_json(members)),
            _ => Err(Fault::new("InvalidParameter", "The body is no JSON object.")),
        }
    }
}

const SERVICE: &str = "organization";
const VERSION: &str = "2021-03-31";

/// Parameters that are not the action's.
const COMMON: [&str; 11] = [
    "Action",
    "Version",
    "Timestamp",
    "Nonce",
    "SecretId",
    "SignatureMethod",
    "Signature",
    "Region",
    "Token",
    "Language",
    "RequestClient",
];

//! Who has signed, and for what: by ACS3-HMAC-SHA256 in headers, or by RPC v1 among the parameters.

use super::actions::ACTIONS;
use super::problem::Fault;
use crate::admin::signed::Action;
use crate::clock::Timestamp;
use crate::signature::{self, Request, acs3, alibaba_rpc};

pub enum Login<'a> {
    Acs3(acs3::Claim<'a>),
    Rpc(alibaba_rpc::Claim),
}

impl<'a> Login<'a> {
    pub fn read(request: Request<'a>) -> Result<Self, Fault> {
        if request.headers.contains_key("authorization") {
            return Ok(Self::Acs3(acs3::Claim::read(request)?));
        }
        match alibaba_rpc::Claim::read(request) {
            // Who does not sign in parameters has forgotten to sign in headers.
            Err(signature::Fault::Missing("AccessKeyId")) => {
                Err(signature::Fault::Missing("authorization").into())
            }
            claim => Ok(Self::Rpc(claim?)),
        }
    }

    pub fn key_id(&self) -> &str {
        match self {
            Self::Acs3(claim) => claim.key_id,
            Self::Rpc(claim) => &claim.key_id,
        }
    }

    pub fn time(&self) -> Timestamp {
        match self {
            Self::Acs3(claim) => claim.time,
            Self::Rpc(claim) => claim.time,
        }
    }

    pub fn nonce(&self) -> &str {
        match self {
            Self::Acs3(claim) => claim.nonce,
            Self::Rpc(claim) => &claim.nonce,
        }
    }

    /// Of temporary keys.
    pub fn token(&self) -> Option<&str> {
        let token = match self {
            Self::Acs3(claim) => claim.token,
            Self::Rpc(claim) => claim.token(),
        };
        token.filter(|token| !token.is_empty())
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let verified = match self {
            Self::Acs3(claim) => claim.verify(secret),
            Self::Rpc(claim) => claim.verify(secret),
        };
        Ok(verified?)
    }

    /// The action, and its name. Of the parameters that are signed: most clients of RPC v1 send
    /// headers that are not.
    pub fn action(&self) -> Result<(Action, &'static str), Fault> {
        let (version, action) = match self {
            Self::Acs3(claim) => (Some(claim.version), Some(claim.action)),
            Self::Rpc(claim) => (claim.parameter("Version"), claim.parameter("Action")),
        };
        let version = version.ok_or_else(|| Fault::missing("Version"))?;
        let action = action.ok_or_else(|| Fault::missing("Action"))?;
        if version != VERSION {
            let told = format!("Specified parameter Version must be {VERSION}.");
            return Err(Fault::new(400, "InvalidVersion", told));
        }
        let named = ACTIONS.into_iter().find(|(_, name)| *name == action);
        named
            .ok_or_else(|| Fault::new(404, "InvalidAction.NotFound", "Specified api is not found."))
    }

    /// A parameter of the action, if it is not empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let value = match self {
            Self::Acs3(claim) => claim.parameter(name),
            Self::Rpc(claim) => claim.parameter(name),
        };
        value.filter(|value| !value.is_empty())
    }
}

const VERSION: &str = "2021-05-15";

//! Tencent Cloud's older scheme, HmacSHA1 or HmacSHA256 over all parameters, the action among them.
//! They travel in the query of a GET or in the form of a POST, and are signed decoded.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tc3::seconds;
use super::{Fault, Key, Pairs, Request, check, is_form, mac, needed, pairs, text, unique, value};
use crate::clock::Timestamp;

/// The hash within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    HmacSha1,
    HmacSha256,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha1 => "HmacSHA1",
            Self::HmacSha256 => "HmacSHA256",
        }
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::HmacSha256 => hmac::HMAC_SHA256,
        }
    }
}

/// The parameters of the action with those of the signature, to be sent encoded.
pub fn sign(
    key: &Key<'_>,
    method: Method,
    (verb, host): (&str, &str),
    parameters: &[(&str, &str)],
    now: Timestamp,
    nonce: u64,
) -> Pairs {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut all: Pairs = parameters.iter().copied().map(owned).collect();
    let (time, nonce) = (now.as_millis().div_euclid(1000).to_string(), nonce.to_string());
    let common = [
        ("SecretId", key.id),
        ("SignatureMethod", method.as_str()),
        ("Timestamp", &time),
        ("Nonce", &nonce),
    ];
    all.extend(common.into_iter().chain(key.token.map(|token| ("Token", token))).map(owned));
    let text = string_to_sign(verb, host, "/", &all);
    let signature = mac(method.algorithm(), key.secret.as_bytes(), text.as_bytes());
    all.push((SIGNATURE.to_owned(), STANDARD.encode(signature)));
    all
}

/// What a request says about its signature, before anybody believes it.
pub struct Claim {
    pub key_id: String,
    pub time: Timestamp,
    /// It covers a nonce: no two requests that are meant have the same.
    pub signature: Vec<u8>,
    /// All that came, those of the signature included.
    pub parameters: Pairs,
    method: Method,
    string_to_sign: String,
}

impl Claim {
    pub fn read(request: Request<'_>) -> Result<Self, Fault> {
        let Request { method: verb, path, query, headers, body } = request;
        // What the signature does not cover would have been put in on the way.
        let source = match verb {
            "GET" if !body.is_empty() => return Err(Fault::Malformed("body")),
            "GET" => query,
            _ if !query.is_empty() => return Err(Fault::Malformed("query")),
            _ if !is_form(headers)? => return Err(Fault::Malformed("content-type")),
            _ => text(body, "parameters")?,
        };
        let parameters = pairs(source).ok_or(Fault::Malformed("parameters"))?;
        unique(&parameters)?;
        let find = |name: &'static str| {
            let found = value(&parameters, name).filter(|value| !value.is_empty());
            found.ok_or(Fault::Missing(name))
        };
        let method = match value(&parameters, "SignatureMethod") {
            None | Some("HmacSHA1") => Method::HmacSha1,
            Some("HmacSHA256") => Method::HmacSha256,
            Some(_) => return Err(Fault::Method),
        };
        let time = seconds(find("Timestamp")?).ok_or(Fault::Malformed("Timestamp"))?;
        let signature = STANDARD.decode(find(SIGNATURE)?);
        find("Nonce")?;
        Ok(Self {
            key_id: find("SecretId")?.to_owned(),
            time: Timestamp::from_millis(time * 1000),
            method,
            string_to_sign: string_to_sign(verb, needed(headers, "host")?, path, &parameters),
            signature: signature.map_err(|_| Fault::Malformed(SIGNATURE))?,
            parameters,
        })
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        value(&self.parameters, name)
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let text = self.string_to_sign.clone();
        check(self.method.algorithm(), secret.as_bytes(), text, &self.signature)
    }
}

fn string_to_sign(verb: &str, host: &str, path: &str, parameters: &Pairs) -> String {
    let mut sorted: Vec<_> = parameters.iter().filter(|(name, _)| name != SIGNATURE).collect();
    sorted.sort();
    let joined: Vec<_> = sorted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{verb}{host}{path}?{}", joined.join("&"))
}

const SIGNATURE: &str = "Signature";

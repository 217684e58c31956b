//! Alibaba Cloud's RPC v1 scheme: HMAC-SHA1 over all parameters, the action among them. They travel
//! in the query, in a form, or in both.

use aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::acs3::{date, time};
use super::{
    Fault, Key, Pairs, Request, canonical_query, check, escape, is_form, mac, pairs, text, unique,
    value,
};
use crate::clock::Timestamp;

/// The parameters of the action with those of the signature, to be sent encoded. Each try takes a
/// nonce of its own.
pub fn sign(
    key: &Key<'_>,
    method: &str,
    parameters: &[(&str, &str)],
    now: Timestamp,
    nonce: &str,
) -> Pairs {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut all: Pairs = parameters.iter().copied().map(owned).collect();
    let time = date(now);
    let common = [
        ("AccessKeyId", key.id),
        ("SignatureMethod", METHOD),
        ("SignatureVersion", VERSION),
        ("SignatureNonce", nonce),
        ("Timestamp", &time),
    ];
    all.extend(common.into_iter().chain(key.token.map(|token| (TOKEN, token))).map(owned));
    let text = string_to_sign(method, "/", &all);
    let signature = mac(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &derived(key.secret), text.as_bytes());
    all.push((SIGNATURE.to_owned(), STANDARD.encode(signature)));
    all
}

/// What a request says about its signature, before anybody believes it.
pub struct Claim {
    pub key_id: String,
    pub time: Timestamp,
    pub nonce: String,
    /// All that came, those of the signature included.
    pub parameters: Pairs,
    string_to_sign: String,
    signature: Vec<u8>,
}

impl Claim {
    pub fn read(request: Request<'_>) -> Result<Self, Fault> {
        let Request { method, path, query, headers, body } = request;
        let mut parameters = pairs(query).ok_or(Fault::Malformed("query"))?;
        if is_form(headers)? {
            let form = text(body, "body")?;
            parameters.extend(pairs(form).ok_or(Fault::Malformed("body"))?);
        } else if !body.is_empty() {
            // Nothing signs it.
            return Err(Fault::Malformed("body"));
        }
        unique(&parameters)?;
        let find = |name: &'static str| {
            let found = value(&parameters, name).filter(|value| !value.is_empty());
            found.ok_or(Fault::Missing(name))
        };
        let key_id = find("AccessKeyId")?.to_owned();
        if find("SignatureMethod")? != METHOD || find("SignatureVersion")? != VERSION {
            return Err(Fault::Method);
        }
        let time = time(find("Timestamp")?).ok_or(Fault::Malformed("Timestamp"))?;
        let signature = STANDARD.decode(find(SIGNATURE)?);
        Ok(Self {
            key_id,
            time,
            nonce: find("SignatureNonce")?.to_owned(),
            string_to_sign: string_to_sign(method, path, &parameters),
            signature: signature.map_err(|_| Fault::Malformed(SIGNATURE))?,
            parameters,
        })
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        value(&self.parameters, name)
    }

    /// The token of temporary keys.
    pub fn token(&self) -> Option<&str> {
        self.parameter(TOKEN)
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let text = self.string_to_sign.clone();
        check(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &derived(secret), text, &self.signature)
    }
}

fn string_to_sign(method: &str, path: &str, parameters: &Pairs) -> String {
    let covered = parameters.iter().filter(|(name, _)| name != SIGNATURE).cloned().collect();
    let mut text = format!("{method}&");
    escape(path, &mut text);
    text.push('&');
    escape(&canonical_query(&covered), &mut text);
    text
}

fn derived(secret: &str) -> Vec<u8> {
    format!("{secret}&").into_bytes()
}

const METHOD: &str = "HMAC-SHA1";
const VERSION: &str = "1.0";
const SIGNATURE: &str = "Signature";
const TOKEN: &str = "SecurityToken";

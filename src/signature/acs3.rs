//! ACS3-HMAC-SHA256, Alibaba Cloud's present scheme. It covers the query, the hash of the body, and
//! the headers that the client lists: action, version, time and nonce among them.

use aws_lc_rs::hmac::HMAC_SHA256;

use super::{
    FORM, Fault, Headers, Key, Pairs, Request, canonical_query, canonical_request, check,
    header_names, is_form, mac, needed, pairs, sha256_hex, single, text, unique, value,
};
use crate::clock::Timestamp;

/// A request to be signed. Host and body must be sent as they stand here.
#[derive(Clone, Copy)]
pub struct Unsigned<'a> {
    pub method: &'a str,
    /// With its port if that is not the default one.
    pub host: &'a str,
    pub action: &'a str,
    pub version: &'a str,
    /// Encoded in whichever way.
    pub query: &'a str,
    /// A form; mostly empty.
    pub body: &'a [u8],
    /// Further ones that are sent, in lower case; each is signed too.
    pub headers: &'a [(&'static str, &'a str)],
}

/// All headers that the request needs. Each try takes a nonce of its own.
pub fn sign(key: &Key<'_>, request: &Unsigned<'_>, now: Timestamp, nonce: &str) -> Headers {
    let hash = sha256_hex(request.body);
    let mut headers: Headers = vec![
        ("host", request.host.to_owned()),
        (ACTION, request.action.to_owned()),
        (VERSION, request.version.to_owned()),
        (DATE, date(now)),
        (NONCE, nonce.to_owned()),
        (HASH, hash.clone()),
    ];
    if !request.body.is_empty() {
        headers.push(("content-type", FORM.to_owned()));
    }
    if let Some(token) = key.token {
        headers.extend([(KEY_ID, key.id.to_owned()), (TOKEN, token.to_owned())]);
    }
    headers.extend(request.headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
    headers.sort();
    let query = canonical_query(&pairs(request.query).unwrap_or_default());
    let canonical = canonical_request(request.method, "/", &query, &headers, &hash);
    let signature = mac(HMAC_SHA256, key.secret.as_bytes(), string_to_sign(&canonical).as_bytes());
    let (id, signature) = (key.id, hex::encode(signature));
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let authorization =
        format!("{NAME} Credential={id},SignedHeaders={names},Signature={signature}");
    headers.push((AUTHORIZATION, authorization));
    headers
}

/// What a request says about its signature, before anybody believes it.
pub struct Claim<'a> {
    pub key_id: &'a str,
    pub action: &'a str,
    pub version: &'a str,
    pub time: Timestamp,
    pub nonce: &'a str,
    /// Of temporary keys.
    pub token: Option<&'a str>,
    /// Those of the query and of the form.
    pub parameters: Pairs,
    request: Request<'a>,
    names: Vec<&'a str>,
    hash: &'a str,
    signature: Vec<u8>,
}

impl<'a> Claim<'a> {
    pub fn read(request: Request<'a>) -> Result<Self, Fault> {
        let Request { query, headers, body, .. } = request;
        let malformed = Fault::Malformed(AUTHORIZATION);
        let authorization = needed(headers, AUTHORIZATION)?;
        let (name, fields) = authorization.split_once(' ').ok_or(Fault::Method)?;
        if name != NAME {
            return Err(Fault::Method);
        }
        let fields: Vec<_> = fields.split(',').map(str::trim).collect();
        let [key_id, names, signature] = *fields else { return Err(malformed) };
        let key_id = key_id.strip_prefix("Credential=").ok_or(malformed.clone())?;
        let names = names.strip_prefix("SignedHeaders=").ok_or(malformed.clone())?;
        let signature = signature.strip_prefix("Signature=").ok_or(malformed.clone())?;
        if key_id.is_empty() {
            return Err(malformed);
        }
        let names = header_names(names)?;
        let date = needed(headers, DATE)?;
        let hash = needed(headers, HASH)?;
        let claimed = Self {
            key_id,
            action: needed(headers, ACTION)?,
            version: needed(headers, VERSION)?,
            time: time(date).ok_or(Fault::Malformed(DATE))?,
            nonce: needed(headers, NONCE)?,
            token: single(headers, TOKEN)?,
            parameters: Pairs::new(),
            request,
            names,
            hash,
            signature: hex::decode(signature).map_err(|_| malformed)?,
        };
        must_cover(&request, &claimed.names)?;
        if hash != sha256_hex(body) {
            return Err(Fault::Body);
        }
        let mut parameters = pairs(query).ok_or(Fault::Malformed("query"))?;
        if is_form(headers)? {
            let form = text(body, "body")?;
            parameters.extend(pairs(form).ok_or(Fault::Malformed("body"))?);
        }
        unique(&parameters)?;
        Ok(Self { parameters, ..claimed })
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        value(&self.parameters, name)
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let text = string_to_sign(&self.canonical()?);
        check(HMAC_SHA256, secret.as_bytes(), text, &self.signature)
    }

    pub(super) fn canonical(&self) -> Result<String, Fault> {
        let Request { method, path, query, .. } = self.request;
        let query = canonical_query(&pairs(query).ok_or(Fault::Malformed("query"))?);
        let covered = covered(&self.request, &self.names)?;
        Ok(canonical_request(method, path, &query, &covered, self.hash))
    }
}

/// What a client must not leave to others to set.
fn must_cover(request: &Request<'_>, names: &[&str]) -> Result<(), Fault> {
    for name in ["host", ACTION, VERSION, DATE, NONCE, HASH] {
        needed(request.headers, name)?;
        if !names.contains(&name) {
            return Err(Fault::Unsigned(name));
        }
    }
    for name in [TOKEN, "content-type"] {
        let sent = single(request.headers, name)?;
        // An HTTP library sets this by itself when there is no body.
        let idle = request.body.is_empty() && sent == Some("application/octet-stream");
        if sent.is_some() && !idle && !names.contains(&name) {
            return Err(Fault::Unsigned(name));
        }
    }
    Ok(())
}

fn covered<'a>(request: &Request<'_>, names: &[&'a str]) -> Result<Vec<(&'a str, String)>, Fault> {
    let mut covered = Vec::with_capacity(names.len());
    for name in names {
        let values = request.headers.get_all(*name).iter();
        let values = values.map(|value| text(value.as_bytes(), "SignedHeaders").map(str::trim));
        let mut values = values.collect::<Result<Vec<_>, _>>()?;
        if values.is_empty() {
            return Err(Fault::Malformed("SignedHeaders"));
        }
        values.sort_unstable();
        covered.push((*name, values.join(",")));
    }
    Ok(covered)
}

fn string_to_sign(canonical: &str) -> String {
    format!("{NAME}\n{}", sha256_hex(canonical.as_bytes()))
}

/// Whole seconds in UTC, as Alibaba writes time.
pub(super) fn date(time: Timestamp) -> String {
    Timestamp::from_millis(time.as_millis().div_euclid(1000) * 1000).to_string()
}

pub(super) fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).filter(|time| date(*time) == text)
}

pub const NAME: &str = "ACS3-HMAC-SHA256";
const AUTHORIZATION: &str = "authorization";
const ACTION: &str = "x-acs-action";
const VERSION: &str = "x-acs-version";
const DATE: &str = "x-acs-date";
const NONCE: &str = "x-acs-signature-nonce";
const HASH: &str = "x-acs-content-sha256";
const TOKEN: &str = "x-acs-security-token";
const KEY_ID: &str = "x-acs-accesskey-id";

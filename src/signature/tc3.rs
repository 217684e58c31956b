//! TC3-HMAC-SHA256, Tencent Cloud's present scheme. It covers host, content type, time and body, or
//! the raw query of a GET. It has no nonce, and the SDKs leave the action out: over a line that
//! others can read, a request can be sent again as another one for some minutes.

use aws_lc_rs::hmac::HMAC_SHA256;
use jiff::tz::TimeZone;

use super::{
    Fault, Headers, Key, Request, canonical_request, check, header_names, mac, needed, sha256_hex,
    single,
};
use crate::clock::Timestamp;

/// A request to be signed. Host, query and body must be sent as they stand here.
#[derive(Clone, Copy)]
pub struct Unsigned<'a> {
    /// `POST`, or `GET` with a query and no body.
    pub method: &'a str,
    /// With its port if that is not the default one.
    pub host: &'a str,
    /// Such as `organization`.
    pub service: &'a str,
    pub action: &'a str,
    pub version: &'a str,
    pub content_type: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
    /// Whether the action is signed too. The cloud takes both, and its SDKs do not.
    pub covers_action: bool,
}

/// All headers that the request needs.
pub fn sign(key: &Key<'_>, request: &Unsigned<'_>, now: Timestamp) -> Headers {
    let time = now.as_millis().div_euclid(1000);
    let Unsigned { host, service, action, content_type, .. } = *request;
    let date = date(time).expect("we are not that late");
    let mut covered = vec![("content-type", content_type), ("host", host)];
    if request.covers_action {
        covered.push(("x-tc-action", action));
    }
    let names = covered.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let query = if request.method == GET { request.query } else { "" };
    let lowered = lowered(covered);
    let canonical =
        canonical_request(request.method, "/", query, &lowered, &sha256_hex(request.body));
    let scope = format!("{date}/{service}/{END}");
    let signed = string_to_sign(&time.to_string(), &scope, &canonical);
    let signature =
        hex::encode(mac(HMAC_SHA256, &derived(key.secret, &date, service), signed.as_bytes()));
    let id = key.id;
    let mut headers = vec![
        ("host", host.to_owned()),
        ("content-type", content_type.to_owned()),
        ("x-tc-action", action.to_owned()),
        ("x-tc-version", request.version.to_owned()),
        ("x-tc-timestamp", time.to_string()),
        (
            "authorization",
            format!("{NAME} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"),
        ),
    ];
    if let Some(token) = key.token {
        headers.push(("x-tc-token", token.to_owned()));
    }
    headers
}

/// What a request says about its signature, before anybody believes it.
pub struct Claim<'a> {
    pub key_id: &'a str,
    pub time: Timestamp,
    /// The service that it is for, which the SDKs take from the name of the host.
    pub service: &'a str,
    /// Signed only by those who choose so, like the version.
    pub action: Option<&'a str>,
    pub version: Option<&'a str>,
    /// Of temporary keys; it is not signed.
    pub token: Option<&'a str>,
    /// Whether the body was signed: a client may leave it out.
    pub covers_body: bool,
    request: Request<'a>,
    date: &'a str,
    timestamp: &'a str,
    names: Vec<&'a str>,
    signature: Vec<u8>,
}

impl<'a> Claim<'a> {
    pub fn read(request: Request<'a>) -> Result<Self, Fault> {
        let malformed = Fault::Malformed(AUTHORIZATION);
        let authorization = needed(request.headers, AUTHORIZATION)?;
        let (name, fields) = authorization.split_once(' ').ok_or(Fault::Method)?;
        if name != NAME {
            return Err(Fault::Method);
        }
        let fields: Vec<_> = fields.split(',').map(str::trim).collect();
        let [credential, names, signature] = *fields else { return Err(malformed) };
        let credential = credential.strip_prefix("Credential=").ok_or(malformed.clone())?;
        let names = names.strip_prefix("SignedHeaders=").ok_or(malformed.clone())?;
        let signature = signature.strip_prefix("Signature=").ok_or(malformed.clone())?;
        let credential: Vec<_> = credential.split('/').collect();
        let [key_id, date, service, END] = *credential else { return Err(malformed) };
        if key_id.is_empty() {
            return Err(malformed);
        }
        let signature = hex::decode(signature).map_err(|_| malformed)?;

        let timestamp = needed(request.headers, TIMESTAMP)?;
        let time = seconds(timestamp).ok_or(Fault::Malformed(TIMESTAMP))?;
        if self::date(time).as_deref() != Some(date) {
            return Err(Fault::Malformed(AUTHORIZATION));
        }
        let names = header_names(names)?;
        for must in ["content-type", "host"] {
            needed(request.headers, must)?;
            if !names.contains(&must) {
                return Err(Fault::Unsigned(must));
            }
        }
        // These are nobody's: a parameter there would have been put in on the way.
        let is_get = request.method == GET;
        if is_get && !request.body.is_empty() {
            return Err(Fault::Malformed("body"));
        }
        if !is_get && !request.query.is_empty() {
            return Err(Fault::Malformed("query"));
        }
        let payload = single(request.headers, "x-tc-content-sha256")?;
        Ok(Self {
            key_id,
            time: Timestamp::from_millis(time * 1000),
            service,
            action: single(request.headers, "x-tc-action")?,
            version: single(request.headers, "x-tc-version")?,
            token: single(request.headers, "x-tc-token")?,
            covers_body: payload != Some(UNSIGNED_PAYLOAD),
            request,
            date,
            timestamp,
            names,
            signature,
        })
    }

    /// The first label of the host, which clients take for the service when it is not the cloud's
    /// own.
    pub fn host_label(&self) -> &'a str {
        let host = needed(self.request.headers, "host").unwrap_or_default();
        host.split(['.', ':']).next().unwrap_or_default()
    }

    pub fn verify(&self, secret: &str) -> Result<(), Fault> {
        let host = needed(self.request.headers, "host")?;
        let key = derived(secret, self.date, self.service);
        let with_port = self.check(&key, host);
        // Two of the SDKs sign the host without the port that they send.
        match host.rsplit_once(':') {
            Some((bare, _)) if with_port.is_err() => self.check(&key, bare).or(with_port),
            _ => with_port,
        }
    }

    fn check(&self, key: &[u8], host: &str) -> Result<(), Fault> {
        let text = self.string_to_sign(host)?;
        check(HMAC_SHA256, key, text, &self.signature)
    }

    fn string_to_sign(&self, host: &str) -> Result<String, Fault> {
        let scope = format!("{}/{}/{END}", self.date, self.service);
        Ok(string_to_sign(self.timestamp, &scope, &self.canonical(host)?))
    }

    pub(super) fn canonical(&self, host: &str) -> Result<String, Fault> {
        let Request { method, path, query, headers, body } = self.request;
        let mut covered = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let mut values = headers.get_all(*name).iter();
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err(Fault::Malformed("SignedHeaders"));
            };
            let value = super::text(value.as_bytes(), "SignedHeaders")?;
            covered.push((*name, if *name == "host" { host } else { value }));
        }
        let hash = sha256_hex(if self.covers_body { body } else { UNSIGNED_PAYLOAD.as_bytes() });
        Ok(canonical_request(method, path, query, &lowered(covered), &hash))
    }
}

fn lowered<'a>(headers: Vec<(&'a str, &str)>) -> Vec<(&'a str, String)> {
    headers.into_iter().map(|(name, value)| (name, value.to_lowercase())).collect()
}

fn string_to_sign(timestamp: &str, scope: &str, canonical: &str) -> String {
    [NAME, timestamp, scope, &sha256_hex(canonical.as_bytes())].join("\n")
}

/// The key of one day and one service.
fn derived(secret: &str, date: &str, service: &str) -> Vec<u8> {
    let start = format!("TC3{secret}").into_bytes();
    let parts = [date, service, END];
    parts.iter().fold(start, |key, part| mac(HMAC_SHA256, &key, part.as_bytes()).as_ref().to_vec())
}

/// The day in UTC.
fn date(seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_zoned(TimeZone::UTC).date().to_string())
}

/// Unix seconds, in digits alone.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

pub const NAME: &str = "TC3-HMAC-SHA256";
const END: &str = "tc3_request";
const GET: &str = "GET";
const AUTHORIZATION: &str = "authorization";
const TIMESTAMP: &str = "x-tc-timestamp";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

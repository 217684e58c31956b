//! Signed requests of the clouds' APIs. The canonical form of each scheme stands here once: sources
//! sign by it, the admin API verifies by it. Nothing here reads a clock, remembers a nonce or knows
//! whose a key is; that is for whoever asks.

pub mod acs3;
pub mod alibaba_rpc;
pub mod tc3;
pub mod tencent_v1;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::{self, Write};

use aws_lc_rs::{digest, hmac};
use http::HeaderMap;

/// Who signs.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    /// Goes with temporary keys.
    pub token: Option<&'a str>,
}

/// A request as it was received: nothing decoded, nothing repaired.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Without the `?`.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// Why a request is not taken for one of its key's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another scheme, or a variant that is not known here.
    Method,
    /// A header or parameter is not there.
    Missing(&'static str),
    /// It cannot be read, stands there twice, or is something that no client signs.
    Malformed(&'static str),
    /// The header is not among those that were signed, and has to be.
    Unsigned(&'static str),
    /// The body is not the one whose hash was signed.
    Body,
    /// It was not signed with this secret, or not this way. What the server would have signed holds
    /// no secret, and tells the client which of the two it is.
    Mismatch { string_to_sign: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the signature method is not known"),
            Self::Missing(part) => write!(f, "{part} is missing"),
            Self::Malformed(part) => write!(f, "{part} is not valid"),
            Self::Unsigned(part) => write!(f, "{part} must be signed"),
            Self::Body => f.write_str("the body does not have the hash that was signed"),
            Self::Mismatch { .. } => f.write_str("the signature does not match"),
        }
    }
}

impl std::error::Error for Fault {}

/// Names and values, decoded, in the order in which they came.
pub type Pairs = Vec<(String, String)>;

/// Headers to be sent.
pub type Headers = Vec<(&'static str, String)>;

/// Decodes a query or a form. Both ways of writing a blank are read.
pub fn pairs(text: &str) -> Option<Pairs> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut byte = [0];
                hex::decode_to_slice([rest.next()?, rest.next()?], &mut byte).ok()?;
                byte[0]
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Encodes a query or a form in the one way that all of the clouds' servers read.
pub fn encode<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        escape(name.as_ref(), &mut text);
        text.push('=');
        escape(value.as_ref(), &mut text);
    }
    text
}

/// Escapes all but the unreserved characters of RFC 3986.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(char::from(byte));
            }
            _ => write!(into, "%{byte:02X}").expect("a string takes it"),
        }
    }
}

/// Sorted, and encoded: by which parameters are signed at Alibaba.
fn canonical_query(pairs: &Pairs) -> String {
    let mut sorted: Vec<_> = pairs.iter().map(|(name, value)| (name, value)).collect();
    sorted.sort();
    encode(sorted)
}

/// Which of two values a name has is not to be chosen by us.
fn unique(pairs: &Pairs) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    let fresh = pairs.iter().all(|(name, _)| seen.insert(name));
    if fresh { Ok(()) } else { Err(Fault::Malformed("parameters")) }
}

/// The names of the headers that are signed. Each counts once, in whichever case it is written: one
/// that came again and again would make a text to sign that is far larger than the request.
fn header_names(list: &str) -> Result<Vec<&str>, Fault> {
    let names: Vec<_> = list.split(';').collect();
    let mut seen = HashSet::new();
    let fresh = names.iter().all(|name| seen.insert(name.to_ascii_lowercase()));
    if fresh { Ok(names) } else { Err(Fault::Malformed("SignedHeaders")) }
}

fn value<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The form that two of the schemes hash.
fn canonical_request(
    method: &str,
    path: &str,
    query: &str,
    headers: &[(&str, String)],
    body_hash: &str,
) -> String {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    [method, path, query, &lines, &names, body_hash].join("\n")
}

/// The text of a header that must not stand there twice.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Fault::Malformed(name));
    }
    first.map(|value| text(value.as_bytes(), name)).transpose()
}

fn needed<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Fault> {
    single(headers, name)?.filter(|value| !value.is_empty()).ok_or(Fault::Missing(name))
}

fn text<'a>(bytes: &'a [u8], name: &'static str) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Malformed(name))
}

/// Whether the body counts as parameters.
fn is_form(headers: &HeaderMap) -> Result<bool, Fault> {
    let kind = single(headers, "content-type")?.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    Ok(kind.eq_ignore_ascii_case(FORM))
}

pub const FORM: &str = "application/x-www-form-urlencoded";

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn mac(algorithm: hmac::Algorithm, secret: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(algorithm, secret), text)
}

/// Compares in a time that tells nothing.
fn check(
    algorithm: hmac::Algorithm,
    secret: &[u8],
    string_to_sign: String,
    signature: &[u8],
) -> Result<(), Fault> {
    let key = hmac::Key::new(algorithm, secret);
    let same = hmac::verify(&key, string_to_sign.as_bytes(), signature);
    same.map_err(|_| Fault::Mismatch { string_to_sign })
}

//! What official SDKs have signed: each request verifies, can be signed again, and bears no change
//! of any byte that counts. `tests/vectors/README.md` says where they come from.

use std::collections::HashSet;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::*;
use crate::clock::Timestamp;

#[derive(Clone, Deserialize)]
struct Vector {
    name: String,
    scheme: String,
    credentials: Credentials,
    signed_at: i64,
    request: Received,
    expect: Expected,
}

#[derive(Clone, Deserialize)]
struct Credentials {
    key_id: String,
    key_secret: String,
    token: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Received {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

#[derive(Clone, Deserialize)]
struct Expected {
    canonical_request: Option<String>,
    string_to_sign: String,
}

/// Who signed and when, and whether it verifies with a secret.
struct Seen {
    key_id: String,
    time: Timestamp,
    verified: Result<(), Fault>,
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("one").path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    let read = |path| serde_json::from_slice(&std::fs::read(path).expect("readable"));
    let vectors: Vec<Vector> = files.map(|path| read(path).expect("a vector")).collect();
    let schemes: HashSet<_> = vectors.iter().map(|it| it.scheme.clone()).collect();
    assert!(vectors.len() > 70 && schemes.len() == 5, "all are there");
    vectors
}

impl Vector {
    fn key(&self) -> Key<'_> {
        let Credentials { key_id, key_secret, token } = &self.credentials;
        Key { id: key_id, secret: key_secret, token: token.as_deref() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.request.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn headers(&self) -> HeaderMap {
        let headers = self.request.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        headers.collect()
    }

    fn see(&self, secret: &str) -> Result<Seen, Fault> {
        let headers = self.headers();
        let Received { method, path, query, body, .. } = &self.request;
        let request = Request { method, path, query, headers: &headers, body: body.as_bytes() };
        Ok(match self.scheme.as_str() {
            "TC3-HMAC-SHA256" => {
                let claim = tc3::Claim::read(request)?;
                assert_eq!(claim.token, self.credentials.token.as_deref());
                let verified = claim.verify(secret);
                Seen { key_id: claim.key_id.to_owned(), time: claim.time, verified }
            }
            "ACS3-HMAC-SHA256" => {
                let claim = acs3::Claim::read(request)?;
                assert!(!claim.nonce.is_empty());
                let verified = claim.verify(secret);
                Seen { key_id: claim.key_id.to_owned(), time: claim.time, verified }
            }
            "alibaba-rpc-v1-HMAC-SHA1" => {
                let claim = alibaba_rpc::Claim::read(request)?;
                let verified = claim.verify(secret);
                Seen { key_id: claim.key_id, time: claim.time, verified }
            }
            _ => {
                let claim = tencent_v1::Claim::read(request)?;
                let verified = claim.verify(secret);
                Seen { key_id: claim.key_id, time: claim.time, verified }
            }
        })
    }

    fn is_refused(&self) -> bool {
        self.see(&self.credentials.key_secret).and_then(|seen| seen.verified).is_err()
    }

    /// Names of the headers whose values are signed in one way or another.
    fn covered(&self) -> Vec<String> {
        let authorization = self.header("authorization").unwrap_or_default();
        let names = authorization.split_once("SignedHeaders=").map_or("", |(_, rest)| rest);
        let names = names.split(',').next().unwrap_or_default().split(';');
        let mut names: Vec<_> = names.filter(|it| !it.is_empty()).map(str::to_owned).collect();
        match self.scheme.as_str() {
            "TC3-HMAC-SHA256" => names.push("x-tc-timestamp".to_owned()),
            "tencent-v1-HmacSHA1" | "tencent-v1-HmacSHA256" => names.push("host".to_owned()),
            _ => {}
        }
        names
    }

    /// How much of the Host header is signed: two SDKs leave its port out.
    fn host(&self) -> &str {
        let host = self.header("host").unwrap_or_default();
        let bare = host.split(':').next().unwrap_or_default();
        let canonical = self.expect.canonical_request.as_deref().unwrap_or_default();
        if canonical.contains(&format!("host:{bare}\n")) { bare } else { host }
    }
}

/// Texts that differ from this one in one byte, and not by case alone.
fn changed(text: &str) -> impl Iterator<Item = String> {
    let others = |byte: u8| {
        let letter = if byte.eq_ignore_ascii_case(&b'x') { b'y' } else { b'x' };
        let near = byte ^ 1;
        let near = (near.is_ascii_graphic() && !near.eq_ignore_ascii_case(&byte)).then_some(near);
        std::iter::once(letter).chain(near)
    };
    (0..text.len()).filter(|place| text.as_bytes()[*place].is_ascii()).flat_map(move |place| {
        others(text.as_bytes()[place]).map(move |byte| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place] = byte;
            String::from_utf8(bytes).expect("ASCII for ASCII")
        })
    })
}

#[test]
fn what_the_sdks_have_signed_verifies() {
    for vector in vectors() {
        let seen = vector.see(&vector.credentials.key_secret);
        let seen = seen.unwrap_or_else(|fault| panic!("{}: {fault}", vector.name));
        assert_eq!(seen.verified, Ok(()), "{}", vector.name);
        assert_eq!(seen.key_id, vector.credentials.key_id, "{}", vector.name);
        let off = seen.time.as_millis() / 1000 - vector.signed_at;
        assert!(off.abs() <= 1, "{}: {off} s", vector.name);
    }
}

#[test]
fn a_wrong_secret_is_told_what_the_server_signs() {
    for vector in vectors() {
        // Which of its two readings of the host the server tells is for the first one to say.
        let told = vector.header("host").unwrap_or_default() == vector.host();
        let seen = vector.see("another secret").unwrap_or_else(|_| panic!("{}", vector.name));
        let expected = Fault::Mismatch { string_to_sign: vector.expect.string_to_sign.clone() };
        if told {
            assert_eq!(seen.verified, Err(expected), "{}", vector.name);
        } else {
            assert!(matches!(seen.verified, Err(Fault::Mismatch { .. })), "{}", vector.name);
        }
    }
}

#[test]
fn no_byte_of_what_is_signed_can_be_changed() {
    for vector in vectors() {
        let refuses = |what: &str, value: &str, put: &dyn Fn(&mut Received, String)| {
            for other in changed(value) {
                let mut changed = vector.clone();
                put(&mut changed.request, other.clone());
                assert!(changed.is_refused(), "{}: {what}: {other}", vector.name);
            }
        };
        refuses("method", &vector.request.method, &|request, it| request.method = it);
        refuses("path", &vector.request.path, &|request, it| request.path = it);
        refuses("query", &vector.request.query, &|request, it| request.query = it);
        if vector.header("x-tc-content-sha256").is_none() {
            refuses("body", &vector.request.body, &|request, it| request.body = it);
        }
        for name in vector.covered() {
            let value = vector.header(&name).expect("it was signed").to_owned();
            let signed = if name == "host" { vector.host() } else { &value };
            let rest = &value[signed.len()..];
            refuses(&name, signed, &|request, it| put(request, &name, it + rest));
        }
        if let Some(authorization) = vector.header("authorization") {
            // The key is another one then, for which the caller has another secret.
            let id = format!("Credential={}", vector.credentials.key_id);
            let (before, after) = authorization.split_once(&id).expect("it names the key");
            let name = "authorization";
            refuses(name, before, &|request, it| put(request, name, it + &id + after));
            let before = format!("{before}{id}");
            refuses(name, after, &|request, it| put(request, name, before.clone() + &it));
        }
    }
}

fn put(request: &mut Received, name: &str, value: String) {
    let mut headers = request.headers.iter_mut();
    let known = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.expect("it is there").1 = value;
}

#[test]
fn we_sign_as_the_sdks_do() {
    let mut signed = 0;
    for vector in vectors() {
        let again = match vector.scheme.as_str() {
            "TC3-HMAC-SHA256" => sign_tc3(&vector),
            "ACS3-HMAC-SHA256" => sign_acs3(&vector),
            "alibaba-rpc-v1-HMAC-SHA1" => sign_rpc(&vector),
            _ => sign_v1(&vector),
        };
        if let Some((ours, theirs)) = again {
            assert_eq!(ours, theirs, "{}", vector.name);
            signed += 1;
        }
    }
    // Not: two whose payload is left out, and one that does not name its method.
    assert_eq!(signed, vectors().len() - 3);
}

fn sign_tc3(vector: &Vector) -> Option<(String, String)> {
    let theirs = vector.header("authorization")?.to_owned();
    if vector.header("x-tc-content-sha256").is_some() {
        return None;
    }
    let unsigned = tc3::Unsigned {
        method: &vector.request.method,
        host: vector.host(),
        service: theirs.split('/').nth(2)?,
        action: vector.header("x-tc-action")?,
        version: vector.header("x-tc-version")?,
        content_type: vector.header("content-type")?,
        query: &vector.request.query,
        body: vector.request.body.as_bytes(),
        covers_action: theirs.contains("x-tc-action"),
    };
    let headers = tc3::sign(&vector.key(), &unsigned, at(vector.signed_at));
    Some((found(headers, "authorization"), theirs))
}

fn sign_acs3(vector: &Vector) -> Option<(String, String)> {
    let theirs = vector.header("authorization")?.to_owned();
    let ours = ["host", "content-type", "x-acs-action", "x-acs-version", "x-acs-date"];
    let ours = ours.into_iter().chain(["x-acs-signature-nonce", "x-acs-content-sha256"]);
    let ours: HashSet<_> = ours.chain(["x-acs-security-token", "x-acs-accesskey-id"]).collect();
    let others = vector.covered();
    let others: Vec<_> = others
        .iter()
        .filter(|name| !ours.contains(name.as_str()))
        .map(|name| (&*name.clone().leak(), vector.header(name).expect("it was signed")))
        .collect();
    let unsigned = acs3::Unsigned {
        method: &vector.request.method,
        host: vector.header("host")?,
        action: vector.header("x-acs-action")?,
        version: vector.header("x-acs-version")?,
        query: &vector.request.query,
        body: vector.request.body.as_bytes(),
        headers: &others,
    };
    let time = Timestamp::parse(vector.header("x-acs-date")?)?;
    let nonce = vector.header("x-acs-signature-nonce")?;
    let headers = acs3::sign(&vector.key(), &unsigned, time, nonce);
    Some((found(headers, "authorization"), theirs))
}

/// The parameters of the action alone, the value of the signature, and all that came.
fn stripped<'a>(all: &'a Pairs, ours: &[&str]) -> (Vec<(&'a str, &'a str)>, String) {
    let others = all.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
    let others = others.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    (others, value(all, "Signature").expect("it is signed").to_owned())
}

fn sign_rpc(vector: &Vector) -> Option<(String, String)> {
    let all = pairs(&format!("{}&{}", vector.request.query, vector.request.body))?;
    let ours = ["AccessKeyId", "SignatureMethod", "SignatureVersion", "SignatureNonce"];
    let ours = [&ours[..], &["Timestamp", "Signature", "SecurityToken"]].concat();
    let (others, theirs) = stripped(&all, &ours);
    let time = Timestamp::parse(value(&all, "Timestamp")?)?;
    let nonce = value(&all, "SignatureNonce")?;
    let signed = alibaba_rpc::sign(&vector.key(), &vector.request.method, &others, time, nonce);
    Some((value(&signed, "Signature")?.to_owned(), theirs))
}

fn sign_v1(vector: &Vector) -> Option<(String, String)> {
    let all = pairs(&format!("{}&{}", vector.request.query, vector.request.body))?;
    let ours = ["SecretId", "SignatureMethod", "Timestamp", "Nonce", "Token", "Signature"];
    let (others, theirs) = stripped(&all, &ours);
    let method = match value(&all, "SignatureMethod")? {
        "HmacSHA1" => tencent_v1::Method::HmacSha1,
        _ => tencent_v1::Method::HmacSha256,
    };
    let to = (vector.request.method.as_str(), vector.header("host")?);
    let nonce = value(&all, "Nonce")?.parse().ok()?;
    let time = at(value(&all, "Timestamp")?.parse().ok()?);
    let signed = tencent_v1::sign(&vector.key(), method, to, &others, time, nonce);
    Some((value(&signed, "Signature")?.to_owned(), theirs))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn found(headers: Headers, name: &str) -> String {
    headers.into_iter().find(|(known, _)| *known == name).expect("it is there").1
}

#[test]
fn the_canonical_requests_are_the_published_ones() {
    for vector in vectors() {
        let headers = vector.headers();
        let Received { method, path, query, body, .. } = &vector.request;
        let request = Request { method, path, query, headers: &headers, body: body.as_bytes() };
        let Some(expected) = &vector.expect.canonical_request else { continue };
        match vector.scheme.as_str() {
            "TC3-HMAC-SHA256" => {
                let claim = tc3::Claim::read(request).expect("readable");
                assert_eq!(claim.canonical(vector.host()).as_ref(), Ok(expected));
            }
            "ACS3-HMAC-SHA256" => {
                let claim = acs3::Claim::read(request).expect("readable");
                assert_eq!(claim.canonical().as_ref(), Ok(expected));
            }
            _ => {}
        }
    }
}

#[test]
fn an_action_that_was_not_signed_can_be_swapped_and_one_that_was_cannot() {
    let swapped = |name: &str| {
        let mut vector = vectors().into_iter().find(|it| it.name == name).expect("there");
        put(&mut vector.request, "x-tc-action", "CreateSCIMCredential".to_owned());
        vector
    };
    assert!(!swapped("tencent-tc3-post-list").is_refused());
    assert!(swapped("published-tencent-tc3-action").is_refused());
}

/// Changes that no single byte makes.
#[test]
fn what_the_signature_does_not_cover_must_not_be_there() {
    let check = |name: &str, change: fn(&mut Received), expected: Fault| {
        let mut vector = vectors().into_iter().find(|it| it.name == name).expect("there");
        change(&mut vector.request);
        let secret = vector.credentials.key_secret.clone();
        let found = vector.see(&secret).and_then(|seen| seen.verified);
        assert_eq!(found, Err(expected), "{name}");
    };
    let (list, get) = ("tencent-tc3-post-list", "tencent-tc3-get-delete");
    check(list, |it| it.query = "ZoneId=z-2".into(), Fault::Malformed("query"));
    check(get, |it| it.body = "{}".into(), Fault::Malformed("body"));
    check(list, |it| twice(it, "host"), Fault::Malformed("host"));
    check(list, |it| twice(it, "x-tc-timestamp"), Fault::Malformed("x-tc-timestamp"));
    check(list, |it| twice(it, "x-tc-action"), Fault::Malformed("x-tc-action"));
    check(list, |it| twice(it, "x-tc-version"), Fault::Malformed("x-tc-version"));
    check(list, |it| put(it, "authorization", "SKIP".into()), Fault::Method);

    let (form, rpc) = ("tencent-v1-sha1-post-list", "alibaba-rpc1-list");
    check(form, |it| it.query = "ZoneId=z-2".into(), Fault::Malformed("query"));
    check(form, |it| it.body += "&ZoneId=z-2", Fault::Malformed("parameters"));
    check(rpc, |it| it.body = "{}".into(), Fault::Malformed("body"));
    check(rpc, |it| it.query += "&DirectoryId=d-2", Fault::Malformed("parameters"));

    let acs3 = "alibaba-node-acs3-query";
    check(acs3, |it| it.body = "DirectoryId=d-2".into(), Fault::Body);
    check(acs3, |it| twice(it, "x-acs-action"), Fault::Malformed("x-acs-action"));

    let typed = |it: &mut Received| it.headers.push(("content-type".into(), FORM.into()));
    check(acs3, typed, Fault::Unsigned("content-type"));
    let with_token =
        |it: &mut Received| it.headers.push(("x-acs-security-token".into(), "t".into()));
    check(acs3, with_token, Fault::Unsigned("x-acs-security-token"));
    let fewer = |it: &mut Received| {
        let (_, value) =
            it.headers.iter_mut().find(|(name, _)| name == "Authorization").expect("it");
        *value = value.replace("x-acs-signature-nonce;", "");
    };
    check(acs3, fewer, Fault::Unsigned("x-acs-signature-nonce"));
    for (name, again) in [(list, ";host"), (list, ";Host"), (acs3, ";host"), (acs3, ";hOst")] {
        let mut vector = vectors().into_iter().find(|it| it.name == name).expect("there");
        let value = vector.header("authorization").expect("signed");
        let (names, rest) = value.split_once("Signature=").expect("it ends so");
        let names = names.trim_end_matches([',', ' ']);
        let value = format!("{names}{again},Signature={rest}");
        put(&mut vector.request, "authorization", value);
        let read = vector.see(&vector.credentials.key_secret).map(|_| ());
        assert_eq!(read, Err(Fault::Malformed("SignedHeaders")), "{name} {again}");
    }
}

fn twice(request: &mut Received, name: &str) {
    let known = request.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    request.headers.push(known.expect("it is there").clone());
}

#[test]
fn a_query_is_read_in_each_spelling_and_written_in_one() {
    let read = pairs("a=x+y%20z&b=&c&d=%C3%A9*%2A~").expect("well-formed");
    let expected = [("a", "x y z"), ("b", ""), ("c", ""), ("d", "\u{e9}**~")];
    assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(encode(read), "a=x%20y%20z&b=&c=&d=%C3%A9%2A%2A~");
    for bad in ["a=%", "a=%2", "a=%zz", "a=%FF"] {
        assert_eq!(pairs(bad), None, "{bad}");
    }
}

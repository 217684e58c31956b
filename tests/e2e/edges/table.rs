//! Every case of `cases.rs` put to one edge, whose guard knows the tokens.

use std::collections::BTreeSet;

use serde_json::json;

use super::cases::{ALLOWED, Allowed, CONNECTION, FORGED, HOSTILE, REFUSED, Refused};
use super::recorder::{BODY, Seen};
use super::rig::{HOST, Rig, TENANT, Tokens, ask, users};
use crate::client::{Answer, Client, Request};

pub fn check(rig: &Rig, tokens: &Tokens) {
    let mut client = rig.client();
    ALLOWED.iter().for_each(|case| check_allowed(rig, &mut client, tokens, case));
    check_large_body(rig, tokens);
    check_forged(rig, tokens);
    REFUSED.iter().for_each(|case| check_refused(rig, &mut client, tokens, case));
    check_alike(rig, tokens);
    HOSTILE.iter().for_each(|target| check_hostile(rig, tokens, target));
}

fn check_allowed(rig: &Rig, client: &mut Client, tokens: &Tokens, case: &Allowed) {
    let Allowed { method, target, body } = case;
    let what = format!("{}: {method} {target}", rig.edge.name);
    let request = Request::new(method, *target).header("Host", HOST).bearer(&tokens.fill("{good}"));
    let request = body.iter().fold(request, |request, body| request.body(*body));
    let answer = ask(client, &request);
    let seen = the_only(rig, &answer, &what);
    assert_eq!(seen.method, *method, "{what}");
    assert_eq!(seen.target, rig.edge.spelling(target), "{what}");
    assert_eq!(seen.body, body.unwrap_or_default().as_bytes(), "{what}");
    assert_identity(&seen, &tokens.good_id, &what);
}

/// A bulk request goes through as it is, and none of it to the guard, which takes no body at all.
fn check_large_body(rig: &Rig, tokens: &Tokens) {
    let body = "x".repeat(2 << 20);
    let request = Request::new("POST", "/scim/v2/Bulk").header("Host", HOST);
    let request = request.bearer(&tokens.fill("{good}")).body(body.as_str());
    let answer = ask(&mut rig.client(), &request);
    let seen = the_only(rig, &answer, rig.edge.name);
    assert!(seen.body == body.as_bytes(), "{}: {} bytes", rig.edge.name, seen.body.len());
}

/// Each forged header by itself, all at once, and ours declared to be none of the backend's business.
fn check_forged(rig: &Rig, tokens: &Tokens) {
    let alone = FORGED.iter().map(|header| vec![*header]);
    let connection = CONNECTION.iter().map(|names| vec![("Connection", *names)]);
    let all = [FORGED.to_vec(), [FORGED, &[("Connection", CONNECTION[1])]].concat()];
    for headers in alone.chain(connection).chain(all) {
        let forge = |request: Request| {
            headers.iter().fold(request, |request, (name, value)| request.header(name, *value))
        };
        let what = format!("{}: {headers:?}", rig.edge.name);
        let request = forge(users().bearer(&tokens.fill("{good}")));
        let answer = ask(&mut rig.client(), &request);
        if answer.status == 400 && headers.iter().any(|(name, _)| *name == "Connection") {
            assert!(rig.backend.take().is_empty(), "{what}");
            continue; // Envoy will not have some headers named there.
        }
        assert_identity(&the_only(rig, &answer, &what), &tokens.good_id, &what);

        let open = Request::new("GET", "/scim/v2/ServiceProviderConfig").header("Host", HOST);
        let answer = ask(&mut rig.client(), &forge(open));
        assert_identity(&the_only(rig, &answer, &what), "(anonymous)", &what);

        let answer = ask(&mut rig.client(), &forge(users()));
        assert_eq!(answer.status, 401, "{what}, no token: {answer}");
        assert!(rig.backend.take().is_empty(), "{what}, no token");
    }
}

/// The one request that has come to the backend, and nothing but its answer to the client.
fn the_only(rig: &Rig, answer: &Answer, what: &str) -> Seen {
    let mut seen = rig.backend.take();
    assert_eq!((answer.status, seen.len()), (200, 1), "{what}: {answer}");
    let seen = seen.remove(0);
    let body = if seen.method == "HEAD" { "" } else { BODY };
    assert_eq!(answer.body, body.as_bytes(), "{what}");
    seen
}

/// The backend is told who asks by us alone, and whence by the edge.
fn assert_identity(seen: &Seen, credential_id: &str, what: &str) {
    let is = |name: &str, values: &[&str]| {
        assert_eq!(seen.values(name), values, "{what}: {name} in {seen:?}");
    };
    is("X-SCIM-Credential-Id", &[credential_id]);
    is("X-SCIM-Tenant", &[TENANT]);
    is("X-Forwarded-For", &["127.0.0.1"]);
    is("Host", &[HOST]);
    assert_eq!(seen.values("X-Request-Id").len(), 1, "{what}: {seen:?}");
    let absent = ["Authorization", "Forwarded", "X-Forwarded-Method", "X-Forwarded-Uri"];
    let original = ["Method", "URI", "URL", "Host"].map(|it| format!("X-Original-{it}"));
    absent.iter().for_each(|name| is(name, &[]));
    original.iter().for_each(|name| is(name, &[]));
    let headers = format!("{:?}", seen.headers).to_lowercase();
    // Envoy passes on what only Envoy reads.
    let headers = headers.replace("\"x-scim-tenant,x-scim-credential-id\"", "");
    assert!(!headers.contains("forged"), "{what}: {seen:?}");
    for named in seen.values("Connection") {
        assert!(!named.to_lowercase().contains("x-"), "{what}: {seen:?}");
    }
}

fn check_refused(rig: &Rig, client: &mut Client, tokens: &Tokens, case: &Refused) {
    let what = format!("{}: {}, {} {}", rig.edge.name, case.name, case.method, case.target);
    let answer = ask(client, &refused(tokens, case));
    assert!(rig.backend.take().is_empty(), "{what} came through");
    if let Some((_, status)) = rig.edge.own.iter().find(|(name, _)| *name == case.name) {
        assert_eq!(answer.status, *status, "{what}: {answer}");
        return;
    }
    assert_eq!(answer.status, case.status, "{what}: {answer}");
    let challenge = answer.header("WWW-Authenticate");
    let begins = case.challenge.is_none_or(|it| challenge.is_some_and(|is| is.starts_with(it)));
    assert!(begins && challenge.is_some() == case.challenge.is_some(), "{what}: {answer}");
    assert!(answer.header("X-Request-Id").is_some(), "{what}: {answer}");
    assert_scim_error(&answer, case.method, &what);
}

fn refused(tokens: &Tokens, case: &Refused) -> Request {
    let request = Request::new(case.method, case.target).header("Host", HOST);
    let request = case
        .authorization
        .iter()
        .fold(request, |request, value| request.header("Authorization", tokens.fill(value)));
    if case.method == "POST" { request.body("{\"userName\":\"a\"}") } else { request }
}

pub fn assert_scim_error(answer: &Answer, method: &str, what: &str) {
    let names = answer.headers.iter().map(|(name, _)| name.to_lowercase());
    assert_eq!(names.collect::<BTreeSet<_>>().len(), answer.headers.len(), "{what}: {answer}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{what}: {answer}");
    if method == "HEAD" {
        assert!(answer.body.is_empty(), "{what}: {answer}");
        return;
    }
    assert_eq!(answer.header("Content-Type"), Some("application/scim+json"), "{what}: {answer}");
    let error = answer.json();
    assert_eq!(error["schemas"], json!([ERROR]), "{what}: {answer}");
    assert_eq!(error["status"], answer.status.to_string(), "{what}: {answer}");
}

/// Nobody may learn from an answer that a token is good elsewhere.
fn check_alike(rig: &Rig, tokens: &Tokens) {
    let told = |token: &str| {
        let mut answer = ask(&mut rig.client(), &users().bearer(&tokens.fill(token)));
        let id = answer.header("X-Request-Id").expect("every answer has one").to_owned();
        let own = ["date", "x-envoy-upstream-service-time"];
        answer.headers.retain(|(name, _)| !own.contains(&name.to_lowercase().as_str()));
        answer.headers.sort(); // HAProxy's Lua has them in any order.
        answer.to_string().replace(&id, "its id")
    };
    assert_eq!(told("{foreign}"), told("{unknown}"), "{}", rig.edge.name);
}

fn check_hostile(rig: &Rig, tokens: &Tokens, target: &str) {
    let what = format!("{}: {target}", rig.edge.name);
    let request = Request::new("GET", target).header("Host", HOST).bearer(&tokens.fill("{good}"));
    let answer = ask(&mut rig.client(), &request);
    let seen = rig.backend.take();
    if seen.is_empty() {
        assert!((400..500).contains(&answer.status), "{what}: {answer}");
    }
    for seen in seen {
        let path = seen.target.split('?').next().unwrap_or_default().to_lowercase();
        let within =
            path.strip_prefix("/scim/v2").is_some_and(|it| it.is_empty() || it.starts_with('/'));
        let plain = ["..", "/.", "%2e", "%25", "%5c", "\\", "%0", "#", ";"];
        assert!(within && !plain.iter().any(|it| path.contains(it)), "{what} came as {seen:?}");
    }
}

const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

//! Direct equals proxied, below the conformance testers: the same requests give the same status
//! and the same header fields. Entity tags, conditions, odd queries and refusals of the backend's
//! own pass as they are.

use serde_json::json;

use crate::backend::{Backend, RunningBackend};
use crate::client::{Answer, Client, Request};
use crate::guard::{Authorization, Guard, Row};

#[test]
fn status_and_headers_are_the_same_behind_the_proxy() {
    for backend in Backend::ALL {
        let (alone, behind) = (backend.start(), backend.start());
        let guard = Guard::start(&behind, Authorization::Remove, &[ROW]);
        let direct = converse(Client::new(alone.address), &alone, &alone.url());
        let proxied = converse(Client::new(guard.address), &behind, &guard.url());
        let pairs = direct.iter().zip(&proxied).filter(|(direct, proxied)| direct != proxied);
        let texts = pairs.map(|(direct, proxied)| format!(" direct {direct}\nproxied {proxied}"));
        let text = texts.collect::<Vec<_>>().join("\n");
        assert!(text.is_empty(), "{backend}:\n{text}");
    }
}

/// Sends a fixed series of requests and tells what came back, free of ids and times.
fn converse(mut client: Client, backend: &RunningBackend, url: &str) -> Vec<String> {
    let path = backend.kind.path();
    let mut send = |request: Request| client.send(&request.bearer(ROW.token)).expect("an answer");
    let created = send(Request::new("POST", format!("{path}/Users")).scim(&user("Hélène")));
    assert_eq!(created.status, 201, "{created}");
    let id = created.json()["id"].as_str().expect("a created user has an id").to_owned();
    let found = send(Request::new("GET", format!("{path}/Users/{id}")));
    let etag = found.header("ETag").expect("all three send entity tags").to_owned();

    let told = |name: &str, answer: &Answer| {
        let text = describe(answer).replace(url, "BASE").replace(&id, "ID");
        format!("{name}: {text}")
    };
    let mut all = vec![told("create", &created), told("read", &found)];
    for (name, request) in requests(path, &id, &etag) {
        all.push(told(name, &send(request)));
    }
    all
}

fn requests(path: &str, id: &str, etag: &str) -> Vec<(&'static str, Request)> {
    let request = |method, rest: &str| Request::new(method, format!("{path}{rest}"));
    let one = format!("/Users/{id}");
    vec![
        ("unchanged", request("GET", &one).header("If-None-Match", etag)),
        ("stale", request("PUT", &one).header("If-Match", "W/\"other\"").scim(&user("Eve"))),
        ("exact", request("PUT", &one).header("If-Match", etag).scim(&user("Hélène"))),
        ("taken", request("POST", "/Users").scim(&user("Hélène"))),
        ("malformed", request("POST", "/Users").body("{")),
        ("empty body", request("POST", "/Users").body("")),
        ("encoded", request("GET", "/Users?filter=userName%20eq%20%22a%2Bb%40x%22")),
        ("plus for space", request("GET", "/Users?filter=userName+eq+%22a%22&count=5&")),
        ("raw quotes", request("GET", "/Users?filter=userName%20eq%20\"a\"&aadOptscim062020")),
        ("malformed filter", request("GET", "/Users?filter=userName%20nonsense")),
        ("encoded id", request("GET", "/Users/a%2Fb%40c:d~e")),
        ("unknown type", request("GET", "/Devices")),
        ("method of no use", request("PUT", "/ServiceProviderConfig").scim(&user("Eve"))),
        ("head", request("HEAD", &one)),
        ("options", request("OPTIONS", "/Users")),
        ("delete", request("DELETE", &one)),
        ("gone", request("GET", &one)),
    ]
}

/// The status and the fields that belong to the answer; the others belong to one connection.
fn describe(answer: &Answer) -> String {
    let fields = answer.headers.iter();
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()));
    let mut fields: Vec<_> =
        fields.filter_map(|(name, value)| describe_field(answer.status, &name, value)).collect();
    fields.sort();
    format!("{} {}", answer.status, fields.join(" | "))
}

fn describe_field(status: u16, name: &str, value: &str) -> Option<String> {
    match name {
        "connection" | "keep-alive" | "transfer-encoding" => None,
        // RFC 9110 section 8.6 forbids it with 204, and the 0 that some send with 304 is untrue.
        "content-length" if matches!(status, 204 | 304) => None,
        "date" | "content-length" => Some(name.to_owned()), // These follow the clock and the URL.
        "etag" if value.starts_with("W/") => Some("etag: weak".to_owned()),
        "etag" => Some("etag: strong".to_owned()),
        _ => Some(format!("{name}: {value}")),
    }
}

fn user(name: &str) -> serde_json::Value {
    json!({ "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name })
}

const ROW: Row = Row::enabled("scimcred-demo00000001", "answers-0123456789-abcdefghijklmnopqrstu");

//! Hostile and broken clients of the admin API. Each is answered in our words or cut off, nothing
//! makes it fail, and no secret is repeated anywhere.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketType, bind, connect as connect_from, socket};
use serde_json::{Value, json};

use crate::admin::{Api, Pair, TOKENS, secret_of};
use crate::guard::{digest, wait_for};
use crate::http::{Client, Reply, connect};

const TENANT: &str = "/v1/tenants/z-a";
const CREDENTIALS: &str = "/v1/tenants/z-a/credentials";
const JSON: &str = "Content-Type: application/json";

/// What a client sends: everything but its token, `\r\n` and the length of the body.
struct Case {
    line: String,
    fields: Vec<String>,
    body: Vec<u8>,
}

fn case(line: impl Into<String>) -> Case {
    Case { line: line.into(), fields: Vec::new(), body: Vec::new() }
}

impl Case {
    fn field(mut self, field: impl Into<String>) -> Self {
        self.fields.push(field.into());
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.fields.push(JSON.to_owned());
        self
    }

    /// The bytes, as the holder of a token sends them.
    fn by(&self, token: &str) -> Vec<u8> {
        self.bytes(&format!("Host: admin\r\nAuthorization: Bearer {token}\r\n"))
    }

    fn bytes(&self, front: &str) -> Vec<u8> {
        let mut text = format!("{} HTTP/1.1\r\n{front}Connection: close\r\n", self.line);
        for field in &self.fields {
            text += &format!("{field}\r\n");
        }
        let told = self.fields.iter().any(|it| it.starts_with("Transfer-Encoding"));
        if !self.body.is_empty() && !told {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        // Characters up to U+00FF stand for bytes that are no text.
        let head = text.chars().map(|it| u8::try_from(u32::from(it)).expect("a byte"));
        head.chain(self.body.iter().copied()).collect()
    }
}

/// Sends bytes as far as they are taken, and reads the answer.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = connect(address);
    // It may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let to_head = bytes.starts_with(b"HEAD ");
    Client::over(stream).reply(to_head)
}

/// Whether an answer is a problem as they all are, with this status and code.
fn assert_problem(reply: &Reply, status: u16, code: &str, about: &str) {
    assert_eq!(reply.status, status, "{about}: {}", reply.text());
    let content = reply.header("content-type");
    assert_eq!(content, Some("application/problem+json"), "{about}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{about}");
    assert!(reply.header("x-request-id").is_some(), "{about}");
    let body = reply.json();
    assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)), "{about}");
}

/// Whether the process has come through it all, and has told nothing that it must not.
fn finish(mut pair: Pair, secrets: &[&str]) {
    let (near, far) = (pair.near.said(), pair.far.said());
    let audit = pair.operator.get("/v1/audit?rows=1000").text();
    let metrics = pair.near.ops("/metrics").text();
    let token = pair.operator.token.clone();
    let known = TOKENS.map(|(name, ..)| secret_of(name));
    let known = known.iter().map(String::as_str).chain(secrets.iter().copied());
    for secret in known.chain([&*token]) {
        let digest = digest(secret);
        let bare = digest.strip_prefix("sha256:").expect("its form");
        for (place, text) in
            [("log", &near), ("follower's log", &far), ("audit", &audit), ("metrics", &metrics)]
        {
            assert!(!text.contains(secret) && !text.contains(bare), "the {place} tells a secret");
        }
    }
    assert!(!near.contains("the admin API failed"), "{near}");
    assert!(!metrics.contains("status=\"5xx\""), "{metrics}");
    pair.stop();
}

#[test]
fn a_login_that_is_none_is_told_so() {
    let pair = Pair::start("127.0.0.1:0");
    let token = pair.operator.token.clone();
    let check = |fields: &[String], status: u16, code: &str| {
        let front: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let bytes = case("GET /v1/tenants").bytes(&format!("Host: admin\r\n{front}"));
        let reply = exchange(pair.address, &bytes).expect("an answer");
        assert_problem(&reply, status, code, &fields.join(" | "));
        assert!(!reply.text().contains(&token));
    };
    let login = |text: &str| vec![format!("Authorization: {text}")];
    let good = format!("Bearer {token}");
    check(&[], 401, "token_missing");
    for text in ["", "Bearer", "Bearer ", "Basic abc", "\u{e9}earer abc", "Bea\u{e9}er x", &token] {
        check(&login(text), 401, "token_missing");
    }
    for text in [
        "Bearer nobody".to_owned(),
        format!("Bearer {good}"),
        format!("{good},x"),
        format!("{good} x"),
        format!("Bearer {}", "x".repeat(20_000)),
        "Bearer \u{ff}\u{fe}\u{80}".to_owned(),
    ] {
        check(&login(&text), 401, "invalid_token");
    }
    for other in [&good, "Bearer nobody", "Basic x"] {
        let both = [login(&good), login(other)].concat();
        check(&both, 400, "authorization_malformed");
    }
    for query in ["access_token", "token", "bearer"] {
        let bytes = case(format!("GET /v1/tenants?{query}={token}")).bytes("Host: admin\r\n");
        let reply = exchange(pair.address, &bytes).expect("an answer");
        assert_problem(&reply, 401, "token_missing", query);
    }
    finish(pair, &[]);
}

#[test]
fn a_target_is_what_it_says_and_nothing_near_it() {
    let pair = Pair::start("127.0.0.1:0");
    let token = pair.operator.token.clone();
    let check = |line: &str, status: u16, code: &str| {
        let reply = exchange(pair.address, &case(line).by(&token)).expect("an answer");
        assert_problem(&reply, status, code, line);
    };
    for target in [
        "*",
        "//v1/tenants",
        "/v1/tenants/",
        "/v1//tenants",
        "/v1/../v1/tenants",
        "/V1/tenants",
        "/v1/tenants/z-a/",
        "/v1/%74enants",
        "/v1/tenants/z-a/credentials/x/..",
        "/v2/tenants",
        "/",
    ] {
        check(&format!("GET {target}"), 404, "route_unknown");
    }
    let long = "a".repeat(129);
    for id in [
        "..",
        ".",
        "%2e%2e",
        "%2E",
        "a%2Fb",
        "a%3Ab",
        "a:b",
        "%00",
        "%ff",
        "%",
        "%zz",
        "%25",
        "z-a;x=1",
        "%2e%2e%2fz-a",
        "z%0d%0aX:1",
        &long,
    ] {
        for target in [format!("/v1/tenants/{id}"), format!("{CREDENTIALS}/{id}")] {
            for method in ["GET", "DELETE"] {
                check(&format!("{method} {target}"), 400, "invalid");
            }
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"] {
        check(&format!("{method} /v1/tenants"), 405, "method_not_allowed");
    }
    for query in [
        "rows=0",
        "rows=-1",
        "rows=1e9",
        "rows=",
        "rows=99999999999999999999",
        "rows=1&rows=2",
        "after=",
        "after=..",
        "after=a:b",
        "after=%ff",
        "expiring_in=-1",
        "expiring_in=9999999999999y",
        "row=1",
        "a=%zz",
        "=",
    ] {
        check(&format!("GET {CREDENTIALS}?{query}"), 400, "invalid");
    }
    for query in [
        "after=",
        "after=z-a",
        "after=h:1:00",
        "after=h:-1:0000000000000000",
        "after=h:18446744073709551616:0000000000000000",
        "tenant=",
        "tenant=..",
        "rows=0",
    ] {
        check(&format!("GET /v1/changes?{query}"), 400, "invalid");
        check(&format!("GET /v1/table?{query}"), 400, "invalid");
    }
    for revision in ["18446744073709551615", "9223372036854775808", "1"] {
        let unknown = format!("GET /v1/changes?after=h:{revision}:0000000000000000");
        check(&unknown, 410, "history_unknown");
    }
    for revision in ["18446744073709551615", "9223372036854775808", "999999"] {
        check(
            &format!("GET /v1/revisions/{revision}/receipt?wait=99999h"),
            404,
            "revision_unknown",
        );
    }
    for revision in ["18446744073709551616", "-1", "1.0", "1e3", "x", "", "%20"] {
        check(&format!("GET /v1/revisions/{revision}/receipt"), 400, "invalid");
    }
    for wait in ["-1s", "x", "18446744073709551616", "9999999999999y", "1s&wait=2s"] {
        check(&format!("GET /v1/revisions/1/receipt?wait={wait}"), 400, "invalid");
    }
    for after in ["-1", "18446744073709551615", "x"] {
        check(&format!("GET /v1/audit?after={after}"), 400, "invalid");
    }
    for digest in ["x", "sha256:", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
        check(&format!("GET /v1/lookup/{digest}"), 400, "invalid");
    }
    // A write passes over nothing.
    for line in [format!("DELETE {TENANT}"), format!("PUT {TENANT}"), format!("POST {CREDENTIALS}")]
    {
        check(&format!("{line}?dry_run=true"), 400, "invalid");
    }
    for id in ["garbage", "h:1:00", "\u{ff}", &"a".repeat(9000)] {
        let follow = case("GET /v1/changes").field("Accept: text/event-stream");
        let bytes = follow.field(format!("Last-Event-ID: {id}")).by(&token);
        let reply = exchange(pair.address, &bytes).expect("an answer");
        assert_problem(&reply, 400, "invalid", id);
    }
    // Much is answered with as much as there is.
    for target in ["/v1/table?rows=1000000000", "/v1/audit?rows=1000000000", "/v1/tenants?"] {
        let reply = exchange(pair.address, &case(format!("GET {target}")).by(&token));
        assert_eq!(reply.expect("an answer").status, 200, "{target}");
    }
    finish(pair, &[]);
}

#[test]
fn a_body_that_is_none_changes_nothing() {
    let mut pair = Pair::start("127.0.0.1:0");
    let token = pair.operator.token.clone();
    let before = pair.reader.get("/v1/table").json();
    let check = |case: Case, status: u16, code: &str| {
        let about = format!("{} {}", case.line, String::from_utf8_lossy(&case.body));
        let reply = exchange(pair.address, &case.by(&token)).expect("an answer");
        assert_problem(&reply, status, code, &about[..about.len().min(200)]);
    };
    let create = || case(format!("POST {CREDENTIALS}"));
    let (deep, deeper) = ("[".repeat(100_000), "{\"a\":".repeat(100_000));
    let big_label = json!({ "label": "x".repeat(257) }).to_string();
    let big_secret = json!({ "secret": "x".repeat(5000), "expire_in": "90d" }).to_string();
    for body in [
        "[]",
        "1",
        "null",
        "\"x\"",
        "{",
        "{}x",
        "\u{feff}{}",
        &deep,
        &deeper,
        &big_label,
        &big_secret,
        r#"{"label":"\ud800"}"#,
        r#"{"label":1}"#,
        r#"{"label":null}"#,
        r#"{"label":"a\u0000b"}"#,
        r#"{"status":"On"}"#,
        r#"{"expire_in":-1}"#,
        r#"{"expire_in":1e99}"#,
        r#"{"expire_in":18446744073709551615}"#,
        r#"{"expire_in":18446744073709551616}"#,
        r#"{"expire_in":"99999999999999y"}"#,
        r#"{"expire_time":"99999-01-01T00:00:00Z"}"#,
        r#"{"expire_time":"2030-01-01T00:00:00+25:99"}"#,
        r#"{"expire_time":"2030-01-01"}"#,
        r#"{"digest":"sha256:00"}"#,
        r#"{"secret":"short","expire_in":"90d"}"#,
        r#"{"secret":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","expire_in":"90d"}"#,
    ] {
        check(create().body(body), 400, "invalid");
    }
    check(create().body(b"{\"label\":\"\xff\"}".to_vec()), 400, "invalid");
    for path in ["", "copy.db", "../copy.db"] {
        check(case("POST /v1/backup").body(json!({ "path": path }).to_string()), 400, "invalid");
    }
    check(create().body(vec![b' '; 2 << 20]), 413, "body_too_large");
    for kind in ["text/plain", "application/jsonx", "application/x-www-form-urlencoded", ""] {
        let mut other = create().body("{}");
        other.fields = vec![format!("Content-Type: {kind}")];
        check(other, 415, "media_type_unsupported");
    }
    // What is sent in two ways, or not to its end.
    let chunked = || create().field("Transfer-Encoding: chunked");
    check(chunked().field("Content-Length: 4").body("0\r\n\r\n"), 400, "framing_invalid");
    let twice = create().field("Content-Length: 0").field("Content-Length: 0");
    check(twice, 400, "framing_invalid");
    check(create().field("Host: other"), 400, "framing_invalid");
    check(case("GET /v1/tenants#f"), 400, "framing_invalid");
    check(chunked().body("zz\r\n{}\r\n0\r\n\r\n"), 400, "invalid");
    let bytes = case("GET /v1/tenants").bytes(&format!("Authorization: Bearer {token}\r\n"));
    let reply = exchange(pair.address, &bytes).expect("an answer");
    assert_problem(&reply, 400, "framing_invalid", "no host");
    let mut stream = connect(pair.address);
    stream.write_all(&create().field("Content-Length: 99").body("{").by(&token)).expect("sent");
    stream.shutdown(Shutdown::Write).expect("open");
    let mut answer = Vec::new();
    // It may be too late to be told.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "half a body");

    let after = pair.reader.get("/v1/table").json();
    assert_eq!(after, before, "nothing was done");
    finish(pair, &[]);
}

#[test]
fn requests_that_follow_each_other_are_not_mixed_up() {
    let pair = Pair::start("127.0.0.1:0");
    let token = &pair.operator.token;
    let statuses = |text: String| {
        let mut client = Client::connect(pair.address);
        client.write(text.as_bytes());
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        let lines = rest.split("HTTP/1.1 ").skip(1);
        lines.map(|it| it[..3].parse().expect("a number")).collect::<Vec<u16>>()
    };
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
    };
    let get = head(&format!("GET {TENANT}"), "");
    let last = head(&format!("GET {TENANT}"), "Connection: close\r\n");
    assert_eq!(statuses(get.repeat(20) + &last), [200; 21]);
    let unread =
        format!("POST {CREDENTIALS} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nxxxxx");
    assert_eq!(
        statuses(unread + &last),
        [401, 200],
        "a body that nobody wants is read all the same"
    );
    // What could be the body or the next request is neither.
    let doubtful = "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n";
    let smuggled = head("PUT /v1/tenants/z-smuggled", doubtful) + "0\r\n\r\n" + &get + &last;
    assert_eq!(statuses(smuggled), [400]);
    let waiting = format!(
        "PUT /v1/tenants/z-smuggled HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: \
         {}\r\n\r\n",
        last.len()
    );
    assert_eq!(statuses(waiting + &last), [401], "it may not have sent the body");
    let mut client = Client::connect(pair.address);
    client.write(
        format!("GET {TENANT} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes(),
    );
    assert!(client.rest().starts_with(b"HTTP/1.0 200"));
    let table = exchange(pair.address, &case("GET /v1/tenants/z-smuggled").by(token));
    assert_problem(&table.expect("an answer"), 404, "tenant_unknown", "it was not made");
    finish(pair, &[]);
}

/// Everything that can be asked about a tenant and a credential of it, and about no tenant.
fn everything(tenant: &str, id: &str) -> Vec<(&'static str, String, Value)> {
    let tenant_path = format!("/v1/tenants/{tenant}");
    let (all, one) =
        (format!("{tenant_path}/credentials"), format!("{tenant_path}/credentials/{id}"));
    let switch = format!("{tenant_path}/synchronization");
    let none = Value::Null;
    let disabled = json!({ "status": "Disabled" });
    vec![
        ("GET", tenant_path.clone(), none.clone()),
        ("GET", switch.clone(), none.clone()),
        ("GET", all.clone(), none.clone()),
        ("GET", one.clone(), none.clone()),
        ("POST", all, json!({})),
        ("PATCH", one.clone(), json!({ "label": "x" })),
        ("PATCH", one.clone(), disabled.clone()),
        ("POST", format!("{one}/rotate"), json!({})),
        ("PUT", switch, disabled),
        ("DELETE", one, none.clone()),
        ("PUT", tenant_path.clone(), none.clone()),
        ("DELETE", tenant_path, none),
    ]
}

#[test]
fn a_token_is_good_for_its_role_and_its_tenants_alone() {
    let mut pair = Pair::start("127.0.0.1:0");
    let made = pair.operator.ask("POST", "/v1/tenants/z-b/credentials", "{}").json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    let (id, secret) = (text("credential_id"), text("secret"));
    let before = pair.reader.get("/v1/table").json();
    let ask = |who: &str, method: &str, target: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Api::new(pair.address, &secret_of(who)).ask(method, target, &body)
    };
    for (method, target, body) in everything("z-b", &id) {
        let about = format!("{method} {target}");
        let reply = ask("follower", method, &target, &body);
        assert_problem(&reply, 403, "role_insufficient", &about);
        let other = ask("tenant-operator", method, &target, &body);
        assert_problem(&other, 404, "tenant_unknown", &about);
        // Word for word as for a tenant that there is not.
        let target = target.replace("z-b", "z-none");
        let none = ask("tenant-operator", method, &target, &body);
        assert_eq!(none.text().replace("z-none", "z-b"), other.text(), "{about}");
        if method != "GET" && !body.to_string().contains("status") {
            let reply = ask("nightwatch", method, &target, &body);
            assert_problem(&reply, 403, "role_insufficient", &about);
        }
        if method != "GET" {
            let reply = ask("looker", method, &target, &body);
            assert_problem(&reply, 403, "role_insufficient", &about);
        }
    }
    let path = json!({ "path": pair.folder.path().join("stolen.db") });
    for (method, target, body) in [
        ("GET", "/v1/tenants", &Value::Null),
        ("GET", "/v1/replicas", &Value::Null),
        ("GET", "/v1/revisions/1/receipt", &Value::Null),
        ("GET", "/v1/history", &Value::Null),
        ("GET", "/v1/audit", &Value::Null),
        ("POST", "/v1/history/accept", &Value::Null),
        ("POST", "/v1/backup", &path),
    ] {
        let reply = ask("follower", method, target, body);
        assert_problem(&reply, 403, "role_insufficient", target);
        let reply = ask("tenant-operator", method, target, body);
        let text = reply.text();
        assert!(!text.contains("z-b") && !text.contains(&id), "{target}: {text}");
        if method == "POST" {
            assert_problem(&reply, 403, "role_insufficient", target);
        }
    }
    for who in ["tenant-follower", "tenant-operator"] {
        for target in ["/v1/table?tenant=z-b", "/v1/changes?tenant=z-b"] {
            assert_problem(&ask(who, "GET", target, &Value::Null), 404, "tenant_unknown", target);
        }
        let lookup = format!("/v1/lookup/{}", digest(&secret));
        assert_problem(&ask(who, "GET", &lookup, &Value::Null), 404, "digest_unknown", who);
        let history = before["history"].as_str().expect("a text");
        let log = format!("/v1/changes?after={history}:0:0000000000000000");
        for target in ["/v1/table", &log] {
            let text = ask(who, "GET", target, &Value::Null).text();
            assert!(text.contains("z-a") && !text.contains("z-b") && !text.contains(&id), "{text}");
        }
    }
    assert_eq!(pair.reader.get("/v1/table").json(), before, "nothing was done");
    finish(pair, &[&secret]);
}

fn report() -> Value {
    json!({ "name": "odd", "max_stale": "1s" })
}

#[test]
fn a_replica_with_a_fault_harms_nobody_else() {
    let mut pair = Pair::start("127.0.0.1:0");
    let mut put = |instance: &str, body: &Value| {
        let target = format!("/v1/replicas/{instance}");
        pair.reader.ask("PUT", &target, &body.to_string())
    };
    let with = |name: &str, value: Value| {
        let mut report = report();
        report[name] = value;
        report
    };
    let key = json!({ "tenant": "z-a", "credential_id": "nobody" });
    let used = |time: &str, count: usize| {
        let one = json!({ "tenant": "z-a", "credential_id": "nobody", "time": time });
        with("used", Value::from_iter(std::iter::repeat_n(one, count)))
    };
    let now = "2027-01-01T00:00:00Z";
    for (body, status, code) in [
        (used(now, 100_000), 413, "body_too_large"),
        (with("would_revive", Value::from_iter(vec![key.clone(); 100_000])), 413, "body_too_large"),
        (used("never", 1), 400, "invalid"),
        (with("used", json!([{}])), 400, "invalid"),
        (with("used", Value::Null), 400, "invalid"),
        (with("would_revive", json!([{ "tenant": "..", "credential_id": "x" }])), 400, "invalid"),
        (with("applied", json!("x")), 400, "invalid"),
        (with("compared", json!("x")), 400, "invalid"),
        (with("applied", json!("h:18446744073709551616:0000000000000000")), 400, "invalid"),
        (with("max_stale", json!(5)), 400, "invalid"),
        (with("max_stale", json!("-1s")), 400, "invalid"),
        (with("max_stale", json!("99999999999999999y")), 400, "invalid"),
        (json!([]), 400, "invalid"),
    ] {
        let about = &body.to_string()[..60.min(body.to_string().len())];
        assert_problem(&put("odd", &body), status, code, about);
    }
    // Where more comes than is read only to be refused, the connection ends.
    let mut other = Api::new(pair.address, &secret_of("follower"));
    let endless = used(now, 1_000_000).to_string();
    let answered = other.try_ask("PUT", "/v1/replicas/odd", &endless);
    assert!(answered.is_err() || answered.is_ok_and(|reply| reply.status == 413));
    for instance in
        ["a".repeat(65).as_str(), "%20", "%2e", "..", "a_b", "a:b", "%F0%9F%98%80", "a%0d%0ab"]
    {
        assert_problem(&put(instance, &report()), 400, "invalid", instance);
    }
    for body in [
        used(now, 8000),
        used("9999-12-30T00:00:00Z", 1),
        with("would_revive", Value::from_iter(vec![key; 10_000])),
        with("name", json!("\u{0}\u{1b}[31m\n")),
        with("name", json!("n".repeat(100_000))),
        with("max_stale", json!("584942417y")),
        with("later", json!({ "versions": ["may", "say", "more"] })),
    ] {
        let reply = put("odd", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let replicas = pair.operator.get("/v1/replicas");
    assert!(replicas.body.len() < 10_000, "{}", replicas.text());
    assert!(!replicas.text().contains("\\u001b"), "{}", replicas.text());
    let dispute = pair.operator.get("/v1/history").json();
    assert!(dispute["would_revive"].as_array().is_some_and(|keys| keys.len() <= 100));
    assert_eq!(pair.reader.ask("DELETE", "/v1/replicas/odd", "").status, 204);
    pair.near.wait_until_ready();
    finish(pair, &[]);
}

/// A connection that comes from another address of this machine.
fn connect_by(from: Ipv4Addr, to: SocketAddr) -> Client {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0)).expect("an address of ours");
    connect_from(&socket, &to).expect("it listens");
    Client::over(TcpStream::from(socket))
}

#[test]
fn who_guesses_fills_no_log_and_locks_nobody_out() {
    let mut pair = Pair::start("127.0.0.1:0");
    let guess = "GET /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess\r\n\r\n";
    let mut seen = BTreeMap::new();
    let mut client = Client::connect(pair.address);
    for _ in 0..1000 {
        let reply = client.send(guess);
        let code = reply.json()["code"].as_str().expect("a text").to_owned();
        assert_problem(&reply, reply.status, &code, "a guess");
        assert!(reply.status != 429 || reply.header("retry-after").is_some());
        *seen.entry(reply.status).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([(401, 20), (429, 980)]));
    for number in 0..200 {
        let mut client = connect_by(Ipv4Addr::new(127, 3, 0, number + 1), pair.address);
        assert_eq!(client.send(guess).status, 401);
    }
    assert_eq!(pair.operator.ask("PUT", "/v1/tenants/z-new", "").status, 201);
    let audit = pair.operator.get("/v1/audit?rows=1000").json();
    let failed = audit["entries"].as_array().expect("a list").iter();
    let failed = failed.filter(|entry| entry["action"] == "login.fail").count();
    assert!((20..=200).contains(&failed), "{failed}: a hundred a minute at most");
    let said = pair.near.said();
    assert!(said.lines().count() < 100, "{said}");
    finish(pair, &[]);
}

#[test]
fn who_holds_connections_and_does_nothing_is_cut_and_hinders_nobody() {
    let mut pair = Pair::start("127.0.0.1:0");
    let token = pair.operator.token.clone();
    let history = pair.operator.get("/v1/history").json()["history"].clone();
    let history = history.as_str().expect("a text");
    let held = |count: usize, text: &str| -> Vec<TcpStream> {
        let hold = |_| {
            let mut stream = connect(pair.address);
            stream.write_all(text.as_bytes()).expect("sent");
            stream
        };
        (0..count).map(hold).collect()
    };
    let login = format!("Host: a\r\nAuthorization: Bearer {token}\r\n");
    let idle = held(500, "");
    let slow = held(50, "GET /v1/ten");
    let body = format!("{JSON}\r\nContent-Length: 100\r\n\r\n{{");
    let bodies = held(50, &format!("POST {CREDENTIALS} HTTP/1.1\r\n{login}{body}"));
    let strangers = held(50, &format!("POST {CREDENTIALS} HTTP/1.1\r\nHost: a\r\n{body}"));
    let streams = held(
        200,
        &format!(
            "GET /v1/changes?after={history}:0:0000000000000000 HTTP/1.1\r\n{login}Accept: \
             text/event-stream\r\n\r\n"
        ),
    );
    let connections = "scim_guard_connections{face=\"admin\"}";
    let begun = Instant::now();
    for number in 0..100 {
        let status = if number % 2 == 0 { "Disabled" } else { "Enabled" };
        let body = json!({ "status": status }).to_string();
        let reply = pair.operator.ask("PUT", "/v1/tenants/z-a/synchronization", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    println!("100 writes beside them in {:?}", begun.elapsed());
    // Who says nothing for `header_timeout`, and who does not end what nobody waits for.
    wait_for("idle clients to be cut", || pair.near.metric(connections) < 300.0);
    for mut stream in idle.into_iter().chain(slow) {
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert_eq!(answer, b""),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    for stream in strangers {
        let reply = Client::over(stream).reply(false).expect("an answer");
        assert_problem(&reply, 401, "token_missing", "a stranger's body");
    }
    drop((bodies, streams));
    wait_for("the others to be gone", || pair.near.metric(connections) < 20.0);
    assert_eq!(pair.operator.get(TENANT).status, 200);
    finish(pair, &[]);
}

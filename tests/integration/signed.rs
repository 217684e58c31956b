//! Journeys through the dialects of signed requests, on the same listener as the native one. The
//! signatures are our own; those of the SDKs are tried in `tests/e2e`.

use std::fs;
use std::net::SocketAddr;

use rustix::process::{Signal, kill_process};
use scim_guard::clock::{Clock, Timestamp};
use scim_guard::signature::{FORM, Headers, Key, acs3, alibaba_rpc, encode, tc3, tencent_v1};
use serde_json::{Value, json};

use crate::admin::{Api, Process, config, furnish, probe};
use crate::backend::Backend;
use crate::guard::wait_for;
use crate::http::{Client, Reply};
use crate::ledger::LIMIT;

pub const KEYS: [(&str, &str); 2] = [("AKIDoperator", "operator"), ("AKIDreader", "reader")];
pub const SECRET: &str = "planted-access-key-secret";

/// A process with access keys, whose admin API an operator can ask natively too.
struct Bed {
    folder: tempfile::TempDir,
    _backend: Backend,
    process: Process,
    address: SocketAddr,
}

impl Bed {
    fn start() -> Self {
        let backend = Backend::friendly();
        let folder = tempfile::tempdir().expect("a folder");
        let text = config("127.0.0.1:0", backend.address, LIMIT);
        furnish(folder.path(), &with_keys(&text, &KEYS));
        fs::write(folder.path().join("key.secret"), SECRET).expect("written");
        let process = Process::start(folder.path());
        let address = process.address("admin");
        Self { folder, _backend: backend, process, address }
    }

    fn native(&self) -> Api {
        Api::operator(self.address, self.folder.path())
    }

    fn tencent(&self, action: &str, parameters: Value) -> Value {
        tencent(self.address, KEYS[0].0, action, parameters)
    }

    fn alibaba(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        let host = self.address.to_string();
        let reply = send(self.address, &acs3_request(&host, action, parameters, "", now()));
        (reply.status, reply.json())
    }
}

pub fn with_keys(config: &str, keys: &[(&str, &str)]) -> String {
    let keys = keys.iter().map(|(id, role)| {
        format!("    - {{ id: {id}, secret: 'file:key.secret', role: {role} }}\n")
    });
    let keys: String = keys.collect();
    config.replace("  tokens:\n", &format!("  access_keys:\n{keys}  tokens:\n"))
}

fn now() -> Timestamp {
    Clock::system().now().wall
}

fn key(id: &str) -> Key<'_> {
    Key { id, secret: SECRET, token: None }
}

fn bytes(line: &str, headers: &[(&str, String)], body: &str) -> Vec<u8> {
    let fields = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields: String = fields.collect();
    let length = body.len();
    format!("{line} HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn send(address: SocketAddr, request: &[u8]) -> Reply {
    let mut client = Client::connect(address);
    client.write(request);
    client.reply(false).expect("an answer")
}

fn tc3_headers(
    id: &str,
    host: &str,
    method: &str,
    query: &str,
    action: &str,
    body: &str,
) -> Headers {
    let unsigned = tc3::Unsigned {
        method,
        host,
        service: "organization",
        action,
        version: "2021-03-31",
        content_type: if method == "GET" { FORM } else { "application/json" },
        query,
        body: body.as_bytes(),
        covers_action: true,
    };
    tc3::sign(&key(id), &unsigned, now())
}

/// What stands in the envelope.
fn tencent(address: SocketAddr, id: &str, action: &str, parameters: Value) -> Value {
    let body = parameters.to_string();
    let headers = tc3_headers(id, &address.to_string(), "POST", "", action, &body);
    enveloped(&send(address, &bytes("POST /", &headers, &body)))
}

fn enveloped(reply: &Reply) -> Value {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    reply.json()["Response"].clone()
}

fn acs3_request(
    host: &str,
    action: &str,
    parameters: &[(&str, &str)],
    form: &str,
    now: Timestamp,
) -> Vec<u8> {
    let query = encode(parameters.iter().copied());
    let unsigned = acs3::Unsigned {
        method: "POST",
        host,
        action,
        version: "2021-05-15",
        query: &query,
        body: form.as_bytes(),
        headers: &[],
    };
    let nonce = format!("{:x}", fastrand::u128(..));
    let headers = acs3::sign(&key(KEYS[0].0), &unsigned, now, &nonce);
    bytes(&format!("POST /?{query}"), &headers, form)
}

/// With the service's own port, whatever it is by now.
fn probed(bed: &Bed, token: &str) -> u16 {
    probe(&mut Client::connect(bed.process.address("proxy")), "z-a", token)
}

#[test]
fn a_credential_is_one_row_in_all_dialects() {
    let bed = Bed::start();
    let mut native = bed.native();
    let made = bed.tencent("CreateSCIMCredential", json!({ "ZoneId": "z-a" }));
    let id = made["CredentialId"].as_str().expect("an id");
    let token = made["CredentialSecret"].as_str().expect("a secret");
    wait_for("the new token", || probed(&bed, token) == 200);
    let place = format!("/v1/tenants/z-a/credentials/{id}");
    let shown = native.get(&place).json();
    assert_eq!(
        (&shown["created_by"], &shown["status"]),
        (&json!("AKIDoperator"), &json!("Enabled"))
    );

    let one = [("DirectoryId", "z-a"), ("CredentialId", id)];
    let disable = [one[0], one[1], ("NewStatus", "Disabled")];
    let (status, told) = bed.alibaba("UpdateSCIMServerCredentialStatus", &disable);
    assert_eq!((status, &told["SCIMServerCredential"]["Status"]), (200, &json!("Disabled")));
    wait_for("the end of the token", || probed(&bed, token) == 401);
    let found = bed.tencent("ListSCIMCredentials", json!({ "ZoneId": "z-a" }));
    assert_eq!(found["SCIMCredentials"][0]["Status"], "Disabled");
    assert_eq!(native.ask("PATCH", &place, r#"{"status":"Enabled"}"#).status, 200);
    wait_for("the token again", || probed(&bed, token) == 200);

    let off = [one[0], ("SCIMSynchronizationStatus", "Disabled")];
    assert_eq!(bed.alibaba("SetSCIMSynchronizationStatus", &off).0, 200);
    wait_for("the switch", || probed(&bed, token) == 403);
    let told = bed.tencent("GetSCIMSynchronizationStatus", json!({ "ZoneId": "z-a" }));
    assert_eq!(told["SCIMSynchronizationStatus"], "Disabled");
    let on = json!({ "ZoneId": "z-a", "SCIMSynchronizationStatus": "Enabled" });
    assert!(bed.tencent("UpdateSCIMSynchronizationStatus", on).get("Error").is_none());
    wait_for("the switch back", || probed(&bed, token) == 200);

    assert_eq!(bed.alibaba("DeleteSCIMServerCredential", &one).0, 200);
    assert_eq!(native.get(&place).status, 404);
    wait_for("the end of the token", || probed(&bed, token) == 401);

    let audit = native.get("/v1/audit").json();
    let entries = audit["entries"].as_array().expect("a list");
    let by_key: Vec<_> = entries
        .iter()
        .filter(|entry| entry["actor"] == "AKIDoperator")
        .filter_map(|entry| entry["action"].as_str())
        .collect();
    let expected = [
        "credential.create",
        "credential.disable",
        "tenant.synchronization",
        "tenant.synchronization",
        "credential.delete",
    ];
    assert_eq!(by_key, expected);
    assert_eq!(
        made["RequestId"],
        entries.iter().find(|it| it["action"] == "credential.create").expect("it")["request_id"]
    );
    for text in [audit.to_string(), bed.process.said()] {
        assert!(!text.contains(SECRET) && !text.contains(token), "{text}");
        assert!(!text.contains("Signature=") && !text.contains("TC3-HMAC"), "{text}");
    }
    let counted = bed.process.metric(
        "scim_guard_admin_requests_total{action=\"DeleteSCIMServerCredential\",status=\"2xx\"}",
    );
    assert!((counted - 1.0).abs() < 0.1);
}

#[test]
fn an_overheard_request_does_nothing_also_after_a_crash() {
    let mut bed = Bed::start();
    let host = bed.address.to_string();
    // A client's clock may be ahead, also of the moment at which the next process starts.
    let times = [0, 600].map(|ahead| now().plus(std::time::Duration::from_secs(ahead)));
    let parameters = [("DirectoryId", "z-a")];
    let by_headers =
        times.map(|time| acs3_request(&host, "CreateSCIMServerCredential", &parameters, "", time));
    let action = [("Action", "CreateSCIMServerCredential"), ("Format", "JSON")];
    let all = [&action[..], &[("Version", "2021-05-15")], &parameters].concat();
    let signed = alibaba_rpc::sign(&key(KEYS[0].0), "POST", &all, now(), "a-nonce");
    let headers = [("Host", host), ("Content-Type", FORM.to_owned())];
    let by_parameters = bytes("POST /", &headers, &encode(signed));
    let overheard = [&by_headers[0], &by_headers[1], &by_parameters];
    for request in overheard {
        let reply = send(bed.address, request);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let check = |bed: &Bed| {
        for request in overheard {
            let reply = send(bed.address, request);
            assert_eq!((reply.status, &reply.json()["Code"]), (400, &json!("SignatureNonceUsed")));
        }
        let found = bed.tencent("ListSCIMCredentials", json!({ "ZoneId": "z-a" }));
        assert_eq!(found["TotalCounts"], overheard.len());
    };
    check(&bed);
    bed.process.kill();
    bed.process = Process::start(bed.folder.path());
    bed.address = bed.process.address("admin");
    check(&bed);
}

#[test]
fn access_keys_come_and_go_with_the_config() {
    let bed = Bed::start();
    let zone = || json!({ "ZoneId": "z-a" });
    let code = |id: &str| {
        let told = tencent(bed.address, id, "CreateSCIMCredential", zone());
        told["Error"]["Code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(code(KEYS[1].0), "AuthFailure.UnauthorizedOperation");
    let reload = |keys: &[(&str, &str)]| {
        let path = bed.folder.path().join("proxy.yaml");
        let text = fs::read_to_string(&path).expect("a config");
        let start = text.find("  access_keys:").expect("it is there");
        let end = text.find("  tokens:").expect("it is there");
        let bare = format!("{}{}", &text[..start], &text[end..]);
        fs::write(&path, with_keys(&bare, keys)).expect("written");
        kill_process(bed.process.pid(), Signal::HUP).expect("it runs");
    };
    reload(&[(KEYS[1].0, "operator")]);
    wait_for("the other role", || code(KEYS[1].0).is_empty());
    assert_eq!(code(KEYS[0].0), "AuthFailure.SecretIdNotFound");

    fs::write(bed.folder.path().join("key.secret"), "another-access-key-secret").expect("written");
    wait_for("the other secret", || code(KEYS[1].0) == "AuthFailure.SignatureFailure");
}

/// Atomic is the limit, whoever asks.
#[test]
fn many_creates_at_once_make_no_more_than_there_is_room_for() {
    let bed = Bed::start();
    let address = bed.address;
    let create = || tencent(address, KEYS[0].0, "CreateSCIMCredential", json!({ "ZoneId": "z-b" }));
    let made = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..LIMIT + 6).map(|_| scope.spawn(create)).collect();
        let answers = creates.into_iter().map(|create| create.join().expect("an answer"));
        answers.filter(|answer| answer.get("CredentialSecret").is_some()).count()
    });
    assert_eq!(made, LIMIT);
    let found = bed.tencent("ListSCIMCredentials", json!({ "ZoneId": "z-b" }));
    assert_eq!(found["TotalCounts"], LIMIT);
}

#[test]
fn each_way_of_sending_is_understood() {
    let bed = Bed::start();
    let host = bed.address.to_string();
    // Raw quotes and either way of writing a blank: the query is signed as it is.
    for query in ["ZoneId=z-a&CredentialId=\"<x>\"", "ZoneId=z-a&CredentialId=a+b%20c*"] {
        let headers = tc3_headers(KEYS[0].0, &host, "GET", query, "ListSCIMCredentials", "");
        let told = enveloped(&send(bed.address, &bytes(&format!("GET /?{query}"), &headers, "")));
        assert_eq!(told["TotalCounts"], 0, "{told}");
    }
    // Some clients leave the port out of what they sign.
    let mut headers = tc3_headers(KEYS[0].0, "127.0.0.1", "POST", "", "ListSCIMCredentials", "{}");
    headers[0].1.clone_from(&host);
    let told = enveloped(&send(bed.address, &bytes("POST /", &headers, "{}")));
    assert_eq!(told["Error"]["Code"], "MissingParameter");
    // A form in chunks, whose dialect stands nowhere in the head.
    let (to, more) = (("POST", &*host), [("Action", "ListSCIMCredentials"), ("ZoneId", "z-a")]);
    let all = [&more[..], &[("Version", "2021-03-31")]].concat();
    let method = tencent_v1::Method::HmacSha256;
    let form = encode(tencent_v1::sign(&key(KEYS[0].0), method, to, &all, now(), 7));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let (front, rest) = form.split_at(20);
    let body = format!("14\r\n{front}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len());
    let told = enveloped(&send(bed.address, format!("{head}{body}").as_bytes()));
    assert_eq!(told["TotalCounts"], 0, "{told}");
    // The connection goes on after a body that was too large.
    let large = "x".repeat((64 << 10) + 1);
    let headers = tc3_headers(KEYS[0].0, &host, "POST", "", "ListSCIMCredentials", &large);
    let mut client = Client::connect(bed.address);
    client.write(&bytes("POST /", &headers, &large));
    let told = enveloped(&client.reply(false).expect("an answer"));
    assert_eq!(told["Error"]["Code"], "RequestSizeLimitExceeded");
    let headers = tc3_headers(KEYS[0].0, &host, "POST", "", "ListSCIMCredentials", "{}");
    client.write(&bytes("POST /", &headers, "{}"));
    let told = enveloped(&client.reply(false).expect("an answer"));
    assert_eq!(told["Error"]["Code"], "MissingParameter");

    // Nobody's dialect, and no other path.
    let headers = [("Host", host.clone()), ("Content-Type", FORM.to_owned())];
    let reply = send(bed.address, &bytes("POST /", &headers, "a=b"));
    assert_eq!((reply.status, &reply.json()["code"]), (404, &json!("route_unknown")));
    let headers = tc3_headers(KEYS[0].0, &host, "POST", "", "ListSCIMCredentials", "{}");
    let reply = send(bed.address, &bytes("POST /v1/tenants", &headers, "{}"));
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert!(!bed.process.said().contains("panicked"));
}

#[test]
fn a_body_that_is_said_to_be_too_large_is_refused_before_it_comes() {
    let bed = Bed::start();
    let host = bed.address.to_string();
    let mut headers = tc3_headers(KEYS[0].0, &host, "POST", "", "ListSCIMCredentials", "{}");
    headers.push(("content-length", ((64 << 10) + 1).to_string()));
    for waits in [false, true] {
        if waits {
            headers.push(("expect", "100-continue".to_owned()));
        }
        let fields: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let reply = send(bed.address, format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        let closes = reply.header("connection") == Some("close");
        let told = enveloped(&reply);
        assert_eq!(told["Error"]["Code"], "RequestSizeLimitExceeded", "{told}");
        assert_eq!(closes, waits, "a body that may come or not is no request");
    }
}

/// RPC v1 covers no host, and whoever stood before us may have gone by another one.
#[test]
fn a_request_for_two_hosts_is_nobodys() {
    let bed = Bed::start();
    let host = format!("Host: {}\r\n", bed.address);
    for (target, hosts) in
        [("/", String::new()), ("/", host.repeat(2)), ("http://another/", host.clone())]
    {
        let action = [("Action", "ListSCIMServerCredentials"), ("DirectoryId", "z-a")];
        let all = [&action[..], &[("Version", "2021-05-15")]].concat();
        let nonce = format!("{:x}", fastrand::u128(..));
        let query = encode(alibaba_rpc::sign(&key(KEYS[0].0), "GET", &all, now(), &nonce));
        let request = |to: &str, hosts: &str| format!("GET {to}?{query} HTTP/1.1\r\n{hosts}\r\n");
        let reply = send(bed.address, request(target, &hosts).as_bytes());
        assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
        assert_eq!(reply.json()["code"], "framing_invalid");
        let reply = send(bed.address, request("/", &host).as_bytes());
        assert_eq!(reply.status, 200, "nothing was taken");
    }
}

/// The roads are apart: an admin token signs nothing, and a secret is no token.
#[test]
fn a_key_opens_no_native_door_and_a_token_no_signed_one() {
    let bed = Bed::start();
    assert_eq!(Api::new(bed.address, SECRET).get("/v1/tenants").status, 401);
    let token = bed.native().token;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nX-TC-Action: \
         ListSCIMCredentials\r\nContent-Length: 2\r\n\r\n{{}}",
        bed.address
    );
    let told = enveloped(&send(bed.address, request.as_bytes()));
    assert_eq!(told["Error"]["Code"], "AuthFailure.InvalidAuthorization");
    assert!(!told.to_string().contains(&token));
}

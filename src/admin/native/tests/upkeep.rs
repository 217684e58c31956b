//! Tenants, history, backup and audit; and the face as a whole.

use super::*;
use crate::config::Limits;
use crate::config::value::ListenAddress;
use crate::server::{Face, Listener};
use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_tenant_is_declared_switched_and_deleted() {
    let world = World::new().await;
    let path = "/v1/tenants/z-3";
    let declared = world.ask("operator", "PUT", path, Value::Null).await.expect(201);
    let expected =
        json!({ "tenant": "z-3", "synchronization": "Enabled", "revision": declared.revision() });
    assert_eq!(declared.body, expected);
    let again = world.ask("operator", "PUT", path, json!({})).await.expect(200);
    assert_eq!((again.revision(), &again.body), (declared.revision(), &expected));

    let switch = format!("{path}/synchronization");
    assert_eq!(world.get("reader", &switch).await.body, json!({ "status": "Enabled" }));
    let off = json!({ "status": "Disabled" });
    let switched = world.ask("operator", "PUT", &switch, off.clone()).await.expect(200);
    assert_eq!((&switched.body, switched.revision()), (&off, declared.revision() + 1));
    assert_eq!(world.get("reader", &switch).await.body, off);
    assert_eq!(world.get("reader", path).await.body["synchronization"], "Disabled");
    // It keeps its number, whatever others have written since.
    world.create().await;
    let again = world.ask("operator", "PUT", &switch, off).await.expect(200);
    assert_eq!(again.revision(), switched.revision());

    let credentials = format!("{path}/credentials");
    world.ask("operator", "POST", &credentials, Value::Null).await.expect(201);
    let used = world.ask("operator", "DELETE", path, Value::Null).await;
    used.refused(409, "tenant_in_use");
    let list = world.get("reader", &credentials).await;
    let id = list.body["credentials"][0]["credential_id"].as_str().expect("one").to_owned();
    world.ask("operator", "DELETE", &format!("{credentials}/{id}"), Value::Null).await.expect(200);
    let deleted = world.ask("operator", "DELETE", path, Value::Null).await.expect(200);
    assert_eq!(deleted.body["revision"], deleted.revision());
    world.get("reader", path).await.refused(404, "tenant_unknown");
    let configured = world.ask("operator", "DELETE", "/v1/tenants/z-1", Value::Null).await;
    configured.refused(409, "tenant_configured");
}

#[tokio::test]
async fn a_new_history_is_accepted_after_what_it_revives_was_told() {
    let world = World::new().await;
    let held = "0123456789abcdef:99:0123456789abcdef";
    let mut report = report("a", Some(held));
    report["would_revive"] = json!([{ "tenant": "z-1", "credential_id": "c-1" },
        { "tenant": "z-2", "credential_id": "c-2" }]);
    let head = world.ask("replica", "PUT", "/v1/replicas/a", report.clone()).await.expect(200);
    assert_eq!(head.body["disputed"], true);
    let history = world.get("operator", "/v1/history").await.expect(200);
    assert_eq!(history.body["uncompared"], json!([{ "name": "a", "instance": "a" }]));
    assert!(history.body["listening_since"].is_string() && history.body["compares_by"].is_string());
    let part = |name: &str| history.body[name].to_string().trim_matches('"').to_owned();
    let here = format!("{}:{}:{}", part("history"), part("revision"), part("mark"));
    report["compared"] = json!(here);
    world.ask("replica", "PUT", "/v1/replicas/a", report).await.expect(200);
    world.clock.advance(Duration::from_secs(21));
    let history = world.get("operator", "/v1/history").await.expect(200);
    assert_eq!(
        (&history.body["uncompared"], &history.body["compares_by"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(history.body["would_revive"].as_array().map(Vec::len), Some(2));
    assert_eq!(history.body["replicas"][0]["applied"], held);
    let bound = world.get("reader-1", "/v1/history").await.expect(200);
    assert!(!bound.body.to_string().contains("z-2"));
    let accepted = world.ask("operator", "POST", "/v1/history/accept", json!({})).await.expect(200);
    assert_eq!(accepted.body["disputed"], false);
    assert_ne!(accepted.body["history"], history.body["history"]);
    assert!(accepted.body["accepts"].to_string().contains("0123456789abcdef"));
    assert_eq!(accepted.body["revision"], accepted.revision());
}

#[tokio::test]
async fn a_backup_that_fails_says_why() {
    let world = World::new().await;
    let failed = world.ask("operator", "POST", "/v1/backup", json!({ "path": "/tmp/copy" })).await;
    let failed = failed.refused(503, "backup_failed");
    assert_eq!(failed.body["detail"], "a store in memory has no file to copy");
    world.ask("operator", "POST", "/v1/backup", Value::Null).await.refused(400, "invalid");
}

#[tokio::test]
async fn the_audit_tells_who_did_what_page_by_page() {
    let world = World::new().await;
    let id = world.create().await;
    let one = format!("{CREDENTIALS}/{id}");
    world.ask("responder", "PATCH", &one, json!({ "status": "Disabled" })).await.expect(200);
    world.ask("responder", "PATCH", &one, json!({ "status": "Disabled" })).await.expect(200);
    let all = world.get("reader", "/v1/audit").await.expect(200);
    let entries = all.body["entries"].as_array().expect("entries");
    let did: Vec<_> =
        entries.iter().map(|it| (it["actor"].clone(), it["action"].clone())).collect();
    let expected = [
        ("scim-guard", "tenant.declare"),
        ("scim-guard", "tenant.declare"),
        ("operator", "credential.create"),
        ("responder", "credential.disable"),
    ];
    assert_eq!(did, expected.map(|(actor, action)| (json!(actor), json!(action))));
    assert_eq!(entries[3]["credential_id"], id);
    assert_eq!((&entries[3]["tenant"], &entries[3]["peer"]), (&json!("z-1"), &json!("127.0.0.1")));
    assert_eq!(all.body["next"], Value::Null);
    let page = world.get("reader", "/v1/audit?after=1&rows=2").await.expect(200);
    assert_eq!(page.body["entries"], json!(entries[1..3]));
    assert_eq!(page.body["next"], 3);
}

/// Sends a text and reads answers until one ends so.
async fn exchange(stream: &mut tokio::net::TcpStream, text: &str, end: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(end) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.expect("readable");
            assert_ne!(count, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&bytes[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn it_runs_as_a_face_and_leaves_when_told() {
    let world = World::new().await;
    let limits = Arc::new(ArcSwap::from_pointee(Limits::default()));
    let native = world.native.clone();
    let face = Face::start("admin", 1, &limits, &world.metrics, move |_| native.clone());
    let face = Arc::new(face);
    let anywhere: ListenAddress = "127.0.0.1:0".parse().expect("valid");
    let listener = Listener::bind(&anywhere).expect("bound");
    let address = listener.address().tcp().expect("an address");
    let acceptor = face.accept(listener, crate::server::Transport::default());
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let head = |method: &str, path: &str, who: &str, more: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            token(who)
        )
    };
    let json = "Content-Type: application/json\r\nContent-Length: 16\r\n";
    let create = head("POST", CREDENTIALS, "operator", json) + "{\"label\": \"one\"";
    // The body's last byte is missing; the refusal of the next one leaves a body unread.
    stream.write_all(create.as_bytes()).await.expect("sent");
    let made = exchange(&mut stream, "}", "\"secret\"").await;
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let chunked = head("POST", CREDENTIALS, "nobody", "Transfer-Encoding: chunked\r\n");
    let refused = exchange(&mut stream, &(chunked + "3\r\nabc\r\n"), "invalid_token").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    stream.write_all(b"0\r\n\r\n").await.expect("sent");
    let listed =
        exchange(&mut stream, &head("GET", CREDENTIALS, "reader", ""), "\"total\":1").await;
    assert!(listed.starts_with("HTTP/1.1 200"), "{listed}");
    let accept = "Accept: text/event-stream\r\n";
    let follow = head("GET", "/v1/changes", "replica", accept);
    let stream_head = exchange(&mut stream, &follow, "event: heartbeat").await;
    assert!(stream_head.contains("x-accel-buffering: no"), "{stream_head}");

    world.stop.cancel();
    assert!(face.drain([&acceptor].into_iter(), PATIENCE).await, "nothing holds it up");
    face.end([acceptor]).await;
}

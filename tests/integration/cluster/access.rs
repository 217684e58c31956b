//! Who may follow, and who may not; and what each replica is told.

use std::fs;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::bed::{ADMIN, Admin, BRANCH, FLEET, OTHER, Pair, proxy, wait_for_status};
use crate::backend::Backend;
use crate::guard::{TENANT, command, digest, route, wait_for};
use crate::http::Client;

#[test]
fn a_second_admin_process_on_a_store_is_refused() {
    let admin = Admin::start();
    let folder = tempfile::tempdir().expect("a folder");
    let store = admin.guard.path("data/admin.db");
    let config = ADMIN.replace("data/admin.db", store.to_str().expect("UTF-8"));
    fs::write(folder.path().join("proxy.yaml"), config).expect("written");
    for name in ["operator", "fleet", "branch"] {
        fs::copy(admin.guard.path(name), folder.path().join(name)).expect("copied");
    }
    let output = command(folder.path(), &["serve"]).output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let wanted = format!("admin.store: {}: is in use by another process", store.display());
    assert!(told.contains(&wanted), "{told}");
    admin.create();
}

#[test]
fn a_replica_token_of_one_tenant_is_told_of_no_other() {
    let (backend, admin) = (Backend::friendly(), Admin::start());
    let (own, foreign) = (admin.create(), admin.create_in(OTHER, &json!({})));
    let routes = route(backend.address, "")
        + &route(backend.address, "").replace(TENANT, OTHER).replace("path: /scim", "path: /other");
    let start = |name, token| {
        let setup = proxy(name, admin.address(), &backend).routes(&routes);
        setup.file("token", token).start()
    };
    let (whole, branch) = (start("whole", FLEET), start("branch", BRANCH));
    let ask = |client: &mut Client| {
        let token = &foreign.secret;
        let head = "GET /other/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer";
        client.send(&format!("{head} {token}\r\n\r\n")).status
    };
    wait_for_status(&branch, &own.secret, 200);
    assert_eq!((ask(&mut whole.client()), ask(&mut branch.client())), (200, 401));
    assert_eq!(branch.verdict(&foreign.secret), (401, "token_unknown".to_owned()));

    let (known, unknown) = (digest(&own.secret), digest(&foreign.secret));
    let get = |path: &str| admin.call(BRANCH, "GET", path, &Value::Null);
    let changes = format!("/v1/changes?after={}", position(&admin, 1));
    for path in ["/v1/table", &changes] {
        let text = get(path).text();
        assert!(text.contains(&known), "{path}: {text}");
        assert!(!text.contains(&unknown) && !text.contains(OTHER), "{path}: {text}");
    }
    assert_eq!(get(&format!("/v1/lookup/{known}")).status, 200);
    assert_eq!(get(&format!("/v1/lookup/{unknown}")).status, 404);

    // What it is not told of does not hold up the receipt.
    let revision = admin.set_status(&foreign, "Disabled");
    admin.settle(revision);
    wait_for("the refusal", || ask(&mut whole.client()) == 401);
}

/// Where the store was at this revision.
fn position(admin: &Admin, revision: u64) -> String {
    let head = admin.get("/v1/history");
    let history = head["history"].as_str().expect("an id");
    if revision == 0 {
        return format!("{history}:0:0000000000000000");
    }
    let all = admin.get(&format!("/v1/changes?rows={revision}&after={}", position(admin, 0)));
    format!("{history}:{revision}:{}", all["mark"].as_str().expect("a mark"))
}

#[test]
fn two_processes_of_one_name_are_two_replicas() {
    let pair = Pair::start("refresh: 1s");
    let admin = &pair.admin;
    let twin = proxy("near", admin.address(), &pair.backend).start();
    let replicas = admin.replicas("near");
    assert_eq!(replicas.len(), 2, "{replicas:?}");
    assert_ne!(replicas[0]["instance"], replicas[1]["instance"]);
    let made = admin.create();
    let receipt = admin.settle(made.revision);
    let named = receipt["replicas"].as_array().expect("a list");
    assert_eq!(named.iter().filter(|replica| replica["name"] == "near").count(), 2);
    twin.stop();
    assert_eq!(admin.replicas("near").len(), 1, "one took its leave");
}

#[test]
fn a_token_that_is_taken_away_ends_its_stream_and_its_requests() {
    let pair = Pair::start("refresh: 1s\n  max_stale: { reads: 1h, writes: 1h }");
    let (admin, guard) = (&pair.admin, &pair.proxy);
    let made = admin.create();
    wait_for_status(guard, &made.secret, 200);
    let mut stream = Client::connect(admin.address());
    stream.write(
        format!(
            "GET /v1/changes HTTP/1.1\r\nHost: admin\r\nAccept: text/event-stream\r\n\
             Authorization: Bearer {FLEET}\r\nConnection: close\r\n\r\n"
        )
        .as_bytes(),
    );
    let other = proxy("branch", admin.address(), &pair.backend).file("token", BRANCH).start();

    let fleet = "    - { name: fleet, role: replica, token: file:fleet }\n";
    admin.guard.replace("proxy.yaml", &ADMIN.replace(fleet, ""));
    admin.guard.signal(Signal::HUP);
    admin.guard.wait_for_diagnostic("config reloaded");
    let stream = thread::spawn(move || stream.rest());
    wait_for("the stream's end", || stream.is_finished());
    let told = String::from_utf8_lossy(&stream.join().expect("bytes")).into_owned();
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("event: heartbeat"), "{told}");
    guard.wait_for_diagnostic("the admin API does not answer");
    assert!(guard.diagnostics().contains("(401)"), "{}", guard.diagnostics());
    let revision = admin.set_status(&made, "Disabled");
    wait_for_status(&other, &made.secret, 401);
    assert_eq!(guard.get("/Users", &made.secret).status, 200, "it hears nothing any more");
    assert_eq!(admin.receipt(revision, "0s")["complete"], false);
}

//! Backups made while others write, and what followers make of one that was put back.

use std::path::Path;

use scim_guard::clock::Clock;
use scim_guard::source::wire::PageJson;
use scim_guard::store::Store;
use scim_guard::store::restore::restore;
use scim_guard::store::sqlite::{Options, Sqlite};
use serde_json::{Value, json};

use crate::admin::{Api, Pair, Process, position, probe, wait_until_applied};
use crate::guard::wait_for;
use crate::http::Client;
use crate::ledger::Ledger;
use crate::load::{Load, Over, lock};

/// A store's file, opened as a store.
fn open(file: &Path) -> Sqlite {
    let options = Options::default();
    let opened = runtime().block_on(Sqlite::open(file, options, Clock::system().now().wall));
    opened.expect("a store").store
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

#[test]
fn a_backup_made_while_others_write_is_what_the_store_was() {
    let mut pair = Pair::start("127.0.0.1:0");
    let load = Load::default();
    let copies: Vec<_> = std::thread::scope(|scope| {
        for seed in 0..4 {
            let (load, operator) = (&load, &pair.operator);
            let operator = Api::new(operator.address, &operator.token);
            scope.spawn(move || load.write(&operator, seed));
        }
        let _end = Over(&load);
        load.open();
        let back_up = |number| {
            let enough = load.count() + 20;
            wait_for("writes to be answered", || load.count() >= enough);
            let file = pair.folder.path().join(format!("copy-{number}.db"));
            let body = json!({ "path": file }).to_string();
            let reply = pair.operator.ask("POST", "/v1/backup", &body);
            assert_eq!(reply.status, 200, "{}", reply.text());
            (file, reply.json())
        };
        (0..5).map(back_up).collect()
    });
    let mut ledger = Ledger::default();
    ledger.catch_up(&mut pair.reader);
    ledger.check_answers(&lock(&load.answers));
    ledger.check_audit(&mut pair.operator);
    for (file, head) in copies {
        let then = ledger.at(head["revision"].as_u64().expect("a number"));
        assert_eq!(position(&head), then.position(), "it is of this log");
        let store = open(&file);
        let (page, changes) = runtime().block_on(async {
            let start = ledger.at(0).position().parse().expect("a position");
            let changes = store.changes(&start, None, usize::MAX).await.expect("read");
            (store.page(None, None, 5000).await.expect("read"), changes.expect("from the start"))
        });
        assert_eq!(changes.position.to_string(), then.position());
        assert_eq!(page.head.position.to_string(), then.position());
        let page = json!(PageJson::of(&page, true));
        assert_eq!(page["rows"], Value::from_iter(then.rows.values().cloned()));
        assert_eq!(page["tenants"], Value::from_iter(then.tenants.values().cloned()));
    }
    pair.stop();
}

/// So that its port is free again when it is started anew.
const OWN_ADDRESS: &str = "127.77.1.2:0";

#[test]
fn a_restored_backup_revives_nothing_until_a_person_says_so() {
    let mut pair = Pair::start(OWN_ADDRESS);
    let create = |pair: &mut Pair, tenant: &str| {
        let reply = pair.operator.ask("POST", &format!("/v1/tenants/{tenant}/credentials"), "{}");
        let body = reply.json();
        let text = |name: &str| body[name].as_str().expect("a text").to_owned();
        (format!("/v1/tenants/{tenant}/credentials/{}", text("credential_id")), text("secret"))
    };
    let act = |pair: &mut Pair, method: &str, target: &str, body: &str| {
        let reply = pair.operator.ask(method, target, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    let (disable, enable) = (r#"{"status":"Disabled"}"#, r#"{"status":"Enabled"}"#);
    let live = create(&mut pair, "z-a");
    let disabled = create(&mut pair, "z-a");
    let deleted = create(&mut pair, "z-a");
    let enabled = create(&mut pair, "z-b");
    let stopped = create(&mut pair, "z-c");
    act(&mut pair, "PATCH", &enabled.0, disable);
    let backup = pair.folder.path().join("backup.db");
    act(&mut pair, "POST", "/v1/backup", &json!({ "path": backup }).to_string());
    act(&mut pair, "PATCH", &disabled.0, disable);
    act(&mut pair, "DELETE", &deleted.0, "");
    act(&mut pair, "PATCH", &enabled.0, enable);
    act(&mut pair, "PUT", "/v1/tenants/z-c/synchronization", disable);
    let created = create(&mut pair, "z-b");
    wait_until_applied(&mut pair.operator, &["near", "far"]);
    let all = [live, disabled, deleted, enabled, stopped, created];
    let statuses = |process: &Process| {
        let mut client = Client::connect(process.address("proxy"));
        all.each_ref().map(|(target, secret)| {
            let tenant = target.split('/').nth(3).expect("a tenant");
            probe(&mut client, tenant, secret)
        })
    };
    assert_eq!(statuses(&pair.far), [200, 401, 401, 200, 403, 200]);

    // Carried over; what was enabled since is not, and what was created since is unknown to it.
    // The follower knows nothing of what was deleted, and says no more than that in a dispute.
    let (mut pair, history) = put_back(pair, &backup, false);
    assert_eq!(history["would_revive"], json!([]));
    assert_eq!(statuses(&pair.near), [503; 6]);
    assert_eq!(statuses(&pair.far), [200, 401, 503, 401, 403, 200]);
    accept(&mut pair);
    for process in [&pair.near, &pair.far] {
        assert_eq!(statuses(process), [200, 401, 401, 401, 403, 401]);
    }

    // As it was; only a person brings back what the follower holds as revoked.
    let (mut pair, history) = put_back(pair, &backup, true);
    let mut revived: Vec<_> = [&all[1], &all[2], &all[4]].map(|it| it.0.rsplit('/').next()).into();
    revived.sort();
    let told = history["would_revive"].as_array().expect("a list").iter();
    let mut told: Vec<_> = told.map(|key| key["credential_id"].as_str()).collect();
    told.sort();
    assert_eq!(told, revived, "what is off here and on there is told too");
    assert_eq!(statuses(&pair.near), [503; 6]);
    assert_eq!(statuses(&pair.far), [200, 401, 503, 401, 403, 503]);
    accept(&mut pair);
    for process in [&pair.near, &pair.far] {
        assert_eq!(statuses(process), [200, 200, 200, 401, 200, 401]);
    }
    pair.stop();
}

/// Stops the admin API, restores a backup, and starts it again, until its follower has seen that.
fn put_back(mut pair: Pair, backup: &Path, exact: bool) -> (Pair, Value) {
    pair.near.stop();
    let store = pair.folder.path().join("data/admin.db");
    let now = Clock::system().now().wall;
    let restored = runtime().block_on(restore(backup, &store, exact, now)).expect("restored");
    assert!(restored.head.disputed && restored.unreadable.is_none(), "{restored:?}");
    pair.near = Process::launch(pair.folder.path());
    assert_eq!(pair.near.address("admin"), pair.address);
    assert_eq!(pair.reader.get("/v1/table").json()["disputed"], true);
    wait_for("the follower to see it", || {
        pair.far.metric("scim_guard_source_history_changed") == 1.0
            && pair.far.said().contains("Restrict")
    });
    let mut history = Value::Null;
    wait_for("the follower to tell what it holds", || {
        history = pair.operator.get("/v1/history").json();
        let replicas = history["replicas"].as_array().expect("a list");
        let told = replicas.iter().any(|it| it["name"] == "far" && it["applied"].is_string());
        told && (!exact || history["would_revive"] != json!([]))
    });
    assert_eq!(pair.near.ops("/readyz").status, 503);
    (pair, history)
}

fn accept(pair: &mut Pair) {
    let accepted = pair.operator.ask("POST", "/v1/history/accept", "");
    assert_eq!((accepted.status, &accepted.json()["disputed"]), (200, &json!(false)));
    pair.near.wait_until_ready();
    wait_until_applied(&mut pair.operator, &["near", "far"]);
    assert_eq!(pair.far.metric("scim_guard_source_history_changed"), 0.0);
}

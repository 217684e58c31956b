//! A store that does not follow from what the proxies hold: nothing is loosened until an operator
//! says so.

use std::fs;
use std::path::Path;

use scim_guard::credential::token::MintedToken;
use serde_json::{Value, json};

use super::bed::{Admin, FLEET, Made, Pair, Widow, proxy, wait_for_status};
use crate::admin_commands::run;
use crate::guard::{Guard, TENANT, wait_for};

const CHANGED: &str = "scim_guard_source_history_changed";
const TERMS: &str = "refresh: 1s\n  max_stale: { reads: 1h, writes: 1h }";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for file in fs::read_dir(from).expect("a folder").map(|it| it.expect("a file").path()) {
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// Starts a proxy that is soon out of date.
fn hasty(pair: &Pair) -> Guard {
    let terms = "refresh: 1s\n  max_stale: { reads: 3s, writes: 3s }";
    proxy("hasty", pair.relay.address, &pair.backend).credentials(terms).start()
}

/// Waits until a proxy has noticed, and says so.
fn wait_for_dispute(guard: &Guard) {
    wait_for("the metric", || guard.metric(CHANGED) == 1.0);
    guard.wait_for_diagnostic("scim-guard source accept");
    let told = guard.diagnostics();
    let told = told.lines().find(|line| line.contains("scim-guard source accept"));
    assert!(told.is_some_and(|line| line.contains("\"ERROR\"")), "{told:?}");
}

/// Nobody is admitted or told no by a store that we do not trust.
fn check_doubt(guard: &Guard, live: &Made, revoked: &[&Made]) {
    assert_eq!(guard.verdict(&live.secret), (200, "allowed".to_owned()));
    for made in revoked {
        assert_eq!(guard.get("/Users", &made.secret).status, 401, "it stays revoked");
    }
    let unknown = guard.verdict(MintedToken::mint().reveal());
    assert_eq!(unknown, (503, "undecided_lookup".to_owned()));
    let foreign = guard.verdict("somebody-elses-token");
    assert_eq!(foreign, (503, "unknown_while_stale".to_owned()));
}

fn accept(pair: &Pair) -> Value {
    pair.admin.ask("POST", "/v1/history/accept", &json!({})).json()
}

#[test]
fn an_empty_store_takes_nothing_away_and_gives_nothing_until_it_is_accepted() {
    let pair = Pair::start(TERMS);
    let hasty = hasty(&pair);
    let (live, disabled, deleted) = (pair.admin.create(), pair.admin.create(), pair.admin.create());
    pair.admin.set_status(&disabled, "Disabled");
    let path = format!("/v1/tenants/{TENANT}/credentials/{}", deleted.id);
    pair.admin.ask("DELETE", &path, &Value::Null);
    pair.admin.settle(pair.admin.get("/v1/history")["revision"].as_u64().expect("a number"));

    let (folder, widow) = pair.stop_admin();
    fs::rename(folder.path().join("data"), folder.path().join("lost")).expect("moved");
    let pair = widow.start_admin(folder);
    wait_for_dispute(&pair.proxy);
    assert!(pair.admin.is_disputed());
    check_doubt(&pair.proxy, &live, &[&disabled]);
    let deleted_verdict = pair.proxy.verdict(&deleted.secret);
    assert_eq!(deleted_verdict, (503, "undecided_lookup".to_owned()), "not let in, at least");
    wait_for_status(&hasty, &live.secret, 503);
    assert_eq!(hasty.verdict(&live.secret), (503, "undecided_stale".to_owned()));
    assert_eq!(hasty.get("/Users", &disabled.secret).status, 401);
    let fresh = proxy("fresh", pair.relay.address, &pair.backend).launch();
    fresh.wait_for_diagnostic("there is no table here yet");
    assert_eq!(fresh.ops("/readyz").status, 503);

    // What the new store takes away counts, and what it gives back does not.
    let new = pair.admin.create();
    assert_eq!(pair.proxy.get("/Users", &new.secret).status, 503);
    pair.admin.synchronize(TENANT, "Disabled");
    wait_for_status(&pair.proxy, &live.secret, 403);
    let revision = pair.admin.synchronize(TENANT, "Enabled");
    wait_for_cursor(&pair, revision);
    assert_eq!(pair.proxy.get("/Users", &live.secret).status, 403);

    let head = accept(&pair);
    assert_eq!((&head["disputed"], pair.admin.is_disputed()), (&json!(false), false));
    let fresh = fresh.ready();
    for guard in [&pair.proxy, &hasty, &fresh] {
        wait_for_status(guard, &new.secret, 200);
        for made in [&live, &disabled, &deleted] {
            assert_eq!(guard.verdict(&made.secret), (401, "token_unknown".to_owned()));
        }
        assert_eq!(guard.metric(CHANGED), 0.0);
    }
    assert!(pair.admin.replicas("near")[0]["state"] == "applied");
}

/// Waits until the proxy has seen a change of a store that it does not trust, which it tells by
/// nothing but what it does: refuses a credential that was restricted later.
fn wait_for_cursor(pair: &Pair, revision: u64) {
    let polls = pair.relay.count("GET /v1/changes") + pair.relay.count("GET /v1/table");
    let head = pair.admin.get("/v1/history")["revision"].as_u64();
    assert_eq!(head, Some(revision));
    wait_for("two more polls", || {
        pair.relay.count("GET /v1/changes") + pair.relay.count("GET /v1/table") >= polls + 2
    });
}

#[test]
fn yesterdays_backup_revives_nothing_until_it_is_accepted() {
    let pair = Pair::start(TERMS);
    let (live, since, later) = (pair.admin.create(), pair.admin.create(), pair.admin.create());
    let before = pair.admin.create();
    pair.admin.settle(pair.admin.set_status(&before, "Disabled"));
    let (folder, widow) = pair.stop_admin();
    copy(&folder.path().join("data"), &folder.path().join("yesterday"));

    let pair = widow.start_admin(folder);
    let new = pair.admin.create();
    pair.admin.settle(pair.admin.set_status(&since, "Disabled"));
    assert_eq!(pair.proxy.get("/Users", &new.secret).status, 200);
    let (folder, widow) = pair.stop_admin();
    let data = folder.path().join("data");
    fs::remove_dir_all(&data).expect("removed");
    fs::rename(folder.path().join("yesterday"), &data).expect("moved");

    let pair = restored(widow, folder);
    check_doubt(&pair.proxy, &live, &[&before, &since]);
    assert_eq!(pair.proxy.get("/Users", &new.secret).status, 200, "it was told nothing of its end");
    wait_for("what would come back to life", || {
        let told = &pair.admin.get("/v1/history")["would_revive"];
        *told == json!([{ "tenant": TENANT, "credential_id": since.id }])
    });
    let revision = pair.admin.set_status(&later, "Disabled");
    wait_for_status(&pair.proxy, &later.secret, 401);
    assert_eq!(pair.admin.receipt(revision, "0s")["complete"], false);

    accept(&pair);
    wait_for_status(&pair.proxy, &since.secret, 200);
    wait_for_status(&pair.proxy, &new.secret, 401);
    for (made, status) in [(&live, 200), (&before, 401), (&later, 401)] {
        assert_eq!(pair.proxy.get("/Users", &made.secret).status, status);
    }
    assert_eq!(pair.proxy.metric(CHANGED), 0.0);
    let made = pair.admin.create();
    assert_eq!(pair.proxy.get("/Users", &made.secret).status, 200);
}

#[test]
fn an_acceptance_waits_for_what_replicas_know_to_be_revoked() {
    let pair = Pair::start("refresh: 30s");
    let (live, revoked) = (pair.admin.create(), pair.admin.create());
    wait_for_status(&pair.proxy, &live.secret, 200);
    let (folder, widow) = pair.stop_admin();
    copy(&folder.path().join("data"), &folder.path().join("yesterday"));
    let pair = widow.start_admin(folder);
    pair.admin.settle(pair.admin.set_status(&revoked, "Disabled"));
    let (folder, Widow { relay, proxy, backend: _backend }) = pair.stop_admin();
    let data = folder.path().join("data");
    fs::remove_dir_all(&data).expect("removed");
    fs::rename(folder.path().join("yesterday"), &data).expect("moved");

    // The proxy does not reach it at first, and an operator asks at once.
    let admin = Admin::start_in(folder);
    let line = format!(
        "source accept --yes -o json --admin-url http://{} --admin-token file:operator",
        admin.address()
    );
    let accepted = std::thread::scope(|scope| {
        let asked = scope.spawn(|| run(admin.guard.folder.path(), &line, ""));
        assert_eq!(admin.get("/v1/history")["uncompared"][0]["name"], "near");
        relay.lead_to(admin.address());
        asked.join().expect("it ends")
    });
    let accepted = accepted.expect(0);
    assert!(accepted.err.contains("would be good again"), "{accepted:#?}");
    assert!(
        accepted.err.contains(&revoked.id) && !accepted.err.contains("warning"),
        "{accepted:#?}"
    );
    let ended = &accepted.json()["ended"];
    assert_eq!((&ended["uncompared"], &ended["compares_by"]), (&json!([]), &Value::Null));
    assert_eq!(ended["would_revive"], json!([{ "tenant": TENANT, "credential_id": revoked.id }]));
    wait_for_status(&proxy, &revoked.secret, 200);
}

fn restored(widow: Widow, folder: tempfile::TempDir) -> Pair {
    let pair = widow.start_admin(folder);
    wait_for_dispute(&pair.proxy);
    pair
}

#[test]
fn a_report_from_beyond_the_head_makes_the_store_disputed() {
    let pair = Pair::start(TERMS);
    let admin = &pair.admin;
    let made = admin.create();
    wait_for_status(&pair.proxy, &made.secret, 200);
    let head = admin.get("/v1/history");
    let beyond = format!("{}:999999:0123456789abcdef", head["history"].as_str().expect("an id"));
    let report = json!({ "name": "prophet", "applied": beyond, "max_stale": "1m" });
    let reply = admin.call(FLEET, "PUT", "/v1/replicas/by-hand", &report);
    assert_eq!((reply.status, &reply.json()["disputed"]), (200, &json!(true)));
    assert!(admin.is_disputed());
    admin.guard.wait_for_diagnostic("a replica holds a later state than this store");
    let page = admin.call(FLEET, "GET", "/v1/table", &Value::Null).json();
    assert_eq!(page["disputed"], true);

    let fresh = proxy("fresh", admin.address(), &pair.backend).launch();
    fresh.wait_for_diagnostic("there is no table here yet");
    assert_eq!(fresh.ops("/readyz").status, 503);
    let revision = admin.set_status(&made, "Disabled");
    wait_for_status(&pair.proxy, &made.secret, 401);
    assert_eq!(admin.receipt(revision, "0s")["complete"], false);

    // It lasts, and ends by an operator's word.
    let (folder, widow) = pair.stop_admin();
    let pair = widow.start_admin(folder);
    assert!(pair.admin.is_disputed());
    drop(fresh);
    accept(&pair);
    let fresh = proxy("fresh", pair.admin.address(), &pair.backend).start();
    let new = pair.admin.create();
    for guard in [&pair.proxy, &fresh] {
        wait_for_status(guard, &new.secret, 200);
        assert_eq!(guard.get("/Users", &made.secret).status, 401);
    }
}

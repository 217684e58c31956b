//! The table, its changes, and receipts.

use super::*;
use crate::credential::TokenDigest;
use crate::credential::feed::Report;
use crate::store::replicas::LEASES_MAX;

#[tokio::test]
async fn the_table_comes_in_pages_with_digests_for_replicas_only() {
    let world = World::with_limit(3).await;
    let secrets: Vec<_> = {
        let mut secrets = Vec::new();
        for tenant in ["z-1", "z-2", "z-1"] {
            let path = format!("/v1/tenants/{tenant}/credentials");
            let created = world.ask("operator", "POST", &path, Value::Null).await.expect(201);
            secrets.push(created.body["secret"].as_str().expect("shown once").to_owned());
        }
        secrets
    };
    let first = world.get("replica", "/v1/table?rows=2").await.expect(200);
    assert_eq!(first.body["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(first.body["tenants"].as_array().map(Vec::len), Some(2));
    for member in ["history", "revision", "mark", "disputed", "accepts", "began"] {
        assert!(first.body.get(member).is_some(), "{member}");
    }
    let next = first.body["next"].as_str().expect("more");
    let last = world.get("replica", &format!("/v1/table?rows=2&after={next}")).await.expect(200);
    assert_eq!((&last.body["next"], &last.body["tenants"]), (&Value::Null, &json!([])));
    let rows = [&first.body["rows"], &last.body["rows"]].map(|it| it.as_array().expect("rows"));
    let mut digests: Vec<_> = rows.into_iter().flatten().map(|row| row["digest"].clone()).collect();
    let mut expected: Vec<_> =
        secrets.iter().map(|it| json!(TokenDigest::of(it.as_bytes()).to_string())).collect();
    digests.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(digests, expected);

    let seen = world.get("reader", "/v1/table").await.expect(200);
    assert!(!seen.body.to_string().contains("digest"));
    let one = world.get("replica", "/v1/table?tenant=z-2").await.expect(200);
    assert_eq!(one.body["rows"].as_array().map(Vec::len), Some(1));
    let audit = world.get("reader", "/v1/audit?rows=1000").await.expect(200);
    let entries = audit.body["entries"].as_array().expect("entries");
    let reads = entries.iter().filter(|entry| entry["action"] == "table.read");
    assert_eq!(reads.count(), 3, "each full read");
    world.get("replica", "/v1/table?after=z-1").await.refused(400, "invalid");
}

#[tokio::test]
async fn changes_come_in_order_after_a_position() {
    let world = World::new().await;
    let table = world.get("replica", "/v1/table").await.expect(200).body;
    let part = |name: &str| table[name].to_string().trim_matches('"').to_owned();
    let start = format!("{}:{}:{}", part("history"), part("revision"), part("mark"));
    let id = world.create().await;
    let one = format!("{CREDENTIALS}/{id}");
    world.ask("operator", "PATCH", &one, json!({ "status": "Disabled" })).await.expect(200);
    world.ask("operator", "DELETE", &one, Value::Null).await.expect(200);
    let switch = json!({ "status": "Disabled" });
    world.ask("operator", "PUT", "/v1/tenants/z-2/synchronization", switch).await.expect(200);

    let changes = world.get("replica", &format!("/v1/changes?after={start}")).await.expect(200);
    let kinds = |body: &Value| -> Vec<String> {
        let changes = body["changes"].as_array().expect("changes").iter();
        changes.map(|it| it["type"].as_str().expect("a type").to_owned()).collect()
    };
    assert_eq!(kinds(&changes.body), ["credential", "credential", "deleted", "tenant"]);
    assert!(changes.body["changes"][0]["digest"].is_string());
    assert_eq!(changes.body["revision"], changes.body["head"]["revision"]);
    let few = world.get("replica", &format!("/v1/changes?after={start}&rows=1")).await.expect(200);
    assert_eq!(kinds(&few.body), ["credential"]);
    let filtered = world.get("replica-1", &format!("/v1/changes?after={start}")).await.expect(200);
    assert_eq!(kinds(&filtered.body), ["credential", "credential", "deleted"]);
    assert_eq!(filtered.body["revision"], changes.body["revision"], "nothing was left out before");
    let none = world.get("replica", "/v1/changes").await.expect(200);
    assert_eq!(kinds(&none.body), Vec::<String>::new());

    let other = start.replace(&part("history"), "0123456789abcdef");
    let gone = world.get("replica", &format!("/v1/changes?after={other}")).await;
    gone.refused(410, "history_unknown");
    world.get("replica", "/v1/changes?after=7").await.refused(400, "invalid");
    let engine: &dyn crate::store::Store = &*world.store;
    engine.compact(START.plus(HOUR)).await.expect("in memory");
    let gone = world.get("replica", &format!("/v1/changes?after={start}")).await;
    gone.refused(410, "changes_compacted");
}

#[tokio::test]
async fn a_digest_is_looked_up_together_with_the_head() {
    let world = World::new().await;
    let created = world.ask("operator", "POST", CREDENTIALS, Value::Null).await.expect(201);
    let secret = created.body["secret"].as_str().expect("shown once");
    let digest = TokenDigest::of(secret.as_bytes()).to_string();
    for text in [&*digest, &digest["sha256:".len()..]] {
        let found = world.get("replica", &format!("/v1/lookup/{text}")).await.expect(200);
        assert_eq!(found.body["row"]["credential_id"], created.body["credential_id"]);
        assert_eq!(found.body["row"]["digest"], digest);
        assert_eq!(found.body["revision"], created.revision());
    }
    let seen = world.get("reader", &format!("/v1/lookup/{digest}")).await.expect(200);
    assert!(seen.body["row"].get("digest").is_none());
    let unknown = world.get("replica", &format!("/v1/lookup/{}", "0".repeat(64))).await;
    let unknown = unknown.refused(404, "digest_unknown");
    let head: crate::source::wire::HeadJson =
        serde_json::from_value(unknown.body).expect("it carries the head");
    assert_eq!((head.revision, head.disputed), (created.revision(), false));
    world.get("replica", "/v1/lookup/0123").await.refused(400, "invalid");
}

#[tokio::test]
async fn a_receipt_names_who_is_pending_and_until_when() {
    let world = World::new().await;
    let receipt = async |n: u64, wait: &str| {
        world.get("reader", &format!("/v1/revisions/{n}/receipt?wait={wait}")).await
    };
    let head = world.get("replica", "/v1/history").await.expect(403);
    assert_eq!(head.body["needed"], "reader");
    let empty = receipt(1, "10s").await.expect(200);
    assert_eq!(empty.body["complete"], true);
    assert_eq!(empty.body["replicas"], json!([]));

    for name in ["a", "b"] {
        let path = format!("/v1/replicas/{name}");
        world.ask("replica", "PUT", &path, report(name, None)).await.expect(200);
    }
    let id = world.create().await;
    let one = format!("{CREDENTIALS}/{id}");
    let disabled = world.ask("operator", "PATCH", &one, json!({ "status": "Disabled" })).await;
    let revision = disabled.expect(200).revision();
    let future = receipt(revision + 1, "10s").await.refused(404, "revision_unknown");
    assert_eq!(future.body["head"], revision);
    world.get("reader", "/v1/revisions/x/receipt").await.refused(400, "invalid");

    let first = world.ask("replica", "PUT", "/v1/replicas/a", report("a", None)).await.expect(200);
    assert_eq!((first.revision(), &first.body["revision"]), (revision, &json!(revision)));
    let part = |name: &str| first.body[name].to_string().trim_matches('"').to_owned();
    let position = format!("{}:{}:{}", part("history"), part("revision"), part("mark"));
    let applied = report("a", Some(&position));
    world.ask("replica", "PUT", "/v1/replicas/a", applied).await.expect(200);
    let half = receipt(revision, "0s").await.expect(200);
    assert_eq!(half.body["complete"], false);
    let (a, b) = (&half.body["replicas"][0], &half.body["replicas"][1]);
    assert_eq!(
        (&a["name"], &a["state"], &a["applied"]),
        (&json!("a"), &json!("applied"), &json!(position))
    );
    assert_eq!(a["refuses_by"], Value::Null);
    assert_eq!((&b["instance"], &b["state"]), (&json!("b"), &json!("pending")));
    let end = START.plus(HOUR + Duration::from_secs(10));
    assert_eq!(b["refuses_by"], end.to_string());

    // Who waits is answered as soon as it is complete.
    let waiting = receipt(revision, "60s");
    let reporting = async {
        tokio::time::sleep(BEAT).await;
        world.ask("replica", "PUT", "/v1/replicas/b", report("b", Some(&position))).await
    };
    let both = async { tokio::join!(waiting, reporting) };
    let (waited, _) = tokio::time::timeout(PATIENCE, both).await.expect("at once");
    assert_eq!(waited.expect(200).body["complete"], true);
    let all = world.get("reader", "/v1/replicas").await.expect(200);
    assert_eq!(all.body["replicas"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_silent_replica_counts_until_it_refuses_by_itself() {
    let world = World::new().await;
    world.ask("replica", "PUT", "/v1/replicas/a", report("a", None)).await.expect(200);
    let id = world.create().await;
    let deleted =
        world.ask("operator", "DELETE", &format!("{CREDENTIALS}/{id}"), Value::Null).await;
    let path = format!("/v1/revisions/{}/receipt", deleted.expect(200).revision());
    assert_eq!(world.get("reader", &path).await.body["complete"], false);
    world.clock.advance(HOUR + Duration::from_secs(11));
    let late = world.get("reader", &path).await.expect(200);
    assert_eq!(
        (&late.body["complete"], &late.body["replicas"][0]["state"]),
        (&json!(true), &json!("expired"))
    );

    let path = "/v1/replicas/a";
    let gone = world.ask("replica", "DELETE", path, Value::Null).await.expect(204);
    assert_eq!(late.body["revision"], gone.revision());
    let none = world.get("reader", "/v1/replicas").await.expect(200);
    assert_eq!(none.body["replicas"], json!([]));
}

#[tokio::test]
async fn a_receipt_that_waits_is_answered_when_we_leave() {
    let world = World::new().await;
    world.ask("replica", "PUT", "/v1/replicas/a", report("a", None)).await.expect(200);
    let id = world.create().await;
    let deleted =
        world.ask("operator", "DELETE", &format!("{CREDENTIALS}/{id}"), Value::Null).await;
    let path = format!("/v1/revisions/{}/receipt?wait=60s", deleted.expect(200).revision());
    let leaving = async {
        tokio::time::sleep(BEAT).await;
        world.stop.cancel();
    };
    let both = async { tokio::join!(world.get("reader", &path), leaving) };
    let (receipt, ()) = tokio::time::timeout(PATIENCE, both).await.expect("at once");
    assert_eq!(receipt.expect(200).body["complete"], false);
}

#[tokio::test]
async fn a_report_that_is_none_is_refused_by_its_field() {
    let world = World::new().await;
    for (body, field) in [
        (json!({ "name": "a" }), "max_stale"),
        (json!({ "name": 7, "max_stale": "1h" }), "name"),
        (json!({ "name": "a", "max_stale": "1h", "applied": "7" }), "body"),
        (json!({ "name": "a", "max_stale": "1h", "used": [{ "tenant": "z-1" }] }), "used[0]"),
    ] {
        let answer = world.ask("replica", "PUT", "/v1/replicas/a", body).await;
        let found = answer.refused(400, "invalid").body["field"].clone();
        assert!(found.as_str().is_some_and(|it| it.starts_with(field) || it == "body"), "{found}");
    }
    let newer = json!({ "name": "a", "max_stale": "1h", "feature": true });
    world.ask("replica", "PUT", "/v1/replicas/a", newer).await.expect(200);
    let bad = world.ask("replica", "PUT", "/v1/replicas/a_b", report("a", None)).await;
    assert_eq!(bad.refused(400, "invalid").body["field"], "instance");
}

#[tokio::test]
async fn a_replica_with_ever_new_names_takes_a_bounded_place() {
    let world = World::new().await;
    let ask = async |instance: &str| {
        let path = format!("/v1/replicas/{instance}");
        world.ask("replica", "PUT", &path, report("a", None)).await
    };
    ask("first").await.expect(200);
    let lease = Report::try_from(&crate::source::wire::ReportJson {
        name: "a".to_owned(),
        applied: None,
        max_stale: crate::config::value::Span(HOUR),
        compared: None,
        would_revive: Vec::new(),
        used: Vec::new(),
    });
    let (lease, now) = (lease.expect("valid"), world.clock.now());
    for number in 1..LEASES_MAX {
        let replicas = &world.service.replicas;
        replicas.report(&number.to_string(), lease.clone(), &now).await.expect("in memory");
    }
    let refused = ask("more").await.refused(503, "replicas_limited");
    assert_eq!(refused.headers["retry-after"], "60");
    ask("first").await.expect(200);
    // Those that refuse by themselves make room.
    world.clock.advance(HOUR + Duration::from_secs(11));
    ask("more").await.expect(200);
    let left = world.get("reader", "/v1/replicas").await;
    assert_eq!(left.body["replicas"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn of_what_would_be_revived_no_more_is_kept_than_is_read() {
    let world = World::new().await;
    let keys = (0..1000).map(|number| {
        let tenant = if number == 0 { "z-2" } else { "z-1" };
        json!({ "tenant": tenant, "credential_id": format!("c-{number}") })
    });
    let mut report = report("a", None);
    report["would_revive"] = keys.collect();
    world.ask("replica-1", "PUT", "/v1/replicas/a", report).await.expect(200);
    let history = world.get("reader", "/v1/history").await.expect(200);
    let kept = history.body["would_revive"].as_array().expect("a list");
    assert_eq!(kept.len(), 100);
    assert!(kept.iter().all(|key| key["tenant"] == "z-1"), "as far as it may see");
}

//! The life of a credential, and what is wrong with requests about it.

use super::*;
use crate::credential::token::Shape;

#[tokio::test]
async fn a_credential_is_made_shown_listed_changed_and_deleted() {
    let world = World::new().await;
    let wanted = json!({ "expire_in": "90d", "label": "Okta" });
    let created = world.ask("operator", "POST", CREDENTIALS, wanted).await.expect(201);
    let id = created.body["credential_id"].as_str().expect("an id");
    let secret = created.body["secret"].as_str().expect("shown once");
    assert_eq!(Shape::of(secret.as_bytes()), Shape::Ours { intact: true });
    let one = format!("{CREDENTIALS}/{id}");
    assert_eq!(created.headers["location"], *one);
    let revision = created.revision();
    let expected = json!({
        "credential_id": id,
        "tenant": "z-1",
        "credential_type": "BearerToken",
        "status": "Enabled",
        "create_time": START.to_string(),
        "expire_time": START.plus(90 * 24 * HOUR).to_string(),
        "label": "Okta",
        "hint": secret[secret.len() - 4..],
        "origin": "local",
        "created_by": "operator",
        "last_used": null,
        "enrolled": false,
        "revision": revision,
    });
    let shown = world.get("reader", &one).await.expect(200);
    assert_eq!(shown.body, expected);

    let patch = json!({ "status": "Disabled", "label": "old" });
    let patched = world.ask("operator", "PATCH", &one, patch.clone()).await.expect(200);
    assert_eq!(patched.revision(), revision + 1, "one change");
    assert_eq!(patched.body["revision"], revision + 1);
    assert_eq!(
        (&patched.body["status"], &patched.body["label"]),
        (&patch["status"], &patch["label"])
    );
    let again = world.ask("operator", "PATCH", &one, patch).await.expect(200);
    assert_eq!((again.revision(), &again.body), (revision + 1, &patched.body));

    let deleted = world.ask("operator", "DELETE", &one, Value::Null).await.expect(200);
    assert_eq!(deleted.body, json!({ "revision": revision + 2 }));
    assert_eq!(deleted.revision(), revision + 2);
    world.get("reader", &one).await.refused(404, "credential_unknown");
    let again = world.ask("operator", "DELETE", &one, Value::Null).await;
    again.refused(404, "credential_unknown");
    let unknown = world.ask("operator", "POST", "/v1/tenants/z-7/credentials", Value::Null).await;
    unknown.refused(404, "tenant_unknown");
}

#[tokio::test]
async fn a_list_comes_in_pages_and_by_expiry() {
    let world = World::with_limit(10).await;
    for days in [400, 20, 30, 500] {
        let wanted = json!({ "expire_in": days * 86_400 });
        world.ask("operator", "POST", CREDENTIALS, wanted).await.expect(201);
    }
    let all = world.get("reader", CREDENTIALS).await.expect(200);
    assert_eq!((&all.body["total"], &all.body["next"]), (&json!(4), &Value::Null));
    let soon = world.get("reader", &format!("{CREDENTIALS}?expiring_in=90d")).await.expect(200);
    assert_eq!(soon.body["total"], 2);
    assert!(!soon.body.to_string().contains("secret"));
    let mut found = Vec::new();
    let mut path = format!("{CREDENTIALS}?rows=3");
    loop {
        let page = world.get("reader", &path).await.expect(200);
        assert_eq!(page.body["total"], 4);
        found.extend(page.body["credentials"].as_array().expect("rows").clone());
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("{CREDENTIALS}?rows=3&after={next}");
    }
    assert_eq!(Value::Array(found), all.body["credentials"]);
}

#[tokio::test]
async fn a_token_made_elsewhere_is_enrolled_and_not_shown() {
    let world = World::new().await;
    let secret = "a-token-made-elsewhere-0123456789";
    let by_value = json!({ "secret": secret, "expire_time": "2028-01-01T00:00:00Z" });
    let first = world.ask("operator", "POST", CREDENTIALS, by_value).await.expect(201);
    assert_eq!((&first.body["enrolled"], &first.body["hint"]), (&json!(true), &json!("6789")));
    assert!(first.body.get("secret").is_none() && first.body.get("strength").is_none());
    assert!(!first.body.to_string().contains(secret));

    let digest = crate::credential::TokenDigest::of(b"another one").to_string();
    let by_digest = json!({ "digest": digest, "expire_in": "10m", "status": "Disabled" });
    let second = world.ask("operator", "POST", CREDENTIALS, by_digest).await.expect(201);
    assert_eq!((&second.body["strength"], &second.body["hint"]), (&json!("unknown"), &Value::Null));
    assert_eq!(second.body["status"], "Disabled");
    let id = second.body["credential_id"].as_str().expect("an id");
    let shown = world.get("reader", &format!("{CREDENTIALS}/{id}")).await.expect(200);
    assert_eq!(shown.body, second.body);
    assert!(!shown.body.to_string().contains(&digest));
}

/// A body that is refused for a field.
async fn check(world: &World, method: &str, path: &str, body: Value, field: &str) {
    let answer = world.ask("operator", method, path, body.clone()).await.refused(400, "invalid");
    assert_eq!(answer.body["field"], field, "{body}");
    let detail = answer.body["detail"].as_str().expect("text");
    assert!(detail.contains(field), "{detail}");
    assert!(!answer.body.to_string().contains("hush"), "{body}: {}", answer.body);
}

#[tokio::test]
async fn a_fault_is_told_by_its_field_and_never_by_its_value() {
    let world = World::new().await;
    let id = world.create().await;
    for (body, field) in [
        (json!({ "expire_in": "hush" }), "expire_in"),
        (json!({ "expire_in": -1 }), "expire_in"),
        (json!({ "expire_in": 1.5 }), "expire_in"),
        (json!({ "expire_in": "59m" }), "expire_in"),
        (json!({ "expire_in": "100y" }), "expire_in"),
        (json!({ "expire_in": u64::MAX }), "expire_in"),
        (json!({ "expire_in": null }), "expire_in"),
        (json!({ "expire_time": "hush" }), "expire_time"),
        (json!({ "expire_time": "2020-01-01T00:00:00Z" }), "expire_time"),
        (json!({ "expire_in": "90d", "expire_time": "2028-01-01T00:00:00Z" }), "expire_time"),
        (json!({ "label": ["hush"] }), "label"),
        (json!({ "label": "a\nhush" }), "label"),
        (json!({ "label": "x".repeat(257) }), "label"),
        (json!({ "secret": "hush", "expire_in": "90d" }), "secret"),
        (json!({ "secret": "hush hush hush hush hush", "expire_in": "90d" }), "secret"),
        (json!({ "secret": 7, "expire_in": "90d" }), "secret"),
        (json!({ "secret": "hush-0123456789-abcdef" }), "expire_time"),
        (json!({ "digest": "hush", "expire_in": "90d" }), "digest"),
        (json!({ "status": "hush" }), "status"),
        (json!(["hush"]), "body"),
    ] {
        check(&world, "POST", CREDENTIALS, body, field).await;
    }
    let one = format!("{CREDENTIALS}/{id}");
    for (body, field) in [
        (json!({}), "body"),
        (json!({ "status": null }), "status"),
        (json!({ "status": "disabled" }), "status"),
        (json!({ "status": true }), "status"),
        (json!({ "label": null }), "label"),
        (json!({ "label": 7 }), "label"),
        (json!({ "expire_time": "2028-01-01T00:00:00Z" }), "expire_time"),
        (json!({ "status": "Disabled", "extra": "hush" }), "extra"),
    ] {
        check(&world, "PATCH", &one, body, field).await;
    }
    let rotate = format!("{one}/rotate");
    for (body, field) in [
        (json!({ "overlap": "hush" }), "overlap"),
        (json!({ "overlap": "1h", "leaked": true }), "overlap"),
        (json!({ "leaked": "hush" }), "leaked"),
        (json!({ "label": "hush" }), "label"),
    ] {
        check(&world, "POST", &rotate, body, field).await;
    }
    let switch = "/v1/tenants/z-1/synchronization";
    check(&world, "PUT", switch, json!({}), "status").await;
    check(&world, "PUT", switch, json!({ "status": "hush" }), "status").await;
    check(&world, "POST", "/v1/backup", json!({ "path": "copy.db" }), "path").await;
    check(&world, "GET", &format!("{CREDENTIALS}?expiring_in=hush"), Value::Null, "expiring_in")
        .await;
    assert_eq!(world.get("reader", &one).await.body["status"], "Enabled", "nothing was changed");
}

#[tokio::test]
async fn the_limit_names_who_takes_the_places_and_how_to_free_one() {
    let world = World::new().await;
    let (first, second) = (world.create().await, world.create().await);
    let one = format!("{CREDENTIALS}/{second}");
    world.ask("operator", "PATCH", &one, json!({ "status": "Disabled" })).await.expect(200);
    let refused = world.ask("operator", "POST", CREDENTIALS, Value::Null).await;
    let refused = refused.refused(409, "limit_reached");
    let detail = refused.body["detail"].as_str().expect("text");
    let end = START.plus(365 * 24 * HOUR).to_string();
    for word in [&*first, &*second, "Enabled", "Disabled", &*end, "DELETE", "leaked"] {
        assert!(detail.contains(word), "{word} in {detail}");
    }
    let rows = refused.body["credentials"].as_array().expect("both");
    assert!(rows.iter().all(|row| row["expire_time"] == end && row["status"].is_string()));
    assert_eq!(rows.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_at_a_time_the_limit_holds() {
    let world = Arc::new(World::new().await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let world = Arc::clone(&world);
        asking.spawn(async move { world.ask("operator", "POST", CREDENTIALS, Value::Null).await });
    }
    let answers = asking.join_all().await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!((made, answers.len()), (2, 50));
    assert!(answers.iter().all(|answer| [201, 409].contains(&answer.status)));
}

#[tokio::test]
async fn a_rotation_lets_the_old_token_go_on_and_a_leak_does_not() {
    let world = World::new().await;
    let first = world.create().await;
    let rotate = |id: &str| format!("{CREDENTIALS}/{id}/rotate");
    let second = world.ask("operator", "POST", &rotate(&first), Value::Null).await.expect(201);
    assert!(second.body["secret"].is_string());
    let id = second.body["credential_id"].as_str().expect("an id").to_owned();
    assert_eq!(second.headers["location"], format!("{CREDENTIALS}/{id}"));
    assert_eq!(second.revision(), second.body["revision"].as_u64().expect("a number"));
    let old = world.get("reader", &format!("{CREDENTIALS}/{first}")).await.expect(200);
    assert_eq!(old.body["expire_time"], START.plus(24 * HOUR).to_string());

    let twice = world.ask("operator", "POST", &rotate(&first), Value::Null).await;
    assert_eq!(twice.refused(409, "rotated").body["successor"], id);
    let full = world.ask("operator", "POST", &rotate(&id), json!({ "overlap": "1h" })).await;
    full.refused(409, "limit_reached");
    let leaked = json!({ "leaked": true, "expire_in": "30d" });
    let third = world.ask("operator", "POST", &rotate(&id), leaked).await.expect(201);
    assert_eq!(third.body["expire_time"], START.plus(30 * 24 * HOUR).to_string());
    world.get("reader", &format!("{CREDENTIALS}/{id}")).await.refused(404, "credential_unknown");
    let nobody = world.ask("operator", "POST", &rotate("nobody"), Value::Null).await;
    nobody.refused(404, "credential_unknown");
}

#[tokio::test]
async fn a_secret_is_told_once_and_nowhere_else() {
    let world = World::new().await;
    let created = world.ask("operator", "POST", CREDENTIALS, Value::Null).await.expect(201);
    let secret = created.body["secret"].as_str().expect("shown once");
    let enrolled = "hush-hush-0123456789-abcdef";
    let wanted = json!({ "secret": enrolled, "expire_in": "90d" });
    world.ask("operator", "POST", CREDENTIALS, wanted.clone()).await.expect(201);
    let refused = world.ask("operator", "POST", CREDENTIALS, wanted).await.expect(409);
    let mut told = vec![refused.body.to_string(), format!("{:?}", refused.headers)];
    for path in [CREDENTIALS, "/v1/audit", "/v1/table", "/v1/changes", "/v1/replicas"] {
        told.push(world.get("operator", path).await.expect(200).body.to_string());
    }
    told.push(String::from_utf8(world.metrics.render()).expect("text"));
    for text in told {
        assert!(!text.contains(secret) && !text.contains(enrolled), "{text}");
    }
}

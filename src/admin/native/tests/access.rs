//! Who may do what, and how those who may not are answered.

use super::*;

/// Whether a role may do something; both tell how they were answered.
async fn check(world: &World, method: &str, path: &str, body: Value, allowed: &[&str]) {
    for who in ["operator", "responder", "reader", "replica"] {
        let answer = world.ask(who, method, path, body.clone()).await;
        if allowed.contains(&who) {
            assert_ne!(answer.status, 403, "{who} {method} {path}");
            assert_ne!(answer.status, 400, "{who} {method} {path}: {}", answer.body);
        } else {
            let answer = answer.refused(403, "role_insufficient");
            assert_eq!(answer.body["role"], who, "{method} {path}");
            let needed = answer.body["needed"].as_str().expect("a role");
            assert!(allowed.contains(&needed), "{who} {method} {path} needs {needed}");
        }
    }
}

#[tokio::test]
async fn each_role_does_what_it_is_for() {
    let world = World::with_limit(100).await;
    let id = world.create().await;
    let one = format!("{CREDENTIALS}/{id}");
    let (change, see) = (&["operator"][..], &["operator", "responder", "reader"][..]);
    let (follow, report_by) =
        (&["operator", "reader", "replica"][..], &["operator", "replica"][..]);
    let none = Value::Null;
    let lookup = format!("/v1/lookup/{}", "0".repeat(64));

    check(&world, "POST", CREDENTIALS, none.clone(), change).await;
    check(&world, "GET", CREDENTIALS, none.clone(), see).await;
    check(&world, "GET", &one, none.clone(), see).await;
    let disable = json!({ "status": "Disabled" });
    check(&world, "PATCH", &one, disable, &["operator", "responder"]).await;
    check(&world, "PATCH", &one, json!({ "status": "Enabled" }), change).await;
    check(&world, "PATCH", &one, json!({ "label": "x" }), change).await;
    let both = json!({ "status": "Disabled", "label": "x" });
    check(&world, "PATCH", &one, both, change).await;
    check(&world, "POST", &format!("{one}/rotate"), none.clone(), change).await;
    check(&world, "DELETE", &one, none.clone(), change).await;
    check(&world, "GET", "/v1/tenants", none.clone(), see).await;
    check(&world, "GET", "/v1/tenants/z-1", none.clone(), see).await;
    check(&world, "PUT", "/v1/tenants/z-3", none.clone(), change).await;
    check(&world, "DELETE", "/v1/tenants/z-3", none.clone(), change).await;
    let switch = "/v1/tenants/z-1/synchronization";
    check(&world, "GET", switch, none.clone(), see).await;
    check(&world, "PUT", switch, json!({ "status": "Disabled" }), change).await;
    check(&world, "GET", "/v1/table", none.clone(), follow).await;
    check(&world, "GET", "/v1/changes", none.clone(), follow).await;
    check(&world, "GET", &lookup, none.clone(), follow).await;
    check(&world, "PUT", "/v1/replicas/a", report("a", None), report_by).await;
    check(&world, "DELETE", "/v1/replicas/a", none.clone(), report_by).await;
    check(&world, "GET", "/v1/replicas", none.clone(), see).await;
    check(&world, "GET", "/v1/revisions/1/receipt", none.clone(), see).await;
    check(&world, "GET", "/v1/history", none.clone(), see).await;
    check(&world, "POST", "/v1/history/accept", none.clone(), change).await;
    check(&world, "POST", "/v1/backup", json!({ "path": "/tmp/copy" }), change).await;
    check(&world, "GET", "/v1/audit", none, see).await;
}

#[tokio::test]
async fn a_tenants_token_sees_no_other_tenant() {
    let world = World::new().await;
    let other = world.ask("operator", "POST", "/v1/tenants/z-2/credentials", Value::Null).await;
    let secret = other.expect(201).body["secret"].as_str().expect("shown once").to_owned();
    for path in
        ["/v1/tenants/z-2", "/v1/tenants/z-2/credentials", "/v1/tenants/z-2/synchronization"]
    {
        world.get("operator-1", path).await.refused(404, "tenant_unknown");
    }
    for path in ["/v1/table?tenant=z-2", "/v1/changes?tenant=z-2"] {
        world.get("replica-1", path).await.refused(404, "tenant_unknown");
    }
    let put = world.ask("operator-1", "PUT", "/v1/tenants/z-3", Value::Null).await;
    put.refused(404, "tenant_unknown");

    let tenants = world.get("operator-1", "/v1/tenants").await.expect(200);
    assert_eq!(tenants.body["tenants"].as_array().map(Vec::len), Some(1));
    let table = world.get("replica-1", "/v1/table").await.expect(200);
    assert_eq!((&table.body["rows"], &table.body["tenants"][1]), (&json!([]), &Value::Null));
    let digest = crate::credential::TokenDigest::of(secret.as_bytes());
    world.get("replica", &format!("/v1/lookup/{digest}")).await.expect(200);
    world.get("replica-1", &format!("/v1/lookup/{digest}")).await.refused(404, "digest_unknown");
    for (method, path, body) in [
        ("POST", "/v1/history/accept", Value::Null),
        ("POST", "/v1/backup", json!({ "path": "/tmp/copy" })),
    ] {
        world.ask("operator-1", method, path, body).await.refused(403, "role_insufficient");
    }

    // Whose the token is, is told to those who may know.
    let enrol = json!({ "secret": secret, "expire_in": "90d" });
    let told = world.ask("operator", "POST", CREDENTIALS, enrol.clone()).await;
    assert_eq!(told.refused(409, "digest_taken").body["owner"]["tenant"], "z-2");
    let told = world.ask("operator-1", "POST", CREDENTIALS, enrol).await;
    let told = told.refused(409, "digest_taken").body.to_string();
    assert!(!told.contains("z-2") && !told.contains(&secret), "{told}");
    let audit = world.get("reader-1", "/v1/audit").await.expect(200);
    assert!(!audit.body.to_string().contains("z-2"), "{}", audit.body);
}

#[tokio::test]
async fn only_one_bearer_token_in_one_header_opens() {
    let world = World::new().await;
    let ask = async |headers: &[&str]| {
        let mut request = Request::builder().uri("/v1/tenants");
        for value in headers {
            request = request.header(AUTHORIZATION, *value);
        }
        Answer::of(world.send(request, Body::empty()).await).await
    };
    let good = format!("Bearer {}", token("reader"));
    ask(&[&good]).await.expect(200);
    ask(&[&good.replace("Bearer", "bEARER ")]).await.expect(200);
    let realm = "Bearer realm=\"scim-guard-admin\"";
    for missing in [&[][..], &["Bearer"], &["Bearer "], &["Basic YTpi"], &[&token("reader")]] {
        let answer = ask(missing).await.refused(401, "token_missing");
        assert_eq!(answer.headers["www-authenticate"], realm, "{missing:?}");
    }
    let twice = ask(&[&good, &good]).await.refused(400, "authorization_malformed");
    let challenge = format!("{realm}, error=\"invalid_request\"");
    assert_eq!(twice.headers["www-authenticate"], challenge);
    let wrong = ask(&["Bearer nobody-has-this-token"]).await.refused(401, "invalid_token");
    let challenge = format!("{realm}, error=\"invalid_token\"");
    assert_eq!(wrong.headers["www-authenticate"], challenge);
    let query = format!("/v1/tenants?access_token={}", token("reader"));
    let request = Request::builder().uri(query);
    Answer::of(world.send(request, Body::empty()).await).await.refused(401, "token_missing");
}

#[tokio::test]
async fn failed_logins_are_counted_audited_and_limited() {
    let world = World::new().await;
    for _ in 0..20 {
        world.get("guess", "/v1/tenants").await.refused(401, "invalid_token");
    }
    let limited = world.get("guess", "/v1/tenants").await.refused(429, "logins_limited");
    assert_eq!(limited.headers["retry-after"], "60");
    world.get("reader", "/v1/tenants").await.expect(200);
    let audit = world.get("reader", "/v1/audit?rows=1000").await.expect(200);
    let entries = audit.body["entries"].as_array().expect("entries");
    let failed: Vec<_> = entries.iter().filter(|entry| entry["action"] == "login.fail").collect();
    assert_eq!(failed.len(), 20);
    assert_eq!((&failed[0]["actor"], &failed[0]["peer"]), (&json!("-"), &json!("127.0.0.1")));
    let metrics = String::from_utf8(world.metrics.render()).expect("text");
    for line in [
        "scim_guard_admin_login_failures_total{reason=\"unknown\"} 20",
        "scim_guard_admin_login_failures_total{reason=\"limited\"} 1",
        "scim_guard_admin_requests_total{action=\"list_tenants\",status=\"4xx\"} 21",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn guesses_from_many_addresses_do_not_fill_the_audit() {
    let world = World::new().await;
    let before = world.get("reader", "/v1/audit?rows=1000").await.body["entries"].clone();
    for address in 0..300_u32 {
        let peer = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + address));
        let failed = world.service.authenticate(b"guess", peer, String::new()).await;
        assert!(failed.is_err());
    }
    let after = world.get("reader", "/v1/audit?rows=1000").await.body["entries"].clone();
    let count = |entries: &Value| entries.as_array().map_or(0, Vec::len);
    assert_eq!(count(&after) - count(&before), 20);
}

#[tokio::test]
async fn what_our_library_refuses_is_a_problem_too() {
    let world = World::new().await;
    world.get("operator", "/").await.refused(404, "route_unknown");
    world.get("operator", "/v1/nothing").await.refused(404, "route_unknown");
    let answer = world.ask("operator", "PUT", CREDENTIALS, json!({})).await;
    let allow = answer.refused(405, "method_not_allowed").headers["allow"].clone();
    assert_eq!(allow, "POST,GET,HEAD");
    world.get("operator", "/v1/tenants/%FF").await.refused(400, "invalid");
    let dots = world.get("operator", "/v1/tenants/%2E%2E").await.refused(400, "invalid");
    assert_eq!(dots.body["field"], "tenant");
    let twice = world.get("operator", "/v1/audit?rows=1&rows=2").await.refused(400, "invalid");
    assert_eq!(twice.body["field"], "rows");
    for (query, field) in [("rows=0", "rows"), ("row=1", "row"), ("after=-1", "after")] {
        let answer = world.get("operator", &format!("/v1/audit?{query}")).await;
        assert_eq!(answer.refused(400, "invalid").body["field"], field);
    }

    for (method, path) in [
        ("POST", CREDENTIALS),
        ("DELETE", "/v1/tenants/z-1/credentials/c-1"),
        ("DELETE", "/v1/tenants/z-1"),
        ("PUT", "/v1/tenants/z-1"),
    ] {
        let path = format!("{path}?dry_run=true");
        let answer = world.ask("operator", method, &path, Value::Null).await;
        assert_eq!(answer.refused(400, "invalid").body["field"], "dry_run", "{method} {path}");
    }

    let post =
        |kind: &'static str| request("operator", "POST", CREDENTIALS).header(CONTENT_TYPE, kind);
    let form = world.send(post("application/x-www-form-urlencoded"), "label=x").await;
    Answer::of(form).await.refused(415, "media_type_unsupported");
    let broken = world.send(post("application/json; charset=utf-8"), "{\"label\": secret}").await;
    let broken = Answer::of(broken).await.refused(400, "invalid");
    assert!(!broken.body["detail"].as_str().expect("text").contains("secret"));
    let long = format!("{{\"label\": \"{}\"}}", "x".repeat(1 << 20));
    let long = world.send(post("application/json"), long).await;
    Answer::of(long).await.refused(413, "body_too_large");
}

#[tokio::test]
async fn a_token_in_the_wrong_place_is_not_repeated() {
    let world = World::new().await;
    let token = crate::credential::token::MintedToken::mint();
    let token = token.reveal();
    let member = json!({ token: true });
    for (method, path, body) in [
        ("PUT", format!("/v1/tenants/{token}"), Value::Null),
        ("GET", format!("{CREDENTIALS}/{token}"), Value::Null),
        ("DELETE", format!("{CREDENTIALS}/{token}"), Value::Null),
        ("GET", format!("{CREDENTIALS}?{token}=1"), Value::Null),
        ("GET", format!("{CREDENTIALS}?after={token}:"), Value::Null),
        ("GET", format!("/v1/lookup/{token}"), Value::Null),
        ("POST", CREDENTIALS.to_owned(), member),
    ] {
        let answer = world.ask("operator", method, &path, body).await.refused(400, "invalid");
        assert!(!answer.body.to_string().contains(token), "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_if_that_is_one() {
    let world = World::new().await;
    let ask = async |id: &str| {
        let request = request("operator", "PUT", "/v1/tenants/z-9").header("x-request-id", id);
        let answer = Answer::of(world.send(request, Body::empty()).await).await;
        answer.headers["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(ask("a.b_c-9").await, "a.b_c-9");
    let audit = world.get("reader", "/v1/audit").await;
    let entries = audit.body["entries"].as_array().expect("entries");
    assert_eq!(entries.last().expect("one")["request_id"], "a.b_c-9");
    let secret = crate::credential::token::MintedToken::mint_admin();
    for bad in ["", "a b", "a/b", &"x".repeat(65), secret.reveal()] {
        assert_eq!(ask(bad).await.len(), 32, "{bad}");
    }
}

#[tokio::test]
async fn the_description_needs_no_token() {
    let world = World::new().await;
    let request = Request::builder().uri("/v1/openapi.json");
    let answer = Answer::of(world.send(request, Body::empty()).await).await.expect(200);
    assert_eq!(answer.body["openapi"], "3.1.0");
    let paths = answer.body["paths"].as_object().expect("paths");
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            assert!(operation["summary"].is_string(), "{method} {path}");
            let refusal = &operation["responses"]["401"]["content"]["application/problem+json"];
            assert!(refusal.is_object() || path == "/v1/openapi.json", "{method} {path}");
        }
    }
    assert_eq!(StatusCode::OK, answer.status);
}

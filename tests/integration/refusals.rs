//! Every no, in its order, with its words; and "I don't know" is never a no.

use crate::backend::Backend;
use crate::guard::{Guard, ID, Setup, TENANT, TOKEN, route, row, wait_for};
use crate::http::Reply;

fn ask(guard: &Guard, headers: &str, target: &str) -> Reply {
    guard.client().send(&format!("GET {target} HTTP/1.1\r\nHost: scim.test\r\n{headers}\r\n"))
}

/// Checks an answer's status and challenge, and the reason in its access line.
fn check(guard: &Guard, headers: &str, target: &str, status: u16, reason: &str) -> Reply {
    let id = format!("r-{}", fastrand::u64(..));
    let reply = ask(guard, &format!("{headers}X-Request-Id: {id}\r\n"), target);
    assert_eq!(reply.status, status, "{headers}{target}: {}", reply.text());
    assert_eq!(guard.access_line(&id)["reason"], reason, "{headers}{target}");
    assert_eq!(reply.header("x-request-id"), Some(id.as_str()));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("content-type"), Some("application/scim+json"));
    let body = reply.json();
    assert_eq!(body["schemas"][0], "urn:ietf:params:scim:api:messages:2.0:Error");
    assert_eq!(body["status"], status.to_string());
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains(&id)));
    let challenged = reply.header("www-authenticate").is_some();
    assert_eq!(challenged, status == 401 || status == 400, "{reason}");
    assert_eq!(reply.header("retry-after").is_some(), status == 503, "{reason}");
    reply
}

#[test]
fn authorization_in_every_wrong_form() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    for (headers, status, reason) in [
        ("", 401, "authorization_missing"),
        ("Authorization: Basic YTpi\r\n", 401, "authorization_missing"),
        ("Authorization: Bearer\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer \r\n", 400, "authorization_malformed"),
        ("Authorization:\r\n", 400, "authorization_malformed"),
        ("Authorization: lonely\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer Bearer x\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer a b\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer a,b\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer \u{e4}\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer a\r\n", 400, "authorization_malformed"),
        ("Authorization: Bearer unknown\r\n", 401, "token_unknown"),
    ] {
        check(&guard, headers, "/scim/v2/Users", status, reason);
    }
    let twice = format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n");
    check(&guard, &twice, "/scim/v2/Users", 400, "authorization_malformed");
    let scheme = format!("Authorization: bEaReR   {TOKEN}\r\n");
    assert_eq!(ask(&guard, &scheme, "/scim/v2/Users").status, 200);
    let missing = ask(&guard, "", "/scim/v2/Users");
    assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"scim\""));
    assert_eq!(backend.seen().len(), 1, "only the live token was forwarded");
}

#[test]
fn tokens_are_compared_byte_for_byte_and_never_taken_from_elsewhere() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let upper = format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase());
    check(&guard, &upper, "/scim/v2/Users", 401, "token_unknown");
    let query = format!("/scim/v2/Users?access_token={TOKEN}");
    check(&guard, "", &query, 401, "authorization_missing");
    assert!(backend.seen().is_empty());
}

#[test]
fn known_tokens_are_refused_by_state_in_order() {
    let backend = Backend::friendly();
    let rows = [
        row("c-disabled", "t-disabled", "Disabled", "2099-01-01T00:00:00Z"),
        row("c-expired", "t-expired", "Enabled", "2020-01-01T00:00:00Z"),
        row("c-both", "t-both", "Disabled", "2020-01-01T00:00:00Z"),
        row("c-denied", "t-denied", "Enabled", "2099-01-01T00:00:00Z"),
        row("c-foreign", "t-foreign", "Disabled", "2020-01-01T00:00:00Z")
            .replace(TENANT, "z-other"),
        row(ID, TOKEN, "Enabled", "2099-01-01T00:00:00Z"),
    ];
    let setup = Setup::new(backend.address).rows(&rows.concat());
    let guard = setup.deny("- credential_id: c-denied\n").start();
    let users = "/scim/v2/Users";
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    check(&guard, &bearer("t-disabled"), users, 401, "credential_disabled");
    check(&guard, &bearer("t-expired"), users, 401, "credential_expired");
    check(&guard, &bearer("t-both"), users, 401, "credential_disabled");
    check(&guard, &bearer("t-denied"), users, 401, "credential_denied");
    let foreign = check(&guard, &bearer("t-foreign"), users, 401, "tenant_mismatch");
    let unknown = ask(&guard, &bearer("t-nobody"), users);
    assert_eq!(foreign.header("www-authenticate"), unknown.header("www-authenticate"));
    check(&guard, &bearer(TOKEN), "/elsewhere", 404, "route_unknown");
    check(&guard, &bearer("t-nobody"), "/elsewhere", 401, "token_unknown");
    check(&guard, &bearer("t-disabled"), "/elsewhere", 401, "credential_disabled");
    check(&guard, "", "/elsewhere", 401, "authorization_missing");
    assert!(backend.seen().is_empty());
    let series = "scim_guard_credential_refusals_total{credential_id=\"c-expired\",reason=\"credential_expired\"}";
    assert_eq!(guard.metric(series), 1.0);
}

#[test]
fn ambiguous_requests_are_refused_before_their_token_is_looked_at() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for target in [
        "/scim/v2/../admin",
        "/scim/v2/%2e%2e/admin",
        "/scim/v2/%252e%252e/admin",
        "/scim/v2/..%2fadmin",
        "/scim/v2/a%5cb",
        "/scim%2fv2/Users",
        "/SCIM/v2/Users",
        "/scim/v2//Users",
        "http://elsewhere/scim/v2/Users",
        "/scim/v2/Users#x",
        "/scim/v2/Users?filter=#x",
    ] {
        check(&guard, &bearer, target, 400, "target_ambiguous");
    }
    let two_hosts = format!("{bearer}Host: other\r\n");
    check(&guard, &two_hosts, "/scim/v2/Users", 400, "framing_invalid");
    let none = guard.client().send(&format!("GET /scim/v2/Users HTTP/1.1\r\n{bearer}\r\n"));
    assert_eq!(none.status, 400);
    assert!(backend.seen().is_empty());
}

#[test]
fn without_a_table_every_token_is_undecided_and_the_probe_says_so() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).rows("- cut").launch();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    check(&guard, &bearer, "/scim/v2/Users", 503, "undecided_unloaded");
    check(&guard, "", "/scim/v2/Users", 401, "authorization_missing");
    assert_eq!(guard.ops("/readyz").status, 503);
    assert_eq!(guard.ops("/readyz?exclude=table").status, 200);
    assert_eq!(guard.ops("/livez").status, 200);
    guard.replace("credentials.yaml", &row(ID, TOKEN, "Enabled", "2099-01-01T00:00:00Z"));
    wait_for("the table", || guard.ops("/readyz").status == 200);
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
}

#[test]
fn a_lost_file_makes_tokens_undecided_after_a_while_and_never_refused() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address)
        .credentials("refresh: 1s")
        .credentials("max_stale: { reads: 6s, writes: 3s }");
    let guard = setup.start();
    std::fs::remove_file(guard.path("credentials.yaml")).expect("removed");
    guard.wait_for_diagnostic("the last good one stays in force");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let write = || {
        let request =
            format!("POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\n{bearer}Content-Length: 0\r\n\r\n");
        guard.client().send(&request).status
    };
    let mut statuses = Vec::new();
    wait_for("an undecided unknown token", || {
        statuses.push(guard.get("/Users", TOKEN).status);
        guard.get("/Users", "nobody").status == 503
    });
    check(&guard, "Authorization: Bearer nobody\r\n", "/scim/v2/Users", 503, "unknown_while_stale");
    wait_for("an undecided write", || write() == 503);
    statuses.push(guard.get("/Users", TOKEN).status);
    wait_for("an undecided read", || {
        let status = guard.get("/Users", TOKEN).status;
        assert!(status == 200 || status == 503, "{status}");
        status == 503
    });
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    check(&guard, &bearer, "/scim/v2/Users", 503, "undecided_stale");
    assert_eq!(guard.ops("/readyz").status, 200, "an old table takes no pod away");
    assert_eq!(guard.metric("scim_guard_source_up{source=\"file\"}"), 0.0);
    guard.replace("credentials.yaml", &setup.rows);
    wait_for("recovery by itself", || guard.get("/Users", TOKEN).status == 200);
    assert_eq!(guard.get("/Users", "nobody").status, 401);
}

#[test]
fn a_refused_upload_is_answered_at_once_and_the_connection_stays_sound() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let body = vec![b'x'; 8 << 20];
    for _ in 0..5 {
        let mut client = guard.client();
        let head = format!(
            "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer wrong\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.write(head.as_bytes());
        // Answered before the body is read, so before it is even sent.
        let reply = client.reply(false).expect("an answer");
        assert_eq!(reply.status, 401);
        client.write(&body);
        assert_eq!(client.get("/Users", TOKEN).status, 200, "the same connection");
    }
    assert_eq!(backend.seen().len(), 5);
}

/// A body that looks like a request is still a body, also after the answer has gone.
#[test]
fn a_refused_body_is_never_read_as_a_request() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let inner =
        format!("GET /scim/v2/Groups HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    for body in [
        format!("GET /?{}{inner}", "\"".repeat(200)),
        format!("?{}\r\n{inner}", "\"".repeat(200)),
        "{\"a\":\"what?\",\"b\":\"<c>#\"}".to_owned(),
    ] {
        for token in ["wrong", TOKEN] {
            let mut client = guard.client();
            let head = format!(
                "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            client.write(head.as_bytes());
            if token == "wrong" {
                assert_eq!(client.reply(false).expect("an answer").status, 401);
            }
            let half = body.len() / 2;
            client.write(&body.as_bytes()[..half]);
            client.write(&body.as_bytes()[half..]);
            if token == TOKEN {
                assert_eq!(client.reply(false).expect("an answer").status, 200);
                assert_eq!(backend.seen().pop().expect("forwarded").body, body.as_bytes());
            }
            let before = backend.seen().len();
            let reply = client.get("/Users?filter=next", TOKEN);
            assert_eq!(reply.status, 200, "{body}");
            let seen = backend.seen();
            assert_eq!(seen.len(), before + 1, "{body}");
            assert_eq!(seen[before].line(), "GET /scim/v2/Users?filter=next HTTP/1.1");
            let quoted = client.get("/Users?filter=a%20eq%20\"b\"", TOKEN);
            assert_eq!(quoted.status, 200, "{body}");
        }
    }
}

/// The news that one body has ended may come when the next request has begun.
#[test]
fn a_body_behind_another_one_is_never_read_as_a_request() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let inner =
        format!("GET /scim/v2/Groups HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let trap = format!("G /?{}\n{inner}", "\"".repeat(inner.len()));
    let head = |length: usize| {
        format!(
            "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer wrong\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    for _ in 0..10 {
        let mut client = guard.client();
        client.write(head(10).as_bytes());
        assert_eq!(client.reply(false).expect("an answer").status, 401);
        client.write(format!("0123456789{}", head(trap.len())).as_bytes());
        assert_eq!(client.reply(false).expect("an answer").status, 401);
        client.write(trap.as_bytes());
        let reply = client.get("/Users?filter=next", TOKEN);
        assert_eq!(reply.status, 200);
        assert_eq!(
            backend.seen().pop().expect("forwarded").line(),
            "GET /scim/v2/Users?filter=next HTTP/1.1"
        );
    }
    assert_eq!(backend.seen().len(), 10);
}

#[test]
fn a_length_that_is_told_twice_is_refused() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    for framing in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 3",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n{framing}\r\n");
        let reply = ask(&guard, &bearer, "/scim/v2/Users");
        assert_eq!(reply.status, 400, "{framing}");
    }
    assert!(backend.seen().is_empty());
}

#[test]
fn a_client_that_waits_for_continue_is_refused_without_it() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let head = |token: &str| {
        format!(
            "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
             Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
    };
    let mut client = guard.client();
    client.write(head("wrong").as_bytes());
    assert_eq!(client.reply(false).expect("an answer").status, 401);
    let mut client = guard.client();
    client.write(head(TOKEN).as_bytes());
    assert_eq!(client.reply(false).expect("an answer").status, 100);
    client.write(b"abc");
    assert_eq!(client.reply(false).expect("an answer").status, 200);
    assert_eq!(backend.only().body, b"abc");
    assert!(backend.only().headers("expect").is_empty());
}

#[test]
fn what_the_backend_says_of_us_is_not_said_of_the_client() {
    let backend = Backend::start(|_| {
        let answer =
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
        crate::backend::Act::Answer(answer.as_bytes().to_vec())
    });
    let guard = Setup::new(backend.address).start();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    check(&guard, &bearer, "/scim/v2/Users", 503, "upstream_refused_us");
    let routes = route(backend.address, ", authorization: keep");
    let keeping = Setup::new(backend.address).routes(&routes).start();
    let reply = keeping.get("/Users", TOKEN);
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Basic")));
}

//! What passes, passes unchanged; what is ours, only we say.

use crate::backend::{Act, Backend, ok};
use crate::guard::{ID, Setup, TENANT, TOKEN, route, wait_for};

#[test]
fn a_live_token_passes_and_the_backend_learns_whose_it_is() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let reply = guard.client().send(&format!(
        "GET /scim/v2/Users HTTP/1.1\r\nHost: scim.test\r\nAuthorization: Bearer {TOKEN}\r\n\
         X-SCIM-Tenant: forged\r\nx_scim_credential_id: forged\r\nX-Forwarded-For: 6.6.6.6\r\n\
         Connection: X-Hop, X-SCIM-Tenant\r\nX-Hop: 1\r\nX-Request-Id: r-1\r\nIf-Match: W/\"1\"\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
    ));
    assert_eq!((reply.status, reply.text().as_str()), (200, "{}"));
    let seen = backend.only();
    for (name, expected) in [
        ("host", "scim.test"),
        ("x-scim-credential-id", ID),
        ("x-scim-tenant", TENANT),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "scim.test"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "r-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("if-match", "W/\"1\""),
    ] {
        assert_eq!(seen.headers(name), [expected], "{name}");
    }
    for name in ["authorization", "x_scim_credential_id", "x-hop", "connection"] {
        assert!(seen.headers(name).is_empty(), "{name}");
    }
    let line = guard.access_line("r-1");
    assert_eq!(line["credential_id"], ID);
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(line["outcome"], "allowed");
    assert_eq!(line["http.response.status_code"], 200);
}

#[test]
fn targets_pass_byte_for_byte() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let mut client = guard.client();
    let long = format!("/Users?filter={}", "x".repeat(6000));
    let targets = [
        "/Users?filter=userName%20eq%20%22a%2Bb%40x%22",
        "/Users?filter=userName+eq+%22a%2bb%22",
        "/Users?filter=a%20eq%20\"b\"",
        "/Users?filter=a%20gt%20<b>",
        "/Users?filter=emails[type%20eq%20x]",
        "/Users?filter=userName%20eq%20\u{4f60}\u{597d}",
        "/Users?aadOptscim062020",
        "/Users?",
        "/Users?cursor=",
        "/Users?a=1&a=2&b",
        "/Users/a%2Fb",
        "/Users/a:b;c~d@e",
        "/Users/",
        "/Groups/.search",
        "",
        &long,
    ];
    for rest in targets {
        let reply = client.get(rest, TOKEN);
        assert_eq!(reply.status, 200, "{rest}: {}", reply.text());
        let line = format!("GET /scim/v2{rest} HTTP/1.1");
        assert_eq!(backend.seen().last().expect("forwarded").line(), line);
    }
}

#[test]
fn answers_pass_unchanged() {
    let answer = "HTTP/1.1 209 Odd\r\nContent-Type: application/scim+json;charset=UTF-8\r\n\
         ETag: W/\"a-1\"\r\nLocation: http://scim.test/scim/v2/Users/1\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nRetry-After: 7\r\nX-RateLimit-Limit: 5\r\nContent-Encoding: x-odd\r\n\
         Vary: Accept\r\nContent-Length: 3\r\n\r\n{ }";
    let backend = Backend::start(move |_| Act::Answer(answer.as_bytes().to_vec()));
    let guard = Setup::new(backend.address).start();
    let reply = guard.get("/Users", TOKEN);
    assert_eq!((reply.status, reply.text().as_str()), (209, "{ }"));
    for (name, value) in [
        ("content-type", "application/scim+json;charset=UTF-8"),
        ("etag", "W/\"a-1\""),
        ("location", "http://scim.test/scim/v2/Users/1"),
        ("retry-after", "7"),
        ("x-ratelimit-limit", "5"),
        ("content-encoding", "x-odd"),
        ("vary", "Accept"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let cookies = reply.headers.iter().filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn answers_without_a_body_stay_so() {
    let backend = Backend::start(|seen| {
        let text = match seen.line().split(' ').next() {
            Some("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
            Some("DELETE") => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 304 Not Modified\r\nETag: W/\"1\"\r\n\r\n",
        };
        Act::Answer(text.as_bytes().to_vec())
    });
    let guard = Setup::new(backend.address).start();
    let mut client = guard.client();
    let mut ask = |method: &str| {
        client.send(&format!(
            "{method} /scim/v2/Users/1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        ))
    };
    let head = ask("HEAD");
    assert_eq!((head.status, head.header("content-length")), (200, Some("77")));
    assert_eq!(ask("DELETE").status, 204);
    let unchanged = ask("GET");
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("W/\"1\"")));
    assert!(backend.seen().iter().all(|seen| seen.connection == 0), "one connection serves all");
}

#[test]
fn the_authorization_header_is_removed_kept_or_replaced() {
    let backend = Backend::friendly();
    let authorization = |guard: &crate::guard::Guard| {
        assert_eq!(guard.get("/Users", TOKEN).status, 200);
        backend.seen().last().expect("forwarded").headers("authorization").join("|")
    };
    let setup =
        |upstream: &str| Setup::new(backend.address).routes(&route(backend.address, upstream));
    assert_eq!(authorization(&setup("").start()), "");
    assert_eq!(authorization(&setup(", authorization: keep").start()), format!("Bearer {TOKEN}"));

    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "Basic YTpi\n").expect("written");
    let guard = setup(&format!(", authorization: 'file:{}'", secret.display())).start();
    assert_eq!(authorization(&guard), "Basic YTpi");
    let new = folder.path().join("new");
    std::fs::write(&new, "Basic YzpK").expect("written");
    std::fs::rename(&new, &secret).expect("renamed");
    wait_for("the new secret", || authorization(&guard) == "Basic YzpK");
    std::fs::remove_file(&secret).expect("removed");
    guard.wait_for_diagnostic("the last good one stays in force");
    assert_eq!(authorization(&guard), "Basic YzpK");
}

#[test]
fn open_paths_need_no_token_and_carry_no_identity() {
    let backend = Backend::friendly();
    let routes = format!(
        "    - {{ tenant: {TENANT}, path: /scim/v2, open: [Schemas], upstream: {{ url: 'http://{}/scim/v2' }} }}\n",
        backend.address
    );
    let guard = Setup::new(backend.address).routes(&routes).start();
    let mut client = guard.client();
    let mut bare = |target: &str| {
        client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\nX-SCIM-Tenant: forged\r\n\r\n"))
            .status
    };
    assert_eq!(bare("/scim/v2/Schemas"), 200);
    assert_eq!(bare("/scim/v2/Users"), 401);
    let seen = backend.only();
    for name in ["x-scim-tenant", "x-scim-credential-id", "authorization"] {
        assert!(seen.headers(name).is_empty(), "{name}");
    }
    let basic = "GET /scim/v2/Schemas HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YTpi\r\n\r\n";
    assert_eq!(guard.client().send(basic).status, 401, "who brings a header goes the normal way");
    assert_eq!(guard.get("/Schemas", "wrong-token").status, 401);
    assert_eq!(guard.get("/Schemas", TOKEN).status, 200);
}

#[test]
fn a_route_can_take_the_tenant_from_the_path() {
    let backend = Backend::friendly();
    let routes = format!(
        "    - {{ tenant: '*', path: '/{{tenant}}/scim', open: [Schemas], upstream: {{ url: 'http://{}/t/{{tenant}}' }} }}\n",
        backend.address
    );
    let guard = Setup::new(backend.address).routes(&routes).start();
    let mut client = guard.client();
    let mut ask = |target: &str, token: &str| {
        let authorization = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n{authorization}\r\n"))
    };
    assert_eq!(ask(&format!("/{TENANT}/scim/Users"), TOKEN).status, 200);
    assert_eq!(backend.only().line(), format!("GET /t/{TENANT}/Users HTTP/1.1"));
    let foreign = ask("/z-other/scim/Users", TOKEN);
    let unknown = ask("/z-other/scim/Users", "wrong-token");
    assert_eq!((foreign.status, unknown.status), (401, 401));
    assert_eq!(foreign.header("www-authenticate"), unknown.header("www-authenticate"));
    assert_eq!(ask(&format!("/{TENANT}/scim/Schemas"), "").status, 200);
    let undeclared = ask("/z-other/scim/Schemas", "");
    assert_eq!(undeclared.status, 401);
    assert_eq!(undeclared.header("www-authenticate"), unknown.header("www-authenticate"));
}

#[test]
fn a_bare_token_is_accepted_where_that_is_wanted() {
    let backend = Backend::friendly();
    let request =
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: {TOKEN}\r\n\r\n");
    let strict = Setup::new(backend.address).start();
    let reply = strict.client().send(&request);
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("write Bearer"), "{}", reply.text());
    let routes = route(backend.address, "").replace(" }\n", ", bare_token: true }\n");
    let lenient = Setup::new(backend.address).routes(&routes).start();
    assert_eq!(lenient.client().send(&request).status, 200);
}

#[test]
fn trusted_proxies_say_where_requests_come_from() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).proxy("trusted_proxies: [127.0.0.1]").start();
    let reply = guard.client().send(&format!(
        "GET /scim/v2/Users HTTP/1.1\r\nHost: inner\r\nAuthorization: Bearer {TOKEN}\r\n\
         X-Forwarded-For: 6.6.6.6, 9.9.9.9\r\nX-Forwarded-Host: scim.example.com\r\n\
         X-Forwarded-Proto: https\r\nX-Request-Id: r-9\r\n\r\n"
    ));
    assert_eq!(reply.status, 200);
    let seen = backend.only();
    assert_eq!(seen.headers("x-forwarded-for"), ["9.9.9.9"]);
    assert_eq!(seen.headers("x-forwarded-host"), ["scim.example.com"]);
    assert_eq!(seen.headers("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.headers("host"), ["inner"]);
    assert_eq!(guard.access_line("r-9")["client.address"], "9.9.9.9");
}

#[test]
fn a_route_can_name_the_host_that_the_backend_sees() {
    let backend = Backend::start(|_| ok("{}"));
    let routes = route(backend.address, ", host: internal.example");
    let guard = Setup::new(backend.address).routes(&routes).start();
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    assert_eq!(backend.only().headers("host"), ["internal.example"]);
    assert_eq!(backend.only().headers("x-forwarded-host"), ["scim.test"]);
}

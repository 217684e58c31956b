//! What each dialect reads and nothing else, and how it words its answers.

use super::check::{CHECK, call, field, framed, http2_status, in_attributes, number};
use super::*;
use crate::tls::Authority;

/// Asks with these lines and a live token.
fn ask(address: SocketAddr, line: &str, told: &str) -> Reply {
    let token = bearer(TOKEN);
    let head = format!("{line} HTTP/1.1\r\nHost: guard.internal\r\n");
    Client::connect(address).send(&format!("{head}{told}{token}\r\n"))
}

#[test]
fn what_is_not_told_once_and_well_formed_is_refused() {
    let backend = Backend::friendly();
    let guard = start(Setup::new(backend.address));
    let good = |edge: Edge| edge.told(&Asked::users(""));
    for (edge, address) in
        faces(&guard).into_iter().filter(|(edge, _)| !matches!(edge, Edge::Envoy | Edge::EnvoyGrpc))
    {
        let told = good(edge);
        assert_eq!(ask(address, "GET /", &told).status, 200, "{edge:?}");
        let lines: Vec<_> = told.lines().collect();
        let mut wrong = vec![String::new()];
        for (index, line) in lines.iter().enumerate() {
            let without: String = (0..)
                .zip(&lines)
                .filter(|(at, _)| *at != index)
                .map(|(_, line)| format!("{line}\r\n"))
                .collect();
            let (name, value) = line.split_once(": ").expect("a header");
            // Twice the same, twice in one, and empty; the host alone may be left out.
            wrong.push(format!("{told}{line}\r\n"));
            wrong.push(format!("{without}{name}: {value}, {value}\r\n"));
            wrong.push(format!("{without}{name}:\r\n"));
            wrong.push(format!("{without}{name}: a b\r\n"));
            wrong.push(format!("{without}{name}: \u{e4}\r\n"));
            if !name.ends_with("Host") {
                wrong.push(without);
            }
        }
        wrong.push(told.replace("/scim/v2/Users", "scim/v2/Users"));
        wrong.push(told.replace("X-Original-URI: ", "X-Original-URI: http://elsewhere"));
        wrong.push(told.replace("X-Forwarded-Uri: ", "X-Forwarded-Uri: http://elsewhere"));
        wrong.push(told.replace("https://", "ftp://"));
        // All that nginx lets a client say in `Host`.
        for cut in ["?/", "#/", "@h/", ":443?", "\\/"] {
            let path = "/scim/v2/Users";
            wrong.push(told.replace(&format!("scim.test{path}"), &format!("scim.test{cut}{path}")));
        }
        wrong.push(told.replace("-Method:", "_Method:"));
        for told in wrong.iter().filter(|wrong| **wrong != told) {
            let status = ask(address, "GET /", told).status;
            assert_eq!(status, if edge.is_narrow() { 403 } else { 400 }, "{edge:?}: {told}");
        }
    }
}

#[test]
fn the_question_itself_and_other_families_mean_nothing() {
    let backend = Backend::friendly();
    let guard = start(Setup::new(backend.address));
    let forged = "X-Original-Method: GET\r\nX-Original-URI: /scim/v2/Users\r\nX-Original-URL: http://h/scim/v2/Users\r\n\
                  X-Original-Host: h\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /scim/v2/Users\r\nX-Forwarded-Host: h\r\n";
    for (edge, address) in faces(&guard) {
        if matches!(edge, Edge::Envoy | Edge::EnvoyGrpc) {
            continue;
        }
        let elsewhere = Asked { target: "/elsewhere", ..Asked::users("") };
        let own = edge.told(&elsewhere);
        let is_own =
            |line: &&str| own.lines().any(|own| own.split(':').next() == line.split(':').next());
        let others: String =
            forged.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\r\n")).collect();
        let reply = ask(address, "GET /scim/v2/Users", &format!("{own}{others}"));
        assert_ne!(reply.status, 200, "{edge:?}: only its own family counts");
        let reply = ask(address, "GET /scim/v2/Users", &others);
        assert_ne!(reply.status, 200, "{edge:?}: and there is no falling back");
        for line in ["DELETE /elsewhere?a", "OPTIONS /scim/v2/../x", "HEAD /", "GET /%00"] {
            let told = edge.told(&Asked::users(""));
            assert_eq!(ask(address, line, &told).status, 200, "{edge:?}: {line}");
        }
    }
}

#[test]
fn routes_with_hosts_are_chosen_by_the_familys_own_host() {
    let backend = Backend::friendly();
    let route = |host: &str, tenant: &str| {
        format!(
            "    - {{ tenant: {tenant}, host: {host}, path: /scim/v2, upstream: {{ url: 'http://{}' }} }}\n",
            backend.address
        )
    };
    let routes = route("guard.internal", "z-other") + &route("scim.test", TENANT);
    let guard = start(Setup::new(backend.address).routes(&routes));
    let token = bearer(TOKEN);
    for (edge, address) in faces(&guard) {
        let asked = Asked::users(&token);
        let status = |asked: Asked<'_>| asked.by(edge, address).status;
        assert_eq!(status(asked), 200, "{edge:?}");
        assert_eq!(status(Asked { host: Some("scim.test:8443"), ..asked }), 200, "{edge:?}");
        assert_eq!(status(Asked { host: Some("guard.internal"), ..asked }), 401, "{edge:?}");
        if ![Edge::Envoy, Edge::IngressNginx].contains(&edge) {
            let refused = if edge.is_narrow() { 403 } else { 400 };
            assert_eq!(status(Asked { host: None, ..asked }), refused, "{edge:?}: none told");
        }
    }
}

#[test]
fn envoys_prefix_is_taken_off_once() {
    let (_guard, address, _backend) = alone(Edge::Envoy, ", prefix: /auth/scim");
    for (line, status) in [
        ("GET /auth/scim/scim/v2/Users?a=b", 200),
        ("PATCH /auth/scim/scim/v2/Users/1", 200),
        ("GET /auth/scim/elsewhere", 404),
        ("GET /scim/v2/Users", 400),
        ("GET /auth/scimscim/v2/Users", 400),
        ("GET /auth/scim", 400),
        ("GET /AUTH/scim/scim/v2/Users", 400),
        ("GET /auth/scim/auth/scim/scim/v2/Users", 404),
        ("GET /auth/scim/../scim/v2/Users", 400),
        ("GET /auth/scim//scim/v2/Users", 400),
    ] {
        assert_eq!(ask(address, line, "").status, status, "{line}");
    }
}

#[test]
fn envoy_is_told_to_take_the_token_away_unless_the_backend_is_to_see_it() {
    let backend = Backend::friendly();
    for (keys, removed) in [("", true), (", authorization: keep", false)] {
        let routes = crate::guard::route(backend.address, keys);
        let guard = start(Setup::new(backend.address).routes(&routes));
        let found = faces(&guard);
        let address =
            |wanted| found.iter().find(|(edge, _)| *edge == wanted).expect("it is there").1;
        let token = bearer(TOKEN);
        let asked = Asked::users(&token);
        let reply = asked.by(Edge::Envoy, address(Edge::Envoy));
        let told = reply.header("x-envoy-auth-headers-to-remove");
        assert_eq!(told, removed.then_some("authorization"));
        let (_, names) = Check::of(&asked).answer(address(Edge::EnvoyGrpc));
        assert_eq!(
            names,
            removed.then(|| "authorization".to_owned()).into_iter().collect::<Vec<_>>()
        );
        let unknown = Asked::users("Authorization: Bearer unknown\r\n");
        let reply = unknown.by(Edge::Envoy, address(Edge::Envoy));
        assert_eq!(reply.header("x-envoy-auth-headers-to-remove"), None);
    }
}

#[test]
fn every_spelling_of_our_headers_is_taken_away_over_grpc() {
    let (_guard, address, _backend) = alone(Edge::EnvoyGrpc, "");
    let forged = "X-SCIM-Tenant: z-9\r\nx_scim_tenant: z-9\r\nX.Scim-Credential_Id: c-9\r\nX-Scim-Other: kept\r\n";
    let headers = format!("{}{forged}", bearer(TOKEN));
    let (reply, removed) = Check::of(&Asked::users(&headers)).answer(address);
    assert_eq!(reply.header("x-scim-tenant"), Some(TENANT), "overwritten");
    let names: Vec<_> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-scim-credential-id", "x-scim-tenant", "x-request-id"], "and no others");
    assert_eq!(removed, ["x_scim_tenant", "x.scim-credential_id", "authorization"]);
}

#[test]
fn a_check_that_contradicts_itself_is_refused() {
    let (_guard, address, _backend) = alone(Edge::EnvoyGrpc, "");
    let token = bearer(TOKEN);
    let good = || Check::of(&Asked::users(&token));
    let status = |check: &Check| check.ask(address).status;
    assert_eq!(status(&good()), 200);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    type Change = fn(&mut Check);
    let changes: [(&str, Change); 7] = [
        ("the path", |check| check.path = "/scim/v2/Groups".to_owned()),
        ("the method", |check| check.method = "DELETE".to_owned()),
        ("the host", |check| check.host = "elsewhere".to_owned()),
        ("no path", |check| check.path.clear()),
        ("no method", |check| check.method.clear()),
        ("a bad method", |check| check.method = "G T".to_owned()),
        ("nothing", |check| {
            *check = Check {
                method: String::new(),
                path: String::new(),
                host: String::new(),
                headers: vec![],
            };
        }),
    ];
    for (what, change) in changes {
        let mut check = good();
        change(&mut check);
        assert_eq!(status(&check), 400, "{what}");
    }
    for (name, value) in [
        ("authorization", "Bearer planted-token-0123456789"),
        ("host", "elsewhere"),
        (":path", "/scim/v2/Groups"),
        ("a name", "x"),
        ("x-odd", "a\nb"),
    ] {
        let mut check = good();
        check.headers.push(header(name, value));
        assert_eq!(status(&check), 400, "{name}: {value}");
    }
    let mut check = good();
    check.headers.extend((0..100).map(|index| header(&format!("x-{index}"), "")));
    assert_eq!(status(&check), 431, "as many headers as over HTTP/1");
    // Without pseudo headers, as other proxies than Envoy may ask.
    let mut check = good();
    check.headers.retain(|(name, _)| !name.starts_with(':'));
    assert_eq!(status(&check), 200);
    let raw = |name: &str, value: &str| {
        field(1, &[field(1, name.as_bytes()), field(3, value.as_bytes())].concat())
    };
    let two_ways = [field(1, b"authorization"), field(2, b"Bearer x"), field(3, b"Bearer y")];
    let http = [field(2, b"GET"), field(3, &two_ways.concat()), field(4, b"/scim/v2/Users")];
    let answered = call(address, CHECK, &framed(&in_attributes(&http.concat())));
    assert!(String::from_utf8_lossy(&answered.message).contains("in two ways"), "refused");
    let mut http = [field(2, b"GET"), field(4, b"/scim/v2/Users")].concat();
    http.extend(field(13, &raw("authorization", &format!("Bearer {TOKEN}"))));
    let answered = call(address, CHECK, &framed(&in_attributes(&http)));
    assert_eq!(answered.status, "0");
    assert!(answered.message.windows(ID.len()).any(|it| it == ID.as_bytes()), "raw headers count");
}

#[test]
fn what_is_no_call_is_never_answered_with_200() {
    let (_guard, address, _backend) = alone(Edge::EnvoyGrpc, "");
    let token = bearer(TOKEN);
    assert_eq!(http2_status(address, "/elsewhere", "application/grpc"), 404);
    assert_eq!(http2_status(address, CHECK, "application/json"), 415);
    assert_eq!(http2_status(address, CHECK, "application/grpc"), 200, "a call that fails");
    for kind in ["", "Content-Type: application/grpc\r\n", "Content-Type: application/json\r\n"] {
        for path in [CHECK, "/", "/grpc.health.v1.Health/Check", "/check/scim/v2/Users"] {
            for method in ["GET", "POST"] {
                let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{kind}{token}\r\n");
                assert_eq!(Client::connect(address).send(&head).status, 415, "{head}");
            }
        }
    }
    let health = |service: &str| {
        call(address, "/grpc.health.v1.Health/Check", &framed(&field(1, service.as_bytes())))
    };
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        assert_eq!(number(&health(service).message, 1), 1, "SERVING");
    }
    assert_eq!(health("elsewhere").status, "5", "NOT_FOUND");
    let call = |body: &[u8]| call(address, CHECK, body).status;
    assert_eq!(call(&framed(b"\xff\xff\xff")), "13", "INTERNAL: no message");
    assert_eq!(call(&[0, 0x7f, 0xff, 0xff, 0xff]), "11", "OUT_OF_RANGE: 2 GiB");
    assert_ne!(call(b"\x00\x00"), "0", "cut");
    assert_ne!(call(&[1, 0, 0, 0, 0]), "0", "compressed");
    assert_eq!(Check::of(&Asked::users(&token)).ask(address).status, 200, "it still serves");
}

#[test]
fn a_head_that_cannot_be_read_is_refused_in_the_edges_words() {
    let backend = Backend::friendly();
    let guard = start(Setup::new(backend.address));
    for (edge, address) in faces(&guard) {
        for head in [
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\nHost: h\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)),
        ] {
            let reply = Client::connect(address).send(&head);
            if edge.is_narrow() {
                assert_eq!((reply.status, reply.body.len()), (403, 0), "{edge:?}");
                assert!(reply.header("x-scim-guard-status").is_some(), "{edge:?}");
            } else {
                assert!(matches!(reply.status, 400 | 431), "{edge:?}: {}", reply.status);
            }
        }
    }
}

#[test]
fn bodies_of_questions_are_passed_over() {
    let (_guard, address, _backend) = alone(Edge::Caddy, "");
    let told = Edge::Caddy.told(&Asked { method: "POST", ..Asked::users("") }) + &bearer(TOKEN);
    let ask = |client: &mut Client, body: &str| {
        client.send(&format!("POST /a HTTP/1.1\r\nHost: guard\r\n{told}{body}"))
    };
    let mut kept = Client::connect(address);
    for nothing in ["\r\n", "Expect: 100-continue\r\n\r\n", "Content-Length: 0\r\n\r\n"] {
        let reply = ask(&mut kept, nothing);
        assert_eq!((reply.status, reply.header("connection")), (200, None), "{nothing}");
    }
    let large = format!("Content-Length: {}\r\n\r\n{}", 1 << 20, "x".repeat(1 << 20));
    for body in [
        "Content-Length: 5\r\n\r\n{\"a\"}",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        // What some edges keep to themselves: their next question is not taken for it.
        "Content-Length: 500\r\n\r\n",
        &large,
    ] {
        let reply = ask(&mut Client::connect(address), body);
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    }
}

#[test]
fn a_body_ends_no_connection_where_it_has_a_frame_of_its_own() {
    let (_guard, address, _backend) = alone(Edge::Envoy, ", h2c: true");
    let client = crate::http2::Client::connect(address);
    for body in [&b"{}"[..], b""] {
        let request = http::Request::post("http://scim.test/check/scim/v2/Users")
            .header("authorization", format!("Bearer {TOKEN}"));
        let answer = client.send(request.body(()).expect("valid"), body).expect("an answer");
        assert_eq!(answer.status, 200, "{} bytes", body.len());
    }
}

#[test]
fn only_those_who_may_ask_are_answered() {
    let token = bearer(TOKEN);
    for edge in Edge::ALL {
        let (_guard, address, _backend) = alone(edge, ", allow_from: [10.0.0.0/8]");
        let reply = Asked::users(&token).by(edge, address);
        assert_eq!(reply.status, 403, "{edge:?}");
        assert_eq!(reply.header("x-scim-credential-id"), None);
        if edge != Edge::EnvoyGrpc {
            assert_eq!(reply.header("connection"), Some("close"), "{edge:?}");
        }
        assert_eq!(Asked::users("").by(edge, address).status, 403, "before any token is looked at");
    }
    let (guard, address, _backend) = alone(Edge::Nginx, ", allow_from: [10.0.0.0/8, 127.0.0.1]");
    let id = format!("{token}X-Request-Id: r-allowed\r\n");
    assert_eq!(Asked::users(&id).by(Edge::Nginx, address).status, 200);
    assert_eq!(guard.access_line("r-allowed")["client.address"], "127.0.0.1");
}

#[test]
fn a_listener_of_one_tenant_knows_only_its_routes() {
    let backend = Backend::friendly();
    let upstream = format!("upstream: {{ url: 'http://{}' }}", backend.address);
    let routes = format!(
        "    - {{ tenant: {TENANT}, path: /scim/v2, {upstream} }}\n    - {{ tenant: z-other, path: /other, {upstream} }}\n"
    );
    let lasting = "2099-01-01T00:00:00Z";
    let other = row("c-other", "t-other", "Enabled", lasting).replace(TENANT, "z-other");
    let rows = row(ID, TOKEN, "Enabled", lasting) + &other;
    let setup = Setup::new(backend.address).routes(&routes).rows(&rows);
    let own = listener(Edge::Caddy, &format!(", tenant: {TENANT}"));
    let guard = with_listeners(setup, &(own + &listener(Edge::Caddy, ""))).start();
    let addresses = addresses(&guard, 2);
    let status = |address, target, token: &str| {
        let token = bearer(token);
        Asked { target, ..Asked::users(&token) }.by(Edge::Caddy, address).status
    };
    assert_eq!(status(addresses[0], "/scim/v2/Users", TOKEN), 200);
    assert_eq!(status(addresses[0], "/other/Users", "t-other"), 404);
    assert_eq!(status(addresses[0], "/scim/v2/Users", "t-other"), 401);
    assert_eq!(status(addresses[1], "/other/Users", "t-other"), 200);
}

#[test]
fn edges_can_be_made_to_show_certificates() {
    let authority = Authority::new();
    let pair = authority.pair(&["localhost"]);
    let tls = ", tls: { certificate: tls.crt, private_key: tls.key, client_ca: ca.crt, client_auth: required }";
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address)
        .file("tls.crt", &pair.certificate)
        .file("tls.key", &pair.key)
        .file("ca.crt", &authority.pem());
    let guard = with_listeners(setup, &listener(Edge::Traefik, tls)).start();
    let address = addresses(&guard, 1)[0];
    let told = Edge::Traefik.told(&Asked::users("")) + &bearer(TOKEN);
    let request = format!("GET / HTTP/1.1\r\nHost: guard\r\n{told}\r\n");
    let client = authority.client().showing(&authority, &authority.pair(&["edge"]));
    assert_eq!(client.connect(address).send(&request).status, 200);
    assert!(authority.client().refusal(address).contains("CertificateRequired"));
}

//! Decisions through the life of a credential and of the process.

use std::net::Ipv4Addr;

use rustix::process::Signal;

use super::check::{call, field, framed, number};
use super::*;
use crate::guard::{route, wait_for};
use crate::port::Reserved;

#[test]
fn a_revoked_token_is_dead_on_connections_that_edges_keep() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let rows = setup.rows.clone();
    let guard = start(setup);
    let told = Edge::Nginx.told(&Asked::users("")) + &bearer(TOKEN);
    let request = format!("GET / HTTP/1.1\r\nHost: guard\r\n{told}\r\n");
    let mut kept = Client::connect(faces(&guard)[0].1);
    assert_eq!(kept.send(&request).status, 200);
    guard.replace("credentials.yaml", &rows.replace("Enabled", "Disabled"));
    wait_for("the refusal", || kept.send(&request).status == 401);
    let token = bearer(TOKEN);
    for (edge, address) in faces(&guard) {
        assert_eq!(Asked::users(&token).by(edge, address).status, 401, "{edge:?}");
    }
}

#[test]
fn what_cannot_be_decided_is_503_and_never_a_permit() {
    let backend = Backend::friendly();
    let mut setup = Setup::new(backend.address).file("token", "scimg_nobody");
    let nobody = Reserved::at(Ipv4Addr::LOCALHOST);
    let source = format!("url: 'http://{}', token: 'file:token'", nobody.address);
    setup.source = format!("native\n  native: {{ {source} }}");
    let lines = Edge::ALL.map(|edge| listener(edge, ""));
    let guard = with_listeners(setup, &lines.concat()).launch();
    let token = bearer(TOKEN);
    for (edge, address) in faces(&guard) {
        let reply = Asked::users(&token).by(edge, address);
        assert_eq!(reply.status, 503, "{edge:?}");
        assert_eq!(reply.header("retry-after"), Some("2"), "{edge:?}");
        assert_eq!(reply.header("www-authenticate"), None, "{edge:?}");
        assert_eq!(reply.body.is_empty(), edge.is_narrow(), "{edge:?}");
    }
}

#[test]
fn whoever_leaves_says_so_to_edges() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address).proxy("drain: { delay: 1h, deadline: 10s }");
    let mut guard = start(setup);
    let found = faces(&guard);
    let told = Edge::Nginx.told(&Asked::users("")) + &bearer(TOKEN);
    let request = format!("GET / HTTP/1.1\r\nHost: guard\r\n{told}\r\n");
    let mut kept = Client::connect(found[0].1);
    assert_eq!(kept.send(&request).header("connection"), None);
    guard.signal(Signal::TERM);
    wait_for("the answer that says so", || {
        let reply = kept.send(&request);
        assert_eq!(reply.status, 200, "it still answers");
        let last = reply.header("connection") == Some("close");
        last || Client::connect(found[0].1).send(&request).header("connection") == Some("close")
    });
    let health = call(found[6].1, "/grpc.health.v1.Health/Check", &framed(&field(1, b"")));
    assert_eq!(number(&health.message, 1), 2, "NOT_SERVING");
    guard.signal(Signal::TERM);
    guard.wait();
}

#[test]
fn a_reload_changes_the_terms_of_kept_connections() {
    let backend = Backend::friendly();
    // Ports that stay, so that the listeners do.
    let held = (Reserved::at(Ipv4Addr::LOCALHOST), Reserved::at(Ipv4Addr::LOCALHOST));
    let (first, second) = (held.0.address, held.1.address);
    let line = |address: SocketAddr, edge: Edge| {
        format!("  - {{ address: '{address}', edge: {} }}\n", edge.name())
    };
    let setup = Setup::new(backend.address);
    let config = setup.config();
    let with = |lines: &str| format!("{config}decision:\n{lines}");
    let lines = line(first, Edge::Nginx) + &line(second, Edge::Caddy);
    let guard = with_listeners(setup, &lines).start();
    let request = |edge: Edge| {
        let told = edge.told(&Asked::users("")) + &bearer(TOKEN);
        format!("GET / HTTP/1.1\r\nHost: guard\r\n{told}\r\n")
    };
    let (mut one, mut two) = (Client::connect(first), Client::connect(second));
    let mut other = Client::connect(first);
    assert_eq!(other.send(&request(Edge::Nginx)).status, 200);
    assert_eq!(one.send(&request(Edge::Nginx)).status, 200);
    assert_eq!(two.send(&request(Edge::Caddy)).status, 200);
    let reload = |config: &str, told: &str| {
        guard.replace("proxy.yaml", config);
        guard.signal(Signal::HUP);
        guard.wait_for_diagnostic(told);
    };
    reload(&with(&line(second, Edge::Envoy)), "config reloaded");
    assert_eq!(two.send(&request(Edge::Caddy)).status, 400, "it speaks Envoy's dialect now");
    let check = format!("GET /check/scim/v2/Users HTTP/1.1\r\nHost: h\r\n{}\r\n", bearer(TOKEN));
    assert_eq!(two.send(&check).status, 200);
    let reply = one.send(&request(Edge::Nginx));
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "it is closed");
    let malformed = other.send("GET / HTTP/1.1\r\nHost: h\r\nX: \u{1}\r\n\r\n");
    assert_eq!(malformed.status, 403, "in the words of the edge that it was for");
    reload(&config, "decision (as a whole section) has changed, which needs a restart");
    assert_eq!(two.send(&check).status, 200);
}

#[test]
fn a_guard_that_only_decides_needs_no_backend() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let config = format!(
        "proxy:\n  routes: [{{ tenant: {TENANT}, path: /scim/v2 }}]\ndecision:\n{}credentials:\n  source: {}\nops: {{ listen: '127.0.0.1:0' }}\n",
        listener(Edge::Nginx, ""),
        setup.source
    );
    let folder = tempfile::tempdir().expect("a folder");
    setup.write(folder.path());
    std::fs::write(folder.path().join("proxy.yaml"), config.replace("proxy:\n", "'proxy':\n"))
        .expect("written");
    let guard = Guard::launch(folder, &["serve"]).ready();
    let token = bearer(TOKEN);
    assert_eq!(Asked::users(&token).by(Edge::Nginx, addresses(&guard, 1)[0]).status, 200);
}

#[test]
fn the_proxy_serves_no_route_that_is_only_decided_on() {
    let backend = Backend::friendly();
    let routes = route(backend.address, "")
        + &format!("    - {{ tenant: {TENANT}, path: /scim/v2/Groups }}\n");
    let setup = Setup::new(backend.address).routes(&routes);
    let guard = with_listeners(setup, &listener(Edge::Nginx, "")).start();
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    assert_eq!(guard.get("/Groups", TOKEN).status, 404, "and not as a part of the other route");
    let token = bearer(TOKEN);
    let groups = Asked { target: "/scim/v2/Groups", ..Asked::users(&token) };
    assert_eq!(groups.by(Edge::Nginx, addresses(&guard, 1)[0]).status, 200);
}

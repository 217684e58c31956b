//! Start, reload, limits on time, and an orderly end.

use std::process::Stdio;

use rustix::process::Signal;

use crate::admin::Process;
use crate::backend::{Act, Backend, ok};
use crate::guard::{Setup, TOKEN, route, wait_for};
use crate::http::Client;

#[test]
fn a_reload_replaces_routes_and_adds_listeners_without_losing_a_request() {
    let (old, new) = (Backend::friendly(), Backend::start(|_| ok("new")));
    let setup = Setup::new(old.address);
    let guard = setup.start();
    let mut client = guard.client();
    assert_eq!(client.get("/Users", TOKEN).text(), "{}");
    let config = setup.routes(&route(new.address, "")).config();
    let config =
        config.replace("address: '127.0.0.1:0'", "address: '127.0.0.1:0' }, { address: '[::1]:0'");
    guard.replace("proxy.yaml", &config);
    guard.signal(Signal::HUP);
    guard.wait_for_diagnostic("config reloaded");
    assert_eq!(client.get("/Users", TOKEN).text(), "new", "on the same connection");
    let added = guard.addresses().pop().expect("listening");
    assert!(added.is_ipv6());
    assert_eq!(Client::connect(added).get("/Users", TOKEN).text(), "new");
    assert_eq!(guard.metric("scim_guard_config_last_reload_successful"), 1.0);
}

#[test]
fn a_bad_reload_changes_nothing_and_says_why() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let guard = setup.start();
    for (config, told) in [
        (setup.config().replace("routes:", "rutes:"), "did you mean `routes`?"),
        (setup.config().replace("proxy:\n", "proxy:\n  workers: 1\n"), "proxy.workers has changed"),
        (
            setup.config().replace("{ url:", "{ authorization: file:gone, url:"),
            "gone: No such file",
        ),
        ("nonsense".to_owned(), "write keys and values"),
    ] {
        guard.replace("proxy.yaml", &config);
        guard.signal(Signal::HUP);
        guard.wait_for_diagnostic(told);
        assert_eq!(guard.get("/Users", TOKEN).status, 200);
        assert_eq!(guard.metric("scim_guard_config_last_reload_successful"), 0.0, "{told}");
    }
}

/// Strangers who open connections and say nothing need no token. They may have what is left over.
#[test]
fn who_takes_all_connections_takes_none_from_the_backend() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let backend = Backend::start(|_| Act::Close(answer.to_vec()));
    let folder = tempfile::tempdir().expect("a folder");
    Setup::new(backend.address).proxy("limits: { header_timeout: 3s }").write(folder.path());
    let launcher = ["sh", "-c", "ulimit -n 80; exec \"$@\"", "sh"];
    let process = Process::launch_by(folder.path(), &launcher, Stdio::null());
    process.wait_until_ready();
    assert_eq!(process.metric("scim_guard_connections_max{face=\"proxy\"}"), 13.0);
    let address = process.address("proxy");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/Users", TOKEN).status, 200);
    let _strangers: Vec<_> = (0..100).map(|_| Client::connect(address)).collect();
    wait_for("all connections", || {
        process.metric("scim_guard_connections{face=\"proxy\"}") == 13.0
    });
    for _ in 0..20 {
        assert_eq!(client.get("/Users", TOKEN).status, 200, "with a new connection behind us");
    }
    assert!(!process.said().contains("Too many open files"), "{}", process.said());
}

#[test]
fn a_drain_lets_requests_finish() {
    let backend = Backend::start(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        ok("late")
    });
    let mut guard =
        Setup::new(backend.address).proxy("drain: { delay: 300ms, deadline: 10s }").start();
    let mut idle = guard.client();
    assert_eq!(idle.get("/Users", TOKEN).text(), "late");
    let mut busy = guard.client();
    busy.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the request", || guard.metric("scim_guard_requests_in_flight") == 1.0);
    guard.signal(Signal::TERM);
    wait_for("readiness to fail", || guard.ops("/readyz").status == 503);
    assert_eq!(busy.reply(false).expect("an answer").text(), "late");
    assert!(idle.rest().is_empty(), "an idle connection is closed");
    assert_eq!(guard.wait().code(), Some(0));
}

/// Those who connected before the door closes are served, also when nobody else is there any more.
#[test]
fn a_drain_lets_in_who_has_connected() {
    let backend = Backend::start(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        ok("late")
    });
    let mut guard = Setup::new(backend.address)
        .proxy("drain: { delay: 0s, deadline: 10s }")
        .proxy("limits: { connections: 1 }")
        .start();
    let request =
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    // One is served, one waits for its place, and others wait for that one.
    let mut clients: Vec<_> = (0..4).map(|_| guard.client()).collect();
    clients.iter_mut().for_each(|client| client.write(request.as_bytes()));
    wait_for("the first", || guard.metric("scim_guard_requests_in_flight") == 1.0);
    guard.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.reply(false).expect("an answer").text(), "late");
    }
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn a_drain_under_load_fails_no_request() {
    let backend = Backend::friendly();
    let mut guard =
        Setup::new(backend.address).proxy("drain: { delay: 1s, deadline: 10s }").start();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = guard.client();
            std::thread::spawn(move || {
                let request = format!(
                    "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
                );
                let mut answered = 0;
                loop {
                    let reply = client.send(&request);
                    assert_eq!(reply.status, 200);
                    answered += 1;
                    // Told to leave: a good client looks for another instance.
                    if reply.header("connection") == Some("close") {
                        return answered;
                    }
                }
            })
        })
        .collect();
    wait_for("some load", || backend.seen().len() > 500);
    guard.signal(Signal::TERM);
    for client in clients {
        assert!(client.join().expect("no request failed") > 10);
    }
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn a_request_that_comes_late_in_a_drain_is_answered() {
    let backend = Backend::friendly();
    let mut guard =
        Setup::new(backend.address).proxy("drain: { delay: 0s, deadline: 10s }").start();
    let (mut used, mut fresh) = (guard.client(), guard.client());
    assert_eq!(used.get("/Users", TOKEN).status, 200);
    wait_for("both connections", || guard.metric("scim_guard_connections{face=\"proxy\"}") == 2.0);
    guard.signal(Signal::TERM);
    guard.wait_for_diagnostic("leaving");
    for client in [&mut used, &mut fresh] {
        let reply = client.get("/Users", TOKEN);
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    }
    assert_eq!(guard.wait().code(), Some(0));
}

/// An answer that is still being read when we leave is read to its end.
#[test]
fn a_drain_cuts_no_answer() {
    let body = "x".repeat(8 << 20);
    let length = body.len();
    let backend = Backend::start(move |_| ok(&body));
    let mut guard = Setup::new(backend.address)
        .proxy("drain: { delay: 0s, deadline: 10s }")
        .proxy("limits: { idle_timeout: 300ms }")
        .start();
    let mut client = guard.client();
    client.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    let mut first = [0; 100];
    std::io::Read::read_exact(&mut client.stream, &mut first).expect("the head");
    guard.signal(Signal::TERM);
    guard.wait_for_diagnostic("leaving");
    // Longer than an idle connection would be kept.
    std::thread::park_timeout(std::time::Duration::from_secs(1));
    assert!(client.rest().len() + first.len() > length);
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let backend = Backend::start(|_| Act::Silence);
    let mut guard = Setup::new(backend.address).proxy("drain: { delay: 1h, deadline: 1h }").start();
    guard.signal(Signal::TERM);
    guard.wait_for_diagnostic("leaving");
    guard.signal(Signal::TERM);
    assert_eq!(guard.wait().code(), Some(3));
}

#[test]
fn listeners_that_the_system_numbers_are_each_their_own() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let two = setup
        .config()
        .replace("'127.0.0.1:0' }]\n", "'127.0.0.1:0' }, { address: '127.0.0.1:0' }]\n");
    let mut guard = setup.start();
    guard.replace("proxy.yaml", &two);
    guard.signal(Signal::HUP);
    guard.wait_for_diagnostic("config reloaded");
    let addresses = guard.addresses();
    assert_eq!(addresses.len(), 2);
    assert_eq!(Client::connect(addresses[1]).get("/Users", TOKEN).status, 200);
    guard.replace("proxy.yaml", &setup.config());
    guard.signal(Signal::HUP);
    wait_for("one of them to go", || {
        addresses.iter().filter(|address| std::net::TcpStream::connect(address).is_ok()).count()
            == 1
    });
    guard.signal(Signal::TERM);
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn output_that_nobody_reads_holds_up_no_request_and_no_end() {
    let backend = Backend::friendly();
    let mut guard = Setup::new(backend.address).start_unread();
    let mut client = guard.client();
    // Far more lines than a pipe holds.
    for _ in 0..2000 {
        assert_eq!(client.get("/Users", TOKEN).status, 200);
    }
    guard.signal(Signal::TERM);
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn a_request_that_takes_too_long_is_ended_and_told_as_such() {
    let backend = Backend::start(|_| Act::Silence);
    let guard = Setup::new(backend.address).proxy("limits: { request_time: 500ms }").start();
    let mut client = guard.client();
    client.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-Id: long\r\n\r\n").as_bytes(),
    );
    assert!(client.rest().is_empty());
    assert_eq!(guard.access_line("long")["reason"], "request_time");
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let backend = Backend::start(|_| Act::Silence);
    let mut guard =
        Setup::new(backend.address).proxy("drain: { delay: 0s, deadline: 300ms }").start();
    let mut busy = guard.client();
    busy.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the request", || backend.seen().len() == 1);
    guard.signal(Signal::TERM);
    assert_eq!(guard.wait().code(), Some(3));
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let backend = Backend::friendly();
    let limits = "limits: { header_timeout: 500ms, idle_timeout: 500ms, body_idle_timeout: 500ms }";
    let guard = Setup::new(backend.address).proxy(limits).start();
    assert!(guard.client().rest().is_empty(), "one that says nothing");
    let mut slow = guard.client();
    slow.write(b"GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\n");
    assert!(slow.rest().is_empty(), "one that stops within a head");
    let mut idle = guard.client();
    assert_eq!(idle.get("/Users", TOKEN).status, 200);
    assert!(idle.rest().is_empty(), "one that has had its answer");
    let mut stuck = guard.client();
    stuck.write(
        format!("POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\nhalf").as_bytes(),
    );
    assert_eq!(stuck.reply(false).expect("an answer").status, 408);
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let body = "x".repeat(32 << 20);
    let backend = Backend::start(move |_| ok(&body));
    let guard = Setup::new(backend.address).proxy("limits: { send_idle_timeout: 500ms }").start();
    let mut client = guard.client();
    client.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    let series = "scim_guard_http_rejects_total{cause=\"send_idle_timeout\",face=\"proxy\"}";
    wait_for("the end of the connection", || guard.metric(series) == 1.0);
}

#[test]
fn connections_are_spread_over_workers() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).proxy("workers: 2").start();
    let mut clients: Vec<_> = (0..2).map(|_| guard.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/Users", TOKEN).status, 200);
        assert_eq!(client.get("/Users", TOKEN).status, 200);
    }
    let connections = backend.seen().iter().map(|seen| seen.connection).max();
    assert_eq!(connections, Some(1), "each of two workers has a connection of its own");
}

#[test]
fn operators_find_health_metrics_and_version_and_strangers_do_not() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    assert_eq!(guard.ops("/livez").text(), "ok\n");
    assert_eq!(guard.ops("/version").json()["name"], "scim-guard");
    assert!(guard.ops("/readyz?verbose").text().contains("[+]table loaded"));
    assert_eq!(guard.ops("/else").status, 404);
    let metrics = guard.ops("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for path in ["/livez", "/readyz", "/metrics", "/version"] {
        let stranger = guard.client().send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(stranger.status, 401, "{path}");
    }
}

#[test]
fn serve_can_watch_its_config() {
    let (old, new) = (Backend::friendly(), Backend::start(|_| ok("new")));
    let setup = Setup::new(old.address);
    let guard = setup.watch();
    assert_eq!(guard.get("/Users", TOKEN).text(), "{}");
    guard.replace("proxy.yaml", &setup.routes(&route(new.address, "")).config());
    wait_for("the new route", || guard.get("/Users", TOKEN).text() == "new");
}

#[test]
fn whoever_reads_the_metrics_sees_what_a_drain_has_cut_off() {
    let backend = Backend::start(|_| Act::Silence);
    let setup = Setup::new(backend.address).proxy("drain: { delay: 0s, deadline: 100ms }");
    let mut guard = setup.start();
    let series = "scim_guard_drain_cut_off_connections_total";
    for _ in 0..2 {
        assert_eq!(guard.metric(series), 0.0, "whoever reads twice will read again");
    }
    let mut client = guard.client();
    client.write(
        format!("GET /scim/v2 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the request", || backend.seen().len() == 1);
    guard.signal(Signal::TERM);
    guard.wait_for_diagnostic("what is left is cut off");
    assert_eq!(guard.metric(series), 1.0);
    assert_eq!(guard.wait().code(), Some(3));
}

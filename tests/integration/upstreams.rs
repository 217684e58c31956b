//! The way to the backend: Unix sockets, several servers, names, and no more connections than may
//! be.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::{Act, Backend, ok};
use crate::guard::{Guard, Setup, TENANT, TOKEN, route, wait_for};
use crate::port::Reserved;

fn routes(keys: &str) -> String {
    format!("    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ {keys} }} }}\n")
}

/// One worker and one route with these keys of its upstream.
fn setup(keys: &str) -> Setup {
    let unused = SocketAddr::from(([127, 0, 0, 1], 9));
    Setup::new(unused).proxy("workers: 1").routes(&routes(keys))
}

fn statuses(guard: &Guard, count: usize) -> Vec<u16> {
    let mut client = guard.client();
    (0..count).map(|_| client.get("/Users", TOKEN).status).collect()
}

#[test]
fn asks_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = setup("url: 'unix:b.sock:/base'");
    setup.write(folder.path());
    let listener = UnixListener::bind(folder.path().join("b.sock")).expect("bound");
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let mut buffer = [0; 4096];
            while let Ok(bytes) = stream.read(&mut buffer)
                && bytes > 0
            {
                let head = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
                seen.lock().expect("not poisoned").push((connection, head));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).expect("written");
            }
        }
    });
    let guard = Guard::start_in(folder);
    assert_eq!(statuses(&guard, 3), [200; 3]);
    let heads = heads.lock().expect("not poisoned").clone();
    for (connection, head) in &heads {
        assert_eq!(*connection, 0, "it is kept");
        assert!(head.starts_with("GET /base/Users HTTP/1.1\r\nhost: scim.test\r\n"), "{head}");
    }
    assert_eq!(heads.len(), 3);
}

#[test]
fn a_unix_socket_that_is_not_there_is_503() {
    let guard = setup("url: 'unix:none.sock:/', connect_wait: 200ms").start();
    assert_eq!(statuses(&guard, 1), [503]);
    guard.wait_for_diagnostic("none.sock: No such file");
}

#[test]
fn a_socket_path_that_no_system_takes_is_told_at_start() {
    let long = "x".repeat(120);
    let folder = tempfile::tempdir().expect("a folder");
    setup(&format!("url: 'unix:/{long}:/scim'")).write(folder.path());
    let ended = crate::guard::command(folder.path(), &["check"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("proxy.routes[0].upstream.url: ") && told.contains("too long"), "{told}");
}

#[test]
fn requests_take_turns_over_several_backends() {
    let backends: Vec<_> = (0..3).map(|_| Backend::friendly()).collect();
    let urls: Vec<_> = backends.iter().map(|it| format!("'http://{}/scim'", it.address)).collect();
    let guard = setup(&format!("urls: [{}]", urls.join(", "))).start();
    assert_eq!(statuses(&guard, 9), [200; 9]);
    for backend in &backends {
        let seen = backend.seen();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|it| it.connection == 0 && it.line().contains(" /scim/Users ")));
    }
}

#[test]
fn a_backend_that_is_down_is_passed_over_and_comes_back() {
    let up = Backend::friendly();
    let down = Reserved::at(Ipv4Addr::LOCALHOST);
    let urls = format!("urls: ['http://{}/', 'http://{}/']", down.address, up.address);
    let guard = setup(&urls).start();
    // It costs no request and no wait: the other one is asked at once.
    assert_eq!(statuses(&guard, 6), [200; 6]);
    assert_eq!(up.seen().len(), 6);
    let back = Backend::on(TcpListener::bind(down.address).expect("still ours"), |_| ok("{}"));
    wait_for("its turn", || {
        assert_eq!(statuses(&guard, 1), [200]);
        !back.seen().is_empty()
    });
    let before = (up.seen().len(), back.seen().len());
    assert_eq!(statuses(&guard, 6), [200; 6]);
    assert_eq!((up.seen().len() - before.0, back.seen().len() - before.1), (3, 3));
}

#[test]
fn all_backends_down_is_503_until_one_is_back() {
    let (one, two) = (Reserved::at(Ipv4Addr::LOCALHOST), Reserved::at(Ipv4Addr::LOCALHOST));
    let urls = format!("'http://{}/', 'http://{}/'", one.address, two.address);
    let guard = setup(&format!("urls: [{urls}], connect_wait: 100ms")).start();
    assert_eq!(statuses(&guard, 1), [503]);
    // Both rest now, and are tried all the same.
    let back = Backend::on(TcpListener::bind(two.address).expect("still ours"), |_| ok("{}"));
    assert_eq!(statuses(&guard, 1), [200]);
    assert_eq!(back.seen().len(), 1);
}

/// `localhost` may lead to `::1` first, at which nobody listens.
#[test]
fn a_name_is_looked_up_and_its_addresses_are_tried() {
    let backend = Backend::friendly();
    let guard = setup(&format!("url: 'http://localhost:{}/'", backend.address.port())).start();
    assert_eq!(statuses(&guard, 4), [200; 4]);
    assert_eq!(backend.seen().len(), 4);
    let guard = setup("url: 'http://no.such.name.invalid/', connect_wait: 200ms").start();
    assert_eq!(statuses(&guard, 1), [503]);
    guard.wait_for_diagnostic("no.such.name.invalid: ");
}

#[test]
fn no_more_connections_than_may_be_and_the_others_wait() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let released = Arc::new(AtomicBool::new(false));
    let (now, peak, go) = (Arc::clone(&open), Arc::clone(&most), Arc::clone(&released));
    let backend = Backend::start(move |_| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        wait_for("the release", || go.load(Ordering::SeqCst));
        now.fetch_sub(1, Ordering::SeqCst);
        ok("{}")
    });
    let guard = Setup::new(backend.address)
        .proxy("workers: 1")
        .routes(&route(backend.address, ", connections: 2"))
        .start();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = guard.client();
            std::thread::spawn(move || {
                let post = format!(
                    "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
                );
                client.send(&post).status
            })
        })
        .collect();
    wait_for("all of them", || guard.metric("scim_guard_requests_in_flight") == 12.0);
    wait_for("the first two", || open.load(Ordering::SeqCst) == 2);
    released.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.join().expect("no panic"), 200);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    let connections = backend.seen().iter().map(|it| it.connection).max();
    assert_eq!((backend.seen().len(), connections), (12, Some(1)));
}

#[test]
fn who_waits_for_a_connection_in_vain_is_told_503() {
    let begun = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match begun.fetch_add(1, Ordering::SeqCst) {
        0 => Act::Silence,
        _ => ok("{}"),
    });
    let guard = Setup::new(backend.address)
        .proxy("workers: 1")
        .routes(&route(backend.address, ", connections: 1, connect_wait: 200ms"))
        .start();
    let mut first = guard.client();
    first.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the first", || backend.seen().len() == 1);
    let reply = guard.get("/Users", TOKEN);
    assert_eq!((reply.status, reply.header("retry-after").is_some()), (503, true));
    guard.wait_for_diagnostic("all of its 1 connections are busy");
    assert_eq!(backend.seen().len(), 1, "nothing was sent");
    // Whoever goes away gives the place back.
    drop(first);
    wait_for("a place", || guard.get("/Users", TOKEN).status == 200);
}

/// A token that is disabled while its request waits for a connection.
#[test]
fn a_permit_is_looked_at_again_after_the_wait() {
    let released = Arc::new(AtomicBool::new(false));
    let go = Arc::clone(&released);
    let backend = Backend::start(move |_| {
        wait_for("the release", || go.load(Ordering::SeqCst));
        ok("{}")
    });
    let setup = Setup::new(backend.address)
        .proxy("workers: 1")
        .routes(&route(backend.address, ", connections: 1"))
        .deny("[]");
    let guard = setup.start();
    let ask = |id: &str| {
        let mut client = guard.client();
        client.write(format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-Id: {id}\r\n\r\n").as_bytes());
        client
    };
    let mut first = ask("first");
    wait_for("the first", || backend.seen().len() == 1);
    let mut second = ask("second");
    wait_for("the second", || guard.metric("scim_guard_requests_in_flight") == 2.0);
    guard.replace("deny.yaml", &format!("- {{ credential_id: {} }}\n", crate::guard::ID));
    // Where nothing is, a live token is told so, and needs no backend.
    let elsewhere = format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    wait_for("the denial", || guard.client().send(&elsewhere).status == 401);
    released.store(true, Ordering::SeqCst);
    assert_eq!(first.reply(false).expect("an answer").status, 200);
    assert_eq!(second.reply(false).expect("an answer").status, 401);
    assert_eq!(backend.seen().len(), 1);
}

//! What changes under load without any client's notice: config, certificates, the process itself.
//! And listeners that are Unix sockets.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::admin::{Api, Process, config, furnish, probe};
use crate::backend::{Backend, ok};
use crate::guard::{Guard, Setup, TOKEN, wait_for};
use crate::http::Client;
use crate::tls::{Authority, PAIR};
use crate::traffic::Traffic;

fn reload(guard: &Guard, round: usize) {
    guard.signal(Signal::HUP);
    wait_for(&format!("reload {round}"), || {
        guard.diagnostics().matches("config reloaded").count() == round
    });
}

#[test]
fn config_and_certificates_change_a_hundred_times_under_load() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let pairs = [authority.pair(&["localhost"]), authority.pair(&["localhost"])];
    let setup = Setup::new(backend.address)
        .listener(PAIR)
        .file("tls.crt", &pairs[0].certificate)
        .file("tls.key", &pairs[0].key);
    let guard = setup.start();
    let client = authority.client();
    let (address, kept) = (guard.proxy, client.clone());
    let traffic = Traffic::start("/scim/v2/Users", move || kept.connect(address));
    for round in 1..=100 {
        let pair = &pairs[round % 2];
        guard.replace("tls.crt", &pair.certificate);
        guard.replace("tls.key", &pair.key);
        let added = format!("  limits: {{ streams: {} }}\n  routes:", 100 + round);
        guard.replace("proxy.yaml", &setup.config().replacen("  routes:", &added, 1));
        reload(&guard, round);
        assert!(client.shown(guard.proxy) == pair.der(), "{round}");
        traffic.wait_for_more(4);
    }
    traffic.stop();
}

/// A process that was given a listener, as a supervisor gives it.
fn launch_on(folder: &Path, listener: &TcpListener) -> Process {
    let passed = listener.try_clone().expect("a socket");
    Process::launch_by(
        folder,
        // The pid that it is meant for is known only there.
        &["sh", "-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"],
        OwnedFd::from(passed).into(),
    )
}

#[test]
fn one_process_follows_another_under_load() {
    let backend = Backend::friendly();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let setup = Setup::new(backend.address).proxy("drain: { delay: 200ms, deadline: 10s }");
    let folder = tempfile::tempdir().expect("a folder");
    setup.write(folder.path());
    let config = setup.config().replacen("127.0.0.1:0", &address.to_string(), 1);
    std::fs::write(folder.path().join("proxy.yaml"), config).expect("written");

    let mut current = launch_on(folder.path(), &listener);
    current.wait_until_ready();
    let traffic = Traffic::start("/scim/v2/Users", move || Client::connect(address));
    for _ in 0..5 {
        traffic.wait_for_more(50);
        let next = launch_on(folder.path(), &listener);
        next.wait_until_ready();
        std::mem::replace(&mut current, next).stop();
    }
    traffic.wait_for_more(50);
    traffic.stop();
}

/// The store belongs to one process at a time; clients wait in the socket that outlives both.
#[test]
fn the_successor_waits_for_the_store() {
    let backend = Backend::friendly();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let text = config("127.0.0.1:0", backend.address, 2);
    let text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
    furnish(folder.path(), &text);
    let mut current = launch_on(folder.path(), &listener);
    current.wait_until_ready();
    let mut operator = Api::operator(current.address("admin"), folder.path());
    let terms = format!("{{\"secret\": \"{TOKEN}\", \"expire_in\": \"1d\"}}");
    assert_eq!(operator.ask("POST", "/v1/tenants/z-a/credentials", &terms).status, 201);
    wait_for("the token", || probe(&mut Client::connect(address), "z-a", TOKEN) == 200);
    let traffic = Traffic::start("/z-a/scim/v2/Users", move || Client::connect(address));
    for _ in 0..3 {
        traffic.wait_for_more(50);
        let next = launch_on(folder.path(), &listener);
        wait_for("the wait", || next.said().contains("another process has the store"));
        std::mem::replace(&mut current, next).stop();
        current.wait_until_ready();
    }
    traffic.wait_for_more(50);
    traffic.stop();
}

/// A successor that waits for its table has read its config all the same.
#[test]
fn who_is_not_ready_yet_raises_no_alarm() {
    let (backend, nobody) =
        (Backend::friendly(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let admin = nobody.local_addr().expect("bound");
    let follower = crate::admin::follower(admin, backend.address);
    furnish(folder.path(), &follower.replacen("127.0.0.1:0", &address.to_string(), 1));
    let waiting = launch_on(folder.path(), &listener);
    assert_eq!(waiting.metric("scim_guard_config_last_reload_successful"), 1.0);
}

#[test]
fn a_socket_that_nobody_names_is_told() {
    let backend = Backend::friendly();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    Setup::new(backend.address).write(folder.path());
    let process = launch_on(folder.path(), &listener);
    let told = format!("listens on {address}, which the config does not name");
    wait_for("its end", || process.said().contains(&told));
}

/// A guard that also listens on a Unix socket in its folder.
fn on_socket(backend: &Backend, keys: &str, trusted: &str) -> Setup {
    Setup::new(backend.address)
        .listener(&format!(" }}, {{ address: 'unix:guard.sock'{keys}"))
        .proxy(&format!("trusted_proxies: [{trusted}]"))
}

fn dial(guard: &Guard) -> Client<UnixStream> {
    let stream = UnixStream::connect(guard.path("guard.sock")).expect("it listens");
    stream.set_read_timeout(Some(crate::guard::PATIENCE)).expect("a socket");
    Client::over(stream)
}

#[test]
fn a_unix_socket_is_a_listener_like_others() {
    let backend = Backend::friendly();
    let guard = on_socket(&backend, "", "").start();
    let mut client = dial(&guard);
    for _ in 0..2 {
        assert_eq!(client.get("/Users", TOKEN).status, 200);
        assert_eq!(client.get("/Users", "unknown").status, 401);
    }
    let seen = backend.seen().pop().expect("it came");
    assert_eq!(seen.headers("x-forwarded-for"), [""; 0], "nobody knows");
    assert_eq!(seen.headers("x-forwarded-proto"), ["http"]);
    wait_for("its line", || guard.access_lines().len() == 4);
    assert!(guard.access_lines().iter().all(|line| line.get("client.address").is_none()));

    let (_, _, folder) = guard.stop();
    assert!(!folder.path().join("guard.sock").exists(), "it goes with us");
}

#[test]
fn who_comes_by_a_unix_socket_is_believed_if_that_is_said() {
    let request = format!(
        "GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    );
    for (trusted, address, proto) in
        [("'unix:'", &["192.0.2.7"][..], "https"), ("127.0.0.1", &[], "http")]
    {
        let backend = Backend::friendly();
        let guard = on_socket(&backend, "", trusted).start();
        assert_eq!(dial(&guard).send(&request).status, 200);
        let seen = backend.only();
        assert_eq!(seen.headers("x-forwarded-for"), address);
        assert_eq!(seen.headers("x-forwarded-proto"), [proto]);
    }
}

#[test]
fn prior_knowledge_is_seen_over_a_unix_socket() {
    let backend = Backend::friendly();
    let guard = on_socket(&backend, ", h2c: true", "").start();
    assert_eq!(dial(&guard).get("/Users", TOKEN).status, 200, "HTTP/1.1 too");
    let mut client = dial(&guard);
    // In two pieces, so that the first look sees only one.
    client.write(b"PRI * HTTP/2.0\r\n");
    wait_for("the first look", || guard.metric("scim_guard_connections{face=\"proxy\"}") >= 1.0);
    client.write(b"\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00");
    let mut frame = [0; 9];
    std::io::Read::read_exact(&mut client.stream, &mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "its settings");
}

#[test]
fn what_is_left_of_a_socket_is_replaced_and_nothing_else_is() {
    let backend = Backend::start(|_| ok("{}"));
    let (folder, path) = {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("guard.sock");
        (folder, path)
    };
    on_socket(&backend, "", "").write(folder.path());
    let refusal = |expected: &str| {
        let process = Process::launch(folder.path());
        wait_for(expected, || process.said().contains(expected));
    };
    std::fs::write(&path, "precious").expect("written");
    refusal("no socket: move it away");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    std::fs::remove_file(&path).expect("removed");

    let other = UnixListener::bind(&path).expect("bound");
    refusal("stop who listens there");
    drop(other);
    assert!(path.symlink_metadata().expect("left").file_type().is_socket());
    let guard = Guard::start_in(folder);
    assert_eq!(dial(&guard).get("/Users", TOKEN).status, 200);

    // Another process has taken the path over: what is its stays.
    std::fs::remove_file(&path).expect("removed");
    let _other = UnixListener::bind(&path).expect("bound");
    let (_, _, folder) = guard.stop();
    assert!(folder.path().join("guard.sock").exists());
}

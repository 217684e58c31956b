//! TLS to the backend: whom the proxy believes, what it shows, and connections that end badly.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};

use crate::guard::{Guard, PATIENCE, Setup, TENANT, TOKEN, command, wait_for};
use crate::tls::{Authority, Pair};

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// What the backend does once it has read a request's head.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Answer,
    /// Answers without a length, and ends the connection as TLS wants it.
    Close,
    /// The same, and just hangs up.
    Cut,
    /// Answers, and then says farewell.
    AnswerAndLeave,
    /// Answers, and then says more.
    AnswerAndMore,
    /// Says farewell, or changes its keys, once it is told that the answer has gone all the way.
    LeaveLate,
    ChangeKeysLate,
    HangUp,
}

/// A backend that speaks TLS.
struct Secure {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    farewells: Arc<AtomicUsize>,
    late: Arc<Late>,
}

/// How often a backend was told to say something, and has said it.
#[derive(Default)]
struct Late {
    told: AtomicUsize,
    said: AtomicUsize,
}

impl Secure {
    fn start(config: ServerConfig, act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (requests, connections) = (Arc::default(), Arc::default());
        let secure = Self {
            address,
            requests,
            connections,
            farewells: Arc::default(),
            late: Arc::default(),
        };
        let (config, requests) = (Arc::new(config), Arc::clone(&secure.requests));
        let connections = Arc::clone(&secure.connections);
        let (farewells, late) = (Arc::clone(&secure.farewells), Arc::clone(&secure.late));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let (config, requests) = (Arc::clone(&config), Arc::clone(&requests));
                let (connections, farewells) = (Arc::clone(&connections), Arc::clone(&farewells));
                let late = Arc::clone(&late);
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(3 * PATIENCE));
                    // What was written has arrived, so that the next request can know of it.
                    stream.set_nodelay(true).expect("a socket");
                    let session = ServerConnection::new(config).expect("a session");
                    let stream = StreamOwned::new(session, stream);
                    serve(stream, act, &requests, &connections, &farewells, &late);
                });
            }
        });
        secure
    }

    fn friendly(config: ServerConfig) -> Self {
        Self::start(config, Act::Answer)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// Connections over which a request came.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A guard that asks it by this name.
    fn setup(&self, host: &str, keys: &str) -> Setup {
        let url = format!("https://{host}:{}/scim/v2", self.address.port());
        Setup::new(self.address).proxy("workers: 1").routes(&format!(
            "    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ url: '{url}', connect_wait: 300ms{keys} }} }}\n"
        ))
    }
}

fn serve(
    mut stream: Tls,
    act: Act,
    requests: &Mutex<Vec<String>>,
    connections: &AtomicUsize,
    farewells: &AtomicUsize,
    late: &Late,
) {
    let mut received = Vec::new();
    let mut first = true;
    loop {
        let mut buffer = [0; 16_384];
        let whole = |received: &[u8]| {
            let text = String::from_utf8_lossy(received).into_owned();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |it| it.parse().expect("digits"));
            (body.len() >= length).then(|| head.to_owned())
        };
        let head = loop {
            if let Some(head) = whole(&received) {
                break head;
            }
            match stream.read(&mut buffer) {
                Ok(0) => {
                    farewells.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(bytes) => received.extend_from_slice(&buffer[..bytes]),
                Err(_) => return,
            }
        };
        received.clear();
        requests.lock().expect("not poisoned").push(head);
        if std::mem::take(&mut first) {
            connections.fetch_add(1, Ordering::Relaxed);
        }
        let endless = b"HTTP/1.1 200 OK\r\n\r\nhalf";
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        match act {
            Act::Answer => stream.write_all(sized).expect("written"),
            Act::Close | Act::Cut => stream.write_all(endless).expect("written"),
            Act::AnswerAndLeave => {
                // Both at once, so that no request can slip in between; the connection stays open.
                stream.conn.writer().write_all(sized).expect("taken");
                stream.conn.send_close_notify();
                stream.flush().expect("written");
                continue;
            }
            Act::AnswerAndMore => {
                let more = [&sized[..], b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"];
                stream.write_all(&more.concat()).expect("written");
            }
            Act::LeaveLate | Act::ChangeKeysLate => {
                stream.write_all(sized).expect("written");
                let said = late.said.load(Ordering::SeqCst);
                wait_for("the word", || late.told.load(Ordering::SeqCst) > said);
                match act {
                    Act::LeaveLate => stream.conn.send_close_notify(),
                    _ => stream.conn.refresh_traffic_keys().expect("TLS 1.3"),
                }
                stream.flush().expect("written");
                late.said.fetch_add(1, Ordering::SeqCst);
            }
            Act::HangUp => {}
        }
        if act == Act::Close {
            stream.conn.send_close_notify();
            stream.flush().expect("written");
        }
        if matches!(act, Act::Close | Act::Cut | Act::HangUp) {
            let _ = stream.sock.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// A server that shows this pair, and takes only clients of `clients` if that is said.
fn server(
    version: &'static SupportedProtocolVersion,
    pair: &Pair,
    clients: Option<&Authority>,
) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(&authority.pem())).expect("a certificate");
            let (roots, provider) = (Arc::new(roots), Arc::clone(&provider));
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.build().expect("a verifier")
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate(&pair.certificate)], key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

fn send(guard: &Guard, method: &str) -> (u16, String) {
    let reply = guard.client().send(&format!(
        "{method} /scim/v2/Users HTTP/1.1\r\nHost: scim.test\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
    ));
    (reply.status, reply.text())
}

#[test]
fn asks_over_both_versions_and_keeps_the_connection() {
    let authority = Authority::new();
    let pair = authority.pair(&["localhost", "127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        for host in ["127.0.0.1", "localhost"] {
            let backend = Secure::friendly(server(version, &pair, None));
            let setup = backend.setup(host, ", ca: ca.crt").file("ca.crt", &authority.pem());
            let guard = setup.start();
            for method in ["GET", "POST", "POST", "PATCH", "GET"] {
                assert_eq!(send(&guard, method), (200, "ok".to_owned()), "{method}");
            }
            assert_eq!(backend.requests().len(), 5);
            // Tickets, which a server of TLS 1.3 sends by itself, say nothing against it.
            assert_eq!(backend.connections(), 1, "{version:?}");
            assert!(backend.requests()[0].contains("host: scim.test"), "as the client has it");
            wait_for("the end", || backend.farewells.load(Ordering::Relaxed) == 1);
        }
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let backend = Secure::friendly(server(&TLS13, &pair, None));
    let setup = backend.setup("127.0.0.1", ", ca: ca.crt").file("ca.crt", &authority.pem());
    let guard = setup.start();
    let body = "x".repeat(3 << 20);
    let reply = guard.client().send(&format!(
        "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
}

#[test]
fn believes_only_its_own_authorities_and_names() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.pair(&["backend.test"]);
    for (ca, keys, told) in [
        (&other, "", "UnknownIssuer"),
        (&authority, "", "not valid for name"),
        (&authority, ", server_name: other.test", "not valid for name"),
        (&authority, ", server_name: backend.test", ""),
    ] {
        let backend = Secure::friendly(server(&TLS13, &pair, None));
        let keys = format!(", ca: ca.crt{keys}");
        let guard = backend.setup("127.0.0.1", &keys).file("ca.crt", &ca.pem()).start();
        if told.is_empty() {
            assert_eq!(send(&guard, "POST").0, 200);
            continue;
        }
        assert_eq!(send(&guard, "POST").0, 503, "{told}");
        guard.wait_for_diagnostic("backend cannot be reached");
        let diagnostics = guard.diagnostics();
        assert!(diagnostics.contains(told), "{told}: {diagnostics}");
        assert!(backend.requests().is_empty(), "nothing was sent");
    }
}

#[test]
fn shows_its_certificate_where_the_backend_asks_for_one() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let pair = authority.pair(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let keys = ", ca: ca.crt, client_certificate: c.crt, client_key: c.key";
        for (keys, signer, good) in
            [(keys, &clients, true), (keys, &others, false), (", ca: ca.crt", &others, false)]
        {
            let backend = Secure::friendly(server(version, &pair, Some(&clients)));
            let own = signer.pair(&["guard.test"]);
            let guard = backend
                .setup("127.0.0.1", keys)
                .file("ca.crt", &authority.pem())
                .file("c.crt", &own.certificate)
                .file("c.key", &own.key)
                .start();
            let (status, _) = send(&guard, "POST");
            assert_eq!(status == 200, good, "{version:?}: {status}");
            assert_eq!(backend.requests().len(), usize::from(good));
            if !good {
                wait_for("the cause", || guard.diagnostics().contains("received fatal alert"));
            }
        }
    }
}

#[test]
fn an_answer_without_a_length_is_whole_only_if_its_end_was_meant() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        for (act, whole) in [(Act::Close, true), (Act::Cut, false)] {
            let backend = Secure::start(server(version, &pair, None), act);
            let setup = backend.setup("127.0.0.1", ", ca: ca.crt");
            let guard = setup.file("ca.crt", &authority.pem()).start();
            let mut client = guard.client();
            client.write(
                format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
                    .as_bytes(),
            );
            let looks_whole = client.reply(false).is_some_and(|reply| reply.whole);
            assert_eq!(looks_whole, whole, "{version:?}");
            let reason = if whole { "allowed" } else { "upstream_broken" };
            let outcome = if whole { "allowed" } else { "failed" };
            let series = format!(
                "scim_guard_requests_total{{face=\"proxy\",method=\"GET\",outcome=\"{outcome}\",reason=\"{reason}\",route=\"/scim/v2\"}}"
            );
            wait_for(&series, || guard.metric(&series) == 1.0);
        }
    }
}

#[test]
fn a_kept_connection_that_has_said_anything_is_not_used_again() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        for act in [Act::AnswerAndLeave, Act::AnswerAndMore] {
            let backend = Secure::start(server(version, &pair, None), act);
            let setup = backend.setup("127.0.0.1", ", ca: ca.crt");
            let guard = setup.file("ca.crt", &authority.pem()).start();
            for round in 1..=8 {
                let method = if round % 2 == 0 { "POST" } else { "GET" };
                assert_eq!(send(&guard, method), (200, "ok".to_owned()), "round {round}");
            }
            let requests = backend.requests().len();
            assert_eq!(
                (requests, backend.connections()),
                (8, 8),
                "{version:?}: none was sent twice"
            );
        }
    }
}

#[test]
fn what_a_backend_says_between_two_requests_is_heard_before_the_next() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    for (act, connections) in [(Act::LeaveLate, 4), (Act::ChangeKeysLate, 1)] {
        let backend = Secure::start(server(&TLS13, &pair, None), act);
        let setup = backend.setup("127.0.0.1", ", ca: ca.crt");
        let guard = setup.file("ca.crt", &authority.pem()).start();
        for round in 1..=4 {
            assert_eq!(send(&guard, "POST").0, 200, "round {round}");
            backend.late.told.fetch_add(1, Ordering::SeqCst);
            wait_for("it", || backend.late.said.load(Ordering::SeqCst) == round);
        }
        assert_eq!((backend.requests().len(), backend.connections()), (4, connections));
    }
}

#[test]
fn a_post_is_never_sent_twice() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let backend = Secure::start(server(version, &pair, None), Act::HangUp);
        let setup = backend.setup("127.0.0.1", ", ca: ca.crt");
        let guard = setup.file("ca.crt", &authority.pem()).start();
        assert_eq!(send(&guard, "POST").0, 502);
        assert_eq!(backend.requests().len(), 1);
    }
}

#[test]
fn changed_files_count_for_the_next_request_and_bad_ones_do_not() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let pair = authority.pair(&["127.0.0.1"]);
    let backend = Secure::friendly(server(&TLS13, &pair, Some(&clients)));
    let (own, next) = (clients.pair(&["guard.test"]), clients.pair(&["guard.test"]));
    let guard = backend
        .setup("127.0.0.1", ", ca: ca.crt, client_certificate: c.crt, client_key: c.key")
        .file("ca.crt", &authority.pem())
        .file("c.crt", &own.certificate)
        .file("c.key", &own.key)
        .start();
    assert_eq!(send(&guard, "GET").0, 200);
    guard.replace("c.crt", &next.certificate);
    guard.wait_for_diagnostic("client_key: ");
    let told = guard.diagnostics();
    assert!(told.contains("proxy.routes[0].upstream.client_key: "), "{told}");
    assert!(told.contains("the last good files stay in force"), "{told}");
    assert_eq!(send(&guard, "GET").0, 200);
    guard.replace("c.key", &next.key);
    guard.wait_for_diagnostic("the files of TLS have changed and are in force");
    let before = backend.connections();
    assert_eq!(send(&guard, "GET").0, 200);
    assert_eq!(backend.connections(), before + 1, "what older files verified is not used");
    // An authority that is believed no more.
    guard.replace("ca.crt", &Authority::new().pem());
    let in_force = || guard.diagnostics().matches("changed and are in force").count();
    wait_for("the change", || in_force() == 2);
    assert_eq!(send(&guard, "GET").0, 503);
}

#[test]
fn files_that_do_not_fit_are_told_by_check_and_refused_at_start() {
    let (authority, other) = (Authority::new(), Authority::new());
    let own = Pair { key: other.pair(&["a"]).key, ..authority.pair(&["a"]) };
    let backend = Secure::friendly(server(&TLS13, &authority.pair(&["127.0.0.1"]), None));
    let folder = tempfile::tempdir().expect("a folder");
    backend
        .setup("127.0.0.1", ", ca: none.crt, client_certificate: c.crt, client_key: c.key")
        .file("c.crt", &own.certificate)
        .file("c.key", &own.key)
        .write(folder.path());
    for arguments in [["check"], ["serve"]] {
        let ended = command(folder.path(), &arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("proxy.routes[0].upstream.ca: "), "{told}");
        assert!(told.contains("proxy.routes[0].upstream.client_key: "), "{told}");
    }
}

#[test]
fn the_systems_authorities_are_believed_where_none_is_named() {
    let authority = Authority::new();
    let backend = Secure::friendly(server(&TLS13, &authority.pair(&["127.0.0.1"]), None));
    let folder = tempfile::tempdir().expect("a folder");
    let setup = backend.setup("127.0.0.1", "");
    setup.file("ca.crt", &authority.pem()).file("none.crt", "").write(folder.path());
    for (file, code) in [("ca.crt", 0), ("none.crt", 1)] {
        let mut check = command(folder.path(), &["check"]);
        check.env("SSL_CERT_FILE", folder.path().join(file)).env_remove("SSL_CERT_DIR");
        let ended = check.output().expect("it runs");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{file}: {told}");
        assert_eq!(told.contains("no certificates to trust: install"), code == 1, "{told}");
    }
}

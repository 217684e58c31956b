//! Roles of the admin API by a client's certificate.

use std::io::Read;

use rustix::process::Signal;

use crate::admin::position;
use crate::backend::Backend;
use crate::guard::{Guard, Setup, wait_for};
use crate::http::{Client, Reply};
use crate::tls::{Authority, Pair, Tls};

const CERTIFICATES: &str = "[{ san: 'spiffe://guard.test/reader', role: reader }, \
                            { san: ops.guard.test, role: operator, tenants: [z-a] }]";

fn start(authority: &Authority, clients: &Authority) -> Guard {
    let (backend, pair) = (Backend::friendly(), authority.pair(&["localhost"]));
    let mut setup = Setup::new(backend.address)
        .file("tls.crt", &pair.certificate)
        .file("tls.key", &pair.key)
        .file("ca.crt", &clients.pem());
    setup.top = format!(
        "admin:\n  listen: '127.0.0.1:0'\n  store: sqlite:admin.db\n  tenants: [z-a, z-b]\n  \
         tls: {{ certificate: tls.crt, private_key: tls.key, client_ca: ca.crt, client_auth: \
         optional }}\n  certificates: {CERTIFICATES}\n"
    );
    setup.start()
}

/// A client that shows this certificate, if any.
fn dial(guard: &Guard, authority: &Authority, pair: Option<&Pair>) -> Client<Tls> {
    let client = authority.client();
    match pair {
        Some(pair) => client.showing(authority, pair).connect(guard.admin),
        None => client.connect(guard.admin),
    }
}

fn ask(client: &mut Client<Tls>, method: &str, path: &str, headers: &str) -> Reply {
    client.send(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"))
}

const TENANTS: &str = "/v1/tenants";
const MADE: &str = "/v1/tenants/z-a/credentials";

#[test]
fn a_certificate_stands_for_a_token() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let guard = start(&authority, &clients);
    let reader = clients.pair(&["spiffe://guard.test/reader"]);
    let operator = clients.pair(&["other.test", "OPS.guard.test"]);
    let stranger = clients.pair(&["spiffe://guard.test/reader/2", "guard.test"]);

    let mut reading = dial(&guard, &authority, Some(&reader));
    assert_eq!(ask(&mut reading, "GET", TENANTS, "").status, 200);
    assert_eq!(ask(&mut reading, "POST", MADE, "Content-Length: 0\r\n").status, 403);

    let mut operating = dial(&guard, &authority, Some(&operator));
    let made = ask(&mut operating, "POST", MADE, "Content-Length: 0\r\n");
    assert_eq!((made.status, &made.json()["created_by"]), (201, &"ops.guard.test".into()));
    let elsewhere = ask(&mut operating, "GET", "/v1/tenants/z-b/credentials", "");
    assert_eq!(elsewhere.status, 404, "it is for one tenant");

    for pair in [Some(&stranger), None] {
        assert_eq!(ask(&mut dial(&guard, &authority, pair), "GET", TENANTS, "").status, 401);
    }
    // A header is judged by itself, also a bad one.
    let bad = "Authorization: Bearer a-token-that-nobody-knows\r\n";
    assert_eq!(ask(&mut reading, "GET", TENANTS, bad).status, 401);
    let secret = std::fs::read_to_string(guard.path("admin.token")).expect("made");
    let good = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n", secret.trim());
    assert_eq!(ask(&mut reading, "PUT", "/v1/tenants/z-c", &good).status, 201);
}

#[test]
fn a_certificate_that_is_taken_out_ends_its_streams() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let guard = start(&authority, &clients);
    let reader = clients.pair(&["spiffe://guard.test/reader"]);
    let mut client = dial(&guard, &authority, Some(&reader));
    let head = ask(&mut client, "GET", "/v1/history", "").json();
    let after = position(&head);
    client.write(
        format!(
            "GET /v1/changes?after={after} HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"
        )
        .as_bytes(),
    );
    let mut seen = [0; 9];
    client.stream.read_exact(&mut seen).expect("an answer");
    assert_eq!(&seen, b"HTTP/1.1 ");
    let config = std::fs::read_to_string(guard.path("proxy.yaml")).expect("there");
    guard.replace("proxy.yaml", &config.replace("guard.test/reader", "guard.test/nobody"));
    guard.signal(Signal::HUP);
    let mut rest = Vec::new();
    wait_for("the stream's end", || {
        let mut piece = [0; 4096];
        let bytes = client.stream.read(&mut piece).expect("bytes");
        rest.extend_from_slice(&piece[..bytes]);
        rest.ends_with(b"0\r\n\r\n") || bytes == 0
    });
    assert!(rest.starts_with(b"200 "), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(ask(&mut client, "GET", TENANTS, "").status, 401, "on the same connection");
}

//! HTTP/2, by prior knowledge in clear text: what is decided and forwarded is the same, and a client
//! that misuses streams loses its connection, not the proxy.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::backend::{Backend, ok};
use crate::guard::{Guard, ID, PATIENCE, Setup, TENANT, TOKEN, wait_for};

pub struct Answer {
    pub status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A connection, and the runtime that drives it.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    requests: SendRequest<Bytes>,
    /// Ends with the connection.
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let (requests, driver) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("it listens");
            // Room on the connection, so that one stream that is not read stops no other.
            let mut builder = h2::client::Builder::new();
            let builder = builder.initial_connection_window_size(16 << 20);
            let (requests, connection) = builder.handshake(stream).await.expect("HTTP/2");
            (requests, tokio::spawn(connection))
        });
        Self { runtime, requests, driver }
    }

    pub fn send(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (requests, body) = (self.requests.clone(), Bytes::copy_from_slice(body));
        let answer = async move {
            let mut requests = requests.ready().await?;
            let (answer, mut upload) = requests.send_request(request, body.is_empty())?;
            if !body.is_empty() {
                upload.send_data(body, true)?;
            }
            let (parts, mut rest) = answer.await?.into_parts();
            let mut body = Vec::new();
            while let Some(piece) = rest.data().await {
                let piece = piece?;
                rest.flow_control().release_capacity(piece.len())?;
                body.extend_from_slice(&piece);
            }
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, answer).await.expect("in time") })
    }

    fn get(&self, rest: &str, token: &str) -> Answer {
        self.send(request(Method::GET, rest, token).body(()).expect("valid"), b"")
            .expect("an answer")
    }
}

fn request(method: Method, rest: &str, token: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://scim.example.com/scim/v2{rest}"))
        .header("authorization", format!("Bearer {token}"))
}

fn start(backend: &Backend) -> Guard {
    Setup::new(backend.address).listener(", h2c: true").start()
}

#[test]
fn a_request_is_decided_and_forwarded_as_over_http_1() {
    let backend = Backend::friendly();
    let guard = start(&backend);
    let client = Client::connect(guard.proxy);
    let asked = request(Method::GET, "/Users/a%2Fb?filter=userName%20eq%20%22a%22", TOKEN)
        .header("x-scim-tenant", "forged")
        .header("x_scim_credential_id", "forged")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .expect("valid");
    assert_eq!(client.send(asked, b"").expect("an answer").status, 200);
    let seen = backend.only();
    assert_eq!(seen.line(), "GET /scim/v2/Users/a%2Fb?filter=userName%20eq%20%22a%22 HTTP/1.1");
    for (name, values) in [
        ("host", vec!["scim.example.com"]),
        ("x-forwarded-host", vec!["scim.example.com"]),
        ("x-scim-tenant", vec![TENANT]),
        ("x-scim-credential-id", vec![ID]),
        ("x_scim_credential_id", vec![]),
        ("cookie", vec!["a=1; b=2"]),
        ("te", vec![]),
        ("authorization", vec![]),
    ] {
        assert_eq!(seen.headers(name), values, "{name}");
    }
    let refused = client.get("/Users", "wrong");
    assert_eq!(refused.status, 401);
    assert!(refused.headers.contains_key("www-authenticate"));
    let error: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(error["status"], "401");
}

#[test]
fn what_http_2_can_leave_unclear_is_refused() {
    let backend = Backend::friendly();
    let guard = start(&backend);
    let client = Client::connect(guard.proxy);
    for (host, status) in [("scim.example.com", 200), ("other.example.com", 400), ("a b", 400)] {
        let asked = request(Method::GET, "/Users", TOKEN).header("host", host).body(());
        let answer = client.send(asked.expect("valid"), b"").expect("an answer");
        assert_eq!(answer.status, status, "Host: {host}");
    }
    let twice = request(Method::GET, "/Users", TOKEN).header("authorization", "Bearer other");
    let answer = client.send(twice.body(()).expect("valid"), b"").expect("an answer");
    assert_eq!(answer.status, 400);
    let connect = Request::builder().method(Method::CONNECT).uri("scim.example.com:443").body(());
    assert_eq!(client.send(connect.expect("valid"), b"").expect("an answer").status, 400);
    assert_eq!(client.get("/Users", TOKEN).status, 200);
}

#[test]
fn bodies_pass_both_ways_and_an_unread_one_hides_no_refusal() {
    let large = "x".repeat(3 << 20);
    let answer = large.clone();
    let backend = Backend::start(move |_| ok(&answer));
    let guard = start(&backend);
    let client = Client::connect(guard.proxy);
    let upload = vec![b'y'; 1 << 20];
    for (token, status) in [("wrong", 401), (TOKEN, 200)] {
        let asked = request(Method::POST, "/Users", token).body(()).expect("valid");
        let answer = client.send(asked, &upload).expect("an answer");
        assert_eq!(answer.status, status);
        if status == 200 {
            assert_eq!(answer.body.len(), large.len());
        }
    }
    let sized = request(Method::PATCH, "/Users/1", TOKEN).header("content-length", "5");
    let answer = client.send(sized.body(()).expect("valid"), b"12345").expect("an answer");
    assert_eq!(answer.status, 200);
    let last = backend.seen().pop().expect("seen");
    assert_eq!(last.headers("content-length"), ["5"], "a length stays a length");
    assert!(last.headers("transfer-encoding").is_empty());
}

#[test]
fn a_stream_that_nobody_reads_is_reset_and_no_other_is() {
    let large = "x".repeat(4 << 20);
    let backend = Backend::start(move |seen| match seen.line().contains("large") {
        true => ok(&large),
        false => ok("{}"),
    });
    let limits = "limits: { send_idle_timeout: 1s }";
    let guard = Setup::new(backend.address).listener(", h2c: true").proxy(limits).start();
    let client = Client::connect(guard.proxy);
    let mut answer = client.runtime.block_on(async {
        let mut requests = client.requests.clone().ready().await.expect("ready");
        let asked = request(Method::GET, "/large", TOKEN).body(()).expect("valid");
        requests.send_request(asked, true).expect("sent").0.await.expect("a head")
    });
    assert_eq!(answer.status(), 200);
    let cut = "scim_guard_http_rejects_total{cause=\"send_idle_timeout\",face=\"proxy\"}";
    wait_for("the reset", || {
        assert_eq!(client.get("/Users", TOKEN).status, 200, "on the same connection");
        guard.metric(cut) >= 1.0
    });
    let end = client.runtime.block_on(async {
        while let Some(piece) = answer.body_mut().data().await {
            piece?;
        }
        Ok::<(), h2::Error>(())
    });
    assert!(end.expect_err("cut").is_reset());
    assert!(!client.driver.is_finished());
}

#[test]
fn streams_that_are_begun_and_reset_without_end_are_ended() {
    let backend = Backend::friendly();
    let guard = start(&backend);
    let (flood, good) = (Client::connect(guard.proxy), Client::connect(guard.proxy));
    let ended = flood.runtime.block_on(async {
        for _ in 0..20_000 {
            let Ok(mut requests) = flood.requests.clone().ready().await else { return true };
            let asked = request(Method::POST, "/Users", TOKEN).body(()).expect("valid");
            let Ok((_, mut stream)) = requests.send_request(asked, false) else { return true };
            stream.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
        false
    });
    assert!(ended, "20,000 resets were borne");
    assert_eq!(good.get("/Users", TOKEN).status, 200);
}

#[test]
fn a_drain_lets_streams_finish_and_tells_clients_to_go() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::start(move |_| {
        held.lock().expect("not poisoned").recv_timeout(PATIENCE).expect("released");
        ok("{}")
    });
    let mut guard = start(&backend);
    let client = Client::connect(guard.proxy);
    let (requests, begun) = (client.requests.clone(), &client.runtime);
    let asked = request(Method::GET, "/Users", TOKEN).body(()).expect("valid");
    let answer = begun.spawn(async move {
        let mut requests = requests.ready().await?;
        requests.send_request(asked, true)?.0.await
    });
    wait_for("the request at the backend", || !backend.seen().is_empty());
    guard.signal(Signal::TERM);
    guard.wait_for_diagnostic("leaving");
    release.send(()).expect("held");
    let answer = begun.block_on(answer).expect("no panic").expect("an answer");
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(guard.wait().code(), Some(0));
    wait_for("the end of the connection", || client.driver.is_finished());
}

#[test]
fn clear_text_is_http_1_unless_the_listener_says_otherwise() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.expect("a runtime").block_on(async {
        let stream = TcpStream::connect(guard.proxy).await.expect("it listens");
        let (requests, connection) = h2::client::handshake(stream).await.expect("written");
        let driver = tokio::spawn(connection);
        drop(requests);
        tokio::time::timeout(Duration::from_secs(10), driver).await.expect("it ends")
    });
    drop(outcome);
    let mixed = start(&backend);
    assert_eq!(mixed.get("/Users", TOKEN).status, 200, "HTTP/1.1 on a listener with h2c");
}

#[test]
fn a_connection_in_use_outlives_the_time_for_a_first_request() {
    let backend = Backend::friendly();
    let limits = "limits: { header_timeout: 1s, idle_timeout: 1h }";
    let guard = Setup::new(backend.address).listener(", h2c: true").proxy(limits).start();
    let client = Client::connect(guard.proxy);
    let begun = std::time::Instant::now();
    // Each is over long before anybody looks at the connection.
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.get("/Users", TOKEN).status, StatusCode::OK);
        std::thread::park_timeout(Duration::from_millis(40));
    }
    assert!(!client.driver.is_finished(), "the connection goes on");
    let rejects = "scim_guard_http_rejects_total{cause=\"header_timeout\",face=\"proxy\"}";
    assert_eq!(guard.metric(rejects), 0.0);
}

//! Backends that are down, slow, gone or wrong.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::time::Duration;

use rustix::net::sockopt;

use crate::backend::{Act, Backend, ok};
use crate::guard::{Guard, Setup, TOKEN, route, wait_for};
use crate::http::Client;
use crate::port::Reserved;
use crate::tls::{self, Authority};

fn reason(guard: &Guard, status: u16) -> String {
    let id = format!("r-{}", fastrand::u64(..));
    let reply = guard.client().send(&format!(
        "GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-Id: {id}\r\n\r\n"
    ));
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.json()["status"], status.to_string());
    guard.access_line(&id)["reason"].as_str().expect("a word").to_owned()
}

#[test]
fn a_backend_that_is_down_is_503_after_the_wait() {
    let nowhere = Reserved::at(Ipv4Addr::LOCALHOST);
    let routes = route(nowhere.address, ", connect_wait: 200ms");
    let guard = Setup::new(nowhere.address).routes(&routes).start();
    assert_eq!(reason(&guard, 503), "upstream_unavailable");
}

#[test]
fn a_backend_that_restarts_costs_no_request() {
    let nowhere = Reserved::at(Ipv4Addr::LOCALHOST);
    let guard = Setup::new(nowhere.address).start();
    let client = std::thread::spawn({
        let mut client = guard.client();
        move || {
            let request = format!(
                "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 3\r\n\r\nabc"
            );
            client.send(&request).status
        }
    });
    wait_for("the request", || guard.metric("scim_guard_requests_in_flight") == 1.0);
    let backend =
        Backend::on(TcpListener::bind(nowhere.address).expect("still ours"), |_| ok("{}"));
    assert_eq!(client.join().expect("no panic"), 200);
    assert_eq!(backend.only().body, b"abc");
}

#[test]
fn a_slow_backend_is_504() {
    let backend = Backend::start(|_| Act::Silence);
    let routes = route(backend.address, ", response_timeout: 200ms");
    let guard = Setup::new(backend.address).routes(&routes).start();
    assert_eq!(reason(&guard, 504), "upstream_timeout");
}

#[test]
fn an_answer_that_is_none_is_502() {
    for answer in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Len",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    ] {
        let backend = Backend::start(move |_| Act::Close(answer.as_bytes().to_vec()));
        let guard = Setup::new(backend.address).start();
        assert_eq!(reason(&guard, 502), "upstream_broken", "{answer:?}");
    }
}

#[test]
fn a_cut_answer_does_not_look_whole() {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(100_000));
    for answer in [
        long.as_str(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    ] {
        let cut = answer.as_bytes().to_vec();
        let backend = Backend::start(move |_| Act::Close(cut.clone()));
        let guard = Setup::new(backend.address).start();
        let mut client = guard.client();
        client.write(request().as_bytes());
        let whole = client.reply(false).is_some_and(|reply| reply.whole);
        assert!(!whole, "{answer:?}");
        wait_for("the count", || {
            let series = "scim_guard_requests_total{face=\"proxy\",method=\"GET\",outcome=\"failed\",reason=\"upstream_broken\",route=\"/scim/v2\"}";
            guard.metric(series) == 1.0
        });
    }
}

#[test]
fn an_answer_that_stops_is_ended() {
    let backend = Backend::start(|_| {
        Act::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec())
    });
    let routes = route(backend.address, ", response_timeout: 200ms");
    let guard = Setup::new(backend.address).routes(&routes).start();
    assert_eq!(reason(&guard, 504), "upstream_timeout", "a short one is still answered");

    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(100_000));
    let backend = Backend::start(move |_| Act::Answer(long.as_bytes().to_vec()));
    let routes = route(backend.address, ", response_timeout: 200ms");
    let guard = Setup::new(backend.address).routes(&routes).start();
    let reply = guard.get("/Users", TOKEN);
    assert!(!reply.whole, "{} bytes", reply.body.len());
}

fn request() -> String {
    format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
}

/// A backend that closes each connection after its answer, without having said so.
#[test]
fn a_kept_connection_that_the_backend_has_closed_fails_no_request() {
    let backend = Backend::start(|_| match ok("{}") {
        Act::Answer(bytes) => Act::Close(bytes),
        other => other,
    });
    let guard = Setup::new(backend.address).proxy("workers: 1").start();
    let mut client = guard.client();
    for round in 0..40 {
        let method = ["GET", "POST", "PATCH", "DELETE"][round % 4];
        let reply = client.send(&format!(
            "{method} /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
        ));
        assert_eq!(reply.status, 200, "{method} in round {round}");
        wait_for("the backend to hang up", || backend.closed() == round + 1);
    }
    assert_eq!(backend.seen().len(), 40, "none was sent twice");
}

/// A backend that closes a kept connection while the next request's body is still on its way.
#[test]
fn a_slow_body_does_not_go_out_on_a_connection_that_has_died_meanwhile() {
    let backend = Backend::start(|_| match ok("{}") {
        Act::Answer(bytes) => Act::Close(bytes),
        other => other,
    });
    let guard = Setup::new(backend.address).proxy("workers: 1").start();
    let mut slow = guard.client();
    slow.write(
        format!("POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 3\r\n\r\n").as_bytes(),
    );
    wait_for("the head", || guard.metric("scim_guard_requests_in_flight") == 1.0);
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    wait_for("the backend to hang up", || backend.closed() == 1);
    slow.write(b"abc");
    assert_eq!(slow.reply(false).expect("an answer").status, 200);
}

/// What a backend says unasked is nobody's answer.
#[test]
fn stray_bytes_of_a_backend_reach_no_client() {
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    for late in [false, true] {
        let (told, tell) = std::sync::mpsc::channel::<()>();
        let (wrote, written) = std::sync::mpsc::channel::<()>();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut head = [0; 4096];
                let _ = Read::read(&mut stream, &mut head);
                let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
                if !late {
                    answer.extend_from_slice(stray.as_bytes());
                }
                let _ = Write::write_all(&mut stream, &answer);
                if late {
                    let _ = tell.recv();
                    let _ = Write::write_all(&mut stream, stray.as_bytes());
                    let _ = wrote.send(());
                }
                // Kept open, and silent from now on.
                std::mem::forget(stream);
            }
        });
        let guard = Setup::new(address).proxy("workers: 1").start();
        let mut client = guard.client();
        for round in 0..4 {
            assert_eq!(client.get("/Users", TOKEN).text(), "ok", "round {round}, late: {late}");
            if late {
                told.send(()).expect("the backend waits for it");
                // They are at the other end once they are written: loopback does that at once.
                written.recv_timeout(Duration::from_secs(10)).expect("the stray bytes are written");
            }
            wait_for("an idle moment", || guard.metric("scim_guard_requests_in_flight") == 0.0);
        }
    }
}

#[test]
fn an_early_refusal_of_an_upload_reaches_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        let _ = Read::read(&mut stream, &mut head);
        let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmine";
        Write::write_all(&mut stream, answer).expect("written");
        // Held open: the proxy must not wait for its end.
        std::thread::park();
    });
    let guard = Setup::new(address).start();
    let mut client = guard.client();
    let length = 4 << 20;
    client.write(
        format!("POST /scim/v2/Bulk HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
    );
    client.write(&vec![b'x'; length]);
    let reply = client.reply(false).expect("an answer");
    assert_eq!((reply.status, reply.text().as_str()), (413, "mine"));
}

#[test]
fn interim_answers_are_not_passed_on() {
    let backend = Backend::start(|_| {
        let text = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        Act::Answer(text.as_bytes().to_vec())
    });
    let guard = Setup::new(backend.address).start();
    let reply = guard.get("/Users", TOKEN);
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let (backend, authority) = (Backend::start(|_| Act::Silence), Authority::new());
    let guard = Setup::new(backend.address).start();
    go_away(&backend, &guard, guard.client());
    let guard = tls::setup(&backend, &authority.pair(&["localhost"])).start();
    go_away(&backend, &guard, authority.client().connect(guard.proxy));
}

fn go_away<S: Read + Write>(backend: &Backend, guard: &Guard, mut client: Client<S>) {
    let before = backend.seen().len();
    client.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-Id: gone\r\n\r\n").as_bytes(),
    );
    wait_for("the backend", || backend.seen().len() > before);
    drop(client);
    let line = guard.access_line("gone");
    assert_eq!((&line["outcome"], &line["reason"]), (&"failed".into(), &"client_gone".into()));
}

/// Those are found out too whose last word is a reset, with something unread before it.
#[test]
fn clients_that_are_gone_before_they_are_served_leave_nothing_behind() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let guard = Setup::new(backend.address).proxy("workers: 1").start();
    let secured = tls::setup(&backend, &authority.pair(&["localhost"])).start();
    let request = "GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\n\r\n\r\n";
    for _ in 0..200 {
        let mut client = guard.client();
        client.write(request.as_bytes());
        sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).expect("a socket");
    }
    let mut within = authority.client().connect(secured.proxy);
    within.write(request.as_bytes());
    within.stream.flush().expect("written");
    within.stream.sock.write_all(b"no record of TLS").expect("written");
    for guard in [&guard, &secured] {
        let open = "scim_guard_connections{face=\"proxy\"}";
        wait_for("the end of all connections", || guard.metric(open) == 0.0);
    }
}

#[test]
fn who_has_asked_for_more_is_not_gone_with_its_last_word() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let mut client = guard.client();
    let request =
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    client.write(request.repeat(3).as_bytes());
    client.stream.shutdown(Shutdown::Write).expect("a socket");
    let answers = String::from_utf8(client.rest()).expect("text");
    // The last request is like any other whose client hangs up.
    assert!(answers.matches("HTTP/1.1 200 OK").count() >= 2, "{answers}");
}

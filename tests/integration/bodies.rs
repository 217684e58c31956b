//! Bodies are streamed both ways, keep their framing, and have their limits.

use crate::backend::{Act, Backend, ok};
use crate::guard::{Guard, Setup, TOKEN};
use crate::http::Reply;

fn post(guard: &Guard, framing: &str, body: &[u8]) -> Reply {
    let mut client = guard.client();
    client.write(
        format!(
            "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n{framing}\r\n\r\n"
        )
        .as_bytes(),
    );
    client.write(body);
    client.reply(false).expect("an answer")
}

fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x};x=y\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

#[test]
fn request_bodies_arrive_whole_and_framed_as_they_were() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    for bytes in [1, 2048, 1 << 20] {
        let body = noise(bytes);
        assert_eq!(post(&guard, &format!("Content-Length: {bytes}"), &body).status, 200);
        let seen = backend.seen().pop().expect("forwarded");
        assert_eq!(seen.headers("content-length"), [bytes.to_string()]);
        assert!(seen.headers("transfer-encoding").is_empty());
        assert!(seen.body == body, "{bytes} bytes");

        assert_eq!(post(&guard, "Transfer-Encoding: chunked", &chunks(&body, 1000)).status, 200);
        let seen = backend.seen().pop().expect("forwarded");
        assert_eq!(seen.headers("transfer-encoding"), ["chunked"]);
        assert!(seen.headers("content-length").is_empty());
        assert!(seen.body == body, "{bytes} bytes");
    }
    assert_eq!(post(&guard, "Content-Length: 0", b"").status, 200);
    assert_eq!(backend.seen().pop().expect("forwarded").headers("content-length"), ["0"]);
}

#[test]
fn trailers_end_at_the_proxy_and_hold_up_nothing() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).proxy("limits: { request_time: 2s }").start();
    for body in ["3\r\nabc\r\n0\r\nX-Trailer: forged\r\n\r\n", "0\r\nX-Trailer: forged\r\n\r\n"] {
        let framing = "Trailer: X-Trailer\r\nTransfer-Encoding: chunked";
        assert_eq!(post(&guard, framing, body.as_bytes()).status, 200);
        let seen = backend.seen().pop().expect("forwarded");
        assert!(!seen.head.contains("railer"), "{}", seen.head);
    }
}

/// A backend that accepts before it has read all still gets all.
#[test]
fn an_early_acceptance_does_not_cut_the_upload() {
    let body = noise(1 << 20);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let length = body.len();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        std::io::Write::write_all(&mut stream, answer).expect("written");
        let mut received = Vec::new();
        let mut buffer = [0; 65_536];
        let complete = |received: &[u8]| {
            let end = received.windows(4).position(|it| it == b"\r\n\r\n");
            end.is_some_and(|end| received.len() >= end + 4 + length)
        };
        while !complete(&received) {
            match std::io::Read::read(&mut stream, &mut buffer) {
                Ok(bytes) if bytes > 0 => received.extend_from_slice(&buffer[..bytes]),
                _ => return false,
            }
        }
        true
    });
    let guard = Setup::new(address).start();
    let reply = post(&guard, &format!("Content-Length: {length}"), &body);
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    assert!(reader.join().expect("no panic"), "the backend got all of it");
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).proxy("limits: { request_body: 64KiB }").start();
    let body = noise(65_537);
    let reply = post(&guard, "Content-Length: 65537", &body);
    assert_eq!(reply.status, 413);
    assert!(reply.text().contains("too large"));
    let chunked = post(&guard, "Transfer-Encoding: chunked", &chunks(&body, 1000));
    assert_eq!(chunked.status, 413);
    assert!(backend.seen().is_empty(), "no whole request has arrived");
    assert_eq!(post(&guard, "Content-Length: 65536", &body[..65_536]).status, 200);
}

#[test]
fn a_request_cut_short_never_looks_whole_to_the_backend() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    for (framing, part) in [
        ("Content-Length: 100", b"only this".as_slice()),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", b"zz\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut client = guard.client();
        let head = format!(
            "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n{framing}\r\n\r\n"
        );
        client.write(head.as_bytes());
        client.write(part);
        client.stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let answer = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    assert_eq!(backend.seen().len(), 1, "only the last one");
}

#[test]
fn large_answers_arrive_whole_in_every_framing() {
    let body = noise(5 << 20);
    let sized =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body]
            .concat();
    let chunked = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        &chunks(&body, 70_000),
    ]
    .concat();
    let closing = [b"HTTP/1.0 200 OK\r\n\r\n".as_slice(), &body].concat();
    let backend = Backend::start(move |seen| match seen.line().split(' ').nth(1) {
        Some("/scim/v2/sized") => Act::Answer(sized.clone()),
        Some("/scim/v2/chunked") => Act::Answer(chunked.clone()),
        _ => Act::Close(closing.clone()),
    });
    let guard = Setup::new(backend.address).start();
    let mut client = guard.client();
    for rest in ["/sized", "/chunked", "/closing", "/sized"] {
        let reply = client.get(rest, TOKEN);
        assert!(reply.status == 200 && reply.whole, "{rest}");
        assert!(reply.body == body, "{rest}: {} bytes", reply.body.len());
    }
    crate::guard::wait_for("the lines", || guard.access_lines().len() == 4);
    for line in guard.access_lines() {
        assert_eq!(line["outcome"], "allowed", "{line}");
        assert_eq!(line["bytes_out"], body.len());
    }
    let connections: Vec<_> = backend.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1], "kept until the backend closes");
}

#[test]
fn heads_over_the_limit_are_refused_and_others_are_not_harmed() {
    let backend = Backend::start(|_| ok("{}"));
    let guard = Setup::new(backend.address).start();
    let mut client = guard.client();
    let request = format!(
        "GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nX-Long: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let _ = std::io::Write::write_all(&mut client.stream, request.as_bytes());
    assert_eq!(client.reply(false).map(|reply| reply.status), Some(431));
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    crate::guard::wait_for("the count", || {
        guard.metric("scim_guard_http_rejects_total{cause=\"header_bytes\",face=\"proxy\"}") == 1.0
    });
}

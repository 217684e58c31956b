//! Peers that take their time.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use super::{Bed, HOST, bearer};
use crate::http::Client;

const LIMITS: &str = "limits: { header_timeout: 1s, body_idle_timeout: 1s, send_idle_timeout: 1s, request_time: 3s, idle_timeout: 2s }";

/// Writes a byte now and then, until told to stop or the other end is gone.
fn drip(client: &Client, bytes: Vec<u8>, pause: Duration) -> Arc<AtomicBool> {
    let mut stream = client.stream.try_clone().expect("a socket");
    let gone = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&gone);
    std::thread::spawn(move || {
        for byte in bytes {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::park_timeout(pause);
        }
        told.store(true, Ordering::Relaxed);
    });
    gone
}

#[test]
fn clients_that_take_their_time_are_ended_and_others_are_not() {
    let large = "x".repeat(8 << 20);
    let backend = Recorder::answering(move |message| {
        let answer =
            || format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len());
        message.line().contains("/Large").then(|| (answer().into_bytes(), false))
    });
    let mut bed = Bed::before(backend, |setup| setup.proxy(LIMITS));
    let post = |framing: &str| {
        format!("POST /scim/v2/Users HTTP/1.1\r\n{HOST}{}{framing}\r\n\r\n", bearer())
    };
    let get = format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{}\r\n", bearer());
    let often = Duration::from_millis(50);
    // What is said at once, what drips behind it, and the statuses that may come of it.
    let cases: [(String, String, &[u16]); 12] = [
        (String::new(), String::new(), &[]),
        ("G".to_owned(), String::new(), &[]),
        ("GET /scim/v2/Us".to_owned(), String::new(), &[]),
        (get[..get.len() - 2].to_owned(), String::new(), &[]),
        (String::new(), get.clone(), &[]),
        ("GET /scim/v2/Users HTTP/1.1\r\n".to_owned(), "X: y\r\n".repeat(100), &[]),
        (String::new(), "\r\n".repeat(200), &[]),
        (get.clone() + "GET /sc", String::new(), &[200]),
        (get.clone(), get.clone(), &[200]),
        (post("Content-Length: 100"), String::new(), &[408]),
        (post("Transfer-Encoding: chunked"), "1\r\nx\r\n".repeat(100), &[]),
        (post("Transfer-Encoding: chunked") + "5\r\nhel", String::new(), &[408]),
    ];
    let begun = Instant::now();
    let clients: Vec<_> = cases
        .iter()
        .map(|(now, later, _)| {
            let mut client = bed.guard.client();
            client.write(now.as_bytes());
            let gone = drip(&client, later.clone().into_bytes(), often);
            (client, gone)
        })
        .collect();
    for ((mut client, _), (now, later, statuses)) in clients.into_iter().zip(&cases) {
        let mut seen = Vec::new();
        while let Some(reply) = client.reply(false) {
            seen.push(reply.status);
        }
        assert_eq!(seen, *statuses, "{now:?} and then {later:.40?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let lines = bed.forwarded();
    assert!(lines.iter().all(|it| it.line() == "GET /scim/v2/Users HTTP/1.1"), "{lines:?}");
    assert_eq!(lines.len(), 2);

    // Who does not take an answer loses it; who takes it slowly gets all of it, in time.
    let mut stuck = bed.guard.client();
    stuck.write(get.replace("/Users", "/Large").as_bytes());
    let series = "scim_guard_http_rejects_total{cause=\"send_idle_timeout\",face=\"proxy\"}";
    crate::guard::wait_for("the end of the slow reader", || bed.guard.metric(series) >= 1.0);
    assert!(stuck.reply(false).is_none_or(|reply| !reply.whole));
    bed.forwarded();

    // An idle connection is closed without a word.
    let mut idle = bed.guard.client();
    assert_eq!(idle.get("/Users", crate::guard::TOKEN).status, 200);
    assert!(idle.reply(false).is_none());
    bed.forwarded();
    bed.end();
}

/// A slow client that keeps within its limits is served.
#[test]
fn a_request_that_comes_byte_by_byte_is_served() {
    let mut bed = Bed::start(|setup| setup);
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let whole = format!(
        "POST /scim/v2/Users?a=\"b\" HTTP/1.1\r\n{HOST}{}Transfer-Encoding: chunked\r\n\r\n{body}",
        bearer()
    );
    let mut client = bed.guard.client();
    for round in 0..3 {
        for byte in whole.as_bytes() {
            client.write(&[*byte]);
        }
        assert_eq!(client.reply(false).expect("an answer").status, 200, "round {round}");
    }
    let forwarded = bed.forwarded();
    assert_eq!(forwarded.len(), 3);
    for message in forwarded {
        assert_eq!(message.line(), "POST /scim/v2/Users?a=\"b\" HTTP/1.1");
        assert_eq!(message.body, b"abc");
    }
    bed.end();
}

#[test]
fn bodies_that_nobody_wants_take_no_memory() {
    let bed = Bed::start(|setup| setup);
    let body = "x".repeat(1 << 20);
    let head = format!(
        "POST /scim/v2/Users HTTP/1.1\r\n{HOST}Authorization: Bearer unknown\r\nContent-Length: {}\r\n\r\n",
        body.len() + 1
    );
    let clients = std::iter::repeat_with(|| {
        let mut client = bed.guard.client();
        client.write(head.as_bytes());
        client.write(body.as_bytes());
        client
    });
    let clients: Vec<_> = clients.take(250).collect();
    bed.end();
    drop(clients);
}

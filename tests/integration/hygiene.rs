//! Attacks and oddities, as data: what a client may send, what a backend may answer, and peers that
//! take their time, over HTTP/1.1 and HTTP/2. Each case says what the client sees and what has
//! reached the backend, whose raw bytes are read twice: as a strict server does and as a lenient
//! one. A good client runs beside them and must not notice.

mod answers;
mod recorder;
mod requests;
mod slow;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::guard::{Guard, Setup, TOKEN};
use crate::http::{Client, Reply};
use recorder::{Message, Recorder};

/// A guard before a recording backend, with a good client at work.
struct Bed {
    guard: Guard,
    backend: Recorder,
    good: Option<Good>,
    read: usize,
    /// Of the guard's memory at the start.
    bytes: f64,
}

impl Bed {
    fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        Self::before(Recorder::start(), setup)
    }

    fn before(backend: Recorder, setup: impl FnOnce(Setup) -> Setup) -> Self {
        // One worker, so that all share its connections to the backend.
        let guard = setup(Setup::new(backend.address).proxy("workers: 1")).start();
        let good = Some(Good::start(guard.proxy));
        let bytes = guard.metric(MEMORY);
        assert!(bytes > 0.0);
        Self { guard, backend, good, read: 0, bytes }
    }

    /// Sends these bytes on a connection of its own; all answers until it is closed.
    fn send(&self, bytes: &[u8]) -> Vec<Reply> {
        let mut client = self.guard.client();
        // What is refused early may be answered before all is sent.
        let _ = std::io::Write::write_all(&mut client.stream, bytes);
        let to_head = bytes.starts_with(b"HEAD ");
        let mut replies = Vec::new();
        while let Some(reply) = client.reply(to_head && replies.is_empty()) {
            replies.push(reply);
        }
        replies
    }

    /// What has reached the backend since the last time, without the good client's requests.
    fn forwarded(&mut self) -> Vec<Message> {
        let all = self.backend.messages();
        let new = all[self.read..].iter().filter(|it| !it.line().contains("/Good")).cloned();
        let new = new.collect();
        self.read = all.len();
        new
    }

    /// The good client has noticed nothing, and nothing else has reached the backend.
    fn end(mut self) {
        self.good.take().expect("running").end();
        let grown = self.guard.metric(MEMORY) - self.bytes;
        assert!(grown < GROWTH_MAX, "{grown} bytes more");
        assert!(self.forwarded().is_empty(), "something came late");
        self.backend.check();
        assert!(!self.guard.diagnostics().contains("panicked"), "{}", self.guard.diagnostics());
    }
}

const MEMORY: &str = "process_resident_memory_bytes";
const GROWTH_MAX: f64 = 96.0 * 1024.0 * 1024.0;

/// A client that asks one thing after another and looks at each answer.
struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Duration)>,
}

impl Good {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let rest = format!("/Good/{count}");
                let reply = client.get(&rest, TOKEN);
                let line = format!("GET /scim/v2{rest} HTTP/1.1");
                assert_eq!((reply.status, reply.text()), (200, line), "the good client noticed");
                slowest = slowest.max(begun.elapsed());
                count += 1;
                std::thread::park_timeout(Duration::from_millis(3));
            }
            (count, slowest)
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, slowest) = self.thread.join().expect("the good client noticed nothing");
        assert!(count > 0);
        // Generous: tests share their machine.
        assert!(slowest < Duration::from_secs(5), "it waited {slowest:?}");
    }
}

const HOST: &str = "Host: scim.test\r\n";

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

/// A request that asks for the end of the connection; behind an attack it shows how the connection
/// goes on.
fn probe() -> String {
    format!("GET /scim/v2/Probe HTTP/1.1\r\n{HOST}{}Connection: close\r\n\r\n", bearer())
}

fn is_scim_error(reply: &Reply) -> bool {
    reply.header("content-type") == Some("application/scim+json")
        && reply.header("x-request-id").is_some()
        && serde_json::from_slice::<serde_json::Value>(&reply.body)
            .is_ok_and(|body| body["status"].as_str() == Some(&reply.status.to_string()))
}

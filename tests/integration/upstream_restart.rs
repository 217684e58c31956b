//! A backend that restarts under a stream of requests, again and again, and refuses connections
//! for two seconds each time.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::read_request;
use crate::guard::{Setup, TOKEN, wait_for};
use crate::http::Client;
use crate::load::lock;
use crate::port::Reserved;

/// How a backend goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Serving,
    /// Answers what it has, and says that it closes.
    Graceful,
    /// Hangs up on everybody.
    Abrupt,
}

/// A backend that can be told to go, and comes back by itself.
struct Restarting {
    address: SocketAddr,
    end: AtomicU8,
    starts: AtomicUsize,
    /// How often each request has come.
    seen: Mutex<HashMap<String, usize>>,
    /// Holds the port while nobody listens.
    _port: Reserved,
}

impl Restarting {
    fn start() -> Arc<Self> {
        let port = Reserved::at(Ipv4Addr::LOCALHOST);
        let backend = Arc::new(Self {
            address: port.address,
            end: AtomicU8::new(End::Serving as u8),
            starts: AtomicUsize::new(0),
            seen: Mutex::default(),
            _port: port,
        });
        let running = Arc::clone(&backend);
        // It ends with the test's process.
        std::thread::spawn(move || running.run());
        let started = || backend.starts.load(Ordering::SeqCst) == 1;
        wait_for("the backend", started);
        backend
    }

    fn is(&self, end: End) -> bool {
        self.end.load(Ordering::SeqCst) == end as u8
    }

    fn restart(&self, end: End) {
        let starts = self.starts.load(Ordering::SeqCst);
        self.end.store(end as u8, Ordering::SeqCst);
        wait_for("the backend to come back", || self.starts.load(Ordering::SeqCst) > starts);
    }

    fn run(self: Arc<Self>) {
        loop {
            let listener = TcpListener::bind(self.address).expect("the port is ours");
            listener.set_nonblocking(true).expect("a socket");
            self.end.store(End::Serving as u8, Ordering::SeqCst);
            self.starts.fetch_add(1, Ordering::SeqCst);
            let mut streams = Vec::new();
            while self.is(End::Serving) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("a socket");
                        streams.push(stream.try_clone().expect("a socket"));
                        let backend = Arc::clone(&self);
                        std::thread::spawn(move || backend.serve(stream));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                    Err(error) => panic!("cannot accept: {error}"),
                }
            }
            drop(listener);
            let down = Instant::now();
            if self.is(End::Abrupt) {
                streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            }
            while down.elapsed() < DOWN {
                std::thread::park_timeout(DOWN);
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut received = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut received, 0) {
            let id = request.headers("x-request-id")[0].to_owned();
            *lock(&self.seen).entry(id).or_default() += 1;
            // Long enough for an abrupt end to meet some requests on the way.
            std::thread::park_timeout(Duration::from_millis(2));
            let closes = self.is(End::Graceful);
            let close = if closes { "Connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 2\r\n\r\n{{}}");
            if stream.write_all(answer.as_bytes()).is_err() || closes {
                return;
            }
        }
    }
}

const DOWN: Duration = Duration::from_secs(2);

/// What became of a request.
struct Fate {
    method: &'static str,
    id: String,
    status: u16,
}

#[test]
fn a_backend_that_restarts_under_load_fails_only_what_it_may_have_done() {
    let backend = Restarting::start();
    let guard = Setup::new(backend.address).start();
    let (over, fates) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for method in ["GET", "POST", "PATCH"].into_iter().cycle().take(9) {
            let (over, fates, guard) = (&over, &fates, &guard);
            scope.spawn(move || {
                let mut client = guard.client();
                while !over.load(Ordering::Relaxed) {
                    let fate = ask(&mut client, method);
                    lock(fates).push(fate);
                }
            });
        }
        let mut mark = 0;
        let mut more = || {
            let count = || lock(&fates).len();
            wait_for("requests", || count() > mark + 200);
            mark = count();
        };
        for end in [End::Graceful, End::Abrupt, End::Graceful, End::Abrupt] {
            more();
            let before = lock(&fates).len();
            backend.restart(end);
            more();
            if end == End::Graceful {
                let (fates, seen) = (lock(&fates), lock(&backend.seen));
                let failed = fates[before..].iter().filter(|fate| fate.status != 200);
                // What waits in a listener's queue is lost with it, and the backend knows nothing
                // of it; nor can we know that.
                let told = failed.filter(|fate| seen.contains_key(&fate.id)).count();
                assert_eq!(told, 0, "the backend failed none");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let seen = lock(&backend.seen);
    let fates = fates.into_inner().expect("not poisoned");
    for Fate { method, id, status } in &fates {
        let times = seen.get(id).copied().unwrap_or_default();
        match (*method, *status) {
            ("GET", 200) => assert!((1..=2).contains(&times), "{id}: sent {times} times"),
            (_, 200) => assert_eq!(times, 1, "{id}"),
            // It may have been done, so nobody does it again.
            ("POST" | "PATCH", 502) => assert!(times <= 1, "{id}: sent {times} times"),
            // A new connection that waited in the queue of a listener which went away.
            ("GET", 502) => assert_eq!(times, 0, "{id}"),
            _ => panic!("{method} {id}: {status}"),
        }
    }
    assert!(fates.iter().any(|fate| fate.status == 502), "the end was not abrupt enough");
}

fn ask(client: &mut Client, method: &'static str) -> Fate {
    let id = format!("{method}-{:016x}", fastrand::u64(..));
    let body = if method == "GET" { "" } else { "Content-Length: 2\r\n\r\n{}" };
    let end = if method == "GET" { "\r\n" } else { "" };
    let reply = client.send(&format!(
        "{method} /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\
         X-Request-Id: {id}\r\n{body}{end}"
    ));
    if reply.status != 200 {
        assert_eq!(reply.header("content-type"), Some("application/scim+json"));
        assert_eq!(reply.json()["status"], reply.status.to_string());
    }
    Fate { method, id, status: reply.status }
}

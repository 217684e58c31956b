//! The proxy between a client and a backend, all on one thread and without a wait: real sockets
//! that are never connected to anything outside, the real server, gate and client. Nothing here
//! depends on time, so the same bytes always lead the same way.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::LocalRuntime;
use tokio::task::yield_now;

use super::strict::{Fault, Message};
use crate::authority::Authority;
use crate::authority::files::Follower;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, LogFormat};
use crate::credential::TokenDigest;
use crate::proxy::{Proxy, Settings, Shared};
use crate::server::fuzzing::Worker;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;

pub struct Bed {
    worker: Worker<Proxy>,
    log: Rc<RefCell<Log>>,
    runtime: LocalRuntime,
    _folder: tempfile::TempDir,
}

/// What came of a connection.
pub struct Exchange {
    /// All that the client has received.
    pub answers: Vec<u8>,
    /// What has reached the backend, in the order of its ends.
    pub received: Vec<Received>,
}

/// A request at the backend.
pub struct Received {
    pub bytes: Vec<u8>,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Whole,
    /// The connection was closed within it.
    Half,
    /// No strict server would have read it.
    Malformed(&'static str),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} \"{}\"", self.end, self.bytes.escape_ascii())
    }
}

/// What the backend says to one of the requests. The others are answered by their number.
pub struct Script {
    /// Which one, counted from 0.
    pub number: usize,
    pub answer: Vec<u8>,
    pub pieces: usize,
    /// Whether it closes the connection behind that.
    pub closes: bool,
}

#[derive(Default)]
struct Log {
    received: Vec<Received>,
    script: Option<Script>,
    /// Connections on which the front of a request has come.
    halves: usize,
}

/// Token, tenant and id.
pub const LIVE: [(&str, &str, &str); 2] = [("one", "z-one", "c-1"), ("two", "z-two", "c-2")];
/// Of the same tenants, and of no use.
const DEAD: [(&str, &str, &str, &str); 2] = [
    ("off", "z-one", "c-3", "status: Disabled, expire_time: 2099-01-01T00:00:00Z"),
    ("old", "z-two", "c-4", "expire_time: 2001-01-01T00:00:00Z"),
];

pub const SECRET: &str = "Basic b3Vycw==";
/// A peer that may say where a request comes from, and one that may not.
pub const PEERS: [&str; 2] = ["192.0.2.7:4000", "127.0.0.1:4000"];

const CONFIG: &str = "
proxy:
  listeners: [{ address: '127.0.0.1:0' }]
  trusted_proxies: [127.0.0.0/8]
  limits: { header_bytes: 8KiB, request_body: 16KiB }
  routes:
    - { tenant: z-one, path: /scim/v2, open: [Schemas], upstream: { url: 'unix:backend:/scim/v2' } }
    - { tenant: z-one, path: /keep, bare_token: true, upstream: { url: 'unix:backend', authorization: keep } }
    - { tenant: z-two, path: /file, host: b.test, upstream: { url: 'unix:backend:/a/b', authorization: file:secret, host: backend.test } }
    - { tenant: '*', path: '/t/{tenant}/scim', open: [Schemas], upstream: { url: 'unix:backend:/{tenant}' } }
credentials: { source: file, file: { path: credentials.yaml } }
log: { access: false }
";

impl Bed {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let live = LIVE.map(|(token, tenant, id)| row(token, tenant, id, LASTING));
        let dead = DEAD.map(|(token, tenant, id, keys)| row(token, tenant, id, keys));
        let write = |name, text: &str| std::fs::write(folder.path().join(name), text);
        write("credentials.yaml", &[live.concat(), dead.concat()].concat()).expect("written");
        write("secret", SECRET).expect("written");
        let config = Config::parse(CONFIG, folder.path()).expect("valid");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime can be built");
        let log = Rc::new(RefCell::new(Log::default()));
        let worker = worker(&config);
        let (socket, shared) = (folder.path().join("backend"), Rc::clone(&log));
        runtime.block_on(async {
            let listener = UnixListener::bind(socket).expect("a socket");
            tokio::task::spawn_local(accept(listener, shared));
        });
        Self { worker, log, runtime, _folder: folder }
    }

    /// Sends these pieces one after the other over a connection of its own, and nothing more.
    pub fn exchange<'a>(
        &self,
        pieces: impl Iterator<Item = &'a [u8]>,
        peer: &str,
        script: Option<Script>,
    ) -> Exchange {
        *self.log.borrow_mut() = Log { script, ..Log::default() };
        let peer: SocketAddr = peer.parse().expect("an address");
        self.runtime.block_on(async {
            let (ours, theirs) = Socket::pair().expect("a pair of sockets");
            ours.set_nonblocking(true).expect("a socket");
            theirs.set_nonblocking(true).expect("a socket");
            // To all who only read and write, one stream is as good as another.
            let served = self.worker.serve(OwnedFd::from(theirs).into(), peer);
            let client = client(UnixStream::from_std(ours).expect("within a runtime"), pieces);
            let both = async { tokio::join!(served, client).1 };
            let answers = tokio::time::timeout(PATIENCE, both).await.expect("it does not hang");
            for _ in 0..TURNS {
                yield_now().await;
            }
            let received = std::mem::take(&mut self.log.borrow_mut().received);
            assert_eq!(self.log.borrow().halves, 0, "half a request waits on an open connection");
            Exchange { answers, received }
        })
    }
}

const LASTING: &str = "expire_time: 2099-01-01T00:00:00Z";
const PATIENCE: Duration = Duration::from_secs(10);
/// Turns of the loop after which whatever was on its way has arrived.
const TURNS: usize = 5;
/// And those after which nobody will say anything more.
const TURNS_SILENT: usize = 30;

fn row(token: &str, tenant: &str, id: &str, keys: &str) -> String {
    let digest = TokenDigest::of(token.as_bytes());
    format!("- {{ credential_id: {id}, tenant: {tenant}, digest: '{digest}', {keys} }}\n")
}

fn worker(config: &Config) -> Worker<Proxy> {
    let metrics = Arc::new(Metrics::new());
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let authority = Authority::new(&config.credentials, Arc::clone(&metrics));
    let seat = authority.seat();
    let files = Follower::start(&config.credentials, authority, clock.clone(), Arc::new(|| ()));
    files.expect("no deny file").poll();
    let proxy = config.proxy.as_ref().expect("it has one");
    let settings = Settings::new(proxy, &config.log).expect("its files are there");
    let settings = ArcSwap::from_pointee(settings);
    let (log, _) = AccessLog::start(std::io::sink(), LogFormat::Json, Arc::clone(&metrics));
    let shared = Arc::new(Shared { settings, clock, metrics: Arc::clone(&metrics) });
    let make = move |timers: &_| Proxy::new(shared, seat, log.buffer(), None, timers);
    Worker::new(proxy.limits.clone(), metrics, make)
}

/// It says that it sends no more once nothing comes any longer: the answer to a client that hangs
/// up at once is not for anybody.
async fn client<'a>(mut stream: UnixStream, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut read, mut write) = stream.split();
    let silent = Cell::new(0);
    let send = async {
        for piece in pieces {
            // Who has refused reads no more.
            if write.write_all(piece).await.is_err() {
                return;
            }
            yield_now().await;
        }
        silent.set(0);
        while silent.get() < TURNS_SILENT {
            silent.set(silent.get() + 1);
            yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let receive = async {
        let mut answers = Vec::new();
        while matches!(read.read_buf(&mut answers).await, Ok(bytes) if bytes > 0) {
            silent.set(0);
        }
        silent.set(TURNS_SILENT);
        answers
    };
    tokio::join!(send, receive).1
}

async fn accept(listener: UnixListener, log: Rc<RefCell<Log>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("descriptors are not used up");
        tokio::task::spawn_local(answer_all(stream, Rc::clone(&log)));
    }
}

/// Reads requests one by one and answers them, as a strict server does.
async fn answer_all(mut stream: UnixStream, log: Rc<RefCell<Log>>) {
    let mut buffer = Vec::new();
    let mut waits = false;
    loop {
        let size = match Message::request(&buffer) {
            Ok(message) if message.whole => Some(message.size),
            Ok(_) | Err(Fault::Incomplete) => None,
            Err(Fault::Malformed(what)) => {
                let end = End::Malformed(what);
                log.borrow_mut().received.push(Received { bytes: buffer, end });
                return;
            }
        };
        let Some(size) = size else {
            let half = usize::from(!buffer.is_empty());
            log.borrow_mut().halves += half;
            let read = read(&mut stream, &mut buffer, waits).await;
            let mut log = log.borrow_mut();
            log.halves -= half;
            if read == 0 {
                if half > 0 {
                    log.received.push(Received { bytes: buffer, end: End::Half });
                }
                return;
            }
            continue;
        };
        let bytes: Vec<u8> = buffer.drain(..size).collect();
        let answer = log.borrow_mut().answer(bytes);
        let size = answer.bytes.len().div_ceil(answer.pieces).max(1);
        for (number, piece) in answer.bytes.chunks(size).enumerate() {
            if number > 0 {
                yield_now().await;
            }
            if stream.write_all(piece).await.is_err() {
                return;
            }
        }
        waits = answer.ends == Some(false);
        if answer.ends == Some(true) {
            let _ = stream.shutdown().await;
        }
    }
}

/// Reads what comes next; 0 at the end. Who `waits` for something that does not come closes the
/// connection, or a proxy that waits for more of an answer would wait for ever.
async fn read(stream: &mut UnixStream, buffer: &mut Vec<u8>, waits: bool) -> usize {
    if waits {
        let patience = async {
            for _ in 0..TURNS_WAITED {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            read = stream.read_buf(buffer) => return read.unwrap_or(0),
            () = patience => drop(stream.shutdown().await),
        }
    }
    stream.read_buf(buffer).await.unwrap_or(0)
}

const TURNS_WAITED: usize = 12;

impl Log {
    fn answer(&mut self, bytes: Vec<u8>) -> Answer {
        let number = self.received.len();
        self.received.push(Received { bytes, end: End::Whole });
        match &self.script {
            Some(script) if script.number == number => Answer {
                bytes: script.answer.clone(),
                pieces: script.pieces,
                ends: Some(script.closes),
            },
            script => {
                // Connections do not outlive a script.
                let is_over = script.as_ref().is_some_and(|script| script.number < number);
                let close = if is_over { "Connection: close\r\n" } else { "" };
                let head = format!("HTTP/1.1 200 OK\r\n{NUMBER}: {number}\r\n{close}");
                let bytes = (head + "Content-Length: 0\r\n\r\n").into_bytes();
                Answer { bytes, pieces: 1, ends: None }
            }
        }
    }
}

struct Answer {
    bytes: Vec<u8>,
    pieces: usize,
    /// For what the script says, whether the connection is closed behind it.
    ends: Option<bool>,
}

/// The field by which an answer of the backend tells which of its requests it is for.
pub const NUMBER: &str = "x-number";

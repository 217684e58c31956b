//! A backend that keeps what it was sent, byte for byte, and answers what the test says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::guard::PATIENCE;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    /// Which connection it came by, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// What to do with a request.
pub enum Act {
    Answer(Vec<u8>),
    /// Answers and closes the connection.
    Close(Vec<u8>),
    /// Reads on and never answers.
    Silence,
}

pub fn ok(body: &str) -> Act {
    let length = body.len();
    Act::Answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
}

#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    closed: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Backend {
    pub fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), act)
    }

    /// Answers every request with 200 and `{}`.
    pub fn friendly() -> Self {
        Self::start(|_| ok("{}"))
    }

    pub fn on(listener: TcpListener, act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("bound");
        let backend =
            Self { address, seen: Arc::default(), closed: Arc::default(), stopped: Arc::default() };
        let (seen, act) = (Arc::clone(&backend.seen), Arc::new(act));
        let closed = Arc::clone(&backend.closed);
        // It ends with the test's process.
        let stopped = Arc::clone(&backend.stopped);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, act) = (Arc::clone(&seen), Arc::clone(&act));
                let closed = Arc::clone(&closed);
                let Ok(stream) = stream else { return };
                std::thread::spawn(move || {
                    serve(stream, connection, &seen, &*act);
                    closed.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        backend
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    /// Gives its port back.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        crate::guard::wait_for("the port", || TcpListener::bind(self.address).is_ok());
    }

    /// How many connections it has closed.
    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }

    /// The only request so far.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    act: &(dyn Fn(&Seen) -> Act + Send + Sync),
) {
    let _ = stream.set_read_timeout(Some(3 * PATIENCE));
    let mut received = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut received, connection) {
        seen.lock().expect("not poisoned").push(request.clone());
        match act(&request) {
            Act::Answer(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Act::Close(bytes) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            Act::Silence => {}
        }
    }
}

/// A whole request, or `None` at the end.
pub fn read_request(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    connection: usize,
) -> Option<Seen> {
    let end = loop {
        match received.windows(4).position(|it| it == b"\r\n\r\n") {
            Some(end) => break end,
            None => more(stream, received)?,
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    received.drain(..end + 4);
    let mut seen = Seen { head, body: Vec::new(), connection };
    if seen.headers("transfer-encoding").is_empty() {
        let length =
            seen.headers("content-length").first().map_or(0, |it| it.parse().expect("digits"));
        while received.len() < length {
            more(stream, received)?;
        }
        seen.body = received.drain(..length).collect();
        return Some(seen);
    }
    loop {
        let line_end = loop {
            match received.windows(2).position(|it| it == b"\r\n") {
                Some(end) => break end,
                None => more(stream, received)?,
            }
        };
        let size = String::from_utf8_lossy(&received[..line_end]).into_owned();
        let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
        while received.len() < line_end + 2 + size + 2 {
            more(stream, received)?;
        }
        seen.body.extend_from_slice(&received[line_end + 2..line_end + 2 + size]);
        received.drain(..line_end + 2 + size + 2);
        if size == 0 {
            return Some(seen);
        }
    }
}

fn more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 65_536];
    match stream.read(&mut buffer) {
        Ok(0) | Err(_) => None,
        Ok(bytes) => {
            received.extend_from_slice(&buffer[..bytes]);
            Some(())
        }
    }
}

//! Connections to backends: one worker's, kept for the next request while they are surely sound.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::RecvFlags;
use tokio::net::{TcpStream, lookup_host};

use crate::config::value::UpstreamUrl;

/// One worker's pools, by the backend's number.
pub type Pools = HashMap<u64, Pool>;

/// One worker's connections to one backend that wait for their next request.
#[derive(Default)]
pub struct Pool {
    idle: Vec<Idle>,
}

struct Idle {
    connection: Connection,
    /// In the milliseconds of the worker's timers.
    until: u64,
}

impl Pool {
    /// The connection used last, which is the likeliest to be alive. One that the backend has
    /// closed, or on which it said something unasked, is passed over: nothing may be lost on it,
    /// and no answer be taken for another.
    pub fn take(&mut self, now: u64) -> Option<Connection> {
        while let Some(idle) = self.idle.pop() {
            if idle.until > now && idle.connection.is_quiet() {
                return Some(idle.connection);
            }
        }
        None
    }

    pub fn put(&mut self, mut connection: Connection, now: u64) {
        if self.idle.len() < IDLE_CONNECTIONS_MAX {
            connection.reused = true;
            let until = now + connection.keep_alive.as_millis() as u64;
            self.idle.push(Idle { connection, until });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Closes those that have waited long enough.
    pub fn sweep(&mut self, now: u64) {
        self.idle.retain(|idle| idle.until > now);
    }
}

const IDLE_CONNECTIONS_MAX: usize = 256;
/// Shorter than what Node (5 s) and uvicorn (5 s) wait before they close.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// The addresses of a backend.
pub async fn resolve(url: &UpstreamUrl) -> io::Result<Vec<SocketAddr>> {
    match url.host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, url.port)]),
        Err(_) => Ok(lookup_host((url.host.as_str(), url.port)).await?.collect()),
    }
}

/// A connection to a backend, between two requests or within one.
pub struct Connection {
    pub stream: TcpStream,
    /// What has arrived and was not taken yet.
    pub received: BytesMut,
    pub reused: bool,
    /// How long the backend leaves it open between two requests.
    pub keep_alive: Duration,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: BytesMut::new(), reused: false, keep_alive: KEEP_ALIVE })
    }

    /// Whether the backend has said nothing and not hung up, as far as has arrived here.
    fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let peeked =
            rustix::net::recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.received.is_empty() && matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Reads what has come, with this much room for it; 0 at the end.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        if self.received.capacity() - self.received.len() < room / 2 {
            self.received.reserve(room);
        }
        let stream = Pin::new(&mut self.stream);
        tokio_util::io::poll_read_buf(stream, context, &mut self.received)
    }
}

//! Gets a request its connection to the backend: one that is kept, a new one, or the wait for
//! either. Nothing has been sent meanwhile, so waiting is safe, and saves the request of a client
//! that may not try again.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::Local;
use super::backend::{Secured, Upstream};
use super::balance::{Address, Peer};
use super::pool::{Connection, Pool, Slot, Turn};
use super::socket::Socket;
use crate::clock::Uptime;
use crate::server;
use crate::server::timer::{Elapsed, Timer};

/// A request in want of a connection.
pub struct Connecting<'a> {
    pub local: &'a Local,
    pub upstream: &'a Upstream,
    pub pool: &'a Rc<Pool>,
    pub timer: &'a Timer,
    /// Since when it has waited.
    pub begun: Uptime,
}

/// There is no connection to be had, and why not.
pub struct Unreachable(pub String);

impl Connecting<'_> {
    /// A `fresh` one is not taken from those that are kept.
    pub async fn connect(&self, fresh: bool) -> Result<Connection, Unreachable> {
        let mut tried = Vec::new();
        let mut why = String::new();
        let mut pause = PAUSE_MIN;
        // Who has waited goes before those who come now.
        let mut has_waited = false;
        loop {
            self.pool.look_up(&self.local.timers);
            let turn = match self.pool.is_awaited() && !has_waited {
                true => Turn::Full,
                false => self.turn(&tried, fresh),
            };
            has_waited = false;
            match turn {
                Turn::Use(connection) => return Ok(connection),
                Turn::Open(peer, slot) => match self.open(&peer, slot).await {
                    Ok(connection) => {
                        if self.pool.connected(&peer) {
                            let url = &self.upstream.label;
                            tracing::info!(url, "{} can be reached again", peer.address);
                        }
                        return Ok(connection);
                    }
                    Err(what) => {
                        tried.push(peer.number);
                        why = format!("{}: {what}", peer.address);
                        if self.pool.failed(&peer, self.local.timers.coarse_millis()) {
                            tracing::warn!(url = self.upstream.label, "cannot connect to {why}");
                        }
                    }
                },
                Turn::Full => {
                    let freed = self.timer.limit(self.patience(), self.pool.freed());
                    if freed.await == Err(Elapsed) {
                        let most = self.upstream.config.connections;
                        return Err(Unreachable(format!("all of its {most} connections are busy")));
                    }
                    has_waited = true;
                }
                Turn::Exhausted => {
                    // What became free may be of use to the next one who waits.
                    self.pool.pass_on();
                    if tried.is_empty() {
                        let limit = self.upstream.config.connect_timeout.0;
                        why = match self.timer.limit(limit, self.pool.known()).await {
                            Ok(None) => continue,
                            Ok(Some(fault)) => fault,
                            Err(Elapsed) => "its name was not resolved in time".to_owned(),
                        };
                    }
                    let left = self.patience();
                    if left.is_zero() {
                        return Err(Unreachable(why));
                    }
                    self.timer.pause(pause.min(left)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    tried.clear();
                }
            }
        }
    }

    fn turn(&self, tried: &[u32], fresh: bool) -> Turn {
        let generation = self.upstream.tls.as_ref().map_or(0, Secured::generation);
        self.pool.turn(tried, fresh, generation, self.local.timers.coarse_millis())
    }

    /// How much longer it may wait.
    fn patience(&self) -> Duration {
        let waited = self.local.recorder.clock.uptime().since(self.begun);
        self.upstream.config.connect_wait.0.saturating_sub(waited)
    }

    async fn open(&self, peer: &Peer, slot: Slot) -> Result<Connection, String> {
        let limit = self.upstream.config.connect_timeout.0;
        // Its state is large, with TLS's within, and those that find a connection should not carry it.
        let opened = Box::pin(open(self.upstream, peer, slot));
        let opened = self.timer.limit(limit, opened).await;
        match opened {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(Elapsed) => Err("no answer within connect_timeout".to_owned()),
        }
    }
}

async fn open(upstream: &Upstream, peer: &Peer, slot: Slot) -> std::io::Result<Connection> {
    let address = match &peer.address {
        Address::Tcp(address) => *address,
        Address::Unix(path) => {
            let plain = server::Socket::Right(UnixStream::connect(path).await?);
            return Ok(Connection::new(Socket::Left(plain), peer, 0, slot));
        }
    };
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let plain = server::Socket::Left(stream);
    let Some(secured) = &upstream.tls else {
        return Ok(Connection::new(Socket::Left(plain), peer, 0, slot));
    };
    let material = secured.tls.current().clone();
    let connector = TlsConnector::from(material.client.clone());
    let stream = connector.connect(secured.names[peer.server].clone(), plain).await?;
    Ok(Connection::new(Socket::Right(Box::new(stream)), peer, material.generation, slot))
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

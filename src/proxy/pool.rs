//! Connections to an upstream: one worker's, as many as there may be, kept for the next request
//! while they are surely sound.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::lookup_host;
use tokio::sync::Notify;

use super::backend::{Server, Upstream};
use super::balance::{Address, Balance, Peer};
use super::name::Lookups;
use super::socket::{self, Socket};
use crate::server::timer::Timers;

/// One worker's pools, by the upstream's number.
pub type Pools = BTreeMap<u64, Rc<Pool>>;

/// One worker's connections to one upstream, and what it knows of the way there.
pub struct Pool {
    state: RefCell<State>,
    names: Vec<Name>,
    slots: Rc<Slots>,
    /// When a request came last, in the milliseconds of the worker's timers.
    used: Cell<u64>,
}

struct State {
    balance: Balance,
    /// Those used last stand last.
    idle: Vec<Idle>,
}

struct Idle {
    connection: Connection,
    until: u64,
}

/// A server whose addresses are to be found.
struct Name {
    server: usize,
    host: String,
    port: u16,
    lookups: RefCell<Lookups>,
    /// Why nothing was found.
    fault: RefCell<Option<String>>,
    answered: Notify,
}

/// What a request is to do next.
pub enum Turn {
    Use(Connection),
    Open(Peer, Slot),
    /// Wait for a connection to become free.
    Full,
    /// There is no address that it has not tried.
    Exhausted,
}

impl Pool {
    pub fn new(upstream: &Upstream) -> Self {
        let mut balance = Balance::default();
        let mut names = Vec::new();
        for (index, server) in upstream.servers.iter().enumerate() {
            match server {
                Server::At(address) => balance.learn(index, std::slice::from_ref(address)),
                Server::Named(host, port) => names.push(Name {
                    server: index,
                    host: host.clone(),
                    port: *port,
                    lookups: RefCell::default(),
                    fault: RefCell::default(),
                    answered: Notify::new(),
                }),
            }
        }
        let state = RefCell::new(State { balance, idle: Vec::new() });
        Self { state, names, slots: Slots::new(upstream.config.connections), used: Cell::new(0) }
    }

    /// What a request does that has `tried` these in vain. It uses no kept connection if it needs
    /// a `fresh` one, and none of another `generation`.
    pub fn turn(&self, tried: &[u32], fresh: bool, generation: u64, now: u64) -> Turn {
        self.used.set(now);
        let mut state = self.state.borrow_mut();
        let State { balance, idle } = &mut *state;
        let Some(number) = balance.turn(tried, now) else { return Turn::Exhausted };
        if fresh {
            if self.slots.is_full() {
                idle.clear();
            }
        } else if let Some(connection) = take(idle, Some(number), generation, now) {
            return Turn::Use(connection);
        }
        let mut slot = Slot::take(&self.slots);
        if slot.is_none() {
            // One to another server is as good; those that are of no use give up their places.
            if let Some(connection) = take(idle, None, generation, now) {
                return Turn::Use(connection);
            }
            slot = Slot::take(&self.slots);
        }
        let Some(slot) = slot else { return Turn::Full };
        balance.connecting(number, now);
        let peer = balance.peer(number).expect("it is its turn");
        Turn::Open(peer.clone(), slot)
    }

    /// Takes a connection back for the next request.
    pub fn put(&self, mut connection: Connection, now: u64) {
        let mut state = self.state.borrow_mut();
        if state.balance.knows(connection.peer) && state.idle.len() < IDLE_CONNECTIONS_MAX {
            connection.reused = true;
            let until = now + connection.keep_alive.as_millis() as u64;
            state.idle.push(Idle { connection, until });
            self.slots.wake_one();
        }
    }

    /// Whether that is news.
    pub fn connected(&self, peer: &Peer) -> bool {
        self.state.borrow_mut().balance.connected(peer.number)
    }

    /// It will be passed over for a while, and its name looked up again. Whether that is news.
    pub fn failed(&self, peer: &Peer, now: u64) -> bool {
        let named = self.names.iter().filter(|name| name.server == peer.server);
        named.for_each(|name| name.lookups.borrow_mut().doubt());
        self.state.borrow_mut().balance.failed(peer.number, now)
    }

    /// Has names looked up whose time has come. What is known of them is used meanwhile.
    pub fn look_up(self: &Rc<Self>, timers: &Timers) {
        for (index, name) in self.names.iter().enumerate() {
            if name.lookups.borrow_mut().begin(timers.coarse_millis()) {
                let (pool, timers) = (Rc::clone(self), timers.clone());
                // It goes on whatever becomes of the request: others wait for it too.
                tokio::task::spawn_local(async move {
                    let name = &pool.names[index];
                    let found = lookup_host((name.host.as_str(), name.port)).await;
                    pool.answered(name, found.map(Iterator::collect), timers.coarse_millis());
                });
            }
        }
    }

    fn answered(&self, name: &Name, found: io::Result<Vec<SocketAddr>>, now: u64) {
        let mut lookups = name.lookups.borrow_mut();
        let fault = match found {
            Ok(found) if !found.is_empty() => {
                lookups.succeeded(now);
                let addresses: Vec<_> = found.into_iter().map(Address::Tcp).collect();
                self.learn(name.server, &addresses);
                None
            }
            failed => {
                if lookups.failed(now) {
                    self.learn(name.server, &[]);
                }
                let why = failed.err().map(|error| error.to_string());
                Some(format!("{}: {}", name.host, why.as_deref().unwrap_or("has no address")))
            }
        };
        name.fault.replace(fault);
        name.answered.notify_waiters();
    }

    fn learn(&self, server: usize, addresses: &[Address]) {
        let State { balance, idle } = &mut *self.state.borrow_mut();
        balance.learn(server, addresses);
        idle.retain(|idle| balance.knows(idle.connection.peer));
    }

    /// Waits until something is known of where to go, if nothing is. Why nothing is.
    pub async fn known(&self) -> Option<String> {
        for name in &self.names {
            let nowhere = self.state.borrow().balance.is_empty();
            let under_way = name.lookups.borrow().is_under_way();
            if nowhere && under_way {
                name.answered.notified().await;
            }
        }
        let nowhere = self.state.borrow().balance.is_empty();
        let fault = || self.names.iter().find_map(|name| name.fault.borrow().clone());
        nowhere.then(|| fault().unwrap_or_else(|| "its name is not looked up yet".to_owned()))
    }

    /// Whether others wait for a connection, who go first.
    pub fn is_awaited(&self) -> bool {
        self.slots.waiting.get() > 0
    }

    /// Waits for a connection or a place for one to become free.
    pub async fn freed(&self) {
        let slots = &*self.slots;
        slots.waiting.set(slots.waiting.get() + 1);
        let _waits = Waits(slots);
        slots.freed.notified().await;
    }

    /// Somebody was told that a place is free, and has no use for it.
    pub fn pass_on(&self) {
        self.slots.wake_one();
    }

    /// Closes those that have waited long enough. Whether there is anything to keep.
    pub fn sweep(&self, now: u64) -> bool {
        self.state.borrow_mut().idle.retain(|idle| idle.until > now);
        self.slots.open.get() > 0 || self.used.get() + KEPT > now
    }
}

/// The connection used last, which is the likeliest to be alive. One that the backend has closed,
/// or on which it said something unasked, is passed over: nothing may be lost on it, and no answer
/// be taken for another.
fn take(idle: &mut Vec<Idle>, peer: Option<u32>, generation: u64, now: u64) -> Option<Connection> {
    let fits = |idle: &Idle| peer.is_none_or(|peer| idle.connection.peer == peer);
    while let Some(place) = idle.iter().rposition(fits) {
        let Idle { mut connection, until } = idle.remove(place);
        if until > now && connection.generation == generation && connection.is_quiet() {
            return Some(connection);
        }
    }
    None
}

const IDLE_CONNECTIONS_MAX: usize = 256;
/// How long is remembered where an upstream is that nobody asks for, in milliseconds.
const KEPT: u64 = 5 * 60 * 1000;

/// How many connections there may be.
struct Slots {
    most: usize,
    open: Cell<usize>,
    waiting: Cell<usize>,
    freed: Notify,
}

impl Slots {
    fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, open: Cell::new(0), waiting: Cell::new(0), freed: Notify::new() })
    }

    fn is_full(&self) -> bool {
        self.open.get() >= self.most
    }

    fn wake_one(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

/// A connection's place among those allowed; given back when dropped.
pub struct Slot(Rc<Slots>);

impl Slot {
    fn take(slots: &Rc<Slots>) -> Option<Self> {
        if slots.is_full() {
            return None;
        }
        slots.open.set(slots.open.get() + 1);
        Some(Self(Rc::clone(slots)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.wake_one();
    }
}

struct Waits<'a>(&'a Slots);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// A connection to a backend, between two requests or within one.
pub struct Connection {
    pub socket: Socket,
    /// What has arrived and was not taken yet.
    pub received: BytesMut,
    pub reused: bool,
    /// How long the backend leaves it open between two requests.
    pub keep_alive: Duration,
    /// By which files it was secured; 0 without TLS.
    generation: u64,
    peer: u32,
    _slot: Slot,
}

impl Connection {
    pub fn new(socket: Socket, peer: &Peer, generation: u64, slot: Slot) -> Self {
        let (received, keep_alive) = (BytesMut::new(), KEEP_ALIVE);
        let peer = peer.number;
        Self { socket, received, reused: false, keep_alive, generation, peer, _slot: slot }
    }

    fn is_quiet(&mut self) -> bool {
        self.received.is_empty() && socket::is_quiet(&mut self.socket)
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
        let socket = Pin::new(&mut self.socket);
        tokio_util::io::poll_read_buf(socket, context, &mut self.received)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        socket::farewell(&mut self.socket);
    }
}

/// Shorter than what Node (5 s) and uvicorn (5 s) wait before they close.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(keys: &str) -> Pool {
        let config = serde_saphyr::from_str(&format!("{{ {keys} }}")).expect("valid");
        Pool::new(&Upstream::new(&config, "upstream").expect("no files"))
    }

    /// The place of a connection that may be opened.
    fn open(pool: &Pool, tried: &[u32]) -> Option<Slot> {
        match pool.turn(tried, false, 0, 1) {
            Turn::Open(_, slot) => Some(slot),
            Turn::Full => None,
            Turn::Use(_) => panic!("none is kept"),
            Turn::Exhausted => panic!("all were tried"),
        }
    }

    #[test]
    fn there_are_as_many_connections_as_there_may_be() {
        let pool = pool("urls: ['http://127.0.0.1:1/', 'http://127.0.0.1:2/'], connections: 2");
        let (first, second) = (open(&pool, &[]), open(&pool, &[]));
        assert!(first.is_some() && second.is_some() && open(&pool, &[]).is_none());
        drop(first);
        let third = open(&pool, &[1]);
        assert!(third.is_some() && open(&pool, &[]).is_none());
        assert!(matches!(pool.turn(&[1, 2], false, 0, 1), Turn::Exhausted));
    }

    #[test]
    fn who_waits_is_woken_by_the_place_that_becomes_free() {
        let pool = pool("url: 'http://127.0.0.1:1/', connections: 1");
        let slot = open(&pool, &[]);
        let mut waiting = Box::pin(pool.freed());
        let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(poll().is_pending() && pool.is_awaited());
        drop(slot);
        assert!(poll().is_ready());
        assert!(!pool.is_awaited());
    }

    #[tokio::test]
    async fn what_arrived_before_the_runtime_heard_of_it_counts() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let pool = pool(&format!("url: 'http://{address}/'"));
        let Turn::Open(peer, slot) = pool.turn(&[], false, 0, 1) else { panic!("none is kept") };
        let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let socket = Socket::Left(crate::server::Socket::Left(stream));
        pool.put(Connection::new(socket, &peer, 0, slot), 1);
        drop(listener.accept().expect("a connection"));
        assert!(matches!(pool.turn(&[], false, 0, 1), Turn::Open(..)));
    }

    #[test]
    fn a_pool_is_kept_while_it_is_used_or_remembered() {
        let pool = pool("url: 'http://127.0.0.1:1/'");
        let slot = open(&pool, &[]);
        assert!(pool.sweep(1 + KEPT), "a connection is open");
        drop(slot);
        assert!(pool.sweep(KEPT) && !pool.sweep(1 + KEPT));
    }
}

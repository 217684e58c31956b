//! What lies between two parties that speak HTTP: it can cut them off from each other, be slow,
//! change what is answered, and speak TLS to the far side. Its address stays when the far side gets
//! another.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::wire::{Message, header, read_chunk, read_head, read_sized, with_header, write_chunk};

#[derive(Clone)]
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// What it does to what passes.
#[derive(Clone, Default)]
pub struct Weather {
    /// Connections end, also those that are there.
    pub cut: bool,
    /// Each answer takes so much longer.
    pub delay: Duration,
    /// The far side's clock shows so many seconds more.
    pub seconds_ahead: i64,
    /// Changes the body of an answer; a stream's in pieces.
    pub change: Option<Change>,
}

/// Gives another body for that of a request's answer; the second word is whether it is a stream's.
pub type Change = fn(&Message, Vec<u8>) -> Vec<u8>;

struct Shared {
    tls: Option<Arc<ClientConfig>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    weather: Weather,
    target: SocketAddr,
    lines: Vec<Line>,
}

/// One connection, both halves of it.
#[derive(Clone)]
struct Line {
    halves: Arc<[TcpStream; 2]>,
    streams: bool,
}

impl Line {
    fn cut(&self) {
        for half in self.halves.iter() {
            // It may have ended by itself.
            let _ = half.shutdown(Shutdown::Both);
        }
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Relay {
    pub fn to(target: SocketAddr) -> Self {
        Self::start(target, None)
    }

    /// Speaks TLS to the far side.
    pub fn secured(target: SocketAddr, tls: ClientConfig) -> Self {
        Self::start(target, Some(Arc::new(tls)))
    }

    fn start(target: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = State { weather: Weather::default(), target, lines: Vec::new() };
        let shared = Shared { tls, state: Mutex::new(state), changed: Condvar::new() };
        let relay = Self { address, shared: Arc::new(shared) };
        let shared = Arc::clone(&relay.shared);
        // It ends with the test's process.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(near));
            }
        });
        relay
    }

    pub fn set(&self, change: impl FnOnce(&mut Weather)) {
        let mut state = self.shared.state();
        change(&mut state.weather);
        if state.weather.cut {
            state.lines.drain(..).for_each(|line| line.cut());
        }
        self.shared.changed.notify_all();
    }

    pub fn cut(&self) {
        self.set(|weather| weather.cut = true);
    }

    pub fn open(&self) {
        self.set(|weather| weather.cut = false);
    }

    /// Ends the streams that there are.
    pub fn cut_streams(&self) {
        let state = self.shared.state();
        state.lines.iter().filter(|line| line.streams).for_each(Line::cut);
    }

    /// Ends all connections that there are.
    pub fn cut_all(&self) {
        self.shared.state().lines.drain(..).for_each(|line| line.cut());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn weather(&self) -> Weather {
        self.state().weather.clone()
    }

    fn serve(&self, near: TcpStream) {
        let target = self.state().target;
        let Ok(far) = TcpStream::connect(target) else { return };
        let halves = Arc::new([&near, &far].map(|half| half.try_clone().expect("a socket")));
        let line = Line { halves, streams: false };
        {
            let mut state = self.state();
            if state.weather.cut {
                return;
            }
            state.lines.push(line.clone());
        }
        // However it ends, it ends for both.
        let _ = self.pass(near, far, &line);
        line.cut();
        self.state().lines.retain(|other| !Arc::ptr_eq(&other.halves, &line.halves));
    }

    fn pass(&self, near: TcpStream, far: TcpStream, line: &Line) -> io::Result<()> {
        for half in [&near, &far] {
            half.set_nodelay(true)?;
        }
        let far: Box<dyn Stream> = match &self.tls {
            None => Box::new(far),
            Some(config) => {
                let name = ServerName::try_from("localhost").expect("a name");
                let session = ClientConnection::new(Arc::clone(config), name);
                Box::new(StreamOwned::new(session.map_err(io::Error::other)?, far))
            }
        };
        let (mut near, mut far) = (BufReader::new(near), BufReader::new(far));
        while let Some(request) = Message::read_request(&mut near) {
            if request.asks_for_a_stream() {
                let mut state = self.state();
                let mine = |it: &&mut Line| Arc::ptr_eq(&it.halves, &line.halves);
                state.lines.iter_mut().find(mine).into_iter().for_each(|it| it.streams = true);
            }
            request.write_to(far.get_mut())?;
            self.answer(&request, &mut far, near.get_mut())?;
        }
        Ok(())
    }

    fn answer(
        &self,
        request: &Message,
        far: &mut BufReader<Box<dyn Stream>>,
        near: &mut TcpStream,
    ) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = read_head(far).ok_or_else(ended)?;
        let weather = self.weather();
        self.wait(weather.delay);
        if let Some(date) = header(&head, "date").filter(|_| weather.seconds_ahead != 0) {
            head = with_header(&head, "date", &later(date, weather.seconds_ahead));
        }
        let changed = |body| match self.weather().change {
            Some(change) => change(request, body),
            None => body,
        };
        if header(&head, "transfer-encoding").is_some() {
            near.write_all(head.as_bytes())?;
            loop {
                let chunk = read_chunk(far).ok_or_else(ended)?;
                let last = chunk.is_empty();
                write_chunk(near, &if last { chunk } else { changed(chunk) })?;
                if last {
                    return Ok(());
                }
            }
        }
        let length = header(&head, "content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        let length = if request.method() == "HEAD" { 0 } else { length };
        let body = read_sized(far, length).ok_or_else(ended)?;
        let body = if body.is_empty() { body } else { changed(body) };
        if !body.is_empty() {
            head = with_header(&head, "content-length", &body.len().to_string());
        }
        Message { head, body }.write_to(near)
    }

    /// Waits, unless the weather changes meanwhile.
    fn wait(&self, delay: Duration) {
        let same = |state: &mut State| state.weather.delay == delay && !state.weather.cut;
        drop(self.changed.wait_timeout_while(self.state(), delay, same).expect("not poisoned"));
    }
}

/// A `Date` as it would be so many seconds later.
fn later(date: &str, seconds: i64) -> String {
    let time = jiff::fmt::rfc2822::parse(date).expect("a date");
    let time = time.timestamp() + jiff::SignedDuration::from_secs(seconds);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

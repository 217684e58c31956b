//! What lies between a proxy and its admin API: it notes each request, and can be cut or stalled,
//! as a whole or for streams of changes only. Its address stays when the admin API gets another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::backend::{Seen, read_request};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Connections end, also those that are there.
    Cut,
    /// Streams end, and other requests go through.
    StreamsCut,
    /// Nothing comes back, and nobody is told.
    Stalled,
    /// Streams are silent, and other answers come back.
    StreamsStalled,
    /// Requests arrive, and their answers are lost.
    AnswersLost,
}

#[derive(Clone)]
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    seen: Mutex<Vec<Seen>>,
}

struct State {
    flow: Flow,
    target: SocketAddr,
    lines: Vec<Arc<Line>>,
}

/// One connection, both halves of it.
struct Line {
    near: TcpStream,
    far: TcpStream,
    streams: AtomicBool,
}

impl Line {
    fn is_cut_by(&self, flow: Flow) -> bool {
        flow == Flow::Cut || (flow == Flow::StreamsCut && self.streams.load(Ordering::SeqCst))
    }

    fn is_stalled_by(&self, flow: Flow) -> bool {
        flow == Flow::Stalled
            || (flow == Flow::StreamsStalled && self.streams.load(Ordering::SeqCst))
    }

    fn cut(&self) {
        for half in [&self.near, &self.far] {
            // It may have ended by itself.
            let _ = half.shutdown(Shutdown::Both);
        }
    }
}

impl Relay {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = State { flow: Flow::Open, target, lines: Vec::new() };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { state, changed, seen: Mutex::default() });
        let relay = Self { address, shared: Arc::clone(&shared) };
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(near));
            }
        });
        relay
    }

    pub fn set(&self, flow: Flow) {
        let mut state = self.shared.state();
        state.flow = flow;
        state.lines.iter().filter(|line| line.is_cut_by(flow)).for_each(|line| line.cut());
        self.shared.changed.notify_all();
    }

    /// Leads new connections there.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.state().target = target;
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("not poisoned").clone()
    }

    /// How many requests have begun so; streams are not among them.
    pub fn count(&self, beginning: &str) -> usize {
        let seen = self.shared.seen.lock().expect("not poisoned");
        seen.iter().filter(|it| it.line().starts_with(beginning) && !asks_for_a_stream(it)).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn serve(self: Arc<Self>, mut near: TcpStream) {
        let target = self.state().target;
        let Ok(mut far) = TcpStream::connect(target) else { return };
        let halves = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        let line = Line { near: halves.0, far: halves.1, streams: AtomicBool::new(false) };
        let line = Arc::new(line);
        let mut state = self.state();
        if line.is_cut_by(state.flow) {
            return;
        }
        state.lines.push(Arc::clone(&line));
        drop(state);
        let (shared, back) = (Arc::clone(&self), Arc::clone(&line));
        std::thread::spawn(move || {
            shared.answer(&back);
            back.cut();
        });
        let mut received = Vec::new();
        while let Some(request) = read_request(&mut near, &mut received, 0) {
            self.seen.lock().expect("not poisoned").push(request.clone());
            if asks_for_a_stream(&request) {
                line.streams.store(true, Ordering::SeqCst);
            }
            let Seen { head, body, .. } = request;
            let bytes = [head.as_bytes(), b"\r\n\r\n", &body].concat();
            if !self.passes(&line) || far.write_all(&bytes).is_err() {
                break;
            }
        }
        line.cut();
    }

    fn answer(&self, line: &Line) {
        let mut buffer = [0; 65_536];
        while let Ok(bytes @ 1..) = (&line.far).read(&mut buffer) {
            let lost = self.state().flow == Flow::AnswersLost;
            if lost || !self.passes(line) || (&line.near).write_all(&buffer[..bytes]).is_err() {
                return;
            }
        }
    }

    /// Waits while the line is stalled; false if it is cut.
    fn passes(&self, line: &Line) -> bool {
        let stalled = |state: &mut State| line.is_stalled_by(state.flow);
        let state = self.changed.wait_while(self.state(), stalled).expect("not poisoned");
        !line.is_cut_by(state.flow)
    }
}

fn asks_for_a_stream(request: &Seen) -> bool {
    request.headers("accept").contains(&"text/event-stream")
}

//! A SCIM server with users alone, whose faults are given to it: it can be away for a moment, or
//! hang.

use std::io::BufReader;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use rustix::net::{RecvFlags, recv, shutdown};
use serde_json::{Value, json};

use crate::wire::Message;

#[derive(Clone)]
pub struct ScimServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    mood: Mood,
    /// Numbered in the order of their ids.
    users: Vec<Value>,
    lines: Vec<Line>,
    connections: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    /// Refuses connections.
    Away,
    /// Takes requests and never answers them.
    Hangs,
}

/// A connection, and whether a request is being answered there.
struct Line {
    number: usize,
    stream: TcpStream,
    busy: bool,
}

impl ScimServer {
    pub fn start(host: IpAddr) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (state, changed) = (Mutex::default(), Condvar::new());
        let server = Self { address, shared: Arc::new(Shared { state, changed }) };
        let worker = server.clone();
        // It ends with the test's process.
        thread::spawn(move || worker.accept(listener));
        server
    }

    /// Ends as a careful server does: what has been asked is answered, and then there is nobody.
    pub fn leave(&self) {
        let mut state = self.shared.state();
        state.mood = Mood::Away;
        state.lines.retain(|line| {
            let quiet = !line.busy && !has_more(&line.stream);
            if quiet {
                let _ = line.stream.shutdown(Shutdown::Both);
            }
            !quiet
        });
        drop(state);
        // Whoever accepts sees that there is something to see.
        drop(TcpStream::connect(self.address));
        let accepting = |state: &mut State| state.mood == Mood::Away && !state.lines.is_empty();
        drop(self.shared.changed.wait_while(self.shared.state(), accepting).expect("sound"));
    }

    pub fn come_back(&self) {
        self.set(Mood::Well);
    }

    pub fn hang(&self) {
        self.set(Mood::Hangs);
    }

    /// The ids of users who may still come in.
    pub fn active_users(&self) -> Vec<String> {
        let state = self.shared.state();
        let active = state.users.iter().filter(|user| user["active"] == true);
        active.filter_map(|user| Some(user["id"].as_str()?.to_owned())).collect()
    }

    fn set(&self, mood: Mood) {
        self.shared.state().mood = mood;
        self.shared.changed.notify_all();
    }

    fn accept(&self, mut listener: TcpListener) {
        loop {
            let accepted = listener.accept().expect("descriptors are left");
            if self.shared.state().mood != Mood::Away {
                self.take(accepted.0);
                continue;
            }
            // Those who were let in by the system are not turned away.
            listener.set_nonblocking(true).expect("a socket");
            while let Ok((stream, _)) = listener.accept() {
                self.take(stream);
            }
            // A program that starts has a copy for a moment, which must not let them in either.
            shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
            let away = |state: &mut State| state.mood == Mood::Away;
            drop(self.shared.changed.wait_while(self.shared.state(), away).expect("sound"));
            listener = TcpListener::bind(self.address).expect("still ours");
        }
    }

    fn take(&self, stream: TcpStream) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.serve(stream));
    }
}

/// Whether bytes have come that nobody has read.
fn has_more(stream: &TcpStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(stream, &mut [0; 1], flags), Ok((_, 1..)))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("sound")
    }

    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).expect("a socket");
        let number = self.state().note(stream.try_clone().expect("a socket"));
        let mark = |busy| {
            let mut state = self.state();
            let line = state.lines.iter_mut().find(|line| line.number == number);
            line.into_iter().for_each(|line| line.busy = busy);
        };
        let mut reader = BufReader::new(stream);
        while matches!(std::io::BufRead::fill_buf(&mut reader), Ok([_, ..])) {
            mark(true);
            let Some(request) = Message::read_request(&mut reader) else { break };
            let mut state = self.state();
            if state.mood == Mood::Hangs {
                let hangs = |state: &mut State| state.mood == Mood::Hangs;
                drop(self.changed.wait_while(state, hangs).expect("sound"));
                break;
            }
            let (status, body) = state.answer(&request);
            let leaves = state.mood == Mood::Away;
            drop(state);
            let answer = answer(status, &body, leaves);
            if answer.write_to(reader.get_mut()).is_err() || leaves {
                break;
            }
            mark(false);
        }
        self.state().lines.retain(|line| line.number != number);
        self.changed.notify_all();
    }
}

fn answer(status: u16, body: &Value, last: bool) -> Message {
    let body = body.to_string().into_bytes();
    let end = if last { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/scim+json\r\n{end}Content-Length: {}\r\n\r\n",
        body.len()
    );
    Message { head, body }
}

impl State {
    fn note(&mut self, stream: TcpStream) -> usize {
        self.connections += 1;
        self.lines.push(Line { number: self.connections, stream, busy: false });
        self.connections
    }

    fn answer(&mut self, request: &Message) -> (u16, Value) {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let sent: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let id = path.strip_prefix("/scim/v2/Users/");
        let user = id.and_then(|id| self.users.iter_mut().find(|user| user["id"] == *id));
        match (request.method(), user) {
            ("GET", Some(user)) => (200, user.clone()),
            ("PUT", Some(user)) => {
                user["active"] = sent["active"].clone();
                (200, user.clone())
            }
            ("PATCH", Some(user)) => {
                user["active"] = sent["Operations"][0]["value"].clone();
                (200, user.clone())
            }
            ("GET", None) if id.is_none() => (200, self.list(query)),
            ("POST", None) if id.is_none() => self.create(&sent),
            _ => (404, json!({ "status": "404" })),
        }
    }

    /// Those with the name that a filter asks for, or the first few.
    fn list(&self, query: &str) -> Value {
        let name = query.split("%22").nth(1);
        let wanted = |user: &&Value| name.is_none_or(|name| user["userName"] == *name);
        let found: Vec<&Value> = self.users.iter().filter(wanted).take(2).collect();
        json!({ "totalResults": found.len(), "Resources": found })
    }

    fn create(&mut self, sent: &Value) -> (u16, Value) {
        if self.users.iter().any(|user| user["userName"] == sent["userName"]) {
            return (409, json!({ "status": "409", "scimType": "uniqueness" }));
        }
        let mut user = sent.clone();
        user["id"] = json!(format!("{:08}", self.users.len()));
        self.users.push(user.clone());
        (201, user)
    }
}

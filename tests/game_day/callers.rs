//! Those who call: Entra ID with its cycles, Okta with its tasks, and a thief.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, Client, Request};
use crate::ledger::Ledger;

/// What stands before the proxies: who does not get a connection from one is led to the next one.
#[derive(Clone)]
pub struct Front(Arc<Doors>);

struct Doors {
    addresses: Vec<SocketAddr>,
    current: AtomicUsize,
}

impl Front {
    pub fn of(addresses: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Doors { addresses, current: AtomicUsize::new(0) }))
    }

    pub fn prefer(&self, number: usize) {
        self.0.current.store(number, Ordering::Relaxed);
    }

    fn current(&self) -> SocketAddr {
        self.0.addresses[self.0.current.load(Ordering::Relaxed) % self.0.addresses.len()]
    }

    fn leave(&self, address: SocketAddr) {
        if self.current() == address {
            self.0.current.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What an administrator has typed into a console. It can be typed anew.
#[derive(Clone)]
pub struct Secret(Arc<Mutex<String>>);

impl Secret {
    pub fn new(token: &str) -> Self {
        Self(Arc::new(Mutex::new(token.to_owned())))
    }

    pub fn replace(&self, token: &str) {
        token.clone_into(&mut self.0.lock().expect("sound"));
    }

    fn get(&self) -> String {
        self.0.lock().expect("sound").clone()
    }
}

/// One caller's way to us.
struct Line {
    front: Front,
    secret: Secret,
    ledger: Arc<Ledger>,
    client: Option<(SocketAddr, Client)>,
    stop: Arc<AtomicBool>,
}

impl Line {
    fn call(
        &mut self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<Answer> {
        let request = Request::new(method, format!("/scim/v2{path}")).bearer(&self.secret.get());
        let request = match body {
            Some(body) => request.scim(body),
            None => request,
        };
        self.ledger.requests.add(1);
        let answer = self.send(&request)?;
        self.ledger.note(&answer);
        Ok(answer)
    }

    fn send(&mut self, request: &Request) -> io::Result<Answer> {
        // A connection that the server has closed meanwhile was used by nobody (RFC 9112 section
        // 9.3.1).
        if let Some((address, mut client)) = self.client.take()
            && let Ok(answer) = client.send(request)
        {
            self.client = Some((address, client));
            return Ok(answer);
        }
        for _ in 0..self.front.0.addresses.len() {
            let address = self.front.current();
            let mut client = Client::new(address);
            match client.send(request) {
                Ok(answer) => {
                    self.client = Some((address, client));
                    return Ok(answer);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.front.leave(address);
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    /// The next piece of work begins with a new connection, so that it is told where to go.
    fn hang_up(&mut self) {
        self.client = None;
    }

    /// The time between two requests; whether to go on.
    fn pace(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while !self.is_stopped() && Instant::now() < until {
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
        !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A caller at work on a thread of its own.
pub struct Worker<T> {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// `work` counts what it has done.
    fn start(
        front: &Front,
        secret: &Secret,
        ledger: &Arc<Ledger>,
        work: impl FnOnce(Line, &AtomicUsize) -> T + Send + 'static,
    ) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let line = Line {
            front: front.clone(),
            secret: secret.clone(),
            ledger: Arc::clone(ledger),
            client: None,
            stop: Arc::clone(&stop),
        };
        let count = Arc::clone(&done);
        let thread = thread::spawn(move || work(line, &count));
        Self { stop, done, thread: Some(thread) }
    }

    /// How much it has got done.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends it; what it leaves behind.
    pub fn stop(&mut self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.thread().unpark();
        thread.join().expect("a caller notes what fails and does not panic")
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn user(name: &str) -> Value {
    json!({ "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name, "active": true })
}

/// Entra ID's provisioning job. A cycle begins with a connection test, and then pushes. What fails
/// is tried again in later cycles (escrow), and the job slows down. Any 401 or 403 is taken for bad
/// credentials: quarantine at once, with one test now and then until one succeeds. So is a cycle of
/// which more than 40 % failed.
pub struct Entra;

/// One object that is out of step.
#[derive(Clone, Debug)]
enum Push {
    Create(String),
    Deactivate(String),
}

impl Entra {
    /// Counts pushes that are done; gives back how many are left.
    pub fn start(front: &Front, secret: &Secret, ledger: &Arc<Ledger>) -> Worker<usize> {
        Worker::start(front, secret, ledger, |line, done| Job::new(line, done).run())
    }
}

struct Job<'a> {
    line: Line,
    done: &'a AtomicUsize,
    /// What is to be pushed: what has failed, and those who leave.
    due: VecDeque<Push>,
    created: usize,
    pause: Duration,
}

impl<'a> Job<'a> {
    fn new(line: Line, done: &'a AtomicUsize) -> Self {
        Self { line, done, due: VecDeque::new(), created: 0, pause: PACE }
    }

    fn run(mut self) -> usize {
        while self.line.pace(self.pause) {
            self.line.hang_up();
            if self.test() {
                self.cycle();
            }
        }
        // What is left is tried until nothing is.
        let deadline = Instant::now() + LAST_CYCLE;
        while !self.due.is_empty() && Instant::now() < deadline {
            let push = self.due.pop_front().expect("there is one");
            self.line.hang_up();
            if !self.push(&push) {
                self.due.push_back(push);
                thread::park_timeout(PACE);
            }
        }
        self.due.len()
    }

    /// `GET /Users` for somebody who is not there.
    fn test(&mut self) -> bool {
        let path = "/Users?filter=userName%20eq%20%22f3b1c5a0-0000-4000-8000-000000000000%22";
        let answer = self.ask("GET", path, None);
        answer.is_some_and(|answer| answer.json()["totalResults"] == 0)
    }

    fn cycle(&mut self) {
        let mut failed = 0;
        for _ in 0..CYCLE_PUSHES {
            let quarantines = self.line.ledger.quarantines.get();
            self.line.hang_up();
            let push = self.due.pop_front().unwrap_or_else(|| {
                self.created += 1;
                Push::Create(format!("entra-{}", self.created))
            });
            if !self.push(&push) {
                failed += 1;
                self.due.push_back(push);
            }
            if !self.line.pace(self.pause) || self.line.ledger.quarantines.get() > quarantines {
                return;
            }
        }
        if failed * 10 > CYCLE_PUSHES * 4 {
            self.quarantine(&format!("{failed} of {CYCLE_PUSHES} pushes of a cycle failed"));
        }
    }

    fn push(&mut self, push: &Push) -> bool {
        let pushed = match push {
            Push::Create(name) => self.create(name),
            Push::Deactivate(id) => {
                let change = json!({ "op": "Replace", "path": "active", "value": false });
                let patch = json!({ "Operations": [change] });
                self.ask("PATCH", &format!("/Users/{id}"), Some(&patch)).map(|_| ())
            }
        };
        self.done.fetch_add(usize::from(pushed.is_some()), Ordering::Relaxed);
        pushed.is_some()
    }

    /// Matches first, as the real one does. Who is new leaves with the next push.
    fn create(&mut self, name: &str) -> Option<()> {
        let query = format!("/Users?filter=userName%20eq%20%22{name}%22");
        let found = self.ask("GET", &query, None)?.json();
        let mut id = found["Resources"][0]["id"].clone();
        if id.is_null() {
            id = self.ask("POST", "/Users", Some(&user(name)))?.json()["id"].clone();
        }
        self.due.push_back(Push::Deactivate(id.as_str()?.to_owned()));
        Some(())
    }

    /// A good answer, or none.
    fn ask(&mut self, method: &'static str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let answer = self.line.call(method, path, body);
        let good = answer.as_ref().is_ok_and(|answer| answer.status < 300);
        self.pause = if good { PACE } else { (self.pause * 2).min(PAUSE_MAX) };
        if let Ok(refused) = answer.as_ref()
            && matches!(refused.status, 401 | 403)
        {
            self.quarantine(&format!("{method} {path}: {refused}"));
        }
        answer.ok().filter(|_| good)
    }

    fn quarantine(&mut self, why: &str) {
        self.line.ledger.quarantines.add(1);
        self.line.ledger.broken(format!("Entra ID has quarantined the job: {why}"));
        self.pause = QUARANTINE;
    }
}

const CYCLE_PUSHES: usize = 100;
const PACE: Duration = Duration::from_millis(250);
/// The most between two pushes of a job that fails.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// In place of a day.
const QUARANTINE: Duration = Duration::from_secs(5);
const LAST_CYCLE: Duration = Duration::from_secs(20);

/// Okta: each task is tried once, and one that fails waits for a person to retry it.
/// Somebody joins and somebody leaves, again and again.
pub struct Okta;

/// A task that has failed.
pub struct Failed {
    id: String,
    pub why: String,
}

impl Okta {
    /// Counts deactivations that are done; gives back those that failed.
    pub fn start(front: &Front, secret: &Secret, ledger: &Arc<Ledger>) -> Worker<Vec<Failed>> {
        Worker::start(front, secret, ledger, |mut line, done| {
            let (mut failed, mut active) = (Vec::new(), VecDeque::new());
            let mut joined = 0;
            while line.pace(TASK_PAUSE) {
                line.hang_up();
                joined += 1;
                let made = line.call("POST", "/Users", Some(&user(&format!("okta-{joined}"))));
                let made = made.map(|answer| answer.json()["id"].as_str().map(str::to_owned));
                active.extend(made.ok().flatten());
                // Somebody stays, so that there is somebody to leave while nobody can join.
                if joined <= STAY && !active.is_empty() {
                    continue;
                }
                let Some(id) = active.pop_front() else { continue };
                match deactivate(&mut line, &id) {
                    Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(why) => failed.push(Failed { id, why }),
                }
            }
            line.hang_up();
            for id in active {
                if let Err(why) = deactivate(&mut line, &id) {
                    failed.push(Failed { id, why });
                }
            }
            failed
        })
    }

    /// "Retry Selected", pressed by a person. What still fails.
    pub fn retry(
        front: &Front,
        secret: &Secret,
        ledger: &Arc<Ledger>,
        failed: Vec<Failed>,
    ) -> Vec<Failed> {
        let mut worker = Worker::start(front, secret, ledger, |mut line, _| {
            let again = |task: Failed| match deactivate(&mut line, &task.id) {
                Ok(()) => None,
                Err(why) => Some(Failed { why, ..task }),
            };
            failed.into_iter().filter_map(again).collect()
        });
        let thread = worker.thread.take().expect("started");
        thread.join().expect("a caller notes what fails and does not panic")
    }
}

/// Reads the user and replaces it whole, as custom apps do.
fn deactivate(line: &mut Line, id: &str) -> Result<(), String> {
    let path = format!("/Users/{id}");
    let good = |answer: io::Result<Answer>| match answer {
        Ok(answer) if answer.status < 300 => Ok(answer.json()),
        Ok(answer) => Err(answer.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let mut user = good(line.call("GET", &path, None))?;
    user["active"] = json!(false);
    good(line.call("PUT", &path, Some(&user))).map(drop)
}

const TASK_PAUSE: Duration = Duration::from_millis(600);
const STAY: usize = 5;

/// Whoever has a token that is to be dead: tries it at every proxy, again and again.
pub struct Thief {
    dead: Arc<AtomicBool>,
    worker: Worker<()>,
}

impl Thief {
    pub fn start(proxies: &[SocketAddr], token: &str, ledger: &Arc<Ledger>) -> Self {
        let dead = Arc::<AtomicBool>::default();
        let (is_dead, proxies) = (Arc::clone(&dead), proxies.to_vec());
        let front = Front::of(proxies.clone());
        let worker = Worker::start(&front, &Secret::new(token), ledger, move |mut line, done| {
            while line.pace(THIEF_PAUSE) {
                for &proxy in &proxies {
                    // What was asked before the token died may be answered after.
                    let dead = is_dead.load(Ordering::SeqCst);
                    line.front = Front::of(vec![proxy]);
                    line.hang_up();
                    let Ok(answer) = line.call("GET", "/Users?count=1", None) else { continue };
                    done.fetch_add(1, Ordering::Relaxed);
                    if dead && answer.status < 400 {
                        line.ledger.resurrected.add(1);
                        line.ledger.broken(format!("a dead token lives at {proxy}"));
                    }
                }
            }
        });
        Self { dead, worker }
    }

    /// From here on the token must be dead.
    pub fn is_dead(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn tries(&self) -> usize {
        self.worker.done()
    }

    pub fn stop(&mut self) {
        self.worker.stop();
    }
}

const THIEF_PAUSE: Duration = Duration::from_millis(500);

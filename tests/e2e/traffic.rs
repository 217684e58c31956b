//! A client that never stops: creates, reads, changes and deletes users, one request after the
//! other, and keeps a note of every answer that is not the expected one. Its address and its
//! token can be changed while it runs, as an administrator changes them in a console.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::process::until;

pub struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What the administrator typed.
#[derive(Clone, Copy)]
pub struct Settings {
    pub address: SocketAddr,
    pub path: &'static str,
    pub token: &'static str,
}

struct Shared {
    settings: Mutex<Settings>,
    requests: AtomicUsize,
    stopped: AtomicBool,
    failures: Mutex<Vec<String>>,
}

struct Worker {
    shared: Arc<Shared>,
    client: Client,
    current: Settings,
    keep_alive: bool,
    name: &'static str,
}

impl Traffic {
    pub fn start(settings: Settings) -> Self {
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            requests: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            failures: Mutex::default(),
        });
        let start = |(name, keep_alive)| {
            let shared = Arc::clone(&shared);
            let client = Client::new(settings.address);
            let worker = Worker { shared, client, current: settings, keep_alive, name };
            thread::spawn(move || worker.run())
        };
        let workers = [("kept", true), ("new", false)].map(start).into();
        Self { shared, workers }
    }

    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.settings.lock().expect(UNPOISONED));
    }

    /// Waits until this many more requests have been answered; panics once one has failed.
    pub fn wait_for(&self, requests: usize) {
        let answered = || self.shared.requests.load(Ordering::Relaxed);
        let goal = answered() + requests;
        until(&format!("{goal} requests answered"), || {
            self.assert_unfailed();
            (answered() >= goal).then_some(())
        });
    }

    /// Stops after the requests under way; panics if any has failed.
    pub fn stop(mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker notes what fails and does not panic");
        }
        self.assert_unfailed();
    }

    fn assert_unfailed(&self) {
        let failures = self.shared.failures.lock().expect(UNPOISONED).join("\n");
        assert!(failures.is_empty(), "failed requests:\n{failures}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Worker {
    fn run(mut self) {
        let mut number = 0;
        while !self.shared.stopped.load(Ordering::Relaxed) && !self.has_failed() {
            self.life_of_a_user(&format!("{}-{number}", self.name));
            number += 1;
        }
    }

    fn life_of_a_user(&mut self, name: &str) {
        let user = json!({ "schemas": [USER], "userName": name, "active": true });
        let created = self.expect("POST", "/Users", Some(&user), &[201]);
        let Some(id) = created["id"].as_str() else { return };
        let path = format!("/Users/{id}");
        self.expect("GET", &path, None, &[200]);
        let query = format!("/Users?filter=userName%20eq%20%22{name}%22&startIndex=1&count=2");
        let listed = self.expect("GET", &query, None, &[200]);
        self.note_unless(listed["totalResults"] == 1, || format!("{query}: {listed}"));
        let change = json!({ "op": "Replace", "path": "active", "value": false });
        let patch = json!({ "schemas": [PATCH], "Operations": [change] });
        self.expect("PATCH", &path, Some(&patch), &[200, 204]);
        let changed = self.expect("GET", &path, None, &[200]);
        self.note_unless(changed["active"] == false, || format!("{path}: {changed}"));
        self.expect("DELETE", &path, None, &[204]);
        self.expect("GET", &path, None, &[404]);
    }

    fn expect(&mut self, method: Method, path: &str, body: Option<&Value>, good: &[u16]) -> Value {
        self.follow_settings();
        let mut request = Request::new(method, format!("{}{path}", self.current.path));
        request = request.bearer(self.current.token);
        if let Some(body) = body {
            request = request.scim(body);
        }
        let answer = self.client.send(&request);
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let fine = answer.as_ref().is_ok_and(|answer| good.contains(&answer.status));
        self.note_unless(fine, || {
            let got = answer.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            format!("{method} {} {path}: wanted {good:?}, got {got}", self.current.address)
        });
        answer.map(|answer| answer.json()).unwrap_or_default()
    }

    fn follow_settings(&mut self) {
        let wanted = *self.shared.settings.lock().expect(UNPOISONED);
        if wanted.address != self.current.address || !self.keep_alive {
            self.client = Client::new(wanted.address);
        }
        self.current = wanted;
    }

    fn note_unless(&self, fine: bool, failure: impl FnOnce() -> String) {
        if !fine {
            let mut failures = self.shared.failures.lock().expect(UNPOISONED);
            failures.push(failure());
        }
    }

    fn has_failed(&self) -> bool {
        !self.shared.failures.lock().expect(UNPOISONED).is_empty()
    }
}

type Method = &'static str;

const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const UNPOISONED: &str = "nobody panics with it in hand";

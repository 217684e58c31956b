//! What an admin API has answered is kept, whatever happens to its process, and each of its
//! followers ends where the store does.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{
    Api, Process, Unanswered, config, follower, furnish, probe, read_stream, secret_of,
    wait_until_applied,
};
use crate::backend::Backend;
use crate::guard::{digest, wait_for};
use crate::http::{Client, Reply};
use crate::ledger::{Answer, LIMIT, Ledger};

/// An address that no other test listens at, and that no client's port is taken from: so a port
/// there is free again after its process was killed.
const OWN_ADDRESS: &str = "127.77.1.1:0";

const TENANTS: [&str; 6] = ["z-a", "z-b", "z-c", "z-come", "z-and", "z-go"];

/// What writers share.
#[derive(Default)]
struct Load {
    answers: Mutex<Vec<Answer>>,
    /// Credentials that were made and not seen to be gone.
    known: Mutex<Vec<(String, String)>>,
    /// Tokens by credential.
    secrets: Mutex<HashMap<(String, String), String>>,
    /// Whether to write.
    open: AtomicBool,
    over: AtomicBool,
    busy: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no writer has panicked")
}

impl Load {
    /// Writes until it is over, as long as somebody answers.
    fn write(&self, operator: &Api, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut api = Api::new(operator.address, &operator.token);
        while !self.over.load(Ordering::SeqCst) {
            self.busy.fetch_add(1, Ordering::SeqCst);
            while self.open.load(Ordering::SeqCst) {
                if self.act(&mut api, &mut rng).is_err() {
                    // Whoever has killed the server opens again.
                    std::thread::yield_now();
                }
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            while !self.open.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }

    /// Lets them write from here on.
    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Waits until each of them has had its answer, or will have none.
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        wait_for("writers to pause", || self.busy.load(Ordering::SeqCst) == 0);
    }

    fn count(&self) -> usize {
        lock(&self.answers).len()
    }

    /// One act of some kind.
    fn act(&self, api: &mut Api, rng: &mut fastrand::Rng) -> Result<(), Unanswered> {
        let tenant = *rng.choice(&TENANTS).expect("there are some");
        let kind = rng.u8(..100);
        if kind < 25 {
            let label = json!({ "label": format!("label-{}", rng.u16(..)) });
            return self.create(api, tenant, &label.to_string());
        }
        if kind >= 90 {
            return self.switch(api, tenant, kind);
        }
        let known = rng.choice(lock(&self.known).iter()).cloned();
        let Some((tenant, id)) = known else { return Ok(()) };
        let target = format!("/v1/tenants/{tenant}/credentials/{id}");
        let patch = |body: Value| ("patch", "PATCH", target.clone(), body.to_string());
        let (act, method, target, body) = match kind {
            ..40 => patch(json!({ "status": "Disabled" })),
            40..55 => patch(json!({ "status": "Enabled" })),
            55..62 => patch(json!({ "label": format!("label-{}", rng.u16(..)) })),
            62..75 => ("delete", "DELETE", target, String::new()),
            _ => {
                let body = json!({ "leaked": rng.bool() }).to_string();
                ("rotate", "POST", format!("{target}/rotate"), body)
            }
        };
        let reply = api.try_ask(method, &target, &body)?;
        let key = (tenant, id);
        let gone = reply.status == 404 || act == "delete" || body.contains("true");
        if gone {
            lock(&self.known).retain(|it| *it != key);
        }
        self.note(act, &key.0, &key.1, &reply);
        Ok(())
    }

    fn create(&self, api: &mut Api, tenant: &str, body: &str) -> Result<(), Unanswered> {
        let target = format!("/v1/tenants/{tenant}/credentials");
        let reply = api.try_ask("POST", &target, body)?;
        self.note("create", tenant, "", &reply);
        Ok(())
    }

    /// What is done to a tenant as a whole.
    fn switch(&self, api: &mut Api, tenant: &str, kind: u8) -> Result<(), Unanswered> {
        let target = format!("/v1/tenants/{tenant}");
        let (act, reply) = match kind {
            90..94 => {
                let status = if kind.is_multiple_of(2) { "Disabled" } else { "Enabled" };
                let body = json!({ "status": status }).to_string();
                let switch = format!("{target}/synchronization");
                ("tenant", api.try_ask("PUT", &switch, &body)?)
            }
            94..98 => ("tenant", api.try_ask("PUT", &target, "")?),
            _ => ("tenant_delete", api.try_ask("DELETE", &target, "")?),
        };
        self.note(act, tenant, "", &reply);
        Ok(())
    }

    fn note(&self, act: &'static str, tenant: &str, id: &str, reply: &Reply) {
        if matches!(reply.status, 404 | 409) {
            return;
        }
        assert!(matches!(reply.status, 200 | 201), "{act}: {} {}", reply.status, reply.text());
        let body = reply.json();
        let revision = reply.header("scim-guard-revision").expect("each write has one");
        let revision = revision.parse().expect("a number");
        if let Some(secret) = body["secret"].as_str() {
            let made = body["credential_id"].as_str().expect("a text").to_owned();
            let key = (tenant.to_owned(), made);
            lock(&self.secrets).insert(key.clone(), secret.to_owned());
            lock(&self.known).push(key);
        }
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        lock(&self.answers).push(Answer { act, tenant, id, revision, body });
    }
}

/// Follows the changes as they are told, over all the server's deaths.
#[derive(Default)]
struct Watcher {
    changes: Mutex<Vec<Value>>,
    last_id: Mutex<String>,
}

impl Watcher {
    fn watch(&self, follower: &Api, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            let last_id = lock(&self.last_id).clone();
            let mut batch = Vec::new();
            let mut id = None;
            let mut is_change = false;
            let line = |line: &str| {
                if let Some(text) = line.strip_prefix("id: ") {
                    id = Some(text.to_owned());
                } else if let Some(name) = line.strip_prefix("event: ") {
                    is_change = name != "heartbeat";
                } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_change) {
                    batch.push(serde_json::from_str::<Value>(data).expect("JSON"));
                } else if line.is_empty()
                    && let Some(id) = id.take()
                {
                    lock(&self.changes).append(&mut batch);
                    *lock(&self.last_id) = id;
                }
                !over.load(Ordering::SeqCst)
            };
            let status =
                read_stream(follower.address, &follower.token, "/v1/changes", &last_id, line);
            assert!(matches!(status, None | Some(200)), "{status:?} after {last_id}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// A number that can be set from outside, to try others.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Waits for a moment that means nothing.
fn wait_until(moment: Instant) {
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

#[test]
fn no_answered_write_is_lost_by_a_kill() {
    let seed = setting("SCIM_GUARD_SEED", 1);
    let kills = setting("SCIM_GUARD_KILLS", 100);
    println!("SCIM_GUARD_SEED={seed} SCIM_GUARD_KILLS={kills}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let backend = Backend::friendly();
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path(), &config(OWN_ADDRESS, backend.address, LIMIT));

    // Before there is a store, and while it comes to be.
    for _ in 0..kills / 10 {
        let mut process = Process::launch(folder.path());
        wait_until(Instant::now() + Duration::from_micros(rng.u64(..60_000)));
        process.kill();
    }
    let mut process = Process::start(folder.path());
    let address = process.address("admin");
    furnish(folder.path(), &config(&address.to_string(), backend.address, LIMIT));
    let token_file = folder.path().join("data/admin.token");
    let token = fs::read(&token_file).expect("made");
    let far_folder = tempfile::tempdir().expect("a folder");
    furnish(far_folder.path(), &follower(address, backend.address));
    let far = Process::start(far_folder.path());

    let mut operator = Api::operator(address, folder.path());
    let mut reader = Api::new(address, &secret_of("follower"));
    let (load, watcher, mut ledger) = (Load::default(), Watcher::default(), Ledger::default());
    ledger.catch_up(&mut reader);
    *lock(&watcher.last_id) = ledger.position_at(0);
    let mut checked = 0;
    let mut check = |operator: &mut Api, reader: &mut Api, ledger: &mut Ledger| {
        ledger.catch_up(reader);
        ledger.check_table(reader);
        ledger.check_audit(operator);
        let answers = lock(&load.answers)[checked..].to_vec();
        checked += answers.len();
        ledger.check_answers(&answers);
        ledger.check_credentials(operator);
        assert!(fs::read(&token_file).expect("there") == token, "admin.token has changed");
    };
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (load, operator) = (&load, &operator);
            let (api, seed) = (Api::new(operator.address, &operator.token), rng.u64(..) ^ writer);
            scope.spawn(move || load.write(&api, seed));
        }
        let (told, followed) = (&watcher, Api::new(address, &secret_of("follower")));
        let over = &load.over;
        scope.spawn(move || told.watch(&followed, over));
        // Whatever fails here, the others are to end.
        let _end = Over(&load);

        for kill in 0..kills {
            let enough = load.count() + rng.usize(1..40);
            load.open();
            wait_for("writes to be answered", || load.count() >= enough);
            wait_until(Instant::now() + Duration::from_micros(rng.u64(..3000)));
            process.kill();
            load.close();
            if kill % 5 == 4 {
                // Once more, while it recovers.
                process = Process::launch(folder.path());
                wait_until(Instant::now() + Duration::from_micros(rng.u64(..60_000)));
                process.kill();
            }
            process = Process::launch(folder.path());
            assert_eq!(process.address("admin"), address);
            check(&mut operator, &mut reader, &mut ledger);
        }
        load.over.store(true, Ordering::SeqCst);
        process.wait_until_ready();
        wait_until_applied(&mut operator, &["near", "far"]);
        wait_for("the stream to tell the last change", || {
            *lock(&watcher.last_id) == ledger.position()
        });
    });
    wait_until_applied(&mut operator, &["near", "far"]);
    check(&mut operator, &mut reader, &mut ledger);
    assert!(*lock(&watcher.changes) == ledger.changes, "the stream has told something else");
    let secrets = lock(&load.secrets);
    for follower in [&process, &far] {
        check_follower(follower, &ledger, &secrets);
    }
    println!("{} changes, {} answers", ledger.changes.len(), load.count());
    assert!(!process.said().contains("panicked") && !far.said().contains("panicked"));
    far.stop();
    process.stop();
}

struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::SeqCst);
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// Whether a proxy accepts and refuses just what the log says.
fn check_follower(process: &Process, ledger: &Ledger, secrets: &HashMap<(String, String), String>) {
    let mut counts = BTreeMap::from([("Enabled", 0.0), ("Disabled", 0.0)]);
    for row in ledger.rows.values() {
        *counts.get_mut(row["status"].as_str().expect("a text")).expect("a status") += 1.0;
    }
    for (status, count) in counts {
        let series = format!("scim_guard_credentials{{state=\"{}\"}}", status.to_ascii_lowercase());
        assert_eq!(process.metric(&series), count, "{series}");
    }
    let mut client = Client::connect(process.address("proxy"));
    let mut seen = BTreeMap::new();
    for (key, secret) in secrets {
        let switch = ledger.tenants.get(&key.0).map(|it| &it["synchronization"]);
        let wanted = match (ledger.rows.get(key), switch) {
            (Some(row), Some(switch)) => {
                assert_eq!(row["digest"], *digest(secret));
                match (row["status"].as_str(), switch.as_str()) {
                    (Some("Disabled"), _) => 401,
                    (_, Some("Disabled")) => 403,
                    _ => 200,
                }
            }
            _ => 401,
        };
        let status = probe(&mut client, &key.0, secret);
        assert_eq!(status, wanted, "{key:?} at {:?}", process.folder);
        *seen.entry(status).or_insert(0) += 1;
    }
    println!("{seen:?}");
}

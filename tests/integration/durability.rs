//! What an admin API has answered is kept, however its process ends, and each of its followers ends
//! where the store does.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::{
    Api, Process, config, follower, furnish, read_stream, secret_of, wait_until_applied,
};
use crate::backend::Backend;
use crate::guard::wait_for;
use crate::ledger::{LIMIT, Ledger, check_follower};
use crate::load::{Load, Over, lock, setting};

/// An address that no other test listens at, and that no client's port is taken from: so a port
/// there is free again after its process was killed.
const OWN_ADDRESS: &str = "127.77.1.1:0";

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
    *lock(&watcher.last_id) = ledger.at(0).position();
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
    let replicas = operator.get("/v1/replicas").json();
    assert_eq!(replicas["replicas"].as_array().map(Vec::len), Some(2), "the dead are forgotten");
    println!("{} changes, {} answers", ledger.changes.len(), load.count());
    assert!(!process.said().contains("panicked") && !far.said().contains("panicked"));
    far.stop();
    process.stop();
}

//! The admin API is gone, comes back, is slow, or answers oddly.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::Fault;
use crate::relay::Relay;
use crate::scene::{CREDENTIALS, Fleet, Operator, Plan, Scene};
use crate::wire::Message;

pub const FAULTS: [Fault; 8] = [
    Fault {
        name: "admin lost for hours",
        alert: Some("ScimGuardSourceDown"),
        also: &["ScimGuardDown"],
        stops_okta: false,
        play: lost_for_hours,
    },
    Fault {
        name: "admin lost for longer than max_stale",
        alert: Some("ScimGuardUndecided"),
        also: &["ScimGuardSourceDown", "ScimGuardDown"],
        stops_okta: true,
        play: lost_for_days,
    },
    Fault { name: "admin restarted", alert: None, also: &[], stops_okta: false, play: restarted },
    Fault {
        name: "admin killed in the middle of writes",
        alert: None,
        also: &[],
        stops_okta: false,
        play: killed_while_writing,
    },
    Fault { name: "admin slow", alert: None, also: &[], stops_okta: false, play: slow },
    Fault {
        name: "admin's streams cut again and again",
        alert: None,
        also: &[],
        stops_okta: false,
        play: streams_cut,
    },
    Fault {
        name: "admin and store of the next version",
        alert: None,
        also: &[],
        stops_okta: false,
        play: next_version,
    },
    Fault {
        name: "clocks differ",
        alert: Some("ScimGuardClockSkew"),
        also: &["ScimGuardUndecided", "ScimGuardCredentialExpiresIn1Day"],
        stops_okta: false,
        play: clocks_differ,
    },
];

/// Less than `max_stale`: all goes on, and only what is unknown is in doubt.
fn lost_for_hours(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    scene.strike();
    fleet.admin.kill();
    scene.wait_for_alert();
    fleet.wait_for_leavers(scene, 3);
    bring_back(scene, &mut fleet);
    fleet.close(scene);
}

/// Beyond `max_stale` nobody can know any more which tokens are good: 503, and 401 for those known
/// as bad.
fn lost_for_days(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan {
        credentials: "  max_stale: { reads: 5s, writes: 5s }\n".to_owned(),
        ..Plan::default()
    });
    fleet.admin.kill();
    let live = fleet.made.okta.secret.clone();
    scene.wait_for("the first doubt", || fleet.status(scene, 0, &live) == 503);
    scene.strike();
    scene.wait_for_alert();
    let dead = fleet.status(scene, 0, &fleet.made.dead.secret);
    scene.check(dead == 401, format!("{dead} for a token that is known as bad"));
    bring_back(scene, &mut fleet);
    fleet.close(scene);
}

fn bring_back(scene: &Scene<'_>, fleet: &mut Fleet) {
    fleet.admin.start();
    fleet.admin.wait_until_ready();
    fleet.wait_for_work(scene);
}

fn restarted(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    scene.strike();
    let ended = fleet.admin.stop();
    scene.check(ended.success(), format!("the admin API ends with {ended}"));
    bring_back(scene, &mut fleet);
    scene.look_on();
    fleet.close(scene);
}

/// What was answered has happened, whatever comes.
fn killed_while_writing(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    scene.strike();
    for _ in 0..3 {
        let (operator, written) = (fleet.operator.clone(), Mutex::default());
        thread::scope(|scope| {
            scope.spawn(|| write_while_answered(&operator, &written));
            let count = || written.lock().expect("sound").len();
            scene.wait_for("some writes", || count() >= 10);
            fleet.admin.kill();
        });
        fleet.admin.start();
        fleet.admin.wait_until_ready();
        for (id, status) in written.into_inner().expect("sound") {
            let found = fleet.operator.ask("GET", &format!("{CREDENTIALS}/{id}"), &Value::Null);
            let found = found.json()["status"].clone();
            let fits = status.is_none_or(|status| found == status);
            scene.check(fits, format!("{id} is {found}, and {status:?} was answered"));
        }
        fleet.wait_for_work(scene);
    }
    scene.look_on();
    fleet.close(scene);
}

/// An id, and its status if that is certain.
type Written = (String, Option<&'static str>);

/// Creates and disables until nobody answers.
fn write_while_answered(operator: &Operator, written: &Mutex<Vec<Written>>) {
    while let Ok(made) = operator.try_ask("POST", CREDENTIALS, &json!({})) {
        let id = made.json()["credential_id"].as_str().expect("an id").to_owned();
        let path = format!("{CREDENTIALS}/{id}");
        let disabled = operator.try_ask("PATCH", &path, &json!({ "status": "Disabled" }));
        let status = disabled.is_ok().then_some("Disabled");
        written.lock().expect("sound").push((id, status));
    }
}

/// A new token works at once all the same.
fn slow(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    scene.strike();
    for relay in &fleet.relays {
        relay.set(|weather| weather.delay = Duration::from_millis(400));
    }
    scene.look_on();
    let made = fleet.operator.create(&json!({}));
    for proxy in 0..2 {
        let status = fleet.status(scene, proxy, &made.secret);
        scene.check(status == 200, format!("{status} for a new token at proxy {proxy}"));
    }
    fleet.close(scene);
}

/// Revocations come by the polls.
fn streams_cut(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    let quiet = AtomicBool::new(false);
    scene.strike();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !quiet.load(Ordering::Relaxed) {
                fleet.relays.iter().for_each(Relay::cut_streams);
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        for _ in 0..10 {
            let made = fleet.operator.create(&json!({}));
            revoke(scene, &fleet, &made);
        }
        scene.look_on();
        quiet.store(true, Ordering::Relaxed);
    });
    fleet.close(scene);
}

/// Disables a token and sees it dead everywhere once the receipt is there.
fn revoke(scene: &Scene<'_>, fleet: &Fleet, made: &crate::scene::Made) {
    let revision = fleet.operator.set(made, "Disabled");
    let receipt = fleet.operator.receipt(revision, "20s");
    scene.check(receipt["complete"] == true, format!("no receipt: {receipt}"));
    for proxy in 0..fleet.proxies.len() {
        let status = fleet.status(scene, proxy, &made.secret);
        if status < 400 {
            scene.ledger.resurrected.add(1);
        }
        scene.check(status == 401, format!("{status} for a revoked token at proxy {proxy}"));
    }
}

/// It has keys, kinds of changes and columns that we do not know.
fn next_version(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    scene.strike();
    fleet.admin.stop();
    let store = fleet.admin.folder().join("data/admin.db");
    let url = format!("sqlite:{}", store.display());
    let script = "ALTER TABLE credentials ADD COLUMN later TEXT NOT NULL DEFAULT 'x'; \
                  CREATE TABLE laters (later TEXT) STRICT;";
    let number = "PRAGMA user_version";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.expect("a store");
        let version: i64 = sqlx::query_scalar(number).fetch_one(&mut connection).await.expect("it");
        let script = format!("{script} {number} = {}", version + 1000);
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut connection).await.expect("it is ours");
        connection.close().await.expect("closed");
    });
    for relay in &fleet.relays {
        relay.set(|weather| weather.change = Some(as_the_next_version));
        relay.cut_all();
    }
    bring_back(scene, &mut fleet);
    for _ in 0..5 {
        let made = fleet.operator.create(&json!({}));
        let at_once = fleet.status(scene, 0, &made.secret);
        scene.check(at_once == 200, format!("{at_once} for a new token"));
        revoke(scene, &fleet, &made);
    }
    scene.look_on();
    fleet.close(scene);
}

fn as_the_next_version(request: &Message, body: Vec<u8>) -> Vec<u8> {
    if request.asks_for_a_stream() {
        let text = String::from_utf8(body).expect("text");
        let line = |line: &str| match line.strip_prefix("data: ") {
            Some(data) => format!("data: {}\n", extended(data)),
            None => format!("{line}\n"),
        };
        let unknown = "event: policy\ndata: {\"type\":\"policy\",\"later\":1}\n\n";
        return (unknown.to_owned() + &text.lines().map(line).collect::<String>()).into_bytes();
    }
    let text = String::from_utf8(body).expect("text");
    let mut value: Value = serde_json::from_str(&extended(&text)).expect("JSON");
    if let Some(changes) = value["changes"].as_array_mut() {
        changes.insert(0, json!({ "type": "policy", "later": 1 }));
    }
    value.to_string().into_bytes()
}

/// With a key more in each object.
fn extended(json: &str) -> String {
    fn extend(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.values_mut().for_each(extend);
                object.insert("later".to_owned(), json!({ "much": [1, null] }));
            }
            Value::Array(array) => array.iter_mut().for_each(extend),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).expect("JSON");
    extend(&mut value);
    value.to_string()
}

/// Who is wrong is not known, so nothing is said to have expired.
fn clocks_differ(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    let short = fleet.operator.create(&json!({ "expire_in": "10s" }));
    scene.strike();
    fleet.relays.iter().for_each(|relay| relay.set(|weather| weather.seconds_ahead = 120));
    scene.wait_for("the end of a token", || fleet.status(scene, 0, &short.secret) != 200);
    let uncertain = fleet.status(scene, 0, &short.secret);
    scene.check(uncertain == 503, format!("{uncertain} for what may have expired"));
    scene.wait_for_alert();
    fleet.relays.iter().for_each(|relay| relay.set(|weather| weather.seconds_ahead = 0));
    scene.wait_for("certainty", || fleet.status(scene, 0, &short.secret) == 401);
    fleet.close(scene);
}

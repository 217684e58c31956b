//! Tokens that leak, end, are replaced, or are guessed at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::Fault;
use crate::callers::Thief;
use crate::scene::{Fleet, Made, Plan, Scene};

pub const FAULTS: [Fault; 5] = [
    Fault {
        name: "token leaked while a replica is cut off",
        alert: Some("ScimGuardReplicaPending"),
        also: &["ScimGuardSourceDown"],
        stops_okta: false,
        play: leaked,
    },
    Fault {
        name: "token leaked while the admin is gone",
        alert: Some("ScimGuardSourceDown"),
        also: &["ScimGuardDown"],
        stops_okta: false,
        play: denied,
    },
    Fault {
        name: "thousands of unknown tokens",
        alert: Some("ScimGuardUnknownTokens"),
        also: &[],
        stops_okta: false,
        play: guessed,
    },
    Fault {
        name: "credential expires during the day",
        alert: Some("ScimGuardCredentialExpiresIn1Day"),
        also: &[],
        stops_okta: false,
        play: expires,
    },
    Fault {
        name: "rotation with overlap",
        alert: None,
        also: &["ScimGuardCredentialExpiresIn1Day"],
        stops_okta: false,
        play: rotated,
    },
];

/// With a file of denials.
fn deniable() -> Plan {
    Plan {
        credentials: "  max_stale: { reads: 10m, writes: 10m }\n  deny: deny.yaml\n".to_owned(),
        files: vec![("deny.yaml".to_owned(), "[]\n".to_owned())],
        ..Plan::default()
    }
}

/// A token that somebody has; it is not dead yet.
fn leak(scene: &Scene<'_>, fleet: &Fleet) -> Made {
    let leaked = fleet.operator.create(&json!({ "label": "leaked" }));
    for proxy in 0..2 {
        scene.wait_for("the token", || fleet.status(scene, proxy, &leaked.secret) == 200);
    }
    leaked
}

fn deny(scene: &Scene<'_>, fleet: &Fleet, proxy: usize, leaked: &Made) {
    let list = format!("- {{ credential_id: {} }}\n", leaked.id);
    fleet.proxies[proxy].write("deny.yaml", &list);
    scene.wait_for("the denial", || fleet.status(scene, proxy, &leaked.secret) == 401);
}

/// The receipt names who may still accept it, and that one has a file of its own.
fn leaked(scene: &Scene<'_>) {
    let fleet = scene.fleet(&deniable());
    let leaked = leak(scene, &fleet);
    fleet.relays[1].cut();
    scene.strike();
    let revision = fleet.operator.set(&leaked, "Disabled");
    scene.wait_for("its end at the one", || fleet.status(scene, 0, &leaked.secret) == 401);
    let proxies: Vec<_> = fleet.proxies.iter().map(|proxy| proxy.faces.proxy).collect();
    let mut first = Thief::start(&proxies[..1], &leaked.secret, &scene.ledger);
    first.is_dead();
    let receipt = fleet.operator.receipt(revision, "1s");
    let replicas = receipt["replicas"].as_array().expect("a list").clone();
    let pending: Vec<_> = replicas.iter().filter(|it| it["state"] == "pending").collect();
    let names: Vec<_> = pending.iter().filter_map(|it| it["name"].as_str()).collect();
    let told = receipt["complete"] == false && names == ["proxy-1"] && {
        pending.iter().all(|replica| replica["refuses_by"].is_string())
    };
    scene.check(told, format!("the receipt does not name who is cut off: {receipt}"));
    scene.wait_for_alert();
    deny(scene, &fleet, 1, &leaked);
    let mut all = Thief::start(&proxies, &leaked.secret, &scene.ledger);
    all.is_dead();
    fleet.relays[1].open();
    let receipt = fleet.operator.receipt(revision, "20s");
    scene.check(receipt["complete"] == true, format!("no receipt: {receipt}"));
    fleet.proxies[1].write("deny.yaml", "[]\n");
    let tries = all.tries();
    scene.wait_for("more tries", || all.tries() > tries + 20);
    first.stop();
    all.stop();
    fleet.close(scene);
}

fn denied(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&deniable());
    let leaked = leak(scene, &fleet);
    scene.strike();
    fleet.admin.kill();
    for proxy in 0..2 {
        deny(scene, &fleet, proxy, &leaked);
    }
    let proxies: Vec<_> = fleet.proxies.iter().map(|proxy| proxy.faces.proxy).collect();
    let mut thief = Thief::start(&proxies, &leaked.secret, &scene.ledger);
    thief.is_dead();
    scene.wait_for_alert();
    fleet.admin.start();
    fleet.admin.wait_until_ready();
    let revision = fleet.operator.set(&leaked, "Disabled");
    let receipt = fleet.operator.receipt(revision, "20s");
    scene.check(receipt["complete"] == true, format!("no receipt: {receipt}"));
    fleet.proxies.iter().for_each(|proxy| proxy.write("deny.yaml", "[]\n"));
    let tries = thief.tries();
    scene.wait_for("more tries", || thief.tries() > tries + 20);
    thief.stop();
    fleet.close(scene);
}

/// They get 401, and the others do not notice.
fn guessed(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    scene.strike();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut guesses = 0;
                while guesses < 1000 || !over.load(Ordering::Relaxed) {
                    let token = format!("guess-{:032x}", fastrand::u128(..));
                    let status = fleet.status(scene, guesses % 2, &token);
                    scene.check(status == 401, format!("{status} for a guess"));
                    guesses += 1;
                    if guesses > 1000 {
                        thread::park_timeout(std::time::Duration::from_millis(50));
                    }
                }
            });
        }
        scene.wait_for_alert();
        fleet.wait_for_work(scene);
        over.store(true, Ordering::Relaxed);
    });
    fleet.close(scene);
}

/// The alert comes before the end, and a person acts on it.
fn expires(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    let short = fleet.operator.create(&json!({ "expire_in": "70s" }));
    scene.strike();
    fleet.entra_secret.replace(&short.secret);
    scene.wait_for_alert();
    let ended = || fleet.status(scene, 0, &short.secret) == 401;
    scene.check(!ended(), "it has ended before its time");
    let new = fleet.operator.rotate(&short, &json!({}));
    fleet.entra_secret.replace(&new.secret);
    fleet.wait_for_work(scene);
    scene.wait_for("its end", ended);
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// Both live until the old one ends.
fn rotated(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    scene.strike();
    let old = &fleet.made.entra;
    let new = fleet.operator.rotate(old, &json!({ "overlap": "20s" }));
    for proxy in 0..2 {
        for made in [old, &new] {
            let status = fleet.status(scene, proxy, &made.secret);
            scene.check(status == 200, format!("{status} within the overlap"));
        }
    }
    fleet.wait_for_work(scene);
    fleet.entra_secret.replace(&new.secret);
    for proxy in 0..2 {
        scene.wait_for("the old one's end", || fleet.status(scene, proxy, &old.secret) == 401);
    }
    let proxies: Vec<_> = fleet.proxies.iter().map(|proxy| proxy.faces.proxy).collect();
    let mut thief = Thief::start(&proxies, &old.secret, &scene.ledger);
    thief.is_dead();
    scene.look_on();
    thief.stop();
    fleet.close(scene);
}

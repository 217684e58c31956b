//! The store is not what it was, or has no room.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Fault;
use crate::callers::Thief;
use crate::scene::{CREDENTIALS, Fleet, Made, Plan, Scene};

pub const FAULTS: [Fault; 4] = [
    Fault {
        name: "store emptied",
        alert: Some(CHANGED),
        also: &["ScimGuardUndecided"],
        stops_okta: false,
        play: emptied,
    },
    Fault {
        name: "backup of yesterday restored",
        alert: Some(CHANGED),
        also: &[],
        stops_okta: false,
        play: restored,
    },
    Fault {
        name: "failover to a copy that lacks rows",
        alert: Some(CHANGED),
        also: &[],
        stops_okta: false,
        play: failed_over,
    },
    Fault {
        name: "disk full",
        alert: Some("ScimGuardAdminFailing"),
        also: &["ScimGuardAuditWriteFailed"],
        stops_okta: false,
        play: disk_full,
    },
];

const CHANGED: &str = "ScimGuardHistoryChanged";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for file in fs::read_dir(from).expect("a folder").map(|it| it.expect("a file").path()) {
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// Stops the admin API, does something to its files, and starts it again.
fn swap(fleet: &mut Fleet, act: impl FnOnce(&Path)) {
    fleet.admin.stop();
    act(fleet.admin.folder());
    fleet.admin.start();
    fleet.admin.wait_until_ready();
}

/// Nobody is refused for it and nobody let in. The old store ends the matter.
fn emptied(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    scene.strike();
    swap(&mut fleet, |folder| fs::rename(folder.join("data"), folder.join("lost")).expect("moved"));
    scene.wait_for_alert();
    let new = fleet.operator.create(&json!({}));
    let status = fleet.status(scene, 0, &new.secret);
    scene.check(status == 503, format!("{status} for a token of a store that nobody knows"));
    fleet.wait_for_work(scene);
    swap(&mut fleet, |folder| {
        fs::remove_dir_all(folder.join("data")).expect("removed");
        fs::rename(folder.join("lost"), folder.join("data")).expect("moved");
    });
    wait_until_settled(scene, &fleet);
    fleet.close(scene);
}

fn restored(scene: &Scene<'_>) {
    let (mut fleet, leaked, thief) = after_a_leak(scene);
    scene.strike();
    swap(&mut fleet, put_yesterday_back);
    accept(scene, fleet, &leaked, thief);
}

/// It goes on from there at once, so that its numbers look like those of a successor.
fn failed_over(scene: &Scene<'_>) {
    let (mut fleet, leaked, thief) = after_a_leak(scene);
    fleet.relays.iter().for_each(crate::relay::Relay::cut);
    scene.strike();
    swap(&mut fleet, put_yesterday_back);
    let head = leaked.revision + 10;
    while fleet.operator.create(&json!({})).revision < head {}
    fleet.relays.iter().for_each(crate::relay::Relay::open);
    accept(scene, fleet, &leaked, thief);
}

fn put_yesterday_back(folder: &Path) {
    fs::remove_dir_all(folder.join("data")).expect("removed");
    fs::rename(folder.join("yesterday"), folder.join("data")).expect("moved");
}

/// A token that lived when the copy was made has been revoked since, and somebody has it.
fn after_a_leak(scene: &Scene<'_>) -> (Fleet, Made, Thief) {
    let mut fleet = scene.fleet(&Plan::default());
    let mut leaked = fleet.operator.create(&json!({}));
    swap(&mut fleet, |folder| copy(&folder.join("data"), &folder.join("yesterday")));
    scene.wait_for("the token", || fleet.status(scene, 1, &leaked.secret) == 200);
    leaked.revision = fleet.operator.set(&leaked, "Disabled");
    let receipt = fleet.operator.receipt(leaked.revision, "20s");
    scene.check(receipt["complete"] == true, format!("no receipt: {receipt}"));
    let proxies: Vec<_> = fleet.proxies.iter().map(|proxy| proxy.faces.proxy).collect();
    let thief = Thief::start(&proxies, &leaked.secret, &scene.ledger);
    thief.is_dead();
    (fleet, leaked, thief)
}

/// What a person does: sees what would come back to life, kills it again, and accepts the rest.
fn accept(scene: &Scene<'_>, fleet: Fleet, leaked: &Made, mut thief: Thief) {
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    let would_revive = || {
        let told = fleet.operator.ask("GET", "/v1/history", &serde_json::Value::Null).json();
        told["would_revive"].to_string().contains(&leaked.id)
    };
    scene.wait_for("what would come back to life", would_revive);
    fleet.operator.set(leaked, "Disabled");
    fleet.operator.accept();
    wait_until_settled(scene, &fleet);
    let tries = thief.tries();
    scene.wait_for("more tries", || thief.tries() > tries + 4);
    thief.stop();
    fleet.close(scene);
}

fn wait_until_settled(scene: &Scene<'_>, fleet: &Fleet) {
    scene.wait_for("the end of the dispute", || {
        fleet.proxies.iter().all(|it| it.metric("scim_guard_source_history_changed") == Some(0.0))
    });
    let new = fleet.operator.create(&json!({}));
    for proxy in 0..fleet.proxies.len() {
        scene.wait_for("a new token", || fleet.status(scene, proxy, &new.secret) == 200);
    }
    fleet.wait_for_work(scene);
}

/// What takes rights away has room still.
fn disk_full(scene: &Scene<'_>) {
    let script = "mkdir \"$FOLDER/data\" && mount -t tmpfs -o size=6m,mode=700 tmpfs \"$FOLDER/data\" && \
        { while kill -0 $$; do \
            if [ -e \"$FOLDER/fill\" ]; then cat /dev/zero >\"$FOLDER/data/filler\"; rm \"$FOLDER/fill\"; fi; \
            if [ -e \"$FOLDER/free\" ]; then rm \"$FOLDER/data/filler\" \"$FOLDER/free\"; fi; \
            sleep 0.1; \
          done 2>/dev/null & } && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let fleet = scene
        .fleet(&Plan { admin_wrapper: wrapper.map(str::to_owned).to_vec(), ..Plan::default() });
    let leaked = fleet.operator.create(&json!({}));
    scene.wait_for("the token", || fleet.status(scene, 0, &leaked.secret) == 200);
    let create =
        || fleet.operator.try_ask("POST", CREDENTIALS, &json!({})).expect("an answer").status;
    fleet.admin.write("fill", "");
    scene.wait_for("the full disk", || create() == 503);
    scene.strike();
    let revision = fleet.operator.set(&leaked, "Disabled");
    let receipt = fleet.operator.receipt(revision, "20s");
    scene.check(receipt["complete"] == true, format!("no receipt: {receipt}"));
    let status = fleet.status(scene, 1, &leaked.secret);
    scene.check(status == 401, format!("{status} for a token that was revoked on a full disk"));
    scene.wait_for_alert();
    fleet.admin.write("free", "");
    scene.wait_for("room", || create() == 201);
    fleet.close(scene);
}

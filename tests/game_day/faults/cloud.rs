//! The cloud whose credentials are followed refuses us, or tells less than there is. Our own admin
//! API stands for it, asked in the cloud's dialect.

use rustix::process::Signal;
use serde_json::Value;

use crate::Fault;
use crate::program::{Faces, Program};
use crate::scene::{Plan, Scene, TENANT, admin_config};
use crate::wire::Message;

pub const FAULTS: [Fault; 2] = [
    Fault {
        name: "cloud key revoked",
        alert: Some("ScimGuardSourceDown"),
        also: &[],
        stops_okta: false,
        play: key_revoked,
    },
    Fault {
        name: "cloud listing cut short",
        alert: Some("ScimGuardSourceDown"),
        also: &[],
        stops_okta: false,
        play: listing_short,
    },
];

const KEYS: &str = "  access_keys: [{ id: AKIDday, secret: file:key.secret, role: operator }]\n";

fn files() -> Vec<(String, String)> {
    let files = [("key.id", "AKIDday"), ("key.secret", "secret-of-the-day-0123456789")];
    files.map(|(name, content)| (name.to_owned(), content.to_owned())).to_vec()
}

/// An admin instance mirrors the cloud for all proxies; what it knows stays in force.
fn key_revoked(scene: &Scene<'_>) {
    let faces = Faces::at(scene.address(9));
    let config = admin_config(faces, KEYS);
    let mut all: Vec<_> =
        vec![("operator", crate::scene::OPERATOR), ("fleet", crate::scene::FLEET)];
    let files = files();
    all.extend(files.iter().map(|(name, content)| (name.as_str(), content.as_str())));
    all.push(("proxy.yaml", &config));
    let cloud = Program::launch("cloud", faces, &all, &[]);
    cloud.wait_until_ready();
    let mirror = format!(
        "  mirror:\n    - alibaba: {{ directory_id: {TENANT}, access_key_id: 'file:key.id', access_key_secret: \
         'file:key.secret', endpoint: 'http://{}' }}\n      interval: 1s\n",
        faces.admin
    );
    let fleet = scene.fleet(&Plan { admin: mirror, files, ..Plan::default() });
    scene.strike();
    cloud.write("proxy.yaml", &config.replace("AKIDday", "AKIDother"));
    cloud.signal(Signal::HUP);
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    // What takes rights away is done here, and told to the cloud later.
    let status = |proxy| fleet.status(scene, proxy, &fleet.made.spare.secret);
    fleet.operator.set(&fleet.made.spare, "Disabled");
    for proxy in 0..2 {
        scene.wait_for("the refusal", || status(proxy) == 401);
    }
    cloud.write("proxy.yaml", &config);
    cloud.signal(Signal::HUP);
    scene.wait_for("the cloud's word", || {
        let path = format!("{}/{}", crate::scene::CREDENTIALS, fleet.made.spare.id);
        let here = fleet.operator.ask("GET", &path, &Value::Null).json();
        here["cloud"] == "listed" && here["status"] == "Disabled"
    });
    scene.check(status(0) == 401, "it has come back to life");
    fleet.close(scene);
}

/// Each proxy follows the cloud by itself. A listing that lacks a row takes nothing away.
fn listing_short(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan {
        admin: KEYS.to_owned(),
        files: files(),
        source: |cloud| {
            format!(
                "tencent\n  tencent: {{ zone_id: {TENANT}, secret_id: 'file:key.id', secret_key: 'file:key.secret', \
                 endpoint: 'http://{cloud}', enrolment: enrolment.yaml }}"
            )
        },
        ..Plan::default()
    });
    scene.strike();
    fleet.relays.iter().for_each(|relay| relay.set(|weather| weather.change = Some(cut_short)));
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    fleet.relays.iter().for_each(|relay| relay.set(|weather| weather.change = None));
    fleet.operator.set(&fleet.made.spare, "Disabled");
    for proxy in 0..2 {
        scene.wait_for("the next listing", || {
            fleet.status(scene, proxy, &fleet.made.spare.secret) == 401
        });
    }
    fleet.close(scene);
}

fn cut_short(_: &Message, body: Vec<u8>) -> Vec<u8> {
    let Ok(mut json) = serde_json::from_slice::<Value>(&body) else { return body };
    if let Some(rows) = json["Response"]["SCIMCredentials"].as_array_mut() {
        rows.pop();
    }
    json.to_string().into_bytes()
}

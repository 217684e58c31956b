//! A config that cannot be, rolled out in both ways.

use rustix::process::Signal;

use crate::Fault;
use crate::scene::{Plan, Scene};

pub const FAULTS: [Fault; 2] = [
    Fault {
        name: "bad config, reloaded",
        alert: Some("ScimGuardReloadFailed"),
        also: &[],
        stops_okta: false,
        play: reloaded,
    },
    Fault {
        name: "bad config, restarted with",
        alert: Some("ScimGuardDown"),
        // The thief asks a proxy before it is ready.
        also: &["ScimGuardUndecided"],
        stops_okta: false,
        play: restarted,
    },
];

/// All stays as it was.
fn reloaded(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    let good: Vec<_> = fleet.proxies.iter().map(|proxy| proxy.read("proxy.yaml")).collect();
    scene.strike();
    for (proxy, good) in fleet.proxies.iter().zip(&good) {
        proxy.write("proxy.yaml", &good.replace("path: /scim/v2", "path: /scim/v2, retries: 3"));
        proxy.signal(Signal::HUP);
    }
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    for (proxy, good) in fleet.proxies.iter().zip(&good) {
        proxy.write("proxy.yaml", good);
        proxy.signal(Signal::HUP);
        scene.wait_for("the reload", || {
            proxy.metric("scim_guard_config_last_reload_successful") == Some(1.0)
        });
    }
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// It does not come up, and says why; the other one goes on.
fn restarted(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    let good = fleet.proxies[0].read("proxy.yaml");
    scene.strike();
    fleet.proxies[0].write("proxy.yaml", &good.replace("path: /scim/v2", "path: scim"));
    let left = fleet.proxies[0].stop();
    scene.check(left.success(), format!("it leaves with {left}"));
    fleet.proxies[0].start();
    let ended = fleet.proxies[0].wait();
    scene.check(ended.code() == Some(1), format!("with a bad config it ends with {ended}"));
    let told = fleet.proxies[0].diagnostics();
    scene.check(told.contains("proxy.routes[0].path"), format!("it does not say why: {told}"));
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    fleet.proxies[0].write("proxy.yaml", &good);
    fleet.proxies[0].start();
    fleet.proxies[0].wait_until_ready();
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

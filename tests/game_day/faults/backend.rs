//! The SCIM server behind us is away for a moment, hangs, or cannot be found.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Fault;
use crate::scene::{Plan, Scene};

pub const FAULTS: [Fault; 4] = [
    Fault { name: "backend flapping", alert: None, also: &[], stops_okta: false, play: flapping },
    Fault {
        name: "backend restarted during deactivations",
        alert: None,
        also: &[],
        stops_okta: false,
        play: restarted,
    },
    Fault { name: "backend hangs", alert: Some(DOWN), also: &[], stops_okta: true, play: hangs },
    Fault {
        name: "backend's name is in no DNS",
        alert: Some(DOWN),
        // The thief asks a proxy before it is ready.
        also: &["ScimGuardUndecided"],
        stops_okta: false,
        play: nameless,
    },
];

const DOWN: &str = "ScimGuardBackendDown";

fn flapping(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    scene.strike();
    for _ in 0..12 {
        fleet.backend.leave();
        wait_until_waited_for(scene, &fleet);
        fleet.backend.come_back();
        fleet.wait_for_leavers(scene, 1);
    }
    scene.look_on();
    fleet.close(scene);
}

/// A request waits for a backend that refuses connections: nothing was sent yet.
fn wait_until_waited_for(scene: &Scene<'_>, fleet: &crate::scene::Fleet) {
    scene.wait_for("requests that wait", || {
        let waiting =
            fleet.proxies.iter().filter_map(|it| it.metric("scim_guard_requests_in_flight"));
        waiting.sum::<f64>() >= 2.0
    });
}

fn restarted(scene: &Scene<'_>) {
    let fleet = scene.fleet(&Plan::default());
    scene.strike();
    for _ in 0..3 {
        fleet.backend.leave();
        let done = fleet.okta.done();
        wait_until_waited_for(scene, &fleet);
        // As long as a restart takes.
        let begun = std::time::Instant::now();
        while begun.elapsed().as_secs() < 3 {
            thread::park_timeout(std::time::Duration::from_millis(50));
        }
        scene.check(fleet.okta.done() <= done + 1, "somebody has left without a backend");
        fleet.backend.come_back();
        fleet.wait_for_leavers(scene, 3);
    }
    scene.look_on();
    fleet.close(scene);
}

/// A person has to mend it, and then to retry what Okta tried once.
fn hangs(scene: &Scene<'_>) {
    let upstream = ", response_timeout: 2s".to_owned();
    let fleet = scene.fleet(&Plan { upstream, ..Plan::default() });
    scene.strike();
    fleet.backend.hang();
    scene.wait_for_alert();
    fleet.backend.come_back();
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// Who has found it goes on with the addresses that it has; who is started now does not find it.
fn nameless(scene: &Scene<'_>) {
    let script = "mount --bind \"$FOLDER/hosts\" /etc/hosts && \
                  mount --bind \"$FOLDER/resolv.conf\" /etc/resolv.conf && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let hosts = format!("{} backend.test\n", scene.address(1));
    let nobody = format!("nameserver {}\noptions timeout:1 attempts:1\n", scene.address(53));
    let mut fleet = scene.fleet(&Plan {
        upstream: ", connect_wait: 1s".to_owned(),
        backend: Some("backend.test"),
        proxy_wrapper: wrapper.map(str::to_owned).to_vec(),
        files: vec![("hosts".to_owned(), hosts.clone()), ("resolv.conf".to_owned(), nobody)],
        ..Plan::default()
    });
    let tell = |hosts: &str, fleet: &crate::scene::Fleet| {
        for proxy in &fleet.proxies {
            // In place: it is that very file which is seen as the system's.
            std::fs::write(proxy.folder().join("hosts"), hosts).expect("it is ours");
        }
    };
    tell("", &fleet);
    fleet.wait_for_leavers(scene, 20);
    fleet.proxies[1].stop();
    fleet.proxies[1].start();
    fleet.proxies[1].wait_until_ready();
    scene.strike();
    let mended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !mended.load(Ordering::Relaxed) {
                    let status = fleet.status(scene, 1, &fleet.made.entra.secret);
                    scene.check(matches!(status, 200 | 503), format!("{status} without a backend"));
                }
            });
        }
        scene.wait_for_alert();
        tell(&hosts, &fleet);
        scene.wait_for("its name", || fleet.status(scene, 1, &fleet.made.entra.secret) == 200);
        mended.store(true, Ordering::Relaxed);
    });
    fleet.close(scene);
}

//! A proxy is ended, or what it needs of the system runs out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Fault;
use crate::scene::{Plan, Scene};

pub const FAULTS: [Fault; 4] = [
    Fault {
        name: "proxy killed while the admin is gone",
        alert: Some("ScimGuardNeverLoaded"),
        also: &["ScimGuardSourceDown", "ScimGuardDown", "ScimGuardUndecided"],
        stops_okta: false,
        play: killed,
    },
    Fault {
        name: "drain cut off",
        alert: Some("ScimGuardDrainCutOff"),
        // The thief asks a proxy before it is ready.
        also: &["ScimGuardUndecided"],
        stops_okta: false,
        play: cut_off,
    },
    Fault {
        name: "access log that nobody reads",
        alert: Some("ScimGuardAccessLinesDropped"),
        also: &[],
        stops_okta: false,
        play: unread,
    },
    Fault {
        name: "connections of strangers without end",
        alert: Some("ScimGuardConnectionsExhausted"),
        also: &[],
        stops_okta: false,
        play: crowded,
    },
];

/// Without a table it says that it knows nothing, and never that a token is bad.
fn killed(scene: &Scene<'_>) {
    let mut fleet = scene.fleet(&Plan::default());
    fleet.admin.kill();
    fleet.wait_for_leavers(scene, 1);
    // Nobody is asked to leave at this very moment: what is cut there is not tried again.
    fleet.front.prefer(1);
    fleet.wait_for_leavers(scene, 2);
    fleet.proxies[0].kill();
    fleet.proxies[0].start();
    let tokens = [&fleet.made.okta.secret, &fleet.made.dead.secret, "somebody-elses-token"];
    let address = fleet.proxies[0].faces.proxy;
    let status = |token: &str| scene.status(address, "/Users", token);
    scene.wait_for("its return", || status(tokens[0]) != 0);
    scene.strike();
    while !scene.has_fired() && !scene.is_overdue() {
        for token in tokens {
            let status = status(token);
            scene.check(status == 503, format!("{status} without a table"));
        }
        scene.check(!fleet.proxies[0].is_ready(), "it is ready without a table");
        thread::park_timeout(Duration::from_millis(500));
    }
    fleet.admin.start();
    fleet.admin.wait_until_ready();
    fleet.proxies[0].wait_until_ready();
    let status = status(tokens[0]);
    scene.check(status == 200, format!("{status} with a table"));
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// Who is slow is cut off, and that is told before the process ends.
fn cut_off(scene: &Scene<'_>) {
    let proxy = "  drain: { delay: 0s, deadline: 2s }\n".to_owned();
    let mut fleet = scene.fleet(&Plan { proxy, ..Plan::default() });
    let mut slow = TcpStream::connect(fleet.proxies[0].faces.proxy).expect("it listens");
    let head = format!(
        "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n{{",
        fleet.made.spare.secret
    );
    slow.write_all(head.as_bytes()).expect("it reads");
    scene.strike();
    let ended = fleet.proxies[0].stop();
    scene.check(ended.code() == Some(3), format!("it ends with {ended}"));
    let logged = fleet.proxies[0].read("access.log").contains("\"client_gone\"");
    scene.check(logged, "the access log lacks what was cut off");
    fleet.proxies[0].start();
    fleet.proxies[0].wait_until_ready();
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// Requests do not wait for it.
fn unread(scene: &Scene<'_>) {
    let script = "mkfifo \"$FOLDER/pipe\"; exec 3<>\"$FOLDER/pipe\"; exec \"$@\" >&3";
    let wrapper = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    let fleet = scene.fleet(&Plan { proxy_wrapper: wrapper, ..Plan::default() });
    scene.strike();
    // Long lines, so that the pipe and what is kept behind it are soon full.
    let path = format!("/Users/{}", "x".repeat(8000));
    while !scene.has_fired() && !scene.is_overdue() {
        for proxy in &fleet.proxies {
            scene.status(proxy.faces.proxy, &path, &fleet.made.okta.secret);
        }
    }
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// They take what is left over, and nothing of what the others need.
fn crowded(scene: &Scene<'_>) {
    let wrapper = ["sh", "-c", "ulimit -n 120; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    let proxy = "  drain: { delay: 0s, deadline: 5s }\n  limits: { header_timeout: 1s }\n";
    let proxy = proxy.to_owned();
    let fleet = scene.fleet(&Plan { proxy, proxy_wrapper: wrapper, ..Plan::default() });
    scene.strike();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for proxy in &fleet.proxies {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let held: Vec<_> =
                        (0..60).map(|_| TcpStream::connect(proxy.faces.proxy)).collect();
                    thread::park_timeout(Duration::from_millis(1500));
                    drop(held);
                }
            });
        }
        scene.wait_for_alert();
        over.store(true, Ordering::Relaxed);
    });
    fleet.wait_for_work(scene);
    for proxy in &fleet.proxies {
        let out = proxy.diagnostics().contains("Too many open files");
        scene.check(!out, format!("{} was out of descriptors", proxy.name));
    }
    fleet.close(scene);
}

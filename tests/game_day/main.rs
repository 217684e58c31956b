//! A game day: faults against the shipped binary while identity providers go on with their work,
//! and a real Prometheus looks on with the rules of `deploy/observability`. Nobody may be
//! quarantined, nobody who has left stay active, no revoked token come back to life; and where a
//! person is needed, the right alert fires within a minute.
//!
//! Each fault has processes, ports and callers of its own, so they all happen at once.
//! `FAULTS=admin` plays those alone whose names contain the word. Hours are made short by the
//! config, never by waiting.

mod alerts;
mod callers;
#[path = "../e2e/client.rs"]
mod client;
mod faults;
mod ledger;
#[path = "../e2e/port.rs"]
mod port;
#[path = "../e2e/process.rs"]
mod process;
mod program;
mod relay;
mod scene;
mod scim;
mod table;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use alerts::Alerts;
use scene::{ALERT_TIME, Scene};
use table::Table;

pub struct Fault {
    pub name: &'static str,
    /// The alert that calls a person, if one is needed.
    pub alert: Option<&'static str>,
    /// Those that rightly fire beside it.
    pub also: &'static [&'static str],
    /// Whether deactivations fail while it lasts, so that a person has to retry them: the backend
    /// cannot be had, or there is no way to know whether the token is good.
    pub stops_okta: bool,
    pub play: fn(&Scene<'_>),
}

/// Who uses a revoked token is told of everywhere: each fault has a thief.
const ALWAYS: &str = "ScimGuardCredentialRefused";

#[test]
fn a_day_of_faults_harms_nobody_and_calls_a_person_in_time() {
    let word = std::env::var("FAULTS").unwrap_or_default();
    let all = (1..).zip(faults::ALL.iter().copied().flatten());
    let chosen: Vec<_> = all.filter(|(_, fault)| fault.name.contains(&word)).collect();
    assert!(!chosen.is_empty(), "no fault is called {word}");
    let alerts = Alerts::start();
    let scenes: Vec<_> =
        chosen.into_iter().map(|(number, fault)| Scene::new(fault, number, &alerts)).collect();
    thread::scope(|scope| {
        scenes.iter().for_each(|scene| drop(scope.spawn(|| play(scene))));
    });
    let mut table = Table::default();
    scenes.iter().for_each(|scene| table.add(scene));
    table.print();
    let broken: Vec<_> = scenes.iter().flat_map(broken).collect();
    drop(scenes);
    drop(alerts); // What it has logged tells nothing.
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn play(scene: &Scene<'_>) {
    let played = catch_unwind(AssertUnwindSafe(|| (scene.fault.play)(scene)));
    if let Err(panic) = played {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        scene.ledger.broken(what);
    }
    let seconds = scene.seconds_to_alert();
    if scene.fault.alert.is_some() {
        let in_time = seconds.is_some_and(|it| it > 0.0 && it <= ALERT_TIME.as_secs_f64());
        scene.check(in_time, format!("the alert came after {seconds:?} seconds"));
    }
    for alert in scene.alerts.of(scene.fault.name).keys() {
        let expected = scene.fault.alert.iter().chain(scene.fault.also).chain([&ALWAYS]);
        scene.check(expected.into_iter().any(|it| it == alert), format!("{alert} fires too"));
    }
}

fn broken(scene: &Scene<'_>) -> Vec<String> {
    let told = |what: String| format!("{}: {what}", scene.fault.name);
    scene.ledger.all_broken().into_iter().map(told).collect()
}

//! The files of `deploy/edges`, each read by the program it is written for, between a client and a
//! backend that remembers: what the guard decides is what happens, and in doubt nothing.

mod cases;
mod edge;
mod recorder;
mod rig;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use self::edge::{EDGES, Edge};
use self::rig::{Rig, TENANT, Tokens, ask, users};
use self::table::assert_scim_error;
use crate::client::{Answer, Request};
use crate::process::{in_repository, until};

macro_rules! for_each_edge {
    ($($module:ident: $edge:ident),*) => {$(
        mod $module {
            #[test]
            fn lets_through_what_the_guard_allows() {
                super::lets_through_what_the_guard_allows(&super::edge::$edge);
            }

            #[test]
            fn is_closed_when_the_guard_cannot_say() {
                super::is_closed_when_the_guard_cannot_say(&super::edge::$edge);
            }

            #[test]
            fn never_opens_while_the_guard_restarts() {
                super::never_opens_while_the_guard_restarts(&super::edge::$edge);
            }
        }
    )*};
}

for_each_edge!(
    nginx: NGINX, haproxy: HAPROXY, caddy: CADDY, traefik: TRAEFIK, envoy_http: ENVOY_HTTP,
    envoy_grpc: ENVOY_GRPC
);

#[test]
fn every_shipped_file_is_taken() {
    for edge in EDGES {
        let entries = fs::read_dir(edge.folder()).expect("a folder");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("readable").file_name();
        let shipped: BTreeSet<_> = entries.map(name).collect();
        let taken = edge.files.iter().chain(&["proxy.yaml"]);
        assert_eq!(shipped, taken.map(Into::into).collect(), "{}", edge.name);
    }
    // Of the other folders, that script takes every file.
    let script = fs::read_to_string(in_repository("scripts/check-deploy")).expect("a script");
    let names = EDGES.map(|edge| edge.name).join(" ");
    assert!(
        script.contains(&format!("\nedges=({names})\n")),
        "it leaves others to us than {names}"
    );
}

fn lets_through_what_the_guard_allows(edge: &'static Edge) {
    let rig = Rig::start(edge);
    let guard = rig.guard();
    let tokens = Tokens::make(&guard, &rig);
    table::check(&rig, &tokens);

    let request = users().bearer(&tokens.fill("{good}"));
    let mut client = rig.client();
    assert_eq!(ask(&mut client, &request).status, 200);
    guard.run(&["credential", "disable", &tokens.good_id, "--tenant", TENANT, "--wait"], "");
    rig.backend.take();
    assert_eq!(ask(&mut client, &request).status, 401, "{}: revoked", edge.name);
    assert!(rig.backend.take().is_empty(), "{}: revoked", edge.name);
}

fn is_closed_when_the_guard_cannot_say(edge: &'static Edge) {
    let rig = Rig::start(edge); // With nobody in the guard's place: it has been closed already.
    let request = users().bearer(UNKNOWN);
    assert_away(&rig, &ask(&mut rig.client(), &request));

    let (guard, _nobody) = rig.unloaded_guard();
    for method in ["GET", "POST", "HEAD"] {
        let request = Request::new(method, "/scim/v2/Users").bearer(UNKNOWN);
        let answer = ask(&mut rig.client(), &request);
        assert_eq!(answer.status, 503, "{}: undecided: {answer}", edge.name);
        assert_retry(&answer, edge.name);
        assert_scim_error(&answer, method, edge.name);
    }
    drop(guard);

    let _guard = rig.hanging_guard();
    let begun = Instant::now();
    assert_away(&rig, &ask(&mut rig.client(), &request));
    assert!(begun.elapsed() < edge.away.patience, "{}: {:?}", edge.name, begun.elapsed());
    assert!(rig.backend.take().is_empty(), "{}: open in doubt", edge.name);
}

fn assert_away(rig: &Rig, answer: &Answer) {
    let name = rig.edge.name;
    assert_eq!(answer.status, rig.edge.away.status, "{name}: {answer}");
    if rig.edge.away.is_scim {
        assert_retry(answer, name);
        assert_scim_error(answer, "GET", name);
    }
}

fn assert_retry(answer: &Answer, what: &str) {
    let seconds = answer.header("Retry-After").map(str::parse::<u32>);
    assert!(matches!(seconds, Some(Ok(1..))), "{what}: {answer}");
}

fn never_opens_while_the_guard_restarts(edge: &'static Edge) {
    let rig = Rig::start(edge);
    let mut guard = rig.guard();
    let tokens = Tokens::make(&guard, &rig);
    let good = tokens.fill("{good}");
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let stream = {
        let (stop, answers, mut client) = (Arc::clone(&stop), Arc::clone(&answers), rig.client());
        thread::spawn(move || {
            let bad = users().bearer(UNKNOWN);
            while !stop.load(Ordering::Relaxed) {
                let answer = ask(&mut client, &users().bearer(&good));
                let refused = ask(&mut client, &bad);
                answers
                    .lock()
                    .expect("nobody panics with it")
                    .push((answer.status, refused.status));
            }
        })
    };
    let served = || {
        let answers = answers.lock().expect("nobody panics with it");
        answers.iter().filter(|answer| **answer == (200, 401)).count()
    };
    let wait_for = |more: usize| {
        let goal = served() + more;
        until("requests served", || (served() >= goal).then_some(()));
    };
    wait_for(20);
    guard.restart_deciding();
    wait_for(20);
    stop.store(true, Ordering::Relaxed);
    stream.join().expect("every request was answered");

    let answers = answers.lock().expect("nobody panics with it");
    // A guard that has just come back may not have read its table.
    let undecided = |status: u16| status == edge.away.status || status == 503;
    let strange = |(good, bad): &&(u16, u16)| {
        !(*good == 200 || undecided(*good)) || !(*bad == 401 || undecided(*bad))
    };
    let strange: Vec<_> = answers.iter().filter(strange).collect();
    assert!(strange.is_empty(), "{}: {strange:?} of {}", edge.name, answers.len());
    let good = answers.iter().filter(|(good, _)| *good == 200).count();
    assert_eq!(rig.backend.take().len(), good, "{}: answers of the backend", edge.name);
}

const UNKNOWN: &str = "some-token-or-other-0123456789-abcdef";

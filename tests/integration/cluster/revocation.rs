//! How a change comes to every proxy, and how the operator knows that it has.

use std::thread;
use std::time::{Duration, Instant};

use scim_guard::clock::Timestamp;
use scim_guard::credential::token::MintedToken;
use serde_json::Value;

use super::bed::{Admin, OTHER, Pair, proxy, wait_for_status};
use super::relay::{Flow, Relay};
use crate::backend::Backend;
use crate::guard::{Guard, PATIENCE, TENANT, wait_for};

#[test]
fn a_disabled_token_is_refused_by_all_at_once_and_the_receipt_names_them() {
    let (backend, admin) = (Backend::friendly(), Admin::start());
    let relay = Relay::to(admin.address());
    let start = |name| proxy(name, relay.address, &backend).credentials("refresh: 1h").start();
    let proxies = [start("p-1"), start("p-2")];
    let made = admin.create();
    let token = &*made.secret;
    let all = |status| {
        thread::scope(|scope| {
            let watch = |guard| scope.spawn(move || first_time(guard, token, status));
            let watches = [&proxies[0], &proxies[1]].map(watch);
            watches.into_iter().map(|it| it.join().expect("a time")).max().expect("two of them")
        })
    };
    all(200);
    // A token that is looked up before news of it has come is worth a poll; a change is not.
    let polls = relay.count("GET /v1/changes");
    let mut latencies = Vec::new();
    for _ in 0..50 {
        admin.set_status(&made, "Disabled");
        let answered = Instant::now();
        latencies.push(all(401).saturating_duration_since(answered));
        admin.set_status(&made, "Enabled");
        all(200);
    }
    latencies.sort();
    let (median, longest) = (latencies[25], latencies[49]);
    println!("disabled, and refused by both: median {median:?}, longest {longest:?}, of 50");
    assert!(longest < Duration::from_secs(5));
    assert_eq!(relay.count("GET /v1/changes"), polls, "nobody polled");

    let revision = admin.set_status(&made, "Disabled");
    let receipt = admin.settle(revision);
    for name in ["p-1", "p-2"] {
        assert_eq!(of(&receipt, name)["state"], "applied", "{receipt}");
    }
    for guard in &proxies {
        assert_eq!(guard.verdict(&made.secret), (401, "credential_disabled".to_owned()));
    }
}

/// When a proxy first answers so.
fn first_time(guard: &Guard, token: &str, status: u16) -> Instant {
    let (mut client, deadline) = (guard.client(), Instant::now() + PATIENCE);
    while client.get("/Users", token).status != status {
        assert!(Instant::now() < deadline, "waited in vain for {status}");
        thread::park_timeout(Duration::from_millis(1));
    }
    Instant::now()
}

/// What a receipt says of a replica.
fn of<'a>(receipt: &'a Value, name: &str) -> &'a Value {
    let replicas = receipt["replicas"].as_array().expect("a list");
    replicas.iter().find(|replica| replica["name"] == name).expect("it is named")
}

#[test]
fn a_receipt_names_who_is_cut_off_and_until_when_it_may_accept() {
    let pair = Pair::start("refresh: 1s\n  max_stale: { reads: 1m, writes: 50s }");
    let (admin, relay) = (&pair.admin, &pair.relay);
    let near = proxy("straight", admin.address(), &pair.backend).start();
    let made = admin.create();
    for guard in [&near, &pair.proxy] {
        wait_for_status(guard, &made.secret, 200);
    }
    relay.set(Flow::Cut);
    let revision = admin.set_status(&made, "Disabled");
    wait_for_status(&near, &made.secret, 401);
    wait_for("the other's state", || {
        of(&admin.receipt(revision, "0s"), "straight")["state"] == "applied"
    });
    assert_eq!(pair.proxy.get("/Users", &made.secret).status, 200, "it cannot know");

    let time = |value: &Value| Timestamp::parse(value.as_str().expect("a time")).expect("a time");
    let mut told = Vec::new();
    for wait in ["0s", "1s", "0s"] {
        let receipt = admin.receipt(revision, wait);
        assert_eq!(receipt["complete"], false, "{receipt}");
        let cut_off = of(&receipt, "near");
        assert_eq!(cut_off["state"], "pending", "{receipt}");
        let until = time(&cut_off["refuses_by"]);
        let promised = time(&cut_off["heard"]).plus(Duration::from_secs(60 + 10));
        assert!(off(until, promised) < 50, "{receipt}");
        told.push(until);
    }
    assert!(told.iter().all(|&it| off(it, told[0]) < 50), "it does not slide: {told:?}");

    relay.set(Flow::Open);
    admin.settle(revision);
    assert_eq!(pair.proxy.get("/Users", &made.secret).status, 401);
}

/// Milliseconds between two times.
fn off(a: Timestamp, b: Timestamp) -> i64 {
    (a.as_millis() - b.as_millis()).abs()
}

#[test]
fn without_a_stream_the_poll_brings_the_change() {
    let pair = Pair::start("refresh: 1s");
    let (admin, relay) = (&pair.admin, &pair.relay);
    let made = admin.create();
    wait_for_status(&pair.proxy, &made.secret, 200);
    // It still connects, and a silent one is not noticed for a while.
    for flow in [Flow::StreamsCut, Flow::StreamsStalled] {
        relay.set(flow);
        let polls = relay.count("GET /v1/changes");
        let revision = admin.set_status(&made, "Disabled");
        wait_for_status(&pair.proxy, &made.secret, 401);
        assert!(relay.count("GET /v1/changes") > polls);
        admin.settle(revision);
        admin.set_status(&made, "Enabled");
        wait_for_status(&pair.proxy, &made.secret, 200);
        relay.set(Flow::Open);
    }
}

#[test]
fn a_new_token_works_at_once_where_no_event_has_come() {
    let pair = Pair::start("refresh: 1h");
    let (admin, relay, guard) = (&pair.admin, &pair.relay, &pair.proxy);
    relay.set(Flow::StreamsStalled);
    let lookups = || relay.count("GET /v1/lookup/");
    for number in 1..=3 {
        let made = admin.create();
        assert_eq!(guard.get("/Users", &made.secret).status, 200);
        assert_eq!(guard.get("/Users", &made.secret).status, 200);
        assert_eq!(lookups(), number, "asked once for each");
    }
    let unknown = (401, "token_unknown".to_owned());
    let mistyped = format!("{}x", MintedToken::mint().reveal());
    for foreign in [&*mistyped, "somebody-elses-token"] {
        assert_eq!(guard.verdict(foreign), unknown);
    }
    assert_eq!(lookups(), 3, "a token that cannot be ours is not asked for");
    let stranger = MintedToken::mint();
    for _ in 0..2 {
        assert_eq!(guard.verdict(stranger.reveal()), unknown);
    }
    assert_eq!(lookups(), 4, "no is remembered for a while");

    // What was looked up is not ahead of what the stream brings.
    let made = admin.create();
    assert_eq!(guard.get("/Users", &made.secret).status, 200);
    let revision = admin.set_status(&made, "Disabled");
    relay.set(Flow::Open);
    wait_for_status(guard, &made.secret, 401);
    admin.settle(revision);
}

#[test]
fn a_token_that_cannot_be_asked_for_is_no_wrong_one() {
    let pair = Pair::start("refresh: 1s");
    let (relay, guard) = (&pair.relay, &pair.proxy);
    let made = pair.admin.create();
    wait_for_status(guard, &made.secret, 200);
    for flow in [Flow::Cut, Flow::Stalled] {
        relay.set(flow);
        let verdict = guard.verdict(MintedToken::mint().reveal());
        assert_eq!(verdict, (503, "undecided_lookup".to_owned()));
        let stale = (503, "unknown_while_stale".to_owned());
        wait_for("doubt about foreign tokens", || guard.verdict("somebody-elses-token") == stale);
        assert_eq!(guard.get("/Users", &made.secret).status, 200);
        relay.set(Flow::Open);
        wait_for_status(guard, "somebody-elses-token", 401);
    }
}

#[test]
fn the_switch_stops_a_tenant_everywhere_and_lets_it_go_on() {
    let pair = Pair::start("refresh: 1h");
    let admin = &pair.admin;
    let more = proxy("more", admin.address(), &pair.backend).credentials("refresh: 1h").start();
    let (one, two) = (admin.create(), admin.create());
    let all = |status| {
        for guard in [&pair.proxy, &more] {
            wait_for_status(guard, &one.secret, status);
            assert_eq!(guard.get("/Users", &two.secret).status, status, "one switch for all");
        }
    };
    all(200);
    let polls = pair.relay.count("GET /v1/changes");
    let seen = pair.backend.seen().len();
    admin.settle(admin.synchronize(TENANT, "Disabled"));
    all(403);
    let verdict = more.verdict(&one.secret);
    assert_eq!(verdict, (403, "synchronization_disabled".to_owned()));
    assert_eq!(pair.backend.seen().len(), seen, "nothing was forwarded");
    admin.synchronize(TENANT, "Enabled");
    all(200);
    admin.settle(admin.synchronize(OTHER, "Disabled"));
    all(200);
    assert_eq!(pair.relay.count("GET /v1/changes"), polls, "nobody polled");
}

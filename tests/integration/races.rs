//! Many who change the same thing at a time.

use std::sync::Barrier;
use std::time::Instant;

use serde_json::json;

use crate::admin::{Api, Pair, wait_until_applied};
use crate::http::Reply;
use crate::ledger::{LIMIT, Ledger, check_follower};
use crate::load::{Load, lock, setting};

#[test]
fn of_a_hundred_who_race_for_the_last_places_as_many_win_as_there_are() {
    let mut pair = Pair::start("127.0.0.1:0");
    let (start, load) = (Barrier::new(100), Load::default());
    let answers: Vec<Reply> = std::thread::scope(|scope| {
        let race = |_| {
            scope.spawn(|| {
                let mut api = Api::new(pair.address, &pair.operator.token);
                start.wait();
                let reply = api.ask("POST", "/v1/tenants/z-a/credentials", "{}");
                load.note("create", "z-a", "", &reply);
                reply
            })
        };
        let racers: Vec<_> = (0..100).map(race).collect();
        racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
    });
    let won = answers.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(won, LIMIT);
    for lost in answers.iter().filter(|reply| reply.status != 201) {
        assert_eq!((lost.status, &lost.json()["code"]), (409, &json!("limit_reached")));
    }
    let mut ledger = Ledger::default();
    ledger.catch_up(&mut pair.reader);
    ledger.check_answers(&lock(&load.answers));
    ledger.check_audit(&mut pair.operator);
    pair.stop();
}

/// Something done to the one credential that all act on.
struct Act {
    kind: u8,
    begun: Instant,
    ended: Instant,
    reply: Reply,
}

#[test]
fn acts_on_one_credential_are_as_if_one_came_after_another() {
    let seed = setting("SCIM_GUARD_SEED", 1);
    println!("SCIM_GUARD_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut pair = Pair::start("127.0.0.1:0");
    let (load, mut ledger) = (Load::default(), Ledger::default());
    let mut checked = 0;
    for _ in 0..20 {
        let made = pair.operator.ask("POST", "/v1/tenants/z-a/credentials", "{}");
        load.note("create", "z-a", "", &made);
        let id = made.json()["credential_id"].as_str().expect("a text").to_owned();
        let start = Barrier::new(6);
        let acts: Vec<Act> = std::thread::scope(|scope| {
            let spawn = |seed| {
                let (load, id, start, operator) = (&load, &id, &start, &pair.operator);
                scope.spawn(move || act_on(load, operator, id, start, seed))
            };
            let actors: Vec<_> = (0..6).map(|_| spawn(rng.u64(..))).collect();
            actors.into_iter().flat_map(|actor| actor.join().expect("no panic")).collect()
        });
        ledger.catch_up(&mut pair.reader);
        ledger.check_table(&mut pair.reader);
        ledger.check_answers(&lock(&load.answers)[checked..]);
        checked = load.count();
        ledger.check_audit(&mut pair.operator);
        ledger.check_credentials(&mut pair.operator);
        explain(&acts, &id, &ledger);
        for key in lock(&load.known).drain(..) {
            let target = format!("/v1/tenants/{}/credentials/{}", key.0, key.1);
            pair.operator.ask("DELETE", &target, "");
        }
    }
    wait_until_applied(&mut pair.operator, &["near", "far"]);
    ledger.catch_up(&mut pair.reader);
    for follower in [&pair.near, &pair.far] {
        check_follower(follower, &ledger, &lock(&load.secrets));
    }
    pair.stop();
}

fn act_on(load: &Load, operator: &Api, id: &str, start: &Barrier, seed: u64) -> Vec<Act> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut api = Api::new(operator.address, &operator.token);
    let target = format!("/v1/tenants/z-a/credentials/{id}");
    start.wait();
    let act = |_| {
        let kind = rng.u8(..20);
        let label = json!({ "label": format!("label-{}", rng.u8(..)) }).to_string();
        let leaked = json!({ "leaked": rng.bool() }).to_string();
        let (act, method, target, body) = match kind {
            0..8 => ("patch", "PATCH", target.clone(), r#"{"status":"Disabled"}"#.to_owned()),
            8..16 => ("patch", "PATCH", target.clone(), r#"{"status":"Enabled"}"#.to_owned()),
            16..18 => ("patch", "PATCH", target.clone(), label),
            ROTATION => ("rotate", "POST", format!("{target}/rotate"), leaked),
            _ => ("delete", "DELETE", target.clone(), String::new()),
        };
        let begun = Instant::now();
        let reply = api.ask(method, &target, &body);
        let ended = Instant::now();
        load.note(act, "z-a", id, &reply);
        Act { kind, begun, ended, reply }
    };
    (0..8).map(act).collect()
}

const ROTATION: u8 = 18;

/// Whether the log is an order in which the answers make sense, and which no clock contradicts.
fn explain(acts: &[Act], id: &str, ledger: &Ledger) {
    let is_gone = !ledger.rows.contains_key(&("z-a".to_owned(), id.to_owned()));
    let revision = |act: &Act| act.reply.header("scim-guard-revision").map(str::to_owned);
    let number = |act: &Act| revision(act).map(|text| text.parse::<u64>().expect("a number"));
    for act in acts {
        let body = act.reply.json();
        match (act.reply.status, act.kind) {
            (200, 0..8) => assert_eq!(body["status"], "Disabled"),
            (200, 8..16) => assert_eq!(body["status"], "Enabled"),
            (200, 16 | 17 | 19) | (201, ROTATION) => {}
            (404, _) => {
                assert!(is_gone && body["code"] == "credential_unknown", "{body}");
                let later = acts.iter().filter(|it| it.begun > act.ended);
                assert!(later.into_iter().all(|it| it.reply.status == 404), "it has come back");
            }
            (409, ROTATION) => assert!(body["code"] == "rotated", "{body}"),
            (status, kind) => panic!("{status} to {kind}: {body}"),
        }
        // Who began after somebody was answered is told nothing older: not even that all was so.
        // A rotation tells the number of the new credential, which is beyond the one of this.
        let earlier = acts.iter().filter(|it| it.ended < act.begun && it.kind != ROTATION);
        let before = earlier.filter_map(number).max();
        if let (Some(before), Some(own)) = (before, number(act)) {
            assert!(own >= before, "{own} after {before}");
        }
    }
}

//! Direct equals proxied: every check of every conformance tester says the same about a server
//! and about the proxy before it. Whether the server passes a check is its own affair.

use std::thread;

use crate::backend::{Backend, RunningBackend};
use crate::guard::{Authorization, Guard, Row};
use crate::suite::{Outcome, Suite};

#[test]
fn scim2_server_is_the_same_behind_the_proxy() {
    check_all(Backend::Scim2Server);
}

#[test]
fn uvicorn_is_the_same_behind_the_proxy() {
    check_all(Backend::Uvicorn);
}

#[test]
fn express_is_the_same_behind_the_proxy() {
    check_all(Backend::Express);
}

#[test]
fn a_server_with_a_static_token_is_the_same_behind_the_proxy() {
    let start = || Backend::Scim2Server.start_with_token(ROW.token);
    check(Suite::Scim2Tester, start, Authorization::Keep);
}

#[test]
fn a_tester_with_a_wrong_token_sees_the_difference() {
    let backend = Backend::Express.start();
    let mut guard = Guard::start(&backend, Authorization::Remove, &[ROW]);
    let direct = Suite::ScimSanity.run(&backend.url(), "a-wrong-token");
    let proxied = Suite::ScimSanity.run(&guard.url(), "a-wrong-token");
    assert_ne!(differences(&direct, &proxied), Vec::<String>::new());
    guard.wait_for_reason("token_unknown");
}

#[test]
fn the_comparison_tells_what_differs() {
    let outcome = |status: &str| Outcome {
        name: "POST /Users".into(),
        status: status.into(),
        reason: String::new(),
    };
    let (pass, fail) = (outcome("pass"), outcome("fail"));
    let one = std::slice::from_ref(&pass);
    assert!(differences(one, one).is_empty());
    assert_eq!(differences(one, &[fail]).len(), 1);
    assert_eq!(differences(one, &[]).len(), 1);
    assert_eq!(differences(one, &[pass.clone(), pass.clone()]).len(), 1);
}

fn check_all(backend: Backend) {
    for suite in Suite::ALL {
        check(suite, || backend.start(), Authorization::Remove);
    }
}

/// Each run has a fresh server, because a tester leaves resources behind.
fn check(suite: Suite, start: impl Fn() -> RunningBackend, authorization: Authorization) {
    let (alone, behind) = (start(), start());
    let mut guard = Guard::start(&behind, authorization, &[ROW]);
    let (direct, proxied) = thread::scope(|scope| {
        let direct = scope.spawn(|| suite.run(&alone.url(), ROW.token));
        let proxied = suite.run(&guard.url(), ROW.token);
        (direct.join().expect("the direct run ends"), proxied)
    });
    let (backend, count) = (behind.kind, direct.len());
    assert!(count >= suite.checks_min(), "{suite:?} made only {count} checks on {backend}");
    let differing = differences(&direct, &proxied);
    let (number, shown) = (differing.len(), differing.len().min(DIFFERENCES_SHOWN));
    let text = differing[..shown].join("\n");
    assert!(number == 0, "{suite:?} on {backend}: {number} of {count} checks differ\n{text}");
    guard.wait_for_requests(ROW.credential_id, count / 2);
    assert!(!guard.written().contains(ROW.token), "the token stands in a log");
}

fn differences(direct: &[Outcome], proxied: &[Outcome]) -> Vec<String> {
    let pairs = (0..direct.len().max(proxied.len())).map(|at| (direct.get(at), proxied.get(at)));
    pairs
        .filter(|(direct, proxied)| direct != proxied)
        .map(|(direct, proxied)| format!(" direct: {direct:?}\nproxied: {proxied:?}"))
        .collect()
}

const DIFFERENCES_SHOWN: usize = 5;
const ROW: Row = Row::enabled("scimcred-demo00000001", "conformance-0123456789-abcdefghijklmnop");

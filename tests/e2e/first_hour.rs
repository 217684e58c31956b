//! The first hour of most adopters: a backend with one static token, an identity provider that
//! uses it, and the proxy put between them. The identity provider never notices, until a
//! credential is switched off.

use std::time::{Duration, Instant};

use crate::backend::{Backend, RunningBackend};
use crate::client::{Answer, Client, Request};
use crate::guard::{Authorization, Guard, Row};
use crate::process::until;
use crate::traffic::{Settings, Traffic};

#[test]
fn a_client_never_notices_the_proxy_put_in_front() {
    for backend in Backend::ALL {
        let backend = backend.start_with_token(OLD.token);
        let traffic = Traffic::start(settings(&backend));
        traffic.wait_for(60);

        let mut guard = Guard::start(&backend, Authorization::Keep, &[OLD]);
        traffic.change(|settings| settings.address = guard.address);
        traffic.wait_for(120);

        traffic.stop();
        guard.wait_for_requests(OLD.credential_id, 100);
        assert!(!guard.written().contains(OLD.token), "the token stands in a log");
    }
}

#[test]
fn a_disabled_credential_is_refused_within_seconds() {
    let backend = Backend::Scim2Server.start_with_token(OLD.token);
    let guard = Guard::start(&backend, Authorization::Keep, &[OLD]);
    let mut client = Client::new(guard.address);
    let request = Request::new("GET", format!("{}/Users", guard.path)).bearer(OLD.token);
    let mut ask = || client.send(&request).expect("an answer");
    assert_eq!(ask().status, 200);

    guard.replace_credentials(&[OLD.disabled()]);
    let replaced = Instant::now();
    let refusal = until_status(401, &mut ask);
    assert!(replaced.elapsed() < A_FEW_SECONDS, "it took {:?}", replaced.elapsed());
    assert_refused(&refusal);
    let direct = Client::new(backend.address).send(&request).expect("an answer");
    assert_eq!(direct.status, 200, "the backend still takes the token: the refusal is ours");

    guard.replace_credentials(&[OLD]);
    until_status(200, &mut ask);
}

#[test]
fn a_token_is_rotated_without_a_failed_request() {
    let backend = Backend::Uvicorn.start();
    let guard = Guard::start(&backend, Authorization::Remove, &[OLD]);
    let traffic = Traffic::start(Settings { address: guard.address, ..settings(&backend) });
    traffic.wait_for(40);

    guard.replace_credentials(&[OLD, NEW]);
    let mut client = Client::new(guard.address);
    let mut ask = |row: Row| {
        let request = Request::new("GET", format!("{}/Users", guard.path)).bearer(row.token);
        client.send(&request).expect("an answer")
    };
    until_status(200, || ask(NEW));
    traffic.change(|settings| settings.token = NEW.token);
    traffic.wait_for(40);

    guard.replace_credentials(&[OLD.disabled(), NEW]);
    until_status(401, || ask(OLD));
    traffic.wait_for(40);
    traffic.stop();
}

/// The README's first hour, command by command, under traffic all the while.
#[test]
fn the_first_hour_with_the_admin_api() {
    let backend = Backend::Scim2Server.start_with_token(OLD.token);
    let traffic = Traffic::start(settings(&backend));
    let mut guard = Guard::start_with_admin(&backend, Authorization::Keep);
    let printed = |output: &str| -> serde_json::Value {
        serde_json::from_str(output).unwrap_or_else(|error| panic!("{output}: {error}"))
    };
    let enrolled = guard.run(
        &["credential", "enroll", "--label", "okta", "--expires", "1y", "-o", "json"],
        OLD.token,
    );
    let id = printed(&enrolled)["credential_id"].as_str().expect("an id").to_owned();
    traffic.change(|settings| settings.address = guard.address);
    traffic.wait_for(120);
    guard.wait_for_requests(&id, 100);
    traffic.stop();

    let mut client = Client::new(guard.address);
    let users = format!("{}/Users", guard.path);
    let mut ask = |token: &str| {
        client.send(&Request::new("GET", users.clone()).bearer(token)).expect("an answer")
    };
    let rotated = guard.run(&["credential", "rotate", &id, "--wait", "-o", "json"], "");
    let text = |key: &str| printed(&rotated)[key].as_str().expect("a text").to_owned();
    let (secret, new_id) = (text("secret"), text("credential_id"));
    assert_eq!(ask(OLD.token).status, 200, "both are good for a while");
    // The backend's own check refuses the new token, to which it was passed: that is its right.
    assert_eq!(ask(&secret).status, 401);
    guard.wait_for_requests(&new_id, 1);
    assert!(guard.written().contains("\"outcome\":\"allowed\""));
    let disabled = guard.run(&["credential", "disable", &id, "--wait"], "");
    assert!(disabled.contains("1 of 1 replicas"), "{disabled}");
    assert_refused(&ask(OLD.token));
    assert!(!guard.written().contains(OLD.token) && !guard.written().contains(&secret));
}

fn settings(backend: &RunningBackend) -> Settings {
    Settings { address: backend.address, path: backend.kind.path(), token: OLD.token }
}

/// Asks until this is the status. Meanwhile the token is good or bad, and nothing else.
fn until_status(status: u16, mut ask: impl FnMut() -> Answer) -> Answer {
    until(&format!("status {status}"), || {
        let answer = ask();
        let known = matches!(answer.status, 200 | 401);
        assert!(known, "while waiting for {status}: {answer}");
        (answer.status == status).then_some(answer)
    })
}

/// What an identity provider has to be told, by RFC 6750 section 3 and RFC 7644 section 3.12.
fn assert_refused(answer: &Answer) {
    let challenge = answer.header("WWW-Authenticate").unwrap_or_default();
    assert!(challenge.starts_with(CHALLENGE), "WWW-Authenticate: {challenge}");
    assert_eq!(answer.header("Content-Type"), Some("application/scim+json"), "{answer}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{answer}");
    let error = answer.json();
    assert_eq!(error["schemas"], serde_json::json!([ERROR]), "{answer}");
    assert_eq!(error["status"], "401", "{answer}");
    assert!(error["detail"].is_string(), "an administrator reads the detail: {answer}");
}

const OLD: Row = Row::enabled("scimcred-old000000001", "typed-into-a-console-two-years-ago-0001");
const NEW: Row = Row::enabled("scimcred-new000000001", "typed-into-a-console-just-now-00000002");
/// The file is read every second, and a change counts when two readings agree.
const A_FEW_SECONDS: Duration = Duration::from_secs(10);
const CHALLENGE: &str = "Bearer realm=\"scim\", error=\"invalid_token\"";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

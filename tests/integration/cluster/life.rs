//! A credential's life, and a replica's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use super::bed::{ADMIN, Admin, Pair, proxy, wait_for_status};
use crate::backend::Backend;
use crate::guard::{TENANT, digest, wait_for};

#[test]
fn a_rotation_under_traffic_fails_no_request_and_a_leaked_token_ends_at_once() {
    let pair = Pair::start("refresh: 1s");
    let (admin, guard) = (&pair.admin, &pair.proxy);
    let old = admin.create();
    wait_for_status(guard, &old.secret, 200);
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let traffic = |token: &str| {
        let mut client = guard.client();
        while !done.load(Ordering::Relaxed) {
            assert_eq!(client.get("/Users", token).status, 200);
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let new = thread::scope(|scope| {
        scope.spawn(|| traffic(&old.secret));
        let more = |from: usize| wait_for("traffic", || sent.load(Ordering::Relaxed) > from + 20);
        more(0);
        let new = admin.rotate(&old, &json!({ "overlap": "1h" }));
        // The identity provider is told the new one while the old one is in use.
        let (secret, traffic) = (new.secret.clone(), &traffic);
        scope.spawn(move || traffic(&secret));
        admin.settle(new.revision);
        more(sent.load(Ordering::Relaxed));
        done.store(true, Ordering::Relaxed);
        new
    });
    let last = admin.rotate(&new, &json!({ "leaked": true }));
    admin.settle(last.revision);
    assert_eq!(guard.get("/Users", &new.secret).status, 401);
    for made in [&old, &last] {
        assert_eq!(guard.get("/Users", &made.secret).status, 200);
    }
    assert_eq!(admin.show(&old)["status"], "Enabled");
}

#[test]
fn a_token_ends_by_itself_and_an_enrolled_one_works_everywhere_after_its_receipt() {
    let pair = Pair::start("refresh: 1h");
    let admin = &pair.admin;
    let more = proxy("more", admin.address(), &pair.backend).start();
    let short = admin.create_in(TENANT, &json!({ "expire_in": "2s" }));
    for guard in [&pair.proxy, &more] {
        wait_for_status(guard, &short.secret, 200);
    }
    for guard in [&pair.proxy, &more] {
        wait_for_status(guard, &short.secret, 401);
        assert_eq!(guard.verdict(&short.secret), (401, "credential_expired".to_owned()));
    }
    let (known, digested) = ("a-token-of-Another-maker-1", "a-token-of-Another-maker-2");
    let by_value = admin.create_in(TENANT, &json!({ "secret": known, "expire_in": "1h" }));
    let path = format!("/v1/tenants/{TENANT}/credentials");
    let by_digest = json!({ "digest": digest(digested), "expire_in": "1h" });
    let reply = admin.ask("POST", &path, &by_digest);
    let revision = reply.header("scim-guard-revision").expect("a revision").parse();
    assert!(admin.show(&by_value)["enrolled"] == true && reply.json()["strength"] == "unknown");
    admin.settle(revision.expect("a number"));
    for guard in [&pair.proxy, &more] {
        for token in [known, digested] {
            assert_eq!(guard.get("/Users", token).status, 200);
        }
    }
}

#[test]
fn a_proxy_that_leaves_tells_what_was_used_and_is_forgotten() {
    let pair = Pair::start("refresh: 1s");
    let (used, idle) = (pair.admin.create(), pair.admin.create());
    wait_for_status(&pair.proxy, &used.secret, 200);
    assert_eq!(pair.admin.replicas("near").len(), 1);
    let Pair { admin, proxy, .. } = pair;
    let (_, diagnostics, _) = proxy.stop();
    assert!(admin.replicas("near").is_empty());
    assert!(!diagnostics.contains("goodbye"), "{diagnostics}");
    let time = admin.show(&used)["last_used"].clone();
    assert!(time.as_str().is_some_and(|time| time.ends_with(":00Z")), "to the minute: {time}");
    assert_eq!(admin.show(&idle)["last_used"], json!(null));
    admin.settle(admin.set_status(&used, "Disabled"));
}

#[test]
fn a_killed_instance_is_followed_by_the_next_and_not_waited_for() {
    let admin = Admin::start();
    let made = admin.create();
    admin.settle(made.revision);
    let admin = Admin::start_in(admin.guard.end(Signal::KILL).2);
    let receipt = admin.settle(admin.set_status(&made, "Disabled"));
    assert_eq!(receipt["replicas"].as_array().map(Vec::len), Some(1), "{receipt}");
}

#[test]
fn an_embedded_source_notes_uses_too_when_it_leaves() {
    let backend = Backend::friendly();
    let both = format!(
        "{ADMIN}proxy:\n  listeners: [{{ address: '127.0.0.1:0' }}]\n  drain: {{ delay: 0s }}\n  routes:\n{}",
        crate::guard::route(backend.address, "")
    );
    let admin = Admin::start_with(&both);
    let made = admin.create();
    assert_eq!(admin.guard.get("/Users", &made.secret).status, 200);
    admin.settle(admin.set_status(&made, "Disabled"));
    assert_eq!(admin.guard.get("/Users", &made.secret).status, 401);
    let admin = Admin::start_in(admin.stop());
    assert!(admin.show(&made)["last_used"].is_string());
    assert_eq!(admin.guard.get("/Users", &made.secret).status, 401);
}

#[test]
fn a_reload_changes_limits_tokens_and_tenants_and_a_bad_one_nothing() {
    let pair = Pair::start("refresh: 1s");
    let admin = &pair.admin;
    let create = |token: &str, tenant: &str| {
        let path = format!("/v1/tenants/{tenant}/credentials");
        admin.call(token, "POST", &path, &json!({})).status
    };
    let (another, third) = ("another-operator-0123456789", "z-demo00000002");
    assert_eq!((create(another, TENANT), create(super::bed::OPERATOR, third)), (401, 404));
    admin.guard.replace("second", another);
    let new = ADMIN
        .replace("z-demo00000001]", "z-demo00000001, z-demo00000002]")
        .replace("credentials_per_tenant: 10", "credentials_per_tenant: 1")
        .replace(
            "  tokens:",
            "  tokens:\n    - { name: second, role: operator, token: file:second }",
        );
    let bad = [
        (new.replace("file:second", "file:nowhere"), "admin.tokens[0].token"),
        (new.replace("expire_min: 1s", "expire_min: 200y"), "admin.limits.expire_min"),
        (new.replace("data/admin.db", "data/other.db"), "admin.store has changed"),
    ];
    for (config, told) in bad {
        admin.guard.replace("proxy.yaml", &config);
        admin.guard.signal(Signal::HUP);
        admin.guard.wait_for_diagnostic(told);
        assert_eq!((create(another, TENANT), create(super::bed::OPERATOR, third)), (401, 404));
    }
    let kept = admin.create();
    admin.guard.replace("proxy.yaml", &new);
    admin.guard.signal(Signal::HUP);
    admin.guard.wait_for_diagnostic("config reloaded");
    assert_eq!((create(another, TENANT), create(another, third)), (409, 201));
    assert_eq!(create(another, third), 409, "one for each");
    wait_for_status(&pair.proxy, &kept.secret, 200);
    wait_for("the replica", || admin.replicas("near")[0]["state"] == "applied");
}

//! The admin API away, for a while and from the beginning.

use scim_guard::credential::token::MintedToken;
use serde_json::json;

use super::bed::{ADMIN, Admin, FLEET, OPERATOR, Pair, call, proxy, wait_for_status};
use super::relay::{Flow, Relay};
use crate::backend::Backend;
use crate::guard::wait_for;
use crate::tls::Authority;

#[test]
fn proxies_serve_until_max_stale_then_are_undecided_and_recover() {
    let pair = Pair::start("refresh: 1s\n  max_stale: { reads: 4s, writes: 4s }");
    let (live, disabled) = (pair.admin.create(), pair.admin.create());
    pair.admin.settle(pair.admin.set_status(&disabled, "Disabled"));
    let (folder, pair) = pair.stop_admin();
    let guard = &pair.proxy;
    assert_eq!(guard.get("/Users", &live.secret).status, 200);
    let mut last = 200;
    wait_for("the table to be too old", || {
        let reply = guard.get("/Users", &live.secret);
        assert!(reply.status == 200 || reply.status == 503, "never a no: {}", reply.text());
        assert_eq!(reply.header("retry-after").is_some(), reply.status == 503);
        last = reply.status;
        last == 503
    });
    assert_eq!(guard.verdict(&live.secret), (503, "undecided_stale".to_owned()));
    assert_eq!(guard.verdict(&disabled.secret), (401, "credential_disabled".to_owned()));
    assert_eq!(guard.ops("/readyz").status, 200, "or all would leave at once");
    assert_eq!(guard.metric("scim_guard_source_up{source=\"native\"}"), 0.0);

    let pair = pair.start_admin(folder);
    wait_for_status(&pair.proxy, &live.secret, 200);
    assert_eq!(pair.proxy.get("/Users", &disabled.secret).status, 401);
    assert_eq!(pair.proxy.metric("scim_guard_source_history_changed"), 0.0, "the same store");
    let made = pair.admin.create();
    pair.admin.settle(made.revision);
    assert_eq!(pair.proxy.get("/Users", &made.secret).status, 200);
}

#[test]
fn a_proxy_without_a_table_is_not_ready_until_the_admin_api_is_there() {
    let (backend, admin) = (Backend::friendly(), Admin::start());
    let made = admin.create();
    let relay = Relay::to(admin.address());
    relay.set(Flow::Cut);
    let guard = proxy("fresh", relay.address, &backend).launch();
    guard.wait_for_diagnostic("the admin API does not answer");
    for token in [&*made.secret, MintedToken::mint().reveal(), "somebody-elses-token"] {
        assert_eq!(guard.verdict(token), (503, "undecided_unloaded".to_owned()));
    }
    assert!(guard.get("/Users", &made.secret).header("retry-after").is_some());
    assert_eq!(guard.ops("/readyz").status, 503);
    assert_eq!(guard.ops("/readyz?exclude=table").status, 200);
    relay.set(Flow::Open);
    let guard = guard.ready();
    assert_eq!(guard.get("/Users", &made.secret).status, 200);
    guard.wait_for_diagnostic("the admin API answers again");
}

#[test]
fn an_admin_api_over_tls_is_followed_if_its_authority_is_trusted() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let pair = authority.pair(&["localhost"]);
    let secured = ADMIN
        .replace("  store:", "  tls: { certificate: tls.crt, private_key: tls.key }\n  store:");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    let admin = Admin::start_within(folder, &secured);
    let follow = |ca: &Authority| {
        let port = admin.address().port();
        let native =
            format!("{{ url: 'https://localhost:{port}', token: file:token, ca: ca.crt }}");
        let mut setup = proxy("secure", admin.address(), &backend).file("ca.crt", &ca.pem());
        setup.source = format!("native\n  native: {native}");
        setup.launch()
    };
    let guard = follow(&authority).ready();
    let mut client = authority.client().connect(admin.address());
    let credentials = "/v1/tenants/z-demo00000000/credentials";
    let made = call(&mut client, OPERATOR, "POST", credentials, &json!({}));
    let secret = made.json()["secret"].as_str().expect("a secret").to_owned();
    wait_for_status(&guard, &secret, 200);

    let stranger = follow(&Authority::new());
    stranger.wait_for_diagnostic("the admin API does not answer: https://localhost");
    assert!(stranger.diagnostics().contains("UnknownIssuer"), "{}", stranger.diagnostics());
    assert_eq!(stranger.ops("/readyz").status, 503);
    assert_eq!(stranger.verdict(&secret), (503, "undecided_unloaded".to_owned()));
    assert!(!stranger.diagnostics().contains(FLEET));
}

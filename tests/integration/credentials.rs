//! Credentials that change, end and are denied while requests come in.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::backend::Backend;
use crate::guard::{ID, Setup, TOKEN, row, wait_for};
use crate::port::Reserved;

/// RFC 3339 of a moment.
fn rfc3339(time: SystemTime) -> String {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    scim_guard::clock::Timestamp::from_millis(millis as i64).to_string()
}

#[test]
fn a_token_ends_at_the_instant_that_it_says_under_steady_load() {
    let backend = Backend::friendly();
    // The file counts after a second; the rest of its life is spent in cache and memo.
    let end = SystemTime::now() + Duration::from_secs(3);
    let setup = Setup::new(backend.address).rows(&row(ID, TOKEN, "Enabled", &rfc3339(end)));
    let guard = setup.start();
    let over = AtomicBool::new(false);
    let answers: Vec<Vec<(SystemTime, u16, SystemTime)>> = std::thread::scope(|scope| {
        let load = || {
            let mut client = guard.client();
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = SystemTime::now();
                let status = client.get("/Users", TOKEN).status;
                answers.push((begun, status, SystemTime::now()));
            }
            answers
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        wait_for("some time after the end", || {
            end + Duration::from_millis(500) < SystemTime::now()
        });
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    });
    let (mut accepted, mut refused) = (0, 0);
    // The file holds whole milliseconds, so the end is up to one earlier than meant.
    let end = end - Duration::from_millis(1);
    for (begun, status, answered) in answers.into_iter().flatten() {
        match status {
            200 => {
                assert!(begun < end + Duration::from_millis(1), "accepted after the end");
                accepted += 1;
            }
            401 => {
                assert!(answered >= end, "refused before the end");
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
    assert!(guard.metric("scim_guard_cache_requests_total{result=\"memo\"}") > 100.0);
    let last_forwarded = backend.seen().len();
    assert_eq!(last_forwarded, accepted, "what was refused was not forwarded");
}

#[test]
fn a_changed_file_counts_and_a_spoiled_one_does_not() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let guard = setup.start();
    guard.replace("credentials.yaml", &setup.rows.replace("Enabled", "Disabled"));
    wait_for("the refusal", || guard.get("/Users", TOKEN).status == 401);
    guard.replace("credentials.yaml", &setup.rows);
    wait_for("the return", || guard.get("/Users", TOKEN).status == 200);
    for spoiled in ["", &setup.rows[..40], &format!("{0}{0}", setup.rows)] {
        let told = guard.diagnostics().matches("the last good one stays in force").count();
        guard.replace("credentials.yaml", spoiled);
        wait_for("the fault", || {
            guard.diagnostics().matches("the last good one stays in force").count() > told
        });
        assert_eq!(guard.get("/Users", TOKEN).status, 200, "{spoiled}");
    }
    guard.replace("credentials.yaml", "[]");
    wait_for("the removal", || guard.get("/Users", TOKEN).status == 401);
}

#[test]
fn a_kubernetes_volume_swap_is_seen() {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let publish = |version: &str, rows: &str| {
        std::fs::create_dir(at(version)).expect("made");
        std::fs::write(at(version).join("credentials.yaml"), rows).expect("written");
        std::os::unix::fs::symlink(version, at("..tmp")).expect("linked");
        std::fs::rename(at("..tmp"), at("..data")).expect("swapped");
    };
    publish("..1", &setup.rows);
    std::os::unix::fs::symlink("..data/credentials.yaml", at("credentials.yaml")).expect("linked");
    let guard = setup.launch();
    let mounted = at("credentials.yaml");
    std::fs::remove_file(guard.path("credentials.yaml")).expect("removed");
    std::os::unix::fs::symlink(mounted, guard.path("credentials.yaml")).expect("linked");
    wait_for("the table", || guard.get("/Users", TOKEN).status == 200);
    publish("..2", "[]");
    wait_for("the removal", || guard.get("/Users", TOKEN).status == 401);
}

/// Requests that wait for a backend are decided again before their first byte goes out.
#[test]
fn what_is_revoked_while_a_request_waits_is_not_forwarded() {
    let backend_place = Reserved::at(Ipv4Addr::LOCALHOST);
    let address = backend_place.address;
    for (change, status) in [("Disabled", 401), ("rebound", 503)] {
        let setup = Setup::new(address);
        let guard = setup.start();
        let mut client = guard.client();
        client.write(
            format!(
                "GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            )
            .as_bytes(),
        );
        wait_for("the request", || guard.metric("scim_guard_requests_in_flight") == 1.0);
        let rows = match change {
            "Disabled" => setup.rows.replace("Enabled", "Disabled"),
            _ => setup.rows.replace(ID, "scimcred-other"),
        };
        let applied = guard.diagnostics().matches("table applied").count();
        guard.replace("credentials.yaml", &rows);
        wait_for("the change", || guard.diagnostics().matches("table applied").count() > applied);
        let backend =
            Backend::on(std::net::TcpListener::bind(address).expect("still free"), |_| {
                crate::backend::ok("{}")
            });
        assert_eq!(client.reply(false).expect("an answer").status, status, "{change}");
        assert!(backend.seen().is_empty(), "{change}");
        backend.stop();
    }
}

#[test]
fn the_deny_file_needs_nobody_and_wins() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).deny("[]\n").start();
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    guard.replace("deny.yaml", &format!("- credential_id: {ID}\n"));
    wait_for("the refusal", || guard.get("/Users", TOKEN).status == 401);
    guard.replace("deny.yaml", "- nonsense: true\n");
    guard.wait_for_diagnostic("unknown key");
    assert_eq!(guard.get("/Users", TOKEN).status, 401, "a spoiled list frees nobody");
    guard.replace("deny.yaml", "[]\n");
    wait_for("the return", || guard.get("/Users", TOKEN).status == 200);
}

#[test]
fn a_deny_file_cut_inside_a_row_frees_nobody() {
    let backend = Backend::friendly();
    let whole = format!("- credential_id: {ID}\n");
    let guard = Setup::new(backend.address).deny(&whole).start();
    assert_eq!(guard.get("/Users", TOKEN).status, 401);
    // Short of its last character the row names another credential.
    guard.replace("deny.yaml", &whole[..whole.len() - 2]);
    let applied = || guard.diagnostics().matches("deny file applied").count();
    wait_for("the change to count", || {
        applied() > 2 || guard.diagnostics().contains("ends within a line")
    });
    assert_eq!(guard.get("/Users", TOKEN).status, 401);
    guard.wait_for_diagnostic("ends within a line");
    guard.replace("deny.yaml", "[]");
    wait_for("the return", || guard.get("/Users", TOKEN).status == 200);
}

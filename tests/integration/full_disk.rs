//! A disk that is really full: what takes rights away still works, and so does all that reads. It
//! needs a mount of its own, so the test starts itself once more in a new namespace, where it may
//! mount one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;

use crate::admin::{Api, Process, config, follower, furnish, probe, wait_until_applied};
use crate::backend::Backend;
use crate::http::{Client, Reply};

const OWN_ADDRESS: &str = "127.77.1.4:0";
const NAME: &str = "full_disk::a_full_disk_takes_restrictions_and_nothing_else";

#[test]
fn a_full_disk_takes_restrictions_and_nothing_else() {
    let Ok(folder) = std::env::var("SCIM_GUARD_TEST_FOLDER") else { return within_a_small_disk() };
    let folder = Path::new(&folder);
    let backend = Backend::friendly();
    furnish(folder, &config(OWN_ADDRESS, backend.address, 10_000));
    let mut process = Process::start(folder);
    let address = process.address("admin");
    furnish(folder, &config(&address.to_string(), backend.address, 10_000));
    let far_folder = tempfile::tempdir().expect("a folder");
    furnish(far_folder.path(), &follower(address, backend.address));
    let far = Process::start(far_folder.path());
    let mut operator = Api::operator(address, folder);
    let create = |operator: &mut Api| operator.ask("POST", "/v1/tenants/z-a/credentials", "{}");
    let made: Vec<_> = (0..40).map(|_| create(&mut operator).json()).collect();

    let filler = folder.join("data/filler");
    let full = fs::write(&filler, vec![1; 64 << 20]).expect_err("the disk is smaller");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let mut answers = (0..3000).map(|_| create(&mut operator));
    let refused = answers.find(|reply| reply.status != 201).expect("it is full");
    assert_full(&refused);
    // Who comes now gets its table all the same.
    let new_folder = tempfile::tempdir().expect("a folder");
    furnish(new_folder.path(), &follower(address, backend.address).replace("far", "new"));
    let new = Process::start(new_folder.path());
    let others = |operator: &mut Api, id: &str| {
        let one = format!("/v1/tenants/z-a/credentials/{id}");
        for (method, target, body) in [
            ("POST", format!("{one}/rotate"), json!({})),
            ("PATCH", one, json!({ "label": "another" })),
            ("PUT", "/v1/tenants/z-new".to_owned(), json!({})),
        ] {
            assert_full(&operator.ask(method, &target, &body.to_string()));
        }
    };
    let disable = json!({ "status": "Disabled" }).to_string();
    let enable = json!({ "status": "Enabled" }).to_string();
    let id = |index: usize| made[index]["credential_id"].as_str().expect("a text");
    for index in 0..20 {
        let one = format!("/v1/tenants/z-a/credentials/{}", id(index));
        let (method, body) = if index < 10 { ("PATCH", &*disable) } else { ("DELETE", "") };
        let reply = operator.ask(method, &one, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        if index < 10 {
            assert_full(&operator.ask("PATCH", &one, &enable));
        }
        others(&mut operator, id(index.max(20)));
    }
    let switch = "/v1/tenants/z-b/synchronization";
    assert_eq!(operator.ask("PUT", switch, &disable).status, 200);
    assert_full(&operator.ask("PUT", switch, &enable));

    // A new start of it all.
    process.kill();
    let process = Process::start(folder);
    let mut operator = Api::operator(address, folder);
    wait_until_applied(&mut operator, &["near", "far", "new"]);
    for follower in [&process, &far, &new] {
        let mut client = Client::connect(follower.address("proxy"));
        for (index, credential) in made.iter().enumerate() {
            let secret = credential["secret"].as_str().expect("shown once");
            let wanted = if index < 20 { 401 } else { 200 };
            assert_eq!(probe(&mut client, "z-a", secret), wanted, "{index}");
        }
    }

    // A backup finds no room there, and leaves nothing behind; elsewhere it does.
    let backup = |operator: &mut Api, path: &Path| {
        operator.ask("POST", "/v1/backup", &json!({ "path": path }).to_string())
    };
    let here = folder.join("data/backup.db");
    let refused = backup(&mut operator, &here);
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("backup_failed")));
    assert!(!here.exists());
    let elsewhere = backup(&mut operator, &new_folder.path().join("backup.db"));
    assert_eq!(elsewhere.status, 200, "{}", elsewhere.text());
    let one = format!("/v1/tenants/z-a/credentials/{}", id(20));
    assert_eq!(operator.ask("DELETE", &one, "").status, 200);

    fs::remove_file(&filler).expect("removed");
    let created = create(&mut operator);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(operator.ask("PUT", switch, &enable).status, 200);
    wait_until_applied(&mut operator, &["near", "far", "new"]);
    for process in [&process, &far, &new] {
        assert!(!process.said().contains("panicked"), "{}", process.said());
    }
    assert!(process.said().contains("the disk is full"), "{}", process.said());
}

/// Whether somebody was told that there is no room, and when to come back.
fn assert_full(reply: &Reply) {
    let problem = reply.json();
    assert_eq!((reply.status, &problem["code"]), (503, &json!("store_full")), "{problem}");
    assert_eq!(reply.header("retry-after"), Some("60"));
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("no room"), "{detail}");
}

fn within_a_small_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("made");
    let script = "mount -t tmpfs -o size=6m,mode=700 tmpfs \"$SCIM_GUARD_TEST_FOLDER/data\" && \
                  exec \"$0\" --exact \"$1\" --nocapture";
    let done = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().expect("this test"))
        .arg(NAME)
        .env("SCIM_GUARD_TEST_FOLDER", folder.path())
        .output()
        .expect("unshare is installed");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("1 passed"), "{told}");
}

//! The commands that ask an admin API, against one in the same process as a proxy.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::backend::{Backend, ok};
use crate::guard::{Guard, TENANT, command, digest, wait_for};
use crate::http::Client;
use crate::port::Reserved;
use crate::tls::{Authority, Pair};

const FOREIGN: &str = "foreign-token-0123456789-abcdef";

/// A token of a follower, for the admin section and for its file.
const FOLLOWER: &str = ", tokens: [{ name: follower, role: replica, token: 'file:replica.token' }]";
const FOLLOWER_TOKEN: (&str, &str) = ("replica.token", "a-follower-with-0123456789");

/// A proxy with its admin API, and a config that leads to it.
struct Site {
    guard: Guard,
    admin: Reserved,
}

/// What a command has left.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Told {
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {self:#?}"))
    }

    pub fn refuses(self, part: &str) {
        let told = self.expect(1);
        assert!(told.err.contains(part) && told.out.is_empty(), "{told:#?} should tell {part}");
    }
}

pub fn run(folder: &Path, line: &str, input: &str) -> Told {
    let arguments: Vec<_> = line.split(' ').collect();
    let mut child = command(folder, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Who refuses may do so before it has read anything.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// `more` are further keys of the admin section.
fn config(admin: SocketAddr, backend: SocketAddr, more: &str) -> String {
    format!(
        "\
proxy:
  listeners: [{{ address: '127.0.0.1:0' }}]
  drain: {{ delay: 0s, deadline: 10s }}
  routes:
    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ url: 'http://{backend}/scim/v2' }} }}
credentials: {{ source: embedded }}
admin: {{ listen: '{admin}', store: 'sqlite:data/admin.db'{more} }}
ops: {{ listen: '127.0.0.1:0' }}
"
    )
}

impl Site {
    fn start() -> Self {
        Self::with("", &[])
    }

    fn with(more: &str, files: &[(&str, &str)]) -> Self {
        let (folder, admin) =
            (tempfile::tempdir().expect("a folder"), Reserved::at(Ipv4Addr::LOCALHOST));
        let config = config(admin.address, Backend::friendly().address, more);
        for (name, content) in files.iter().chain([&("proxy.yaml", &*config)]) {
            fs::write(folder.path().join(name), content).expect("written");
        }
        Self { guard: Guard::start_in(folder), admin }
    }

    fn run(&self, line: &str) -> Told {
        self.feed(line, "")
    }

    fn feed(&self, line: &str, input: &str) -> Told {
        run(self.guard.folder.path(), line, input)
    }

    fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} -o json")).expect(0).json()
    }

    /// A new credential: its id and its token.
    fn create(&self) -> (String, String) {
        let created = self.json(&format!("credential create --tenant {TENANT} --wait"));
        let text = |key: &str| created[key].as_str().expect("a text").to_owned();
        (text("credential_id"), text("secret"))
    }

    fn status(&self, token: &str) -> u16 {
        self.guard.get("/Users", token).status
    }

    /// Asks the API itself.
    fn ask(&self, method: &str, target: &str, body: &Value) -> Value {
        let token = fs::read_to_string(self.guard.path("data/admin.token")).expect("a token");
        let (token, body) = (token.trim(), body.to_string());
        Client::connect(self.admin.address)
            .send(&format!(
                "{method} {target} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .json()
    }

    /// Another replica, which stands still at a position.
    fn report(&self, name: &str, applied: &str) {
        let report = json!({ "name": name, "applied": applied, "max_stale": "12h" });
        self.ask("PUT", &format!("/v1/replicas/{name}"), &report);
    }

    /// `HISTORY:REVISION:MARK`.
    fn position(&self) -> String {
        let head = self.ask("GET", "/v1/history", &json!({}));
        let text = |key: &str| head[key].as_str().expect("a text").to_owned();
        format!("{}:{}:{}", text("history"), head["revision"], text("mark"))
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.guard.path(name), content).expect("written");
    }
}

#[test]
fn a_credential_lives_from_create_to_delete() {
    let site = Site::start();
    let (id, token) = site.create();
    assert_eq!(site.status(&token), 200);

    let disabled = site.run(&format!("credential disable {id} --wait")).expect(0);
    let last = disabled.out.lines().last().expect("a line");
    assert!(last.starts_with("1 of 1 replicas, ") && last.ends_with(" ms"), "{disabled:#?}");
    assert_eq!(site.status(&token), 401);
    let again = site.json(&format!("credential disable {id} --tenant {TENANT} --wait=5s"));
    assert_eq!(
        (&again["status"], &again["receipt"]["complete"]),
        (&json!("Disabled"), &json!(true))
    );
    site.run(&format!("credential enable {id} --wait")).expect(0);
    assert_eq!(site.status(&token), 200);

    let rotated =
        site.run(&format!("credential rotate {id} --overlap 1h --wait -o json")).expect(0);
    let (new, secret) = (&rotated.json()["credential_id"], &rotated.json()["secret"]);
    assert!(rotated.err.contains("1 of 1 replicas, "), "{rotated:#?}");
    assert!(rotated.err.contains(&format!("{id} goes on for 1h")), "{rotated:#?}");
    let secret = secret.as_str().expect("a token");
    assert_eq!((site.status(&token), site.status(secret)), (200, 200));

    let listed = site.json("credential list");
    assert_eq!(
        (&listed["total"], listed["credentials"].as_array().map(Vec::len)),
        (&json!(2), Some(2))
    );
    let table = site.run(&format!("credential list --tenant {TENANT}")).expect(0).out;
    let header: Vec<_> = table.lines().next().expect("a line").split_whitespace().collect();
    assert_eq!(header, ["ID", "TENANT", "STATUS", "EXPIRES", "LAST", "USED", "LABEL", "HINT"]);
    assert!(table.contains(&id) && !table.contains('\u{1b}'), "{table}");

    let due = site.run("credential list --expiring 1d -o json").expect(10).json();
    assert_eq!((&due["total"], &due["credentials"][0]["credential_id"]), (&json!(1), &json!(id)));
    site.run("credential list --expiring 1m").expect(0);

    site.run(&format!("credential delete {id} --wait")).expect(0);
    assert_eq!(site.status(&token), 401);
    let new = new.as_str().expect("an id");
    let shown = site.json(&format!("credential show {new}"));
    assert_eq!(
        (&shown["status"], &shown["created_by"]),
        (&json!("Enabled"), &json!("first-operator"))
    );
    let leaked = site.json(&format!("credential rotate {new} --leaked --expires 30d --wait"));
    assert_eq!(site.status(secret), 401);
    assert_eq!(site.status(leaked["secret"].as_str().expect("a token")), 200);

    let audited = site.json("audit");
    let entries = audited["entries"].as_array().expect("a list");
    let actions: Vec<_> = entries.iter().filter_map(|it| it["action"].as_str()).collect();
    for action in
        ["credential.create", "credential.disable", "credential.rotate", "credential.delete"]
    {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    let after = entries.len() - 1;
    let rest = site.json(&format!("audit --after {after}"));
    assert_eq!(rest["entries"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_credential_whose_token_was_lost_makes_room_for_another() {
    let site = Site::start();
    let ((lost, token), (kept, _)) = (site.create(), site.create());
    let line = format!("credential create --discard {lost} --wait");
    let made = site.json(&line)["credential_id"].as_str().expect("an id").to_owned();
    assert_eq!(site.status(&token), 401);
    site.run(&format!("credential delete {kept}")).expect(0);
    site.run(&line).expect(0);
    let listed = site.json("credential list");
    assert_eq!(listed["total"], 2);
    assert!(listed.to_string().contains(&made) && !listed.to_string().contains(&lost));
}

#[test]
fn a_secret_is_on_standard_output_once_and_nowhere_else() {
    let site = Site::start();
    let made = site.run("credential create --label Okta --wait").expect(0);
    let secrets: Vec<_> = made.out.lines().filter(|line| line.starts_with("scimg_")).collect();
    let [secret] = secrets[..] else { panic!("{made:#?}") };
    assert_eq!(made.out.matches(secret).count(), 1);
    assert!(!secret.contains(char::is_whitespace) && !made.err.contains(secret));
    assert_eq!(site.status(secret), 200);
    let id = site.json("credential list")["credentials"][0]["credential_id"].clone();
    let id = id.as_str().expect("an id");

    let rotated = site.json(&format!("credential rotate {id} --wait"));
    let second = rotated["secret"].as_str().expect("a token");
    let shown = [format!("credential show {id}"), "credential list -o json".into(), "audit".into()];
    for told in shown.map(|line| site.run(&line).expect(0)) {
        assert!(!told.out.contains(secret) && !told.out.contains(second), "{told:#?}");
    }
    let (secret, second) = (secret.to_owned(), second.to_owned());
    let (out, diagnostics, folder) = site.guard.stop();
    let mut left = vec![("access log".into(), out), ("diagnostics".into(), diagnostics)];
    for entry in fs::read_dir(folder.path().join("data")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("readable");
        left.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    for (place, text) in left {
        for token in [&secret, &second] {
            assert!(!text.contains(token.as_str()), "{place} has a token");
        }
    }
}

#[test]
fn what_cannot_be_done_is_told_with_the_way_out() {
    let site = Site::with(&format!(", tenants: [z-2]{FOLLOWER}"), &[FOLLOWER_TOKEN]);
    let nobody = Reserved::at(Ipv4Addr::LOCALHOST);
    let nowhere = nobody.address;
    site.write("other.token", "another-token-that-nobody-knows");
    site.write("replica.yaml", &format!(
        "credentials: {{ source: native, native: {{ url: 'http://{}', token: 'file:replica.token' }} }}\n",
        site.admin.address
    ));
    site.write("none.yaml", "credentials: { source: file, file: { path: c.yaml } }\n");
    let (id, _) = site.create();
    site.create();
    let full = format!("credential create --tenant {TENANT}");
    let elsewhere =
        format!("credential list --admin-url http://{nowhere} --admin-token file:other.token");
    for (line, parts) in [
        (&*elsewhere, &[&*nowhere.to_string(), "refused", "--admin-url"][..]),
        ("credential list --admin-url http://127.0.0.1:1", &["--admin-token"]),
        ("credential list --config gone.yaml", &["gone.yaml: cannot be read", "--admin-url"]),
        ("credential list --config none.yaml", &["none.yaml has neither", "--admin-url"]),
        (
            "credential list --admin-token file:gone",
            &["gone: cannot be read", "file:PATH or env:NAME"],
        ),
        ("credential list --admin-token file:other.token", &["(401)", "file:other.token"]),
        (
            "credential list --config replica.yaml",
            &["(403)", "the role replica", "credentials.native.token in replica.yaml"],
        ),
        (
            "credential list --admin-url http://10.0.0.1:1 --admin-token file:other.token",
            &["clear text", "--insecure-cleartext"],
        ),
        ("credential list --tenant z-9", &["no tenant z-9", "(404)"]),
        ("credential show c-9", &["no tenant that this token sees has credential c-9"]),
        (&format!("credential show c-9 --tenant {TENANT}"), &["has no credential c-9 (404)"]),
        ("credential create", &["say which tenant by --tenant", "z-2"]),
        (
            &full,
            &[
                "(409)",
                &id,
                "(Enabled, ends ",
                &format!("scim-guard credential delete {id} --tenant {TENANT}"),
                "--leaked",
            ],
        ),
        ("credential create --tenant z-2 --expires 1s", &["`expire_in` must be between", "(400)"]),
        ("source accept --wait=0s", &["--yes"]),
        ("credential import gone.yaml", &["gone.yaml: cannot be read"]),
        ("credential import proxy.yaml", &["this is not a list"]),
    ] {
        let told = site.run(line).expect(1);
        for part in parts {
            assert!(told.err.contains(part), "{line}: {} should tell {part}", told.err);
        }
        assert!(told.out.is_empty(), "{told:#?}");
    }
    for line in [
        "credential",
        "credential show",
        "credential list --admin-token s3cret",
        "credential enroll s3cret --expires 1y",
        "credential enroll --expires 1y --digest s3cret",
    ] {
        let told = site.run(line).expect(2);
        assert!(!told.err.contains("s3cret"), "{told:#?}");
    }
    assert_eq!(site.json("credential list")["total"], 2);

    let limited = (0..30).map(|_| site.run("credential list --admin-token file:other.token"));
    let limited = limited.map(|told| told.expect(1).err).find(|told| told.contains("(429)"));
    assert!(limited.is_some_and(|told| told.contains("too many failed logins")));
    site.run("credential list").expect(0);
}

#[test]
fn an_api_is_found_by_arguments_environment_and_config() {
    let site = Site::start();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let token = format!("file:{}", site.guard.path("data/admin.token").display());
    let url = format!("http://{}", site.admin.address);
    let listed = command(elsewhere.path(), &["credential", "list"])
        .env("SCIM_GUARD_ADMIN_URL", &url)
        .env("SCIM_GUARD_ADMIN_TOKEN", &token)
        .output()
        .expect("it runs");
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let line = format!("credential create --admin-url {url} --admin-token {token} -o json");
    let made = run(elsewhere.path(), &line, "").expect(0).json();
    assert_eq!(made["tenant"], TENANT);
}

#[test]
fn an_api_with_tls_is_trusted_by_its_authority() {
    let authority = Authority::new();
    let Pair { certificate, key } = authority.pair(&["127.0.0.1"]);
    let site = Site::with(
        ", tls: { certificate: tls.crt, private_key: tls.key }",
        &[("tls.crt", &*certificate), ("tls.key", &*key), ("ca.crt", &*authority.pem())],
    );
    site.run("credential create --admin-ca ca.crt").expect(0);
    site.write("other.crt", &Authority::new().pem());
    site.run("credential list --admin-ca other.crt").refuses("UnknownIssuer");
    site.run("credential list --admin-ca other.crt").refuses("--admin-ca names");
}

#[test]
fn a_token_made_elsewhere_is_enrolled_by_value_or_digest() {
    let site = Site::start();
    assert_eq!(site.status(FOREIGN), 401);
    let line = "credential enroll --expires 1y --label Entra";
    let enrolled = site.feed(line, &format!("{FOREIGN}\n")).expect(0);
    assert!(enrolled.out.contains("1 of 1 replicas, ") && !enrolled.out.contains(FOREIGN));
    assert_eq!(site.status(FOREIGN), 200);
    site.feed(line, FOREIGN).refuses("belongs to a credential already");
    let other = "other-token-9876543210-abcdef";
    let digest = digest(other);
    let by_digest =
        site.json(&format!("credential enroll --digest {digest} --expires 1y --wait=0s"));
    assert_eq!((&by_digest["strength"], &by_digest["receipt"]), (&json!("unknown"), &Value::Null));
    for (input, told) in [
        ("", "no token on standard input"),
        (&format!("\"{other}\"")[..], "quotes"),
        (&format!("Bearer {other}\n"), "`Bearer`"),
        ("short", "too easy to guess"),
    ] {
        site.feed(line, input).refuses(told);
    }
}

/// Against a stub: what is asked for, and what is made of the answers.
#[test]
fn a_mirrored_credential_is_enrolled_and_told_with_how_it_stands() {
    let row = r#"{"credential_id":"c-1","tenant":"z-1","status":"Enabled","expire_time":null,"cloud":"not_enrolled"}"#;
    let stub = Backend::start(move |request| match request.line().split(' ').nth(1) {
        Some("/v1/tenants") => ok(r#"{"tenants":[{"tenant":"z-1"}]}"#),
        Some(list) if list.contains('?') => ok(&format!(r#"{{"credentials":[{row}]}}"#)),
        Some(_) if request.line().starts_with("POST") => ok(&row.replace("c-1", "c-2")),
        Some(one) if one.ends_with("c-3") => ok(&row.replace("not_enrolled", "listed")),
        _ => ok(row),
    });
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("token"), "an-admin-token-0123456789").expect("written");
    let run = |line: &str, input: &str| {
        let at = format!("--admin-url http://{} --admin-token file:token", stub.address);
        run(folder.path(), &format!("credential {line} {at}"), input)
    };
    let sent = |beginning: &str| {
        let seen = stub.seen().into_iter().filter(|it| it.line().starts_with(beginning));
        seen.map(|it| String::from_utf8(it.body).expect("a text")).collect::<Vec<_>>()
    };
    run("enroll --id c-1", FOREIGN).expect(0);
    run(&format!("enroll --id c-1 --tenant z-1 --digest {}", digest(FOREIGN)), "").expect(0);
    let wanted = [
        json!({ "secret": FOREIGN }).to_string(),
        json!({ "digest": digest(FOREIGN) }).to_string(),
    ];
    assert_eq!(sent("PUT /v1/tenants/z-1/credentials/c-1/digest "), wanted);

    let table = run("list", "").expect(0).out;
    assert!(table.contains("CLOUD") && table.contains("  not enrolled"), "{table}");
    run("create --discard c-3", "").refuses("c-3 is enrolled");
    run("create --discard c-1", "").expect(0);
    assert_eq!(sent("DELETE ").len(), 1);
    assert_eq!(sent("DELETE /v1/tenants/z-1/credentials/c-1 ").len(), 1);
    assert_eq!(sent("POST ").len(), 1);
}

#[test]
fn a_credential_file_is_imported_and_again_does_no_harm() {
    let site = Site::start();
    let row = |id: &str, tenant: &str, token: &str, more: &str| {
        format!(
            "- {{ credential_id: {id}, tenant: {tenant}, digest: '{}', {more} }}\n",
            digest(token)
        )
    };
    let end = "expire_time: 2099-01-01T00:00:00Z";
    site.write(
        "good.yaml",
        &(row("a", TENANT, "t-a", &format!("{end}, label: Okta"))
            + &row("b", TENANT, "t-b", &format!("{end}, status: Disabled"))),
    );
    site.write(
        "bad.yaml",
        &(row("a", TENANT, "t-a", end)
            + &row("c", "z-9", "t-c", end)
            + &row("d", TENANT, "t-d", "insecure_no_expiry: true")
            + &row("e", TENANT, "t-e", "expire_time: 2020-01-01T00:00:00Z")
            + &row("f", TENANT, "t-f", end)),
    );
    let first = site.run("credential import good.yaml -o json").expect(0).json();
    assert_eq!(
        (&first["done"], &first["skipped"], &first["failed"]),
        (&2.into(), &0.into(), &0.into())
    );
    assert_eq!(first["receipt"]["complete"], true);
    assert_eq!((site.status("t-a"), site.status("t-b")), (200, 401));
    let told = |list: &Value, label: &str| {
        let rows = list["credentials"].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row["label"] == label).expect("it is listed")
    };
    let listed = site.json("credential list");
    assert_eq!(told(&listed, "Okta")["expire_time"], "2099-01-01T00:00:00Z");
    assert_eq!(told(&listed, "")["status"], "Disabled");

    // An operator's word after the import stands, but for what the file has as disabled.
    let okta = told(&listed, "Okta")["credential_id"].as_str().expect("an id").to_owned();
    let other = told(&listed, "")["credential_id"].as_str().expect("an id").to_owned();
    site.run(&format!("credential disable {okta}")).expect(0);
    site.run(&format!("credential enable {other}")).expect(0);
    let again = site.run("credential import good.yaml").expect(0);
    assert!(again.out.contains("0 done, 2 skipped, 0 failed"), "{again:#?}");
    assert!(again.out.contains(&format!("is there already as {okta}")), "{again:#?}");
    assert_eq!((site.status("t-a"), site.status("t-b")), (401, 401));
    assert_eq!(site.json("credential list")["total"], 2);

    let bad = site.run("credential import bad.yaml -o json").expect(1).json();
    let outcomes: Vec<_> = bad["rows"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            (row["outcome"].as_str().expect("a word"), row["note"].as_str().expect("a text"))
        })
        .collect();
    for (outcome, (wanted, note)) in outcomes.iter().zip([
        ("skipped", "is there already"),
        ("failed", "no tenant z-9"),
        ("failed", "never ends"),
        ("skipped", "has expired"),
        ("failed", "may have no more"),
    ]) {
        assert!(outcome.0 == wanted && outcome.1.contains(note), "{outcome:?} should be {note}");
    }
}

#[test]
fn a_list_goes_on_to_its_last_page() {
    let site = Site::start();
    let row = |id: u32| {
        let digest = digest(&format!("token-{id}"));
        json!({ "credential_id": format!("c-{id}"), "tenant": TENANT, "digest": digest, "expire_time": "2099-01-01T00:00:00Z" }).to_string() + "\n"
    };
    let config = fs::read_to_string(site.guard.path("proxy.yaml")).expect("written");
    let config = config.replace("store:", "limits: { credentials_per_tenant: 2000 }, store:");
    site.write("proxy.yaml", &config);
    site.guard.signal(rustix::process::Signal::HUP);
    site.guard.wait_for_diagnostic("config reloaded");
    site.write("many.jsonl", &(0..1001).map(row).collect::<String>());
    assert_eq!(site.json("credential import many.jsonl --wait=0s")["done"], 1001);
    let listed = site.json("credential list");
    let ids = listed["credentials"].as_array().expect("a list").iter();
    let ids: std::collections::HashSet<_> = ids.map(|it| it["credential_id"].to_string()).collect();
    assert_eq!((&listed["total"], ids.len()), (&json!(1001), 1001));
}

#[test]
fn a_wait_names_who_is_behind_and_until_when_that_one_may_accept() {
    let site = Site::start();
    let (id, _) = site.create();
    site.report("cut-off", &site.position());
    let told = site.run(&format!("credential disable {id} --wait=50ms")).expect(1);
    assert!(told.out.contains("incomplete: 1 of 2 replicas after "), "{told:#?}");
    assert!(told.out.contains("pending  cut-off (cut-off), refuses by 2"), "{told:#?}");

    let made = site.run("credential create --wait=50ms -o json").expect(1);
    let secret = made.json()["secret"].as_str().expect("it is printed in any case").to_owned();
    assert!(made.err.contains("1 of 2 replicas"), "{made:#?}");
    assert_eq!(site.status(&secret), 200);
}

#[test]
fn a_store_that_is_not_what_replicas_followed_is_accepted_after_a_look() {
    let site = Site::start();
    site.create();
    let position = site.position();
    let history = position.split(':').next().expect("a history").to_owned();
    site.report("ahead", &format!("{history}:99999:0011223344556677"));
    let refused = site.run("source accept --wait=0s").expect(1);
    for told in ["disputed: replicas take", "ahead", "what they know to be revoked is not in this"]
    {
        assert!(refused.err.contains(told), "{refused:#?}");
    }
    assert!(!refused.err.contains("nothing that a replica holds"), "{refused:#?}");
    assert_eq!(site.position(), position);

    let accepted = site.run("source accept --wait=1ms --yes -o json").expect(0);
    for told in ["waiting until every replica", "1ms", "all the same, as --yes says"] {
        assert!(accepted.err.contains(told), "{accepted:#?}");
    }
    let accepted = accepted.json();
    assert_eq!(accepted["ended"]["uncompared"][0]["name"], "ahead");
    assert_ne!(accepted["head"]["history"], history.as_str());
    assert_eq!(accepted["head"]["disputed"], false);
    assert!(site.position().starts_with(accepted["head"]["history"].as_str().expect("a text")));
    let undisputed = site.run("source accept --wait=0s").expect(1);
    assert!(undisputed.err.contains("nobody disputes it"), "{undisputed:#?}");
}

#[test]
fn explain_asks_the_admin_api_and_says_so() {
    let site = Site::with(FOLLOWER, &[FOLLOWER_TOKEN]);
    let (id, token) = site.create();
    let explain = |input: &str, more: &str, code: i32| {
        let line = format!("explain --path /scim/v2/Users -o json{more}");
        site.feed(&line, input).expect(code).json()
    };
    let known = explain(&token, "", 0);
    assert_eq!((&known["decision"], &known["credential_id"]), (&json!("allowed"), &json!(id)));
    assert_eq!(known["known_from"], format!("http://{}", site.admin.address));
    assert_eq!(explain("", &format!(" --id {id}"), 0)["decision"], "allowed");
    let pasted = explain(&format!("\"{token}\"\n"), "", 1);
    assert!(pasted["hint"].as_str().is_some_and(|it| it.contains("quotes") && it.contains(&id)));
    assert_eq!(explain(FOREIGN, "", 1)["reason"], "token_unknown");

    site.run(&format!("credential disable {id}")).expect(0);
    assert_eq!(explain(&token, "", 1)["reason"], "credential_disabled");
    assert_eq!(explain("", &format!(" --id {id}"), 1)["reason"], "credential_disabled");
    site.run(&format!("credential enable {id}")).expect(0);
    let switch = format!("/v1/tenants/{TENANT}/synchronization");
    site.ask("PUT", &switch, &json!({ "status": "Disabled" }));
    assert_eq!(explain(&token, "", 1)["reason"], "synchronization_disabled");

    // A follower of that API may not list tenants, and sees all of it in the table.
    let native = format!(
        "native, native: {{ url: 'http://{}', token: 'file:replica.token' }}",
        site.admin.address
    );
    let config = fs::read_to_string(site.guard.path("proxy.yaml")).expect("written");
    let (head, tail) = config.split_once("admin: ").expect("a section");
    let tail = tail.split_once('\n').expect("its line").1;
    site.write("follower.yaml", &(head.replace("embedded", &native) + tail));
    assert_eq!(explain(&token, " --config follower.yaml", 1)["reason"], "synchronization_disabled");
    let line = format!("explain --path /scim/v2/Users --config follower.yaml --id {id}");
    site.run(&line).refuses("(403)");

    let (_, _, folder) = site.guard.stop();
    run(folder.path(), "explain --path /scim/v2/Users", &token).refuses("refused");
}

#[test]
fn a_backup_is_restored_without_what_was_revoked_since() {
    let site = Site::start();
    let (revoked, token) = site.create();
    let backup = site.run("store backup copy.db").expect(0);
    assert!(backup.out.contains(&site.guard.path("copy.db").display().to_string()), "{backup:#?}");
    site.run("store backup copy.db").refuses("(503)");
    site.run(&format!("credential disable {revoked} --wait")).expect(0);
    let (_, late) = site.create();
    site.run("store restore copy.db --yes").refuses("another process");

    let admin = site.admin;
    let (_, _, folder) = site.guard.stop();
    run(folder.path(), "store restore copy.db", "").refuses("--yes");
    run(folder.path(), "store restore gone.db --yes", "").refuses("there is no such backup");
    let restored = run(folder.path(), "store restore copy.db --yes -o json", "").expect(0);
    assert!(restored.err.contains("scim-guard source accept"), "{restored:#?}");
    assert!(!restored.err.contains("admin.token"), "{restored:#?}");
    let told = restored.json();
    let differences = told["differences"].as_array().expect("a list");
    let carried = differences.iter().find(|it| it["credential_id"] == revoked.as_str());
    assert_eq!(carried.expect("it is told")["carried"], true, "{told}");
    assert!(Path::new(told["replaced"].as_str().expect("a path")).exists());

    let config = fs::read_to_string(folder.path().join("proxy.yaml")).expect("written");
    let config = config.replace("source: embedded", "source: embedded, refresh: 1s");
    fs::write(folder.path().join("proxy.yaml"), config).expect("written");
    // Who has no table yet takes none from it.
    let site = Site { guard: Guard::launch(folder, &["serve"]), admin };
    assert_eq!((site.status(&token), site.status(&late)), (503, 503));
    site.run("source accept --yes --wait=0s").expect(0);
    wait_for("the table", || site.status(&token) == 401 && site.status(&late) == 401);
    assert_eq!(site.json(&format!("credential show {revoked}"))["status"], "Disabled");
}

#[test]
fn a_backup_restored_where_its_token_is_not_says_how_to_log_in() {
    let site = Site::start();
    site.run("store backup copy.db").expect(0);
    let admin = site.admin;
    let (_, _, folder) = site.guard.stop();
    let folder_of = |name: &str| folder.path().join(name);
    fs::create_dir(folder_of("other")).expect("made");
    fs::write(folder_of("other/admin.token"), "another-stores-token").expect("written");
    fs::create_dir(folder_of("same")).expect("made");
    fs::copy(folder_of("data/admin.token"), folder_of("same/admin.token")).expect("copied");
    for (place, told) in [("new", true), ("other", true), ("same", false)] {
        let line = format!("store restore copy.db --store sqlite:{place}/admin.db --yes");
        let restored = run(folder.path(), &line, "").expect(0);
        let says = restored.err.contains(&format!("{place}/admin.token is not there or not of"));
        assert_eq!(says, told, "{restored:#?}");
    }

    // As it is told, so it is.
    let config = fs::read_to_string(folder_of("proxy.yaml")).expect("written");
    let rescue = "sqlite:new/admin.db', \
                  tokens: [{ name: rescue, role: operator, token: file:rescue.token }]";
    let config = config.replace("sqlite:data/admin.db'", rescue);
    fs::write(folder_of("proxy.yaml"), config).expect("written");
    fs::write(folder_of("rescue.token"), "a-token-for-the-rescue").expect("written");
    let site = Site { guard: Guard::launch(folder, &["serve"]), admin };
    site.run("source accept --yes --wait=0s").refuses("admin.token");
    site.run("source accept --yes --wait=0s --admin-token file:rescue.token").expect(0);
}

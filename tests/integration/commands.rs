//! The commands, as people and programs call them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::backend::Backend;
use crate::guard::{ID, PATIENCE, Setup, TENANT, TOKEN, command, route, row};
use crate::http::Client;

fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command(folder, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with the files of this setup.
fn folder(setup: &Setup) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    setup.write(folder.path());
    folder
}

fn setup() -> Setup {
    Setup::new(([127, 0, 0, 1], 9).into())
}

#[test]
fn check_tells_all_faults_at_once() {
    let good = folder(&setup());
    let checked = run(good.path(), &["check"], "");
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let printed = run(good.path(), &["check", "--print"], "");
    assert!(text(&printed.stdout).contains("request_body: 8MiB"));

    let bad =
        setup().config().replace("listeners", "listner").replace("path: /scim/v2", "path: scim");
    std::fs::write(good.path().join("proxy.yaml"), bad).expect("written");
    let checked = run(good.path(), &["check"], "");
    assert_eq!(checked.status.code(), Some(1));
    let told = text(&checked.stderr);
    assert!(
        told.contains("line 2, proxy.listner: unknown key: did you mean `listeners`?"),
        "{told}"
    );
    assert!(told.contains("proxy.routes[0].path: write a path"), "{told}");

    let missing =
        folder(&setup().routes(&route(([127, 0, 0, 1], 9).into(), ", authorization: file:gone")));
    std::fs::write(missing.path().join("credentials.yaml"), "").expect("written");
    let checked = run(missing.path(), &["check", "--output", "json"], "");
    let facts: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!((checked.status.code(), &facts["valid"]), (Some(1), &false.into()));
    let told = facts["faults"].to_string();
    assert!(
        told.contains("proxy.routes[0].upstream.authorization") && told.contains("gone"),
        "{told}"
    );
    assert!(told.contains("this is empty: write []"), "{told}");
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let backend = Backend::friendly();
    let taken = setup().config().replace("127.0.0.1:0' }]", &format!("{}' }}]", backend.address));
    for (config, told) in [
        (taken, "choose another port"),
        (setup().config().replace("file: {", "flie: {"), "did you mean `file`?"),
        (setup().config() + "nonsense", "not YAML"),
        (setup().credentials("deny: gone.yaml").config(), "credentials.deny"),
        (
            setup()
                .routes(&route(([127, 0, 0, 1], 9).into(), ", authorization: file:gone"))
                .config(),
            "proxy.routes[0].upstream.authorization",
        ),
    ] {
        let folder = folder(&setup());
        std::fs::write(folder.path().join("proxy.yaml"), config).expect("written");
        let ended = run(folder.path(), &["serve"], "");
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(text(&ended.stderr).contains(told), "{} should tell {told}", text(&ended.stderr));
    }
    let nowhere = tempfile::tempdir().expect("a folder");
    let ended = run(nowhere.path(), &["serve"], "");
    assert!(text(&ended.stderr).contains("proxy.yaml: cannot be read"), "{}", text(&ended.stderr));
    assert_eq!(run(nowhere.path(), &["serve", "--nonsense"], "").status.code(), Some(2));
}

#[test]
fn explain_decides_as_the_proxy_does_and_finds_what_was_pasted_wrongly() {
    let rows = row(ID, TOKEN, "Enabled", "2099-01-01T00:00:00Z")
        + &row("c-expired", "t-expired", "Enabled", "2020-01-01T00:00:00Z");
    let folder = folder(&setup().rows(&rows));
    let explain = |token: &str, more: &[&str]| {
        let mut arguments = vec!["explain", "--path", "/scim/v2/Users", "--output", "json"];
        arguments.extend_from_slice(more);
        let output = run(folder.path(), &arguments, token);
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        (output.status.code(), facts)
    };
    let (code, facts) = explain(TOKEN, &[]);
    assert_eq!(
        (code, &facts["decision"], &facts["credential_id"]),
        (Some(0), &"allowed".into(), &ID.into())
    );
    assert_eq!(facts["tenant"], TENANT);
    let (code, facts) = explain("t-expired", &[]);
    assert_eq!(
        (code, &facts["reason"], &facts["status"]),
        (Some(1), &"credential_expired".into(), &401.into())
    );
    for (pasted, hint) in [
        (format!("{TOKEN}\n"), "without the blank or line break"),
        (format!("\"{TOKEN}\""), "without the quotes"),
        (format!("'{TOKEN}'\n"), "without the quotes"),
        (format!("Bearer {TOKEN}"), "without `Bearer`"),
        (format!("Bearer Bearer {TOKEN}"), "without `Bearer`"),
        (format!("bearer\tBearer  {TOKEN}\r\n"), "without `Bearer`"),
        (format!("'Bearer Bearer {TOKEN}'\n"), "without `Bearer`"),
    ] {
        let (_, facts) = explain(&pasted, &[]);
        let reason = facts["reason"].as_str().expect("a word");
        assert!(["token_unknown", "authorization_malformed"].contains(&reason), "{facts}");
        assert!(
            facts["hint"].as_str().is_some_and(|it| it.contains(hint) && it.contains(ID)),
            "{facts}"
        );
    }
    let (_, facts) = explain("scimg_nonsense", &[]);
    assert!(facts["hint"].as_str().is_some_and(|it| it.contains("checksum")), "{facts}");
    assert_eq!(explain("", &[]).1["reason"], "authorization_missing");
    assert_eq!(explain("", &["--id", "c-expired"]).1["reason"], "credential_expired");
    let other = run(folder.path(), &["explain", "--path", "/else", "--id", ID], "");
    assert!(text(&other.stdout).contains("route_unknown"), "{}", text(&other.stdout));
}

#[test]
fn health_asks_the_running_process() {
    let backend = Backend::friendly();
    let guard = Setup::new(backend.address).start();
    let config = format!(
        "credentials: {{ source: file, file: {{ path: c }} }}\nops: {{ listen: '{}' }}\n",
        guard.ops
    );
    guard.replace("probe.yaml", &config);
    let ask = |more: &[&str]| {
        let arguments = [&["health", "--config", "probe.yaml"], more].concat();
        run(guard.folder.path(), &arguments, "").status.code()
    };
    assert_eq!((ask(&[]), ask(&["--ready"])), (Some(0), Some(0)));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("proxy.yaml"), config).expect("written");
    drop(guard);
    assert_eq!(run(folder.path(), &["health"], "").status.code(), Some(1));
}

/// Also when its terminal is closed.
#[test]
fn the_demo_does_what_it_says_and_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::HUP] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut demo = command(folder.path(), &["demo"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let told = BufReader::new(demo.stdout.take().expect("piped")).lines();
        let told = told.map(|line| line.expect("text"));
        let told: Vec<String> = told.take_while(|line| !line.starts_with("Ctrl-C")).collect();
        let statuses: Vec<u16> = told
            .iter()
            .filter_map(|line| line.split_once("Bearer ")?.1.split_once("' http://"))
            .map(|(token, url)| {
                let (address, _) = url.split_once('/').expect("a path");
                let mut client = Client::connect(address.parse().expect("an address"));
                client.get("/Users", token).status
            })
            .collect();
        assert_eq!(statuses, [200, 401, 401]);
        let made = || std::fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(made(), 1);
        kill_process(Pid::from_child(&demo), signal).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        while demo.try_wait().expect("a child").is_none() {
            if Instant::now() > deadline {
                let _ = demo.kill();
                panic!("{signal:?} does not end it");
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(made(), 0);
    }
}

#[test]
fn the_schema_and_completions_are_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = run(folder.path(), &["schema"], "");
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).expect("JSON");
    assert!(schema["properties"]["proxy"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        let script = run(folder.path(), &["completion", shell], "");
        assert!(text(&script.stdout).contains("scim-guard"), "{shell}");
    }
}

#[test]
fn the_shipped_config_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = run(root, &["check", "--config", "proxy.yaml"], "");
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}

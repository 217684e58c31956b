//! What the usual scanners say of our TLS. They are installed by `scripts/install-e2e`.

use std::fs;
use std::process::Command;

use crate::backend::Backend;
use crate::guard::{Guard, Setup};
use crate::tls::{Authority, PAIR};

fn start(authority: &Authority) -> Guard {
    let (backend, pair) = (Backend::friendly(), authority.pair(&["localhost"]));
    Setup::new(backend.address)
        .listener(PAIR)
        .file("tls.crt", &pair.certificate)
        .file("tls.key", &pair.key)
        .start()
}

/// Runs a scanner in the guard's folder; what it prints.
fn scan(guard: &Guard, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).arg(guard.proxy.to_string()).current_dir(guard.folder.path());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn testssl_finds_nothing() {
    let guard = start(&Authority::new());
    // Protocols, ciphers, their order, forward secrecy and all known vulnerabilities. What the
    // certificate is worth is not ours to say.
    let checks = ["-p", "-s", "-f", "-P", "-U"];
    let how = ["--quiet", "--warnings", "off", "--color", "0", "--jsonfile", "found.json"];
    let said = scan(&guard, "testssl", &[&how[..], &checks].concat());
    let found = fs::read(guard.path("found.json")).unwrap_or_else(|_| panic!("{said}"));
    let found: Vec<serde_json::Value> = serde_json::from_slice(&found).expect("JSON");
    for id in ["TLS1_3", "cipherlist_NULL", "PFS", "cipher_order", "heartbleed", "LUCKY13"] {
        assert!(found.iter().any(|it| it["id"] == id), "{id} was not looked at: {said}");
    }
    let harmful = |it: &&serde_json::Value| !matches!(it["severity"].as_str(), Some("OK" | "INFO"));
    let findings: Vec<_> = found.iter().filter(harmful).collect();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn sslscan_finds_nothing() {
    let guard = start(&Authority::new());
    let said = scan(&guard, "sslscan", &["--no-colour", "--no-check-certificate"]);
    for line in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"] {
        let disabled = |it: &str| it.starts_with(line) && it.ends_with("disabled");
        assert!(said.lines().any(disabled), "{line}: {said}");
    }
    let mut suites = 0;
    for line in said.lines().filter(|it| it.starts_with("Preferred") || it.starts_with("Accepted"))
    {
        let sealed = ["GCM", "CHACHA20"].iter().any(|mode| line.contains(mode));
        let secret = line.contains("TLSv1.3") || line.contains("ECDHE");
        assert!(sealed && secret, "{line}");
        suites += 1;
    }
    assert!(suites >= 6, "{said}");
    for line in said.lines().filter(|it| it.contains("vulnerable")) {
        assert!(line.contains("not vulnerable"), "{line}");
    }
}

//! The conformance testers, run by `tester.py`, and what each of their checks said.

use std::process::Command;

use serde_json::Value;

use crate::process::in_repository;

#[derive(Clone, Copy, Debug)]
pub enum Suite {
    Scim2Tester,
    Scim2Cli,
    ScimSanity,
}

/// What one named check of a tester said, free of what differs from run to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub name: String,
    pub status: String,
    pub reason: String,
}

impl Suite {
    pub const ALL: [Self; 3] = [Self::Scim2Tester, Self::Scim2Cli, Self::ScimSanity];

    /// A run with fewer checks has been cut short, whatever they said.
    pub fn checks_min(self) -> usize {
        match self {
            Self::Scim2Tester => 90,
            Self::Scim2Cli => 107,
            Self::ScimSanity => 32,
        }
    }

    /// Runs every check against a SCIM base URL.
    pub fn run(self, url: &str, token: &str) -> Vec<Outcome> {
        let done = Command::new(in_repository("target/e2e/venv/bin/python"))
            .arg(in_repository("tests/e2e/tester.py"))
            .args([self.name(), url])
            .env("TOKEN", token)
            .env("PYTHONHASHSEED", "0") // The testers walk through sets.
            .env("NO_PROXY", "*")
            .output()
            .expect("scripts/install-e2e has made the environment");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{self:?} against {url} ended early:\n{errors}");
        String::from_utf8_lossy(&done.stdout).lines().map(Outcome::parse).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Scim2Tester => "scim2-tester",
            Self::Scim2Cli => "scim2-cli",
            Self::ScimSanity => "scim-sanity",
        }
    }
}

impl Outcome {
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).expect("tester.py prints JSON");
        let text = |key: &str| value[key].as_str().expect("tester.py prints text").to_owned();
        Self { name: text("name"), status: text("status"), reason: text("reason") }
    }
}

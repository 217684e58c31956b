//! The clouds' official SDKs, each behind a small program (`sdk.py`, `node/sdk.js`) that asks what
//! it is told to ask.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::process::{PATIENCE, in_repository};

/// An SDK, and how it is told to sign and to send.
#[derive(Clone, Copy)]
pub struct Sdk {
    host: Host,
    name: &'static str,
    variant: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Host {
    Python,
    Node,
}

/// A running one.
pub struct Asker {
    sdk: Sdk,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

/// A refusal, as the SDK tells it.
#[derive(Debug, PartialEq)]
pub struct Refused {
    pub code: String,
    pub status: u64,
}

const fn python(name: &'static str, variant: &'static str) -> Sdk {
    Sdk { host: Host::Python, name, variant }
}

const fn node(name: &'static str, variant: &'static str) -> Sdk {
    Sdk { host: Host::Node, name, variant }
}

/// The first of each name is how it works when it is told nothing.
pub const TENCENT: [Sdk; 12] = [
    python("tencent", "TC3-HMAC-SHA256 POST"),
    python("tencent", "TC3-HMAC-SHA256 GET"),
    python("tencent", "HmacSHA1 POST"),
    python("tencent", "HmacSHA1 GET"),
    python("tencent", "HmacSHA256 POST"),
    python("tencent-async", "TC3-HMAC-SHA256 POST"),
    python("tencent-async", "TC3-HMAC-SHA256 GET"),
    python("tencent-async", "HmacSHA256 POST"),
    node("tencent", "TC3-HMAC-SHA256 POST"),
    node("tencent", "TC3-HMAC-SHA256 GET"),
    node("tencent", "HmacSHA1 POST"),
    node("tencent", "HmacSHA256 GET"),
];

pub const ALIBABA: [Sdk; 11] = [
    python("alibaba", "ACS3"),
    python("alibaba", "v2"),
    python("alibaba-async", "ACS3"),
    python("alibaba-async", "v2"),
    python("alibaba-core", "GET"),
    python("alibaba-core", "POST"),
    python("alibaba-core", "POST form"),
    node("openapi", "query"),
    node("openapi", "form"),
    node("pop", "GET"),
    node("pop", "POST"),
];

/// One of each name.
pub fn ordinary(sdks: &[Sdk]) -> Vec<Sdk> {
    let first = |index: usize| {
        let sdk = sdks[index];
        !sdks[..index].iter().any(|other| other.host == sdk.host && other.name == sdk.name)
    };
    (0..sdks.len()).filter(|index| first(*index)).map(|index| sdks[index]).collect()
}

impl Sdk {
    /// Starts it with an access key of the admin API.
    pub fn start(self, admin: &Admin, (id, secret): (&str, &str)) -> Asker {
        let mut command = match self.host {
            Host::Python => Command::new(in_repository("target/e2e/venv/bin/python")),
            Host::Node => Command::new("node"),
        };
        let program = match self.host {
            Host::Python => "tests/e2e/sdk.py",
            Host::Node => "tests/e2e/node/sdk.js",
        };
        command.arg(in_repository(program));
        command.args([self.name, self.variant, admin.scheme(), &admin.address.to_string()]);
        command.env("NODE_PATH", in_repository("target/e2e/node/node_modules"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("KEY_ID", id).env("KEY_SECRET", secret).env("NO_PROXY", "*");
        if let Some(ca) = &admin.ca {
            command.env("CA", ca).env("NODE_EXTRA_CA_CERTS", ca);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("scripts/install-e2e has made the environment");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (told, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| told.send(line))
        });
        Asker { sdk: self, input: child.stdin.take().expect("piped"), child, lines }
    }

    /// Whether it can send what it does not know.
    pub fn sends_raw(self) -> bool {
        self.host == Host::Python && self.name == "tencent"
    }
}

impl fmt::Display for Sdk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host == Host::Python { "Python" } else { "Node" };
        write!(formatter, "{} {} for {host}", self.name, self.variant)
    }
}

impl Asker {
    pub fn ask(&mut self, action: &str, parameters: Value) -> Result<Value, Refused> {
        self.put(&json!({ "action": action, "parameters": parameters }))
    }

    /// Asks past the SDK's own knowledge of actions and parameters.
    pub fn ask_raw(&mut self, action: &str, parameters: Value) -> Result<Value, Refused> {
        self.put(&json!({ "action": action, "parameters": parameters, "raw": true }))
    }

    /// What must not be refused.
    pub fn done(&mut self, action: &str, parameters: Value) -> Value {
        let answer = self.ask(action, parameters);
        answer.unwrap_or_else(|refused| panic!("{}: {action}: {refused:?}", self.sdk))
    }

    fn put(&mut self, question: &Value) -> Result<Value, Refused> {
        writeln!(self.input, "{question}").expect("it reads");
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("{}: no answer to {question}", self.sdk));
        let told: Value = serde_json::from_str(&line).expect("JSON");
        match told.get("answer") {
            Some(answer) => Ok(answer.clone()),
            None => Err(Refused {
                code: told["code"].as_str().unwrap_or_default().to_owned(),
                status: told["status"].as_u64().unwrap_or_default(),
            }),
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.child.kill(); // Fails only for a process that has ended.
        let _ = self.child.wait();
    }
}

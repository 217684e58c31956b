//! The program under test: started by its command with the files an operator would write.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::backend::RunningBackend;
use crate::client::{Client, Request};
use crate::process::{Process, binary, spawn, until, without_traces};

pub struct Guard {
    pub address: SocketAddr,
    pub path: &'static str,
    /// Where the admin API listens, if the program has one.
    admin: Option<SocketAddr>,
    process: Process,
}

/// A row of `credentials.yaml`.
#[derive(Clone, Copy)]
pub struct Row {
    pub credential_id: &'static str,
    pub token: &'static str,
    pub status: &'static str,
}

/// What the backend gets to see of the client's `Authorization`.
#[derive(Clone, Copy)]
pub enum Authorization {
    Keep,
    Remove,
}

impl Guard {
    /// Starts the proxy before the backend, with a file as its source, and waits until it is ready.
    pub fn start(backend: &RunningBackend, authorization: Authorization, rows: &[Row]) -> Self {
        Self::start_within(backend, authorization, rows, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_within(
        backend: &RunningBackend,
        authorization: Authorization,
        rows: &[Row],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        write(directory.path(), CREDENTIALS, &credentials(rows));
        let source = format!("credentials: {{ source: file, file: {{ path: {CREDENTIALS} }} }}\n");
        let config = config(backend, authorization) + &source;
        Self::launch_config(directory, backend, &config, environment)
    }

    /// Starts the proxy with the embedded admin API, and no credential yet.
    pub fn start_with_admin(backend: &RunningBackend, authorization: Authorization) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        let config = config(backend, authorization) + EMBEDDED;
        Self::launch_config(directory, backend, &config, &[]).with_admin()
    }

    /// Starts the proxy for another tenant, with these files and this config of its source, and waits
    /// until it is ready.
    pub fn start_for(
        backend: &RunningBackend,
        tenant: &str,
        files: &[(&str, &str)],
        source: &str,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        for (name, content) in files {
            write(directory.path(), name, content);
        }
        let config = config(backend, Authorization::Remove).replace(TENANT, tenant) + source;
        Self::launch_config(directory, backend, &config, &[])
    }

    /// Itself, with the admin API that its config has.
    pub fn with_admin(mut self) -> Self {
        self.admin = Some(listening(&mut self.process, "admin"));
        self
    }

    /// Starts the program with a `decision` and an `admin` section, which keeps its files beside the
    /// config, and waits until it is ready.
    pub fn start_deciding(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        Self::launch_face(directory, config, "decision", &[]).with_admin()
    }

    /// Starts the program with a `decision` section and a source that it cannot reach.
    pub fn start_unloaded(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the files");
        write(directory.path(), CONFIG, config);
        write(directory.path(), "token", "for-an-admin-that-is-not-there");
        let mut command = serve(directory.path());
        let mut process = Process::start(directory, &mut command);
        let address = listening(&mut process, "decision");
        Self { address, path: "", admin: None, process }
    }

    /// Ends the program as its supervisor does, and starts it anew on the same files.
    pub fn restart_deciding(&mut self) {
        let child = &mut self.process.child;
        let (id, signal) = (Pid::from_child(child), Signal::TERM);
        kill_process(id, signal).expect("it has not been waited for");
        until("end of the program", || child.try_wait().expect("a child can be asked"));
        let directory = self.process.directory();
        self.process.child = spawn(directory, &mut serve(directory));
        self.address = listening(&mut self.process, "decision");
        self.admin = Some(listening(&mut self.process, "admin"));
    }

    fn launch_config(
        directory: TempDir,
        backend: &RunningBackend,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let launched = Self::launch_face(directory, config, "proxy", environment);
        Self { path: backend.kind.path(), ..launched }
    }

    fn launch_face(
        directory: TempDir,
        config: &str,
        face: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        write(directory.path(), CONFIG, config);
        let mut command = serve(directory.path());
        command.envs(environment.iter().copied());
        let mut process = Process::start(directory, &mut command);
        let address = listening(&mut process, face);
        let ops = listening(&mut process, "ops");
        process.until("readiness", |_| is_ready(ops).then_some(()));
        Self { address, path: "", admin: None, process }
    }

    /// Runs a command of the program against the admin API; what it printed.
    pub fn run(&self, arguments: &[&str], input: &str) -> String {
        let admin = self.admin.expect("started with an admin API");
        let token = self.process.directory().join("admin.token");
        let mut child = Command::new(binary())
            .args(arguments)
            .env("SCIM_GUARD_ADMIN_URL", format!("http://{admin}"))
            .env("SCIM_GUARD_ADMIN_TOKEN", format!("file:{}", token.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let printed = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{arguments:?}: {printed}");
        printed
    }

    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    /// Replaces the credentials as a careful operator does: a new file, renamed over the old.
    pub fn replace_credentials(&self, rows: &[Row]) {
        let directory = self.process.directory();
        write(directory, "credentials.new", &credentials(rows));
        fs::rename(directory.join("credentials.new"), directory.join(CREDENTIALS))
            .expect("both are in one directory");
    }

    /// Waits for this many lines of the access log that name the credential.
    pub fn wait_for_requests(&mut self, credential_id: &str, number: usize) {
        self.process.until(&format!("{number} requests of {credential_id} logged"), |process| {
            let log = process.stdout();
            let logged = log.lines().filter(|line| line.contains(credential_id)).count();
            (logged >= number).then_some(())
        });
    }

    /// Waits for a line of the access log that gives this reason for a refusal.
    pub fn wait_for_reason(&mut self, reason: &str) {
        self.process.until(&format!("reason {reason} logged"), |process| {
            process.stdout().contains(&format!("\"{reason}\"")).then_some(())
        });
    }

    /// Everything the program has written: access log and diagnostics.
    pub fn written(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }
}

impl Row {
    pub const fn enabled(credential_id: &'static str, token: &'static str) -> Self {
        Self { credential_id, token, status: "Enabled" }
    }

    pub const fn disabled(self) -> Self {
        Self { status: "Disabled", ..self }
    }
}

fn config(backend: &RunningBackend, authorization: Authorization) -> String {
    let path = backend.kind.path();
    let url = backend.url();
    let authorization = match authorization {
        Authorization::Keep => "keep",
        Authorization::Remove => "remove",
    };
    format!(
        "\
proxy:
  listeners: [{{ address: 127.0.0.1:0 }}]
  drain: {{ delay: 0s, deadline: 5s }}
  routes:
    - tenant: {TENANT}
      path: {path}
      upstream: {{ url: \"{url}\", authorization: {authorization} }}
ops: {{ listen: 127.0.0.1:0 }}
"
    )
}

fn credentials(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let digest = hex::encode(digest(&SHA256, row.token.as_bytes()));
        let Row { credential_id, status, .. } = row;
        format!(
            "\
- credential_id: {credential_id}
  tenant: {TENANT}
  digest: sha256:{digest}
  status: {status}
  expire_time: 2099-01-01T00:00:00Z
"
        )
    };
    rows.iter().map(row).collect()
}

pub fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).expect("the directory is ours");
}

/// Where a face listens, from the diagnostics: the config left the port to the kernel.
pub fn listening(process: &mut Process, face: &str) -> SocketAddr {
    process.until(&format!("`listening` of face {face}"), |process| {
        let log = process.stderr();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["message"] == "listening" && line["face"] == face)
            .find_map(|line| line["address"].as_str()?.parse().ok())
    })
}

pub fn serve(directory: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--config"]).arg(directory.join(CONFIG)).current_dir("/");
    without_traces(&mut command);
    command
}

fn is_ready(ops: SocketAddr) -> bool {
    let answer = Client::new(ops).send(&Request::new("GET", "/readyz"));
    answer.is_ok_and(|answer| answer.status == 200)
}

const TENANT: &str = "z-demo00000000";
const CONFIG: &str = "proxy.yaml";
const CREDENTIALS: &str = "credentials.yaml";
const EMBEDDED: &str = "\
credentials: { source: embedded }
admin: { listen: 127.0.0.1:0, store: sqlite:admin.db }
";

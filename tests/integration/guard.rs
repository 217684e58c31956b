//! The program under test, with its files in a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Client, Reply};

pub const TENANT: &str = "z-demo00000000";
pub const ID: &str = "scimcred-demo00000001";
pub const TOKEN: &str = "planted-token-0123456789";

/// What a guard is started with.
pub struct Setup {
    pub rows: String,
    /// The source, and the section of its name.
    pub source: String,
    pub deny: Option<String>,
    /// More keys of the listener, such as `, tls: { … }`.
    pub listener: String,
    /// Files beside the config.
    pub files: Vec<(&'static str, String)>,
    pub environment: Vec<(&'static str, String)>,
    /// The list under `proxy.routes`.
    pub routes: String,
    /// More lines of the sections `proxy` and `credentials`, and of the top level.
    pub proxy: String,
    pub credentials: String,
    pub top: String,
}

impl Setup {
    /// One live credential and one route to the backend.
    pub fn new(backend: SocketAddr) -> Self {
        Self {
            rows: row(ID, TOKEN, "Enabled", "2099-01-01T00:00:00Z"),
            source: "file\n  file: { path: credentials.yaml }".to_owned(),
            deny: None,
            listener: String::new(),
            files: Vec::new(),
            environment: Vec::new(),
            routes: route(backend, ""),
            proxy: String::new(),
            credentials: String::new(),
            top: String::new(),
        }
    }

    pub fn proxy(mut self, line: &str) -> Self {
        self.proxy += &format!("  {line}\n");
        self
    }

    pub fn credentials(mut self, line: &str) -> Self {
        self.credentials += &format!("  {line}\n");
        self
    }

    pub fn routes(mut self, routes: &str) -> Self {
        self.routes = routes.to_owned();
        self
    }

    pub fn rows(mut self, rows: &str) -> Self {
        self.rows = rows.to_owned();
        self
    }

    pub fn listener(mut self, keys: &str) -> Self {
        self.listener = keys.to_owned();
        self
    }

    pub fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.to_owned()));
        self
    }

    /// A variable of the program's environment.
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn deny(mut self, list: &str) -> Self {
        self.deny = Some(list.to_owned());
        self.credentials("deny: deny.yaml")
    }

    pub fn config(&self) -> String {
        let drain = if self.proxy.contains("drain:") {
            ""
        } else {
            "  drain: { delay: 0s, deadline: 10s }\n"
        };
        format!(
            "proxy:\n  listeners: [{{ address: '127.0.0.1:0'{} }}]\n{drain}{}  routes:\n{}credentials:\n  source: {}\n{}ops: {{ listen: '127.0.0.1:0' }}\n{}",
            self.listener, self.proxy, self.routes, self.source, self.credentials, self.top
        )
    }

    pub fn write(&self, folder: &Path) {
        fs::write(folder.join("credentials.yaml"), &self.rows).expect("written");
        if let Some(deny) = &self.deny {
            fs::write(folder.join("deny.yaml"), deny).expect("written");
        }
        for (name, content) in &self.files {
            fs::write(folder.join(name), content).expect("written");
        }
        fs::write(folder.join("proxy.yaml"), self.config()).expect("written");
    }

    /// Starts it, and waits until the table is loaded.
    pub fn start(&self) -> Guard {
        let guard = self.launch();
        wait_for("readiness", || guard.ops("/readyz").status == 200);
        guard
    }

    /// Starts it with `--watch`.
    pub fn watch(&self) -> Guard {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path());
        let guard = Guard::launch(folder, &["serve", "--watch"]);
        wait_for("readiness", || guard.ops("/readyz").status == 200);
        guard
    }

    /// Starts it with an access log that nobody reads.
    pub fn start_unread(&self) -> Guard {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path());
        let guard = Guard::launch_by(command(folder.path(), &["serve"]), folder, false);
        wait_for("readiness", || guard.ops("/readyz").status == 200);
        guard
    }

    pub fn launch(&self) -> Guard {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path());
        let mut command = command(folder.path(), &["serve"]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Guard::launch_by(command, folder, true)
    }
}

/// A route of the usual tenant with more keys of its upstream.
pub fn route(backend: SocketAddr, upstream: &str) -> String {
    format!(
        "    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ url: 'http://{backend}/scim/v2'{upstream} }} }}\n"
    )
}

pub fn row(id: &str, token: &str, status: &str, end: &str) -> String {
    let digest = digest(token);
    format!(
        "- {{ credential_id: {id}, tenant: {TENANT}, digest: '{digest}', status: {status}, expire_time: {end} }}\n"
    )
}

pub fn digest(token: &str) -> String {
    scim_guard::credential::TokenDigest::of(token.as_bytes()).to_string()
}

pub struct Guard {
    child: Child,
    pub folder: tempfile::TempDir,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub ops: SocketAddr,
    out: Arc<Mutex<String>>,
    diagnostics: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Guard {
    /// Starts it with the files of this folder, and waits until the table is loaded.
    pub fn start_in(folder: tempfile::TempDir) -> Self {
        let guard = Self::launch(folder, &["serve"]);
        guard.ready()
    }

    /// Itself, once the table is loaded.
    pub fn ready(self) -> Self {
        let what = format!("readiness: {}", self.diagnostics());
        wait_for(&what, || self.ops("/readyz").status == 200);
        self
    }

    pub fn launch(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        Self::launch_by(command(folder.path(), arguments), folder, true)
    }

    fn launch_by(mut command: Command, folder: tempfile::TempDir, reads: bool) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (diagnostics, reader) = collect(child.stderr.take().expect("piped"));
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut readers = vec![reader];
        let mut out = Arc::default();
        if reads {
            let (text, reader) = collect(child.stdout.take().expect("piped"));
            out = text;
            readers.push(reader);
        }
        let config = fs::read_to_string(folder.path().join("proxy.yaml")).expect("a config");
        let mut guard = Self {
            child,
            folder,
            proxy: unset,
            admin: unset,
            ops: unset,
            out,
            diagnostics,
            readers,
        };
        let mut found = |face: &str| {
            let named = config.lines().any(|line| line.starts_with(&format!("{face}:")));
            if named { guard.address(face) } else { unset }
        };
        (guard.proxy, guard.admin, guard.ops) = (found("proxy"), found("admin"), found("ops"));
        guard
    }

    fn address(&mut self, face: &str) -> SocketAddr {
        let mut found = None;
        wait_for(&format!("the address of {face} in {}", self.diagnostics()), || {
            let text = self.diagnostics();
            found = listening(&text, face).pop();
            found.is_some() || self.child.try_wait().expect("a child").is_some()
        });
        found.unwrap_or_else(|| panic!("it ended: {}", self.diagnostics()))
    }

    /// All addresses at which the proxy has said to listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        listening(&self.diagnostics(), "proxy")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file by renaming a whole one over it.
    pub fn replace(&self, name: &str, content: &str) {
        fs::write(self.path("new"), content).expect("written");
        fs::rename(self.path("new"), self.path(name)).expect("renamed");
    }

    pub fn client(&self) -> Client {
        Client::connect(self.proxy)
    }

    /// A GET below the route with this token, on a connection of its own.
    pub fn get(&self, rest: &str, token: &str) -> Reply {
        self.client().get(rest, token)
    }

    pub fn ops(&self, path: &str) -> Reply {
        Client::connect(self.ops).send(&format!("GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n"))
    }

    /// The value of a metric's series, 0 if there is none.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.ops("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    pub fn access_lines(&self) -> Vec<serde_json::Value> {
        let text = self.out.lock().expect("not poisoned").clone();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The status of a GET below the route with this token, and the reason in its access line.
    pub fn verdict(&self, token: &str) -> (u16, String) {
        let id = format!("r-{}", fastrand::u64(..));
        let reply = self.client().send(&format!(
            "GET /scim/v2/Users HTTP/1.1\r\nHost: scim.test\r\nAuthorization: Bearer {token}\r\n\
             X-Request-Id: {id}\r\n\r\n"
        ));
        let line = self.access_line(&id);
        (reply.status, line["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// The access line of a request, once it is written.
    pub fn access_line(&self, request_id: &str) -> serde_json::Value {
        let mut found = None;
        wait_for(&format!("the line of {request_id}"), || {
            found = self.access_lines().into_iter().find(|line| line["request_id"] == request_id);
            found.is_some()
        });
        found.expect("waited for")
    }

    pub fn diagnostics(&self) -> String {
        self.diagnostics.lock().expect("not poisoned").clone()
    }

    pub fn wait_for_diagnostic(&self, part: &str) {
        wait_for(part, || self.diagnostics().contains(part));
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of the process", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("waited for")
    }

    /// Ends it, and gives all that it has written.
    pub fn stop(self) -> (String, String, tempfile::TempDir) {
        self.end(rustix::process::Signal::TERM)
    }

    /// Ends it by a signal, and gives all that it has written.
    pub fn end(mut self, signal: rustix::process::Signal) -> (String, String, tempfile::TempDir) {
        self.signal(signal);
        self.wait();
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader ends with the process");
        }
        let out = self.out.lock().expect("not poisoned").clone();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (out, self.diagnostics(), folder)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All addresses at which a face has said to listen.
pub fn listening(diagnostics: &str, face: &str) -> Vec<SocketAddr> {
    let events =
        diagnostics.lines().filter_map(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    let told = events.filter(|it| it["message"] == "listening" && it["face"] == face);
    told.filter_map(|it| it["address"].as_str()?.parse().ok()).collect()
}

/// The program with its working directory.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scim-guard"));
    command.args(arguments).current_dir(folder);
    alone(&mut command);
    command
}

/// Takes from the environment what the tests do not say.
pub fn alone(command: &mut Command) {
    command.env_remove("SCIM_GUARD_CONFIG");
    for rest in ["EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT", "TRACES_EXPORTER"] {
        command.env_remove(format!("OTEL_{rest}"));
    }
}

fn collect(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            sink.lock().expect("not poisoned").push_str(&line);
            line.clear();
        }
    });
    (text, reader)
}

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

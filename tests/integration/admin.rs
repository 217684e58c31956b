//! Processes with an admin API, or that follow one: they can be killed, and started again in the
//! folder that they have left. And a client of that API.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::backend::Backend;
use crate::guard::{PATIENCE, alone, command, listening, wait_for};
use crate::http::{Client, Reply};
use crate::ledger::LIMIT;

/// What admin tokens there are beside the operator's, by name, role and tenants.
pub const TOKENS: [(&str, &str, &str); 5] = [
    ("follower", "replica", ""),
    ("looker", "reader", ""),
    ("nightwatch", "responder", ""),
    ("tenant-operator", "operator", "z-a"),
    ("tenant-follower", "replica", "z-a"),
];

pub fn secret_of(name: &str) -> String {
    format!("planted-secret-of-{name}")
}

/// The config of a process with everything in it: proxy, embedded source, admin API.
pub fn config(listen: &str, backend: SocketAddr, limit: usize) -> String {
    let mut tokens = String::new();
    for (name, role, tenants) in TOKENS {
        let tenants =
            if tenants.is_empty() { String::new() } else { format!(", tenants: [{tenants}]") };
        tokens += &format!(
            "    - {{ name: {name}, role: {role}, token: 'file:{name}.token'{tenants} }}\n"
        );
    }
    format!(
        "{}credentials: {{ source: embedded, refresh: 1s }}\nadmin:\n  listen: '{listen}'\n  \
         store: sqlite:data/admin.db\n  tenants: [z-a, z-b, z-c]\n  limits: {{ \
         credentials_per_tenant: {limit} }}\n  tokens:\n{tokens}replica: {{ name: near }}\n",
        proxy(backend)
    )
}

/// The config of a proxy that follows the admin API of another process.
pub fn follower(admin: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "{}credentials:\n  source: native\n  refresh: 1s\n  native: {{ url: 'http://{admin}', \
         token: 'file:follower.token' }}\nreplica: {{ name: far }}\n",
        proxy(backend)
    )
}

fn proxy(backend: SocketAddr) -> String {
    format!(
        "proxy:\n  listeners: [{{ address: '127.0.0.1:0' }}]\n  workers: 1\n  drain: {{ delay: \
         0s, deadline: 5s }}\n  routes: [{{ tenant: '*', path: '/{{tenant}}/scim/v2', upstream: {{ \
         url: 'http://{backend}/scim/v2' }} }}]\nops: {{ listen: '127.0.0.1:0' }}\n"
    )
}

/// Writes a config, and the files of all tokens.
pub fn furnish(folder: &Path, config: &str) {
    fs::write(folder.join("proxy.yaml"), config).expect("written");
    for (name, ..) in TOKENS {
        fs::write(folder.join(format!("{name}.token")), secret_of(name)).expect("written");
    }
}

/// A running `scim-guard serve`. Its folder outlives it, with what it has said.
pub struct Process {
    child: RefCell<Child>,
    pub folder: PathBuf,
    said: PathBuf,
}

impl Process {
    pub fn launch(folder: &Path) -> Self {
        Self::launch_by(folder, &[], Stdio::null())
    }

    /// Launches it by another program, whose last arguments are the program and what it is to do.
    pub fn launch_by(folder: &Path, launcher: &[&str], input: Stdio) -> Self {
        let launches = fs::read_dir(folder).expect("a folder").count();
        let said = folder.join(format!("said-{launches}"));
        let out = || File::options().create(true).append(true).open(&said).expect("a file");
        let mut command = command(folder, &["serve"]);
        if let Some((program, arguments)) = launcher.split_first() {
            let launched = command;
            command = Command::new(program);
            command.args(arguments).arg(launched.get_program()).args(launched.get_args());
            alone(command.current_dir(folder));
        }
        let child =
            command.stdin(input).stdout(out()).stderr(out()).spawn().expect("the program starts");
        Self { child: RefCell::new(child), folder: folder.to_owned(), said }
    }

    /// Starts it, and waits until its table is loaded.
    pub fn start(folder: &Path) -> Self {
        let process = Self::launch(folder);
        process.wait_until_ready();
        process
    }

    pub fn wait_until_ready(&self) {
        let ops = self.address("ops");
        wait_for(&format!("readiness of {}", self.folder.display()), || {
            ops_of(ops, "/readyz").status == 200
        });
    }

    /// Where a face listens, once it does.
    pub fn address(&self, face: &str) -> SocketAddr {
        let mut found = None;
        wait_for(&format!("the address of {face}"), || {
            found = listening(&self.said(), face).pop();
            found.is_some() || self.child.borrow_mut().try_wait().expect("a child").is_some()
        });
        found.unwrap_or_else(|| panic!("it ended: {}", self.said()))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child.borrow())
    }

    /// What it has written to both of its outputs.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("a file")
    }

    pub fn ops(&self, path: &str) -> Reply {
        ops_of(self.address("ops"), path)
    }

    pub fn metric(&self, series: &str) -> f64 {
        let text = self.ops("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let child = self.child.get_mut();
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Ends it in good order.
    pub fn stop(self) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        self.wait();
    }

    /// Waits for its end, which must be a good one.
    pub fn wait(self) {
        let mut status = None;
        wait_for("the end of the process", || {
            status = self.child.borrow_mut().try_wait().expect("a child");
            status.is_some()
        });
        assert!(status.expect("waited for").success(), "{}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.get_mut().kill();
        let _ = self.child.get_mut().wait();
    }
}

fn ops_of(address: SocketAddr, path: &str) -> Reply {
    Client::connect(address).send(&format!("GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n"))
}

/// An admin API with a proxy of its own, and one that follows it from afar.
pub struct Pair {
    pub folder: tempfile::TempDir,
    _far_folder: tempfile::TempDir,
    pub near: Process,
    pub far: Process,
    pub address: SocketAddr,
    pub operator: Api,
    /// With the token of a replica.
    pub reader: Api,
}

impl Pair {
    pub fn start(listen: &str) -> Self {
        let backend = Backend::friendly();
        let folder = tempfile::tempdir().expect("a folder");
        furnish(folder.path(), &config(listen, backend.address, LIMIT));
        let near = Process::start(folder.path());
        let address = near.address("admin");
        furnish(folder.path(), &config(&address.to_string(), backend.address, LIMIT));
        let far_folder = tempfile::tempdir().expect("a folder");
        furnish(far_folder.path(), &follower(address, backend.address));
        let far = Process::start(far_folder.path());
        let operator = Api::operator(address, folder.path());
        let reader = Api::new(address, &secret_of("follower"));
        Self { folder, _far_folder: far_folder, near, far, address, operator, reader }
    }

    pub fn stop(self) {
        assert!(!self.near.said().contains("panicked") && !self.far.said().contains("panicked"));
        self.far.stop();
        self.near.stop();
    }
}

/// Somebody with an admin token, on one connection as long as that holds.
pub struct Api {
    pub address: SocketAddr,
    pub token: String,
    client: Option<Client>,
}

/// There was no answer; what was asked for may have happened.
#[derive(Debug)]
pub struct Unanswered;

impl Api {
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, token: token.to_owned(), client: None }
    }

    /// With the token of the first start.
    pub fn operator(address: SocketAddr, folder: &Path) -> Self {
        let token = fs::read_to_string(folder.join("data/admin.token")).expect("it is there");
        Self::new(address, token.trim())
    }

    pub fn get(&mut self, target: &str) -> Reply {
        self.ask("GET", target, "")
    }

    /// A connection that has been idle may be closed by now, and it does no harm to read twice.
    pub fn ask(&mut self, method: &str, target: &str, body: &str) -> Reply {
        let mut asked = self.try_ask(method, target, body);
        if asked.is_err() && method == "GET" {
            asked = self.try_ask(method, target, body);
        }
        asked.expect("an answer")
    }

    /// What may be gone is the server, and nothing else.
    pub fn try_ask(&mut self, method: &str, target: &str, body: &str) -> Result<Reply, Unanswered> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let client = match self.client.take() {
            Some(client) => Ok(client),
            None => connect(self.address).map(Client::over),
        };
        let mut client = client.map_err(|_| Unanswered)?;
        client.stream.write_all(request.as_bytes()).map_err(|_| Unanswered)?;
        match client.reply(method == "HEAD") {
            Some(reply) if reply.whole => {
                self.client = Some(client);
                Ok(reply)
            }
            _ => Err(Unanswered),
        }
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status that a proxy answers with to a token at a tenant's route.
pub fn probe(client: &mut Client, tenant: &str, token: &str) -> u16 {
    let request = format!(
        "GET /{tenant}/scim/v2/Users HTTP/1.1\r\nHost: scim\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    client.send(&request).status
}

/// Waits until the replicas named have applied all that the store has.
pub fn wait_until_applied(operator: &mut Api, names: &[&str]) {
    wait_for(&format!("{names:?} to have applied everything"), || {
        let head = operator.get("/v1/history").json();
        let replicas = operator.get("/v1/replicas").json();
        let replicas = replicas["replicas"].as_array().expect("a list");
        let at_head = |replica: &Value| replica["applied"] == position(&head);
        names.iter().all(|name| replicas.iter().any(|it| it["name"] == *name && at_head(it)))
    });
}

/// A position as followers write it, from the members of a head.
pub fn position(head: &Value) -> String {
    let text = |name: &str| head[name].as_str().expect("a text").to_owned();
    format!("{}:{}:{}", text("history"), head["revision"], text("mark"))
}

/// Reads an endless answer line by line, until it ends or `line` says that it is enough.
pub fn read_stream(
    address: SocketAddr,
    token: &str,
    target: &str,
    last_id: &str,
    mut line: impl FnMut(&str) -> bool,
) -> Option<u16> {
    // HTTP/1.0 knows no chunks: the body is what comes.
    let request = format!(
        "GET {target} HTTP/1.0\r\nHost: admin\r\nAuthorization: Bearer {token}\r\nAccept: \
         text/event-stream\r\nLast-Event-ID: {last_id}\r\n\r\n"
    );
    let mut stream = connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a socket");
    stream.write_all(request.as_bytes()).ok()?;
    let (mut status, mut received) = (None, Vec::new());
    let mut buffer = [0; 16_384];
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        received.extend_from_slice(&buffer[..bytes]);
        while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = received.drain(..=end).collect();
            let text = String::from_utf8_lossy(&text);
            if status.is_none() {
                status = text.get(9..12).and_then(|code| code.parse().ok());
            }
            if !line(text.trim_end()) {
                return status;
            }
        }
    }
    status
}

//! The SCIM servers that stand behind the proxy, each a fresh process with nothing in it.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::process::{Process, in_repository};

#[derive(Clone, Copy, Debug)]
pub enum Backend {
    /// scim2-server by its own command: HTTP/1.0, and each answer closes the connection.
    Scim2Server,
    /// scim2-server on uvicorn: HTTP/1.1 in Python.
    Uvicorn,
    /// scimmy-routers on Express 4: HTTP/1.1 in Node, where idle connections last five seconds.
    Express,
}

pub struct RunningBackend {
    pub address: SocketAddr,
    pub kind: Backend,
    process: Process,
}

impl Backend {
    pub const ALL: [Self; 3] = [Self::Scim2Server, Self::Uvicorn, Self::Express];

    /// Where its SCIM resources begin, directly and through the proxy.
    pub fn path(self) -> &'static str {
        match self {
            Self::Scim2Server | Self::Uvicorn => "/v2",
            Self::Express => "/scim/v2",
        }
    }

    /// Starts a server that takes every request.
    pub fn start(self) -> RunningBackend {
        self.run(None)
    }

    /// Starts a server that demands a static token of its own, as most do before we come.
    pub fn start_with_token(self, token: &str) -> RunningBackend {
        self.run(Some(token))
    }

    fn run(self, token: Option<&str>) -> RunningBackend {
        let directory = tempfile::tempdir().expect("a directory for the logs");
        let mut process = Process::start(directory, &mut self.command(token));
        let port = process.until("a listening port", |process| listening_port(process.id()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        RunningBackend { address, kind: self, process }
    }

    fn command(self, token: Option<&str>) -> Command {
        match self {
            Self::Scim2Server => {
                let mut command = Command::new(in_repository("target/e2e/venv/bin/scim2-server"));
                command.args(["--port", "0"]);
                token.map(|token| command.args(["--bearer-token", token]));
                command
            }
            Self::Uvicorn => {
                let mut command = Command::new(in_repository("target/e2e/venv/bin/uvicorn"));
                command.args(["scim2_asgi:application", "--port", "0", "--app-dir"]);
                command.arg(in_repository("tests/e2e")).env("PYTHONDONTWRITEBYTECODE", "1");
                token.map(|token| command.env("STATIC_TOKEN", token));
                command
            }
            Self::Express => {
                let mut command = Command::new("node");
                command.arg(in_repository("tests/e2e/node/server.js")).arg("0").args(token);
                command.env("NODE_PATH", in_repository("target/e2e/node/node_modules"));
                command
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scim2Server => "scim2-server",
            Self::Uvicorn => "scim2-server on uvicorn",
            Self::Express => "scimmy-routers on Express",
        })
    }
}

impl RunningBackend {
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.kind.path())
    }

    /// What it has printed.
    pub fn written(&self) -> String {
        self.process.stdout()
    }
}

/// The port the kernel gave: not every server tells it, so the kernel is asked.
fn listening_port(process: u32) -> Option<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .ok()?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (columns.get(1)?, *columns.get(3)?, columns.get(9)?);
        let ours = state == LISTENING && sockets.contains(&format!("socket:[{inode}]"));
        ours.then(|| u16::from_str_radix(local.split_once(':')?.1, 16).ok())?
    })
}

/// TCP_LISTEN, as `/proc/net/tcp` writes it.
const LISTENING: &str = "0A";

//! The edges, each with the files shipped for it, the program that reads them, and where it differs
//! from the others.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::guard::write;
use crate::process::{Process, in_repository};

pub struct Edge {
    /// Its folder in `deploy/edges`.
    pub name: &'static str,
    /// What stands there beside `proxy.yaml`. The program is given the first.
    pub files: &'static [&'static str],
    /// Every place of an address, by file and line: there and nowhere else the tests put others.
    addresses: &'static [(&'static str, &'static str)],
    run: fn(&Path) -> Command,
    /// The program's own check of its files, if it has one.
    check: Option<fn(&Path) -> Command>,
    /// What a client gets while nobody answers for the guard.
    pub away: Away,
    /// Cases that never get as far as the guard, and the edge's own status for them.
    pub own: &'static [(&'static str, u16)],
    /// Targets that the edge writes in its own way, for the guard and the backend alike.
    pub respelled: &'static [(&'static str, &'static str)],
}

pub struct Away {
    pub status: u16,
    /// Whether it says so as SCIM errors do, and when to come back.
    pub is_scim: bool,
    /// How long a client waits for it at most when the guard hangs.
    pub patience: Duration,
}

/// Where a test has put what the shipped files look for on the ports that they name.
#[derive(Clone, Copy)]
pub struct Places {
    pub edge: SocketAddr,
    pub guard: SocketAddr,
    /// HAProxy's way to the guard leads through itself.
    pub relay: SocketAddr,
    pub backend: SocketAddr,
}

impl Edge {
    /// Starts the program on the shipped files, once it has nothing to say against them.
    pub fn start(&self, places: &Places) -> Process {
        let directory = tempfile::tempdir().expect("a directory for the files");
        for file in self.files {
            write(directory.path(), file, &self.file(file, places));
        }
        let config = directory.path().join(self.files[0]);
        if let Some(check) = self.check {
            let done = check(&config).current_dir(&directory).output().expect("the program starts");
            let errors = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{}: {errors}", self.name);
        }
        let mut command = (self.run)(&config);
        command.current_dir(directory.path());
        Process::start(directory, &mut command)
    }

    /// A shipped file, with the test's addresses in the place of its own.
    fn file(&self, name: &str, places: &Places) -> String {
        let mut text = self.shipped(name);
        for (_, line) in self.addresses.iter().filter(|(file, _)| *file == name) {
            text = replace_once(&text, line, &places.put_into(line));
        }
        text
    }

    pub fn shipped(&self, name: &str) -> String {
        let path = self.folder().join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn folder(&self) -> PathBuf {
        in_repository("deploy/edges").join(self.name)
    }

    pub fn spelling<'a>(&self, target: &'a str) -> &'a str {
        let target = target.strip_prefix("http://scim.example.com").unwrap_or(target);
        let mut respelled = self.respelled.iter();
        respelled.find(|(from, _)| *from == target).map_or(target, |(_, to)| to)
    }
}

impl Places {
    fn put_into(&self, line: &str) -> String {
        let places = [("8080", self.edge), ("8082", self.guard), ("8083", self.relay)];
        let mut places = places.into_iter().chain([("9000", self.backend)]);
        // One a line, so that none is looked for within another's new one.
        match places.find(|(port, _)| line.contains(port)) {
            Some((port, place)) => line.replace(port, &place.port().to_string()),
            None => line.to_owned(),
        }
    }
}

/// A text with one piece exchanged, which must stand in it exactly once.
pub fn replace_once(text: &str, from: &str, to: &str) -> String {
    let found = text.matches(from).count();
    assert_eq!(found, 1, "`{from}` stands {found} times in:\n{text}");
    text.replace(from, to)
}

fn installed(name: &str) -> Command {
    Command::new(in_repository("target/e2e/venv/bin").join(name))
}

fn debian(name: &str) -> Command {
    Command::new(Path::new("/usr/sbin").join(name))
}

fn nginx(config: &Path) -> Command {
    let mut command = debian("nginx");
    // One process, which ends with the test.
    command.args(["-p", ".", "-g", "master_process off;", "-c"]).arg(config);
    command
}

fn haproxy(config: &Path) -> Command {
    let mut command = debian("haproxy");
    command.arg("-f").arg(config);
    command
}

fn caddy(verb: &str, config: &Path) -> Command {
    let mut command = installed("caddy");
    command.args([verb, "--config"]).arg(config);
    // Where it keeps a copy of what it runs.
    let home = config.parent().expect("a file has a directory");
    command.env("XDG_CONFIG_HOME", home).env("XDG_DATA_HOME", home);
    command
}

fn traefik(config: &Path) -> Command {
    let mut command = installed("traefik");
    command.arg(format!("--configFile={}", config.display()));
    command
}

fn envoy(mode: &str, config: &Path) -> Command {
    let mut command = installed("envoy");
    command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
    command.args(["--mode", mode, "-c"]).arg(config);
    command
}

fn and(mut command: Command, argument: &str) -> Command {
    command.arg(argument);
    command
}

pub const EDGES: [&Edge; 6] = [&NGINX, &HAPROXY, &CADDY, &TRAEFIK, &ENVOY_HTTP, &ENVOY_GRPC];

pub const NGINX: Edge = Edge {
    name: "nginx",
    files: &["nginx.conf"],
    addresses: &[
        ("nginx.conf", "listen 127.0.0.1:8080;"),
        ("nginx.conf", "server 127.0.0.1:8082;"),
        ("nginx.conf", "server 127.0.0.1:9000;"),
    ],
    run: nginx,
    check: Some(|config| and(nginx(config), "-t")),
    away: Away { status: 503, is_scim: true, patience: Duration::from_secs(10) },
    own: &[("two tokens", 400), ("the token twice", 400), ("a place of nginx's own", 404)],
    respelled: &[],
};

pub const HAPROXY: Edge = Edge {
    name: "haproxy",
    files: &["haproxy.cfg", "scim-guard.lua"],
    addresses: &[
        ("haproxy.cfg", "    http-request lua.scim_guard http://127.0.0.1:8083/\n"),
        ("haproxy.cfg", "    bind 127.0.0.1:8080\n"),
        ("haproxy.cfg", "    bind 127.0.0.1:8083\n"),
        ("haproxy.cfg", "    server guard 127.0.0.1:8082\n"),
        ("haproxy.cfg", "    server backend 127.0.0.1:9000\n"),
    ],
    run: haproxy,
    check: Some(|config| and(haproxy(config), "-c")),
    away: Away { status: 503, is_scim: true, patience: Duration::from_secs(10) },
    own: &[],
    respelled: &[],
};

pub const CADDY: Edge = Edge {
    name: "caddy",
    files: &["Caddyfile"],
    addresses: &[
        ("Caddyfile", "\nhttp://:8080 {\n"),
        ("Caddyfile", "forward_auth 127.0.0.1:8082 {"),
        ("Caddyfile", "reverse_proxy 127.0.0.1:9000\n"),
    ],
    run: |config| caddy("run", config),
    check: Some(|config| caddy("validate", config)),
    away: Away { status: 503, is_scim: true, patience: Duration::from_secs(10) },
    own: &[],
    respelled: &[
        ("/scim/v2/Users/\"a\"", "/scim/v2/Users/%22a%22"),
        ("/scim/v2/Users/a|b^c{d}", "/scim/v2/Users/a%7Cb%5Ec%7Bd%7D"),
    ],
};

pub const TRAEFIK: Edge = Edge {
    name: "traefik",
    files: &["traefik.yaml", "routes.yaml"],
    addresses: &[
        ("traefik.yaml", "    address: 127.0.0.1:8080\n"),
        ("routes.yaml", "        address: http://127.0.0.1:8082/\n"),
        ("routes.yaml", "          - url: http://127.0.0.1:9000\n"),
    ],
    run: traefik,
    check: None,
    // Neither its words nor its half a minute can be set.
    away: Away { status: 500, is_scim: false, patience: Duration::from_secs(40) },
    own: &[],
    respelled: &[
        ("/scim/v2/Users?a=1;b=2&a=%2F%2e%2e%2F", "/scim/v2/Users?a=1&b=2&a=%2F%2e%2e%2F"),
        ("/scim/v2/Users/a%2fb", "/scim/v2/Users/a%2Fb"),
        ("/scim/v2/Users/%41;v=1", "/scim/v2/Users/A;v=1"),
        ("/scim/v2/Users/%C3%A9%e9", "/scim/v2/Users/%C3%A9%E9"),
        ("/scim/v2/Users/\"a\"", "/scim/v2/Users/%22a%22"),
        ("/scim/v2/Users/a|b^c{d}", "/scim/v2/Users/a%7Cb%5Ec%7Bd%7D"),
    ],
};

pub const ENVOY_HTTP: Edge = Edge {
    name: "envoy-http",
    files: &["envoy.yaml"],
    addresses: &[
        ("envoy.yaml", "address: 127.0.0.1, port_value: 8080 }"),
        ("envoy.yaml", "uri: \"http://127.0.0.1:8082\""),
        ("envoy.yaml", "address: 127.0.0.1, port_value: 8082 }"),
        ("envoy.yaml", "address: 127.0.0.1, port_value: 9000 }"),
    ],
    run: |config| envoy("serve", config),
    check: Some(|config| envoy("validate", config)),
    away: Away { status: 503, is_scim: true, patience: Duration::from_secs(10) },
    own: &[],
    respelled: &[],
};

pub const ENVOY_GRPC: Edge = Edge {
    name: "envoy-grpc",
    addresses: &[
        ("envoy.yaml", "address: 127.0.0.1, port_value: 8080 }"),
        ("envoy.yaml", "address: 127.0.0.1, port_value: 8082 }"),
        ("envoy.yaml", "address: 127.0.0.1, port_value: 9000 }"),
    ],
    ..ENVOY_HTTP
};

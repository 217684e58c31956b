//! What a supervisor such as systemd is told: a real datagram socket stands for it.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::admin::{Process, follower, furnish, probe};
use crate::backend::Backend;
use crate::guard::{PATIENCE, Setup, TOKEN};
use crate::http::Client;

struct Systemd {
    socket: UnixDatagram,
    /// As `NOTIFY_SOCKET` names it.
    name: String,
}

impl Systemd {
    fn at_path(folder: &Path) -> Self {
        let path = folder.join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self { socket, name: path.display().to_string() }
    }

    fn abstractly() -> Self {
        let name = format!("scim-guard-{:016x}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self { socket, name: format!("@{name}") }
    }

    fn launch(&self, folder: &Path, more: &[&str]) -> Process {
        let told = format!("NOTIFY_SOCKET={}", self.name);
        let launcher = [&["env", told.as_str()], more].concat();
        Process::launch_by(folder, &launcher, Stdio::null())
    }

    /// The next message that is no mere sign of life.
    fn hear(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.next(left).unwrap_or_else(|error| panic!("nothing told: {error}"));
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    fn next(&self, patience: Duration) -> io::Result<String> {
        let mut message = [0; 4096];
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let length = self.socket.recv(&mut message)?;
        Ok(String::from_utf8(message[..length].to_vec()).expect("text"))
    }
}

fn micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

fn check_life(systemd: &Systemd, folder: &Path) {
    let backend = Backend::friendly();
    let setup = Setup::new(backend.address);
    setup.write(folder);
    let process = systemd.launch(folder, &[]);
    assert_eq!(systemd.hear(), "READY=1\nSTATUS=serving");
    let proxy = process.address("proxy");
    assert_eq!(Client::connect(proxy).get("/Users", TOKEN).status, 200);

    for (config, expected) in [
        (setup.config(), "serving"),
        (setup.config() + "sections: unknown\n", "serving; config not reloaded: "),
        (setup.config(), "serving"),
    ] {
        std::fs::write(folder.join("proxy.yaml"), config).expect("written");
        let before = micros();
        kill_process(process.pid(), Signal::HUP).expect("it runs");
        let reloading = systemd.hear();
        let (told, status) = reloading.split_once("\nSTATUS=").expect("two parts");
        let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a time");
        let time = time.parse::<i64>().expect("a number");
        assert!((before..=micros()).contains(&time), "{time}");
        assert_eq!(status, "reloading");
        let ready = systemd.hear();
        let status = ready.strip_prefix("READY=1\nSTATUS=").expect("ready again");
        assert!(status.starts_with(expected) && status.lines().count() == 1, "{status}");
    }

    kill_process(process.pid(), Signal::TERM).expect("it runs");
    assert_eq!(systemd.hear(), "STOPPING=1\nSTATUS=draining");
    process.wait();
}

#[test]
fn a_supervisor_hears_of_start_reload_and_end() {
    let folder = tempfile::tempdir().expect("a folder");
    check_life(&Systemd::at_path(folder.path()), folder.path());
    let folder = tempfile::tempdir().expect("a folder");
    check_life(&Systemd::abstractly(), folder.path());
}

#[test]
fn signs_of_life_come_to_whom_wants_them() {
    let (backend, folder) = (Backend::friendly(), tempfile::tempdir().expect("a folder"));
    Setup::new(backend.address).write(folder.path());
    let systemd = Systemd::at_path(folder.path());
    let process = systemd.launch(folder.path(), &["WATCHDOG_USEC=100000"]);
    assert_eq!(systemd.hear(), "READY=1\nSTATUS=serving");
    for _ in 0..5 {
        assert_eq!(systemd.next(PATIENCE).expect("in time"), "WATCHDOG=1");
    }
    process.stop();
}

#[test]
fn an_admin_api_that_is_away_keeps_nobody_from_starting() {
    let (backend, folder) = (Backend::friendly(), tempfile::tempdir().expect("a folder"));
    // Nobody accepts what is asked there.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let away = silent.local_addr().expect("bound");
    furnish(folder.path(), &follower(away, backend.address));
    let systemd = Systemd::at_path(folder.path());
    let process = systemd.launch(folder.path(), &[]);
    assert_eq!(systemd.hear(), "READY=1\nSTATUS=serving");
    let mut client = Client::connect(process.address("proxy"));
    assert_eq!(probe(&mut client, "z-a", TOKEN), 503, "we do not know");
    process.stop();
}

#[test]
fn a_supervisor_that_does_not_listen_is_no_reason_to_end() {
    let (backend, folder) = (Backend::friendly(), tempfile::tempdir().expect("a folder"));
    Setup::new(backend.address).write(folder.path());
    for (name, told) in [
        ("/nonexistent/notify.sock", "the supervisor cannot be told READY=1"),
        ("vsock:2:1234", "neither a path nor an abstract name"),
    ] {
        let name = format!("NOTIFY_SOCKET={name}");
        let process = Process::launch_by(folder.path(), &["env", &name], Stdio::null());
        process.wait_until_ready();
        crate::guard::wait_for(told, || process.said().contains(told));
        process.stop();
    }
}

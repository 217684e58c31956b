//! The program under test: it can be ended in every way and started again on the same files and
//! ports.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::{Client, Request};
use crate::port::Reserved;
use crate::process::{binary, until, without_traces};

pub struct Program {
    pub name: String,
    pub faces: Faces,
    folder: TempDir,
    /// What it is started by, if not by itself.
    wrapper: Vec<String>,
    child: Option<Child>,
}

/// Where it listens. Nobody else has the address, so that its ports stay free while it is gone.
#[derive(Clone, Copy, Debug)]
pub struct Faces {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub ops: SocketAddr,
}

impl Faces {
    pub fn at(address: IpAddr) -> Self {
        let all = [(); 3].map(|()| Reserved::at(address));
        let [proxy, admin, ops] = all.map(|face| face.address);
        Self { proxy, admin, ops }
    }
}

impl Program {
    /// Writes its files and starts it.
    pub fn launch(name: &str, faces: Faces, files: &[(&str, &str)], wrapper: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        let mut program = Self { name: name.to_owned(), faces, folder, wrapper, child: None };
        files.iter().for_each(|(name, content)| program.write(name, content));
        program.start();
        program
    }

    pub fn start(&mut self) {
        let output = |name| {
            let file = OpenOptions::new().create(true).append(true).open(self.folder().join(name));
            file.expect("the folder is ours")
        };
        let (binary, mut words) = (binary().display().to_string(), self.wrapper.clone());
        words.extend([binary, "serve".to_owned(), "--config".to_owned()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.folder().join("proxy.yaml")).current_dir("/");
        command.env("FOLDER", self.folder()).stdin(Stdio::null());
        without_traces(&mut command);
        let child = command.stdout(output(ACCESS)).stderr(output(DIAGNOSTICS)).spawn();
        self.child = Some(child.expect("the program starts"));
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new file, renamed over the old one.
    pub fn write(&self, name: &str, content: &str) {
        let (draft, file) = (self.folder().join(".draft"), self.folder().join(name));
        fs::write(&draft, content).and_then(|()| fs::rename(draft, file)).expect("it is ours");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder().join(name)).unwrap_or_default()
    }

    pub fn diagnostics(&self) -> String {
        self.read(DIAGNOSTICS)
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("an id");
        kill_process(id, signal).expect("it is ours");
    }

    /// As the kernel does it when memory is short.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // Fails only for a process that has ended.
            let _ = child.wait();
        }
    }

    /// Asks it to leave, and waits until it has left.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        until(&format!("end of {}", self.name), || child.try_wait().expect("a child can be asked"))
    }

    pub fn is_ready(&self) -> bool {
        let answer = Client::new(self.faces.ops).send(&Request::new("GET", "/readyz"));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let answer = Client::new(self.faces.ops).send(&Request::new("GET", "/metrics")).ok()?;
        let text = String::from_utf8(answer.body).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(other, _)| *other == name)?.1.parse().ok()
    }

    pub fn wait_until_ready(&self) {
        until(&format!("ready {}", self.name), || self.is_ready().then_some(()));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let told = self.diagnostics();
            let end: Vec<&str> = told.lines().rev().take(LINES_SHOWN).collect();
            eprintln!("--- the end of what {} said:", self.name);
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

const LINES_SHOWN: usize = 40;

const ACCESS: &str = "access.log";
const DIAGNOSTICS: &str = "diagnostics.log";

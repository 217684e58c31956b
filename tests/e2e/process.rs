//! A child process: its output goes to files, and it ends with the value that stands for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub struct Process {
    pub child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts the command with a directory of its own, which `Process::directory` names.
    pub fn start(directory: TempDir, command: &mut Command) -> Self {
        Self { child: spawn(directory.path(), command), directory }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn stdout(&self) -> String {
        self.read(STDOUT)
    }

    pub fn stderr(&self) -> String {
        self.read(STDERR)
    }

    /// Like [`until`], but gives up at once when the process has ended.
    pub fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        until(what, || {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert_eq!(ended, None, "ended before {what}");
            condition(self)
        })
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.directory().join(name)).expect("made at the start");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // Fails only for a process that has ended.
        let _ = self.child.wait();
        if thread::panicking() {
            let log = format!("{}{}", self.stdout(), self.stderr());
            let end: Vec<&str> = log.lines().rev().take(LINES_SHOWN).collect();
            eprintln!("--- the end of what process {} said:", self.id());
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Starts the command with logs of its own in the directory.
pub fn spawn(directory: &Path, command: &mut Command) -> Child {
    let output = |name| File::create(directory.join(name)).expect("a log file");
    command
        .stdin(Stdio::null())
        .stdout(output(STDOUT))
        .stderr(output(STDERR))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Asks again and again until the condition gives a value; panics after [`PATIENCE`].
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "still no {what} after {PATIENCE:?}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// The program under test. A relative path counts from where the tests were started, not from where
/// the program runs.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("SCIM_GUARD_BINARY");
    let named = named.map(|path| std::path::absolute(path).expect("a path that is not empty"));
    named.unwrap_or_else(|| in_repository("target/static/scim-guard"))
}

/// Nobody outside is told of what the tests ask.
pub fn without_traces(command: &mut Command) {
    for rest in ["EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT", "TRACES_EXPORTER"] {
        command.env_remove(format!("OTEL_{rest}"));
    }
}

/// A path below the root of the repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What waits for a process on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);
const LINES_SHOWN: usize = 40;
const STDOUT: &str = "stdout.log";
const STDERR: &str = "stderr.log";

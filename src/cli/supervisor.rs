//! What systemd, or another supervisor that speaks sd_notify(3), is told about a serving process.
//! Where none asks, none is told.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

#[derive(Clone)]
pub struct Supervisor {
    ear: Option<Arc<Ear>>,
    /// Without a sign of life for that long we are killed.
    watchdog: Option<Duration>,
}

/// Where a supervisor listens.
struct Ear {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Supervisor {
    /// Whoever is named by the environment, which stays as it is: we start no other programs.
    pub fn from_env() -> Self {
        let ear = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let found = Ear::find(&name);
            found.inspect_err(|error| tracing::warn!("NOTIFY_SOCKET {name:?}: {error}")).ok()
        });
        let number = |name| env::var(name).ok()?.parse().ok();
        let watchdog = patience(number("WATCHDOG_USEC"), number("WATCHDOG_PID"));
        Self { ear: ear.map(Arc::new), watchdog }
    }

    /// Clients are served; `status` is for people.
    pub fn ready(&self, status: impl Display) {
        self.tell(format_args!("READY=1\nSTATUS={}", line(&status.to_string())));
    }

    /// Until it is told that we are ready again.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(format_args!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Gives signs of life to a supervisor that wants them, each after a `round` that all workers
    /// have made: one that hangs ends them. So does a runtime of ours that hangs.
    pub fn watch(&self, round: impl Fn() + Send + Sync + 'static) {
        let Some((ear, limit)) = self.ear.clone().zip(self.watchdog) else { return };
        let round = Arc::new(round);
        tokio::spawn(async move {
            let mut pulse = tokio::time::interval((limit / 2).max(PULSE_MIN));
            pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pulse.tick().await;
                let round = Arc::clone(&round);
                if tokio::task::spawn_blocking(move || round()).await.is_err() {
                    return;
                }
                ear.tell("WATCHDOG=1");
            }
        });
    }

    fn tell(&self, what: impl Display) {
        if let Some(ear) = &self.ear {
            ear.tell(what);
        }
    }
}

impl Ear {
    /// A path, or with `@` a name of its own kind.
    fn find(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address })
    }

    fn tell(&self, what: impl Display) {
        let what = what.to_string();
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.address) {
            tracing::warn!("the supervisor cannot be told {}: {error}", line(&what));
        }
    }
}

/// How long the supervisor waits for a sign of life from this process.
fn patience(micros: Option<u64>, pid: Option<u64>) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid == u64::from(std::process::id()));
    micros.filter(|it| ours && *it > 0).map(Duration::from_micros)
}

/// The first line alone: what follows it would be read as another message.
fn line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// No supervisor is in more of a hurry.
const PULSE_MIN: Duration = Duration::from_millis(50);
/// For a supervisor that is slow to listen.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use arc_swap::ArcSwap;
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;

    use super::*;
    use crate::config::Limits;
    use crate::server::{Connection, Face, HeadFault, Service};
    use crate::telemetry::metrics::Metrics;

    /// Serves nobody, and hangs as long as somebody has the lock.
    struct Hanging {
        lock: Arc<Mutex<()>>,
        hangs: Sender<()>,
    }

    impl Service for Hanging {
        type Body = Full<Bytes>;
        type BodyError = std::convert::Infallible;

        async fn call(&self, _: Request<Incoming>, _: &Connection) -> Response<Self::Body> {
            Response::default()
        }

        fn refuse(
            &self,
            _: HeadFault,
            _: Request<Incoming>,
            _: &Connection,
        ) -> Response<Self::Body> {
            Response::default()
        }

        fn tick(&self) {
            let _ = self.hangs.send(());
            drop(self.lock.lock().expect("not poisoned"));
        }
    }

    /// A supervisor, and what stands for systemd.
    fn supervised(watchdog: Duration) -> (Supervisor, UnixDatagram) {
        let name = format!("scim-guard-{:016x}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let systemd = UnixDatagram::bind_addr(&address).expect("a socket");
        let ear = Ear::find(OsStr::new(&format!("@{name}"))).expect("there is one");
        (Supervisor { ear: Some(Arc::new(ear)), watchdog: Some(watchdog) }, systemd)
    }

    fn hear(systemd: &UnixDatagram, patience: Duration) -> io::Result<String> {
        let mut message = [0; 1024];
        systemd.set_read_timeout(Some(patience))?;
        let length = systemd.recv(&mut message)?;
        Ok(String::from_utf8(message[..length].to_vec()).expect("text"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_worker_that_hangs_ends_the_signs_of_life() {
        let (lock, (hangs, hung)) = (Arc::new(Mutex::new(())), channel());
        let limits = Arc::new(ArcSwap::from_pointee(Limits::default()));
        let (metrics, place) = (Arc::new(Metrics::new()), Arc::clone(&lock));
        let held = lock.lock().expect("not poisoned");
        let face = Face::start("hanging", 1, &limits, &metrics, move |_| Hanging {
            lock: Arc::clone(&place),
            hangs: hangs.clone(),
        });
        hung.recv().expect("it begins");

        let (supervisor, systemd) = supervised(Duration::from_millis(20));
        supervisor.watch(face.round());
        let silence = hear(&systemd, Duration::from_millis(500));
        assert!(silence.is_err(), "{silence:?} while a worker hangs");

        drop(held);
        for _ in 0..3 {
            let sign = hear(&systemd, Duration::from_secs(10)).expect("it runs again");
            assert_eq!(sign, "WATCHDOG=1");
        }
        Arc::new(face).end([]).await;
    }

    #[test]
    fn a_fault_of_many_lines_is_one_message() {
        let (supervisor, systemd) = supervised(Duration::from_secs(1));
        supervisor.ready("as before: one fault\nMAINPID=1");
        let told = hear(&systemd, Duration::from_secs(10)).expect("told");
        assert_eq!(told, "READY=1\nSTATUS=as before: one fault");
    }

    #[test]
    fn signs_of_life_are_given_only_where_they_are_wanted() {
        let own = u64::from(std::process::id());
        let other = own + 1;
        for (micros, pid, expected) in [
            (Some(30_000_000), Some(own), Some(Duration::from_secs(30))),
            (Some(30_000_000), None, Some(Duration::from_secs(30))),
            (Some(30_000_000), Some(other), None),
            (Some(0), Some(own), None),
            (None, Some(own), None),
        ] {
            assert_eq!(patience(micros, pid), expected, "{micros:?} {pid:?}");
        }
    }
}

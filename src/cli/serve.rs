//! `serve`: runs until told to leave.

use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ConfigFile;
use super::supervisor::Supervisor;
use crate::app::App;
use crate::authority::files::INTERVAL;
use crate::clock::Clock;
use crate::server::Inherited;
use crate::source::watch::{Look, WatchedFile};
use crate::telemetry::{Diagnostics, traces};

pub fn run(file: &ConfigFile, watch: bool) -> Result<ExitCode, String> {
    let mut watched = watch.then(|| WatchedFile::new(&file.file));
    if let Some(watched) = &mut watched {
        // What is loaded next is at least as new as this; an error is told by the loading.
        let _ = watched.look();
    }
    let inherited = Inherited::from_env()?;
    let traces = traces::Settings::from_env().map_err(|faults| faults.join("\n"))?;
    let config = file.load()?;
    let diagnostics = Diagnostics::start(&config.log);
    let supervisor = Supervisor::from_env();
    control_runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let starting = App::start(config, Clock::system(), std::io::stdout(), traces, inherited);
        let app = tokio::select! {
            app = starting => app,
            // It may have to wait for a store or a table.
            () = signals.leave() => return Ok(ExitCode::SUCCESS),
        };
        let mut app = app.map_err(|failure| failure.to_string())?;
        supervisor.watch(app.round());
        // Unless somebody has other plans meanwhile.
        let mut loaded = Some(Box::pin(app.loaded(READY_PATIENCE)));
        let hurried = loop {
            let event = match &mut loaded {
                None => signals.next(watched.as_mut()).await,
                Some(loading) => tokio::select! {
                    event = signals.next(watched.as_mut()) => event,
                    () = loading => {
                        loaded = None;
                        supervisor.ready("serving");
                        continue;
                    }
                },
            };
            match event {
                Event::Reload => {
                    reload(&mut app, file, &diagnostics, &supervisor).await;
                    loaded = None;
                }
                Event::Leave { hurried } => break hurried,
            }
        };
        supervisor.stopping();
        leave(app, hurried, &mut signals).await
    })
}

/// Who serves without a table says so to clients: a source that is away must not keep us from
/// starting, nor what waits for us.
const READY_PATIENCE: Duration = Duration::from_secs(5);

/// Control work has a runtime of its own; workers have theirs.
pub fn control_runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))
}

async fn reload(
    app: &mut App,
    file: &ConfigFile,
    diagnostics: &Diagnostics,
    supervisor: &Supervisor,
) {
    supervisor.reloading();
    match app.reload(file.load()).await {
        Ok(()) => {
            diagnostics.set_level(app.config().log.level);
            tracing::info!("config reloaded");
            supervisor.ready("serving");
        }
        Err(failure) => {
            tracing::error!("config not reloaded, all stays as it was: {failure}");
            supervisor.ready(format_args!("serving; config not reloaded: {failure}"));
        }
    }
}

/// Drains; a second signal ends it at once.
pub async fn leave(app: App, hurried: bool, signals: &mut Signals) -> Result<ExitCode, String> {
    tracing::info!("leaving");
    let finished = tokio::select! {
        finished = app.drain(hurried) => finished,
        () = signals.leave() => false,
    };
    app.stop(signals.leave()).await;
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

pub enum Event {
    Reload,
    /// `hurried` is whether a person waits at a terminal.
    Leave {
        hurried: bool,
    },
}

impl Signals {
    pub fn new() -> Result<Self, String> {
        let open = |kind| signal(kind).map_err(|error| format!("cannot take signals: {error}"));
        Ok(Self {
            hangup: open(SignalKind::hangup())?,
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal, or for a change of the watched file.
    pub async fn next(&mut self, watched: Option<&mut WatchedFile>) -> Event {
        tokio::select! {
            _ = self.hangup.recv() => Event::Reload,
            _ = self.terminate.recv() => Event::Leave { hurried: false },
            _ = self.interrupt.recv() => Event::Leave { hurried: true },
            () = changed(watched) => Event::Reload,
        }
    }

    pub async fn leave(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns when the file has changed and stood still for one interval; never without a file.
async fn changed(watched: Option<&mut WatchedFile>) {
    let Some(file) = watched else { return std::future::pending().await };
    let mut ripening = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match file.look() {
            Ok(Look::Read { .. }) => ripening = true,
            Ok(Look::Same) if ripening => return,
            Ok(Look::Same) | Err(_) => {}
        }
    }
}

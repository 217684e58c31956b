//! What happened: metrics for dashboards, a line a request for people, spans for whoever follows a
//! request through several programs, diagnostics for whoever is woken. Nothing here decides anything.

pub mod access;
pub mod metrics;
pub mod traces;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Level, Log, LogFormat};

/// The diagnostics on standard error, whose level can be changed while we run.
pub struct Diagnostics {
    level: reload::Handle<LevelFilter, Registry>,
    /// Writes what is left when dropped.
    _writer: WorkerGuard,
}

impl Diagnostics {
    /// To be called once a process.
    pub fn start(log: &Log) -> Self {
        let (level, handle) = reload::Layer::new(filter(log.level));
        // Nobody waits for standard error: lines that it does not take are lost.
        let (stderr, writer) = tracing_appender::non_blocking(std::io::stderr());
        let lines = fmt::layer().with_writer(stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(level);
        match log.format {
            LogFormat::Json => {
                registry.with(lines.json().flatten_event(true).with_timer(UtcMillis)).init();
            }
            LogFormat::Text => registry.with(lines.with_timer(UtcMillis)).init(),
        }
        Self { level: handle, _writer: writer }
    }

    pub fn set_level(&self, level: Level) {
        // It fails only when the subscriber is gone, and with it whoever would read.
        let _ = self.level.reload(filter(level));
    }
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// An error and what led to it.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

struct UtcMillis;

impl fmt::time::FormatTime for UtcMillis {
    fn format_time(&self, writer: &mut fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.3}", jiff::Timestamp::now())
    }
}

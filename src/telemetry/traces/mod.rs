//! Spans for a receiver that speaks OTLP: what workers tell of their requests goes there in batches,
//! through a thread of its own. No request waits for it: what finds no room is lost, and counted.

mod export;
mod sampler;
mod settings;
mod span;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::metrics::Metrics;
use crate::clock::Clock;
use export::Export;
pub use export::Pool;
pub use sampler::Sampler;
pub use settings::Settings;
pub use span::{Call, Decision, Spans};

/// Where spans go. Dropping the last handle ends the thread when all is sent.
#[derive(Clone)]
pub struct Traces {
    batches: UnboundedSender<Vec<Spans>>,
    backlog: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    sampler: Sampler,
    queue: usize,
}

impl Traces {
    /// Starts the thread that sends. It ends once every handle has been dropped and what is left
    /// is sent; the receiver hangs up then.
    pub fn start(
        settings: &Settings,
        http: Pool,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Receiver<()>), String> {
        let (batches, received) = unbounded_channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let (lost, waiting) = (Arc::clone(&metrics), Arc::clone(&backlog));
        let export = Export::new(settings, http, clock, lost, waiting)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("traces cannot be sent: {error}"))?;
        let (end, ended) = channel::<()>();
        let send = move || {
            runtime.block_on(export.run(received));
            drop(end);
        };
        let thread = std::thread::Builder::new().name("traces".into()).spawn(send);
        thread.expect("a thread can be started");
        let (sampler, queue) = (settings.sampler.clone(), settings.queue);
        Ok((Self { batches, backlog, metrics, sampler, queue }, ended))
    }

    pub fn buffer(&self) -> SpanBuffer {
        SpanBuffer { traces: self.clone(), told: RefCell::default() }
    }
}

/// One worker's spans on their way to the receiver.
pub struct SpanBuffer {
    traces: Traces,
    told: RefCell<Vec<Spans>>,
}

impl SpanBuffer {
    pub fn sampler(&self) -> &Sampler {
        &self.traces.sampler
    }

    pub fn tell(&self, spans: Spans) {
        let count = spans.count();
        let waiting = self.traces.backlog.fetch_add(count, Ordering::Relaxed);
        if waiting + count > self.traces.queue {
            self.traces.backlog.fetch_sub(count, Ordering::Relaxed);
            self.traces.metrics.spans_dropped.inc_by(count as u64);
            return;
        }
        let mut told = self.told.borrow_mut();
        told.push(spans);
        if told.len() >= REQUESTS {
            self.pass_on(&mut told);
        }
    }

    /// Hands over what has gathered. Called a few times a second, and at the end.
    pub fn flush(&self) {
        let mut told = self.told.borrow_mut();
        if !told.is_empty() {
            self.pass_on(&mut told);
        }
    }

    fn pass_on(&self, told: &mut Vec<Spans>) {
        // The thread lives as long as any handle to it.
        let _ = self.traces.batches.send(std::mem::take(told));
    }
}

impl Drop for SpanBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread is woken for each batch, which costs as much as some spans.
const REQUESTS: usize = 64;

//! Accept → TLS → HTTP, for every face: connections spread over workers, limits on time and size,
//! and an orderly end. It knows nothing of tokens.
//!
//! A worker is a thread with a runtime of its own; nothing that serves a request is shared between
//! two of them unless the service shares it.

mod certificate;
mod connection;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod head;
mod http1;
mod http2;
mod intake;
mod listener;
mod stream;
pub mod timer;
mod tls;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::telemetry::metrics::Metrics;
pub use certificate::{ClientCertificate, NamedFile, load_pair, read_authorities};
pub use connection::{Connection, Fate};
pub use head::{HeadFault, HeadSearch, encode_query, read_target};
use listener::{Accepted, BACKLOG};
pub use listener::{Inherited, Listener, Peer};
pub use stream::Socket;
use timer::{TICK, Timers};
pub use tls::Tls;

/// What a face does with requests. Each worker makes its own.
pub trait Service: 'static {
    type Body: http_body::Body<Data = Bytes, Error = Self::BodyError> + Unpin + 'static;
    type BodyError: Into<Box<dyn std::error::Error + Send + Sync>> + 'static;

    fn call(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// Answers a request whose head cannot be served. `request` only stands in for it, and the
    /// connection ends with this answer.
    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Self::Body>;

    /// Called every [`TICK`], and once when the worker ends.
    fn tick(&self) {}
}

/// The workers of one face.
pub struct Face {
    name: &'static str,
    workers: Vec<Worker>,
    free: Arc<Semaphore>,
    connections: usize,
}

struct Worker {
    messages: UnboundedSender<Message>,
    /// Connections handed over and not yet ended.
    load: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

enum Message {
    Connection {
        accepted: Accepted,
        transport: Arc<Transport>,
        ticket: Ticket,
    },
    /// Answered when all that was under way in this turn of the loop is done.
    Round(mpsc::Sender<()>),
    /// Clients are to look for somebody else.
    Leave,
    Drain,
}

/// How clients of a listener speak.
#[derive(Default)]
pub struct Transport {
    /// What the service knows the listener by.
    pub name: Arc<str>,
    /// Clear text if there is none.
    pub tls: Option<Arc<Tls>>,
    /// In clear text, whether clients may begin with HTTP/2.
    pub h2c: bool,
}

/// A listener at work.
pub struct Acceptor {
    transport: Arc<ArcSwap<Transport>>,
    stop: CancellationToken,
    /// Cancelled once all whom it has accepted are handed over.
    stopped: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Acceptor {
    /// Meets connections from now on by these terms.
    pub fn secure(&self, transport: Transport) {
        self.transport.store(Arc::new(transport));
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends it whatever it is about.
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A connection's place among those allowed; given back when dropped.
struct Ticket {
    load: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all connections of one worker share.
struct Scope<S> {
    face: &'static str,
    service: S,
    timers: Timers,
    limits: Arc<ArcSwap<Limits>>,
    metrics: Arc<Metrics>,
    /// Whether each answer is to be the last one of its connection.
    leaving: Cell<bool>,
    draining: CancellationToken,
}

impl Face {
    /// Starts the workers. The number of connections is fixed by the limits of now; the others
    /// are read anew for each connection. It is a sixth of the descriptors that the system lets
    /// us have at most: as many may lead to backends (more over HTTP/2, where requests share one),
    /// and the rest is for other faces and files. Whoever fills a face with connections takes
    /// nothing from those that are served.
    pub fn start<S: Service>(
        name: &'static str,
        workers: usize,
        limits: &Arc<ArcSwap<Limits>>,
        metrics: &Arc<Metrics>,
        service: impl Fn(&Timers) -> S + Send + Clone + 'static,
    ) -> Self {
        let wanted = limits.load().connections;
        let connections = wanted.min(descriptors() / 6).min(Semaphore::MAX_PERMITS);
        metrics.connections_max.with_label_values(&[name]).set(connections as i64);
        let start = |index: usize| {
            let (messages, inbox) = unbounded_channel();
            let (limits, metrics, make) = (limits.clone(), metrics.clone(), service.clone());
            let work = move || run_worker(name, inbox, limits, metrics, make);
            let thread = std::thread::Builder::new().name(format!("{name}-{index}")).spawn(work);
            Worker {
                messages,
                load: Arc::default(),
                thread: thread.expect("a thread can be started"),
            }
        };
        let workers = (0..workers).map(start).collect();
        Self { name, workers, free: Arc::new(Semaphore::new(connections)), connections }
    }

    /// Accepts connections until told to stop; in clear text without TLS. Must be called within a
    /// runtime.
    pub fn accept(self: &Arc<Self>, listener: Listener, transport: Transport) -> Acceptor {
        let (face, stop) = (Arc::clone(self), CancellationToken::new());
        let transport = Arc::new(ArcSwap::from_pointee(transport));
        let (stopping, current) = (stop.clone(), Arc::clone(&transport));
        let stopped = CancellationToken::new();
        let end = stopped.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _end = end;
            let mut last = 0;
            loop {
                // Those who have connected already are let in before the door is closed, and who
                // comes while it closes may be.
                let accepted = tokio::select! {
                    biased;
                    accepted = listener.accept() => accepted,
                    () = stopping.cancelled() => return,
                };
                if stopping.is_cancelled() {
                    last += 1;
                    if last > BACKLOG {
                        return;
                    }
                }
                match accepted {
                    Ok(accepted) => {
                        let permit = Arc::clone(&face.free).acquire_owned().await;
                        let permit = permit.expect("never closed");
                        face.hand_over(accepted, current.load_full(), permit);
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: give others time to return theirs.
                        tracing::warn!(face = face.name, "cannot accept a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        Acceptor { transport, stop, stopped, task }
    }

    /// To the worker with the fewest connections.
    fn hand_over(
        &self,
        accepted: Accepted,
        transport: Arc<Transport>,
        permit: OwnedSemaphorePermit,
    ) {
        let least = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        let worker = least.expect("a face has workers");
        worker.load.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { load: Arc::clone(&worker.load), _permit: permit };
        // A worker that has ended takes none; the connection closes.
        let _ = worker.messages.send(Message::Connection { accepted, transport, ticket });
    }

    /// A closure that returns once every worker has come round its loop: what any of them was
    /// doing when it was called is done. It keeps no worker from ending.
    pub fn round(&self) -> impl Fn() + Send + Sync + 'static {
        let workers: Vec<_> =
            self.workers.iter().map(|worker| worker.messages.downgrade()).collect();
        move || {
            let (done, rounds) = mpsc::channel();
            let running = workers.iter().filter_map(WeakUnboundedSender::upgrade);
            let told = running.filter(|worker| worker.send(Message::Round(done.clone())).is_ok());
            let mut missing = told.count();
            // A worker that ends hangs up.
            drop(done);
            while missing > 0 {
                match rounds.recv_timeout(ROUND_PATIENCE) {
                    Ok(()) => missing -= 1,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        tracing::error!(
                            "a worker does not come round its loop; a change waits for it"
                        );
                    }
                }
            }
        }
    }

    pub fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.load.load(Ordering::Relaxed)).sum()
    }

    /// Closes each connection after its next answer.
    pub fn leave(&self) {
        for worker in &self.workers {
            let _ = worker.messages.send(Message::Leave);
        }
    }

    /// Stops accepting, lets requests finish and closes connections, all until the deadline.
    /// Whether nothing was cut off.
    pub async fn drain(
        &self,
        acceptors: impl Iterator<Item = &Acceptor> + Clone,
        deadline: Duration,
    ) -> bool {
        acceptors.clone().for_each(Acceptor::stop);
        for worker in &self.workers {
            let _ = worker.messages.send(Message::Drain);
        }
        let all = async {
            // Those whom they still let in count too.
            for acceptor in acceptors {
                acceptor.stopped.cancelled().await;
            }
            let all = self.free.acquire_many(u32::try_from(self.connections).unwrap_or(u32::MAX));
            drop(all.await);
        };
        tokio::time::timeout(deadline, all).await.is_ok()
    }

    /// Ends the face, and what its workers still serve.
    pub async fn end(self: Arc<Self>, acceptors: impl IntoIterator<Item = Acceptor>) {
        for acceptor in acceptors {
            acceptor.end().await;
        }
        // The acceptors were the others who held it.
        if let Some(face) = Arc::into_inner(self) {
            face.stop();
        }
    }

    fn stop(self) {
        for worker in self.workers {
            drop(worker.messages);
            if worker.thread.join().is_err() {
                tracing::error!(face = self.name, "a worker has panicked");
            }
        }
    }
}

impl<S: Service> Scope<S> {
    fn refuse(
        &self,
        fault: HeadFault,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<S::Body> {
        self.metrics.http_rejects.with_label_values(&[self.face, fault.cause()]).inc();
        self.service.refuse(fault, request, connection)
    }
}

/// How many descriptors we may have.
fn descriptors() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// A turn of a worker's loop takes microseconds.
const ROUND_PATIENCE: Duration = Duration::from_secs(10);

fn run_worker<S: Service>(
    face: &'static str,
    mut inbox: UnboundedReceiver<Message>,
    limits: Arc<ArcSwap<Limits>>,
    metrics: Arc<Metrics>,
    make: impl Fn(&Timers) -> S,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime can be built");
    let timers = Timers::new();
    let draining = CancellationToken::new();
    let service = make(&timers);
    let leaving = Cell::new(false);
    let scope = Rc::new(Scope { face, service, timers, limits, metrics, leaving, draining });
    runtime.block_on(async {
        tokio::task::spawn_local(sweep(Rc::clone(&scope)));
        while let Some(message) = inbox.recv().await {
            match message {
                Message::Connection { accepted, transport, ticket } => {
                    let scope = Rc::clone(&scope);
                    tokio::task::spawn_local(async move {
                        connection::serve(scope, accepted, &transport).await;
                        drop(ticket);
                    });
                }
                // Behind the connections that have an answer to write.
                Message::Round(done) => drop(tokio::task::spawn_local(async move {
                    tokio::task::yield_now().await;
                    let _ = done.send(());
                })),
                Message::Leave => scope.leaving.set(true),
                Message::Drain => {
                    scope.leaving.set(true);
                    scope.draining.cancel();
                }
            }
        }
        scope.service.tick();
    });
}

async fn sweep<S: Service>(scope: Rc<Scope<S>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        scope.timers.sweep();
        scope.service.tick();
    }
}

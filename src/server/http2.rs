//! HTTP/2 by hyper, with the limits that hyper does not have: a stream's time, a client that takes
//! nothing, and a connection without streams.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use tokio::task::AbortHandle;

use super::connection::{Connection, Ended, Fate};
use super::http1::LAST_REQUEST_TIME;
use super::stream::Stream;
use super::timer::{TICK, Timer, Timers};
use super::{Scope, Service};
use crate::config::Limits;

/// Serves a connection to its end.
pub async fn run<S: Service>(
    scope: &Rc<Scope<S>>,
    stream: Stream,
    connection: Rc<Connection>,
    limits: Arc<Limits>,
) -> Ended {
    let streams = Rc::new(Streams::new(connection.timers()));
    let service = service_fn(|request: Request<Incoming>| {
        let scope = Rc::clone(scope);
        let place = Streams::begin(&streams);
        let connection = connection.of_stream(Rc::clone(&place.times.fate));
        async move {
            let response = scope.service.call(request, &connection).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Given { body, place }))
        }
    });
    let mut builder = http2::Builder::new(OnThisThread(Rc::clone(&streams)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::try_from(limits.streams).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(limits.header_bytes.0).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .keep_alive_interval(Some(PING_INTERVAL))
        .keep_alive_timeout(PING_TIMEOUT);
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut drain = pin!(scope.draining.cancelled());
    let mut leaving = false;
    poll_fn(|context| {
        if !leaving && (connection.is_ending() || drain.as_mut().poll(context).is_ready()) {
            leaving = true;
            streams.quiet();
            http.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(result) = http.as_mut().poll(context) {
            return Poll::Ready(result.map_or_else(Ended::Error, |()| Ended::Well));
        }
        while streams.look.poll_elapsed(context).is_ready() {
            streams.look.arm(LOOK - TICK);
            if let Some(limit) = streams.reset_overdue(&limits) {
                scope.metrics.http_rejects.with_label_values(&[scope.face, limit]).inc();
            }
            if streams.are_over(&limits, leaving) {
                if leaving {
                    return Poll::Ready(Ended::Well);
                }
                if !streams.begun.get() {
                    return Poll::Ready(Ended::TimedOut("header_timeout"));
                }
                // Whoever is about to ask learns that it must ask elsewhere.
                leaving = true;
                streams.quiet();
                http.as_mut().graceful_shutdown();
                if let Poll::Ready(result) = http.as_mut().poll(context) {
                    return Poll::Ready(result.map_or_else(Ended::Error, |()| Ended::Well));
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the client has misused the protocol, rather than gone away.
pub fn is_misuse(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some() {
            return false;
        }
        cause = inner.source();
    }
    !error.is_incomplete_message() && !error.is_closed()
}

/// What a stream's receiver may have in flight, and all of a connection's.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What is kept of an answer that the client does not take yet.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that a client may have begun and reset, or provoked us to reset, before it must go.
const RESETS_MAX: usize = 32;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Streams are tasks of the worker that has the connection. Whoever ends such a task resets the
/// stream and no other.
#[derive(Clone)]
struct OnThisThread(Rc<Streams>);

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        // The service was called for this stream just now.
        if let Some(times) = self.0.latest.take().and_then(|key| self.0.at(key)) {
            times.task.set(Some(task));
        }
    }
}

/// The streams of a connection that are not answered in full.
struct Streams {
    timers: Timers,
    /// Looks at them a few times a second.
    look: Timer,
    active: RefCell<Slab<Rc<Times>>>,
    /// Whether one has been there.
    begun: Cell<bool>,
    /// Since when there is none, if there is none. Most are gone long before anybody looks.
    quiet_since: Cell<u64>,
    /// The one whose task is not known yet.
    latest: Cell<Option<usize>>,
}

/// In milliseconds of the worker's timers.
struct Times {
    begun: u64,
    /// When the client was last given something to take, while it has not asked for more.
    given: Cell<Option<u64>>,
    task: Cell<Option<AbortHandle>>,
    fate: Fate,
}

impl Streams {
    fn new(timers: &Timers) -> Self {
        let look = timers.timer();
        look.arm(LOOK);
        let quiet_since = Cell::new(timers.coarse_millis());
        let (active, begun, latest) = (RefCell::default(), Cell::new(false), Cell::new(None));
        Self { timers: timers.clone(), look, active, begun, quiet_since, latest }
    }

    fn begin(streams: &Rc<Self>) -> Place {
        let (begun, fate) = (streams.timers.coarse_millis(), Fate::default());
        let times = Times { begun, given: Cell::new(None), task: Cell::new(None), fate };
        let times = Rc::new(times);
        let key = streams.active.borrow_mut().insert(Rc::clone(&times));
        streams.latest.set(Some(key));
        streams.begun.set(true);
        Place { streams: Rc::clone(streams), key, times }
    }

    /// There is no stream from now on.
    fn quiet(&self) {
        self.quiet_since.set(self.timers.coarse_millis());
    }

    /// Whether there has been none for as long as the limits allow.
    fn are_over(&self, limits: &Limits, leaving: bool) -> bool {
        let limit = match (leaving, self.begun.get()) {
            (true, _) => LAST_REQUEST_TIME,
            (false, false) => limits.header_timeout.0,
            (false, true) => limits.idle_timeout.0,
        };
        let quiet = self.timers.coarse_millis().saturating_sub(self.quiet_since.get());
        self.active.borrow().is_empty() && u128::from(quiet) > limit.as_millis()
    }

    fn at(&self, key: usize) -> Option<Rc<Times>> {
        self.active.borrow().get(key).cloned()
    }

    /// Resets the streams whose time is over.
    fn reset_overdue(&self, limits: &Limits) -> Option<&'static str> {
        let now = self.timers.coarse_millis();
        let passed =
            |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let overdue = |times: &Times| {
            let stuck = |since| passed(since, limits.send_idle_timeout.0);
            if times.given.get().is_some_and(stuck) {
                Some("send_idle_timeout")
            } else {
                passed(times.begun, limits.request_time.0).then_some("request_time")
            }
        };
        let active: Vec<_> = self.active.borrow().iter().map(|(_, it)| Rc::clone(it)).collect();
        let mut reset = None;
        for times in active {
            if let Some(limit) = overdue(&times)
                && let Some(task) = times.task.take()
            {
                times.fate.set(Some(limit));
                task.abort();
                reset = Some(limit);
            }
        }
        reset
    }
}

const LOOK: Duration = Duration::from_millis(500);

/// A stream's place among the active ones; given back when its answer's body is dropped.
struct Place {
    streams: Rc<Streams>,
    key: usize,
    times: Rc<Times>,
}

impl Place {
    fn gave(&self, something: bool) {
        self.times.given.set(something.then(|| self.streams.timers.coarse_millis()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.active.borrow_mut().remove(self.key);
        self.streams.quiet();
    }
}

/// An answer's body that knows when the client was given something.
struct Given<B> {
    body: B,
    place: Place,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Given<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.place.gave(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

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

use super::connection::{Connection, Ended};
use super::stream::Stream;
use super::timer::{TICK, Timer};
use super::{Scope, Service};
use crate::config::Limits;

/// Serves a connection to its end.
pub async fn run<S: Service>(
    scope: &Rc<Scope<S>>,
    stream: Stream,
    connection: Rc<Connection>,
    limits: Arc<Limits>,
) -> Ended {
    let streams = Rc::new(Streams::new(connection.timers().timer(), connection.timers().clone()));
    let service = service_fn(|request: Request<Incoming>| {
        let (scope, connection) = (Rc::clone(scope), Rc::clone(&connection));
        let place = Streams::begin(&streams);
        async move {
            let response = scope.service.call(request, &connection).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Given { body, place }))
        }
    });
    let fate = connection.fate();
    let mut builder = http2::Builder::new(OnThisThread);
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
    let mut until = Until { streams: &streams, limits: &limits, idle_since: None };
    poll_fn(|context| {
        if !leaving && drain.as_mut().poll(context).is_ready() {
            leaving = true;
            http.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(result) = http.as_mut().poll(context) {
            return Poll::Ready(result.map_or_else(Ended::Error, |()| Ended::Well));
        }
        while let Poll::Ready(verdict) = until.poll(context) {
            match verdict {
                Verdict::GoOn => {}
                Verdict::Idle if leaving => return Poll::Ready(Ended::Well),
                Verdict::Idle => {
                    leaving = true;
                    http.as_mut().graceful_shutdown();
                    return http.as_mut().poll(context).map(|_| Ended::Well);
                }
                Verdict::Cut(limit) => {
                    fate.set(Some(limit));
                    return Poll::Ready(Ended::TimedOut(limit));
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

/// Streams are tasks of the worker that has the connection.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The streams of a connection that are not answered in full.
struct Streams {
    timers: super::timer::Timers,
    /// Looks at them about once a second.
    look: Timer,
    active: RefCell<Slab<Times>>,
}

/// In milliseconds of the worker's timers.
struct Times {
    begun: u64,
    /// When the client was last given something to take, while it has not asked for more.
    given: Cell<Option<u64>>,
}

impl Streams {
    fn new(look: Timer, timers: super::timer::Timers) -> Self {
        look.arm(LOOK);
        Self { timers, look, active: RefCell::default() }
    }

    fn begin(streams: &Rc<Self>) -> Place {
        let times = Times { begun: streams.timers.coarse_millis(), given: Cell::new(None) };
        let key = streams.active.borrow_mut().insert(times);
        Place { streams: Rc::clone(streams), key }
    }
}

const LOOK: Duration = Duration::from_secs(1);

/// A stream's place among the active ones; given back when its answer's body is dropped.
struct Place {
    streams: Rc<Streams>,
    key: usize,
}

impl Place {
    fn gave(&self, something: bool) {
        let now = something.then(|| self.streams.timers.coarse_millis());
        self.streams.active.borrow()[self.key].given.set(now);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.active.borrow_mut().remove(self.key);
    }
}

/// What a look at the streams says of the connection.
enum Verdict {
    GoOn,
    Idle,
    Cut(&'static str),
}

struct Until<'a> {
    streams: &'a Streams,
    limits: &'a Limits,
    idle_since: Option<u64>,
}

impl Until<'_> {
    /// Ready about once a second.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Verdict> {
        if self.streams.look.poll_elapsed(context).is_pending() {
            return Poll::Pending;
        }
        self.streams.look.arm(LOOK - TICK);
        let now = self.streams.timers.coarse_millis();
        let passed =
            |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let active = self.streams.active.borrow();
        let verdict = if active.is_empty() {
            let since = *self.idle_since.get_or_insert(now);
            if passed(since, self.limits.idle_timeout.0) { Verdict::Idle } else { Verdict::GoOn }
        } else {
            self.idle_since = None;
            let stuck = |times: &Times| {
                times.given.get().is_some_and(|it| passed(it, self.limits.send_idle_timeout.0))
            };
            let mut times = active.iter().map(|(_, times)| times);
            if times.clone().any(stuck) {
                Verdict::Cut("send_idle_timeout")
            } else if times.any(|it| passed(it.begun, self.limits.request_time.0)) {
                Verdict::Cut("request_time")
            } else {
                Verdict::GoOn
            }
        };
        Poll::Ready(verdict)
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

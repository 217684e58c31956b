//! HTTP/1.1 by hyper, with the time limits that hyper does not have.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::connection::{Connection, Ended, Fate};
use super::head::HeadFault;
use super::intake::Intake;
use super::stream::{Stream, farewell};
use super::timer::{Timer, Timers};
use super::{Scope, Service};
use crate::config::Limits;

/// Serves a connection to its end.
pub(super) async fn run<S: Service>(
    scope: &Rc<Scope<S>>,
    state: &Rc<State>,
    stream: Stream,
    connection: Rc<Connection>,
) -> Ended {
    let header_bytes = state.limits.header_bytes.0 as usize;
    let wire = Rc::new(Wire::new(stream, state));
    let service = service_fn(|request: Request<Incoming>| {
        let (scope, connection) = (Rc::clone(scope), Rc::clone(&connection));
        let wire = Rc::clone(&wire);
        let fault = wire.state.begin();
        async move {
            // Nothing is done for a client that is gone already: whoever serves it sees that too.
            let is_there = |context: &mut Context<'_>| match wire.poll_gone(context) {
                Poll::Ready(()) => Poll::Pending,
                Poll::Pending => Poll::Ready(()),
            };
            poll_fn(is_there).await;
            let mut response = match fault {
                None => scope.service.call(request, &connection).await,
                Some(fault) => scope.refuse(fault, request, &connection),
            };
            if scope.leaving.get() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let guard = RequestGuard(Rc::clone(&wire.state));
            Ok::<_, std::convert::Infallible>(response.map(|body| Guarded { body, _guard: guard }))
        }
    });
    let io = TokioIo::new(Watched(Rc::clone(&wire)));
    let mut builder = http1::Builder::new();
    // Heads are measured before they get here, and may have grown by what was encoded.
    builder.max_header_size(3 * header_bytes).max_buf_size(BUFFER_BYTES.max(3 * header_bytes));
    // Whether the client is there is looked after here: hyper would take a buffer for it each time.
    builder.half_close(true);
    let mut http = builder.serve_connection(io, service);
    let served = poll_fn(|context| match Pin::new(&mut http).poll(context) {
        Poll::Ready(result) => {
            let _ = wire.poll_hold(context); // What nobody reads any more must be known of.
            Poll::Ready(Some(result))
        }
        Poll::Pending => wire.poll_gone(context).map(|()| None),
    });
    let served = within_limits(scope, state, pin!(served)).await;
    drop(http);
    let stream = Rc::into_inner(wire).map(|wire| wire.stream.into_inner());
    let mut stream = stream.expect("hyper is gone");
    match served {
        Ok(Some(result)) => {
            if state.intake.borrow().is_cut_off() {
                linger(&mut stream, &scope.timers).await;
            }
            result.map_or_else(Ended::Error, |()| Ended::Well)
        }
        Ok(None) => Ended::Well,
        Err(Ended::Well) => {
            farewell(&mut stream).await;
            Ended::Well
        }
        Err(ended) => ended,
    }
}

/// Reads on for a while after the last answer: a connection that is closed with something unread
/// is reset, and the client might never see the answer.
async fn linger(stream: &mut Stream, timers: &Timers) {
    let rest = async {
        let mut buffer = vec![0; 4096]; // Not within the state of every connection.
        let mut bytes = 0;
        while bytes <= LINGER_BYTES {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => bytes += read,
                _ => break,
            }
        }
    };
    let _ = timers.timer().limit(LINGER_TIME, rest).await;
}

const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(3);

/// Waits for the future, unless the connection's time is over before.
pub(super) async fn within_limits<S, F: Future>(
    scope: &Scope<S>,
    state: &State,
    mut future: Pin<&mut F>,
) -> Result<F::Output, Ended> {
    let mut drain = pin!(scope.draining.cancelled());
    poll_fn(|context| {
        if !state.leaving.get() && drain.as_mut().poll(context).is_ready() {
            state.leave();
        }
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        if state.send.is_armed() && state.send.poll_elapsed(context).is_ready() {
            return Poll::Ready(Err(state.cut("send_idle_timeout")));
        }
        state.patience.poll_elapsed(context).map(|()| Err(state.run_out()))
    })
    .await
}

/// What hyper may keep of a body, read and not yet taken, where three heads are less: anybody can
/// have us keep as much.
const BUFFER_BYTES: usize = 64 << 10;

/// Where a connection is, and until when.
pub(super) struct State {
    phase: Cell<Phase>,
    leaving: Cell<bool>,
    patience: Timer,
    send: Timer,
    intake: RefCell<Intake>,
    /// Woken when the next request may begin.
    waiting: Cell<Option<Waker>>,
    cut: Fate,
    limits: Arc<Limits>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Fresh,
    Idle,
    Head,
    Request,
    /// The answer is complete and not yet all written.
    Answered,
}

impl State {
    pub(super) fn new(timers: &Timers, limits: Arc<Limits>) -> Self {
        let state = Self {
            phase: Cell::new(Phase::Fresh),
            leaving: Cell::new(false),
            patience: timers.timer(),
            send: timers.timer(),
            intake: RefCell::new(Intake::new(limits.header_bytes.0 as usize)),
            waiting: Cell::default(),
            cut: Rc::default(),
            limits,
        };
        state.patience.arm(state.limits.header_timeout.0);
        state
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    pub(super) fn fate(&self) -> Fate {
        Rc::clone(&self.cut)
    }

    pub(super) fn take_query(&self) -> Option<Vec<u8>> {
        self.intake.borrow_mut().take_query()
    }

    /// The front of a head has come.
    fn received(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.patience.arm(self.limits.header_timeout.0);
        }
    }

    /// A request has begun; what is wrong with it, if anything is.
    fn begin(&self) -> Option<HeadFault> {
        self.phase.set(Phase::Request);
        self.patience.arm(self.limits.request_time.0);
        self.intake.borrow().fault()
    }

    /// All of the answer is on its way; what is left of it still has the request's time.
    fn answered(&self) {
        self.phase.set(Phase::Answered);
    }

    /// All that was written has gone.
    fn flushed(&self) {
        if self.phase.get() == Phase::Answered {
            self.phase.set(Phase::Idle);
            let idle = self.limits.idle_timeout.0;
            self.patience.arm(if self.leaving.get() { idle.min(LAST_REQUEST_TIME) } else { idle });
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
    }

    /// Whether a request is under way.
    fn is_busy(&self) -> bool {
        matches!(self.phase.get(), Phase::Request | Phase::Answered)
    }

    /// What a client that is between two requests still gets once we leave: time for one that is
    /// on its way.
    fn leave(&self) {
        self.leaving.set(true);
        if matches!(self.phase.get(), Phase::Fresh | Phase::Idle) {
            self.patience.arm(LAST_REQUEST_TIME);
        }
    }

    fn cut(&self, limit: &'static str) -> Ended {
        self.cut.set(Some(limit));
        Ended::TimedOut(limit)
    }

    /// How a connection ends whose patience is over.
    fn run_out(&self) -> Ended {
        match self.phase.get() {
            Phase::Idle => Ended::Well,
            Phase::Fresh if self.leaving.get() => Ended::Well,
            Phase::Fresh | Phase::Head => self.cut("header_timeout"),
            Phase::Request | Phase::Answered => self.cut("request_time"),
        }
    }
}

pub(super) const LAST_REQUEST_TIME: Duration = Duration::from_millis(500);

/// A request is over when its answer's body is dropped.
struct RequestGuard(Rc<State>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// An answer's body that knows which request it ends.
struct Guarded<B> {
    body: B,
    _guard: RequestGuard,
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's stream. hyper reads and writes it, and meanwhile somebody has to see whether the
/// client is still there.
struct Wire {
    stream: RefCell<Stream>,
    state: Rc<State>,
    /// Whether the client is known to be gone: an error is told but once.
    gone: Cell<bool>,
}

impl Wire {
    fn new(stream: Stream, state: &Rc<State>) -> Self {
        Self { stream: RefCell::new(stream), state: Rc::clone(state), gone: Cell::new(false) }
    }

    /// Ready once a client is gone that waits for an answer.
    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let gone = self.gone.get() || self.state.is_busy() && self.poll_hold(context).is_ready();
        self.gone.set(gone);
        if gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Holds what comes while nothing is to be shown. Ready if the client is gone.
    fn poll_hold(&self, context: &mut Context<'_>) -> Poll<()> {
        let (mut stream, mut intake) = (self.stream.borrow_mut(), self.state.intake.borrow_mut());
        while intake.is_waiting() && !intake.is_full() {
            let mut room = [MaybeUninit::uninit(); HELD_ROOM];
            let mut buffer = ReadBuf::uninit(&mut room);
            let outcome = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            let received = buffer.filled();
            match outcome {
                Ok(()) if !received.is_empty() => intake.hold(received),
                // Who has asked for more still wants this answer.
                Ok(()) if intake.has_more() => intake.finish(),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Starts the clock of a client that does not read, and stops it when it does.
    fn sent<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let send = &self.state.send;
        match &outcome {
            Poll::Pending if !send.is_armed() => send.arm(self.state.limits.send_idle_timeout.0),
            Poll::Ready(_) if send.is_armed() => send.disarm(),
            _ => {}
        }
        outcome
    }
}

/// For what comes before it is wanted.
const HELD_ROOM: usize = 1 << 10;

/// The stream as the parser is shown it, one request at a time.
struct Watched(Rc<Wire>);

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Wire { stream, state, .. } = &*self.0;
        let (mut stream, mut intake) = (stream.borrow_mut(), state.intake.borrow_mut());
        loop {
            if state.phase.get() == Phase::Idle {
                intake.next();
            }
            let at_head = intake.is_at_head();
            let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "malformed chunks");
            let shown = intake.show(buffer.remaining()).map_err(malformed)?;
            if at_head && (!shown.is_empty() || intake.has_more()) {
                state.received();
            }
            if !shown.is_empty() {
                buffer.put_slice(&shown);
                return Poll::Ready(Ok(()));
            }
            if intake.is_waiting() {
                // hyper can be done with an answer that is not all written.
                state.waiting.set(Some(context.waker().clone()));
                return Poll::Pending;
            }
            if intake.is_finished() {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(context, buffer))?;
            let received = &buffer.filled()[before..];
            if received.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = intake.pass(received);
            buffer.set_filled(before + passed);
            if passed > 0 {
                if at_head {
                    state.received();
                }
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(context, bytes);
        self.0.sent(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.0.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let outcome = match slices {
            [only] => stream.poll_write(context, only),
            _ if length > SHORT_WRITE => stream.poll_write_vectored(context, slices),
            _ => {
                let mut room = [MaybeUninit::uninit(); SHORT_WRITE];
                let mut joined = ReadBuf::uninit(&mut room);
                slices.iter().for_each(|slice| joined.put_slice(slice));
                stream.poll_write(context, joined.filled())
            }
        };
        self.0.sent(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called once there is nothing left to write.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(context);
        if outcome.is_ready() {
            self.0.state.flushed();
        }
        self.0.sent(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(context)
    }
}

/// To copy as much as this costs less than a vectored write.
const SHORT_WRITE: usize = 1 << 10;

//! The HTTP/1.1 client towards a backend, inside the request's task: no task, channel or lock of
//! its own. A connection after any doubt is not used again.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::AsyncWrite;

use super::answer::{Head, Interrupted, Stream};
use super::pool::Connection;
use super::socket::Socket;
use crate::server::timer::Timer;

/// What goes to the backend.
pub struct Outgoing {
    pub method: Method,
    pub head: Vec<u8>,
    pub body: OutgoingBody,
}

pub enum OutgoingBody {
    None,
    /// Its length stands in the head.
    Sized(Incoming),
    Chunked(Incoming),
}

/// Limits of one exchange.
#[derive(Clone, Copy)]
pub struct Patience {
    pub response: Duration,
    pub body_idle: Duration,
    pub body_bytes: u64,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure<E> {
    /// The check before the first byte said no; nothing was sent.
    Withdrawn(E),
    /// The backend closed a reused connection without a byte of an answer.
    HungUp,
    Broken(Cow<'static, str>),
    TimedOut,
    BodyTooLarge,
    /// The client's body came to a halt.
    BodyTimedOut,
    BodyMalformed,
    /// The client went away within its body.
    BodyCut,
}

/// A backend's answer, of whose body more may have to come.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: AnswerBody,
}

pub enum AnswerBody {
    /// All of it, and the connection if it can be used again.
    Whole(Bytes, Option<Connection>),
    Streamed(Stream),
}

/// Sends a request and reads the head of the answer, and the body if it is short. `check` is called
/// right before the first byte is written, in the same turn of the worker's loop.
pub async fn exchange<E>(
    mut connection: Connection,
    upload: &mut Upload,
    timer: &Timer,
    check: impl Fn() -> Result<(), E>,
) -> Result<Answer, Failure<E>> {
    timer.arm(upload.patience.response);
    let head = poll_fn(|context| {
        if !upload.begun {
            check().map_err(Failure::Withdrawn)?;
        }
        poll_exchange(&mut connection, upload, timer, context)
    })
    .await;
    timer.disarm();
    let head = head?;
    if let Some(keep_alive) = head.keep_alive {
        connection.keep_alive = keep_alive;
    }
    let mut stream = Stream::new(connection, &upload.method, &head, upload.is_complete());
    let response = upload.patience.response;
    let gathered = poll_fn(|context| stream.poll_gather(context, timer, response)).await;
    timer.disarm();
    gathered.map_err(|why| match why {
        Interrupted::Broken(what) => Failure::Broken(what.into()),
        Interrupted::TimedOut => Failure::TimedOut,
    })?;
    let body = match stream.take_whole() {
        Some((bytes, connection)) => AnswerBody::Whole(bytes, connection),
        None => AnswerBody::Streamed(stream),
    };
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// Writes what can be written and reads what has come, until the head of the answer is there.
fn poll_exchange<E>(
    connection: &mut Connection,
    upload: &mut Upload,
    timer: &Timer,
    context: &mut Context<'_>,
) -> Poll<Result<Head, Failure<E>>> {
    let before = upload.progress;
    if let Poll::Ready(Err(failure)) = upload.poll(&mut connection.socket, context) {
        return Poll::Ready(Err(failure));
    }
    if upload.progress != before {
        timer.arm(upload.next_patience());
    }
    loop {
        if upload.answer.is_none() {
            let parsed = Head::parse(&mut connection.received, &mut upload.interim);
            upload.answer = parsed.map_err(|what| Failure::Broken(what.into()))?;
        }
        if let Some(head) = &upload.answer {
            // Who refuses wants no more of the request; who accepts gets all of it first.
            let wants_more = head.status.is_success() && !upload.halted && !upload.is_complete();
            if !wants_more {
                return Poll::Ready(Ok(upload.answer.take().expect("it is there")));
            }
            break;
        }
        match connection.poll_receive(context, HEAD_ROOM) {
            Poll::Ready(Ok(bytes)) if bytes > 0 => {}
            Poll::Ready(_)
                if connection.reused && upload.interim == 0 && connection.received.is_empty() =>
            {
                return Poll::Ready(Err(Failure::HungUp));
            }
            Poll::Ready(Ok(_)) => {
                return Poll::Ready(Err(Failure::Broken("no complete head".into())));
            }
            Poll::Ready(Err(error)) => {
                // A backend that does not like our certificate says so here.
                let what = format!("no complete head: {error}");
                return Poll::Ready(Err(Failure::Broken(what.into())));
            }
            Poll::Pending => break,
        }
    }
    ready!(timer.poll_elapsed(context));
    Poll::Ready(Err(upload.timed_out()))
}

const HEAD_ROOM: usize = 8 << 10;

/// A request on its way out.
pub struct Upload {
    method: Method,
    /// Whether the request may be sent twice.
    repeatable: bool,
    body: OutgoingBody,
    /// Written before `data`: the head, and the frames of chunks.
    frame: Vec<u8>,
    /// How much of the frame is written.
    written: usize,
    data: Bytes,
    patience: Patience,
    /// The backend takes no more; it may have answered.
    halted: bool,
    waits_for_client: bool,
    /// Whether a byte has been written.
    begun: bool,
    /// Whether the socket may keep back some of what was written, as TLS does.
    unflushed: bool,
    /// Raised whenever something moved.
    progress: u64,
    /// Of the body, so far.
    bytes: u64,
    /// Interim answers so far.
    interim: u32,
    /// A final one that came before all was sent.
    answer: Option<Head>,
}

impl Upload {
    pub fn new(outgoing: Outgoing, patience: Patience) -> Self {
        let Outgoing { method, head, body } = outgoing;
        // Sending it twice is safe (RFC 9110 section 9.2.2), and there is nothing else to send.
        let safe = method == Method::GET || method == Method::HEAD;
        let repeatable = safe && matches!(body, OutgoingBody::None);
        Self {
            method,
            repeatable,
            body,
            frame: head,
            written: 0,
            data: Bytes::new(),
            patience,
            halted: false,
            waits_for_client: false,
            begun: false,
            unflushed: false,
            progress: 0,
            bytes: 0,
            interim: 0,
            answer: None,
        }
    }

    /// Waits for the first piece of the body. What follows then waits for the backend alone, and
    /// head and piece go out in one write.
    pub async fn prime<E>(&mut self, timer: &Timer) -> Result<(), Failure<E>> {
        let patience = self.patience.body_idle;
        let piece = poll_fn(|context| self.poll_fill(context));
        timer.limit(patience, piece).await.unwrap_or(Err(Failure::BodyTimedOut))
    }

    /// Makes ready to send all of it again; false if that is not safe.
    pub fn rewind(&mut self) -> bool {
        if self.repeatable {
            (self.written, self.halted, self.begun, self.unflushed) = (0, false, false, false);
        }
        self.repeatable
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was not read of the body.
    pub fn into_unsent(self) -> Option<Incoming> {
        match self.body {
            OutgoingBody::None => None,
            OutgoingBody::Sized(body) | OutgoingBody::Chunked(body) => Some(body),
        }
    }

    fn is_complete(&self) -> bool {
        let written = self.rest().is_empty() && self.data.is_empty() && !self.unflushed;
        written && matches!(self.body, OutgoingBody::None)
    }

    fn next_patience(&self) -> Duration {
        if self.waits_for_client { self.patience.body_idle } else { self.patience.response }
    }

    fn timed_out<E>(&self) -> Failure<E> {
        if self.waits_for_client { Failure::BodyTimedOut } else { Failure::TimedOut }
    }

    /// Ready when all is written, or the backend takes no more.
    fn poll<E>(
        &mut self,
        socket: &mut Socket,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failure<E>>> {
        loop {
            if self.halted || self.is_complete() {
                return Poll::Ready(Ok(()));
            }
            if self.rest().is_empty() && self.data.is_empty() {
                if self.unflushed {
                    let flushed = ready!(Pin::new(&mut *socket).poll_flush(context));
                    (self.unflushed, self.halted) = (false, flushed.is_err());
                    continue;
                }
                // This may bring nothing to write, such as trailers.
                ready!(self.poll_fill(context))?;
                continue;
            }
            let mut socket = Pin::new(&mut *socket);
            let written = if self.data.is_empty() {
                socket.as_mut().poll_write(context, self.rest())
            } else {
                let slices = [io::IoSlice::new(self.rest()), io::IoSlice::new(&self.data)];
                socket.as_mut().poll_write_vectored(context, &slices)
            };
            match ready!(written) {
                Ok(written) => self.advance(written),
                // It may have answered before it hung up: whoever reads finds out.
                Err(_) => self.halted = true,
            }
        }
    }

    /// What is still to be written before `data`.
    fn rest(&self) -> &[u8] {
        &self.frame[self.written..]
    }

    fn advance(&mut self, written: usize) {
        (self.begun, self.unflushed) = (true, true);
        self.progress += 1;
        let of_frame = written.min(self.rest().len());
        self.written += of_frame;
        if self.rest().is_empty() && !self.repeatable {
            self.frame.clear();
            self.written = 0;
        }
        self.data.advance(written - of_frame);
    }

    /// Gets the next piece of the body, if there is a body.
    fn poll_fill<E>(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure<E>>> {
        let (body, chunked) = match &mut self.body {
            OutgoingBody::None => return Poll::Ready(Ok(())),
            OutgoingBody::Sized(body) => (body, false),
            OutgoingBody::Chunked(body) => (body, true),
        };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            if !self.waits_for_client {
                self.waits_for_client = true;
                self.progress += 1;
            }
            return Poll::Pending;
        };
        self.waits_for_client = false;
        self.progress += 1;
        match frame {
            Some(Ok(frame)) => {
                // Trailers end here: nobody asked for them.
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(self.take_data(data, chunked));
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(body_failure(&error))),
            None => {
                if chunked {
                    self.frame.put_slice(b"0\r\n\r\n");
                }
                self.body = OutgoingBody::None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_data<E>(&mut self, data: Bytes, chunked: bool) -> Result<(), Failure<E>> {
        self.bytes += data.len() as u64;
        if self.bytes > self.patience.body_bytes {
            return Err(Failure::BodyTooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        if !chunked {
            self.data = data;
            return Ok(());
        }
        // A chunk is copied together with its frame: clients send them small.
        self.frame.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
        self.frame.put_slice(&data);
        self.frame.put_slice(b"\r\n");
        Ok(())
    }
}

/// Whether the client's body is wrong, or the client gone.
fn body_failure<E>(error: &hyper::Error) -> Failure<E> {
    let cause = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Failure::BodyMalformed,
        _ => Failure::BodyCut,
    }
}

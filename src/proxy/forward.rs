//! Sends a permitted request to the backend and brings the answer back.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::answer::{Interrupted, Stream};
use super::backend::Upstream;
use super::connect::{Connecting, Unreachable};
use super::headers::{self, Identity, Origin, is_trusted};
use super::pool::Pool;
use super::upstream::{
    Answer, AnswerBody, Failure, Outgoing, OutgoingBody, Patience, Upload, exchange,
};
use super::{Local, Proxy, Settings};
use crate::config::value::{Authorization, Segment};
use crate::gate::{Permit, Refused};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::route::{Place, Target};
use crate::server;
use crate::server::timer::Timer;

/// A permitted request and all that is known about it.
pub struct Forward<'a> {
    pub proxy: &'a Proxy,
    pub settings: &'a Settings,
    pub client: &'a server::Connection,
    pub parts: &'a Parts,
    pub target: &'a Target<'a>,
    pub place: &'a Place<'a>,
    pub permit: &'a Permit,
    /// The query as it was received, where that differs from the parsed one.
    pub raw_query: Option<&'a [u8]>,
}

impl Forward<'_> {
    /// Takes the body, and puts back what nobody read of it.
    pub async fn send(
        &self,
        body: &mut Option<Incoming>,
        record: &mut Record,
    ) -> Result<Response<Body>, Refused> {
        let upstream = self.settings.upstream(self.place).expect("without one there is no permit");
        let announced = body.as_ref().and_then(|body| http_body::Body::size_hint(body).exact());
        if announced.is_some_and(|bytes| bytes > self.settings.request_body) {
            return Err(Refusal::BodyTooLarge.into());
        }
        let patience = Patience {
            response: upstream.config.response_timeout.0,
            body_idle: self.settings.body_idle_timeout,
            body_bytes: self.settings.request_body,
        };
        let timer = self.client.timers().timer();
        record.forwarding();
        let mut upload = Upload::new(self.outgoing(upstream, body, record), patience);
        let pool = self.proxy.local.pool(upstream);
        let answer = self.exchange(upstream, &pool, &mut upload, &timer, record).await;
        record.bytes_in = upload.bytes();
        *body = upload.into_unsent();
        self.deliver(upstream, pool, answer?, timer, record)
    }

    async fn exchange(
        &self,
        upstream: &Upstream,
        pool: &Rc<Pool>,
        upload: &mut Upload,
        timer: &Timer,
        record: &mut Record,
    ) -> Result<Answer, Refused> {
        let local = &*self.proxy.local;
        let clock = &local.recorder.clock;
        let check = || self.proxy.gate.confirm(self.permit, &clock.now());
        let refused = |failure, record: &Record| self.refused(failure, upstream, record);
        upload.prime(timer).await.map_err(|failure| refused(failure, record))?;
        let begun = clock.uptime();
        let server = (upstream.servers.len() == 1).then_some(upstream.authority.as_str());
        record.calling(begun, server);
        let connecting = Connecting { local, upstream, pool, timer, begun };
        let unreachable = |why| unreachable(why, upstream);
        let mut connection = connecting.connect(false).await.map_err(unreachable)?;
        loop {
            match exchange(connection, upload, timer, check).await {
                Ok(answer) => {
                    record.answered(begun, answer.status);
                    return Ok(answer);
                }
                Err(Failure::HungUp) if upload.rewind() => {
                    let begun = clock.uptime();
                    let connecting = Connecting { begun, ..connecting };
                    connection = connecting.connect(true).await.map_err(unreachable)?;
                }
                Err(failure) => return Err(refused(failure, record)),
            }
        }
    }

    fn refused(&self, failure: Failure<Refused>, upstream: &Upstream, record: &Record) -> Refused {
        let url = &upstream.label;
        match failure {
            Failure::Withdrawn(refused) => refused,
            Failure::HungUp => {
                tracing::warn!(url, request_id = record.request_id, "backend hung up on a request");
                Refusal::UpstreamBroken.into()
            }
            Failure::Broken(what) => {
                tracing::warn!(url, request_id = record.request_id, "no proper answer: {what}");
                Refusal::UpstreamBroken.into()
            }
            Failure::TimedOut => Refusal::UpstreamTimeout.into(),
            Failure::BodyTooLarge => Refusal::BodyTooLarge.into(),
            Failure::BodyTimedOut => Refusal::BodyTimeout.into(),
            Failure::BodyCut => Refusal::ClientGone.into(),
            Failure::BodyMalformed => {
                Refusal::FramingInvalid("the request's body is malformed").into()
            }
        }
    }

    fn outgoing(
        &self,
        upstream: &Upstream,
        body: &mut Option<Incoming>,
        record: &mut Record,
    ) -> Outgoing {
        let method = &self.parts.method;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.put_slice(method.as_str().as_bytes());
        head.put_slice(b" ");
        self.write_target(upstream, &mut head);
        head.put_slice(b" HTTP/1.1\r\n");
        let authority = upstream.authority.as_str();
        let own_host = self.target.host.unwrap_or(authority);
        let host = upstream.config.host.as_ref().map_or(own_host, |host| host.as_str());
        headers::write_header(&mut head, "host", host.as_bytes());
        let peer = self.client.peer.ip();
        let trusted = &self.settings.trusted_proxies;
        let is_tls = self.client.is_tls();
        let origin = Origin::new(peer, is_tls, own_host, &self.parts.headers, trusted);
        if origin.client != peer {
            record.client = origin.client.map(|client| client.to_string().into());
        }
        record.scheme(origin.proto);
        let credential = self.permit.credential();
        let keeps = upstream.config.authorization == Authorization::Keep && credential.is_some();
        let identity = Identity {
            credential: credential.map(|credential| &**credential),
            origin: &origin,
            client: record.client.as_deref(),
            request_id: &record.request_id,
            trace: &record.trace,
        };
        let from_trusted = is_trusted(peer, trusted);
        headers::write(&mut head, &self.parts.headers, keeps, from_trusted, &identity);
        if let Some(secret) = upstream.secret().filter(|_| credential.is_some()) {
            headers::write_header(&mut head, "authorization", secret.as_bytes());
        }
        let body = self.outgoing_body(body.take(), &mut head);
        head.put_slice(b"\r\n");
        Outgoing { method: method.clone(), head, body }
    }

    /// The body's framing is said anew; a length stays a length, since old servers know no chunks.
    fn outgoing_body(&self, body: Option<Incoming>, head: &mut Vec<u8>) -> OutgoingBody {
        let length = body.as_ref().map(|body| http_body::Body::size_hint(body).exact());
        match (body, length.flatten()) {
            (Some(body), None) => {
                headers::write_header(head, "transfer-encoding", b"chunked");
                OutgoingBody::Chunked(body)
            }
            // HTTP/2 can announce nothing and then send something.
            (Some(body), Some(length)) if length > 0 || !http_body::Body::is_end_stream(&body) => {
                headers::write_header(head, "content-length", length.to_string().as_bytes());
                OutgoingBody::Sized(body)
            }
            _ => {
                if self.parts.headers.contains_key(header::CONTENT_LENGTH) {
                    headers::write_header(head, "content-length", b"0");
                }
                OutgoingBody::None
            }
        }
    }

    /// The URL's path and what the request has beyond the route's, byte for byte.
    fn write_target(&self, upstream: &Upstream, head: &mut Vec<u8>) {
        let start = head.len();
        let url = upstream.config.urls().first().expect("a checked config has one");
        for segment in url.path.segments() {
            head.put_slice(b"/");
            head.put_slice(match segment {
                Segment::Literal(text) => text.as_bytes(),
                Segment::Tenant => self.place.tenant.name.as_bytes(),
            });
        }
        head.put_slice(self.place.rest.as_bytes());
        if head.len() == start {
            head.put_slice(b"/");
        }
        if let Some(query) = self.target.query {
            let same = |raw: &&[u8]| server::encode_query(raw) == query.as_bytes();
            head.put_slice(b"?");
            head.put_slice(self.raw_query.filter(same).unwrap_or(query.as_bytes()));
        }
    }

    fn deliver(
        &self,
        upstream: &Upstream,
        pool: Rc<Pool>,
        answer: Answer,
        timer: Timer,
        record: &mut Record,
    ) -> Result<Response<Body>, Refused> {
        let ours = upstream.config.authorization != Authorization::Keep;
        if answer.status == StatusCode::UNAUTHORIZED && ours && self.permit.credential().is_some() {
            tracing::error!(url = upstream.label, "the backend refuses this proxy with 401");
            return Err(Refusal::UpstreamRefusedUs.into());
        }
        record.allowed(answer.status);
        let local = &self.proxy.local;
        let content = match answer.body {
            AnswerBody::Whole(bytes, connection) => {
                if let Some(connection) = connection {
                    pool.put(connection, local.timers.coarse_millis());
                }
                Content::Whole(bytes)
            }
            AnswerBody::Streamed(stream) => Content::Streamed(Box::new(Streaming {
                stream,
                timer,
                patience: upstream.config.response_timeout.0,
                local: Rc::clone(local),
                pool,
            })),
        };
        let mut response = Response::new(Body { content, record: None });
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

/// Room for what most heads need.
const HEAD_BYTES: usize = 1024;

fn unreachable(Unreachable(why): Unreachable, upstream: &Upstream) -> Refused {
    tracing::warn!(url = upstream.label, "backend cannot be reached: {why}");
    Refusal::UpstreamUnavailable.into()
}

/// An answer's body on its way to the client.
pub struct Body {
    content: Content,
    record: Option<Box<Record>>,
}

enum Content {
    Whole(Bytes),
    Streamed(Box<Streaming>),
}

struct Streaming {
    stream: Stream,
    timer: Timer,
    patience: Duration,
    local: Rc<Local>,
    pool: Rc<Pool>,
}

impl Streaming {
    fn end(&mut self) {
        if let Some(connection) = self.stream.release() {
            self.pool.put(connection, self.local.timers.coarse_millis());
        }
    }
}

impl Body {
    pub fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), record: None }
    }

    /// Gives the record to the body: it is told when the body has gone.
    pub fn follow(mut self, mut record: Box<Record>) -> Self {
        if let Content::Whole(bytes) = &self.content {
            record.bytes_out = bytes.len() as u64;
        }
        self.record = Some(record);
        self
    }

    fn interrupted(&mut self, why: Interrupted) -> std::io::Error {
        let (reason, what) = match why {
            Interrupted::Broken(what) => (Refusal::UpstreamBroken.reason(), what),
            Interrupted::TimedOut => (Refusal::UpstreamTimeout.reason(), "no more came in time"),
        };
        if let Some(mut record) = self.record.take() {
            tracing::warn!(request_id = record.request_id, "the answer's body broke off: {what}");
            record.broken(reason);
        }
        std::io::Error::other(what)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        let streaming = match &mut this.content {
            Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Whole(bytes) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Content::Streamed(streaming) => streaming,
        };
        let piece = std::task::ready!(streaming.stream.poll_piece(
            context,
            &streaming.timer,
            streaming.patience
        ));
        match piece {
            Some(Ok(bytes)) => {
                // Nobody asks again once the announced length has come.
                if streaming.stream.length() == Some(0) {
                    streaming.end();
                }
                if let Some(record) = &mut this.record {
                    record.bytes_out += bytes.len() as u64;
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(why)) => Poll::Ready(Some(Err(this.interrupted(why)))),
            None => {
                streaming.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Streamed(streaming) => streaming.stream.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streamed(streaming) => {
                streaming.stream.length().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// A body that nobody takes to its end was not delivered.
impl Drop for Body {
    fn drop(&mut self) {
        if let (Content::Streamed(streaming), Some(record)) = (&self.content, &mut self.record)
            && !streaming.stream.is_ended()
        {
            record.client_gone();
        }
    }
}

//! One connection: TLS if there is any, and then HTTP/1.1 or HTTP/2.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::certificate::ClientCertificate;
use super::http1::{self, State, within_limits};
use super::listener::{Accepted, Peer};
use super::stream::{Socket, Stream, peek};
use super::timer::Timers;
use super::tls::Tls;
use super::{Scope, Service, Transport, http2};

/// Which limit has ended a connection, once one has.
pub type Fate = Rc<Cell<Option<&'static str>>>;

/// What a service can know of the connection that a request came by.
pub struct Connection {
    pub peer: Peer,
    /// The peer's address without its port, as it is told to others; every request needs it.
    pub address: Option<Rc<str>>,
    /// The name of the listener that it came by.
    pub listener: Rc<str>,
    tls: bool,
    client: Option<Arc<ClientCertificate>>,
    timers: Timers,
    fate: Fate,
    /// Whether the answers under way are the last.
    ending: Rc<Cell<bool>>,
    /// None over HTTP/2.
    http1: Option<Rc<State>>,
}

impl Connection {
    /// Whether it is within TLS that ends here.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The client's certificate, if the listener asks for one and the client has shown it. It was
    /// verified when the connection began.
    pub fn client_certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.client.as_ref()
    }

    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    pub fn fate(&self) -> Fate {
        Rc::clone(&self.fate)
    }

    /// Has the connection end with the answer that has these headers.
    pub fn end_after(&self, headers: &mut HeaderMap) {
        match self.http1 {
            Some(_) => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
            None => self.ending.set(true),
        }
    }

    /// Whether a body follows that nobody has read is not known, and so neither is where the next
    /// request begins: over HTTP/1.1 the connection ends with the answer that has these headers.
    pub fn end_unframed(&self, headers: &mut HeaderMap) {
        if self.http1.is_some() {
            self.end_after(headers);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// The same connection, as one of its HTTP/2 streams knows it.
    pub(super) fn of_stream(&self, fate: Fate) -> Self {
        let (peer, tls, client) = (self.peer, self.tls, self.client.clone());
        let (address, timers) = (self.address.clone(), self.timers.clone());
        let (listener, ending) = (Rc::clone(&self.listener), Rc::clone(&self.ending));
        Self { peer, address, listener, ending, tls, client, timers, fate, http1: None }
    }

    /// The query of the request that has just begun as it was received, if that differs from what
    /// was parsed.
    pub fn raw_query(&self) -> Option<Vec<u8>> {
        self.http1.as_ref().and_then(|state| state.take_query())
    }

    /// Reads the rest of a body that nobody wants, so that the client sees our answer and can go
    /// on with the connection. Bounded in bytes and time; beyond them the connection ends, or over
    /// HTTP/2 the stream.
    pub fn discard(&self, mut body: Incoming) {
        if body.is_end_stream() {
            return;
        }
        let timer = self.timers.timer();
        tokio::task::spawn_local(async move {
            let rest = async {
                let mut bytes = 0;
                while bytes <= DISCARD_BYTES {
                    match body.frame().await {
                        Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                        Some(Err(_)) | None => break,
                    }
                }
            };
            let _ = timer.limit(DISCARD_TIME, rest).await;
        });
    }
}

const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Serves a connection to its end.
pub(super) async fn serve<S: Service>(
    scope: Rc<Scope<S>>,
    accepted: Accepted,
    transport: &Transport,
) {
    let peer = accepted.peer;
    // It fails only for a connection that is already gone.
    let Ok(socket) = accepted.socket() else { return };

    let gauge = scope.metrics.connections.with_label_values(&[scope.face]);
    gauge.inc();
    let state = Rc::new(State::new(&scope.timers, scope.limits.load_full()));
    let ended = match &transport.tls {
        None => run_plain(&scope, &state, socket, peer, transport).await,
        // A handshake is large, and clear text should not pay for it.
        Some(tls) => Box::pin(run_tls(&scope, &state, socket, peer, transport, tls)).await,
    };
    gauge.dec();
    if let Some(cause) = ended.cause() {
        scope.metrics.http_rejects.with_label_values(&[scope.face, cause]).inc();
        let error = ended.error();
        tracing::debug!(face = scope.face, peer = %peer, cause, error, "connection ended early");
    }
}

async fn run_tls<S: Service>(
    scope: &Rc<Scope<S>>,
    state: &Rc<State>,
    socket: Socket,
    peer: Peer,
    transport: &Transport,
    tls: &Tls,
) -> Ended {
    let shaken = within_limits(scope, state, pin!(tls.accept(socket))).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ended::Handshake(error),
        Err(ended) => return ended,
    };
    let client = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let client = client.map(ClientCertificate::read);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
    let name = &transport.name;
    run(scope, state, Stream::Right(Box::new(stream)), peer, name, client, http2).await
}

/// ALPN's word for HTTP/2 over TLS (RFC 9113 section 3.2).
pub(super) const HTTP_2: &[u8] = b"h2";

/// Clear text is HTTP/1.1, unless the listener takes clients that begin with HTTP/2 by prior
/// knowledge (RFC 9113 section 3.3).
async fn run_plain<S: Service>(
    scope: &Rc<Scope<S>>,
    state: &Rc<State>,
    socket: Socket,
    peer: Peer,
    transport: &Transport,
) -> Ended {
    let mut http2 = false;
    if transport.h2c {
        match within_limits(scope, state, pin!(begins_with_preface(&socket))).await {
            Ok(Ok(begins)) => http2 = begins,
            Ok(Err(_)) => return Ended::Well,
            Err(ended) => return ended,
        }
    }
    run(scope, state, Stream::Left(socket), peer, &transport.name, None, http2).await
}

/// Looks at the first bytes without taking them.
async fn begins_with_preface(socket: &Socket) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seen = [0; PREFACE.len()];
    let mut known = 0;
    loop {
        let count = peek(socket, &mut seen).await?;
        if count == PREFACE.len() || !PREFACE.starts_with(&seen[..count]) || count == 0 {
            return Ok(seen[..count] == *PREFACE);
        }
        if count == known {
            // The same bytes are ready at once; look again when more may have come.
            tokio::time::sleep(PEEK_PAUSE).await;
        }
        known = count;
    }
}

const PEEK_PAUSE: Duration = Duration::from_millis(5);

async fn run<S: Service>(
    scope: &Rc<Scope<S>>,
    state: &Rc<State>,
    stream: Stream,
    peer: Peer,
    listener: &str,
    client: Option<ClientCertificate>,
    http2: bool,
) -> Ended {
    let connection = Rc::new(Connection {
        peer,
        address: peer.ip().map(|ip| ip.to_string().into()),
        listener: listener.into(),
        tls: matches!(stream, Stream::Right(_)),
        client: client.map(Arc::new),
        timers: scope.timers.clone(),
        fate: state.fate(),
        ending: Rc::default(),
        http1: (!http2).then(|| Rc::clone(state)),
    });
    if http2 {
        // Its state is large, and HTTP/1.1 should not pay for it.
        Box::pin(http2::run(scope, stream, connection, Arc::clone(state.limits()))).await
    } else {
        http1::run(scope, state, stream, connection).await
    }
}

/// How a connection came to its end.
pub(super) enum Ended {
    Well,
    TimedOut(&'static str),
    Handshake(io::Error),
    Error(hyper::Error),
}

impl Ended {
    /// What went wrong, unless the peer was simply gone.
    fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Well => None,
            Self::TimedOut(limit) => Some(limit),
            Self::Handshake(error) if is_gone(error) => None,
            Self::Handshake(error) if is_about_the_client(error) => Some("client_certificate"),
            Self::Handshake(_) => Some("tls"),
            Self::Error(error) if error.is_parse_too_large() => Some("header_bytes"),
            Self::Error(error) if error.is_parse() => Some("malformed"),
            Self::Error(error) if http2::is_misuse(error) => Some("http2"),
            Self::Error(_) => None,
        }
    }

    /// What the cause alone does not tell.
    fn error(&self) -> Option<String> {
        match self {
            Self::Handshake(error) => Some(error.to_string()),
            Self::Error(error) => Some(error.to_string()),
            Self::Well | Self::TimedOut(_) => None,
        }
    }
}

/// Whether a client has shown a certificate that is not to be believed. Strangers show none.
fn is_about_the_client(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// Who only looks whether the port is open closes without a word.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

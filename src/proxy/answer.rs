//! A backend's answer, read as strictly as a server reads requests: one whose length is in doubt is
//! broken, and so is one that ends before its length.

use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::headers::{connection_options, is_hop_by_hop};
use super::pool::Connection;
use crate::server::HeadSearch;
use crate::server::timer::Timer;

/// The head of an answer.
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// How long the backend leaves the connection open, if it says so.
    pub keep_alive: Option<Duration>,
    reusable: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Takes a final head from the front of what was received; `None` if it is not complete.
    /// `interim` counts the interim answers before it.
    pub fn parse(received: &mut BytesMut, interim: &mut u32) -> Result<Option<Self>, &'static str> {
        loop {
            if received.is_empty() {
                return Ok(None);
            }
            if *interim > INTERIM_MAX {
                return Err("it has too many interim answers");
            }
            let mut search = HeadSearch::default();
            let Some(size) = search.end(received) else {
                return check_front(received).map(|()| None);
            };
            if size > HEAD_BYTES_MAX {
                return Err(TOO_LARGE);
            }
            if search.bare {
                return Err("a line of the head ends without a return");
            }
            // Values outlive their answer in HTTP/2's tables, which should not keep a whole buffer.
            let head = Bytes::copy_from_slice(&received[..size]);
            received.advance(size);
            let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut []);
            if parse(&head, &mut response, &mut fields)? != Some(size) {
                return Err(MALFORMED);
            }
            let code = response.code.expect("the head is complete");
            // Interim answers concern the hop between us (RFC 9110 section 15.2).
            if (100..200).contains(&code) && code != 101 {
                *interim += 1;
                continue;
            }
            return Self::read(&head, code, response.version == Some(0), response.headers)
                .map(Some);
        }
    }

    fn read(
        head: &Bytes,
        code: u16,
        http_10: bool,
        fields: &[httparse::Header<'_>],
    ) -> Result<Self, &'static str> {
        let status = StatusCode::from_u16(code).map_err(|_| "the status is out of range")?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("it changed the protocol unasked");
        }
        let mut told = Told::default();
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name =
                HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED_HEADER)?;
            told.note(&name, field.value)?;
            if !is_hop_by_hop(name.as_str()) {
                let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
                headers.append(name, value.map_err(|_| MALFORMED_HEADER)?);
            }
        }
        let Told { length, chunked, close, nominated, keep_alive } = told;
        if chunked && (length.is_some() || http_10) {
            return Err("its length is told in two ways");
        }
        for name in nominated {
            headers.remove(name);
        }
        // Where there can be no body there is no length either (RFC 9110 section 8.6).
        if status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        Ok(Self { status, headers, reusable: !http_10 && !close, keep_alive, length, chunked })
    }
}

/// What a head tells of its body and of the connection.
#[derive(Default)]
struct Told<'a> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// Headers that end here.
    nominated: Vec<&'a str>,
    keep_alive: Option<Duration>,
}

impl<'a> Told<'a> {
    fn note(&mut self, name: &HeaderName, value: &'a [u8]) -> Result<(), &'static str> {
        if name == header::CONTENT_LENGTH {
            if self.length.replace(content_length(value)?).is_some() {
                return Err("its length is told twice");
            }
        } else if name == header::TRANSFER_ENCODING {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("its transfer encoding is not chunked alone");
            }
            self.chunked = true;
        } else if name == header::CONNECTION {
            for option in connection_options(value) {
                let option = std::str::from_utf8(option).unwrap_or_default();
                if option.eq_ignore_ascii_case("close") {
                    self.close = true;
                } else if !option.eq_ignore_ascii_case("keep-alive") {
                    self.nominated.push(option);
                }
            }
        } else if name.as_str() == "keep-alive" {
            self.keep_alive = self.keep_alive.or_else(|| keep_alive(value));
        }
        Ok(())
    }
}

type Fields<'a> = [MaybeUninit<httparse::Header<'a>>; HEADERS_MAX];

/// The length of the head at the front, or `None` if it is not complete.
fn parse<'h, 'b>(
    front: &'b [u8],
    response: &mut httparse::Response<'h, 'b>,
    fields: &'h mut Fields<'b>,
) -> Result<Option<usize>, &'static str> {
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(response, front, fields) {
        Ok(httparse::Status::Complete(size)) => Ok(Some(size)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(MALFORMED),
    }
}

/// Refuses what is no front of a head, before its end has come or its time is over.
fn check_front(front: &[u8]) -> Result<(), &'static str> {
    if front.len() > HEAD_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    parse(front, &mut httparse::Response::new(&mut []), &mut fields).map(drop)
}

const TOO_LARGE: &str = "the head is too large";
const MALFORMED: &str = "the head is malformed";
const MALFORMED_HEADER: &str = "a header is malformed";
const INTERIM_MAX: u32 = 16;
const HEADERS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 64 << 10;

fn content_length(digits: &[u8]) -> Result<u64, &'static str> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err("its length is no number");
    }
    let text = std::str::from_utf8(digits).expect("digits");
    text.parse().map_err(|_| "its length is out of range")
}

/// How long the backend will keep the connection, less a second for the way.
fn keep_alive(value: &[u8]) -> Option<Duration> {
    let parameters = std::str::from_utf8(value).ok()?.split(',').map(str::trim);
    let seconds: u64 =
        parameters.filter_map(|it| it.strip_prefix("timeout=")).next()?.parse().ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(1).min(60)))
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

fn framing(method: &Method, head: &Head) -> Framing {
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    match (head.chunked, head.length) {
        _ if *method == Method::HEAD || bodiless => Framing::Length(0),
        (true, _) => Framing::Chunked(Chunks::Size),
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    }
}

/// An answer's body as it comes.
pub struct Stream {
    connection: Option<Connection>,
    framing: Framing,
    reusable: bool,
    ended: bool,
}

impl Stream {
    /// The body behind this head. `complete` is whether all of the request was sent, without which
    /// the connection is not used again.
    pub fn new(connection: Connection, method: &Method, head: &Head, complete: bool) -> Self {
        let framing = framing(method, head);
        let reusable = complete && head.reusable && framing != Framing::UntilClose;
        Self { connection: Some(connection), framing, reusable, ended: false }
    }

    /// The rest of the length, if it is known.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Waits for all of a short body, so that one that is cut can still be answered properly.
    pub fn poll_gather(
        &mut self,
        context: &mut Context<'_>,
        timer: &Timer,
        patience: Duration,
    ) -> Poll<Result<(), Interrupted>> {
        let Framing::Length(length) = self.framing else { return Poll::Ready(Ok(())) };
        if length > GATHERED_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        let connection = self.connection.as_mut().expect("not yet ended");
        while (connection.received.len() as u64) < length {
            match connection.poll_receive(context, GATHERED_BYTES_MAX as usize) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    return Poll::Ready(Err(Interrupted::Broken("its body was cut short")));
                }
                Poll::Ready(Ok(_)) => timer.disarm(),
                Poll::Pending => {
                    if !timer.is_armed() {
                        timer.arm(patience);
                    }
                    ready!(timer.poll_elapsed(context));
                    return Poll::Ready(Err(Interrupted::TimedOut));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// All of the body and the connection, if all of it has already arrived.
    pub fn take_whole(&mut self) -> Option<(Bytes, Option<Connection>)> {
        let connection = self.connection.as_mut().expect("not yet ended");
        let Framing::Length(length) = self.framing else { return None };
        if (connection.received.len() as u64) < length {
            return None;
        }
        let bytes = connection.received.split_to(length as usize).freeze();
        Some((bytes, self.release()))
    }

    /// The connection after the end of the body, if it can be used again.
    pub fn release(&mut self) -> Option<Connection> {
        self.ended = true;
        // What stands behind the end belongs to nobody: framing is in doubt.
        self.connection.take().filter(|connection| self.reusable && connection.received.is_empty())
    }

    /// The next piece; `None` at the end. After it the connection can be released.
    pub fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        timer: &Timer,
        patience: Duration,
    ) -> Poll<Option<Result<Bytes, Interrupted>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match self.framing.take(&mut connection.received) {
                Ok(Piece::Data(bytes)) => {
                    timer.disarm();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(what) => return self.interrupted(Interrupted::Broken(what)),
            }
            if !timer.is_armed() {
                timer.arm(patience);
            }
            let Poll::Ready(received) = connection.poll_receive(context, BODY_ROOM) else {
                ready!(timer.poll_elapsed(context));
                return self.interrupted(Interrupted::TimedOut);
            };
            match received {
                Ok(0) if self.framing == Framing::UntilClose => {
                    self.reusable = false;
                    return Poll::Ready(None);
                }
                Ok(0) => return self.interrupted(Interrupted::Broken("it was cut short")),
                Ok(_) => {}
                Err(_) => return self.interrupted(Interrupted::Broken("the connection broke")),
            }
        }
    }

    fn interrupted(&mut self, why: Interrupted) -> Poll<Option<Result<Bytes, Interrupted>>> {
        self.connection = None;
        Poll::Ready(Some(Err(why)))
    }
}

const BODY_ROOM: usize = 64 << 10;
/// Bodies up to this are read whole before their head is passed on.
const GATHERED_BYTES_MAX: u64 = 64 << 10;

/// Why the rest of a body will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    Broken(&'static str),
    TimedOut,
}

enum Piece {
    Data(Bytes),
    More,
    End,
}

impl Framing {
    fn take(&mut self, received: &mut BytesMut) -> Result<Piece, &'static str> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Chunked(chunks) => chunks.take(received),
            _ if received.is_empty() => Ok(Piece::More),
            Self::UntilClose => Ok(Piece::Data(received.split().freeze())),
            Self::Length(rest) => {
                let size = received.len().min(usize::try_from(*rest).unwrap_or(usize::MAX));
                *rest -= size as u64;
                Ok(Piece::Data(received.split_to(size).freeze()))
            }
        }
    }
}

/// Where in a chunked body we are (RFC 9112 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunks {
    Size,
    Data(u64),
    /// Behind the data of a chunk.
    DataEnd,
    /// Behind the last chunk; how many lines so far.
    Trailers(u32),
    End,
}

impl Chunks {
    fn take(&mut self, received: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(received)? else { return Ok(Piece::More) };
                    *self = match chunk_size(&line)? {
                        0 => Self::Trailers(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(_) if received.is_empty() => return Ok(Piece::More),
                Self::Data(rest) => {
                    let size = received.len().min(usize::try_from(*rest).unwrap_or(usize::MAX));
                    *rest -= size as u64;
                    if *rest == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Piece::Data(received.split_to(size).freeze()));
                }
                Self::DataEnd => match take_line(received)? {
                    None => return Ok(Piece::More),
                    Some(line) if line.is_empty() => *self = Self::Size,
                    Some(_) => return Err("a chunk is longer than it said"),
                },
                // Trailers end here: nobody was promised any.
                Self::Trailers(lines) => match take_line(received)? {
                    None => return Ok(Piece::More),
                    Some(line) if line.is_empty() => *self = Self::End,
                    Some(_) if *lines == TRAILERS_MAX => return Err("it has too many trailers"),
                    Some(line) if !is_field(&line) => return Err("a trailer is malformed"),
                    Some(_) => *lines += 1,
                },
                Self::End => return Ok(Piece::End),
            }
        }
    }
}

/// A line without its end; `None` if it is not complete.
fn take_line(received: &mut BytesMut) -> Result<Option<BytesMut>, &'static str> {
    match memchr::memchr(b'\n', received) {
        None if received.len() > LINE_BYTES_MAX => Err("a chunk's line is too long"),
        None => Ok(None),
        Some(0) => Err("a chunk's line ends without a carriage return"),
        Some(end) if received[end - 1] != b'\r' => {
            Err("a chunk's line ends without a carriage return")
        }
        Some(end) => {
            let mut line = received.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
    }
}

const LINE_BYTES_MAX: usize = 4096;
const TRAILERS_MAX: u32 = 128;

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let extended = extension.trim_ascii_start();
    let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    let fits = extended.is_empty() || extended.starts_with(b";");
    if size.is_empty() || size.len() > 15 || !fits || !extension.iter().all(text) {
        return Err("a chunk's size is malformed");
    }
    let text = std::str::from_utf8(size).expect("hexadecimal digits");
    u64::from_str_radix(text, 16).map_err(|_| "a chunk's size is malformed")
}

fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    HeaderName::from_bytes(&line[..colon]).is_ok()
        && HeaderValue::from_bytes(&line[colon + 1..]).is_ok()
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    /// All the data of a chunked body that arrives in pieces of `step` bytes.
    fn chunked(text: &str, step: usize) -> Result<String, &'static str> {
        let (mut received, mut chunks, mut out) = (BytesMut::new(), Chunks::Size, Vec::new());
        for piece in text.as_bytes().chunks(step) {
            received.put_slice(piece);
            loop {
                match chunks.take(&mut received)? {
                    Piece::Data(bytes) => out.extend_from_slice(&bytes),
                    Piece::More => break,
                    Piece::End if received.is_empty() => {
                        return Ok(String::from_utf8(out).expect("text"));
                    }
                    Piece::End => return Err("more behind the end"),
                }
            }
        }
        Err("cut short")
    }

    #[test]
    fn chunks_are_read_however_they_arrive() {
        let text = "4\r\nWiki\r\n5;a=b\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\n";
        for step in 1..text.len() {
            assert_eq!(chunked(text, step), Ok("Wikipedia in\r\n\r\nchunks.".to_owned()));
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWikipedia\r\n0\r\n\r\n",
            "\r\n\r\n",
            "-1\r\n\r\n",
            "0x4\r\nWiki\r\n0\r\n\r\n",
            "4 4\r\nWiki\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "4\r\nWiki\r\n",
            "4;a\rb\r\nWiki\r\n0\r\n\r\n",
            "0\r\nX: a\rY: b\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX: y\r\r\n\r\n",
        ] {
            assert!(chunked(bad, 1).is_err(), "{bad:?}");
            assert!(chunked(bad, bad.len()).is_err(), "{bad:?}");
        }
    }

    fn head(bytes: impl AsRef<[u8]>) -> Result<Option<Head>, &'static str> {
        Head::parse(&mut BytesMut::from(bytes.as_ref()), &mut 0)
    }

    #[test]
    fn heads_whose_length_is_in_doubt_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 99 No\r\n\r\n",
            "nonsense\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\n",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interim_answers_are_skipped() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nETag: W/\"a\"\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n";
        let interim = head(text).expect("well formed").expect("complete");
        assert_eq!(interim.status, StatusCode::CREATED);
        assert_eq!(interim.headers["etag"], "W/\"a\"");
        assert!(!interim.reusable);
        assert_eq!(interim.headers.len(), 1);
        assert!(head("HTTP/1.1 200 O").expect("so far").is_none());
    }

    #[test]
    fn what_concerns_the_connection_alone_ends_here() {
        let text = b"HTTP/1.1 200 OK\r\nX-Hop: 1\r\nX-Hop: 2\r\nKeep-Alive: max=1\r\nX: 3\r\nConnection: keep-alive, , no name, \xff, x-hOp\r\n\r\n";
        let hop = head(text).expect("well formed").expect("complete");
        assert!(hop.reusable && hop.headers.len() == 1 && hop.headers["x"] == "3");
        let empty = head("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
        assert!(empty.expect("well formed").expect("complete").headers.is_empty());
    }

    #[test]
    fn storms_of_interim_answers_and_trailers_end() {
        assert!(head("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)).is_err());
        assert!(chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(1000)), 7).is_err());
    }

    #[test]
    fn a_backends_keep_alive_is_heeded() {
        let head = head("HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5, max=3\r\n\r\n");
        let head = head.expect("well formed").expect("complete");
        assert_eq!(head.keep_alive, Some(Duration::from_secs(4)));
        assert_eq!(framing(&Method::GET, &head), Framing::Length(0));
    }
}

//! What clients may send over HTTP/2: well-formed requests by a library, others frame by frame.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::Bed;
use crate::guard::{PATIENCE, TOKEN};

/// A client by a library.
pub struct Peer {
    runtime: tokio::runtime::Runtime,
    requests: SendRequest<Bytes>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let requests = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
            let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            requests
        });
        Self { runtime, requests }
    }

    /// Status and body, if the answer is whole.
    pub fn ask(&self, method: &str, path: &str, token: &str) -> Option<(u16, Vec<u8>)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://scim.test{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("valid");
        let requests = self.requests.clone();
        let answer = async move {
            let mut requests = requests.ready().await.ok()?;
            let answer = requests.send_request(request, true).ok()?.0.await.ok()?;
            let (parts, mut rest) = answer.into_parts();
            // Not even a length (RFC 9110 section 8.6).
            let says_more = parts.headers.contains_key("content-length");
            assert!(parts.status != 204 || !says_more, "a length where there is no body");
            let mut body = Vec::new();
            while let Some(piece) = rest.data().await {
                let piece = piece.ok()?;
                let _ = rest.flow_control().release_capacity(piece.len());
                body.extend_from_slice(&piece);
            }
            Some((parts.status.as_u16(), body))
        };
        let limited = async { tokio::time::timeout(PATIENCE, answer).await.expect("in time") };
        self.runtime.block_on(limited)
    }
}

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literal fields without a table.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..=126 => out.push(short as u8),
                mut long => {
                    out.push(127);
                    long -= 127;
                    while long >= 128 {
                        out.push((long % 128) as u8 | 128);
                        long /= 128;
                    }
                    out.push(long as u8);
                }
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// What the client sees of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Status(u16),
    Reset,
    /// The connection ends.
    Gone,
}

/// A client that sends frames as they are.
struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    fn connect(address: SocketAddr) -> Self {
        let mut stream = crate::http::connect(address);
        // No table, so that each answer's status can be read by itself.
        let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("written");
        stream.write_all(&settings).expect("written");
        stream.write_all(&frame(SETTINGS, 1, 0, &[])).expect("written");
        Self { stream, received: Vec::new() }
    }

    /// False once the server has hung up.
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    fn request(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> bool {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.write(&frame(HEADERS, flags, stream, &block(fields)))
    }

    /// The next frame: kind, flags, stream and payload; `None` at the end.
    fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if self.received.len() >= 9 {
                let head = &self.received[..9];
                let length =
                    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let (kind, flags) = (head[3], head[4]);
                if self.received.len() >= 9 + length {
                    let payload = self.received[9..9 + length].to_vec();
                    self.received.drain(..9 + length);
                    return Some((kind, flags, stream, payload));
                }
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame: {error}"),
            }
        }
    }

    fn sees(&mut self, wanted: u32) -> Sees {
        loop {
            match self.frame() {
                None | Some((GOAWAY, ..)) => return Sees::Gone,
                Some((HEADERS, _, stream, payload)) if stream == wanted => {
                    return Sees::Status(status(&payload));
                }
                Some((RST_STREAM, _, stream, _)) if stream == wanted => return Sees::Reset,
                Some(_) => {}
            }
        }
    }
}

/// The status at the front of an answer's field block.
fn status(block: &[u8]) -> u16 {
    // The size of the table is set first.
    let front = block.iter().position(|byte| byte & 0xe0 != 0x20).expect("a field");
    let block = &block[front..];
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => {
            let size = usize::from(block[1] & 0x7f);
            let text = &block[2..2 + size];
            if block[1] & 0x80 == 0 {
                return String::from_utf8_lossy(text).parse().expect("a number");
            }
            let bits = text.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            let (mut left, mut number) = (8 * size, 0);
            // Huffman: 0 to 2 have five bits, the other digits six (RFC 7541 appendix B).
            for _ in 0..3 {
                let five = bits >> (left - 5) & 31;
                let (digit, width) = match five {
                    0..=2 => (five, 5),
                    _ => ((bits >> (left - 6) & 63) - 0x19 + 3, 6),
                };
                left -= width;
                number = number * 10 + u16::try_from(digit).expect("a digit");
            }
            number
        }
    }
}

type Fields = Vec<(&'static str, String)>;

fn usual() -> Fields {
    vec![
        (":method", "GET".to_owned()),
        (":scheme", "http".to_owned()),
        (":authority", "scim.test".to_owned()),
        (":path", "/scim/v2/Users".to_owned()),
        ("authorization", format!("Bearer {TOKEN}")),
    ]
}

fn with(name: &'static str, value: &str) -> Fields {
    let mut fields = usual();
    fields.push((name, value.to_owned()));
    fields
}

fn instead(name: &str, value: &str) -> Fields {
    let mut fields = usual();
    fields.iter_mut().find(|it| it.0 == name).expect("usual").1 = value.to_owned();
    fields
}

fn without(name: &str) -> Fields {
    usual().into_iter().filter(|it| it.0 != name).collect()
}

#[test]
fn requests_that_http_2_does_not_allow_reach_nobody() {
    let mut bed = Bed::start(|setup| setup.listener(", h2c: true"));
    let mut cases: Vec<(Fields, &[u16])> = vec![
        (without(":method"), &[]),
        (without(":scheme"), &[]),
        (without(":path"), &[]),
        (without(":authority"), &[400]),
        (instead(":method", ""), &[]),
        (instead(":method", "G T"), &[]),
        (instead(":method", "GET / HTTP/1.1\r\nX: y"), &[]),
        (instead(":method", "TRACE"), &[405]),
        (instead(":method", "CONNECT"), &[]),
        (instead(":scheme", "ftp"), &[400]),
        (instead(":scheme", "http://x"), &[]),
        (instead(":path", ""), &[]),
        (instead(":path", "*"), &[400]),
        (instead(":path", "scim/v2/Users"), &[]),
        (instead(":path", "http://other/scim/v2/Users"), &[400]),
        (instead(":path", "//other/scim/v2/Users"), &[404]),
        (instead(":path", "/scim/v2/Users HTTP/1.1\r\nX: y"), &[]),
        (instead(":path", "/scim/v2/Us ers"), &[]),
        (instead(":path", "/scim/v2/Users\u{0}"), &[]),
        (instead(":path", "/scim/v2/../admin"), &[400]),
        (instead(":path", "/scim/v2/%2e%2e/admin"), &[400]),
        (instead(":path", "/scim/v2/%252e%252e/admin"), &[400]),
        (instead(":path", "/scim/v2//Users"), &[400]),
        (instead(":path", "/scim%2fv2/Users"), &[400]),
        (instead(":path", "/SCIM/v2/Users"), &[400]),
        (instead(":path", "/scim/v2/a\\b"), &[400]),
        (instead(":authority", ""), &[400]),
        (instead(":authority", "user@scim.test"), &[400]),
        (instead(":authority", "a b"), &[]),
        (instead(":authority", "a/b"), &[]),
        (instead(":authority", "a,b"), &[400]),
        (instead(":authority", "scim.test:x"), &[]),
        (with("host", "other"), &[400]),
        (with("host", "a b"), &[400]),
        (with("host", ""), &[400]),
        (with(":method", "GET"), &[]),
        (with(":path", "/x"), &[]),
        (with(":authority", "other"), &[]),
        (with(":status", "200"), &[]),
        (with(":odd", "x"), &[]),
        (with("Upper", "x"), &[]),
        (with("Authorization", "x"), &[]),
        (with("sp ace", "x"), &[]),
        (with("co:lon", "x"), &[]),
        (with("re\rturn", "x"), &[]),
        (with("nul\0", "x"), &[]),
        (with("", "x"), &[]),
        (with("x", "a\r\nb: c"), &[]),
        (with("x", "a\nb"), &[]),
        (with("x", "a\0b"), &[]),
        (with("connection", "close"), &[]),
        (with("connection", "x-scim-tenant"), &[]),
        (with("proxy-connection", "close"), &[]),
        (with("keep-alive", "1"), &[]),
        (with("upgrade", "h2c"), &[]),
        (with("transfer-encoding", "chunked"), &[]),
        (with("transfer-encoding", "identity"), &[]),
        (with("te", "gzip"), &[]),
        (with("content-length", "5"), &[]),
        (with("content-length", "+0"), &[]),
        (with("content-length", "0, 0"), &[]),
        (with("content-length", "x"), &[]),
        (with("authorization", "Bearer other"), &[400]),
        (with("authorization", "Basic YTpi"), &[400]),
        (instead("authorization", "Bearer wrong"), &[401]),
        (instead("authorization", "Bearer a b"), &[400]),
        (without("authorization"), &[401]),
    ];
    let mut late = usual();
    late.push((":scheme", "http".to_owned()));
    late.swap(1, 5);
    late.remove(1);
    cases.push((late, &[]));
    for (fields, statuses) in &cases {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.request(1, &fields, true);
        let seen = raw.sees(1);
        match seen {
            Sees::Status(status) => {
                let fits = statuses.contains(&status) || (statuses.is_empty() && status == 400);
                assert!(fits, "{fields:?}: {status}");
            }
            // A reset says no as well where the library looks first.
            Sees::Reset | Sees::Gone => {}
        }
        assert!(bed.forwarded().is_empty(), "{fields:?}: {seen:?}");
    }
    bed.end();
}

#[test]
fn oddities_of_http_2_change_nothing_of_what_is_forwarded() {
    let mut bed = Bed::start(|setup| setup.listener(", h2c: true"));
    for fields in [
        with("te", "trailers"),
        with("x-scim-tenant", "forged"),
        with("x_scim_tenant", "forged"),
        with("x.scim.credential.id", "forged"),
        with("x-forwarded-for", "forged"),
        with("x_forwarded_host", "forged"),
        with("forwarded", "for=forged"),
        with("proxy-authorization", "forged"),
        with("proxy", "forged"),
        with("http2-settings", "forged"),
        with("transfer_encoding", "forged"),
        with("content_length", "forged"),
        with("trailer", "forged"),
        with("expect", "forged"),
        with("priority", "u=1, i"),
        with("host", "scim.test"),
        with("content-length", "0"),
        instead(":scheme", "https"),
        instead(":path", "/scim/v2/Users?filter=a+eq+%22b%22&x"),
        instead(":path", "/scim/v2/Users/a%2Fb;c"),
        instead(":path", "/scim/v2/Users#x"),
        instead(":authority", "scim.test:8443"),
    ] {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.request(1, &fields, true);
        assert_eq!(raw.sees(1), Sees::Status(200), "{fields:?}");
        let forwarded = bed.forwarded();
        assert_eq!(forwarded.len(), 1, "{fields:?}");
        assert!(!forwarded[0].head.contains("forged"), "{fields:?}: {}", forwarded[0].head);
        let path = fields.iter().find(|it| it.0 == ":path").expect("usual").1;
        // The library cuts a fragment off before we see the target.
        let path = path.split('#').next().unwrap_or_default();
        assert_eq!(forwarded[0].line(), format!("GET {path} HTTP/1.1"));
    }
    bed.end();
}

#[test]
fn bodies_are_as_long_as_they_say_or_not_forwarded_whole() {
    let mut bed = Bed::start(|setup| setup.listener(", h2c: true"));
    let post = |length: &str| {
        let mut fields = instead(":method", "POST");
        if !length.is_empty() {
            fields.push(("content-length", length.to_owned()));
        }
        fields
    };
    for (length, pieces, whole) in [
        ("", vec!["abc"], true),
        ("3", vec!["abc"], true),
        ("3", vec!["a", "", "bc"], true),
        ("0", vec![""], true),
        ("4", vec!["abc"], false),
        ("2", vec!["abc"], false),
        ("0", vec!["abc"], false),
        ("6", vec!["abc", "defg"], false),
    ] {
        let fields = post(length);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.request(1, &fields, false);
        for (number, piece) in pieces.iter().enumerate() {
            let end = if number + 1 == pieces.len() { END_STREAM } else { 0 };
            raw.write(&frame(DATA, end, 1, piece.as_bytes()));
        }
        let seen = raw.sees(1);
        let bodies: Vec<_> = bed.forwarded().into_iter().map(|it| it.body).collect();
        if whole {
            assert_eq!(seen, Sees::Status(200), "{length}: {pieces:?}");
            assert_eq!(bodies, [pieces.concat().into_bytes()]);
        } else {
            assert_ne!(seen, Sees::Status(200), "{length}: {pieces:?}");
            assert_eq!(bodies, [[0_u8; 0]; 0], "{length}: {pieces:?}");
        }
    }
    // Trailers end here.
    let fields = post("");
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for trailer in [("x-trailer", "forged"), ("x-scim-tenant", "forged"), (":path", "/forged")] {
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.request(1, &fields, false);
        raw.write(&frame(DATA, 0, 1, b"abc"));
        raw.request(1, &[trailer], true);
        let seen = raw.sees(1);
        let forwarded = bed.forwarded();
        assert!(forwarded.iter().all(|it| !it.head.contains("forged")));
        // The library passes over pseudo-fields here.
        assert!(seen == Sees::Status(200) || trailer.0.starts_with(':'), "{trailer:?}");
        assert_eq!(forwarded.len(), usize::from(seen == Sees::Status(200)), "{trailer:?}");
    }
    bed.end();
}

#[test]
fn frames_that_break_the_protocol_end_the_connection_alone() {
    let mut bed = Bed::start(|setup| setup.listener(", h2c: true"));
    let usual = usual();
    let usual: Vec<_> = usual.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let head = block(&usual);
    for bytes in [
        frame(DATA, END_STREAM, 0, b"x"),
        frame(DATA, END_STREAM, 1, b"x"),
        frame(HEADERS, END_HEADERS | END_STREAM, 0, &head),
        frame(HEADERS, END_HEADERS | END_STREAM, 2, &head),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80]),
        frame(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[200, 0, 0]),
        frame(CONTINUATION, END_HEADERS, 1, &head),
        [frame(HEADERS, END_STREAM, 1, &head), frame(DATA, 0, 1, b"x")].concat(),
        [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, END_HEADERS, 3, &head)].concat(),
        [frame(HEADERS, END_STREAM, 1, &head), frame(PING, 0, 0, &[0; 8])].concat(),
        frame(PRIORITY, 0, 0, &[0; 5]),
        frame(RST_STREAM, 0, 0, &[0; 4]),
        frame(RST_STREAM, 0, 5, &[0; 4]),
        frame(RST_STREAM, 0, 1, &[0; 3]),
        frame(SETTINGS, 0, 1, &[]),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, 1, 0, &[0; 6]),
        frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
        frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        frame(PING, 0, 1, &[0; 8]),
        frame(PING, 0, 0, &[0; 7]),
        frame(GOAWAY, 0, 1, &[0; 8]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        [vec![0xff, 0xff, 0xff], vec![DATA, 0, 0, 0, 0, 1]].concat(),
    ] {
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.write(&bytes);
        let _ = raw.stream.shutdown(std::net::Shutdown::Write);
        let seen = raw.sees(1);
        assert!(matches!(seen, Sees::Gone | Sees::Reset), "{bytes:?}: {seen:?}");
        assert!(bed.forwarded().is_empty(), "{bytes:?}");
    }
    // Unknown kinds and priorities are passed over.
    let mut raw = Raw::connect(bed.guard.proxy);
    raw.write(&frame(0x42, 0xff, 9, b"junk"));
    raw.write(&frame(PRIORITY, 0, 11, &[0, 0, 0, 3, 255]));
    raw.write(&frame(SETTINGS, 0, 0, &[0x42, 0x42, 0, 0, 0, 1]));
    raw.request(1, &usual, true);
    assert_eq!(raw.sees(1), Sees::Status(200));
    bed.forwarded();
    bed.end();
}

/// What is sent as the nth.
type Flood<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;

#[test]
fn floods_end_or_are_borne_and_harm_nobody() {
    let mut bed = Bed::start(|setup| {
        setup
            .listener(", h2c: true")
            .proxy("limits: { request_time: 3s, send_idle_timeout: 2s, idle_timeout: 3s }")
    });
    let usual = usual();
    let usual: Vec<_> = usual.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let head = block(&usual);
    let begin = |stream: u32| frame(HEADERS, END_HEADERS, stream, &head);
    let floods: [(&str, Flood<'_>); 11] = [
        ("PING", Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS", Box::new(|_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))),
        ("empty SETTINGS", Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        ("PRIORITY", Box::new(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("unknown frames", Box::new(|_| frame(0x42, 0, 0, &[0; 64]))),
        (
            "CONTINUATION",
            Box::new(|n| match n {
                0 => frame(HEADERS, 0, 1, &head),
                _ => frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(1000))])),
            }),
        ),
        (
            "empty CONTINUATION",
            Box::new(|n| match n {
                0 => frame(HEADERS, 0, 1, &head),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
        ),
        (
            "begun and reset",
            Box::new(|n| {
                [begin(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
            }),
        ),
        (
            "provoked resets",
            Box::new(|n| {
                [begin(2 * n + 1), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0, 0, 0, 0])].concat()
            }),
        ),
        (
            "empty DATA",
            Box::new(|n| match n {
                0 => begin(1),
                _ => frame(DATA, 0, 1, &[]),
            }),
        ),
    ];
    for (name, flood) in floods {
        let mut raw = Raw::connect(bed.guard.proxy);
        raw.stream.set_write_timeout(Some(Duration::from_secs(6))).expect("a socket");
        let mut borne = 0;
        // Nothing is read: answers that the client does not take must not pile up either.
        while borne < 30_000 && raw.write(&flood(borne)) {
            borne += 1;
        }
        let ends = !matches!(
            name,
            "PING"
                | "SETTINGS"
                | "empty SETTINGS"
                | "PRIORITY"
                | "WINDOW_UPDATE"
                | "unknown frames"
        );
        assert!(!ends || borne < 30_000 || raw.sees(1) == Sees::Gone, "{name} was borne");
        let forwarded = bed.forwarded();
        assert!(forwarded.is_empty() || name == "empty CONTINUATION", "{name}: {forwarded:?}");
    }
    // A list of fields that is small on the wire and large in memory.
    let mut raw = Raw::connect(bed.guard.proxy);
    let mut bomb = head.clone();
    bomb.push(0x40);
    bomb.extend_from_slice(&block(&[("x-bomb", &"y".repeat(3000))])[1..]);
    bomb.extend(std::iter::repeat_n(0xbe, 10_000));
    raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    let seen = raw.sees(1);
    assert!(matches!(seen, Sees::Status(431) | Sees::Reset | Sees::Gone), "{seen:?}");
    assert!(bed.forwarded().is_empty());
    // A window that never opens.
    let mut raw = Raw::connect(bed.guard.proxy);
    raw.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    raw.request(1, &usual, true);
    assert_eq!(raw.sees(1), Sees::Status(200));
    assert_eq!(raw.sees(1), Sees::Reset);
    // A request that never ends.
    let mut raw = Raw::connect(bed.guard.proxy);
    let mut fields = usual.clone();
    fields[0].1 = "POST";
    raw.request(1, &fields, false);
    let seen = raw.sees(1);
    assert!(matches!(seen, Sees::Gone | Sees::Reset | Sees::Status(408)), "{seen:?}");
    bed.forwarded();
    bed.end();
}

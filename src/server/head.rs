//! Reads the head of an HTTP/1 request before the parser does, with the same rules and some
//! stricter ones, so that nothing is repaired without a word and every refusal is our own.
//!
//! Raw quotes and angle brackets in a query pass: some SCIM clients send a filter's quotes as they
//! are. The URI type of our HTTP library takes none of these, so they are encoded on the way in,
//! and the query as it was is kept, to be passed on byte for byte.

use std::mem::MaybeUninit;

use http::{StatusCode, Uri};

use super::framing::Framing;

/// Why a head is not served. The text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    Framing(&'static str),
    Target(&'static str),
    Authorization(&'static str),
    TooLarge(&'static str),
}

impl HeadFault {
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Framing(_) | Self::Target(_) | Self::Authorization(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub fn detail(self) -> &'static str {
        match self {
            Self::Framing(text)
            | Self::Target(text)
            | Self::Authorization(text)
            | Self::TooLarge(text) => text,
        }
    }

    /// The word of `http_rejects_total`.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::TooLarge(_) => "header_bytes",
            Self::Framing(_) | Self::Target(_) | Self::Authorization(_) => "malformed",
        }
    }
}

/// A head that can be shown to the parser.
#[derive(Debug)]
pub struct Head {
    /// How the end of the body behind it is known.
    pub framing: Framing,
    pub rewritten: Option<Rewritten>,
}

/// What stands in for a head with raw quotes in its query.
#[derive(Debug)]
pub struct Rewritten {
    pub head: Vec<u8>,
    /// The query as it was.
    pub query: Vec<u8>,
}

impl Head {
    /// Reads a whole head, without empty lines before it.
    pub fn read(head: &[u8]) -> Result<Self, HeadFault> {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut fields) {
            Ok(httparse::Status::Complete(size)) if size == head.len() => {}
            Ok(_) => return Err(HeadFault::Framing("the request's head is malformed")),
            Err(error) => return Err(fault(error, request.method.is_some(), head)),
        }
        let framing = framing(request.headers, request.version == Some(1))?;
        let method = request.method.unwrap_or_default();
        let target = request.path.unwrap_or_default();
        if target.len() > TARGET_BYTES_MAX {
            return Err(HeadFault::TooLarge("the request target is too long"));
        }
        let plain = target.starts_with('/') && target.bytes().all(|it| PLAIN[usize::from(it)]);
        let rewritten = if plain { None } else { rewrite(head, method, target)? };
        Ok(Self { framing, rewritten })
    }
}

/// What the parser allows (hyper's default).
const FIELDS_MAX: usize = 100;
/// What `http::Uri` allows.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// What `http::Uri` takes in a path and in a query alike.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        plain[byte] = !matches!(byte as u8, b'"' | b'#' | b'<' | b'>' | b'`' | b'{' | b'}');
        byte += 1;
    }
    plain
};

fn fault(error: httparse::Error, has_method: bool, head: &[u8]) -> HeadFault {
    match error {
        httparse::Error::TooManyHeaders => HeadFault::TooLarge("there are too many header fields"),
        httparse::Error::Token if has_method => HeadFault::Target(ODD_TARGET),
        httparse::Error::HeaderValue if has_odd_authorization(head) => {
            HeadFault::Authorization("the Authorization header has a control character")
        }
        httparse::Error::HeaderValue => {
            HeadFault::Framing("a header's value has a control character")
        }
        httparse::Error::HeaderName => HeadFault::Framing("a header's name is malformed"),
        httparse::Error::Version => HeadFault::Framing("the request line is malformed"),
        _ => HeadFault::Framing("the request's head is malformed"),
    }
}

const ODD_TARGET: &str = "the request target has characters that need to be percent-encoded";

fn has_odd_authorization(head: &[u8]) -> bool {
    let odd = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r');
    fields(head)
        .any(|(name, value)| name.eq_ignore_ascii_case(b"authorization") && value.iter().any(odd))
}

/// One length, or one transfer coding that is `chunked`, or none (RFC 9112 section 6.3).
fn framing(fields: &[httparse::Header<'_>], http_11: bool) -> Result<Framing, HeadFault> {
    let (mut length, mut coding) = (None, None);
    for field in fields {
        let seen = match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => length.replace(field.value),
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                coding.replace(field.value)
            }
            _ => None,
        };
        if seen.is_some() {
            return Err(HeadFault::Framing("the length of the body is told more than once"));
        }
    }
    match (length, coding) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => {
            Err(HeadFault::Framing("the length of the body is told more than once"))
        }
        (Some(digits), None) => {
            let number = std::str::from_utf8(digits).ok().filter(|text| {
                (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
            });
            let number = number.and_then(|text| text.parse().ok());
            number
                .map(Framing::Length)
                .ok_or(HeadFault::Framing("the length of the body is no number"))
        }
        (None, Some(coding)) if http_11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::chunked())
        }
        (None, Some(_)) if http_11 => {
            Err(HeadFault::Framing("the only transfer coding here is chunked"))
        }
        (None, Some(_)) => Err(HeadFault::Framing("HTTP/1.0 has no transfer codings")),
    }
}

/// Encodes what the parser does not take of a query, and refuses other odd targets.
fn rewrite(head: &[u8], method: &str, target: &str) -> Result<Option<Rewritten>, HeadFault> {
    if target.contains('#') {
        return Err(HeadFault::Target("the request target has a fragment"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut shown = target.as_bytes().to_vec();
    shown.truncate(target.len() - query.len());
    shown.extend(encode_query(query.as_bytes()));
    if path.is_empty() || Uri::try_from(&shown[..]).is_err() {
        return Err(HeadFault::Target(ODD_TARGET));
    }
    if shown == target.as_bytes() {
        return Ok(None);
    }
    let (front, rest) = head.split_at(method.len() + 1);
    let head = [front, &shown, &rest[target.len()..]].concat();
    Ok(Some(Rewritten { head, query: query.as_bytes().to_vec() }))
}

/// A request target that does not come by a request line. What the parser does not take of its
/// query is encoded.
pub fn read_target(target: &[u8]) -> Result<Uri, HeadFault> {
    let odd = HeadFault::Target(ODD_TARGET);
    let text = std::str::from_utf8(target).map_err(|_| odd)?;
    if text.contains(|letter: char| letter.is_ascii_control()) {
        return Err(odd);
    }
    if text.contains('#') {
        return Err(HeadFault::Target("the request target has a fragment"));
    }
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    Uri::try_from([path.as_bytes(), &encode_query(query.as_bytes())].concat()).map_err(|_| odd)
}

fn is_unusual(byte: &u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'#')
}

/// A query as the parser is shown it.
pub fn encode_query(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if is_unusual(byte) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(*byte);
        }
    }
    encoded
}

/// The front of a head, looked through for its end however it arrives.
#[derive(Debug, Default)]
pub struct HeadSearch {
    /// How many bytes have been looked at.
    seen: usize,
    line: usize,
    /// Whether a line has ended without a carriage return.
    pub bare: bool,
}

impl HeadSearch {
    /// The length of the head at the front of these bytes, once all of it is there. To be called
    /// with the same bytes and more. A head that ends as only lenient servers see it has ended too.
    pub fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(offset) = memchr::memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + offset;
            let line = &bytes[self.line..end];
            self.seen = end + 1;
            self.line = end + 1;
            self.bare |= line.last() != Some(&b'\r');
            if matches!(line, b"" | b"\r") {
                return Some(end + 1);
            }
        }
        self.seen = bytes.len();
        None
    }
}

/// Whether the front of a head can be told to be none before its end has come.
pub fn is_hopeless(front: &[u8]) -> bool {
    front.iter().take(64).any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
}

/// A request that stands in for one with a faulty head: it has what a log line needs and can be
/// told, and nothing that could be acted on.
pub fn stand_in(head: &[u8]) -> Vec<u8> {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let method =
        if (1..=32).contains(&method.len()) && method.iter().all(token) { method } else { b"-" };
    let path = words.next().and_then(|target| target.split(|it| b"?#".contains(it)).next());
    let plain = |path: &&[u8]| {
        path.first() == Some(&b'/')
            && path.len() <= 2048
            && path.iter().all(|byte| PLAIN[usize::from(*byte)])
    };
    let path = path.filter(plain).unwrap_or(b"*");
    let mut shown = [method, b" ", path, b" HTTP/1.1\r\nConnection: close\r\n"].concat();
    let told = fields(head).filter(|(name, value)| {
        let wanted = [&b"x-request-id"[..], b"user-agent", b"traceparent"];
        wanted.iter().any(|it| it.eq_ignore_ascii_case(name))
            && value.len() <= 512
            && value.iter().all(|byte| (b' '..=b'~').contains(byte))
    });
    for (name, value) in told.take(6) {
        shown.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
    }
    shown.extend_from_slice(b"\r\n");
    shown
}

/// The fields of a head that may be malformed, as far as they can be made out.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, fields: &str) -> Result<Head, HeadFault> {
        Head::read(format!("{line}\r\nHost: h\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn quotes_in_the_query_are_encoded_and_kept() {
        let raw = "GET /a\"b?filter=c%20eq%20\"d\"&<e> HTTP/1.1";
        let encoded = "GET /a\"b?filter=c%20eq%20%22d%22&%3Ce%3E HTTP/1.1";
        let rewritten = read(raw, "X: \"f\"\r\n").expect("sound").rewritten.expect("rewritten");
        let head = String::from_utf8(rewritten.head).expect("text");
        assert_eq!(head, format!("{encoded}\r\nHost: h\r\nX: \"f\"\r\n\r\n"));
        assert_eq!(rewritten.query, b"filter=c%20eq%20\"d\"&<e>");
    }

    #[test]
    fn other_requests_are_left_alone() {
        for target in ["/a?b", "/\"a\"", "/{a}", "/?a=\u{e4}", "/a?b?c[d]", "*", "http://h/a?b"] {
            let head = read(&format!("GET {target} HTTP/1.1"), "X: \"c\"?\r\n");
            assert!(head.is_ok_and(|head| head.rewritten.is_none()), "{target}");
        }
    }

    #[test]
    fn odd_targets_are_refused() {
        for target in ["/a#b", "/a?b=#c", "/a<b>", "?a", "http://", "a b", "/\u{7f}", "/\u{1}"] {
            let fault = read(&format!("GET {target} HTTP/1.1"), "").expect_err(target);
            let line = matches!(fault, HeadFault::Framing(_)) && target == "a b";
            assert!(matches!(fault, HeadFault::Target(_)) || line, "{target}: {fault:?}");
        }
        let long = format!("GET /{} HTTP/1.1", "a".repeat(TARGET_BYTES_MAX));
        assert!(matches!(read(&long, ""), Err(HeadFault::TooLarge(_))));
    }

    #[test]
    fn the_length_of_a_body_is_told_once_and_plainly() {
        for (fields, framing) in [
            ("", Some(Framing::Length(0))),
            ("content-length: 007", Some(Framing::Length(7))),
            ("X-Content-Length: 1\r\nContent-Length:\t2 ", Some(Framing::Length(2))),
            ("TRANSFER-Encoding: Chunked", Some(Framing::chunked())),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", None),
            ("Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 1", None),
            ("Content-Length: 1\r\nContent-Length: 1", None),
            ("Content-Length: 1, 1", None),
            ("Content-Length: +1", None),
            ("Content-Length: 0x1", None),
            ("Content-Length:", None),
            ("Content-Length: 99999999999999999999", None),
            ("Content-Length : 1", None),
            ("Transfer-Encoding: identity", None),
            ("Transfer-Encoding: gzip, chunked", None),
            ("Transfer-Encoding: chunked, chunked", None),
            ("Transfer-Encoding:\u{b}chunked", None),
            ("X: a\r\n b", None),
            ("X: a\0b", None),
            ("X: a\u{7f}b", None),
            (": x", None),
        ] {
            let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
            let head = read("POST /a HTTP/1.1", &fields).map(|head| head.framing);
            assert_eq!(head.ok(), framing, "{fields}");
        }
        let old = read("POST /a HTTP/1.0", "Transfer-Encoding: chunked\r\n");
        assert!(matches!(old, Err(HeadFault::Framing(_))));
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_arrives() {
        for (text, end, bare) in [
            ("GET / HTTP/1.1\r\n\r\nrest", Some(18), false),
            ("GET / HTTP/1.1\r\nA: b\r\n\r\n", Some(24), false),
            ("GET / HTTP/1.1\nA: b\r\n\r\n", Some(23), true),
            ("GET / HTTP/1.1\r\nA: b\n\nrest", Some(22), true),
            ("GET / HTTP/1.1\r\nA: b\r\n", None, false),
        ] {
            let mut search = HeadSearch::default();
            let ends = (1..=text.len()).map(|size| search.end(&text.as_bytes()[..size]));
            assert_eq!(ends.flatten().next(), end, "{text:?}");
            assert_eq!(search.bare, bare, "{text:?}");
        }
    }

    #[test]
    fn a_stand_in_tells_what_can_be_told() {
        for (head, shown) in [
            (
                "PUT /a?b HTTP/1.1\nX-Request-Id: r-1\r\nAuthorization: Bearer t\r\n\r\n",
                "PUT /a HTTP/1.1\r\nConnection: close\r\nX-Request-Id: r-1\r\n\r\n",
            ),
            ("\u{16}\u{3}\u{1}", "- * HTTP/1.1\r\nConnection: close\r\n\r\n"),
            ("G@T /\u{e4} x\r\nuser-agent: \u{1}\r\n", "- * HTTP/1.1\r\nConnection: close\r\n\r\n"),
        ] {
            let text = String::from_utf8(stand_in(head.as_bytes())).expect("text");
            assert_eq!(text, shown);
            assert!(Head::read(text.as_bytes()).is_ok());
        }
    }
}

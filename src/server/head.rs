//! Lets raw quotes and angle brackets in a query through. Some SCIM clients send a filter's quotes
//! as they are; the URI type of our HTTP library takes none of these. They are encoded on the way
//! in, and the query as it was is kept, so that it can be passed on byte for byte.
//!
//! What the library would repair without a word is told, so that it can be refused: a fragment,
//! and a length that stands beside a transfer coding.

use std::borrow::Cow;

/// What is seen of the head that is being received.
#[derive(Default)]
pub struct Head {
    /// Whether the end of the request line is still to come.
    open: bool,
    /// Whether the end of the head is still to come.
    in_fields: bool,
    /// The front of the field that is being received.
    field: Vec<u8>,
    lengths: u32,
    codings: u32,
    /// All of it so far, unless it came whole and without quotes.
    line: Vec<u8>,
    /// Encoded bytes for which there was no room.
    pending: Vec<u8>,
    query: Option<Vec<u8>>,
    fragment: bool,
}

/// What the parser was not shown of a request.
#[derive(Default)]
pub struct Unshown {
    /// The query as it was received, if it differs. To be compared with the one that was parsed.
    pub query: Option<Vec<u8>>,
    /// Whether there is a fragment, which no request may have (RFC 9112 section 3.2).
    pub fragment: bool,
    /// Whether the length of the body is told in more than one way (RFC 9112 section 6.3).
    pub two_lengths: bool,
}

impl Head {
    /// The next bytes begin a request.
    pub fn begin(&mut self) {
        *self = Self {
            open: true,
            in_fields: true,
            pending: std::mem::take(&mut self.pending),
            ..Self::default()
        };
    }

    pub fn take(&mut self) -> Unshown {
        Unshown {
            query: self.query.take(),
            fragment: std::mem::take(&mut self.fragment),
            two_lengths: std::mem::take(&mut self.lengths) + std::mem::take(&mut self.codings) > 1,
        }
    }

    /// Bytes that are due before any others are read.
    pub fn take_pending(&mut self, room: usize) -> Vec<u8> {
        self.pending.drain(..room.min(self.pending.len())).collect()
    }

    pub fn hold(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// What is to be parsed in place of the received bytes.
    pub fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.open {
            self.scan_fields(bytes);
            return Cow::Borrowed(bytes);
        }
        // Line ends before a request are passed over (RFC 9112 section 2.2).
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let blank = if self.line.is_empty() { blank } else { 0 };
        let (blanks, rest) = bytes.split_at(blank);
        if rest.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let end = memchr::memchr(b'\n', rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        self.scan_fields(&rest[end.map_or(rest.len(), |end| end + 1)..]);
        self.open = end.is_none() && self.line.len() < LINE_BYTES_MAX;
        let unusual = part.iter().any(is_unusual);
        if self.line.is_empty() && !self.open && !unusual {
            return Cow::Borrowed(bytes);
        }
        let known = self.line.len();
        self.line.extend_from_slice(part);
        if !is_request_line(&self.line) {
            self.open = false;
            self.line = Vec::new();
            return Cow::Borrowed(bytes);
        }
        let question = memchr::memchr(b'?', &self.line);
        if !self.open {
            self.fragment = self.line.contains(&b'#');
            self.query = question.and_then(|place| query(&self.line[place + 1..]));
            self.line = Vec::new();
        }
        if !unusual {
            return Cow::Borrowed(bytes);
        }
        let start = question.map_or(part.len(), |place| (place + 1).saturating_sub(known));
        let (before, within) = part.split_at(start.min(part.len()));
        let (before, within) = (encode(before, |byte| *byte == b'#'), encode_query(within));
        Cow::Owned([blanks, &before, &within, &rest[part.len()..]].concat())
    }
}

impl Head {
    /// Counts the fields that tell a length.
    fn scan_fields(&mut self, mut bytes: &[u8]) {
        while self.in_fields && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = NAME_BYTES_MAX - self.field.len();
            self.field.extend_from_slice(&part[..part.len().min(room)]);
            let Some(end) = end else { return };
            let starts = |name: &[u8]| {
                self.field.get(..name.len()).is_some_and(|field| field.eq_ignore_ascii_case(name))
            };
            self.lengths += u32::from(starts(b"content-length:"));
            self.codings += u32::from(starts(b"transfer-encoding:"));
            self.in_fields = !matches!(self.field.as_slice(), b"" | b"\r");
            self.field.clear();
            bytes = &bytes[end + 1..];
        }
    }
}

const NAME_BYTES_MAX: usize = b"transfer-encoding:".len();

/// The largest head that can be configured.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Whether this can be the front of a request line. What is not must pass as it is: it may belong
/// to a request that came close behind another one.
fn is_request_line(bytes: &[u8]) -> bool {
    let token = |byte: &&u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(token).count();
    match bytes[method..] {
        [] => true,
        [b' ', ref target @ ..] => method > 0 && matches!(target, [] | [b'/' | b'h', ..]),
        _ => false,
    }
}

/// The query at the front of the rest of a request line, if it is to be encoded.
fn query(rest: &[u8]) -> Option<Vec<u8>> {
    let query = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    query.iter().any(is_unusual).then(|| query.to_vec())
}

fn is_unusual(byte: &u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'#')
}

/// A query as the parser is shown it.
pub fn encode_query(bytes: &[u8]) -> Vec<u8> {
    encode(bytes, is_unusual)
}

fn encode(bytes: &[u8], is_encoded: impl Fn(&u8) -> bool) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if is_encoded(byte) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(*byte);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is parsed and kept of a request that arrives in pieces of `step` bytes.
    fn passed(request: &str, step: usize) -> (String, Option<String>, bool) {
        let mut line = Head::default();
        line.begin();
        let parsed: Vec<u8> = request
            .as_bytes()
            .chunks(step)
            .flat_map(|piece| line.pass(piece).into_owned())
            .collect();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let Unshown { query, fragment, .. } = line.take();
        (text(parsed), query.map(text), fragment)
    }

    #[test]
    fn quotes_in_the_query_are_encoded_and_kept_however_they_arrive() {
        let raw = "GET /a\"b?filter=c%20eq%20\"d\"&<e> HTTP/1.1\r\nX: \"f\"\r\n\r\n";
        let encoded = "GET /a\"b?filter=c%20eq%20%22d%22&%3Ce%3E HTTP/1.1\r\nX: \"f\"\r\n\r\n";
        for step in 1..raw.len() {
            let (parsed, query, fragment) = passed(raw, step);
            assert_eq!(parsed, encoded, "in pieces of {step}");
            assert_eq!(query.as_deref(), Some("filter=c%20eq%20\"d\"&<e>"));
            assert!(!fragment);
        }
    }

    #[test]
    fn other_requests_are_left_alone() {
        for raw in [
            "GET /a?b HTTP/1.1\r\nX: \"c\"?\r\n\r\n",
            "GET /\"a\" HTTP/1.1\r\n\r\n",
            "X: ?\"the rest of a head\"\r\n\r\n",
        ] {
            for step in 1..raw.len() {
                assert_eq!(passed(raw, step), (raw.to_owned(), None, false));
            }
        }
    }

    #[test]
    fn two_lengths_are_told_however_they_arrive() {
        for (fields, two) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", true),
            ("TRANSFER-ENCODING: chunked\r\nX: y\r\ncontent-length: 1", true),
            ("Content-Length: 1\r\nContent-Length: 1", true),
            ("Content-Length: 1\r\nX-Content-Length: 1", false),
            ("Content-Length: 1\r\n\r\nContent-Length: 1", false),
            ("Transfer-Encoding: chunked", false),
        ] {
            let request = format!("\r\npost /a HTTP/1.1\r\n{fields}\r\n\r\n");
            for step in 1..request.len() {
                let mut head = Head::default();
                head.begin();
                request.as_bytes().chunks(step).for_each(|piece| drop(head.pass(piece)));
                assert_eq!(head.take().two_lengths, two, "{fields} in pieces of {step}");
            }
        }
    }

    #[test]
    fn a_fragment_is_told() {
        for (raw, encoded) in [
            ("GET /a#b HTTP/1.1\r\n\r\n", "GET /a%23b HTTP/1.1\r\n\r\n"),
            ("GET /a?b=#c HTTP/1.1\r\n\r\n", "GET /a?b=%23c HTTP/1.1\r\n\r\n"),
            ("\r\n\r\nGeT /a?#c HTTP/1.1\r\n\r\n", "\r\n\r\nGeT /a?%23c HTTP/1.1\r\n\r\n"),
        ] {
            for step in 1..raw.len() {
                let (parsed, _, fragment) = passed(raw, step);
                assert_eq!((parsed.as_str(), fragment), (encoded, true), "in pieces of {step}");
            }
        }
    }
}

//! Lets raw double quotes in a query through. Some SCIM clients send a filter's quotes as they
//! are; the URI type of our HTTP library takes none. They are encoded on the way in, and the query
//! as it was is kept, so that it can be passed on byte for byte.

use std::borrow::Cow;

/// What is seen of the request line that is being received.
#[derive(Default)]
pub struct RequestLine {
    /// Whether its end is still to come.
    open: bool,
    /// All of it so far, unless it came whole and without quotes.
    line: Vec<u8>,
    /// Encoded bytes for which there was no room.
    pending: Vec<u8>,
    query: Option<Vec<u8>>,
}

impl RequestLine {
    /// The next bytes begin a request.
    pub fn begin(&mut self) {
        self.open = true;
        self.line.clear();
        self.query = None;
    }

    /// The query as it was received, if it had quotes. The caller must compare it with the one
    /// that was parsed.
    pub fn take_query(&mut self) -> Option<Vec<u8>> {
        self.query.take()
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
            return Cow::Borrowed(bytes);
        }
        let end = memchr::memchr(b'\n', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        self.open = end.is_none() && self.line.len() < LINE_BYTES_MAX;
        let quoted = memchr::memchr(b'"', part).is_some();
        if self.line.is_empty() && !self.open && !quoted {
            return Cow::Borrowed(bytes);
        }
        let known = self.line.len();
        self.line.extend_from_slice(part);
        let question = memchr::memchr(b'?', &self.line);
        if !self.open {
            self.query = question.and_then(|place| query(&self.line[place + 1..]));
        }
        match question {
            Some(place) if quoted => {
                let start = (place + 1).saturating_sub(known).min(part.len());
                let encoded = encode_quotes(&part[start..]);
                let (before, after) = (&part[..start], &bytes[part.len()..]);
                Cow::Owned([before, encoded.as_slice(), after].concat())
            }
            _ => Cow::Borrowed(bytes),
        }
    }
}

/// Far above what a head may have.
const LINE_BYTES_MAX: usize = 2 << 20;

/// The query at the front of the rest of a request line, if it has quotes.
fn query(rest: &[u8]) -> Option<Vec<u8>> {
    let query = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    query.contains(&b'"').then(|| query.to_vec())
}

pub fn encode_quotes(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        match byte {
            b'"' => encoded.extend_from_slice(b"%22"),
            other => encoded.push(*other),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is parsed and kept of a request that arrives in pieces of `step` bytes.
    fn passed(request: &str, step: usize) -> (String, Option<String>) {
        let mut line = RequestLine::default();
        line.begin();
        let parsed: Vec<u8> = request
            .as_bytes()
            .chunks(step)
            .flat_map(|piece| line.pass(piece).into_owned())
            .collect();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (text(parsed), line.take_query().map(text))
    }

    #[test]
    fn quotes_in_the_query_are_encoded_and_kept_however_they_arrive() {
        let raw = "GET /a\"b?filter=c%20eq%20\"d\"&e HTTP/1.1\r\nX: \"f\"\r\n\r\n";
        let encoded = "GET /a\"b?filter=c%20eq%20%22d%22&e HTTP/1.1\r\nX: \"f\"\r\n\r\n";
        for step in 1..raw.len() {
            let (parsed, query) = passed(raw, step);
            assert_eq!(parsed, encoded, "in pieces of {step}");
            assert_eq!(query.as_deref(), Some("filter=c%20eq%20\"d\"&e"));
        }
    }

    #[test]
    fn other_requests_are_left_alone() {
        for raw in ["GET /a?b HTTP/1.1\r\nX: \"c\"?\r\n\r\n", "GET /\"a\" HTTP/1.1\r\n\r\n"] {
            for step in 1..raw.len() {
                assert_eq!(passed(raw, step), (raw.to_owned(), None));
            }
        }
    }
}

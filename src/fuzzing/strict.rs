//! HTTP/1.1 messages, read as RFC 9112 writes them and no other way. It shares nothing with the
//! parsers of the product, whose readings are compared with this one. Where RFC 9112 leaves a
//! choice, a message that two servers could read differently is malformed.

use std::fmt;

/// A message whose head is whole.
pub struct Message<'a> {
    /// The three parts of its first line.
    pub line: [&'a [u8]; 3],
    pub fields: Vec<Field<'a>>,
    /// What has come of it, and whether that is all. What breaks its framing never is all.
    pub body: Vec<u8>,
    pub whole: bool,
    /// With all that frames it.
    pub size: usize,
}

/// A header field.
pub struct Field<'a> {
    /// In lower case.
    pub name: String,
    pub value: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Incomplete,
    Malformed(&'static str),
}

impl<'a> Message<'a> {
    /// The request at the front. `Err` if its head is not whole, or tells no one end of the body.
    pub fn request(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (line, at) = line(bytes, 0)?;
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let Ok([method, target, version]) = <[&[u8]; 3]>::try_from(words) else {
            return Err(Fault::Malformed("a request line has three words"));
        };
        if !is_token(method) || target.is_empty() {
            return Err(Fault::Malformed("the request line"));
        }
        if target.iter().any(|byte| *byte <= b' ' || matches!(byte, 0x7f | b'#')) {
            return Err(Fault::Malformed("the target"));
        }
        let (fields, at) = fields(bytes, at)?;
        let framing = match (version, length(&fields)?, coding(&fields)?) {
            (b"HTTP/1.0" | b"HTTP/1.1", length, false) => Framing::Length(length.unwrap_or(0)),
            (b"HTTP/1.1", None, true) => Framing::Chunked,
            _ => return Err(Fault::Malformed("the version, or two lengths")),
        };
        Ok(Self::with_body(bytes, [method, target, version], fields, at, framing))
    }

    /// The answer to a request of this method at the front. `bytes` are all that comes: the
    /// connection is closed behind them.
    pub fn answer(bytes: &'a [u8], method: &[u8]) -> Result<Self, Fault> {
        let (line, at) = line(bytes, 0)?;
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let mut next = || words.next().unwrap_or_default();
        let (version, status, reason) = (next(), next(), next());
        let three = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
        if !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") || !three || status[0] == b'0' {
            return Err(Fault::Malformed("the status line"));
        }
        if !reason.iter().all(is_text) {
            return Err(Fault::Malformed("the reason phrase"));
        }
        let (fields, at) = fields(bytes, at)?;
        // Nothing follows on an interim answer, whatever it says (RFC 9110 section 15.2).
        let lengths = match status[0] {
            b'1' => (false, Some(0)),
            _ => (coding(&fields)?, length(&fields)?),
        };
        let empty = method == b"HEAD" || matches!(status, b"204" | b"304");
        let framing = match lengths {
            (true, Some(_)) => return Err(Fault::Malformed("two lengths")),
            (true, None) if version == b"HTTP/1.0" => return Err(Fault::Malformed("1.0, chunked")),
            _ if empty => Framing::Length(0),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        Ok(Self::with_body(bytes, [version, status, reason], fields, at, framing))
    }

    fn with_body(
        bytes: &'a [u8],
        line: [&'a [u8]; 3],
        fields: Vec<Field<'a>>,
        at: usize,
        framing: Framing,
    ) -> Self {
        let rest = &bytes[at..];
        let mut message = Self { line, fields, body: Vec::new(), whole: true, size: at };
        match framing {
            Framing::UntilClose => message.take(rest, rest.len()),
            Framing::Length(length) => {
                let size = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                message.take(rest, size);
                message.whole = size as u64 == length;
            }
            Framing::Chunked => match message.chunks(bytes, at) {
                Ok(end) => message.size = end,
                Err(_) => message.whole = false,
            },
        }
        message
    }

    fn take(&mut self, bytes: &[u8], size: usize) {
        self.body.extend_from_slice(&bytes[..size]);
        self.size += size;
    }

    /// Where the chunks end (section 7.1).
    fn chunks(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
        loop {
            let (line, data) = line(bytes, at)?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let (digits, extension) = line.split_at(digits);
            let size = digits.iter().try_fold(0_usize, |size, digit| {
                size.checked_mul(16)?.checked_add(char::from(*digit).to_digit(16)? as usize)
            });
            let size = size.filter(|_| !digits.is_empty()).ok_or(Fault::Malformed("a size"))?;
            let blank = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            // Old servers pad their sizes with blanks, which nobody reads otherwise.
            let extended = matches!(extension[blank..], [] | [b';', ..]);
            if !extended || !extension.iter().all(is_text) {
                return Err(Fault::Malformed("a chunk's extension"));
            }
            if size == 0 {
                return Ok(fields(bytes, data)?.1);
            }
            let end = data.checked_add(size).ok_or(Fault::Incomplete)?;
            self.body.extend_from_slice(&bytes[data..end.min(bytes.len())]);
            match bytes.get(end..end + 2) {
                Some(b"\r\n") => at = end + 2,
                Some(_) => return Err(Fault::Malformed("the end of a chunk")),
                None => return Err(Fault::Incomplete),
            }
        }
    }

    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|field| field.name == name).map(|field| field.value).collect()
    }

    /// What its `Connection` fields name, in lower case.
    pub fn options(&self) -> Vec<String> {
        let values = self.values("connection");
        let options = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
        options.map(|it| String::from_utf8_lossy(it.trim_ascii()).to_ascii_lowercase()).collect()
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third] = self.line.map(<[u8]>::escape_ascii);
        write!(f, "{first} {second} {third}")?;
        for Field { name, value } in &self.fields {
            write!(f, " | {name}: {}", value.escape_ascii())?;
        }
        let end = if self.whole { "whole" } else { "without end" };
        write!(f, " | \"{}\", {end}", self.body.escape_ascii())
    }
}

enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The line that begins here, and where the next one does.
fn line(bytes: &[u8], at: usize) -> Result<(&[u8], usize), Fault> {
    let rest = bytes.get(at..).ok_or(Fault::Incomplete)?;
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let end = end.ok_or(Fault::Incomplete)?;
    match rest.get(end..end + 2) {
        Some(b"\r\n") => Ok((&rest[..end], at + end + 2)),
        None if rest[end] == b'\r' => Err(Fault::Incomplete),
        _ => Err(Fault::Malformed("the end of a line")),
    }
}

/// The fields that begin here, and where what is behind them does (section 5).
fn fields(bytes: &[u8], mut at: usize) -> Result<(Vec<Field<'_>>, usize), Fault> {
    let mut fields = Vec::new();
    loop {
        let (line, next) = line(bytes, at)?;
        at = next;
        if line.is_empty() {
            return Ok((fields, at));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Fault::Malformed("a field without colon"))?);
        if !is_token(name) || !value.iter().all(is_text) {
            return Err(Fault::Malformed("a field"));
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let value = &value[1..];
        let front = value.iter().take_while(|byte| blank(byte)).count();
        let back = value[front..].iter().rev().take_while(|byte| blank(byte)).count();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push(Field { name, value: &value[front..value.len() - back] });
    }
}

fn length(fields: &[Field<'_>]) -> Result<Option<u64>, Fault> {
    let mut lengths = fields.iter().filter(|field| field.name == "content-length");
    let (first, more) = (lengths.next(), lengths.next());
    let Some(field) = first else { return Ok(None) };
    let digits = field.value.iter().all(u8::is_ascii_digit) && more.is_none();
    let text = std::str::from_utf8(field.value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).map(Some).ok_or(Fault::Malformed("the length"))
}

/// Whether the body is chunked. Other codings are not known here.
fn coding(fields: &[Field<'_>]) -> Result<bool, Fault> {
    let mut codings = fields.iter().filter(|field| field.name == "transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(field), None) if field.value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Fault::Malformed("the transfer coding")),
    }
}

fn is_token(word: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(token)
}

/// What a field's value may have: visible characters, blanks and what is no ASCII.
fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_to_their_end() {
        for (text, body, whole, rest) in [
            ("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET", "", true, 3),
            ("PUT /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nabc", "ab", true, 1),
            ("PUT /a HTTP/1.1\r\ncontent-length:\t4 \r\n\r\nabc", "abc", false, 0),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2 ;x=\"y\"\r\nab\r\n00\r\nX: y\r\n\r\nmore",
                "ab",
                true,
                4,
            ),
        ] {
            let message = Message::request(text.as_bytes()).expect(text);
            assert_eq!((message.body.as_slice(), message.whole), (body.as_bytes(), whole));
            assert!(!whole || text.len() - message.size == rest, "{text:?}");
        }
        let answer = Message::answer(b"HTTP/1.1 200 \r\nA: b\r\n\r\nab", b"GET").expect("whole");
        assert_eq!((answer.body.as_slice(), answer.whole), (&b"ab"[..], true));
    }

    #[test]
    fn what_is_not_written_in_the_standard_is_malformed() {
        for text in [
            "GET /a HTTP/1.1\nHost: h\r\n\r\n",
            "GET  /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.2\r\n\r\n",
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nA : b\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "GET /a HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            "GET /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
            "GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ] {
            let read = Message::request(text.as_bytes());
            assert!(matches!(read, Err(Fault::Malformed(_))), "{text:?}: {read:?}");
        }
        for chunks in ["2\r\nabc\r\n0\r\n\r\n", "\r\n", "2 2\r\nab\r\n0\r\n\r\n", "0\n\r\n"] {
            let text = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(!Message::request(text.as_bytes()).expect("a head").whole, "{chunks:?}");
        }
    }
}

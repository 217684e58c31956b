//! HTTP/1.1 messages, as those read them who stand for a backend or lie in between.

use std::io::{self, BufRead, Read, Write};

/// A request, or an answer whose body came whole.
pub struct Message {
    /// Up to and with the blank line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    /// The next request; none at the end of the connection.
    pub fn read_request(reader: &mut impl BufRead) -> Option<Self> {
        let head = read_head(reader)?;
        let length = header(&head, "content-length").map_or(Some(0), |it| it.parse().ok())?;
        Some(Self { body: read_sized(reader, length)?, head })
    }

    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&[self.head.as_bytes(), &self.body].concat())
    }

    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn asks_for_a_stream(&self) -> bool {
        header(&self.head, "accept") == Some("text/event-stream")
    }
}

/// A head with the blank line behind it.
pub fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return None;
        }
    }
    Some(head)
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut named = fields.filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.trim())
}

/// The head with another value in a field.
pub fn with_header(head: &str, name: &str, value: &str) -> String {
    let field = |line: &str| match line.split_once(':') {
        Some((other, _)) if other.eq_ignore_ascii_case(name) => format!("{other}: {value}"),
        _ => line.to_owned(),
    };
    head.split("\r\n").map(field).collect::<Vec<_>>().join("\r\n")
}

pub fn read_sized(reader: &mut impl Read, length: usize) -> Option<Vec<u8>> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// The next chunk's data, which is empty for the last one.
pub fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let size = usize::from_str_radix(line.trim(), 16).ok()?;
    let mut data = read_sized(reader, size + 2)?;
    data.truncate(size);
    Some(data)
}

pub fn write_chunk(writer: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let head = format!("{:x}\r\n", data.len());
    writer.write_all(&[head.as_bytes(), data, b"\r\n"].concat())
}

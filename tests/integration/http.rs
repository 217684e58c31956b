//! A client of raw bytes: what is sent is what the test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::guard::PATIENCE;

pub struct Client<S = TcpStream> {
    pub stream: S,
    received: Vec<u8>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end that its head promised.
    pub whole: bool,
}

impl Reply {
    /// The one value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there more than once");
        value.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A connection that waits for no byte longer than a test should.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub fn get(&mut self, rest: &str, token: &str) -> Reply {
        self.send(&format!(
            "GET /scim/v2{rest} HTTP/1.1\r\nHost: scim.test\r\nAuthorization: Bearer {token}\r\n\r\n"
        ))
    }

    pub fn send(&mut self, request: &str) -> Reply {
        self.write(request.as_bytes());
        let head = request.starts_with("HEAD ");
        self.reply(head).expect("an answer")
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("written");
    }

    /// More bytes; false at the end of the connection.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(bytes) => {
                self.received.extend_from_slice(&buffer[..bytes]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no bytes: {error}"),
        }
    }

    /// Reads until the server closes; what came.
    pub fn rest(mut self) -> Vec<u8> {
        while self.more() {}
        self.received
    }

    /// The next answer; `None` if the server closed without one.
    pub fn reply(&mut self, to_head: bool) -> Option<Reply> {
        let end = loop {
            match self.received.windows(4).position(|it| it == b"\r\n\r\n") {
                Some(end) => break end,
                None if self.more() => {}
                None => return None,
            }
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.get(9..12)).expect("a status line");
        let headers = lines.map(|line| line.split_once(": ").unwrap_or((line, "")));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let status = status.parse().expect("a number");
        let mut reply = Reply { status, headers, body: Vec::new(), whole: true };
        if status == 100 {
            return Some(reply);
        }
        let length =
            reply.header("content-length").map(|it| it.parse::<usize>().expect("a number"));
        if !to_head && status != 204 && status != 304 {
            reply.whole = match length {
                Some(length) => self.sized(length, &mut reply.body),
                None if reply.header("transfer-encoding").is_some() => {
                    self.chunked(&mut reply.body)
                }
                None => {
                    while self.more() {}
                    reply.body.append(&mut self.received);
                    true
                }
            };
        }
        Some(reply)
    }

    fn sized(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.received.len() < length {
            if !self.more() {
                body.append(&mut self.received);
                return false;
            }
        }
        body.extend(self.received.drain(..length));
        true
    }

    fn chunked(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.line() else { return false };
            let size = usize::from_str_radix(&line, 16).expect("a chunk's size");
            if !self.sized(size, body) || self.line().is_none() {
                return false;
            }
            if size == 0 {
                return true;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|it| it == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 2);
                return Some(line);
            }
            if !self.more() {
                return None;
            }
        }
    }
}

//! A small HTTP/1.1 client, so that a test decides itself what is sent and over which connection.
//! It never repeats a request: what the wire does to it is what the test sees.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

pub struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    keep_alive: bool,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends over the connection of the request before, where the server left it open.
    pub fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.address)?,
        };
        connection.get_mut().write_all(request.encode(self.address).as_bytes())?;
        let answer = Answer::read(&mut connection, request.method)?;
        self.connection = answer.keep_alive.then_some(connection);
        Ok(answer)
    }
}

impl Request {
    pub fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: None }
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn scim(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// It is SCIM, unless the type is given already.
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        match self.headers.iter().any(|(name, _)| *name == "Content-Type") {
            true => self,
            false => self.header("Content-Type", "application/scim+json"),
        }
    }

    fn encode(&self, address: SocketAddr) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| *name == "Host") {
            write!(text, "Host: {address}\r\n").expect("a string takes all");
        }
        for (name, value) in &self.headers {
            write!(text, "{name}: {value}\r\n").expect("a string takes all");
        }
        if let Some(body) = &self.body {
            write!(text, "Content-Length: {}\r\n", body.len()).expect("a string takes all");
        }
        text + "\r\n" + self.body.as_deref().unwrap_or_default()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The body as JSON, or `null`.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn read(connection: &mut BufReader<TcpStream>, method: &str) -> io::Result<Self> {
        let mut answer = Self::read_head(connection)?;
        let length = answer.header("Content-Length").map(str::parse::<usize>).transpose();
        let length = length.map_err(io::Error::other)?;
        let chunked = answer.header("Transfer-Encoding").is_some();
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
        } else if chunked {
            answer.body = read_chunks(connection)?;
        } else if let Some(length) = length {
            answer.body = read_exactly(connection, length)?;
        } else {
            connection.read_to_end(&mut answer.body)?;
            answer.keep_alive = false;
        }
        Ok(answer)
    }

    fn read_head(connection: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head)? == 0 {
                let text = format!("the connection ended after {head:?}");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(head.as_bytes()).map_err(io::Error::other)?;
        let owned = |header: &httparse::Header<'_>| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_owned(), value)
        };
        let mut answer = Self {
            status: parsed.code.expect("a whole head has a status"),
            headers: parsed.headers.iter().map(owned).collect(),
            body: Vec::new(),
            keep_alive: parsed.version == Some(1),
        };
        answer.keep_alive &= answer.header("Connection") != Some("close");
        Ok(answer)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(formatter, "{} {:?} {body}", self.status, self.headers)
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let connection = TcpStream::connect_timeout(&address, TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_nodelay(true)?;
    Ok(BufReader::new(connection))
}

fn read_chunks(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        connection.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        let chunk = read_exactly(connection, size + 2)?; // With the line end behind it.
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_exactly(connection: &mut BufReader<TcpStream>, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Beyond what any test takes; a server that hangs fails the test instead of stopping it.
const TIMEOUT: Duration = Duration::from_secs(45);

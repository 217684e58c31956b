//! A client of `envoy.service.auth.v3.Authorization`. It writes and reads the messages by itself,
//! by the numbers of Envoy's definitions.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;

use super::Asked;
use crate::guard::PATIENCE;
use crate::http::Reply;

pub struct Check {
    pub method: String,
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
}

/// What the server said to a call.
pub struct Answered {
    pub http: u16,
    pub message: Vec<u8>,
    pub status: String,
}

impl Check {
    /// As Envoy tells it: names in lower case, and what comes twice joined by a comma.
    pub fn of(asked: &Asked<'_>) -> Self {
        let host = asked.host.unwrap_or_default();
        let mut headers = vec![
            (":method".to_owned(), asked.method.to_owned()),
            (":path".to_owned(), asked.target.to_owned()),
            (":scheme".to_owned(), "https".to_owned()),
        ];
        if !host.is_empty() {
            headers.push((":authority".to_owned(), host.to_owned()));
        }
        for line in asked.headers.lines() {
            let (name, value) = line.split_once(':').expect("a header");
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            match headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known += &format!(",{value}"),
                None => headers.push((name, value.to_owned())),
            }
        }
        let (method, path) = (asked.method.to_owned(), asked.target.to_owned());
        Self { method, path, host: host.to_owned(), headers }
    }

    pub fn message(&self) -> Vec<u8> {
        let mut http = field(2, self.method.as_bytes());
        for (name, value) in &self.headers {
            let entry = [field(1, name.as_bytes()), field(2, value.as_bytes())].concat();
            http.extend(field(3, &entry));
        }
        http.extend(field(4, self.path.as_bytes()));
        http.extend(field(5, self.host.as_bytes()));
        in_attributes(&http)
    }

    /// The answer as Envoy would word it to its client, or act on it.
    pub fn ask(&self, address: SocketAddr) -> Reply {
        self.answer(address).0
    }

    /// The same, and the headers that Envoy is to remove from what it forwards.
    pub fn answer(&self, address: SocketAddr) -> (Reply, Vec<String>) {
        let answered = call(address, CHECK, &framed(&self.message()));
        if answered.http != 200 {
            let (headers, body) = (Vec::new(), Vec::new());
            return (Reply { status: answered.http, headers, body, whole: true }, Vec::new());
        }
        assert_eq!(answered.status, "0", "the call itself succeeds");
        read(&answered.message)
    }
}

pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The request within the attributes, with the context's own fields around it.
pub fn in_attributes(http: &[u8]) -> Vec<u8> {
    let source = field(1, &field(1, b"an address"));
    let request = field(4, &field(2, http));
    field(1, &[source, request].concat())
}

/// A field of bytes.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    [out, bytes.to_vec()].concat()
}

/// A message as gRPC sends it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, message].concat()
}

/// The status of a request without a message.
pub fn http2_status(address: SocketAddr, path: &str, kind: &str) -> u16 {
    send(address, path, kind, b"").http
}

pub fn call(address: SocketAddr, path: &str, body: &[u8]) -> Answered {
    send(address, path, "application/grpc", body)
}

fn send(address: SocketAddr, path: &str, kind: &str, body: &[u8]) -> Answered {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answered = async {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://guard{path}"))
            .header("content-type", kind)
            .header("te", "trailers");
        let request = request.body(()).expect("valid");
        let mut requests = requests.ready().await.expect("ready");
        let (answer, mut upload) = requests.send_request(request, false).expect("sent");
        upload.send_data(Bytes::copy_from_slice(body), true).expect("sent");
        let (parts, mut rest) = answer.await.expect("an answer").into_parts();
        let mut message = Vec::new();
        while let Some(piece) = rest.data().await {
            let piece = piece.expect("a piece");
            rest.flow_control().release_capacity(piece.len()).expect("released");
            message.extend_from_slice(&piece);
        }
        let trailers = rest.trailers().await.expect("trailers");
        let status = |headers: &HeaderMap| {
            headers.get("grpc-status").map(|it| it.to_str().expect("text").to_owned())
        };
        let status = trailers.as_ref().and_then(status).or_else(|| status(&parts.headers));
        driver.abort();
        let message = message.get(5..).unwrap_or_default().to_vec();
        let http = parts.status.as_u16();
        Answered { http, message, status: status.unwrap_or_default() }
    };
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, answered).await.expect("in time") })
}

/// The fields of a message: those of bytes as they are, numbers as text.
fn fields(mut message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let number = |message: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = message[0];
            *message = &message[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = number(&mut message);
        let value = number(&mut message);
        let value = match key & 7 {
            0 => value.to_string().into_bytes(),
            2 => {
                let (bytes, rest) = message.split_at(value as usize);
                message = rest;
                bytes.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        found.push(((key >> 3) as u8, value));
    }
    found
}

fn text(fields: &[(u8, Vec<u8>)], number: u8) -> String {
    let found = fields.iter().find(|(it, _)| *it == number);
    found.map_or(String::new(), |(_, bytes)| String::from_utf8(bytes.clone()).expect("text"))
}

/// A number, which is not written if it is 0.
pub fn number(message: &[u8], field: u8) -> u16 {
    let text = text(&fields(message), field);
    if text.is_empty() { 0 } else { text.parse().expect("a number") }
}

fn read(message: &[u8]) -> (Reply, Vec<String>) {
    let answer = fields(message);
    let part = |number: u8| answer.iter().find(|(it, _)| *it == number).map(|(_, it)| fields(it));
    let allowed = part(1).is_none_or(|status| text(&status, 1).is_empty());
    let (denied, ok) = (part(2), part(3));
    assert_eq!((denied.is_some(), ok.is_some()), (!allowed, allowed), "one of two");
    let told = denied.or(ok).expect("one of them");
    let header = |(_, option): &(u8, Vec<u8>)| {
        let option = fields(option);
        assert_eq!(text(&option, 3), "2", "OVERWRITE_IF_EXISTS_OR_ADD");
        let header = fields(&option[0].1);
        (text(&header, 1), text(&header, 2))
    };
    let headers = told.iter().filter(|(number, _)| *number == 2).map(header).collect();
    let removed = told.iter().filter(|(number, _)| allowed && *number == 5);
    let removed = removed.map(|(_, it)| String::from_utf8(it.clone()).expect("text")).collect();
    let status = if allowed { 200 } else { number(&told[0].1, 1) };
    let body = if allowed { Vec::new() } else { text(&told, 3).into_bytes() };
    (Reply { status, headers, body, whole: true }, removed)
}

//! A backend that keeps all bytes of each connection, and reads them as strict and as lenient
//! servers do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::guard::PATIENCE;

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

type Answers = dyn Fn(&Message) -> Option<(Vec<u8>, bool)> + Send + Sync;

#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    messages: Arc<Mutex<Vec<Message>>>,
    /// By connection.
    raw: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Answers each request with its own first line.
    pub fn start() -> Self {
        Self::answering(|_| None)
    }

    /// `answers` may say something else, and whether the connection ends with it.
    pub fn answering(
        answers: impl Fn(&Message) -> Option<(Vec<u8>, bool)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let recorder = Self { address, messages: Arc::default(), raw: Arc::default() };
        let (shared, answers) = (recorder.clone(), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, answers) = (shared.clone(), Arc::clone(&answers));
                let Ok(stream) = stream else { return };
                std::thread::spawn(move || shared.serve(stream, &*answers));
            }
        });
        recorder
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().expect("not poisoned").clone()
    }

    /// A strict server and a lenient one have read the same on every connection.
    pub fn check(&self) {
        for raw in &*self.raw.lock().expect("not poisoned") {
            let text = String::from_utf8_lossy(raw);
            let strict = read_all(raw, strict);
            assert_eq!(strict, read_all(raw, lenient), "{text}");
        }
    }

    fn serve(&self, mut stream: TcpStream, answers: &Answers) {
        let _ = stream.set_read_timeout(Some(3 * PATIENCE));
        let place = {
            let mut raw = self.raw.lock().expect("not poisoned");
            raw.push(Vec::new());
            raw.len() - 1
        };
        let mut received = Vec::new();
        let mut buffer = [0; 65_536];
        loop {
            while let Some((message, size)) = strict(&received).expect("what a strict server reads")
            {
                received.drain(..size);
                self.messages.lock().expect("not poisoned").push(message.clone());
                let line = message.line();
                let own = || {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", line.len());
                    ((head + line).into_bytes(), false)
                };
                let (answer, ends) = answers(&message).unwrap_or_else(own);
                if stream.write_all(&answer).is_err() || ends {
                    return;
                }
            }
            match stream.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => {
                    received.extend_from_slice(&buffer[..bytes]);
                    self.raw.lock().expect("not poisoned")[place]
                        .extend_from_slice(&buffer[..bytes]);
                }
                _ => return,
            }
        }
    }
}

/// The whole message at the front, and its size; none if more must come.
type Read1 = Result<Option<(Message, usize)>, String>;

/// First lines and bodies.
fn read_all(mut raw: &[u8], read: fn(&[u8]) -> Read1) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut all = Vec::new();
    while let Some((message, size)) = read(raw)? {
        all.push((message.line().to_owned(), message.body));
        raw = &raw[size..];
    }
    Ok(all)
}

/// Takes nothing that RFC 9112 does not have, and no header twice that frames or identifies.
fn strict(bytes: &[u8]) -> Read1 {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "no text")?.to_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let words: Vec<_> = line.split(' ').collect();
    if words.len() != 3 || words[2] != "HTTP/1.1" || !words[1].starts_with('/') {
        return Err(format!("the line {line:?}"));
    }
    let mut seen = std::collections::HashSet::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or(format!("the field {line:?}"))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
            return Err(format!("the field {line:?}"));
        }
        let folded = name.to_ascii_lowercase().replace(['_', '.'], "-");
        let once = ["host", "content-length", "transfer-encoding", "authorization", "x-request-id"];
        let once = once.contains(&folded.as_str())
            || folded.starts_with("x-scim-")
            || folded.starts_with("x-forwarded-");
        if once && !seen.insert(folded) {
            return Err(format!("{name} twice"));
        }
    }
    let message = Message { head: head.clone(), body: Vec::new() };
    if message.headers("host").len() != 1 {
        return Err("no host".to_owned());
    }
    let (length, coding) =
        (message.headers("content-length"), message.headers("transfer-encoding"));
    let start = end + 4;
    match (&length[..], &coding[..]) {
        ([], []) => Ok(Some((message, start))),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| "the length")?;
            Ok(bytes
                .get(start..start + length)
                .map(|body| (Message { body: body.to_vec(), head: head.clone() }, start + length)))
        }
        ([], ["chunked"]) => chunks(bytes, start, head.clone(), true),
        _ => Err("its framing".to_owned()),
    }
}

/// Takes every line end, folds, blanks before colons, and any spelling of a header that frames.
fn lenient(bytes: &[u8]) -> Read1 {
    let mut at = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let mut lines: Vec<String> = Vec::new();
    loop {
        let Some(end) = find(&bytes[at..], b"\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).trim_end().to_owned();
        at += end + 1;
        match lines.last_mut() {
            _ if line.is_empty() => break,
            Some(last) if line.starts_with([' ', '\t']) => *last += &line,
            _ => lines.push(line),
        }
    }
    let (mut length, mut chunked) = (0, false);
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = name.trim().to_ascii_lowercase().replace(['_', '.', ' '], "-");
        match name.as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => chunked |= value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
    let head = lines.join("\r\n");
    if chunked {
        return chunks(bytes, at, head, false);
    }
    let body = bytes.get(at..at + length);
    Ok(body.map(|body| (Message { head, body: body.to_vec() }, at + length)))
}

fn chunks(bytes: &[u8], mut at: usize, head: String, strict: bool) -> Read1 {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(&bytes[at..], b"\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let digits = line.trim_end().split([';', ' ']).next().unwrap_or_default();
        if strict && line != format!("{digits}\r") {
            return Err(format!("the chunk {line:?}"));
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| format!("the chunk {line:?}"))?;
        at += end + 1;
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err("the end of a chunk".to_owned());
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((Message { head, body }, at)));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|it| it == what)
}

//! A backend that answers every request with the same words and remembers it to the byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::default();
        let recorded = Arc::clone(&seen);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let seen = Arc::clone(&recorded);
                // A connection that breaks is the edge's to explain.
                thread::spawn(move || serve(connection, &seen));
            }
        });
        Self { address, seen }
    }

    /// What has come in since this was last asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seen {
    /// The values of all headers that a backend might take for this one: it may fold what is no
    /// letter or digit into one character.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter().filter(|(other, _)| folded(other) == folded(name));
        headers.map(|(_, value)| value.as_str()).collect()
    }

    fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let first = read_line(connection)?;
        let mut words = first.splitn(2, ' ');
        let (Some(method), Some(rest)) = (words.next(), words.next()) else { return Ok(None) };
        let (target, _version) = rest.rsplit_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let mut seen = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = read_line(connection)?;
            let Some((name, value)) = line.split_once(':') else { break };
            seen.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        seen.read_body(connection)?;
        Ok(Some(seen))
    }

    fn read_body(&mut self, connection: &mut BufReader<TcpStream>) -> io::Result<()> {
        if !self.values("Transfer-Encoding").is_empty() {
            loop {
                let size = usize::from_str_radix(&read_line(connection)?, 16);
                let size = size.map_err(io::Error::other)?;
                connection.by_ref().take(size as u64).read_to_end(&mut self.body)?;
                read_line(connection)?;
                if size == 0 {
                    return Ok(());
                }
            }
        }
        let length = self.values("Content-Length").first().map_or(Ok(0), |text| text.parse());
        connection.take(length.map_err(io::Error::other)?).read_to_end(&mut self.body)?;
        Ok(())
    }
}

fn serve(connection: TcpStream, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    while let Some(request) = Seen::read(&mut connection)? {
        let body = if request.method == "HEAD" { "" } else { BODY };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/scim+json\r\nContent-Length: ";
        let answer = format!("{head}{}\r\n\r\n{body}", BODY.len());
        connection.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// A line without its end, every byte of it a character.
fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    connection.read_until(b'\n', &mut line)?;
    let line = line.trim_ascii_end();
    Ok(line.iter().map(|&byte| char::from(byte)).collect())
}

fn folded(name: &str) -> String {
    let fold = |letter: char| if letter.is_alphanumeric() { letter } else { '-' };
    name.to_ascii_lowercase().chars().map(fold).collect()
}

pub const BODY: &str = "{\"backend\":true}";

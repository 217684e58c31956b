//! The bytes of a connection to a backend: over TCP or a Unix socket, in clear text or within TLS.
//! It knows nothing of HTTP.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::server;

/// In clear text, or within TLS, whose state is large and for which clear text should not pay.
pub type Socket = Either<server::Socket, Box<TlsStream<server::Socket>>>;

/// Whether the backend has said nothing and not hung up, as far as has arrived here.
pub fn is_quiet(socket: &mut Socket) -> bool {
    match socket {
        Either::Left(plain) => {
            let peeked =
                recv(descriptor(plain), &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            matches!(peeked, Err(rustix::io::Errno::AGAIN))
        }
        Either::Right(stream) => is_quiet_within_tls(stream),
    }
}

/// Takes what has arrived of TLS's own, such as tickets for later sessions. Anything else is not
/// for us.
fn is_quiet_within_tls(stream: &mut TlsStream<server::Socket>) -> bool {
    let (plain, session) = stream.get_mut();
    for _ in 0..RECORDS_MAX {
        let state = session.process_new_packets();
        let unasked =
            |state: rustls::IoState| state.plaintext_bytes_to_read() > 0 || state.peer_has_closed();
        if state.map_or(true, unasked) {
            return false;
        }
        match session.read_tls(&mut AtOnce(descriptor(plain))) {
            Ok(bytes) if bytes > 0 => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => return false,
        }
    }
    false
}

const RECORDS_MAX: usize = 16;

/// Says, where there are words for it, that the end of the connection is meant.
pub fn farewell(socket: &mut Socket) {
    if let Either::Right(stream) = socket {
        let (plain, session) = stream.get_mut();
        session.send_close_notify();
        // Who takes no more bytes learns it from the closing alone.
        let _ = session.write_tls(&mut AtOnce(descriptor(plain)));
    }
}

fn descriptor(socket: &server::Socket) -> BorrowedFd<'_> {
    match socket {
        Either::Left(stream) => stream.as_fd(),
        Either::Right(stream) => stream.as_fd(),
    }
}

/// What the system has or takes at this moment, whatever the runtime knows of it.
struct AtOnce<'a>(BorrowedFd<'a>);

impl Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, _) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(bytes)
    }
}

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

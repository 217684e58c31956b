//! The bytes of a connection to a backend: over TCP, TLS or a Unix socket. It knows nothing of HTTP.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Its state is large, and clear text should not pay for it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Whether the backend has said nothing and not hung up, as far as has arrived here.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => has_nothing(stream),
            Self::Unix(stream) => has_nothing(stream),
            Self::Tls(stream) => is_quiet(stream),
        }
    }

    /// Says, where there are words for it, that the end of the connection is meant.
    pub fn farewell(&mut self) {
        if let Self::Tls(stream) = self {
            let (stream, session) = stream.get_mut();
            session.send_close_notify();
            // Who takes no more bytes learns it from the closing alone.
            let _ = session.write_tls(&mut AtOnce(stream));
        }
    }
}

/// Takes what has arrived of TLS's own, such as tickets for later sessions. Anything else is not
/// for us.
fn is_quiet(stream: &mut TlsStream<TcpStream>) -> bool {
    let (stream, session) = stream.get_mut();
    for _ in 0..RECORDS_MAX {
        let state = session.process_new_packets();
        let unasked =
            |state: rustls::IoState| state.plaintext_bytes_to_read() > 0 || state.peer_has_closed();
        if state.map_or(true, unasked) {
            return false;
        }
        match session.read_tls(&mut AtOnce(stream)) {
            Ok(bytes) if bytes > 0 => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => return false,
        }
    }
    false
}

const RECORDS_MAX: usize = 16;

/// What the system has or takes at this moment, whatever the runtime knows of it.
struct AtOnce<'a>(&'a TcpStream);

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

fn has_nothing(stream: impl AsFd) -> bool {
    let peeked = recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(rustix::io::Errno::AGAIN))
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

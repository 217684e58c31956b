//! The bytes of a connection, in clear text or within TLS, over TCP or a Unix socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

pub type Socket = Either<TcpStream, UnixStream>;

/// In clear text, or within TLS, whose state is large and for which clear text should not pay.
pub type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// Says, where there are words for it, that the end of the connection is meant.
pub async fn farewell(stream: &mut Stream) {
    if let Either::Right(stream) = stream {
        poll_fn(|context| {
            // Who takes no more bytes learns it from the closing alone.
            let _ = Pin::new(&mut *stream).poll_shutdown(context);
            Poll::Ready(())
        })
        .await;
    }
}

/// Waits for bytes and copies the first of them, without taking them away.
pub async fn peek(socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
    match socket {
        Either::Left(stream) => stream.peek(into).await,
        Either::Right(stream) => {
            let look = || Ok(recv(stream, &mut *into, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0);
            stream.async_io(Interest::READABLE, look).await
        }
    }
}

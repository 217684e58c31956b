//! Where connections come from: TCP or a Unix socket, bound here or by who has started us.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::stream::Socket;
use crate::config::value::{Address, ListenAddress};

/// Accepts connections as long as it lives. What waits in the system's queue is lost with the last
/// process that holds it.
pub struct Listener {
    socket: ListenSocket,
    address: ListenAddress,
    /// What is to go with it.
    _file: Option<SocketFile>,
}

enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds a listener; the address may have port 0. Must be called within a runtime, as all that
    /// makes one.
    pub fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(Address(address)) => {
                let new = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
                let socket = new?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Self::tcp(socket.listen(BACKLOG)?)
            }
            ListenAddress::Unix(path) => {
                let (socket, file) = SocketFile::bind(path)?;
                let socket = ListenSocket::Unix(socket);
                Ok(Self { socket, address: address.clone(), _file: Some(file) })
            }
        }
    }

    fn tcp(socket: TcpListener) -> io::Result<Self> {
        let address = ListenAddress::Tcp(Address(socket.local_addr()?));
        Ok(Self { socket: ListenSocket::Tcp(socket), address, _file: None })
    }

    /// Where it can be found, which port 0 leaves to the system.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListenSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted { descriptor: stream.into_std()?.into(), peer: Peer::Tcp(peer) })
            }
            ListenSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted { descriptor: stream.into_std()?.into(), peer: Peer::Unix })
            }
        }
    }

    /// Limits what the system holds for a client that does not read its answers.
    pub fn limit_send_buffer(&self, bytes: usize) -> io::Result<()> {
        use rustix::net::sockopt::set_socket_send_buffer_size as set;
        // Connections have it from their listener.
        match &self.socket {
            ListenSocket::Tcp(listener) => Ok(set(listener, bytes)?),
            ListenSocket::Unix(listener) => Ok(set(listener, bytes)?),
        }
    }
}

/// Connections that the system makes for us ahead of time.
pub(super) const BACKLOG: u32 = 1024;

/// A connection on its way to the worker that will serve it.
pub(super) struct Accepted {
    pub descriptor: OwnedFd,
    pub peer: Peer,
}

impl Accepted {
    /// Must be called within the runtime that is to serve it.
    pub fn socket(self) -> io::Result<Socket> {
        match self.peer {
            Peer::Tcp(_) => {
                let stream = tokio::net::TcpStream::from_std(self.descriptor.into())?;
                // It fails only for a connection that is already gone.
                let _ = stream.set_nodelay(true);
                Ok(Socket::Left(stream))
            }
            Peer::Unix => {
                let stream = StdUnixStream::from(self.descriptor);
                Ok(Socket::Right(tokio::net::UnixStream::from_std(stream)?))
            }
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process of this machine that may open the socket.
    Unix,
}

impl Peer {
    /// None over a Unix socket. An IPv4 address is one, however it was written.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// The file of a Unix socket that we have bound. Taken away with it, unless somebody else has put
/// another one there.
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    /// What a process that is gone has left is replaced, and so is nothing else. Who may look into
    /// the directory may connect.
    fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        // Made beside it, so that no client meets a socket that is not ready.
        let draft = path.with_file_name(format!(".{:08x}", fastrand::u32(..)));
        let bound = UnixListener::bind(&draft).and_then(|listener| {
            fs::set_permissions(&draft, Permissions::from_mode(0o666))?;
            let id = id(&draft)?;
            make_room(path)?;
            // Unlike a renaming it takes the place of nobody who came first.
            fs::hard_link(&draft, path)?;
            Ok((listener, Self { path: path.to_owned(), id }))
        });
        let _ = fs::remove_file(&draft);
        bound
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Takes away what a process that is gone has left at a path. Anything else stays.
fn make_room(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        let what = "there is a file that is no socket: move it away, or choose another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    // Without waiting: a queue that is full has somebody behind it too.
    let (kind, flags) = (SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
    let probe = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Sockets that who has started us has bound for us, as systemd and others do (sd_listen_fds(3)).
/// Since they outlive us, no connection is refused while one process follows another.
#[derive(Default)]
pub struct Inherited(Vec<Received>);

enum Received {
    Tcp(std::net::TcpListener, ListenAddress),
    Unix(std::os::unix::net::UnixListener, ListenAddress),
}

impl Inherited {
    /// Reads the environment and changes it, so it must be called before there are threads.
    pub fn from_env() -> Result<Self, String> {
        let mut passed = ListenFd::from_env();
        let all = 0..passed.len();
        all.map(|index| Received::take(&mut passed, index)).collect::<Result<_, _>>().map(Self)
    }

    /// The socket that is bound to this address.
    pub fn take(&mut self, address: &ListenAddress) -> Option<io::Result<Listener>> {
        let place = self.0.iter().position(|it| it.address() == address)?;
        Some(self.0.remove(place).listener())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where those are bound that were not taken.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.0.iter().map(Received::address)
    }
}

/// Whether connections can be had of it: it may be one itself.
fn accepts(socket: impl AsFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

impl Received {
    fn take(passed: &mut ListenFd, index: usize) -> Result<Self, String> {
        let unusable = |what: &dyn fmt::Display| {
            format!(
                "socket {} of LISTEN_FDS: {what}: pass sockets that listen at TCP addresses or paths",
                index + 1
            )
        };
        if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
            if !accepts(&listener) {
                return Err(unusable(&"does not listen"));
            }
            let address = listener.local_addr().map_err(|error| unusable(&error))?;
            return Ok(Self::Tcp(listener, ListenAddress::Tcp(Address(address))));
        }
        let listener = passed.take_unix_listener(index).map_err(|error| unusable(&error))?;
        let listener = listener.expect("none was taken before");
        if !accepts(&listener) {
            return Err(unusable(&"does not listen"));
        }
        let address = listener.local_addr().map_err(|error| unusable(&error))?;
        let path = address.as_pathname().ok_or_else(|| unusable(&"has no path"))?;
        Ok(Self::Unix(listener, ListenAddress::Unix(path.to_owned())))
    }

    fn address(&self) -> &ListenAddress {
        match self {
            Self::Tcp(_, address) | Self::Unix(_, address) => address,
        }
    }

    fn listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener, _) => {
                listener.set_nonblocking(true)?;
                Listener::tcp(TcpListener::from_std(listener)?)
            }
            Self::Unix(listener, address) => {
                listener.set_nonblocking(true)?;
                let socket = ListenSocket::Unix(UnixListener::from_std(listener)?);
                Ok(Listener { socket, address, _file: None })
            }
        }
    }
}

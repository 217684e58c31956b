//! Addresses that others will listen on.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// An address that the kernel gives to nobody else while this lives. Its socket never listens, so
/// that whoever is named the address can, even while a program that starts has a copy of it.
pub struct Reserved {
    pub address: SocketAddr,
    _socket: OwnedFd,
}

impl Reserved {
    pub fn at(host: impl Into<IpAddr>) -> Self {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        // Whoever listens there has this too.
        sockopt::set_socket_reuseaddr(&socket, true).expect("an option of every socket");
        bind(&socket, &SocketAddr::from((host.into(), 0))).expect("a port");
        let address = getsockname(&socket).expect("bound");
        let address = address.try_into().expect("an address of the internet");
        Self { address, _socket: socket }
    }
}

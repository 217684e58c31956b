//! `health`: a probe for containers without a shell.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::ConfigFile;

pub fn run(file: &ConfigFile, ready: bool) -> Result<ExitCode, String> {
    let config = file.load()?;
    let ops = config.ops.ok_or("the config has no `ops` section, so there is nobody to ask")?;
    let (address, path) = (reachable(ops.listen.0), if ready { "/readyz" } else { "/livez" });
    let answer = ask(address, path).map_err(|error| format!("http://{address}{path}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let healthy = head.split(' ').nth(1) == Some("200");
    anstream::print!("{body}");
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who listens everywhere is found on loopback.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

const PATIENCE: Duration = Duration::from_secs(3);

//! An upstream as the config has it: where its servers are, how they are reached and what we show
//! them. It holds no connection: each worker has its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use rustls::pki_types::ServerName;

use super::balance::Address;
use super::headers;
use super::tls::Tls;
use crate::config;
use crate::config::value::{Authorization, Location, UpstreamUrl};
use crate::source::watch::{Step, Tracked};

pub struct Upstream {
    /// Unique in this process, also over reloads: pools go by it.
    pub number: u64,
    pub config: config::Upstream,
    /// What logs call it.
    pub label: String,
    /// As a `Host` header would have it.
    pub authority: String,
    pub servers: Vec<Server>,
    pub tls: Option<Secured>,
    secret: ArcSwapOption<HeaderValue>,
    secret_file: Option<Mutex<Tracked<HeaderValue>>>,
}

/// Where one of its servers is.
pub enum Server {
    At(Address),
    /// A name that is to be looked up, and the port.
    Named(String, u16),
}

pub struct Secured {
    pub tls: Tls,
    /// What each server's certificate must have.
    pub names: Vec<ServerName<'static>>,
}

impl Upstream {
    /// Fails with all that is wrong with its files. `place` is its path in the config.
    pub fn new(config: &config::Upstream, place: &str) -> Result<Self, Vec<String>> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut faults = Vec::new();
        let mut servers = Vec::new();
        for (place, url) in config.places(place) {
            servers.push(Server::new(&url.at));
            if let Location::Unix(socket) = &url.at
                && socket.as_os_str().len() > SOCKET_BYTES_MAX
            {
                let socket = socket.display();
                faults.push(format!("{place}: {socket}: is too long: a socket's path has at most {SOCKET_BYTES_MAX} bytes"));
            }
        }
        let tls = Secured::new(config, place).unwrap_or_else(|told| {
            faults.extend(told);
            None
        });
        let labels: Vec<_> = config.urls().iter().map(UpstreamUrl::to_string).collect();
        let upstream = Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            config: config.clone(),
            label: labels.join(", "),
            authority: config.urls().first().map(UpstreamUrl::authority).unwrap_or_default(),
            servers,
            tls,
            secret: ArcSwapOption::empty(),
            secret_file: match &config.authorization {
                Authorization::File(path) => {
                    Some(Mutex::new(Tracked::new("upstream.authorization", path)))
                }
                Authorization::Remove | Authorization::Keep => None,
            },
        };
        upstream.refresh_secret();
        if let (Some(file), None) = (&upstream.secret_file, upstream.secret()) {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let (path, fault) = (file.path().display(), file.fault().unwrap_or_default());
            faults.push(format!("{place}.authorization: {path}: {fault}"));
        }
        if faults.is_empty() { Ok(upstream) } else { Err(faults) }
    }

    pub fn secret(&self) -> Option<Arc<HeaderValue>> {
        self.secret.load_full()
    }

    /// Looks whether its files have changed. What cannot be read stays as it was.
    pub fn refresh(&self) {
        self.refresh_secret();
        if let Some(secured) = &self.tls {
            secured.tls.refresh();
        }
    }

    /// A changed secret counts when two looks agree on it, the first one at once.
    fn refresh_secret(&self) {
        let Some(file) = &self.secret_file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.step(|content| headers::secret_value(content).map_err(str::to_owned)) {
            Step::Apply(value) => self.secret.store(Some(Arc::new(value))),
            Step::Preview(value) if self.secret.load().is_none() => {
                self.secret.store(Some(Arc::new(value.clone())));
            }
            Step::Preview(_) | Step::Confirm | Step::Wait => {}
        }
    }
}

/// What the system takes (`sun_path`), less the byte at its end.
const SOCKET_BYTES_MAX: usize = 107;

impl Server {
    fn new(at: &Location) -> Self {
        match at {
            Location::Unix(socket) => Self::At(Address::Unix(socket.as_path().into())),
            Location::Tcp { host, port, .. } => match host.parse::<IpAddr>() {
                Ok(address) => Self::At(Address::Tcp(SocketAddr::new(address, *port))),
                Err(_) => Self::Named(host.clone(), *port),
            },
        }
    }
}

impl Secured {
    /// `None` if the URLs ask for no TLS.
    fn new(config: &config::Upstream, place: &str) -> Result<Option<Self>, Vec<String>> {
        let mut names = Vec::new();
        for url in config.urls() {
            let Location::Tcp { tls: true, host, .. } = &url.at else { return Ok(None) };
            let own = config.server_name.as_ref().map_or(host.as_str(), |name| name.as_str());
            let name = ServerName::try_from(own.to_owned());
            names.push(name.map_err(|_| vec![format!("{place}.server_name: {own}: is no name")])?);
        }
        Ok(Some(Self { tls: Tls::load(config, place)?, names }))
    }

    /// By which files connections are secured now.
    pub fn generation(&self) -> u64 {
        self.tls.current().generation
    }
}

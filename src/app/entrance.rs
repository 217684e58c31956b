//! The doors of the faces that clients and edges come to: their listeners with what secures them,
//! bound at the start, kept, opened and closed at a reload.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Failure;
use super::certificates::Watched;
use crate::config::value::ListenAddress;
use crate::config::{self, Config, Limits};
use crate::server::{Acceptor, Face, Listener, Tls, Transport};

/// A face, and the doors that lead to it.
pub struct Entrance {
    name: &'static str,
    pub face: Arc<Face>,
    pub limits: Arc<ArcSwap<Limits>>,
    acceptors: Vec<(Name, Acceptor)>,
}

/// Of a listener: its address as configured, and what else it is known by.
type Name = (ListenAddress, Arc<str>);

/// What becomes of a face's doors at a reload.
pub struct Plan {
    kept: Vec<Door>,
    bound: Vec<(Door, Listener)>,
}

impl Entrance {
    pub fn new(name: &'static str, face: Face, limits: Arc<ArcSwap<Limits>>) -> Self {
        Self { name, face: Arc::new(face), limits, acceptors: Vec::new() }
    }

    pub fn open(&mut self, doors: Vec<(Door, Listener)>) {
        for (door, listener) in doors {
            tell_listening(self.name, &listener, door.transport.tls.is_some());
            let name = door.name();
            self.acceptors.push((name, self.face.accept(listener, door.transport)));
        }
    }

    /// Binds what is new among these doors.
    pub fn plan(&self, key: &str, doors: Vec<Door>) -> Result<Plan, Failure> {
        let mut superfluous: Vec<_> = self.acceptors.iter().map(|(it, _)| it.clone()).collect();
        let (mut kept, mut bound) = (Vec::new(), Vec::new());
        for door in doors {
            match superfluous.iter().position(|it| *it == door.name()) {
                Some(place) => {
                    superfluous.remove(place);
                    kept.push(door);
                }
                None => {
                    let listener = bind(key, &door.address)?;
                    bound.push((door, listener));
                }
            }
        }
        Ok(Plan { kept, bound })
    }

    /// Goes on with the doors of the plan, and with no others.
    pub fn change(&mut self, plan: Plan) {
        let mut known = std::mem::take(&mut self.acceptors);
        for door in plan.kept {
            let place = known.iter().position(|(name, _)| *name == door.name());
            let (name, acceptor) = known.remove(place.expect("it is one of them"));
            acceptor.secure(door.transport);
            self.acceptors.push((name, acceptor));
        }
        known.into_iter().for_each(|(_, acceptor)| acceptor.stop());
        self.open(plan.bound);
    }

    /// Lets requests finish until the deadline. How many connections were left then.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let acceptors = self.acceptors.iter().map(|(_, acceptor)| acceptor);
        match self.face.drain(acceptors, deadline).await {
            true => 0,
            false => self.face.connections().max(1),
        }
    }

    pub async fn end(self) {
        self.face.end(self.acceptors.into_iter().map(|(_, acceptor)| acceptor)).await;
    }
}

/// What a listener is to be: its address as configured, and how it is secured.
pub struct Door {
    pub address: ListenAddress,
    transport: Transport,
}

impl Door {
    fn name(&self) -> Name {
        (self.address.clone(), Arc::clone(&self.transport.name))
    }
}

/// All doors, with the files of those that have some read.
pub struct Doors {
    pub proxy: Vec<Door>,
    pub decision: Vec<Door>,
    pub admin: Option<Arc<Tls>>,
    pub watched: Vec<Watched>,
}

pub fn doors(config: &Config) -> Result<Doors, Failure> {
    let (mut watched, mut faults) = (Vec::new(), Vec::new());
    let mut load = |tls: Option<&config::tls::Tls>, place: &str, address: String| match tls
        .map(|tls| Watched::load(tls, place, address))
        .transpose()
    {
        Ok(loaded) => {
            let tls = loaded.as_ref().map(|it| Arc::clone(&it.tls));
            watched.extend(loaded);
            tls
        }
        Err(told) => {
            faults.extend(told);
            None
        }
    };
    let mut door = |address: &ListenAddress, tls: Option<&config::tls::Tls>, h2c, place: String| {
        let tls = load(tls, &format!("{place}.tls"), address.to_string());
        Door { address: address.clone(), transport: Transport { tls, h2c, ..Transport::default() } }
    };
    let listeners = config.proxy.iter().flat_map(|proxy| &proxy.listeners).enumerate();
    let proxy = listeners.map(|(index, it)| {
        door(&it.address, it.tls.as_ref(), it.h2c, format!("{LISTENERS}[{index}]"))
    });
    let proxy = proxy.collect();
    let decision = config.decision.iter().enumerate().map(|(index, it)| {
        let place = format!("{DECISION}[{index}]");
        let mut door = door(&it.address, it.tls.as_ref(), it.takes_h2c(), place);
        door.transport.name = it.name(index).into();
        door
    });
    let decision = decision.collect();
    let admin = config.admin.as_ref();
    let admin =
        admin.and_then(|admin| load(admin.tls.as_ref(), "admin.tls", admin.listen.to_string()));
    match faults.is_empty() {
        true => Ok(Doors { proxy, decision, admin, watched }),
        false => Err(Failure(faults.join("\n"))),
    }
}

pub const LISTENERS: &str = "proxy.listeners";
pub const DECISION: &str = "decision";

pub fn bind(key: &str, address: &ListenAddress) -> Result<Listener, Failure> {
    Listener::bind(address).map_err(|error| unusable(key, address, &error))
}

pub fn unusable(key: &str, address: &ListenAddress, error: &io::Error) -> Failure {
    let is_tcp = address.tcp().is_some();
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse if is_tcp => ": stop who listens there, or choose another port",
        io::ErrorKind::AddrInUse => ": stop who listens there, or choose another path",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        io::ErrorKind::PermissionDenied if is_tcp => ": choose a port above 1023",
        io::ErrorKind::PermissionDenied => ": let us write into its directory",
        io::ErrorKind::NotFound => ": make its directory",
        io::ErrorKind::AlreadyExists if !is_tcp => "",
        io::ErrorKind::InvalidInput if !is_tcp => ": choose a path of less than 100 bytes",
        _ => "",
    };
    Failure(format!("{key}: cannot listen on {address}: {error}{mend}"))
}

/// Tells where a face can be found, which port 0 leaves to the system.
pub fn tell_listening(face: &str, listener: &Listener, tls: bool) {
    tracing::info!(face, address = %listener.address(), tls, "listening");
}

//! One worker without its thread: serves a connection where it is called, so that tests of many
//! small connections need neither listener nor hand-over.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::listener::{Accepted, Peer};
use super::timer::Timers;
use super::{Scope, Service, Transport, connection};
use crate::config::Limits;
use crate::telemetry::metrics::Metrics;

/// Its timers stand still: nothing times out.
pub struct Worker<S>(Rc<Scope<S>>);

impl<S: Service> Worker<S> {
    pub fn new(limits: Limits, metrics: Arc<Metrics>, make: impl FnOnce(&Timers) -> S) -> Self {
        let timers = Timers::new();
        Self(Rc::new(Scope {
            face: "fuzzing",
            service: make(&timers),
            timers,
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            metrics,
            leaving: Cell::new(false),
            draining: CancellationToken::new(),
        }))
    }

    /// Serves a connection in clear text to its end. Must be called within a local runtime.
    pub async fn serve(&self, stream: std::net::TcpStream, peer: SocketAddr) {
        let accepted = Accepted { descriptor: stream.into(), peer: Peer::Tcp(peer) };
        connection::serve(Rc::clone(&self.0), accepted, &Transport::default()).await;
    }
}

//! Faces that only decide: whatever the dialect, the answer is the proxy's own.

use std::net::SocketAddr;

use crate::backend::Backend;
use crate::guard::{Guard, ID, Setup, TENANT, TOKEN, listening, row, wait_for};
use crate::http::{Client, Reply};

mod check;
mod dialects;
mod life;
mod table;

use check::Check;

/// An edge's listener, as a test asks it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edge {
    Nginx,
    IngressNginx,
    Caddy,
    Traefik,
    Haproxy,
    Envoy,
    EnvoyGrpc,
}

impl Edge {
    const ALL: [Self; 7] = [
        Self::Nginx,
        Self::IngressNginx,
        Self::Caddy,
        Self::Traefik,
        Self::Haproxy,
        Self::Envoy,
        Self::EnvoyGrpc,
    ];

    /// As in the config.
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::IngressNginx => "ingress-nginx",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::EnvoyGrpc => "envoy-grpc",
        }
    }

    /// Whether it passes on 401 and 403 alone.
    fn is_narrow(self) -> bool {
        matches!(self, Self::Nginx | Self::IngressNginx)
    }

    /// Method, target and host as this edge tells them.
    fn told(self, asked: &Asked<'_>) -> String {
        let Asked { method, target, host, .. } = asked;
        let line = |name: &str, value: Option<&str>| {
            value.map_or(String::new(), |value| format!("{name}: {value}\r\n"))
        };
        match self {
            Self::Nginx => {
                let host = line("X-Original-Host", *host);
                format!("X-Original-Method: {method}\r\nX-Original-URI: {target}\r\n{host}")
            }
            Self::IngressNginx => {
                let host = host.unwrap_or("scim.test");
                format!("X-Original-Method: {method}\r\nX-Original-URL: https://{host}{target}\r\n")
            }
            Self::Caddy | Self::Traefik | Self::Haproxy => {
                let host = line("X-Forwarded-Host", *host);
                format!("X-Forwarded-Method: {method}\r\nX-Forwarded-Uri: {target}\r\n{host}")
            }
            Self::Envoy | Self::EnvoyGrpc => unreachable!("it tells them otherwise"),
        }
    }
}

/// The original request that an edge asks about.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    host: Option<&'a str>,
    /// Lines, each with its end.
    headers: &'a str,
}

impl Asked<'_> {
    /// As this edge asks; the answer as it gets it.
    fn by(&self, edge: Edge, address: SocketAddr) -> Reply {
        let Self { method, target, host, headers } = self;
        match edge {
            Edge::EnvoyGrpc => Check::of(self).ask(address),
            Edge::Envoy => {
                let host = host.unwrap_or("scim.test");
                let head = format!("{method} /check{target} HTTP/1.1\r\nHost: {host}\r\n");
                Client::connect(address).send(&format!("{head}{headers}\r\n"))
            }
            _ => {
                let told = edge.told(self);
                let head = "GET /anything?at=all HTTP/1.1\r\nHost: guard.internal\r\n";
                Client::connect(address).send(&format!("{head}{told}{headers}\r\n"))
            }
        }
    }
}

/// Starts a guard with a listener for every edge, beside the proxy's own.
fn start(setup: Setup) -> Guard {
    let lines = Edge::ALL.map(|edge| listener(edge, ""));
    with_listeners(setup, &lines.concat()).start()
}

fn with_listeners(mut setup: Setup, lines: &str) -> Setup {
    setup.top += &format!("decision:\n{lines}");
    setup
}

/// A line of the section `decision`, with more keys.
fn listener(edge: Edge, keys: &str) -> String {
    format!("  - {{ address: '127.0.0.1:0', edge: {}{keys} }}\n", edge.name())
}

/// Where so many listeners are, in the order of the config.
fn addresses(guard: &Guard, number: usize) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    wait_for("the listeners", || {
        found = listening(&guard.diagnostics(), "decision");
        found.len() == number
    });
    found
}

fn faces(guard: &Guard) -> Vec<(Edge, SocketAddr)> {
    Edge::ALL.into_iter().zip(addresses(guard, Edge::ALL.len())).collect()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A guard with one listener, and where it listens.
fn alone(edge: Edge, keys: &str) -> (Guard, SocketAddr, Backend) {
    let backend = Backend::friendly();
    let setup = with_listeners(Setup::new(backend.address), &listener(edge, keys));
    let guard = setup.start();
    let address = addresses(&guard, 1)[0];
    (guard, address, backend)
}

impl<'a> Asked<'a> {
    fn users(headers: &'a str) -> Self {
        Self { method: "GET", target: "/scim/v2/Users", host: Some("scim.test"), headers }
    }
}

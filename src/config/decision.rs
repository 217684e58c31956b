//! The listeners that answer other proxies.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::Tls;
use super::value::{ListenAddress, Network, RoutePath, TenantName};

/// Where another proxy asks whether a request may pass. It sees live tokens, so let nobody else
/// connect. It must set every header that its kind of edge tells the original request by, also
/// the host's, or its clients could choose them. The routes of the section `proxy` count here too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Where to listen. A socket that listens there already (`LISTEN_FDS`) is taken over.
    pub address: ListenAddress,
    /// Who asks here, and so which headers tell of the original request and what an answer may look
    /// like. Nothing that a request says changes it.
    pub edge: Edge,
    /// For `edge: envoy`: what Envoy's `path_prefix` puts before the original path.
    /// Default: /check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<RoutePath>,
    /// Only this tenant's routes are known here. Default: all routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Who may ask, each a network or an address, or `unix:` for all who come by a Unix socket.
    /// Others get 403. Default: whoever can connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<Network>,
    /// TLS 1.2 and 1.3, as for the listeners of `proxy`; with `client_auth: required` only proxies
    /// with a certificate are answered. Default: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// In clear text, also take clients that begin with HTTP/2 by prior knowledge, as gRPC always
    /// does. Default: false; true for `edge: envoy-grpc`.
    #[serde(default)]
    pub h2c: bool,
}

impl Decision {
    pub(super) fn rebase(&mut self, directory: &Path) {
        self.address.rebase(directory);
        self.tls.iter_mut().for_each(|tls| tls.rebase(directory));
    }

    /// What the listener is known by while we run, so that its connections keep their terms when a
    /// reload moves it within the list. `index` tells those apart whose ports the system chooses.
    pub fn name(&self, index: usize) -> String {
        let (address, edge) = (&self.address, self.edge);
        match address.has_port_0() {
            true => format!("{address} ({index}, {edge:?})"),
            false => address.to_string(),
        }
    }

    /// Whether clients may begin with HTTP/2 in clear text.
    pub fn takes_h2c(&self) -> bool {
        self.tls.is_none() && (self.h2c || self.edge == Edge::EnvoyGrpc)
    }
}

/// A proxy that asks before it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// `auth_request`: `X-Original-Method`, `-URI` and `-Host`. It can pass on 401 and 403 alone.
    Nginx,
    /// The retired Kubernetes ingress: `X-Original-Method` and `X-Original-URL`.
    IngressNginx,
    /// `forward_auth`: `X-Forwarded-Method`, `-Uri` and `-Host`.
    Caddy,
    /// `ForwardAuth`: the same.
    Traefik,
    /// A Lua action that asks: the same.
    Haproxy,
    /// `ext_authz` over HTTP: the original's request line behind `prefix`, and its `Host`.
    Envoy,
    /// `ext_authz` over gRPC: `envoy.service.auth.v3.Authorization`.
    EnvoyGrpc,
}

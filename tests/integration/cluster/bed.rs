//! The parts of a cluster: an admin instance, proxies, and who may ask.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::relay::Relay;
use crate::backend::Backend;
use crate::guard::{Guard, Setup, TENANT, wait_for};
use crate::http::{Client, Reply};

/// A tenant that no route names.
pub const OTHER: &str = "z-demo00000001";

pub const OPERATOR: &str = "operator-token-0123456789";
/// A proxy's token.
pub const FLEET: &str = "replica-token-0123456789";
/// A proxy's token for the usual tenant alone.
pub const BRANCH: &str = "tenant-token-0123456789";

pub const ADMIN: &str = "\
admin:
  listen: '127.0.0.1:0'
  store: sqlite:data/admin.db
  tenants: [z-demo00000000, z-demo00000001]
  limits: { credentials_per_tenant: 10, expire_min: 1s }
  tokens:
    - { name: operator, role: operator, token: file:operator }
    - { name: fleet, role: replica, token: file:fleet }
    - { name: branch, role: replica, tenants: [z-demo00000000], token: file:branch }
credentials: { source: embedded, refresh: 1s }
ops: { listen: '127.0.0.1:0' }
";

/// An admin instance without a proxy.
pub struct Admin {
    pub guard: Guard,
}

/// A credential and its token.
pub struct Made {
    pub tenant: String,
    pub id: String,
    pub secret: String,
    pub revision: u64,
}

impl Admin {
    pub fn start() -> Self {
        Self::start_with(ADMIN)
    }

    pub fn start_with(config: &str) -> Self {
        Self::start_within(tempfile::tempdir().expect("a folder"), config)
    }

    /// With these files of its own.
    pub fn start_within(folder: tempfile::TempDir, config: &str) -> Self {
        for (name, content) in
            [("operator", OPERATOR), ("fleet", FLEET), ("branch", BRANCH), ("proxy.yaml", config)]
        {
            std::fs::write(folder.path().join(name), content).expect("written");
        }
        Self::start_in(folder)
    }

    pub fn start_in(folder: tempfile::TempDir) -> Self {
        Self { guard: Guard::start_in(folder) }
    }

    pub fn stop(self) -> tempfile::TempDir {
        self.guard.stop().2
    }

    pub fn address(&self) -> SocketAddr {
        self.guard.admin
    }

    /// The answer to a request with this admin token.
    pub fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Reply {
        call(&mut Client::connect(self.address()), token, method, path, body)
    }

    /// What is there, as the operator sees it.
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null).json()
    }

    /// An answer to the operator that must be a good one.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Reply {
        let reply = self.call(OPERATOR, method, path, body);
        assert!(reply.status < 300, "{method} {path}: {}", reply.text());
        reply
    }

    pub fn create(&self) -> Made {
        self.create_in(TENANT, &json!({}))
    }

    pub fn create_in(&self, tenant: &str, terms: &Value) -> Made {
        let reply = self.ask("POST", &format!("/v1/tenants/{tenant}/credentials"), terms);
        made(&reply, terms["secret"].as_str())
    }

    pub fn rotate(&self, old: &Made, terms: &Value) -> Made {
        made(&self.ask("POST", &format!("{}/rotate", path(old)), terms), None)
    }

    /// The revision of the change.
    pub fn set_status(&self, made: &Made, status: &str) -> u64 {
        revision(&self.ask("PATCH", &path(made), &json!({ "status": status })))
    }

    pub fn show(&self, made: &Made) -> Value {
        self.get(&path(made))
    }

    pub fn synchronize(&self, tenant: &str, status: &str) -> u64 {
        let path = format!("/v1/tenants/{tenant}/synchronization");
        revision(&self.ask("PUT", &path, &json!({ "status": status })))
    }

    pub fn receipt(&self, revision: u64, wait: &str) -> Value {
        self.get(&format!("/v1/revisions/{revision}/receipt?wait={wait}"))
    }

    /// Waits until every replica has a change.
    pub fn settle(&self, revision: u64) -> Value {
        let receipt = self.receipt(revision, "20s");
        assert_eq!(receipt["complete"], true, "{receipt}");
        receipt
    }

    /// What is known of the replicas with this name.
    pub fn replicas(&self, name: &str) -> Vec<Value> {
        let all = self.get("/v1/replicas")["replicas"].as_array().expect("a list").clone();
        all.into_iter().filter(|replica| replica["name"] == name).collect()
    }

    pub fn is_disputed(&self) -> bool {
        self.get("/v1/history")["disputed"] == true
    }
}

pub fn call<S: std::io::Read + std::io::Write>(
    client: &mut Client<S>,
    token: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn path(made: &Made) -> String {
    format!("/v1/tenants/{}/credentials/{}", made.tenant, made.id)
}

fn made(reply: &Reply, secret: Option<&str>) -> Made {
    let body = reply.json();
    Made {
        tenant: body["tenant"].as_str().expect("an id").to_owned(),
        id: body["credential_id"].as_str().expect("an id").to_owned(),
        secret: secret.or(body["secret"].as_str()).expect("a secret").to_owned(),
        revision: revision(reply),
    }
}

fn revision(reply: &Reply) -> u64 {
    reply.header("scim-guard-revision").and_then(|it| it.parse().ok()).expect("a revision")
}

/// A proxy that follows the admin API at this address.
pub fn proxy(name: &str, admin: SocketAddr, backend: &Backend) -> Setup {
    let native = format!("native\n  native: {{ url: 'http://{admin}', token: file:token }}");
    let mut setup = Setup::new(backend.address).file("token", FLEET);
    setup.source = native;
    setup.top = format!("replica: {{ name: {name} }}\n");
    setup
}

/// An admin instance, one proxy behind a relay, and a backend.
pub struct Pair {
    pub admin: Admin,
    pub relay: Relay,
    pub proxy: Guard,
    pub backend: Backend,
}

impl Pair {
    /// With these lines among the proxy's `credentials`.
    pub fn start(credentials: &str) -> Self {
        let (backend, admin) = (Backend::friendly(), Admin::start());
        let relay = Relay::to(admin.address());
        let proxy = proxy("near", relay.address, &backend).credentials(credentials).start();
        Self { admin, relay, proxy, backend }
    }

    /// Ends the admin instance.
    pub fn stop_admin(self) -> (tempfile::TempDir, Widow) {
        let Self { admin, relay, proxy, backend } = self;
        (admin.stop(), Widow { relay, proxy, backend })
    }
}

/// What is left of a pair.
pub struct Widow {
    pub relay: Relay,
    pub proxy: Guard,
    pub backend: Backend,
}

impl Widow {
    /// Goes on with the admin instance of this folder.
    pub fn start_admin(self, folder: tempfile::TempDir) -> Pair {
        let Self { relay, proxy, backend } = self;
        let admin = Admin::start_in(folder);
        relay.lead_to(admin.address());
        Pair { admin, relay, proxy, backend }
    }
}

/// Waits until a proxy answers so to this token.
pub fn wait_for_status(guard: &Guard, token: &str, status: u16) {
    wait_for(&format!("status {status}"), || guard.get("/Users", token).status == status);
}

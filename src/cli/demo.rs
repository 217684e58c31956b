//! `demo`: the whole product in one process on loopback, with a sample backend. Its files live in
//! a temporary folder that goes with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;

use super::sample::{self, Sample};
use super::serve::{Signals, control_runtime, leave};
use crate::app::App;
use crate::clock::Clock;
use crate::config::value::{Address, AdminUrl, ListenAddress, SecretRef};
use crate::config::{Config, Level, Limits, Log, LogFormat};
use crate::credential::token::MintedToken;
use crate::server::timer::TICK;
use crate::server::{Face, Inherited, Listener, Transport};
use crate::source::client::Client;
use crate::telemetry::Diagnostics;
use crate::telemetry::metrics::Metrics;

pub fn run() -> Result<ExitCode, String> {
    let log = Log { level: Level::Warn, format: LogFormat::Text, ..Log::default() };
    let _diagnostics = Diagnostics::start(&log);
    let folder = tempfile::Builder::new().prefix("scim-guard-demo-").tempdir();
    let folder = folder.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let outcome = control_runtime()?.block_on(show(folder.path()));
    folder.close().map_err(|error| format!("cannot remove the temporary folder: {error}"))?;
    outcome
}

async fn show(folder: &Path) -> Result<ExitCode, String> {
    let mut signals = Signals::new()?;
    let backend = bind_free(9000)?;
    let places = Places {
        proxy: free_port(8080)?,
        backend: address(&backend),
        admin: free_port(8081)?,
        ops: free_port(9090)?,
        token: folder.join("admin.token"),
        deny: folder.join("deny.yaml"),
    };
    std::fs::write(&places.deny, "[]\n")
        .map_err(|error| format!("cannot write {}: {error}", places.deny.display()))?;
    let config = Config::parse(&places.config(), folder).map_err(|it| format!("{it:?}"))?;

    let limits = Arc::new(ArcSwap::from_pointee(Limits::default()));
    let sample = Sample::new();
    let face =
        Face::start("sample", 1, &limits, &Arc::new(Metrics::new()), move |_| sample.clone());
    let face = Arc::new(face);
    let _accepting = face.accept(backend, Transport::default());
    let (clock, inherited) = (Clock::system(), Inherited::default());
    let app = App::start(config, clock, std::io::stdout(), None, inherited).await;
    let app = app.map_err(|failure| failure.to_string())?;
    while !app.is_loaded() {
        tokio::time::sleep(TICK).await;
    }

    let api = AdminUrl { secure: false, authority: places.admin.to_string() };
    let api = Client::new(api, SecretRef::File(places.token.clone()), None)?;
    let live = create(&api, "a day", "1d").await?;
    let expired = create(&api, "a moment", "100ms").await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    anstream::println!("{}", places.guide(&live, &expired));
    // Nothing can be reloaded here: a hangup is the terminal that is closed.
    signals.next(None).await;
    leave(app, true, &mut signals).await
}

struct Credential {
    id: String,
    secret: String,
}

/// Makes a credential as everybody does: through the admin API.
async fn create(api: &Client, label: &str, life: &str) -> Result<Credential, String> {
    let wanted = serde_json::json!({ "label": label, "expire_in": life });
    let target = format!("/v1/tenants/{TENANT}/credentials");
    let answer = api.send(Method::POST, &target, Some(&wanted)).await?;
    if !answer.is_success() {
        return Err(answer.complaint());
    }
    let made: serde_json::Value = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the admin API's answer is no JSON: {error}"))?;
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    Ok(Credential { id: text("credential_id"), secret: text("secret") })
}

const TENANT: &str = "z-demo00000000";

/// Where everything is.
struct Places {
    proxy: SocketAddr,
    backend: SocketAddr,
    admin: SocketAddr,
    ops: SocketAddr,
    token: PathBuf,
    deny: PathBuf,
}

impl Places {
    fn config(&self) -> String {
        let Self { proxy, backend, admin, ops, .. } = self;
        let base = sample::BASE;
        format!(
            r#"
proxy:
  listeners: [{{ address: "{proxy}" }}]
  routes:
    - {{ tenant: {TENANT}, path: {base}, upstream: {{ url: "http://{backend}{base}" }} }}
credentials: {{ source: embedded, deny: deny.yaml }}
admin:
  listen: "{admin}"
  store: sqlite:admin.db
  limits: {{ credentials_per_tenant: 10, expire_min: 100ms }}
ops: {{ listen: "{ops}" }}
log: {{ level: warn, format: text }}
"#
        )
    }

    fn guide(&self, live: &Credential, expired: &Credential) -> String {
        let bold = anstyle::Style::new().bold();
        let Self { proxy, backend, admin, ops, .. } = self;
        let (base, deny, token) = (sample::BASE, self.deny.display(), self.token.display());
        let program = std::env::current_exe().unwrap_or_else(|_| "scim-guard".into());
        let program = program.display();
        let curl = |token: &str| {
            format!("curl -i -H 'Authorization: Bearer {token}' http://{proxy}{base}/Users")
        };
        let (pass, refused, ended) =
            (curl(&live.secret), curl(MintedToken::mint().reveal()), curl(&expired.secret));
        let id = &live.id;
        format!(
            "\
{bold}scim-guard demo{bold:#}: all in this process, nothing left behind

  proxy    http://{proxy}{base}   checks the token of every request
  backend  http://{backend}{base}   a sample that keeps users in memory; not a real SCIM server
  admin    http://{admin}   makes, disables and rotates credentials
  metrics  http://{ops}/metrics

{bold}A live token passes{bold:#}
  {pass}

{bold}A token that nobody knows is refused{bold:#}
  {refused}

{bold}An expired one is refused, and the answer says why{bold:#}
  {ended}

{bold}Disable the live one, and wait until no replica accepts it any more{bold:#}
  export SCIM_GUARD_ADMIN_URL=http://{admin} SCIM_GUARD_ADMIN_TOKEN=file:{token}
  {program} credential disable {id} --wait
  {program} credential enable {id} --wait

{bold}Without any admin API: from the next second on the deny file refuses it{bold:#}
  printf -- '- credential_id: %s\\n' {id} > {deny}

Ctrl-C ends it. A line for each request follows.
"
        )
    }
}

/// The port that the docs name, or any other if somebody has it.
fn bind_free(port: u16) -> Result<Listener, String> {
    let loopback = |port| Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let at = |port| Listener::bind(&ListenAddress::Tcp(loopback(port)));
    at(port).or_else(|_| at(0)).map_err(|error| format!("cannot listen on loopback: {error}"))
}

/// An address to listen on in a moment.
fn free_port(port: u16) -> Result<SocketAddr, String> {
    bind_free(port).map(|listener| address(&listener))
}

fn address(listener: &Listener) -> SocketAddr {
    listener.address().tcp().expect("bound to a port")
}

//! `demo`: the whole product in one process on loopback, with a sample backend. Its files live in
//! a temporary folder that goes with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;

use super::sample::{self, Sample};
use super::serve::{Signals, control_runtime, leave};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Level, Limits, Log, LogFormat};
use crate::credential::token::MintedToken;
use crate::server::timer::TICK;
use crate::server::{Face, bind};
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
    let (live, expired) = (MintedToken::mint(), MintedToken::mint());
    let (proxy, backend, ops) = (free_port(8080)?, bind_free(9000)?, free_port(9090)?);
    let backend_address = address(&backend)?;
    write(folder, "credentials.yaml", &credentials(&live, &expired))?;
    write(folder, "deny.yaml", "[]\n")?;
    let text = config(proxy, backend_address, ops);
    let config = Config::parse(&text, folder).map_err(|faults| format!("{faults:?}"))?;

    let limits = Arc::new(ArcSwap::from_pointee(Limits::default()));
    let sample = Sample::new();
    let face =
        Face::start("sample", 1, &limits, &Arc::new(Metrics::new()), move |_| sample.clone());
    let face = Arc::new(face);
    let _accepting = face.accept(backend, None);
    let app = App::start(config, Clock::system(), std::io::stdout());
    let app = app.map_err(|failure| failure.to_string())?;
    while !app.is_loaded() {
        tokio::time::sleep(TICK).await;
    }

    let deny = folder.join("deny.yaml");
    anstream::println!("{}", guide(proxy, backend_address, ops, &live, &expired, &deny));
    // Nothing can be reloaded here: a hangup is the terminal that is closed.
    signals.next(None).await;
    leave(app, true, &mut signals).await
}

/// The demo's credentials: one that lives for a day, one that has expired.
fn credentials(live: &MintedToken, expired: &MintedToken) -> String {
    let now = Clock::system().now().wall;
    let day = std::time::Duration::from_secs(86_400);
    let row = |id: &str, token: &MintedToken, end: String| {
        format!(
            "- credential_id: {id}\n  tenant: {TENANT}\n  digest: {}\n  expire_time: {end}\n",
            token.digest()
        )
    };
    row(LIVE, live, now.plus(day).to_string())
        + &row("scimcred-demo00000002", expired, now.to_string())
}

const TENANT: &str = "z-demo00000000";
const LIVE: &str = "scimcred-demo00000001";

fn config(proxy: SocketAddr, backend: SocketAddr, ops: SocketAddr) -> String {
    let base = sample::BASE;
    format!(
        r#"
proxy:
  listeners: [{{ address: "{proxy}" }}]
  routes:
    - {{ tenant: {TENANT}, path: {base}, upstream: {{ url: "http://{backend}{base}" }} }}
credentials: {{ source: file, file: {{ path: credentials.yaml }}, deny: deny.yaml }}
ops: {{ listen: "{ops}" }}
log: {{ level: warn, format: text }}
"#
    )
}

fn guide(
    proxy: SocketAddr,
    backend: SocketAddr,
    ops: SocketAddr,
    live: &MintedToken,
    expired: &MintedToken,
    deny: &Path,
) -> String {
    let bold = anstyle::Style::new().bold();
    let base = sample::BASE;
    let curl = |token: &str| {
        format!("curl -i -H 'Authorization: Bearer {token}' http://{proxy}{base}/Users")
    };
    let (pass, refused, ended) =
        (curl(live.reveal()), curl(MintedToken::mint().reveal()), curl(expired.reveal()));
    let deny = deny.display();
    format!(
        "\
{bold}scim-guard demo{bold:#}: all in this process, nothing left behind

  proxy    http://{proxy}{base}   checks the token of every request
  backend  http://{backend}{base}   a sample that keeps users in memory; not a real SCIM server
  metrics  http://{ops}/metrics

{bold}A live token passes{bold:#}
  {pass}

{bold}A token that nobody knows is refused{bold:#}
  {refused}

{bold}An expired one is refused, and the answer says why{bold:#}
  {ended}

{bold}Deny the live one: from the next second on it is refused too{bold:#}
  printf -- '- credential_id: %s\\n' {LIVE} > {deny}

Ctrl-C ends it. A line for each request follows.
"
    )
}

/// The port that the docs name, or any other if somebody has it.
fn bind_free(port: u16) -> Result<TcpListener, String> {
    let at = |port| bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    at(port).or_else(|_| at(0)).map_err(|error| format!("cannot listen on loopback: {error}"))
}

/// An address to listen on in a moment.
fn free_port(port: u16) -> Result<SocketAddr, String> {
    address(&bind_free(port)?)
}

fn address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| format!("a listener without an address: {error}"))
}

fn write(folder: &Path, name: &str, content: &str) -> Result<(), String> {
    std::fs::write(folder.join(name), content)
        .map_err(|error| format!("cannot write {name} in the temporary folder: {error}"))
}

//! `proxy.yaml` as plain data: no sockets, no clients, no secrets. A loaded [`Config`] is right
//! in itself; whether files can be read and ports bound shows when it is put to use.

mod admin;
mod check;
mod cloud;
mod decision;
pub mod tls;
pub mod value;
pub mod yaml;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use admin::{
    AccessKey, Admin, AdminCertificate, AdminLimits, AdminToken, Mirrored, Mode, Native, Replica,
    Role,
};
pub use cloud::{Alibaba, Tencent};
pub use decision::{Decision, Edge};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tls::Tls;
use value::{
    Address, Authorization, HostName, ListenAddress, Network, RoutePath, RouteTenant, SecretRef,
    Size, Span, UpstreamUrl, rebase,
};
use yaml::{Fault, Node};

/// The whole of `proxy.yaml`. A section that is left out is not started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Listeners that answer other proxies, by the routes of `proxy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decision: Vec<Decision>,
    pub credentials: Credentials,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<Ops>,
    #[serde(default)]
    pub replica: Replica,
    #[serde(default)]
    pub log: Log,
}

/// The face that forwards SCIM requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The addresses at which clients find us. Left out, there are only the listeners of `decision`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Threads that serve requests. More than there are cores costs speed. Default: the number of
    /// available cores. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Peers whose `X-Forwarded-For`, `-Host` and `-Proto` are believed, each a network or an
    /// address, or `unix:` for all who come by a Unix socket. A wrong entry lets strangers choose
    /// the address that is logged. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub drain: Drain,
    pub routes: Vec<Route>,
}

/// An address at which clients find us. Clear text without `tls`: have TLS end in front of it. A
/// socket that listens there already, passed by systemd or another supervisor (`LISTEN_FDS`), is
/// taken over, so that no connection is refused while one process follows another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where to listen. Port 0 lets the system choose one, which the log then tells. Who may look
    /// into the directory of a Unix socket may connect to it.
    pub address: ListenAddress,
    /// TLS 1.2 and 1.3. A list holds certificates for several names: the one whose names fit is
    /// shown, the first one to all others. Default: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// In clear text, also take clients that begin with HTTP/2 by prior knowledge. Over TLS clients
    /// choose HTTP/2 by themselves. Default: false.
    #[serde(default)]
    pub h2c: bool,
}

/// What one client may take from us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest request body; beyond it 413. Bodies are streamed, so this costs no memory.
    /// Default: 8 MiB.
    pub request_body: Size,
    /// The largest request head; beyond it 431. Each connection may hold as much memory, 8 KiB to
    /// 1 MiB. Default: 32 KiB.
    pub header_bytes: Size,
    /// From the first byte of a request to the end of its head; for the first one from the
    /// beginning of the connection, TLS handshake and all. Default: 10 seconds.
    pub header_timeout: Span,
    /// Between two pieces of a request body. Default: 30 seconds.
    pub body_idle_timeout: Span,
    /// How long a client may leave an answer unread. Default: 30 seconds.
    pub send_idle_timeout: Span,
    /// For one request in all. Default: 5 minutes.
    pub request_time: Span,
    /// Between two requests on a connection. Default: 75 seconds.
    pub idle_timeout: Span,
    /// Connections at a time, but at most a sixth of the descriptors that the system lets us have;
    /// more wait in the system's queue. Default: 10,000. A change needs a restart.
    pub connections: usize,
    /// Requests at a time on one HTTP/2 connection. Default: 100.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body: Size(8 << 20),
            header_bytes: Size(32 << 10),
            header_timeout: Span::seconds(10),
            body_idle_timeout: Span::seconds(30),
            send_idle_timeout: Span::seconds(30),
            request_time: Span::seconds(300),
            idle_timeout: Span::seconds(75),
            connections: 10_000,
            streams: 100,
        }
    }
}

/// How we leave after SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long we go on accepting while `/readyz` already says no, so that load balancers see
    /// it. Default: 5 seconds.
    pub delay: Span,
    /// How long requests may then take to finish. Default: 20 seconds.
    pub deadline: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Span::seconds(5), deadline: Span::seconds(20) }
    }
}

/// Which requests belong to which tenant, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A token opens its own tenant's routes and no others. `"*"` takes the tenant from the path.
    pub tenant: RouteTenant,
    /// Only requests for this host. Such a route goes before those without. Default: every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Only requests at or below this path. The longest path goes first.
    pub path: RoutePath,
    /// The SCIM server behind the route. Left out, only the listeners of `decision` know the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// Resources that may be read (GET, HEAD) without a token, such as `ServiceProviderConfig`,
    /// `Schemas` and `ResourceTypes`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<String>,
    /// Accept `Authorization: TOKEN` without `Bearer`, as some of Okta's apps send it.
    /// Default: false.
    #[serde(default)]
    pub bare_token: bool,
}

/// The SCIM server behind a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The target is this URL's path and what the request has beyond the route's. `https:` speaks
    /// TLS 1.2 or 1.3, `unix:` goes over a Unix socket. A name is looked up again every few
    /// seconds, and requests take turns over its addresses. Either this or `urls` is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UpstreamUrl>,
    /// Several servers instead of one `url`, all with the same scheme and path. Requests take
    /// turns; one that cannot be reached is passed over for some seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<UpstreamUrl>,
    /// A PEM file: the authorities whose certificates we believe. Watched, as are the next two.
    /// Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A PEM file: the certificate that we show, then those of the authorities between it and the
    /// root. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// A PEM file: the key of `client_certificate`, without a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The name that the backend's certificate must have. Default: the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<HostName>,
    /// `remove` takes the client's header away, `keep` passes it, `file:PATH` replaces it. The
    /// file is watched. Default: remove.
    #[serde(default = "Upstream::default_authorization")]
    pub authorization: Authorization,
    /// The `Host` that the backend sees. Default: the client's, from which most backends build
    /// `meta.location`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// For one attempt to connect. Default: 2 seconds.
    #[serde(default = "Upstream::default_connect_timeout")]
    pub connect_timeout: Span,
    /// Until the head of the answer, and between two pieces of its body. Default: 60 seconds.
    #[serde(default = "Upstream::default_response_timeout")]
    pub response_timeout: Span,
    /// How long a request waits for a backend that refuses connections, as one that restarts
    /// does. Identity providers may try a deactivation only once. Default: 10 seconds.
    #[serde(default = "Upstream::default_connect_wait")]
    pub connect_wait: Span,
    /// The most connections of one worker to this upstream. Further requests wait for a free one,
    /// `connect_wait` at most. Default: 1000.
    #[serde(default = "Upstream::default_connections")]
    pub connections: usize,
}

impl Upstream {
    /// Where it is; in a checked config there is at least one.
    pub fn urls(&self) -> &[UpstreamUrl] {
        if self.urls.is_empty() { self.url.as_slice() } else { &self.urls }
    }

    /// Each URL with its path in the config, of which `place` is this upstream's.
    pub fn places(&self, place: &str) -> impl Iterator<Item = (String, &UpstreamUrl)> {
        let alone = self.urls.is_empty();
        let path = move |index| match alone {
            true => format!("{place}.url"),
            false => format!("{place}.urls[{index}]"),
        };
        self.urls().iter().enumerate().map(move |(index, url)| (path(index), url))
    }

    /// Every file of TLS that it names.
    pub fn tls_files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.ca, &self.client_certificate, &self.client_key];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    fn rebase(&mut self, directory: &Path) {
        if let Authorization::File(path) = &mut self.authorization {
            rebase(path, directory);
        }
        let urls = self.url.iter_mut().chain(&mut self.urls);
        urls.for_each(|url| url.rebase(directory));
        let files = [&mut self.ca, &mut self.client_certificate, &mut self.client_key];
        files.into_iter().flatten().for_each(|path| rebase(path, directory));
    }

    fn default_authorization() -> Authorization {
        Authorization::Remove
    }

    fn default_connect_timeout() -> Span {
        Span::seconds(2)
    }

    fn default_response_timeout() -> Span {
        Span::seconds(60)
    }

    fn default_connect_wait() -> Span {
        Span::seconds(10)
    }

    fn default_connections() -> usize {
        1000
    }
}

/// Where the credential table comes from and how far it is trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Which of the sections below is asked. A change needs a restart.
    pub source: Source,
    /// For `source: native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<Native>,
    /// For `source: tencent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tencent: Option<Tencent>,
    /// For `source: alibaba`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alibaba: Option<Alibaba>,
    /// For `source: file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// A YAML list of `{credential_id, tenant}` or `{digest}` that are refused whatever the source
    /// says. Must exist at start; `[]` is an empty one. A change of the path needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<PathBuf>,
    /// How often the source is asked, and the backstop of a stream of changes. An unknown token is 401 only
    /// while the last confirmation is not older than twice this; then 503. Default: 30 seconds.
    #[serde(default = "Credentials::default_refresh")]
    pub refresh: Span,
    #[serde(default)]
    pub max_stale: MaxStale,
    #[serde(default)]
    pub cache: Cache,
}

impl Credentials {
    fn default_refresh() -> Span {
        Span::seconds(30)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The admin API of the section `admin`.
    Embedded,
    /// The admin API of another process.
    Native,
    /// A zone of Tencent Cloud Organization, and the enrolment file with its tokens' digests.
    Tencent,
    /// A directory of Alibaba Cloud CloudSSO, and the enrolment file with its tokens' digests.
    Alibaba,
    /// A file that people write.
    File,
}

impl Source {
    pub fn is_cloud(self) -> bool {
        matches!(self, Self::Tencent | Self::Alibaba)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Native => "native",
            Self::Tencent => "tencent",
            Self::Alibaba => "alibaba",
            Self::File => "file",
        }
    }
}

/// A file as the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// A YAML list of credentials, or JSON lines if the name ends in `.jsonl`. Watched; replace it
    /// by renaming a whole file over it. A change of the path needs a restart.
    pub path: PathBuf,
}

/// How long the table is trusted after its source was last heard. Longer rides out outages; a
/// token revoked meanwhile also lives that much longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaxStale {
    /// For GET, HEAD and searches. Default: 12 hours.
    pub reads: Span,
    /// For all else. Default: 12 hours.
    pub writes: Span,
}

impl Default for MaxStale {
    fn default() -> Self {
        Self { reads: Span::seconds(12 * 3600), writes: Span::seconds(12 * 3600) }
    }
}

/// What is kept of credentials in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Credentials that are kept resolved; others are resolved at each use. Default: 100,000. A
    /// change needs a restart.
    pub entries: u64,
    /// Tokens that an admin API did not know a moment ago. Default: 10,000. A change needs a
    /// restart.
    pub unknown_entries: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { entries: 100_000, unknown_entries: 10_000 }
    }
}

/// Liveness, readiness and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    /// Not for strangers: it tells credential ids. A change needs a restart.
    pub listen: Address,
}

/// The access log on standard output and the diagnostics on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Of the diagnostics on standard error. Default: info.
    pub level: Level,
    /// `json`, or `text` for people. A change needs a restart. Default: json.
    pub format: LogFormat,
    /// Whether each request gets a line on standard output. Default: true.
    pub access: bool,
    /// `full` logs the path of a request, `route` only the route's; never the query, which holds
    /// personal data. Default: full.
    pub path: LogPath,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, format: LogFormat::Json, access: true, path: LogPath::Full }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogPath {
    Full,
    Route,
}

impl Config {
    /// Reads a config file. Relative paths in it are meant from the file's own directory.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        let text = read_text(path).map_err(|error| {
            let what = format!("cannot be read: {error}");
            Invalid { file: path.to_owned(), faults: vec![Fault::of_file(what)] }
        })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|faults| Invalid { file: path.to_owned(), faults })
    }

    /// Reads the text of a config file that stands in `directory`.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Fault>> {
        let document = Node::parse(text).map_err(|fault| vec![fault])?;
        let decoded = document.clone().decode::<Self>();
        let mut faults = decoded.faults;
        let Some(mut config) = decoded.value else { return Err(faults) };
        for mut fault in check::faults(&config) {
            let consequence = |told: &Fault| {
                yaml::covers(&fault.path, &told.path) || yaml::covers(&told.path, &fault.path)
            };
            if !faults.iter().any(consequence) {
                fault.line = document.line_of(&fault.path);
                faults.push(fault);
            }
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.line);
            return Err(faults);
        }
        config.rebase(directory);
        Ok(config)
    }

    fn rebase(&mut self, directory: &Path) {
        for listener in self.proxy.iter_mut().flat_map(|proxy| &mut proxy.listeners) {
            listener.address.rebase(directory);
            listener.tls.iter_mut().for_each(|tls| tls.rebase(directory));
        }
        let routes = self.proxy.iter_mut().flat_map(|proxy| &mut proxy.routes);
        for route in routes {
            route.upstream.iter_mut().for_each(|upstream| upstream.rebase(directory));
        }
        self.decision.iter_mut().for_each(|listener| listener.rebase(directory));
        if let Some(native) = &mut self.credentials.native {
            native.rebase(directory);
        }
        if let Some(tencent) = &mut self.credentials.tencent {
            tencent.rebase(directory);
        }
        if let Some(alibaba) = &mut self.credentials.alibaba {
            alibaba.rebase(directory);
        }
        if let Some(admin) = &mut self.admin {
            admin.rebase(directory);
        }
        if let Some(file) = &mut self.credentials.file {
            rebase(&mut file.path, directory);
        }
        if let Some(path) = &mut self.credentials.deny {
            rebase(path, directory);
        }
    }

    /// The first key that differs from `other` and cannot change while we run.
    pub fn restart_needed(&self, other: &Self) -> Option<&'static str> {
        let workers = |config: &Self| config.proxy.as_ref().map(|proxy| proxy.workers);
        let connections =
            |config: &Self| config.proxy.as_ref().map(|proxy| proxy.limits.connections);
        fn admin<T: PartialEq>(old: &Config, new: &Config, key: impl Fn(&Admin) -> &T) -> bool {
            old.admin.as_ref().zip(new.admin.as_ref()).is_some_and(|(a, b)| key(a) != key(b))
        }
        let without_accepted = |credentials: &Credentials| {
            let native = credentials.native.clone();
            native.map(|native| Native { accept_history: None, ..native })
        };
        let (old, new) = (&self.credentials, &other.credentials);
        [
            ("proxy (as a whole section)", self.proxy.is_some() != other.proxy.is_some()),
            ("proxy.workers", workers(self) != workers(other)),
            ("proxy.limits.connections", connections(self) != connections(other)),
            (
                "decision (as a whole section)",
                self.decision.is_empty() != other.decision.is_empty(),
            ),
            ("credentials.source", old.source != new.source),
            ("credentials.native", without_accepted(old) != without_accepted(new)),
            ("credentials.tencent", old.tencent != new.tencent),
            ("credentials.alibaba", old.alibaba != new.alibaba),
            ("credentials.file", old.file != new.file),
            ("credentials.deny", old.deny != new.deny),
            ("credentials.cache", old.cache != new.cache),
            ("admin (as a whole section)", self.admin.is_some() != other.admin.is_some()),
            ("admin.listen", admin(self, other, |admin| &admin.listen)),
            ("admin.store", admin(self, other, |admin| &admin.store)),
            (
                "admin.mirror",
                self.admin.as_ref().map(|it| &it.mirror)
                    != other.admin.as_ref().map(|it| &it.mirror),
            ),
            ("admin.tencent_time_offset", admin(self, other, |admin| &admin.tencent_time_offset)),
            ("replica", self.replica != other.replica),
            ("ops", self.ops != other.ops),
            ("log.format", self.log.format != other.log.format),
        ]
        .into_iter()
        .find_map(|(key, changed)| changed.then_some(key))
    }

    /// The config as it is in force, defaults and all. Secrets are references, so none shows.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("plain data has a YAML form")
    }

    /// JSON Schema (2020-12) of the config file, for editors.
    pub fn schema() -> String {
        let schema = schemars::schema_for!(Self);
        serde_json::to_string_pretty(&schema).expect("a schema is JSON")
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?.take(CONFIG_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Opens a file that can be read to its end: no pipe, which would wait for its writer, and no
/// device.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("this is not a regular file"))
    }
}

/// Reads what a reference leads to, without the blanks and line breaks around it. The refusal
/// tells what to mend and nothing of the secret.
pub fn read_secret(reference: &SecretRef) -> Result<String, String> {
    let text = match reference {
        SecretRef::Env(name) => std::env::var(name)
            .map_err(|_| format!("the environment variable {name} is not set to a text"))?,
        SecretRef::File(path) => {
            let mut text = String::new();
            let read = open_regular(path)
                .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text));
            read.map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
            text
        }
    };
    match text.trim() {
        "" => Err(format!("{reference} is empty")),
        secret => Ok(secret.to_owned()),
    }
}

const SECRET_BYTES_MAX: u64 = 16 << 10;

impl Fault {
    fn of_file(what: String) -> Self {
        Self { path: String::new(), line: 0, what }
    }
}

/// A file that cannot be taken, with all that is wrong in it.
#[derive(Debug)]
pub struct Invalid {
    pub file: PathBuf,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, fault) in self.faults.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{file}: {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

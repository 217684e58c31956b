//! The leaf values of `proxy.yaml`: each parses itself, says what it wants when it can't, and
//! prints itself as it would be written.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;
use crate::credential::TenantId;

/// Gives a type that has `FromStr` and `Display` its place in YAML and in the JSON Schema. The
/// refusal never repeats what was written: it may be a secret in the wrong place.
macro_rules! written_as_text {
    ($name:ident, $wanted:literal, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_value(deserializer, $wanted, |text| text.parse().ok())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $wanted, "pattern": $pattern })
            }
        }
    };
}

/// Reads a text by `read`. The refusal says what is wanted and not what was written.
pub fn text_value<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    wanted: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let refusal = || serde::de::Error::custom(format!("write {wanted}"));
    let value = serde_json::Value::deserialize(deserializer)?;
    value.as_str().and_then(read).ok_or_else(refusal)
}

/// The text does not follow the type's grammar; what is wanted stands with the type.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// A length of time: a whole number and `ms`, `s`, `m`, `h`, `d` or `y` (365 days).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

const SPAN_UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("y", 365 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
];

impl FromStr for Span {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let millis = number_with_unit(text, &SPAN_UNITS)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis() as u64;
        write_with_unit(f, millis, &SPAN_UNITS, "s")
    }
}

written_as_text!(
    Span,
    "a whole number and a unit out of ms, s, m, h, d and y (365 days), such as 30s",
    "^[0-9]+(ms|s|m|h|d|y)$"
);

/// A number of bytes: a whole number, with `KiB`, `MiB` or `GiB` behind it if need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        number_with_unit(text, &SIZE_UNITS).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_unit(f, self.0, &SIZE_UNITS, "B")
    }
}

written_as_text!(
    Size,
    "a whole number and a unit out of B, KiB, MiB and GiB, such as 8MiB",
    "^[0-9]+(B|KiB|MiB|GiB)$"
);

fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, Malformed> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(Malformed)?;
    let number: u64 = number.parse().map_err(|_| Malformed)?;
    number.checked_mul(*factor).ok_or(Malformed)
}

/// Takes the largest unit that loses nothing; `zero` is the unit of nothing.
fn write_with_unit(
    f: &mut fmt::Formatter<'_>,
    number: u64,
    units: &[(&str, u64)],
    zero: &str,
) -> fmt::Result {
    let whole = units.iter().filter(|(_, factor)| number != 0 && number.is_multiple_of(*factor));
    match whole.max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => write!(f, "{}{unit}", number / factor),
        None => write!(f, "0{zero}"),
    }
}

/// Where to listen: `IP:PORT`; port 0 lets the system choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.parse().map(Self).map_err(|_| Malformed)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

written_as_text!(
    Address,
    "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080",
    "^.+:[0-9]+$"
);

/// Where clients find us: `IP:PORT`, or `unix:SOCKET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(Address),
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether the system is to choose the port.
    pub fn has_port_0(&self) -> bool {
        self.tcp().is_some_and(|address| address.port() == 0)
    }

    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(address.0),
            Self::Unix(_) => None,
        }
    }

    pub(super) fn rebase(&mut self, directory: &Path) {
        if let Self::Unix(socket) = self {
            rebase(socket, directory);
        }
    }
}

impl FromStr for ListenAddress {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.strip_prefix("unix:") {
            Some(socket) if is_socket_path(socket) => Ok(Self::Unix(socket.into())),
            Some(_) => Err(Malformed),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(socket) => write!(f, "unix:{}", socket.display()),
        }
    }
}

written_as_text!(
    ListenAddress,
    "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080; or unix:SOCKET, such as unix:/run/scim-guard.sock",
    "^(unix:.+|.+:[0-9]+)$"
);

/// A colon would end it where a path may follow.
fn is_socket_path(path: &str) -> bool {
    !path.is_empty() && !path.ends_with('/') && !path.contains(['\0', ':'])
}

/// A network in CIDR form, or a single address; `unix:` stands for all who come by a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Ip(IpNet),
    Unix,
}

impl Network {
    /// IPv4 addresses written as IPv6 ones are the same peers. Who has none comes by a Unix socket.
    pub fn contains(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (Self::Ip(network), Some(address)) => network.contains(&address.to_canonical()),
            (Self::Unix, None) => true,
            _ => false,
        }
    }

    /// Whether it leaves nobody out.
    pub fn is_everybody(&self) -> bool {
        matches!(self, Self::Ip(network) if network.prefix_len() == 0)
    }
}

impl FromStr for Network {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "unix:" {
            return Ok(Self::Unix);
        }
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| single()).map_err(|_| Malformed)?;
        Ok(Self::Ip(canonical(network)))
    }
}

/// Peers of IPv4 are known by their own addresses, also where they come to a socket of IPv6.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let length = mapped.prefix_len().checked_sub(96);
    let address = mapped.addr().to_ipv4_mapped().zip(length);
    let short = address.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    short.map_or(network, IpNet::V4)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(network) => network.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

written_as_text!(
    Network,
    "a network or an address, such as 10.0.0.0/8; or unix: for all who come by a Unix socket",
    "^([0-9a-fA-F:.]+(/[0-9]+)?|unix:)$"
);

/// A host name as it stands in a `Host` header, without a port. Compared without case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        let bracketed = text.starts_with('[') && text.ends_with(']');
        let port = !bracketed && text.contains(':');
        if text.is_empty() || text.len() > 255 || port || !text.bytes().all(allowed) {
            return Err(Malformed);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

written_as_text!(
    HostName,
    "a host name without scheme and port, such as scim.example.com",
    "^[A-Za-z0-9.\\-_:\\[\\]]+$"
);

/// The name or address in a `Host` header, without the port and without the dot that ends an
/// absolute name; `None` if it is not well-formed (RFC 9110 section 7.2).
pub fn host_name(text: &str) -> Option<&str> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (text, ""),
    };
    let port_fits = port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5;
    let name_fits = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => has_labels(name.strip_suffix('.').unwrap_or(name)),
    };
    (port_fits && name_fits).then(|| name.strip_suffix('.').unwrap_or(name))
}

/// Whether it is one label or more with dots between them.
fn has_labels(name: &str) -> bool {
    let mut before = b'.';
    name.bytes().all(|byte| {
        let follows = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = follows || (byte == b'.' && before != b'.');
        before = byte;
        fits
    }) && before != b'.'
}

/// Whose users a route is about: one tenant, or the one that the path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTenant {
    One(TenantId),
    ByPath,
}

impl FromStr for RouteTenant {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "*" => Ok(Self::ByPath),
            _ => TenantId::parse(text).map(Self::One).map_err(|_| Malformed),
        }
    }
}

impl fmt::Display for RouteTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(tenant) => tenant.fmt(f),
            Self::ByPath => f.write_str("*"),
        }
    }
}

written_as_text!(
    RouteTenant,
    "a tenant id of 1 to 128 of A-Z a-z 0-9 . _ -, or \"*\" for the one that {tenant} in the path names",
    "^([A-Za-z0-9._-]{1,128}|\\*)$"
);

/// The path below which a route's requests lie. Matched on segment boundaries, so `/scim` covers
/// `/scim/Users` and not `/scimitar`. A segment may be `{tenant}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(String),
    Tenant,
}

impl RoutePath {
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn tenants(&self) -> usize {
        self.0.iter().filter(|segment| **segment == Segment::Tenant).count()
    }
}

impl FromStr for RoutePath {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let text = text.strip_prefix('/').ok_or(Malformed)?;
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        text.split('/').map(Segment::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, Malformed> {
        if text == "{tenant}" {
            return Ok(Self::Tenant);
        }
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte);
        let plain = !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed);
        if plain { Ok(Self::Literal(text.to_owned())) } else { Err(Malformed) }
    }
}

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Tenant => f.write_str("/{tenant}"),
        })
    }
}

written_as_text!(
    RoutePath,
    "a path such as /scim/v2 or /{tenant}/scim/v2, without query, dot segments and percent signs",
    "^/[^?#%]*$"
);

/// Where a backend is: `http://HOST:PORT/PATH`, `https://…`, or `unix:SOCKET:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    pub at: Location,
    pub path: RoutePath,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `host` is as in the URL, without brackets.
    Tcp {
        tls: bool,
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl UpstreamUrl {
    /// As it would stand in a `Host` header.
    pub fn authority(&self) -> String {
        let Location::Tcp { tls, host, port } = &self.at else { return "localhost".to_owned() };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == default_port(*tls) { host } else { format!("{host}:{port}") }
    }

    pub fn scheme(&self) -> &'static str {
        match self.at {
            Location::Tcp { tls: false, .. } => "http",
            Location::Tcp { tls: true, .. } => "https",
            Location::Unix(_) => "unix",
        }
    }

    pub(super) fn rebase(&mut self, directory: &Path) {
        if let Location::Unix(socket) = &mut self.at {
            rebase(socket, directory);
        }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl FromStr for UpstreamUrl {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
            let at = Location::Unix(socket.into());
            return match is_socket_path(socket) {
                true => Ok(Self { at, path: path.parse()? }),
                false => Err(Malformed),
            };
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(Malformed),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path }.parse()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| Malformed)?)
            }
            _ => (authority, default_port(tls)),
        };
        let name: HostName = host.parse()?;
        let host = name.0.trim_start_matches('[').trim_end_matches(']').to_owned();
        if port == 0 || (host.len() != name.0.len() && host.parse::<IpAddr>().is_err()) {
            return Err(Malformed);
        }
        Ok(Self { at: Location::Tcp { tls, host, port }, path })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Location::Unix(socket) => write!(f, "unix:{}:{}", socket.display(), self.path),
            Location::Tcp { .. } => {
                write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
            }
        }
    }
}

written_as_text!(
    UpstreamUrl,
    "http:// or https:// with host, port and path, such as http://127.0.0.1:9000/scim/v2, without user, query and percent signs; or unix:SOCKET:PATH, such as unix:/run/backend.sock:/scim/v2",
    "^(https?://[^/?#@]+(/[^?#%]*)?|unix:[^:]+(:/[^?#%]*)?)$"
);

/// What becomes of the client's `Authorization` header on the way to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    Remove,
    Keep,
    /// Replaced by what the file holds, which is the header's whole value.
    File(PathBuf),
}

impl FromStr for Authorization {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "remove" => Ok(Self::Remove),
            "keep" => Ok(Self::Keep),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(Malformed),
            },
        }
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove => f.write_str("remove"),
            Self::Keep => f.write_str("keep"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

written_as_text!(
    Authorization,
    "remove, keep, or file:PATH of a file that holds the header's whole value",
    "^(remove|keep|file:.+)$"
);

/// Where a secret is: `file:PATH`, whose content is trimmed, or `env:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    File(PathBuf),
    Env(String),
}

impl SecretRef {
    pub(super) fn rebase(&mut self, directory: &Path) {
        if let Self::File(path) = self {
            rebase(path, directory);
        }
    }
}

impl FromStr for SecretRef {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() && !name.contains('=') => {
                Ok(Self::Env(name.to_owned()))
            }
            _ => Err(Malformed),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

written_as_text!(
    SecretRef,
    "file:PATH or env:NAME of a secret, which itself must not stand here",
    "^(file|env):.+$"
);

/// Which store the admin API keeps: `sqlite:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRef(pub PathBuf);

impl StoreRef {
    pub(super) fn rebase(&mut self, directory: &Path) {
        rebase(&mut self.0, directory);
    }
}

impl FromStr for StoreRef {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() && !path.contains('?') => Ok(Self(path.into())),
            _ => Err(Malformed),
        }
    }
}

impl fmt::Display for StoreRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}

written_as_text!(StoreRef, "sqlite:PATH, such as sqlite:./data/admin.db", "^sqlite:.+$");

/// A tenant's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantName(pub TenantId);

impl FromStr for TenantName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        TenantId::parse(text).map(Self).map_err(|_| Malformed)
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

written_as_text!(
    TenantName,
    "a tenant id of 1 to 128 of A-Z a-z 0-9 . _ -",
    "^[A-Za-z0-9._-]{1,128}$"
);

/// A point in time, in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant(pub Timestamp);

impl FromStr for Instant {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Timestamp::parse(text).map(Self).ok_or(Malformed)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

written_as_text!(
    Instant,
    "a time with its zone, such as 2027-11-22T00:00:00Z",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].+$"
);

/// How far a zone's clocks are ahead of UTC, in minutes: `+08:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOffset(i16);

impl TimeOffset {
    pub const fn china() -> Self {
        Self(8 * 60)
    }

    pub fn minutes(self) -> i16 {
        self.0
    }
}

impl FromStr for TimeOffset {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = |digits: &[u8]| match digits {
            [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Ok(i16::from((a - b'0') * 10 + (b - b'0'))),
            _ => Err(Malformed),
        };
        let [sign @ (b'+' | b'-'), hours @ .., b':', tens, ones] = text.as_bytes() else {
            return Err(Malformed);
        };
        let (hours, minutes) = (number(hours)?, number(&[*tens, *ones])?);
        let all = hours * 60 + minutes;
        // No zone is further from UTC.
        if minutes > 59 || all > 14 * 60 {
            return Err(Malformed);
        }
        Ok(Self(if *sign == b'-' { -all } else { all }))
    }
}

impl fmt::Display for TimeOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, all) = (if self.0 < 0 { '-' } else { '+' }, self.0.abs());
        write!(f, "{sign}{:02}:{:02}", all / 60, all % 60)
    }
}

written_as_text!(
    TimeOffset,
    "how far clocks are ahead of UTC, at most 14 hours, such as \"+08:00\"",
    "^[+-][0-9]{2}:[0-9]{2}$"
);

/// Where an admin API is: `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminUrl {
    pub secure: bool,
    /// Host and port as they stand in a `Host` header.
    pub authority: String,
}

impl AdminUrl {
    /// Whether what is sent there stays on this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, port)| {
            if port.ends_with(']') { &self.authority } else { host }
        });
        is_loopback(host)
    }
}

/// Whether a host, with or without brackets, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for AdminUrl {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(Malformed),
        };
        let as_upstream: UpstreamUrl = format!("http://{rest}").parse()?;
        let authority = rest.trim_end_matches('/');
        if !as_upstream.path.segments().is_empty() || authority.contains('/') {
            return Err(Malformed);
        }
        Ok(Self { secure, authority: authority.to_ascii_lowercase() })
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority)
    }
}

written_as_text!(
    AdminUrl,
    "https:// (or http://) with host and port and without a path, such as https://guard-admin:8081",
    "^https?://[^/?#@]+/?$"
);

/// Puts a relative path below the directory of the config file.
pub fn rebase(path: &mut PathBuf, directory: &Path) {
    if path.is_relative() {
        *path = directory.join(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printed` is how the value is written back; `None` if it must be refused.
    fn check<T: FromStr + fmt::Display>(text: &str, printed: Option<&str>) {
        let parsed = text.parse::<T>().ok().map(|value| value.to_string());
        assert_eq!(parsed.as_deref(), printed, "{text}");
    }

    #[test]
    fn lengths_of_time() {
        check::<Span>("30s", Some("30s"));
        check::<Span>("60s", Some("1m"));
        check::<Span>("90m", Some("90m"));
        check::<Span>("1y", Some("1y"));
        check::<Span>("0s", Some("0s"));
        check::<Span>("1500ms", Some("1500ms"));
        for bad in ["30", "s", "1.5s", "-1s", "1 s", "1M", "1w", "99999999999999999999s"] {
            check::<Span>(bad, None);
        }
    }

    #[test]
    fn sizes() {
        check::<Size>("8MiB", Some("8MiB"));
        check::<Size>("2048KiB", Some("2MiB"));
        check::<Size>("0B", Some("0B"));
        for bad in ["8MB", "8", "8 MiB", "999999999999GiB"] {
            check::<Size>(bad, None);
        }
    }

    #[test]
    fn paths_of_routes() {
        check::<RoutePath>("/", Some("/"));
        check::<RoutePath>("/scim/v2", Some("/scim/v2"));
        check::<RoutePath>("/scim/v2/", Some("/scim/v2"));
        check::<RoutePath>("/{tenant}/scim", Some("/{tenant}/scim"));
        for bad in [
            "",
            "scim",
            "//",
            "/a//b",
            "/a/../b",
            "/a%2fb",
            "/a?b",
            "/{tenant",
            "/x{tenant}",
            "/a;b",
        ] {
            check::<RoutePath>(bad, None);
        }
    }

    #[test]
    fn urls_of_backends() {
        check::<UpstreamUrl>(
            "http://127.0.0.1:9000/scim/v2",
            Some("http://127.0.0.1:9000/scim/v2"),
        );
        check::<UpstreamUrl>("http://Backend", Some("http://backend/"));
        check::<UpstreamUrl>("http://[::1]:9000", Some("http://[::1]:9000/"));
        check::<UpstreamUrl>("https://backend", Some("https://backend/"));
        check::<UpstreamUrl>("https://backend:443/a", Some("https://backend/a"));
        check::<UpstreamUrl>("https://backend:80/a", Some("https://backend:80/a"));
        check::<UpstreamUrl>("http://backend:443/a", Some("http://backend:443/a"));
        check::<UpstreamUrl>("unix:/run/b.sock", Some("unix:/run/b.sock:/"));
        check::<UpstreamUrl>("unix:b.sock:/scim/v2/", Some("unix:b.sock:/scim/v2"));
        check::<UpstreamUrl>("unix:/b:/{tenant}/a:b", Some("unix:/b:/{tenant}/a:b"));
        for bad in [
            "127.0.0.1:9000",
            "ftp://backend/",
            "unix:",
            "unix::/scim",
            "unix:/run/:/scim",
            "unix:/run/b.sock:scim",
            "unix:/run/b.sock:/a?b",
            "http://",
            "https://",
            "https://user:word@backend/",
            "http://user:word@backend/",
            "http://backend:0/",
            "http://backend:99999/",
            "http://backend/a?b",
            "http://[backend]/",
        ] {
            check::<UpstreamUrl>(bad, None);
        }
    }

    #[test]
    fn authorization_modes() {
        check::<Authorization>("keep", Some("keep"));
        check::<Authorization>("file:/run/secret", Some("file:/run/secret"));
        for bad in ["Keep", "file:", "Bearer abc", "env:TOKEN"] {
            check::<Authorization>(bad, None);
        }
    }

    #[test]
    fn references_and_admin_urls() {
        check::<SecretRef>("file:/run/token", Some("file:/run/token"));
        check::<SecretRef>("env:TOKEN", Some("env:TOKEN"));
        for bad in ["file:", "env:", "secret", "vault:x"] {
            check::<SecretRef>(bad, None);
        }
        check::<StoreRef>("sqlite:./data/admin.db", Some("sqlite:./data/admin.db"));
        check::<StoreRef>("postgres://x", None);
        check::<AdminUrl>("https://Guard-admin:8081/", Some("https://guard-admin:8081"));
        for bad in ["guard-admin:8081", "https://a/b", "ftp://a", "https://u:p@a", "https://"] {
            check::<AdminUrl>(bad, None);
        }
        let local = |text: &str| text.parse::<AdminUrl>().expect("valid").is_loopback();
        assert!(local("http://127.0.0.1:8081") && local("http://[::1]:1") && local("http://[::1]"));
        assert!(!local("http://10.0.0.1:8081") && !local("http://guard-admin"));
        check::<Instant>("2027-11-22T00:00:00Z", Some("2027-11-22T00:00:00Z"));
        check::<Instant>("2027-11-22", None);
        check::<TimeOffset>("+08:00", Some("+08:00"));
        check::<TimeOffset>("-03:30", Some("-03:30"));
        check::<TimeOffset>("-00:30", Some("-00:30"));
        check::<TimeOffset>("-00:00", Some("+00:00"));
        for bad in ["", "Z", "08:00", "+8:00", "+0800", "+08:60", "+14:01", "+ä:00", "+08:00:00"] {
            check::<TimeOffset>(bad, None);
        }
    }

    #[test]
    fn hosts_addresses_networks_and_tenants() {
        check::<HostName>("SCIM.example.com", Some("scim.example.com"));
        check::<HostName>("scim.example.com:443", None);
        check::<Address>("localhost:80", None);
        check::<Network>("10.0.0.0/8", Some("10.0.0.0/8"));
        check::<Network>("10.1.2.3", Some("10.1.2.3/32"));
        check::<Network>("10.0.0.0/33", None);
        check::<Network>("::ffff:10.1.2.3", Some("10.1.2.3/32"));
        check::<Network>("::ffff:10.0.0.0/104", Some("10.0.0.0/8"));
        check::<Network>("::/0", Some("::/0"));
        check::<RouteTenant>("*", Some("*"));
        check::<RouteTenant>("a/b", None);
        let network: Network = "10.0.0.0/8".parse().expect("valid");
        assert!(network.contains("::ffff:10.1.2.3".parse().ok()));
    }
}

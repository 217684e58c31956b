//! The rules between the values of a config: what each of them cannot know alone.

use std::collections::HashMap;
use std::time::Duration;

use rustls_pki_types::ServerName;

use super::tls::Tls;
use super::value::{AdminUrl, ListenAddress, Location, RouteTenant, Segment, Span, host_name};
use super::yaml::Fault;
use super::{
    Admin, Alibaba, Config, Credentials, Edge, Limits, Proxy, Role, Route, Source, Tencent,
    Upstream,
};
use crate::credential::TenantId;
use crate::credential::feed::History;

/// All faults, without lines.
pub fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Faults::default();
    if let Some(proxy) = &config.proxy {
        check_proxy(proxy, !config.decision.is_empty(), &mut faults);
    }
    check_decision(config, &mut faults);
    check_ports(config, &mut faults);
    check_credentials(config, &mut faults);
    if let Some(admin) = &config.admin {
        check_admin(admin, &mut faults);
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.0.push(Fault { path: path.into(), line: 0, what: what.into() });
    }

    fn add_if(&mut self, wrong: bool, path: impl Into<String>, what: impl Into<String>) {
        if wrong {
            self.add(path, what);
        }
    }
}

/// `decides` is whether other proxies can ask, too.
fn check_proxy(proxy: &Proxy, decides: bool, faults: &mut Faults) {
    faults.add_if(
        proxy.listeners.is_empty() && !decides,
        "proxy.listeners",
        "no listener: add one, such as - address: 127.0.0.1:8080",
    );
    for (index, listener) in proxy.listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls {
            check_tls(tls, &format!("proxy.listeners[{index}].tls"), faults);
        }
    }
    faults.add_if(
        proxy.workers.is_some_and(|workers| !(1..=1024).contains(&workers)),
        "proxy.workers",
        "must be between 1 and 1024; leave it out for one a core",
    );
    for (index, network) in proxy.trusted_proxies.iter().enumerate() {
        faults.add_if(
            network.is_everybody(),
            format!("proxy.trusted_proxies[{index}]"),
            "trusts the whole world: name the networks of your own proxies",
        );
    }
    faults.add_if(
        proxy.routes.is_empty(),
        "proxy.routes",
        "no route: add one with tenant, path and upstream",
    );
    for (index, listener) in proxy.listeners.iter().enumerate() {
        faults.add_if(
            listener.h2c && listener.tls.is_some(),
            format!("proxy.listeners[{index}].h2c"),
            H2C_WITHIN_TLS,
        );
    }
    for (index, route) in proxy.routes.iter().enumerate() {
        let place = format!("proxy.routes[{index}]");
        check_route(route, &place, faults);
        faults.add_if(
            route.upstream.is_none() && !decides,
            place,
            "has no upstream: write where its requests go",
        );
        let twin = proxy.routes[..index]
            .iter()
            .position(|other| other.host == route.host && other.path == route.path);
        if let Some(twin) = twin {
            let what = format!(
                "has the same host and path as routes[{twin}]: change one, or take one out"
            );
            faults.add(format!("proxy.routes[{index}].path"), what);
        }
    }
    check_limits(&proxy.limits, faults);
    at_most(proxy.drain.delay, DAY, "proxy.drain.delay", faults);
    at_most(proxy.drain.deadline, DAY, "proxy.drain.deadline", faults);
}

fn check_decision(config: &Config, faults: &mut Faults) {
    faults.add_if(
        !config.decision.is_empty() && config.proxy.is_none(),
        "decision",
        "needs routes: add the section proxy with routes, which needs no listeners then",
    );
    for (index, listener) in config.decision.iter().enumerate() {
        let place = format!("decision[{index}]");
        if let Some(tls) = &listener.tls {
            check_tls(tls, &format!("{place}.tls"), faults);
        }
        faults.add_if(
            listener.h2c && listener.tls.is_some(),
            format!("{place}.h2c"),
            H2C_WITHIN_TLS,
        );
        let prefix = listener.prefix.as_ref();
        faults.add_if(
            prefix.is_some() && listener.edge != Edge::Envoy,
            format!("{place}.prefix"),
            "is what Envoy puts before the path: take it out, or write edge: envoy",
        );
        faults.add_if(
            prefix.is_some_and(|prefix| prefix.tenants() > 0),
            format!("{place}.prefix"),
            "has {tenant}, which belongs into a route's path",
        );
        let known = |tenant: &TenantId| {
            let routes = config.proxy.iter().flat_map(|proxy| &proxy.routes);
            let mut tenants = routes.map(|route| &route.tenant);
            tenants.any(|it| *it == RouteTenant::ByPath || *it == RouteTenant::One(tenant.clone()))
        };
        faults.add_if(
            listener.tenant.as_ref().is_some_and(|tenant| !known(&tenant.0)),
            format!("{place}.tenant"),
            "has no route, so nothing could be allowed here: add one, or name another tenant",
        );
        for (network, entry) in listener.allow_from.iter().enumerate() {
            faults.add_if(
                entry.is_everybody(),
                format!("{place}.allow_from[{network}]"),
                "lets everybody in: name the proxies that ask, or leave allow_from out",
            );
        }
    }
}

const H2C_WITHIN_TLS: &str = "is about clear text, and this listener has tls, where clients choose HTTP/2 by \
                              themselves: take it out";

fn check_tls(tls: &Tls, place: &str, faults: &mut Faults) {
    let Some(first) = tls.certificates.first() else {
        return faults.add(place, "no certificate: add one with certificate and private_key");
    };
    for (place, it) in tls.places(place) {
        faults.add_if(
            it.client_ca.is_some() && it.client_auth.is_none(),
            format!("{place}.client_ca"),
            "has no client_auth beside it: add client_auth: required, or optional",
        );
        faults.add_if(
            it.client_auth.is_some() && it.client_ca.is_none(),
            format!("{place}.client_auth"),
            "has no client_ca beside it: add the file with the authorities of clients' certificates",
        );
        // A client is asked before we know which name its requests will have.
        faults.add_if(
            (&it.client_ca, it.client_auth) != (&first.client_ca, first.client_auth),
            place,
            "asks clients for other certificates than the first entry: write the same client_ca and client_auth in all, or give this name a listener of its own",
        );
    }
}

fn check_route(route: &Route, place: &str, faults: &mut Faults) {
    let (by_path, named) = (route.tenant == RouteTenant::ByPath, route.path.tenants());
    let host = route.host.as_ref().map(|host| host.as_str());
    faults.add_if(
        host.is_some_and(|host| host_name(host) != Some(host)),
        format!("{place}.host"),
        "is no host that a request can name: write it without a dot at its end, such as scim.example.com",
    );
    faults.add_if(
        by_path && named == 0,
        format!("{place}.path"),
        "has no {tenant}, from which tenant \"*\" would be read: add it, or name the tenant",
    );
    faults.add_if(
        !by_path && named > 0,
        format!("{place}.tenant"),
        "is one tenant while the path has {tenant}: write \"*\", or take {tenant} out of the path",
    );
    faults.add_if(named > 1, format!("{place}.path"), "has {tenant} twice: keep one");
    let literal =
        |segment: &Segment| matches!(segment, Segment::Literal(text) if text.contains('{'));
    faults.add_if(
        route.path.segments().iter().any(literal),
        format!("{place}.path"),
        "has braces: only {tenant} is known",
    );
    for (index, name) in route.open.iter().enumerate() {
        faults.add_if(
            name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            format!("{place}.open[{index}]"),
            "must be one resource's name, such as Schemas, without slashes",
        );
    }
    let Some(upstream) = &route.upstream else { return };
    let place = format!("{place}.upstream");
    for (place, url) in upstream.places(&place) {
        faults.add_if(
            named == 0 && url.path.tenants() > 0,
            place,
            "has {tenant}, which the route's path does not: add it there, or write the tenant's id",
        );
    }
    check_upstream(upstream, &place, faults);
}

fn check_upstream(upstream: &Upstream, place: &str, faults: &mut Faults) {
    let urls = upstream.urls();
    faults.add_if(urls.is_empty(), place, "has no url: write where the SCIM server is");
    faults.add_if(
        upstream.url.is_some() && !upstream.urls.is_empty(),
        format!("{place}.urls"),
        "stands beside url: keep one of the two",
    );
    for (index, (place, url)) in upstream.places(place).enumerate() {
        let first = &urls[0];
        faults.add_if(
            url.path != first.path,
            &place,
            "has another path than urls[0]: requests take turns, so write the same in all",
        );
        faults.add_if(
            url.scheme() != first.scheme(),
            &place,
            "has another scheme than urls[0]: write the same in all",
        );
        if let Some(twin) = urls[..index].iter().position(|other| other == url) {
            faults.add(&place, format!("is the same as urls[{twin}]: take one out"));
        }
    }
    check_upstream_tls(upstream, place, faults);
    for (span, key) in [
        (upstream.connect_timeout, "connect_timeout"),
        (upstream.response_timeout, "response_timeout"),
    ] {
        positive(span, &format!("{place}.{key}"), faults);
    }
    let minute = Duration::from_secs(60);
    at_most(upstream.connect_wait, minute, &format!("{place}.connect_wait"), faults);
    faults.add_if(
        !(1..=1_000_000).contains(&upstream.connections),
        format!("{place}.connections"),
        "must be between 1 and 1000000",
    );
}

fn check_upstream_tls(upstream: &Upstream, place: &str, faults: &mut Faults) {
    let secure = upstream.urls().iter().any(|url| url.scheme() == "https");
    for (set, key) in [
        (upstream.ca.is_some(), "ca"),
        (upstream.client_certificate.is_some(), "client_certificate"),
        (upstream.client_key.is_some(), "client_key"),
        (upstream.server_name.is_some(), "server_name"),
    ] {
        faults.add_if(
            set && !secure,
            format!("{place}.{key}"),
            "is for TLS, which the url does not ask for: write https://, or take this out",
        );
    }
    faults.add_if(
        upstream.client_certificate.is_some() && upstream.client_key.is_none(),
        format!("{place}.client_certificate"),
        "has no client_key beside it: add the file with its key",
    );
    faults.add_if(
        upstream.client_key.is_some() && upstream.client_certificate.is_none(),
        format!("{place}.client_key"),
        "has no client_certificate beside it: add the file with the certificate",
    );
    if let Some(name) = &upstream.server_name {
        faults.add_if(
            ServerName::try_from(name.as_str()).is_err(),
            format!("{place}.server_name"),
            "must be a DNS name, or an address without brackets, as the backend's certificate has it",
        );
        return;
    }
    for (place, url) in upstream.places(place) {
        let named = match &url.at {
            Location::Tcp { tls: true, host, .. } => ServerName::try_from(host.as_str()).is_ok(),
            _ => true,
        };
        faults.add_if(
            !named,
            place,
            "has a host that no certificate can name: add server_name with the name that it has",
        );
    }
}

fn check_limits(limits: &Limits, faults: &mut Faults) {
    for (span, key) in [
        (limits.header_timeout, "header_timeout"),
        (limits.body_idle_timeout, "body_idle_timeout"),
        (limits.send_idle_timeout, "send_idle_timeout"),
        (limits.request_time, "request_time"),
        (limits.idle_timeout, "idle_timeout"),
    ] {
        positive(span, &format!("proxy.limits.{key}"), faults);
    }
    faults.add_if(
        !(8 << 10..=1 << 20).contains(&limits.header_bytes.0),
        "proxy.limits.header_bytes",
        "must be between 8KiB and 1MiB",
    );
    faults.add_if(
        !(1..=1_000_000).contains(&limits.connections),
        "proxy.limits.connections",
        "must be between 1 and 1000000",
    );
    faults.add_if(
        !(1..=10_000).contains(&limits.streams),
        "proxy.limits.streams",
        "must be between 1 and 10000",
    );
}

fn check_ports(config: &Config, faults: &mut Faults) {
    let tcp = ListenAddress::Tcp;
    let ops = config.ops.iter().map(|ops| (tcp(ops.listen), "ops.listen".to_owned()));
    let admin = config.admin.iter().map(|admin| (tcp(admin.listen), "admin.listen".to_owned()));
    let listeners = config.proxy.iter().flat_map(|proxy| proxy.listeners.iter().enumerate());
    let proxy = listeners
        .map(|(index, it)| (it.address.clone(), format!("proxy.listeners[{index}].address")));
    let decision = config.decision.iter().enumerate();
    let decision =
        decision.map(|(index, it)| (it.address.clone(), format!("decision[{index}].address")));
    let mut taken = Vec::new();
    for (address, place) in ops.chain(admin).chain(proxy).chain(decision) {
        let twin = taken.iter().find(|(other, _)| *other == address);
        if let Some((_, other)) = twin.filter(|_| !address.has_port_0()) {
            faults.add(&place, format!("is the same as {other}: choose another one"));
        }
        taken.push((address, place));
    }
}

fn check_admin(admin: &Admin, faults: &mut Faults) {
    faults.add_if(
        !admin.listen.0.ip().is_loopback() && admin.tls.is_none() && !admin.insecure_cleartext,
        "admin.listen",
        "is not loopback, and tokens and secrets would cross the network in clear text: add tls, or set \
         insecure_cleartext: true where something else encrypts",
    );
    if let Some(tls) = &admin.tls {
        check_tls(tls, "admin.tls", faults);
    }
    for (index, token) in admin.tokens.iter().enumerate() {
        let place = format!("admin.tokens[{index}]");
        faults.add_if(
            !is_name(&token.name),
            format!("{place}.name"),
            "must be 1 to 64 of A-Z a-z 0-9 . _ @ -: the audit log calls its holder so",
        );
    }
    let asked_for = admin.tls.as_ref().is_some_and(|tls| tls.client_auth().is_some());
    for (index, certificate) in admin.certificates.iter().enumerate() {
        let place = format!("admin.certificates[{index}].san");
        faults.add_if(
            !asked_for,
            &place,
            "needs clients that are asked for certificates: add client_ca and client_auth to admin.tls",
        );
        let san = &certificate.san;
        let printable = san.bytes().all(|byte| byte.is_ascii_graphic());
        faults.add_if(
            !(1..=255).contains(&san.len()) || !printable,
            &place,
            "must be a URI or a DNS name of up to 255 printable characters",
        );
    }
    check_access_keys(admin, faults);
    check_names(admin, faults);
    check_mirrors(admin, faults);
    let limits = &admin.limits;
    faults.add_if(
        !(1..=10_000).contains(&limits.credentials_per_tenant),
        "admin.limits.credentials_per_tenant",
        "must be between 1 and 10000",
    );
    for (rate, key) in [
        (limits.tencent_requests_per_second, "tencent_requests_per_second"),
        (limits.alibaba_requests_per_second, "alibaba_requests_per_second"),
    ] {
        faults.add_if(
            !(1..=1_000_000).contains(&rate),
            format!("admin.limits.{key}"),
            "must be between 1 and 1000000",
        );
    }
    faults.add_if(
        limits.expire_min > limits.expire_max,
        "admin.limits.expire_min",
        "is longer than expire_max: make it shorter",
    );
    faults.add_if(
        !(limits.expire_min..=limits.expire_max).contains(&limits.expire_default)
            && limits.expire_min <= limits.expire_max,
        "admin.limits.expire_default",
        "must lie between expire_min and expire_max",
    );
    at_most(limits.expire_max, CENTURY, "admin.limits.expire_max", faults);
}

fn check_access_keys(admin: &Admin, faults: &mut Faults) {
    for (index, key) in admin.access_keys.iter().enumerate() {
        let place = format!("admin.access_keys[{index}]");
        faults.add_if(
            !is_name(&key.id),
            format!("{place}.id"),
            "must be 1 to 64 of A-Z a-z 0-9 . _ @ -",
        );
        faults.add_if(
            key.role == Role::Replica,
            format!("{place}.role"),
            "is for proxies, which take a token: write operator, responder or reader",
        );
    }
}

/// Whoever may use the API, by whatever, is audited under a name, and reports for a replica under it.
fn check_names(admin: &Admin, faults: &mut Faults) {
    let numbered = |list: &str, index: usize, key: &str| format!("admin.{list}[{index}].{key}");
    let mut names: Vec<(&str, String)> = Vec::new();
    for (index, token) in admin.tokens.iter().enumerate() {
        names.push((&token.name, numbered("tokens", index, "name")));
    }
    for (index, certificate) in admin.certificates.iter().enumerate() {
        names.push((&certificate.san, numbered("certificates", index, "san")));
    }
    for (index, key) in admin.access_keys.iter().enumerate() {
        names.push((&key.id, numbered("access_keys", index, "id")));
    }
    let mut first = HashMap::new();
    for (name, place) in names {
        if let Some(other) = first.get(name) {
            let what = format!("is taken by {other}: the audit log could not tell the two apart");
            faults.add(place, what);
        } else {
            first.insert(name, place);
        }
    }
}

/// What the audit log can call somebody.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

fn check_credentials(config: &Config, faults: &mut Faults) {
    let credentials = &config.credentials;
    faults.add_if(
        credentials.source == Source::Embedded && config.admin.is_none(),
        "credentials.source",
        "is embedded, and there is no admin section: add one with listen and store",
    );
    faults.add_if(
        credentials.source == Source::Native && credentials.native.is_none(),
        "credentials.source",
        "is native, and there is no native section: add one with url and token",
    );
    if let Some(native) = &credentials.native {
        faults.add_if(
            !native.url.secure && !native.url.is_loopback() && !native.insecure_cleartext,
            "credentials.native.url",
            "is clear text beyond loopback, and the token would cross the network: write https://, \
             or set insecure_cleartext: true where something else encrypts",
        );
        let malformed = |id: &String| id.parse::<History>().is_err();
        faults.add_if(
            native.accept_history.as_ref().is_some_and(malformed),
            "credentials.native.accept_history",
            "is no history's id: the log and `source accept` name it",
        );
    }
    check_cloud_source(credentials, faults);
    faults.add_if(
        credentials.source == Source::File && credentials.file.is_none(),
        "credentials.source",
        "is file, and there is no file section: add file: { path: credentials.yaml }",
    );
    let looks = Span::seconds(1);
    faults.add_if(credentials.refresh < looks, "credentials.refresh", "must be at least 1s");
    at_most(credentials.refresh, DAY, "credentials.refresh", faults);
    for (span, key) in
        [(credentials.max_stale.reads, "reads"), (credentials.max_stale.writes, "writes")]
    {
        faults.add_if(
            span < credentials.refresh,
            format!("credentials.max_stale.{key}"),
            "is shorter than refresh, so good tokens would be refused between two of them: make it longer",
        );
    }
}

fn check_cloud_source(credentials: &Credentials, faults: &mut Faults) {
    let (tencent, alibaba) = (&credentials.tencent, &credentials.alibaba);
    if let Some(tencent) = tencent {
        check_tencent(tencent, "credentials.tencent", faults);
    }
    if let Some(alibaba) = alibaba {
        check_alibaba(alibaba, "credentials.alibaba", faults);
    }
    let tencent = tencent.as_ref().map(|it| it.enrolment.is_some());
    let alibaba = alibaba.as_ref().map(|it| it.enrolment.is_some());
    let (enrolled, name, keys) = match credentials.source {
        Source::Tencent => (tencent, "tencent", "zone_id, secret_id, secret_key"),
        Source::Alibaba => (alibaba, "alibaba", "directory_id, access_key_id, access_key_secret"),
        Source::Embedded | Source::Native | Source::File => return,
    };
    match enrolled {
        None => faults.add(
            "credentials.source",
            format!("is {name}, and there is no {name} section: add one with {keys} and enrolment"),
        ),
        Some(false) => faults.add(
            format!("credentials.{name}"),
            "names no file with the digests of tokens, which the cloud does not tell: add \
             enrolment: enrolment.yaml",
        ),
        Some(true) => {}
    }
}

fn check_mirrors(admin: &Admin, faults: &mut Faults) {
    for (index, mirror) in admin.mirror.iter().enumerate() {
        let place = format!("admin.mirror[{index}]");
        faults.add_if(
            mirror.tencent.is_some() == mirror.alibaba.is_some(),
            &place,
            "must be one zone or one directory: write either tencent or alibaba",
        );
        positive(mirror.interval, &format!("{place}.interval"), faults);
        at_most(mirror.interval, DAY, &format!("{place}.interval"), faults);
        let twin = admin.mirror[..index].iter().any(|other| other.tenant() == mirror.tenant());
        faults.add_if(twin, &place, "is mirrored twice: take one out");
        let enrolments = [
            mirror.tencent.as_ref().and_then(|it| it.enrolment.as_ref()),
            mirror.alibaba.as_ref().and_then(|it| it.enrolment.as_ref()),
        ];
        faults.add_if(
            enrolments.iter().any(Option::is_some),
            &place,
            "has an enrolment file, and the store keeps enrolments here: take it out",
        );
        if let Some(tencent) = &mirror.tencent {
            check_tencent(tencent, &format!("{place}.tencent"), faults);
        }
        if let Some(alibaba) = &mirror.alibaba {
            check_alibaba(alibaba, &format!("{place}.alibaba"), faults);
        }
    }
}

fn check_tencent(tencent: &Tencent, place: &str, faults: &mut Faults) {
    check_endpoint(&tencent.endpoint, tencent.insecure_cleartext, place, faults);
    let named = |region: &String| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !region.is_empty() && region.bytes().all(allowed)
    };
    faults.add_if(
        !tencent.region.as_ref().is_none_or(named),
        format!("{place}.region"),
        "must be a region's name, such as ap-guangzhou, or be left out",
    );
}

fn check_alibaba(alibaba: &Alibaba, place: &str, faults: &mut Faults) {
    check_endpoint(&alibaba.endpoint, alibaba.insecure_cleartext, place, faults);
}

fn check_endpoint(endpoint: &AdminUrl, insecure: bool, place: &str, faults: &mut Faults) {
    faults.add_if(
        !endpoint.secure && !endpoint.is_loopback() && !insecure,
        format!("{place}.endpoint"),
        "is clear text beyond loopback, where others could read new secrets and send our requests \
         again: write https://, or set insecure_cleartext: true where something else encrypts",
    );
}

fn positive(span: Span, path: &str, faults: &mut Faults) {
    faults.add_if(span.0.is_zero(), path, "must be longer than nothing");
    at_most(span, DAY, path, faults);
}

fn at_most(span: Span, most: Duration, path: &str, faults: &mut Faults) {
    faults.add_if(span.0 > most, path, format!("must be at most {}", Span(most)));
}

const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const GOOD: &str = r#"
proxy:
  listeners: [{ address: 127.0.0.1:8080 }]
  routes:
    - tenant: z-1
      path: /scim/v2
      upstream: { url: "http://127.0.0.1:9000/scim/v2" }
credentials: { source: file, file: { path: credentials.yaml } }
ops: { listen: 127.0.0.1:9090 }
"#;

    /// What is told of the good config with `from` replaced by `to`.
    fn check(from: &str, to: &str, told: &[&str]) {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let faults = Config::parse(&text, Path::new("/etc/guard")).err().unwrap_or_default();
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(faults.len(), told.len(), "{faults:#?}");
        for (fault, told) in faults.iter().zip(told) {
            assert!(fault.contains(told), "{fault} should tell {told}");
        }
    }

    #[test]
    fn a_good_config_passes_and_prints_as_it_is_in_force() {
        let config = Config::parse(GOOD, Path::new("/etc/guard")).expect("valid");
        let printed = config.to_yaml();
        assert!(printed.contains("request_body: 8MiB"), "{printed}");
        assert!(printed.contains("path: /etc/guard/credentials.yaml"), "{printed}");
        assert_eq!(Config::parse(&printed, Path::new("/")).expect("printed is valid"), config);
    }

    #[test]
    fn wrong_values_are_told_with_line_path_and_mend() {
        check("/scim/v2\n", "scim\n", &["line 6, proxy.routes[0].path: write a path such as"]);
        check("127.0.0.1:8080", "localhost", &["line 3, proxy.listeners[0].address: write an IP"]);
        check(
            "listen:",
            "listn:",
            &["unknown key: did you mean `listen`?", "`listen` is required"],
        );
        check(
            "source: file",
            "source: etcd",
            &[
                "credentials.source: this does not belong here: write one of embedded, native, tencent, alibaba, file",
            ],
        );
        check(
            "- tenant: z-1",
            "- host: a.\n      tenant: z-1",
            &["proxy.routes[0].host: is no host"],
        );
        check(
            "- tenant: z-1",
            "- host: '[a]'\n      tenant: z-1",
            &["proxy.routes[0].host: is no"],
        );
        check("- tenant: z-1", "- tenant: 7", &["proxy.routes[0].tenant: write a tenant id"]);
    }

    #[test]
    fn rules_between_values() {
        check("127.0.0.1:8080", "127.0.0.1:9090", &["is the same as ops.listen"]);
        check("/scim/v2\n", "/{tenant}/v2\n", &["proxy.routes[0].tenant: is one tenant while"]);
        check("tenant: z-1", "tenant: \"*\"", &["proxy.routes[0].path: has no {tenant}"]);
        check("9000/scim", "9000/{tenant}", &["proxy.routes[0].upstream.url: has {tenant}"]);
        check(", file: { path: credentials.yaml }", "", &["there is no file section"]);
        check("  routes:", "  trusted_proxies: [0.0.0.0/0]\n  routes:", &["the whole world"]);
        check(
            "  routes:",
            "  limits: { header_bytes: 1KiB, idle_timeout: 0s }\n  routes:",
            &["idle_timeout: must be longer", "header_bytes: must be between"],
        );
        let twin =
            "    - { tenant: z-2, path: /scim/v2/, upstream: { url: http://b/ } }\ncredentials:";
        check("credentials:", twin, &["same host and path as routes[0]"]);
    }

    #[test]
    fn rules_of_access_keys() {
        let check = |admin: &str, told: &[&str]| {
            let start = "admin: { store: 'sqlite:a.db', tokens: [{ name: ci, role: reader, token: \
                         'env:A' }], ";
            check("ops:", &format!("{start}{admin} }}\nops:"), told);
        };
        let key = |id: &str, role: &str| format!("{{ id: '{id}', secret: 'env:B', role: {role} }}");
        let keys = |listen: &str, keys: &[String]| {
            format!("listen: '{listen}:8081', access_keys: [{}]", keys.join(", "))
        };
        let good = key("AKID1", "operator");
        check(&keys("127.0.0.1", std::slice::from_ref(&good)), &[]);
        check(&keys("0.0.0.0", std::slice::from_ref(&good)), &["admin.listen: is not loopback"]);
        let twins = [good, key("AKID1", "reader"), key("ci", "reader"), key("a/b", "reader")];
        let told = [
            "admin.access_keys[3].id: must be",
            "admin.access_keys[1].id: is taken",
            "admin.access_keys[2].id: is taken",
        ];
        check(&keys("127.0.0.1", &twins), &told);
        let told = ["admin.access_keys[0].role: is for proxies"];
        check(&keys("127.0.0.1", &[key("AKID1", "replica")]), &told);
        let rates = "listen: '127.0.0.1:8081', limits: { tencent_requests_per_second: 0 }";
        check(rates, &["admin.limits.tencent_requests_per_second: must be"]);
    }

    #[test]
    fn no_two_who_use_the_admin_api_have_one_name() {
        let tls = "{ certificate: a, private_key: b, client_ca: c, client_auth: optional }";
        let text = format!(
            "admin: {{ listen: '127.0.0.1:8081', store: 'sqlite:a', tls: {tls},\n  \
             tokens: [{{ name: a, role: replica, token: 'env:A' }}, {{ name: b, role: reader, \
             token: 'env:B' }}, {{ name: a, role: reader, token: 'env:C' }}],\n  \
             certificates: [{{ san: b, role: replica }}, {{ san: c, role: reader }}],\n  \
             access_keys: [{{ id: c, secret: 'env:D', role: reader }}, {{ id: d, secret: 'env:E', \
             role: reader }}] }}\nops:"
        );
        let told = [
            "admin.tokens[2].name: is taken by admin.tokens[0].name",
            "admin.certificates[0].san: is taken by admin.tokens[1].name",
            "admin.access_keys[0].id: is taken by admin.certificates[1].san",
        ];
        check("ops:", &text, &told);
    }

    #[test]
    fn rules_of_tls() {
        let check = |tls: &str, told: &[&str]| {
            check("127.0.0.1:8080", &format!("127.0.0.1:8080, tls: {tls}"), told);
        };
        let pair = "certificate: a, private_key: b";
        check(&format!("{{ {pair} }}"), &[]);
        check(&format!("[{{ {pair} }}, {{ {pair} }}]"), &[]);
        check(&format!("{{ {pair}, client_ca: c, client_auth: required }}"), &[]);
        check("[]", &["line 3, proxy.listeners[0].tls: no certificate: add one"]);
        check("{ certificate: a }", &["proxy.listeners[0].tls: `private_key` is required"]);
        check(
            &format!("{{ {pair}, client_ca: c }}"),
            &["proxy.listeners[0].tls.client_ca: has no client_auth beside it: add"],
        );
        check(
            &format!("{{ {pair}, client_auth: optional }}"),
            &["proxy.listeners[0].tls.client_auth: has no client_ca beside it: add"],
        );
        check(
            &format!("[{{ {pair} }}, {{ {pair}, client_ca: c, client_auth: required }}]"),
            &["proxy.listeners[0].tls[1]: asks clients for other certificates than the first"],
        );
    }

    #[test]
    fn rules_of_upstreams() {
        let check = |keys: &str, told: &[&str]| {
            check("url: \"http://127.0.0.1:9000/scim/v2\"", keys, told);
        };
        let place = "proxy.routes[0].upstream";
        let told = |key: &str, what: &str| format!("{place}{key}: {what}");
        check("url: 'unix:/run/b.sock:/scim'", &[]);
        check("urls: ['http://a/scim', 'http://b/scim']", &[]);
        check("url: 'https://b/', ca: a, client_certificate: b, client_key: c", &[]);
        check("url: 'https://10.0.0.1/'", &[]);
        check("connect_wait: 1s", &[&told("", "has no url")]);
        check("urls: []", &[&told("", "has no url")]);
        check("url: 'http://a/', urls: ['http://b/']", &[&told(".urls", "stands beside url")]);
        check("urls: ['http://a/x', 'http://b/y']", &[&told(".urls[1]", "has another path")]);
        check("urls: ['http://a/', 'https://b/']", &[&told(".urls[1]", "has another scheme")]);
        check("urls: ['http://a/', 'unix:/b:/']", &[&told(".urls[1]", "has another scheme")]);
        check(
            "urls: ['http://a/', 'http://b/', 'http://A:80']",
            &[&told(".urls[2]", "is the same as urls[0]")],
        );
        check("url: 'http://a/', ca: a", &[&told(".ca", "is for TLS")]);
        check("url: 'unix:/a', server_name: a", &[&told(".server_name", "is for TLS")]);
        let alone = [("client_certificate", "client_key"), ("client_key", "client_certificate")];
        for (key, other) in alone {
            let missing = format!("has no {other} beside it");
            check(&format!("url: 'https://b/', {key}: b"), &[&told(&format!(".{key}"), &missing)]);
        }
        check("url: 'https://b/', server_name: '[::1]'", &[&told(".server_name", "must be a DNS")]);
        check("url: 'https://-b-/'", &[&told(".url", "has a host that no certificate")]);
        check("url: 'https://-b-/', server_name: b", &[]);
        check("url: 'http://b/', connections: 0", &[&told(".connections", "must be between")]);
    }

    #[test]
    fn paths_of_upstreams_start_at_the_folder_of_the_config() {
        for (keys, told) in [
            ("url: 'unix:b.sock:/scim'", "url: unix:/etc/guard/b.sock:/scim"),
            ("urls: ['unix:b.sock:/scim']", "- unix:/etc/guard/b.sock:/scim"),
            ("url: 'https://b/', ca: ca.crt", "ca: /etc/guard/ca.crt"),
        ] {
            let text = GOOD.replacen("url: \"http://127.0.0.1:9000/scim/v2\"", keys, 1);
            let config = Config::parse(&text, Path::new("/etc/guard")).expect("valid");
            assert!(config.to_yaml().contains(told), "{}", config.to_yaml());
        }
    }

    #[test]
    fn paths_of_tls_start_at_the_folder_of_the_config() {
        let tls = "127.0.0.1:8080, tls: { certificate: a, private_key: /b, client_ca: c, client_auth: required }";
        let text = GOOD.replacen("127.0.0.1:8080", tls, 1);
        let config = Config::parse(&text, Path::new("/etc/guard")).expect("valid");
        let proxy = config.proxy.expect("there");
        let files = proxy.listeners[0].tls.as_ref().expect("there").files();
        let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
        assert_eq!(files, ["/etc/guard/a", "/b", "/etc/guard/c"]);
    }

    #[test]
    fn admin_certificates_need_clients_that_are_asked_for_them() {
        let check = |tls: &str, certificates: &str, told: &[&str]| {
            let admin = format!(
                "admin: {{ listen: '127.0.0.1:8081', store: 'sqlite:a'{tls}, certificates: [{certificates}] }}\nops:"
            );
            check("ops:", &admin, told);
        };
        let asks = ", tls: { certificate: a, private_key: b, client_ca: c, client_auth: optional }";
        let one = "{ san: a.test, role: reader }";
        check(asks, one, &[]);
        for tls in ["", ", tls: { certificate: a, private_key: b }"] {
            check(tls, one, &["admin.certificates[0].san: needs clients that are asked"]);
        }
        let told = "admin.certificates[1].san: is taken by admin.certificates[0].san";
        check(asks, &format!("{one}, {one}"), &[told]);
        check(asks, "{ san: '', role: reader }", &["admin.certificates[0].san: must be a URI"]);
    }

    #[test]
    fn rules_of_clouds() {
        let check = |section: &str, told: &[&str]| {
            check("source: file,", &format!("source: file, {section},"), told);
        };
        let tencent = |keys: &str| {
            format!("tencent: {{ zone_id: z-1, secret_id: 'env:A', secret_key: 'env:B'{keys} }}")
        };
        let alibaba = |keys: &str| {
            format!(
                "alibaba: {{ directory_id: d-1, access_key_id: 'env:A', access_key_secret: 'env:B'{keys} }}"
            )
        };
        for (name, section) in
            [("tencent", &tencent as &dyn Fn(&str) -> String), ("alibaba", &alibaba)]
        {
            check(&section(""), &[]);
            check(&section(", endpoint: 'http://127.0.0.1:8081'"), &[]);
            check(&section(", endpoint: 'http://guard', insecure_cleartext: true"), &[]);
            let told = format!("credentials.{name}.endpoint: is clear text beyond loopback");
            check(&section(", endpoint: 'http://guard'"), &[&told]);
            let told = format!("credentials.{name}.endpoint: write https://");
            check(&section(", endpoint: 'https://guard/v1'"), &[&told]);
            check(&section(", regoin: a"), &["unknown key"]);
            let source = |section: &str, told: &[&str]| {
                self::check("source: file,", &format!("source: {name},{section}"), told);
            };
            source("", &[&format!("is {name}, and there is no {name} section")]);
            let told = format!("credentials.{name}: names no file with the digests");
            source(&format!(" {},", section("")), &[&told]);
            source(&format!(" {},", section(", enrolment: e.yaml")), &[]);
        }
        check(&tencent(", region: ap-guangzhou, time_offset: '-03:00'"), &[]);
        check(&tencent(", region: 'a b'"), &["credentials.tencent.region: must be a region's"]);
        check(&tencent(", time_offset: CST"), &["credentials.tencent.time_offset: write how far"]);
    }

    #[test]
    fn sections_of_clouds_print_as_they_are_in_force() {
        let clouds = "source: file,
  tencent: { zone_id: z-1, secret_id: 'env:A', secret_key: 'file:b', time_offset: +08:00, enrolment: e },
  alibaba: { directory_id: d-1, access_key_id: 'env:A', access_key_secret: 'env:B', security_token: 'file:c', ca: d },";
        let text = GOOD.replacen("source: file,", clouds, 1);
        let config = Config::parse(&text, Path::new("/etc/guard")).expect("valid");
        let printed = config.to_yaml();
        for told in [
            "endpoint: https://organization.tencentcloudapi.com",
            "endpoint: https://cloudsso.cn-shanghai.aliyuncs.com",
            "secret_key: file:/etc/guard/b",
            "enrolment: /etc/guard/e",
            "security_token: file:/etc/guard/c",
            "ca: /etc/guard/d",
        ] {
            assert!(printed.contains(told), "{told}: {printed}");
        }
        assert_eq!(Config::parse(&printed, Path::new("/")).expect("printed is valid"), config);
    }

    #[test]
    fn faults_of_values_and_rules_are_told_together() {
        check(
            "8080 }]",
            "8080, color: x }]\n  workers: 0",
            &["unknown key", "proxy.workers: must be"],
        );
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        let text = GOOD.replace("v2\" }", "v2\", authorization: Bearer planted }");
        let faults = Config::parse(&text, Path::new("/")).expect_err("invalid");
        assert!(!format!("{faults:?}").contains("planted"), "{faults:?}");
    }
}

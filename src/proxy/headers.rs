//! Which headers pass to the backend, and which we set. What we forward gets its identity headers
//! here and nowhere else.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::BufMut;
use http::{HeaderMap, HeaderValue, header};

use crate::config::value::{Network, host_name};
use crate::credential::Credential;
use crate::identity::{CREDENTIAL_ID, TENANT, folded};
use crate::record::{TRACEPARENT, Trace, single};
use crate::refusal::REQUEST_ID;

/// Whether a header concerns only the hop between two peers (RFC 9110 section 7.6.1). `name` is in
/// lower case.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            // CGI takes it for a setting (CVE-2016-5385).
            | "proxy"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
        // What a proxy says to its client and not to the next hop; `Proxy-Status` goes all the way.
        || (name.starts_with("proxy-") && name != "proxy-status")
}

/// The options in the value of a `Connection` header: `close`, and names of headers, in any case.
/// One that is no text names nothing, and hides none of the others.
pub fn connection_options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    options.filter(|option| !option.is_empty())
}

fn nominated(headers: &HeaderMap) -> Vec<&[u8]> {
    let values = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    values.flat_map(connection_options).collect()
}

fn has_option(options: &[&[u8]], name: &str) -> bool {
    options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// What the backend is told about who asks.
pub struct Identity<'a> {
    /// `None` on paths that are open to all.
    pub credential: Option<&'a Credential>,
    pub origin: &'a Origin<'a>,
    /// The origin's client as text.
    pub client: Option<&'a str>,
    pub request_id: &'a str,
    pub trace: &'a Trace,
}

/// Writes the headers that pass from the client, and then ours. `authorization` says whether the
/// client's own passes.
pub fn write(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    authorization_passes: bool,
    from_trusted_proxy: bool,
    identity: &Identity<'_>,
) {
    let nominated = nominated(headers);
    let is_nominated = |name: &str| has_option(&nominated, name);
    let mut has_cookies = false;
    for (name, value) in headers {
        let name = name.as_str();
        let passes = match name {
            // Said anew for this hop; an expectation is met here and goes no further.
            "host" | "content-length" | "expect" => false,
            "cookie" => {
                has_cookies = true;
                false
            }
            "authorization" => authorization_passes && !is_nominated(name),
            "traceparent" => !identity.trace.is_ours && !is_nominated(name),
            "tracestate" => identity.trace.is_from_client && !is_nominated(name),
            _ => !is_hop_by_hop(name) && !is_ours(name, from_trusted_proxy) && !is_nominated(name),
        };
        if passes {
            write_header(out, name, value.as_bytes());
        }
    }
    if has_cookies && !is_nominated("cookie") {
        write_cookies(out, headers);
    }
    write_identity(out, identity);
}

/// HTTP/2 may tell cookies one by one, which HTTP/1.1 has in one header (RFC 9113 section 8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let cookies: Vec<_> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    write_header(out, "cookie", &cookies.join(&b"; "[..]));
}

fn write_identity(out: &mut Vec<u8>, identity: &Identity<'_>) {
    if let Some(credential) = identity.credential {
        write_header(out, CREDENTIAL_ID, credential.id.as_str().as_bytes());
        write_header(out, TENANT, credential.tenant.as_str().as_bytes());
    }
    let origin = identity.origin;
    if let Some(client) = identity.client {
        write_header(out, FORWARDED_FOR, client.as_bytes());
    }
    write_header(out, FORWARDED_HOST, origin.host.as_bytes());
    write_header(out, FORWARDED_PROTO, origin.proto.as_bytes());
    write_header(out, REQUEST_ID.as_str(), identity.request_id.as_bytes());
    if identity.trace.is_ours {
        write_header(out, TRACEPARENT.as_str(), identity.trace.parent());
    }
}

pub fn write_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Whether a backend could take this name for a header that only we set, or that frames a message.
/// What a trusted proxy says beside the three headers that we set ourselves passes.
fn is_ours(name: &str, from_trusted_proxy: bool) -> bool {
    let folded = folded(name);
    if matches!(folded, Cow::Owned(_)) && (is_hop_by_hop(&folded) || folded == "content-length") {
        return true;
    }
    match &*folded {
        CREDENTIAL_ID | TENANT | FORWARDED_FOR | FORWARDED_HOST | FORWARDED_PROTO
        | "x-request-id" => true,
        "forwarded" => !from_trusted_proxy,
        name => !from_trusted_proxy && name.starts_with("x-forwarded-"),
    }
}

/// Where a request comes from, as far as we believe it.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// None who came by a Unix socket.
    pub client: Option<IpAddr>,
    pub host: &'a str,
    pub proto: &'static str,
}

impl<'a> Origin<'a> {
    /// `host` is what the request itself names, `is_tls` how it came to us.
    pub fn new(
        peer: Option<IpAddr>,
        is_tls: bool,
        host: &'a str,
        headers: &'a HeaderMap,
        trusted: &[Network],
    ) -> Self {
        let origin = Self { client: peer, host, proto: if is_tls { "https" } else { "http" } };
        if !is_trusted(peer, trusted) {
            return origin;
        }
        Self {
            client: forwarded_for(headers, trusted).or(peer),
            host: single(headers, FORWARDED_HOST)
                .filter(|it| host_name(it).is_some())
                .unwrap_or(host),
            proto: match single(headers, FORWARDED_PROTO) {
                Some("https") => "https",
                Some("http") => "http",
                _ => origin.proto,
            },
        }
    }
}

pub fn is_trusted(peer: Option<IpAddr>, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(peer))
}

/// The last address that was not added by a proxy of ours. What stands before it anybody may have
/// written.
fn forwarded_for(headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let mut nearest = None;
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        // One by one: what a stranger wrote at the front may be no text.
        for entry in value.as_bytes().rsplit(|byte| *byte == b',') {
            let text = std::str::from_utf8(entry).ok();
            let address = text.and_then(|it| it.trim().parse::<IpAddr>().ok());
            let Some(address) = address else { return nearest };
            let address = address.to_canonical();
            nearest = Some(address);
            if !is_trusted(nearest, trusted) {
                return nearest;
            }
        }
    }
    nearest
}

/// The trace that a request belongs to, unless the client says that its own ends here.
pub fn trace(headers: &HeaderMap) -> Trace {
    let said = single(headers, TRACEPARENT);
    let said = said.filter(|_| !has_option(&nominated(headers), TRACEPARENT.as_str()));
    said.and_then(Trace::parse).unwrap_or_else(Trace::begin)
}

/// What replaces the client's `Authorization`, if it can be the value of a header.
pub fn secret_value(content: &[u8]) -> Result<HeaderValue, &'static str> {
    let content = content.trim_ascii();
    if content.is_empty() {
        return Err("it is empty");
    }
    let mut value = HeaderValue::from_bytes(content)
        .map_err(|_| "it has characters that no header can have, such as a line break")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::credential::{CredentialId, Expiry, Status, TenantId, TokenDigest};

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        map
    }

    fn written(lines: &[(&str, &str)], keep: bool, trusted: bool) -> Vec<String> {
        let trace = Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        written_within(&trace.expect("well-formed"), lines, keep, trusted)
    }

    fn written_within(
        trace: &Trace,
        lines: &[(&str, &str)],
        keep: bool,
        trusted: bool,
    ) -> Vec<String> {
        let credential = Credential {
            id: CredentialId::parse("c-1").expect("valid"),
            tenant: TenantId::parse("z-1").expect("valid"),
            digest: TokenDigest::of(b"t"),
            status: Status::Enabled,
            expiry: Expiry::Never,
        };
        let map = headers(lines);
        let origin = Origin { client: Some([127, 0, 0, 1].into()), host: "h", proto: "http" };
        let identity = Identity {
            credential: Some(&credential),
            origin: &origin,
            client: Some("127.0.0.1"),
            request_id: "r-1",
            trace,
        };
        let mut out = Vec::new();
        write(&mut out, &map, keep, trusted, &identity);
        let text = String::from_utf8(out).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    const OURS: [&str; 6] = [
        "x-scim-credential-id: c-1",
        "x-scim-tenant: z-1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: h",
        "x-forwarded-proto: http",
        "x-request-id: r-1",
    ];

    #[test]
    fn identity_headers_are_ours_in_every_spelling() {
        let forged = [
            ("X-SCIM-Credential-Id", "c-9"),
            ("x_scim_credential_id", "c-9"),
            ("x.scim-tenant", "z-9"),
            ("x~scim+tenant", "z-9"),
            ("X-Forwarded-For", "8.8.8.8"),
            ("x_forwarded_host", "evil"),
            ("X-Forwarded-Prefix", "/evil"),
            ("Forwarded", "for=8.8.8.8"),
            ("x_request_id", "x"),
            ("content_length", "9"),
            ("transfer_encoding", "chunked"),
            ("proxy_authorization", "Basic x"),
        ];
        assert_eq!(written(&forged, false, false), OURS);
    }

    #[test]
    fn hop_by_hop_and_nominated_headers_end_here() {
        let lines = [
            ("Connection", "keep-alive, X-Hop, \u{e4}, x-scim-tenant, tracestate"),
            ("X-Hop", "1"),
            ("tracestate", "a=b"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "Basic x"),
            ("If-Match", "W/\"a\""),
            ("User-Agent", "okta"),
        ];
        let mut expected = vec!["if-match: W/\"a\"".to_owned(), "user-agent: okta".to_owned()];
        expected.extend(OURS.map(str::to_owned));
        assert_eq!(written(&lines, false, false), expected);
    }

    #[test]
    fn authorization_passes_only_if_kept() {
        let lines = [("Authorization", "Bearer t")];
        assert_eq!(written(&lines, true, false)[0], "authorization: Bearer t");
        assert_eq!(written(&lines, false, false), OURS);
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().expect("valid")];
        let map = headers(&[
            ("X-Forwarded-For", "6.6.6.6, 9.9.9.9, 10.0.0.7"),
            ("X-Forwarded-Host", "scim.example.com"),
            ("X-Forwarded-Proto", "https"),
        ]);
        let address = |it: [u8; 4]| Some(IpAddr::from(it));
        let origin = |peer, trusted| Origin::new(peer, false, "h", &map, trusted);
        let believed = |client| Origin { client, host: "scim.example.com", proto: "https" };
        let own = |client| Origin { client, host: "h", proto: "http" };
        let inside = address([10, 0, 0, 1]);
        assert_eq!(origin(inside, &trusted), believed(address([9, 9, 9, 9])));
        assert_eq!(origin(address([11, 0, 0, 1]), &trusted), own(address([11, 0, 0, 1])));
        assert_eq!(origin(None, &trusted), own(None));
        let unix = ["unix:".parse().expect("valid")];
        assert_eq!(origin(None, &unix), believed(address([10, 0, 0, 7])));
        assert_eq!(origin(inside, &unix), own(inside));
        let hidden = headers(&[("X-Forwarded-For", "\u{e4}, 9.9.9.9, 10.0.0.7")]);
        let seen = Origin::new(inside, false, "h", &hidden, &trusted);
        assert_eq!(seen.client, address([9, 9, 9, 9]), "whatever stands before it");
    }

    #[test]
    fn the_scheme_is_our_own_unless_a_trusted_proxy_names_it() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().expect("valid")];
        for (peer, is_tls, said, proto) in [
            ([11, 0, 0, 1], true, Some("http"), "https"),
            ([11, 0, 0, 1], false, Some("https"), "http"),
            ([10, 0, 0, 1], true, Some("http"), "http"),
            ([10, 0, 0, 1], false, Some("https"), "https"),
            ([10, 0, 0, 1], true, None, "https"),
            ([10, 0, 0, 1], true, Some("ftp"), "https"),
        ] {
            let lines: Vec<_> = said.map(|it| ("X-Forwarded-Proto", it)).into_iter().collect();
            let map = headers(&lines);
            let peer = Some(IpAddr::from(peer));
            let origin = Origin::new(peer, is_tls, "h", &map, &trusted);
            assert_eq!(origin.proto, proto, "{peer:?} {is_tls} {said:?}");
        }
    }

    #[test]
    fn a_trace_passes_in_the_clients_words_unless_a_span_of_ours_is_within() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let lines = [("traceparent", good), ("tracestate", "a=b"), ("tracestate", "c=d")];
        let mut trace = trace(&headers(&lines));
        let ours = OURS.map(str::to_owned);
        let state = ["tracestate: a=b".to_owned(), "tracestate: c=d".to_owned()];
        let mut expected = vec![format!("traceparent: {good}")];
        expected.extend(state.iter().chain(&ours).cloned());
        assert_eq!(written_within(&trace, &lines, false, false), expected);
        trace.go_on(0x1f, true);
        let parent = good.replace("b7ad6b7169203331", "000000000000001f");
        let expected: Vec<_> =
            state.into_iter().chain(ours).chain([format!("traceparent: {parent}")]).collect();
        assert_eq!(written_within(&trace, &lines, false, false), expected);
    }

    #[test]
    fn a_nominated_trace_ends_here() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace(&headers(&[("traceparent", good)])).id(), &good[3..35]);
        for lines in [
            &[("traceparent", good), ("Connection", "Traceparent")][..],
            &[("traceparent", good), ("traceparent", good)],
            &[("traceparent", &good[1..])],
        ] {
            assert!(!trace(&headers(lines)).is_from_client, "{lines:?}");
        }
    }
}

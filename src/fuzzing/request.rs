//! What clients send: every request that reaches the backend is compared with what a strict reader
//! makes of the client's bytes, and with what routes and credentials then say of it.
//!
//! The first byte of an input is a digit that says how the others arrive, and from whom.

use std::net::IpAddr;

use super::Trial;
use super::bed::{Bed, End, Exchange, LIVE, NUMBER, PEERS, Received, SECRET};
use super::strict::{Fault, Message};

pub fn target() -> Trial {
    let bed = Bed::new();
    Box::new(move |input| {
        let Some((how, bytes)) = input.split_first() else { return };
        check(&bed, *how, bytes);
    })
}

/// How many requests have reached the backend.
pub(super) fn check(bed: &Bed, how: u8, bytes: &[u8]) -> usize {
    let peer = PEERS[usize::from(how & 1)];
    let size = match how >> 1 & 3 {
        0 => bytes.len(),
        1 => bytes.len().div_ceil(2),
        2 => bytes.len().div_ceil(5),
        // Many small pieces would only be slow.
        _ => bytes.len().div_ceil(40),
    };
    let Exchange { answers, received } = bed.exchange(bytes.chunks(size.max(1)), peer, None);
    for received in &received {
        assert!(!matches!(received.end, End::Malformed(_)), "{received:?}");
    }
    let asked = read_all(bytes);
    let mut answers = &answers[..];
    let mut answered = 0;
    let mut forwarded = 0;
    while !answers.is_empty() {
        // Beyond what a strict reader finds only refusals come, and one at most.
        let Some(request) = asked.get(answered) else {
            let status = answers.get(9..12).unwrap_or_default();
            assert!(
                matches!(status, b"400" | b"401" | b"404" | b"405" | b"413" | b"431"),
                "it is refused"
            );
            break;
        };
        let answer = match Message::answer(answers, request.line[0]) {
            Ok(answer) => answer,
            Err(fault) => panic!("{fault:?} in the answer {}", answers.escape_ascii()),
        };
        assert!(answer.whole, "an answer is cut: {}", answers.escape_ascii());
        answers = &answers[answer.size..];
        if answer.line[1] == b"100" {
            continue;
        }
        answered += 1;
        if let [number] = answer.values(NUMBER)[..] {
            assert_eq!(number, forwarded.to_string().as_bytes(), "answers come in order");
            assert!(request.whole, "the end of its body is known to nobody");
            compare(request, &received[forwarded], peer);
            forwarded += 1;
        }
    }
    // One that was broken off may have reached the backend, as the last one.
    match &received[forwarded..] {
        [] => {}
        [half] => {
            assert_eq!(half.end, End::Half, "nobody has got the answer to {half:?}");
            let request = asked.get(answered.saturating_sub(1)..).unwrap_or_default();
            let request = request.iter().find(|it| !it.whole).or(request.last());
            let head = Message::request(&half.bytes);
            if let (Some(request), Ok(_)) = (request, head) {
                compare(request, half, peer);
            }
        }
        more => panic!("nobody has asked for {more:?}"),
    }
    received.len()
}

/// The requests that a strict reader finds. Line ends before one are passed over (RFC 9112 section
/// 2.2), and what follows on one without an end belongs to its body.
fn read_all(bytes: &[u8]) -> Vec<Message<'_>> {
    let mut all = Vec::new();
    let mut rest = bytes;
    loop {
        while let [b'\r' | b'\n', more @ ..] = rest {
            rest = more;
        }
        match Message::request(rest) {
            Ok(message) => {
                rest = &rest[message.size.min(rest.len())..];
                all.push(message);
                if !all.last().expect("pushed").whole {
                    return all;
                }
            }
            Err(Fault::Incomplete | Fault::Malformed(_)) => return all,
        }
    }
}

/// What must be said to the backend, and nothing else, about this request.
fn compare(request: &Message<'_>, received: &Received, peer: &str) {
    let told = || format!("\nasked:     {request:?}\nforwarded: {received:?}");
    let seen = Message::request(&received.bytes).expect("read by the backend");
    let place = Place::of(request);
    let place = place.unwrap_or_else(|why| panic!("{why}, and it was forwarded{}", told()));
    let credential = admitted(request, &place);
    let credential =
        credential.unwrap_or_else(|why| panic!("{why}, and it was forwarded{}", told()));

    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = seen.line.map(text);
    assert_eq!(line, [text(request.line[0]), text(&place.target), "HTTP/1.1".into()], "{}", told());

    let mut expected = passing(request, &place, peer);
    let mut add = |name: &str, value: &[u8]| expected.push((name.to_owned(), value.to_vec()));
    add("host", place.route.host.map_or(place.host, str::as_bytes));
    match credential {
        Some((token, tenant, id)) => {
            add("x-scim-credential-id", id.as_bytes());
            add("x-scim-tenant", tenant.as_bytes());
            assert!(
                place.route.authorization != Authorization::Remove
                    || !seen.fields.iter().any(|field| field.name == "authorization"),
                "{token}"
            );
            if place.route.authorization == Authorization::Replace {
                add("authorization", SECRET.as_bytes());
            }
        }
        None => assert!(seen.values("authorization").is_empty(), "{}", told()),
    }
    let origin = Origin::of(request, peer);
    add("x-forwarded-for", origin.client.as_bytes());
    add("x-forwarded-host", origin.host.as_bytes());
    add("x-forwarded-proto", origin.proto.as_bytes());
    if !request.values("transfer-encoding").is_empty() {
        add("transfer-encoding", b"chunked");
    } else if let [length] = request.values("content-length")[..] {
        let length: u64 = text(length).parse().expect("a strict reader has read it");
        add("content-length", length.to_string().as_bytes());
    }

    // These two may be of our own making.
    let mut fields: Vec<_> =
        seen.fields.iter().map(|field| (field.name.clone(), field.value.to_vec())).collect();
    let mut take = |name: &str| {
        let values = seen.values(name);
        assert_eq!(values.len(), 1, "one {name}{}", told());
        fields.retain(|(other, _)| other != name);
        text(values[0])
    };
    let id = take("x-request-id");
    let given = request.values("x-request-id");
    let made = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(given[..] == [id.as_bytes()] || made, "the request id{}", told());
    let trace = take("traceparent");
    let given = request.values("traceparent");
    let kept = given[..] == [trace.as_bytes()];
    assert!(is_traceparent(&trace), "the trace{}", told());
    let tracestate = request.values("tracestate");
    if kept && !nominated(request, "tracestate") {
        expected.extend(tracestate.iter().map(|it| ("tracestate".to_owned(), it.to_vec())));
    }
    assert!(!kept || !nominated(request, "traceparent"), "a nominated trace{}", told());

    let sorted = |mut fields: Vec<(String, Vec<u8>)>| {
        // Stable, so that values of one name stay in order.
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
            .into_iter()
            .map(|(name, value)| format!("{name}: {}", value.escape_ascii()))
            .collect::<Vec<_>>()
    };
    assert_eq!(sorted(fields), sorted(expected), "{}", told());
    let whole = received.end == End::Whole;
    assert!(
        if whole { seen.body == request.body } else { request.body.starts_with(&seen.body) },
        "{}",
        told()
    );
}

/// A route of the bed's config.
struct Route {
    /// `None` stands for any tenant.
    path: [Option<&'static str>; 3],
    segments: usize,
    tenant: Option<&'static str>,
    only_host: Option<&'static str>,
    open: bool,
    bare: bool,
    authorization: Authorization,
    /// What the backend is told instead of the client's.
    host: Option<&'static str>,
    /// The path of its URL, but for the tenant's.
    url: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Authorization {
    Remove,
    Keep,
    Replace,
}

const ROUTES: [Route; 4] = [
    Route {
        path: [Some("scim"), Some("v2"), None],
        segments: 2,
        tenant: Some("z-one"),
        only_host: None,
        open: true,
        bare: false,
        authorization: Authorization::Remove,
        host: None,
        url: Some("/scim/v2"),
    },
    Route {
        path: [Some("keep"), None, None],
        segments: 1,
        tenant: Some("z-one"),
        only_host: None,
        open: false,
        bare: true,
        authorization: Authorization::Keep,
        host: None,
        url: Some(""),
    },
    Route {
        path: [Some("file"), None, None],
        segments: 1,
        tenant: Some("z-two"),
        only_host: Some("b.test"),
        open: false,
        bare: false,
        authorization: Authorization::Replace,
        host: Some("backend.test"),
        url: Some("/a/b"),
    },
    Route {
        path: [Some("t"), None, Some("scim")],
        segments: 3,
        tenant: None,
        only_host: None,
        open: true,
        bare: false,
        authorization: Authorization::Remove,
        host: None,
        url: None,
    },
];

/// Where a request belongs.
struct Place<'a> {
    route: &'static Route,
    tenant: String,
    host: &'a [u8],
    rest: String,
    /// As the backend must see it.
    target: Vec<u8>,
}

impl<'a> Place<'a> {
    fn of(request: &Message<'a>) -> Result<Self, &'static str> {
        let hosts = request.values("host");
        let target = request.line[1];
        let (authority, target) = match target.first() {
            Some(b'/') => (None, target),
            _ => {
                let lower = target.to_ascii_lowercase();
                let scheme =
                    [&b"http://"[..], b"https://"].into_iter().find(|it| lower.starts_with(it));
                let rest = &target[scheme.ok_or("its target is no path")?.len()..];
                let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
        };
        let host = match hosts[..] {
            [host] => host,
            [] if request.line[2] == b"HTTP/1.0" && authority.is_none() => b"localhost",
            _ => return Err("it has no Host, or two"),
        };
        if authority.is_some_and(|it| !it.eq_ignore_ascii_case(host)) {
            return Err("its target names another host");
        }
        let question = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at(question);
        let path = std::str::from_utf8(path).map_err(|_| "its path is no text")?;
        let name = String::from_utf8_lossy(host).to_ascii_lowercase();
        let name = name
            .rsplit_once(':')
            .filter(|(_, port)| !port.contains(']'))
            .map_or(name.as_str(), |it| it.0);
        let name = name.strip_suffix('.').unwrap_or(name);
        let found = find(path, name, str::eq).ok_or("no route is responsible")?;
        // As the most lenient server reads it.
        let lenient = normalized(path)?;
        let other = find(&lenient, name, str::eq_ignore_ascii_case);
        if !other.is_some_and(|(route, _, _)| std::ptr::eq(route, found.0)) {
            return Err("somebody could read another route");
        }
        let (route, tenant, rest) = found;
        let url = route.url.map_or_else(|| format!("/{tenant}"), str::to_owned);
        let path = if url.is_empty() && rest.is_empty() { "/".to_owned() } else { url + rest };
        let (tenant, rest) = (tenant.to_owned(), rest.to_owned());
        Ok(Self { route, tenant, host, rest, target: [path.as_bytes(), query].concat() })
    }
}

fn find<'a>(
    path: &'a str,
    host: &str,
    equal: fn(&str, &str) -> bool,
) -> Option<(&'static Route, &'a str, &'a str)> {
    ROUTES.iter().find_map(|route| {
        let mut segments = path.splitn(route.segments + 2, '/');
        let mut tenant = route.tenant;
        let mut size = 0;
        if segments.next() != Some("") || route.only_host.is_some_and(|it| it != host) {
            return None;
        }
        for own in &route.path[..route.segments] {
            let segment = segments.next()?;
            match own {
                Some(own) if equal(own, segment) => {}
                Some(_) => return None,
                None => tenant = Some(segment),
            }
            size += 1 + segment.len();
        }
        let tenant = tenant.filter(|it| !it.is_empty())?;
        Some((route, tenant, &path[size..]))
    })
}

/// A path with all that servers are known to undo undone, or why it is none.
fn normalized(path: &str) -> Result<String, &'static str> {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..2 {
        let mut decoded = Vec::new();
        let mut rest = &bytes[..];
        while let Some((byte, more)) = rest.split_first() {
            let digit = |at: usize| char::from(*more.get(at)?).to_digit(16);
            let escaped = if *byte == b'%' { digit(0).zip(digit(1)) } else { None };
            decoded.push(escaped.map_or(*byte, |(high, low)| (high << 4 | low) as u8));
            rest = if escaped.is_some() { &more[2..] } else { more };
        }
        bytes = decoded;
    }
    if bytes.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\') {
        return Err("its path has a control character or a backslash");
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let bare = text.split('/').map(|it| it.split(';').next().unwrap_or_default());
    let segments: Vec<_> = bare.filter(|it| !it.is_empty()).collect();
    if segments.iter().any(|it| matches!(*it, "." | "..")) {
        return Err("its path has a dot segment");
    }
    Ok(segments.iter().fold(String::new(), |path, segment| path + "/" + segment))
}

type Credential = (&'static str, &'static str, &'static str);

/// Whose request this is; `None` where no one has to say.
fn admitted(request: &Message<'_>, place: &Place<'_>) -> Result<Option<Credential>, &'static str> {
    let value = match request.values("authorization")[..] {
        [] => {
            let read = matches!(request.line[0], b"GET" | b"HEAD");
            let mut segments = place.rest.split('/').skip(1);
            let listed = segments.next() == Some("Schemas") && segments.count() <= 1;
            let known = LIVE.iter().any(|(_, tenant, _)| *tenant == place.tenant);
            let open = place.route.open && read && listed && known;
            return if open { Ok(None) } else { Err("there is no token") };
        }
        [value] => value,
        _ => return Err("there are two tokens"),
    };
    let text = std::str::from_utf8(value).map_err(|_| "the token is no text")?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            token.trim_start_matches(' ')
        }
        None if place.route.bare => text,
        _ => return Err("there is no bearer token"),
    };
    let credential = LIVE.into_iter().find(|(own, _, _)| *own == token);
    match credential {
        Some(it) if it.1 == place.tenant => Ok(Some(it)),
        Some(_) => Err("the token is of another tenant"),
        None => Err("the token is not live"),
    }
}

fn nominated(request: &Message<'_>, name: &str) -> bool {
    request.options().iter().any(|option| option == name)
}

/// The client's fields that pass as they are.
fn passing(request: &Message<'_>, place: &Place<'_>, peer: &str) -> Vec<(String, Vec<u8>)> {
    let trusted = peer == PEERS[1];
    let keeps = place.route.authorization == Authorization::Keep;
    let mut fields = Vec::new();
    let mut cookies = Vec::new();
    for field in &request.fields {
        let letters =
            field.name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' });
        let spelled: String = letters.collect();
        let hop = HOP_BY_HOP.contains(&spelled.as_str())
            || (spelled.starts_with("proxy-") && spelled != "proxy-status");
        let ours = match spelled.as_str() {
            "forwarded" => !trusted,
            name if OURS.contains(&name) => true,
            name => !trusted && name.starts_with("x-forwarded-"),
        };
        let anew = ["host", "expect", "traceparent", "tracestate"].contains(&field.name.as_str());
        let token = field.name == "authorization" && !keeps;
        if hop || ours || anew || token || nominated(request, &field.name) {
            continue;
        }
        if field.name == "cookie" {
            cookies.push(field.value);
        } else {
            fields.push((field.name.clone(), field.value.to_vec()));
        }
    }
    if !cookies.is_empty() {
        fields.push(("cookie".to_owned(), cookies.join(&b"; "[..])));
    }
    fields
}

/// What concerns only one hop (RFC 9110 section 7.6.1), or frames a message.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const OURS: [&str; 6] = [
    "x-scim-credential-id",
    "x-scim-tenant",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Where the backend is told that a request comes from.
struct Origin {
    client: String,
    host: String,
    proto: &'static str,
}

impl Origin {
    fn of(request: &Message<'_>, peer: &str) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let own = peer.rsplit_once(':').expect("an address").0.to_owned();
        let host = request.values("host").first().map_or("localhost".to_owned(), |it| text(it));
        if peer != PEERS[1] {
            return Self { client: own, host, proto: "http" };
        }
        let all: Vec<_> = request.values("x-forwarded-for").into_iter().map(text).collect();
        let mut client = own;
        for entry in all.join(",").rsplit(',') {
            let Ok(address) = entry.trim().parse::<IpAddr>() else { break };
            let address = address.to_canonical();
            client = address.to_string();
            if !address.to_string().starts_with("127.") {
                break;
            }
        }
        let single = |name| match request.values(name)[..] {
            [value] => Some(text(value)),
            _ => None,
        };
        let said =
            single("x-forwarded-host").filter(|it| crate::config::value::host_name(it).is_some());
        let proto = single("x-forwarded-proto").filter(|it| it == "https");
        Self {
            client,
            host: said.unwrap_or(host),
            proto: if proto.is_some() { "https" } else { "http" },
        }
    }
}

/// W3C Trace Context, version 00.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let sizes: Vec<_> = parts.iter().map(|part| part.len()).collect();
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    sizes == [2, 32, 16, 2]
        && parts[0] == "00"
        && parts.iter().all(|part| part.bytes().all(digit))
        && parts[1..3].iter().all(|part| part.bytes().any(|byte| byte != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_requests_pass_and_others_do_not() {
        let bed = Bed::new();
        let count = |text: &str| check(&bed, b'0', text.as_bytes());
        let fields = "Host: a\r\nAuthorization: Bearer one\r\n";
        let get = format!("GET /scim/v2/Users HTTP/1.1\r\n{fields}\r\n");
        let post = format!(
            "POST /keep HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        );
        assert_eq!(count(&[&*get, &post, &get].concat()), 3);
        assert_eq!(count(&get.replace("one", "two")), 0);
        assert_eq!(count(&get.replace("scim", "else")), 0);
    }
}

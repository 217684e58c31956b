//! Host and path → route and tenant, on the very bytes that are forwarded. A target that a
//! backend could read as another route's is ambiguous, and nobody's.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::HashSet;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Version, header};

use crate::authority::Access;
use crate::config::Route as RouteConfig;
use crate::config::value::{HostName, RoutePath, RouteTenant, Segment, host_name};
use crate::credential::TenantId;

/// What a request is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// As in `Host`; `None` for an HTTP/1.0 client that sent none.
    pub host: Option<&'a str>,
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// The target cannot be trusted to mean one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// What is around the target does not fit HTTP.
    Framing(&'static str),
    Target(&'static str),
    /// The method would let the answer speak of the hop and not of the target.
    Method,
}

impl<'a> Target<'a> {
    pub fn parse(request: &'a Parts) -> Result<Self, Unclear> {
        let uri = &request.uri;
        // It echoes what we add to a request (RFC 9110 section 9.3.8).
        if request.method.as_str().eq_ignore_ascii_case("TRACE") {
            return Err(Unclear::Method);
        }
        if request.method == Method::CONNECT || !uri.path().starts_with('/') {
            return Err(Unclear::Target("the request target must be a path"));
        }
        let host = host(request)?;
        if uri.scheme_str().is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
            return Err(Unclear::Target("the request target is of another scheme"));
        }
        if let Some(authority) = uri.authority()
            && host.is_none_or(|host| !authority.as_str().eq_ignore_ascii_case(host))
        {
            return Err(Unclear::Target("the request target names another host than Host"));
        }
        let target = Self { host, path: uri.path(), query: uri.query() };
        target.check_path()?;
        Ok(target)
    }

    /// Refuses what servers are known to read in more than one way.
    fn check_path(&self) -> Result<(), Unclear> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_~:@".contains(&byte);
        if self.path.bytes().all(plain) {
            return Ok(());
        }
        let decoded = decode_twice(self.path);
        if decoded.contains('\\') {
            return Err(Unclear::Target("the path has a backslash"));
        }
        if decoded.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(Unclear::Target("the path has a control character"));
        }
        let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        if decoded.split('/').any(dots) {
            return Err(Unclear::Target("the path has a dot segment"));
        }
        Ok(())
    }

    /// Whether the request changes nothing. A search is a read even as a POST (RFC 7644 3.4.3).
    pub fn access(&self, method: &Method) -> Access {
        let search = *method == Method::POST && self.path.ends_with("/.search");
        if search || [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
            Access::Read
        } else {
            Access::Write
        }
    }
}

fn host(request: &Parts) -> Result<Option<&str>, Unclear> {
    let mut values = request.headers.get_all(header::HOST).iter();
    let (first, more) = (values.next(), values.next());
    match (first, more) {
        (_, Some(_)) => Err(Unclear::Framing("there is more than one Host header")),
        (None, None) if request.version == Version::HTTP_10 => Ok(None),
        // HTTP/2 says it with the target (RFC 9113 section 8.3.1).
        (None, None) if request.version == Version::HTTP_2 => {
            let authority = request.uri.authority().map(http::uri::Authority::as_str);
            let text = authority.filter(|text| host_name(text).is_some());
            text.map(Some).ok_or(Unclear::Framing("the :authority is missing or malformed"))
        }
        (None, None) => Err(Unclear::Framing("there is no Host header")),
        (Some(value), None) => {
            let text = value.to_str().ok().filter(|text| host_name(text).is_some());
            text.map(Some).ok_or(Unclear::Framing("the Host header is malformed"))
        }
    }
}

/// As a backend behind another proxy may read it.
fn decode_twice(text: &str) -> String {
    decode(&decode(text)).into_owned()
}

/// Percent-decodes once. What is no text then stays as it was.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| byte == b'%');
        let mut decoded = [0];
        if digits.is_some_and(|digits| hex::decode_to_slice(digits, &mut decoded).is_ok()) {
            bytes.push(decoded[0]);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    // A byte above 0x7F never is part of a delimiter, so its place may be taken by a mark.
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// One route of the config, ready to be matched.
pub struct Route {
    /// Its place in the config, by which faces keep what they know about it.
    pub index: usize,
    /// What stands for the route in metrics and logs: host and path template.
    pub label: String,
    pub bare_token: bool,
    tenant: RouteTenant,
    host: Option<HostName>,
    path: RoutePath,
    open: Vec<String>,
}

/// A request's place: its route, the tenant it is about, and what the path has beyond the route's.
#[derive(Clone)]
pub struct Place<'a> {
    pub route: &'a Arc<Route>,
    pub tenant: Tenant<'a>,
    pub rest: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant<'a> {
    pub name: &'a str,
    /// Whether the config knows it. One that is only read from a path may not exist.
    pub declared: bool,
}

impl Place<'_> {
    /// Whether this may be read without a token. Only plain paths: what might be read as another
    /// resource needs a token.
    pub fn is_open(&self, method: &Method) -> bool {
        if self.route.open.is_empty() || ![Method::GET, Method::HEAD].contains(method) {
            return false;
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._-".contains(&byte);
        let mut segments = self.rest.strip_prefix('/').unwrap_or_default().split('/');
        let resource = segments.next().unwrap_or_default();
        self.rest.bytes().all(plain)
            && segments.count() <= 1
            && self.route.open.iter().any(|name| name == resource)
    }
}

/// All routes, in the order in which they are tried.
pub struct Routes {
    routes: Vec<Arc<Route>>,
    /// Tenants that have a route of their own.
    tenants: HashSet<TenantId>,
}

impl Routes {
    pub fn new(configs: &[RouteConfig]) -> Self {
        let mut routes: Vec<_> =
            configs.iter().enumerate().map(|(index, config)| Route::new(index, config)).collect();
        // Exact host before none, longest path first, literal before {tenant}.
        routes.sort_by_key(|route| {
            let segments = route.path.segments();
            let tenants: Vec<bool> = segments.iter().map(|s| *s == Segment::Tenant).collect();
            (route.host.is_none(), std::cmp::Reverse(segments.len()), tenants)
        });
        let fixed = configs.iter().filter_map(|config| match &config.tenant {
            RouteTenant::One(tenant) => Some(tenant.clone()),
            RouteTenant::ByPath => None,
        });
        Self { tenants: fixed.collect(), routes: routes.into_iter().map(Arc::new).collect() }
    }

    /// Whether some requests can only be told apart by their host.
    pub fn need_hosts(&self) -> bool {
        self.routes.iter().any(|route| route.host.is_some())
    }

    /// The place of a target; `None` if no route is responsible.
    pub fn find<'a>(&'a self, target: &Target<'a>) -> Result<Option<Place<'a>>, Unclear> {
        // Few configs have routes with hosts.
        let host = LazyCell::new(|| target.host.and_then(host_name));
        let host = || *host;
        let found = self.routes.iter().find_map(|route| {
            let (name, rest) = route.matches(host, target.path, str::eq)?;
            let declared = match route.tenant {
                RouteTenant::One(_) => true,
                RouteTenant::ByPath => self.tenants.contains(name),
            };
            let tenant = Tenant { name, declared };
            Some(Place { route, tenant, rest })
        });
        // Backends fold case, decode separators, drop parameters and merge slashes. If any of that
        // leads to another route, the target could mean both.
        let folded = fold(target.path);
        let read_otherwise = self
            .routes
            .iter()
            .find(|route| route.matches(host, &folded, str::eq_ignore_ascii_case).is_some());
        let same = match (&found, read_otherwise) {
            (None, None) => true,
            (Some(place), Some(other)) => Arc::ptr_eq(place.route, other),
            _ => false,
        };
        if !same {
            return Err(Unclear::Target("the path could be read as another route's"));
        }
        if found.as_ref().is_some_and(|place| place.rest.starts_with("//")) {
            return Err(Unclear::Target("the path has an empty segment before the resource"));
        }
        Ok(found)
    }
}

/// A path as the most lenient backend may read it.
fn fold(path: &str) -> Cow<'_, str> {
    let mut before = 0;
    let one_way = path.bytes().all(|byte| {
        let fits = !matches!((before, byte), (_, b'%' | b';') | (b'/', b'/'));
        before = byte;
        fits
    });
    if one_way {
        return Cow::Borrowed(path);
    }
    let decoded = decode_twice(path);
    let segments = decoded.split('/').filter(|segment| !segment.is_empty());
    let bare = segments.map(|segment| segment.split(';').next().unwrap_or_default());
    Cow::Owned(bare.fold(String::new(), |path, segment| path + "/" + segment))
}

impl Route {
    fn new(index: usize, config: &RouteConfig) -> Self {
        let host = config.host.as_ref().map_or("", |host| host.as_str());
        Self {
            index,
            label: format!("{host}{}", config.path),
            bare_token: config.bare_token,
            tenant: config.tenant.clone(),
            host: config.host.clone(),
            path: config.path.clone(),
            open: config.open.clone(),
        }
    }

    /// The tenant and the rest of the path, if host and path are this route's.
    fn matches<'a, 'h>(
        &'a self,
        host: impl Fn() -> Option<&'h str>,
        path: &'a str,
        equal: impl Fn(&str, &str) -> bool,
    ) -> Option<(&'a str, &'a str)> {
        if let Some(own) = &self.host
            && !host().is_some_and(|host| own.as_str().eq_ignore_ascii_case(host))
        {
            return None;
        }
        let mut rest = path;
        let mut named = None;
        for segment in self.path.segments() {
            let tail = rest.strip_prefix('/')?;
            let end = tail.bytes().position(|byte| byte == b'/');
            let (text, tail) = tail.split_at(end.unwrap_or(tail.len()));
            match segment {
                Segment::Literal(literal) if equal(literal, text) => {}
                Segment::Tenant if TenantId::parse(text).is_ok() => named = Some(text),
                _ => return None,
            }
            rest = tail;
        }
        let tenant = match &self.tenant {
            RouteTenant::One(tenant) => tenant.as_str(),
            RouteTenant::ByPath => named.expect("checked with the config"),
        };
        Some((tenant, rest))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn routes(lines: &[(&str, &str, &str)]) -> Routes {
        let config = |(tenant, host, path): &(&str, &str, &str)| {
            let host = if host.is_empty() { String::new() } else { format!("host: {host}") };
            let text = format!(
                "tenant: '{tenant}'\npath: '{path}'\nopen: [Schemas]\nupstream: {{ url: 'http://b/' }}\n{host}\n"
            );
            let node = crate::config::yaml::Node::parse(&text).expect("YAML");
            node.decode::<RouteConfig>().value.expect("a route")
        };
        Routes::new(&lines.iter().map(config).collect::<Vec<_>>())
    }

    fn request(host: &str, target: &str) -> Parts {
        let request = Request::builder().uri(target).header("host", host).body(());
        request.expect("a request").into_parts().0
    }

    /// `expected` is tenant and rest, `None` for no route, or an error for an unclear target.
    fn check(
        routes: &Routes,
        host: &str,
        target: &str,
        expected: Result<Option<(&str, &str)>, ()>,
    ) {
        let request = request(host, target);
        let found = Target::parse(&request).and_then(|target| {
            let place = routes.find(&target)?;
            Ok(place.map(|place| (place.tenant.name.to_owned(), place.rest.to_owned())))
        });
        let expected = expected.map(|it| it.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(found.map_err(|_| ()), expected, "{host} {target}");
    }

    #[test]
    fn routes_match_on_segment_boundaries() {
        let routes = routes(&[("z-1", "", "/scim/v2")]);
        check(&routes, "h", "/scim/v2", Ok(Some(("z-1", ""))));
        check(&routes, "h", "/scim/v2/Users?x", Ok(Some(("z-1", "/Users"))));
        check(&routes, "h", "/scim/v2x", Ok(None));
        check(&routes, "h", "/scim", Ok(None));
        check(&routes, "h", "http://h/scim/v2/Users", Ok(Some(("z-1", "/Users"))));
        check(&routes, "h", "http://other/scim/v2/Users", Err(()));
    }

    #[test]
    fn the_most_exact_route_wins() {
        let routes = routes(&[
            ("*", "", "/{tenant}/scim"),
            ("z-1", "", "/"),
            ("z-2", "", "/z-2/scim"),
            ("z-3", "b.example", "/"),
            ("z-4", "", "/a/scim/v2"),
        ]);
        check(&routes, "h", "/z-9/scim/Users", Ok(Some(("z-9", "/Users"))));
        check(&routes, "h", "/z-2/scim/Users", Ok(Some(("z-2", "/Users"))));
        check(&routes, "h", "/a/scim/v2/Users", Ok(Some(("z-4", "/Users"))));
        check(&routes, "h", "/else", Ok(Some(("z-1", "/else"))));
        check(&routes, "[::1]:80", "/x", Ok(Some(("z-1", "/x"))));
        check(&routes, "b.example.", "/x", Ok(Some(("z-3", "/x"))));
        check(&routes, "B.example:8080", "/z-2/scim/Users", Ok(Some(("z-3", "/z-2/scim/Users"))));
    }

    #[test]
    fn unusual_scim_targets_pass() {
        let routes = routes(&[("z-1", "", "/scim/v2")]);
        for rest in [
            "/Users/a%2Fb",
            "/Users/2819@example.com",
            "/Users/a;b",
            "/Users/a~b:c",
            "/Users/100%25",
            "/Users/...",
            "/Users/%E4%BD%A0",
            "/Schemas/urn:ietf:params:scim:schemas:core:2.0:User",
            "/Users//x",
            "/Users/",
        ] {
            check(&routes, "h", &format!("/scim/v2{rest}"), Ok(Some(("z-1", rest))));
        }
    }

    #[test]
    fn what_could_be_read_as_another_route_is_refused() {
        let routes =
            routes(&[("z-1", "", "/scim"), ("z-2", "", "/scim/v2"), ("*", "", "/t/{tenant}")]);
        for target in [
            "/scim/../t/z-9/Users",
            "/scim/%2e%2e/t",
            "/scim/%252e%252e/t",
            "/scim/..;x/t",
            "/scim/a%5c..%5ct",
            "/scim%2fv2/Users",
            "/scim/V2/Users",
            "/SCIM/v2/Users",
            "/scim/v2;x=y/Users",
            "/scim//v2/Users",
            "/scim/%76%32/Users",
            "/scim/v2//Users",
            "/scim/x%00",
            "/t/%7a-9/Users",
            "//t/z-9/Users",
        ] {
            check(&routes, "h", target, Err(()));
        }
        check(&routes, "h", "/scim/v2/Users", Ok(Some(("z-2", "/Users"))));
    }

    #[test]
    fn hosts_are_one_and_well_formed() {
        let mut request = request("h", "/scim");
        request.headers.append("host", "h".parse().expect("valid"));
        assert!(matches!(Target::parse(&request), Err(Unclear::Framing(_))));
        let none = Request::builder().uri("/scim").body(()).expect("a request").into_parts().0;
        assert!(matches!(Target::parse(&none), Err(Unclear::Framing(_))));
        for bad in [
            "", "a b", "a/b", "a@b", "a,b", ".a", "a..b", "a..", "[a]", "a:x", "a:1:2", "]a[:",
            ":80",
        ] {
            let request = self::request(bad, "/scim");
            assert!(matches!(Target::parse(&request), Err(Unclear::Framing(_))), "{bad}");
        }
    }

    #[test]
    fn only_plain_reads_are_open() {
        let routes = routes(&[("z-1", "", "/scim/v2")]);
        let open = |method: Method, rest: &str| {
            let request = request("h", &format!("/scim/v2{rest}"));
            let target = Target::parse(&request).expect("clear");
            routes.find(&target).expect("clear").is_some_and(|place| place.is_open(&method))
        };
        assert!(open(Method::GET, "/Schemas"));
        assert!(open(Method::HEAD, "/Schemas/urn:x:User?a=b"));
        for closed in ["/Users", "/schemas", "/Schemas/a/b", "/Schemas;/x", "/Schemas%2Fx", ""] {
            assert!(!open(Method::GET, closed), "{closed}");
        }
        assert!(!open(Method::POST, "/Schemas"));
    }

    #[test]
    fn a_search_is_a_read() {
        let access =
            |method: Method, path: &str| Target { host: None, path, query: None }.access(&method);
        assert_eq!(access(Method::POST, "/scim/Users/.search"), Access::Read);
        assert_eq!(access(Method::GET, "/scim/Users"), Access::Read);
        assert_eq!(access(Method::POST, "/scim/Users"), Access::Write);
        assert_eq!(access(Method::POST, "/scim/Users/x.search"), Access::Write);
        assert_eq!(access(Method::PATCH, "/scim/Users/.search"), Access::Write);
    }
}

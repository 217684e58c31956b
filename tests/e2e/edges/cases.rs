//! What every edge is asked, as data.

/// A request that is the good token's right.
pub struct Allowed {
    pub method: &'static str,
    pub target: &'static str,
    pub body: Option<&'static str>,
}

pub const ALLOWED: &[Allowed] = &[
    Allowed::read("GET", "/scim/v2/Users?filter=userName%20eq%20%22a%22&startIndex=1"),
    Allowed::read("HEAD", "/scim/v2/Users/1"),
    Allowed::read("OPTIONS", "/scim/v2/Users"),
    Allowed::write("POST", "/scim/v2/Users", "{\"userName\":\"a\"}"),
    Allowed::write("POST", "/scim/v2/.search", "{\"count\":1}"),
    Allowed::write("PUT", "/scim/v2/Users/1", "{\"userName\":\"b\"}"),
    Allowed::write("PATCH", "/scim/v2/Groups/1", "{\"Operations\":[]}"),
    Allowed::read("DELETE", "/scim/v2/Users/1"),
    // Unusual, but each has one meaning.
    Allowed::read("GET", "/scim/v2"),
    Allowed::read("GET", "/scim/v2/Users?"),
    Allowed::read("GET", "/scim/v2/Users?filter=\"raw\"&flag"),
    Allowed::read("GET", "/scim/v2/Users?a=1;b=2&a=%2F%2e%2e%2F"),
    Allowed::read("GET", "/scim/v2/Users/a%2Fb"),
    Allowed::read("GET", "/scim/v2/Users/a%2fb"),
    Allowed::read("GET", "/scim/v2/Users/%41;v=1"),
    Allowed::read("GET", "/scim/v2/Users/%C3%A9%e9"),
    Allowed::read("GET", "/scim/v2/Users/a@b.example+c,d=e:f(g)'!*~"),
    Allowed::read("GET", "/scim/v2/Users/\"a\""),
    Allowed::read("GET", "/scim/v2/Users/a|b^c{d}"),
    Allowed::read("GET", "http://scim.example.com/scim/v2/Users?startIndex=1"),
];

impl Allowed {
    const fn read(method: &'static str, target: &'static str) -> Self {
        Self { method, target, body: None }
    }

    const fn write(method: &'static str, target: &'static str, body: &'static str) -> Self {
        Self { method, target, body: Some(body) }
    }
}

/// A request with which the backend has nothing to do.
pub struct Refused {
    pub name: &'static str,
    pub method: &'static str,
    pub target: &'static str,
    pub authorization: &'static [&'static str],
    pub status: u16,
    /// What the challenge says: nothing of an error, or which, or there is no challenge.
    pub challenge: Option<&'static str>,
}

const MISSING: Option<&str> = Some("Bearer realm=\"scim\"");
const TOKEN: Option<&str> = Some("Bearer realm=\"scim\", error=\"invalid_token\"");
const REQUEST: Option<&str> = Some("Bearer realm=\"scim\", error=\"invalid_request\"");

pub const REFUSED: &[Refused] = &[
    Refused::new("no token", &[], 401, MISSING),
    Refused::new("no token", &[], 401, MISSING).with("HEAD"),
    Refused::new("no token", &[], 401, MISSING).with("POST"),
    Refused::new("unknown", &["Bearer {unknown}"], 401, TOKEN),
    Refused::new("unknown", &["Bearer {unknown}"], 401, TOKEN).with("OPTIONS"),
    Refused::new("unknown", &["Bearer {unknown}"], 401, TOKEN).with("DELETE"),
    Refused::new("foreign", &["Bearer {foreign}"], 401, TOKEN),
    Refused::new("disabled", &["Bearer {disabled}"], 401, TOKEN),
    Refused::new("expired", &["Bearer {expired}"], 401, TOKEN),
    Refused::new("another scheme", &["Basic dXNlcjpwYXNz"], 401, MISSING),
    Refused::new("two schemes", &["Bearer Bearer {good}"], 400, REQUEST),
    Refused::new("no scheme", &["{good}"], 400, REQUEST),
    Refused::new("two tokens", &["Bearer {good}", "Bearer {unknown}"], 400, REQUEST),
    Refused::new("two tokens", &["Bearer {unknown}", "Bearer {good}"], 400, REQUEST),
    Refused::new("the token twice", &["Bearer {good}", "Bearer {good}"], 400, REQUEST),
    Refused::new("joined", &["Bearer {good}, Bearer {good}"], 400, REQUEST),
    Refused::new("another's route", &["Bearer {good}"], 401, TOKEN).at("/other/v2/Users"),
    Refused::new("another's open path", &[], 401, MISSING).at("/other/v2/ServiceProviderConfig"),
    Refused::new("a bad token on an open path", &["Bearer {unknown}"], 401, TOKEN)
        .at("/scim/v2/ServiceProviderConfig"),
    Refused::new("no route", &["Bearer {good}"], 404, None).at("/metrics"),
    Refused::new("no route", &["Bearer {good}"], 404, None).at("/scim/v2x/Users"),
    Refused::new("no route", &["Bearer {good}"], 404, None).at("/"),
    Refused::new("a place of nginx's own", &[], 401, MISSING).at("/_guard"),
    Refused::new("no route, unknown", &["Bearer {unknown}"], 401, TOKEN).at("/check/scim/v2"),
];

impl Refused {
    const fn new(
        name: &'static str,
        authorization: &'static [&'static str],
        status: u16,
        challenge: Option<&'static str>,
    ) -> Self {
        Self { name, method: "GET", target: "/scim/v2/Users", authorization, status, challenge }
    }

    const fn at(self, target: &'static str) -> Self {
        Self { target, ..self }
    }

    const fn with(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

/// Targets that one server reads in one way and the next in another. Whatever an edge makes of them,
/// the good token must not get the backend to see one that leads out of its route.
pub const HOSTILE: &[&str] = &[
    "/scim/v2/../../other/v2/Users",
    "/scim/v2/../admin",
    "/scim/v2/./Users",
    "/scim/v2/..",
    "/scim/v2/%2e%2e/admin",
    "/scim/v2/%2E./admin",
    "/scim/v2/.%2e%2fadmin",
    "/scim/v2/..%2fadmin",
    "/scim/v2/%252e%252e/admin",
    "/scim/v2/..%252fadmin",
    "/scim/v2/..;/admin",
    "/scim/v2/..;a=b/admin",
    "/scim/v2/..\\admin",
    "/scim/v2/..%5cadmin",
    "/scim/v2/..%255cadmin",
    "/scim/v2;a/../admin",
    "/scim/v2/Users/%00",
    "/scim/v2/Users/%0d%0aX-SCIM-Tenant:%20z-other",
    "/scim/v2/Users#/../../admin",
    "/scim/v2#",
    "/other/v2/../../scim/v2/../../other/v2/Users",
    "/other/v2/%2e%2e/%2e%2e/scim/v2/Users",
    "/other/v2/..%2f..%2fscim/v2/Users",
    "/scim/v2//Users",
    "//scim/v2/../../admin",
    "//scim.example.com/scim/v2/Users",
    "/admin?/scim/v2/Users",
    "/admin;/scim/v2/Users",
    "/admin#/scim/v2/Users",
    "/scim%2fv2/../admin",
    "http://scim.example.com/admin",
    "http://scim.example.com/scim/v2/../admin",
    "http://other.example.com/scim/v2/../../other/v2/Users",
    "http:/scim/v2/Users",
    "/scim/v2/Users /../../admin",
    "scim/v2/Users",
    "*",
];

/// What a client may send to be taken for another, or for a trusted proxy.
pub const FORGED: &[(&str, &str)] = &[
    ("X-SCIM-Tenant", "forged"),
    ("x-scim-tenant", "forged"),
    ("X-Scim-TENANT", "forged"),
    ("x_scim_tenant", "forged"),
    ("X-SCIM_Tenant", "forged"),
    ("X.SCIM.Tenant", "forged"),
    ("X~SCIM~Tenant", "forged"),
    ("X-SCIM-Credential-Id", "forged"),
    ("X-SCIM-Credential-ID", "forged"),
    ("x_scim_credential_id", "forged"),
    ("X-SCIM-Credential_Id", "forged"),
    ("X+SCIM+Credential+Id", "forged"),
    ("X-Original-Method", "FORGED"),
    ("X-Original-URI", "/forged"),
    ("X-Original-URL", "http://forged/forged"),
    ("X-Original-Host", "forged"),
    ("X-Forwarded-Method", "FORGED"),
    ("X-Forwarded-Uri", "/forged"),
    ("X-Forwarded-Host", "forged"),
    ("X-Forwarded-For", "192.0.2.66"),
    ("X_Forwarded_For", "192.0.2.66"),
    ("Forwarded", "for=192.0.2.66;host=forged"),
    ("X-Envoy-Auth-Headers-To-Remove", "x-scim-tenant,x-scim-credential-id"),
];

/// Headers that the client declares to be the edge's alone, so that the backend does not get them.
pub const CONNECTION: &[&str] = &[
    "X-SCIM-Tenant",
    "close, X-SCIM-Tenant, X-SCIM-Credential-Id",
    "keep-alive, x-scim-tenant, x-request-id, x-forwarded-for",
    "close, X-Original-URI, X-Original-Method, X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host",
];

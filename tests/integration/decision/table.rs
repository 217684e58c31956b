//! One table of cases for the proxy and every face that decides.

use super::*;

struct Case {
    method: &'static str,
    target: &'static str,
    authorization: String,
    status: u16,
    reason: &'static str,
}

fn case(target: &'static str, authorization: &str, status: u16, reason: &'static str) -> Case {
    let line = |value: &str| match value {
        "" => String::new(),
        value => format!("Authorization: {value}\r\n"),
    };
    let authorization = authorization.split('|').map(line).collect();
    Case { method: "GET", target, authorization, status, reason }
}

const USERS: &str = "/scim/v2/Users";

fn cases() -> Vec<Case> {
    let live = &format!("Bearer {TOKEN}");
    let twice = &format!("{live}|{live}");
    let bare = &TOKEN.to_owned();
    let mut cases = vec![
        case(USERS, "", 401, "authorization_missing"),
        case(USERS, "Basic YTpi", 401, "authorization_missing"),
        case(USERS, "Bearer", 400, "authorization_malformed"),
        case(USERS, "lonely", 400, "authorization_malformed"),
        case(USERS, "Bearer Bearer x", 400, "authorization_malformed"),
        case(USERS, "Bearer a b", 400, "authorization_malformed"),
        case(USERS, "Bearer a,b", 400, "authorization_malformed"),
        case(USERS, "Bearer \u{e4}", 400, "authorization_malformed"),
        case(USERS, twice, 400, "authorization_malformed"),
        case(USERS, bare, 400, "authorization_malformed"),
        case(USERS, "Bearer unknown", 401, "token_unknown"),
        case(USERS, "Bearer t-disabled", 401, "credential_disabled"),
        case(USERS, "Bearer t-expired", 401, "credential_expired"),
        case(USERS, "Bearer t-denied", 401, "credential_denied"),
        case(USERS, "Bearer t-foreign", 401, "tenant_mismatch"),
        case("/elsewhere", live, 404, "route_unknown"),
        case("/elsewhere", "Bearer unknown", 401, "token_unknown"),
        case("/elsewhere", "", 401, "authorization_missing"),
        case("/scim/v2/Schemas", "", 200, "open"),
        case("/scim/v2/Schemas/urn:x:User", "", 200, "open"),
        case("/scim/v2/Schemas%2Fx", "", 401, "authorization_missing"),
        case("/scim/v2/Schemas", live, 200, "allowed"),
        case("/scim/v2/Schemas", "Bearer unknown", 401, "token_unknown"),
    ];
    for target in [
        USERS,
        "/scim/v2",
        "/scim/v2/",
        "/scim/v2/Users/a%2Fb",
        "/scim/v2/Users/a;b",
        "/scim/v2/Users?filter=userName%20eq%20%22a%22&count=1",
        "/scim/v2/Users?flag",
        "/scim/v2/Users?",
        "/scim/v2/Users?filter=userName+eq+\"a\"",
        "/scim/v2/Users?a=http://x/?b",
        "/scim/v2/Users?filter=displayName+eq+\"\u{e4}\"",
        "/scim/v2/Users/\u{e4}",
        "/scim/v2/a\"b",
        "/bare/Users",
    ] {
        cases.push(case(target, live, 200, "allowed"));
    }
    cases.push(case("/bare/Users", bare, 200, "allowed"));
    for target in [
        "/scim/v2/../admin",
        "/scim/v2/%2e%2e/admin",
        "/scim/v2/%252e%252e/admin",
        "/scim/v2/..%2fadmin",
        "/scim/v2/..;x/admin",
        "/scim/v2/a%5cb",
        "/scim/v2/a\\b",
        "/scim%2fv2/Users",
        "/SCIM/v2/Users",
        "/scim/v2//Users",
        "//scim/v2/Users",
        "/scim/v2/Users%00",
        "/scim/v2/Users#x",
        "/scim/v2/Users?a#x",
    ] {
        cases.push(case(target, live, 400, "target_ambiguous"));
    }
    for method in ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
        cases.push(Case { method, ..case(USERS, live, 200, "allowed") });
        cases.push(Case { method, ..case(USERS, "Bearer unknown", 401, "token_unknown") });
    }
    cases.push(Case { method: "HEAD", ..case("/scim/v2/Schemas", "", 200, "open") });
    cases.push(Case {
        method: "POST",
        ..case("/scim/v2/Schemas", "", 401, "authorization_missing")
    });
    cases.push(Case { method: "TRACE", ..case(USERS, live, 405, "method_refused") });
    cases
}

fn setup(backend: &Backend) -> Setup {
    let lasting = "2099-01-01T00:00:00Z";
    let rows = [
        row("c-disabled", "t-disabled", "Disabled", lasting),
        row("c-expired", "t-expired", "Enabled", "2020-01-01T00:00:00Z"),
        row("c-denied", "t-denied", "Enabled", lasting),
        row("c-foreign", "t-foreign", "Enabled", lasting).replace(TENANT, "z-other"),
        row(ID, TOKEN, "Enabled", lasting),
    ];
    let route = |path: &str, keys: &str| {
        let upstream = format!("upstream: {{ url: 'http://{}{path}' }}", backend.address);
        format!("    - {{ tenant: {TENANT}, path: {path}, {keys}, {upstream} }}\n")
    };
    let routes = route("/scim/v2", "open: [Schemas]") + &route("/bare", "bare_token: true");
    Setup::new(backend.address)
        .rows(&rows.concat())
        .routes(&routes)
        .deny("- credential_id: c-denied\n")
}

#[test]
fn every_face_decides_as_the_proxy_does() {
    let backend = Backend::friendly();
    let guard = start(setup(&backend));
    let cases = cases();
    let mut lines = Vec::new();
    for case in &cases {
        let Case { method, target, authorization, status, .. } = case;
        let mut identified = |face: &str| {
            let id = format!("r-{}", fastrand::u64(..));
            lines.push((id.clone(), case, face.to_owned()));
            format!("{authorization}X-Request-Id: {id}\r\n")
        };
        let before = backend.seen().len();
        let headers = identified("proxy");
        let head = format!("{method} {target} HTTP/1.1\r\nHost: scim.test\r\n{headers}\r\n");
        let reply = guard.client().send(&head);
        assert_eq!(reply.status, *status, "proxy: {method} {target} {authorization}");
        for (edge, address) in faces(&guard) {
            let headers = &identified(edge.name());
            let asked = Asked { method, target, host: Some("scim.test"), headers };
            let told = format!("{edge:?}: {method} {target} {authorization}");
            check(case, edge, &asked.by(edge, address), &told);
        }
        let forwarded = backend.seen().len() - before;
        assert_eq!(forwarded, usize::from(*status == 200), "by the proxy alone: {method} {target}");
    }
    for (id, case, face) in lines {
        let Case { method, target, authorization, status, reason } = case;
        let line = guard.access_line(&id);
        let told = format!("{face}: {method} {target} {authorization}: {line}");
        assert_eq!(line["face"] == "proxy", face == "proxy", "{told}");
        assert_eq!(line["reason"], *reason, "{told}");
        assert_eq!(line["http.response.status_code"], *status, "{told}");
        // Of a target that cannot be read only some edges tell the rest.
        if *reason != "target_ambiguous" {
            assert_eq!(line["http.request.method"], *method, "{told}");
            assert_eq!(line["url.path"], target.split('?').next().expect("a path"), "{told}");
        }
    }
}

fn check(case: &Case, edge: Edge, reply: &Reply, told: &str) {
    let Case { status, reason, method, .. } = case;
    let narrow = edge.is_narrow();
    let shown = if narrow && ![200, 401, 403, 503].contains(status) { 403 } else { *status };
    assert_eq!(reply.status, shown, "{told}: {reply:?}");
    // What Envoy is told to set goes on to the backend.
    let goes_on = edge == Edge::EnvoyGrpc && *status == 200;
    assert_eq!(reply.header("cache-control"), (!goes_on).then_some("no-store"), "{told}");
    assert!(reply.header("x-request-id").is_some(), "{told}");
    let own_status = reply.header("x-scim-guard-status").map(str::to_owned);
    assert_eq!(own_status, (shown != *status).then(|| status.to_string()), "{told}");
    let id = reply.header("x-scim-credential-id");
    if *status == 200 {
        assert_eq!(id, Some(if *reason == "open" { "(anonymous)" } else { ID }), "{told}");
        assert_eq!(reply.header("x-scim-tenant"), Some(TENANT), "{told}");
        assert!(reply.body.is_empty(), "{told}");
        return;
    }
    assert_eq!((id, reply.header("x-scim-tenant")), (None, None), "{told}");
    let challenge = matches!(status, 400 | 401);
    assert_eq!(reply.header("www-authenticate").is_some(), challenge, "{told}");
    if narrow {
        assert!(reply.body.is_empty() && reply.header("content-type").is_none(), "{told}");
    } else if edge != Edge::Envoy || *method != "HEAD" {
        assert_eq!(reply.json()["status"], status.to_string(), "{told}");
        assert_eq!(reply.header("content-type"), Some("application/scim+json"), "{told}");
    }
}

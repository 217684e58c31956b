//! What clients may send over HTTP/1.1.

use super::{Bed, HOST, bearer, is_scim_error, probe};
use crate::guard::{ID, TENANT, TOKEN};
use crate::http::Client;

/// What becomes of a request that has a probe behind it on its connection.
enum Fate {
    /// Refused, and the connection is closed: where the next request begins is in doubt.
    Closed(u16),
    /// Refused, and the probe is served.
    Refused(u16),
    Passed,
}

/// The reason word in the access line of a refused request, where it has a line.
fn reason(bed: &Bed, id: &str) -> String {
    bed.guard.access_line(id)["reason"].as_str().expect("a word").to_owned()
}

/// Sends the request with a probe behind it, in one piece and once more in pieces.
fn check(bed: &mut Bed, request: &str, fate: &Fate) {
    let bytes = [request.as_bytes(), probe().as_bytes()].concat();
    let shown: String = request.chars().take(300).collect();
    let replies = bed.send(&bytes);
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    let forwarded = bed.forwarded();
    let lines: Vec<_> = forwarded.iter().map(|it| it.line().to_owned()).collect();
    let is_probe = |line: &str| line == "GET /scim/v2/Probe HTTP/1.1";
    match fate {
        Fate::Closed(status) => {
            assert_eq!(statuses, [*status], "{shown:?}");
            assert!(is_scim_error(&replies[0]), "{shown:?}: {}", replies[0].text());
            assert_eq!(lines, [""; 0], "{shown:?}");
        }
        Fate::Refused(status) => {
            assert_eq!(statuses, [*status, 200], "{shown:?}");
            assert!(is_scim_error(&replies[0]), "{shown:?}: {}", replies[0].text());
            assert!(lines.len() == 1 && is_probe(&lines[0]), "{shown:?}: {lines:?}");
        }
        Fate::Passed => {
            assert_eq!(statuses, [200, 200], "{shown:?}: {}", replies[0].text());
            assert!(lines.len() == 2 && is_probe(&lines[1]), "{shown:?}: {lines:?}");
        }
    }
}

const SMUGGLED: &str = "GET /scim/v2/Smuggled HTTP/1.1\r\nHost: scim.test\r\n\r\n";

#[test]
fn a_body_whose_end_is_in_doubt_is_refused_and_nothing_behind_it_is_read() {
    let mut bed = Bed::start(|setup| setup);
    let fields = [
        // Both ways to tell a length, in either order.
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "content-length: 6\r\nTRANSFER-ENCODING: CHUNKED",
        "Transfer-Encoding: chunked\r\nContent-Length:",
        "Transfer-Encoding: identity\r\nContent-Length: 6",
        // Codings that somebody might take for chunked, or not.
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked foo",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding:",
        "Transfer-Encoding: \u{e7}hunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\r\n\tchunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: \u{c}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding: chunked\u{7f}",
        "Transfer-Encoding: chunked\rX: y",
        "Transfer-Encoding: chunked\nX: y",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\rTransfer-Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding\u{0}: chunked",
        "Transfer-Encoding chunked",
        "(Transfer-Encoding): chunked",
        // Lengths that somebody might read otherwise.
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 0\r\nContent-Length: 46",
        "Content-Length: 3\r\ncontent-length: 3",
        "Content-Length: 3, 3",
        "Content-Length: 3,4",
        "Content-Length: 3,",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 3.0",
        "Content-Length: 3e0",
        "Content-Length: 0x3",
        "Content-Length: 3 0",
        "Content-Length: 3;",
        "Content-Length: \"3\"",
        "Content-Length: three",
        "Content-Length:",
        "Content-Length: \u{b}3",
        "Content-Length: \u{661}",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551615",
        "Content-Length: 99999999999999999999999999999999",
        "Content-Length : 3",
        "Content-Length\t: 3",
        " Content-Length: 3",
        "Content-Length:\r\n 3",
        "Content-Length: 3\r\n 4",
        "Content-Length: 3\n",
        "Content-Length: 3\rX: y",
        // Fields that are none.
        ": empty",
        "no colon",
        "Sp ace: x",
        "Par(en): x",
        "Comma,: x",
        "Sla/sh: x",
        "Quo\"te: x",
        "N\u{fc}ll: x",
        "Nul\u{0}: x",
        "X: nul\u{0}",
        "X: del\u{7f}",
        "X: bell\u{7}",
        "X: escape\u{1b}[0m",
        "X: return\rY: z",
        "X: feed\nY: z",
        "X: fold\r\n fold",
        "X: fold\r\n\tfold",
    ];
    for field in fields {
        for method in ["POST", "GET"] {
            let request = format!(
                "{method} /scim/v2/Users HTTP/1.1\r\n{HOST}{}{field}\r\n\r\n0\r\n\r\n{SMUGGLED}",
                bearer()
            );
            check(&mut bed, &request, &Fate::Closed(400));
        }
    }
    let old = format!(
        "POST /scim/v2/Users HTTP/1.0\r\n{HOST}{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        bearer()
    );
    check(&mut bed, &old, &Fate::Closed(400));
    bed.end();
}

#[test]
fn request_lines_that_are_none_are_refused() {
    let mut bed = Bed::start(|setup| setup);
    for line in [
        "GET /scim/v2/Users",
        "GET /scim/v2/Users ",
        "GET /scim/v2/Users HTTP/0.9",
        "GET /scim/v2/Users HTTP/1.2",
        "GET /scim/v2/Users HTTP/1",
        "GET /scim/v2/Users HTTP/1.",
        "GET /scim/v2/Users HTTP/1.10",
        "GET /scim/v2/Users HTTP/2.0",
        "GET /scim/v2/Users HTTP/3",
        "GET /scim/v2/Users http/1.1",
        "GET /scim/v2/Users HTTPS/1.1",
        "GET /scim/v2/Users HTTP/1.1 ",
        "GET /scim/v2/Users HTTP/1.1 x",
        "GET /scim/v2/Users  HTTP/1.1",
        "GET  /scim/v2/Users HTTP/1.1",
        "GET\t/scim/v2/Users HTTP/1.1",
        "GET /scim/v2/Users\tHTTP/1.1",
        "GET /scim/v2/Us ers HTTP/1.1",
        " GET /scim/v2/Users HTTP/1.1",
        "G ET /scim/v2/Users HTTP/1.1",
        "G\u{0}T /scim/v2/Users HTTP/1.1",
        "G@T /scim/v2/Users HTTP/1.1",
        "G:T /scim/v2/Users HTTP/1.1",
        "/scim/v2/Users HTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "GET /scim/v2/Users HTTP/1.1\rX: y",
        "GET /scim/v2/Users\u{0} HTTP/1.1",
        "GET /scim/v2/\u{1}Users HTTP/1.1",
        "GET /scim/v2/Users\u{7f} HTTP/1.1",
        "GET /scim/v2/Users?a=\u{0} HTTP/1.1",
        "GET /scim/v2/Users?a=\rb HTTP/1.1",
        "GET /scim/v2/Us<er>s HTTP/1.1",
        "GET /scim/v2/Us`er HTTP/1.1",
        "GET /scim/v2/Users# HTTP/1.1",
        "GET /scim/v2/Users#x HTTP/1.1",
        "GET /scim/v2/Users?#x HTTP/1.1",
        "GET #x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:///scim/v2/Users HTTP/1.1",
        "PRI * HTTP/2.0",
        "\u{16}\u{3}\u{1}",
    ] {
        let request = format!("{line}\r\n{HOST}{}\r\n", bearer());
        check(&mut bed, &request, &Fate::Closed(400));
    }
    for whole in [
        format!("GET /scim/v2/Users HTTP/1.1\n{HOST}{}\r\n", bearer()),
        format!("GET /scim/v2/Users HTTP/1.1\n{HOST}{}\n", bearer()).replace('\r', ""),
        format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{}\n", bearer()),
        format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{}X: y\n\r\n", bearer()),
    ] {
        check(&mut bed, &whole, &Fate::Closed(400));
    }
    // What no text can hold.
    for bytes in [&b"GET /scim/v2/Users?a=\xff HTTP/1.1"[..], b"GET /scim/v2/\xc0\xaf HTTP/1.1"] {
        let request = [bytes, b"\r\n", HOST.as_bytes(), bearer().as_bytes(), b"\r\n"].concat();
        let replies = bed.send(&request);
        assert_eq!(replies.iter().map(|it| it.status).collect::<Vec<_>>(), [400]);
        assert!(is_scim_error(&replies[0]) && bed.forwarded().is_empty());
    }
    // Empty lines before a request are passed over (RFC 9112 section 2.2).
    check(
        &mut bed,
        &format!("\r\n\r\nGET /scim/v2/Users HTTP/1.1\r\n{HOST}{}\r\n\r\n", bearer()),
        &Fate::Passed,
    );
    bed.end();
}

#[test]
fn refusals_of_the_head_have_a_line_with_a_reason() {
    let bed = Bed::start(|setup| setup);
    let long = "x".repeat(40_000);
    let many = "X: y\r\n".repeat(101);
    for (number, (line, fields, status, word)) in [
        ("GET /scim/v2/Users HTTP/1.1", "X: \u{0}\r\n", 400, "framing_invalid"),
        ("GET /scim/v2/Users HTTP/1.1", "Content-Length: +3\r\n", 400, "framing_invalid"),
        ("GET /scim/v2/Us<er>s HTTP/1.1", "", 400, "target_ambiguous"),
        ("GET /scim/v2/Users#x HTTP/1.1", "", 400, "target_ambiguous"),
        (
            "GET /scim/v2/Users HTTP/1.1",
            "Authorization: Bearer \u{0}\r\n",
            400,
            "authorization_malformed",
        ),
        ("GET /scim/v2/Users HTTP/1.1", &many, 431, "head_too_large"),
        ("GET /scim/v2/Users HTTP/1.1", &format!("X: {long}\r\n"), 431, "head_too_large"),
        (&format!("GET /scim/v2/{long} HTTP/1.1"), "", 431, "head_too_large"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("head-{number}");
        // Where the line itself is too long, nobody reads what is behind it.
        let told = line.len() < 1000;
        let request = format!("{line}\r\n{HOST}X-Request-Id: {id}\r\n{fields}\r\n");
        let replies = bed.send(request.as_bytes());
        assert_eq!(replies.len(), 1, "{id}");
        assert!(replies[0].status == status && is_scim_error(&replies[0]), "{id}");
        assert_eq!(replies[0].header("connection"), Some("close"));
        let told_id = replies[0].header("x-request-id").expect("an id").to_owned();
        assert!(!told || told_id == id);
        assert_eq!(reason(&bed, &told_id), word, "{id}");
        let line = bed.guard.access_line(&told_id);
        assert!(!told || line["http.request.method"] == "GET", "{line}");
    }
    // Other faces say it in their own way.
    let mut client = Client::connect(bed.guard.ops);
    let reply = client.send("GET /livez HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n");
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    let series = "scim_guard_http_rejects_total{cause=\"malformed\",face=\"proxy\"}";
    assert_eq!(bed.guard.metric(series), 5.0);
    bed.end();
}

#[test]
fn chunks_are_read_strictly_and_a_body_that_is_not_whole_never_looks_so() {
    let mut bed = Bed::start(|setup| setup);
    let head = format!(
        "POST /scim/v2/Users HTTP/1.1\r\n{HOST}{}Transfer-Encoding: chunked\r\n\r\n",
        bearer()
    );
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(5_000));
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3h\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "\t3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;\u{0}\r\nabc\r\n0\r\n\r\n",
        "3;a\u{7f}\r\nabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
        ";a=b\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "0000000000000000000003\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\nX: y\n\r\n",
        "3\r\nabc\r\n0\r\n X: y\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: \u{0}\r\n\r\n",
        &long,
        &trailers,
    ] {
        check(&mut bed, &format!("{head}{body}"), &Fate::Closed(400));
        let wrong = format!("{head}{body}").replace(TOKEN, "wrong");
        check(&mut bed, &wrong, &Fate::Closed(401));
    }
    for (body, data) in [
        ("0\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;ext\r\nabc\r\n000\r\n\r\n", "abc"),
        ("3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n", "abc"),
        ("3 ;a=b\r\nabc\r\n0\r\n\r\n", "abc"),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("0003\r\nabc\r\n0\r\nX-Trailer: forged\r\nX-SCIM-Tenant: forged\r\n\r\n", "abc"),
        ("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", "0\r\n\r\nGE"),
    ] {
        let replies = bed.send(format!("{head}{body}{}", probe()).as_bytes());
        assert_eq!(replies.iter().map(|it| it.status).collect::<Vec<_>>(), [200, 200], "{body:?}");
        let forwarded = bed.forwarded();
        assert_eq!(forwarded.len(), 2, "{body:?}");
        assert_eq!(forwarded[0].body, data.as_bytes(), "{body:?}");
        assert!(!forwarded[0].head.contains("forged"));
    }
    bed.end();
}

#[test]
fn hosts_are_one_well_formed_and_what_the_target_says() {
    let mut bed = Bed::start(|setup| setup);
    let users = "GET /scim/v2/Users HTTP/1.1";
    for (line, host) in [
        (users, ""),
        (users, "Host:\r\n"),
        (users, "Host: \r\n"),
        (users, "Host: scim.test\r\nHost: scim.test\r\n"),
        (users, "Host: scim.test\r\nhost: other\r\n"),
        (users, "Host: a b\r\n"),
        (users, "Host: a,b\r\n"),
        (users, "Host: a/b\r\n"),
        (users, "Host: a?b\r\n"),
        (users, "Host: a#b\r\n"),
        (users, "Host: a\\b\r\n"),
        (users, "Host: user@scim.test\r\n"),
        (users, "Host: http://scim.test\r\n"),
        (users, "Host: scim.test:\u{661}\r\n"),
        (users, "Host: scim.test:80:80\r\n"),
        (users, "Host: scim.test:x\r\n"),
        (users, "Host: scim.test:123456\r\n"),
        (users, "Host: :80\r\n"),
        (users, "Host: .\r\n"),
        (users, "Host: scim..test\r\n"),
        (users, "Host: .scim.test\r\n"),
        (users, "Host: [::1\r\n"),
        (users, "Host: ::1\r\n"),
        (users, "Host: [::1]x\r\n"),
        (users, "Host: [scim]\r\n"),
        (users, "Host: sc%69m.test\r\n"),
        (users, "Host: sc\u{ef}m.test\r\n"),
        (users, "Host: \"scim.test\"\r\n"),
        (users, "Host: <scim>\r\n"),
        ("GET http://scim.test/scim/v2/Users HTTP/1.1", ""),
        ("GET http://other/scim/v2/Users HTTP/1.1", HOST),
        ("GET http://scim.test:81/scim/v2/Users HTTP/1.1", HOST),
        ("GET http://user@scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET http://user:secret@scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET ftp://scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET file://scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET scim.test HTTP/1.1", HOST),
        ("GET scim.test:80 HTTP/1.1", HOST),
        ("CONNECT scim.test:80 HTTP/1.1", HOST),
        ("CONNECT /scim/v2/Users HTTP/1.1", HOST),
        ("CONNECT http://scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET * HTTP/1.1", HOST),
        ("OPTIONS * HTTP/1.1", HOST),
    ] {
        check(&mut bed, &format!("{line}\r\n{host}{}\r\n", bearer()), &Fate::Refused(400));
    }
    for method in ["TRACE", "trace"] {
        let request = format!("{method} /scim/v2/Users HTTP/1.1\r\n{HOST}{}\r\n", bearer());
        check(&mut bed, &request, &Fate::Refused(405));
    }
    for (line, host) in [
        (users, "Host: scim.test\r\n"),
        (users, "HOST:scim.test:8080\r\n"),
        (users, "host:\tscim.test \t\r\n"),
        (users, "Host: SCIM.Test.\r\n"),
        (users, "Host: under_score.test\r\n"),
        (users, "Host: 192.0.2.1:80\r\n"),
        (users, "Host: [2001:db8::1]:8443\r\n"),
        ("GET http://scim.test/scim/v2/Users HTTP/1.1", HOST),
        ("GET HTTP://SCIM.test/scim/v2/Users HTTP/1.1", HOST),
    ] {
        check(&mut bed, &format!("{line}\r\n{host}{}\r\n", bearer()), &Fate::Passed);
    }
    bed.end();
}

#[test]
fn only_our_words_about_identity_and_hop_reach_the_backend() {
    let mut bed = Bed::start(|setup| setup);
    let names = [
        "X-SCIM-Credential-Id",
        "X-SCIM-Tenant",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "Forwarded",
    ];
    let spellings: [fn(&str) -> String; 10] = [
        |name| name.to_owned(),
        |name| name.to_ascii_lowercase(),
        |name| name.to_ascii_uppercase(),
        |name| name.replace('-', "_"),
        |name| name.replace('-', "."),
        |name| name.replacen('-', "_", 1),
        |name| name.replacen('-', ".", 1).to_ascii_lowercase(),
        |name| name.to_ascii_uppercase().replace('-', "_"),
        |name| name.replace('-', "~"),
        |name| name.replacen('-', "!", 1),
    ];
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        for spell in spellings {
            lines.push(format!("{}: forged", spell(name)));
        }
        lines.push(format!("{name}: forged\r\n{name}: forged"));
        lines.push(format!("{name}: forged, forged"));
        lines.push(format!("Connection: {name}\r\n{name}: forged"));
        lines.push(format!("Connection: close, {}", name.to_ascii_lowercase()));
    }
    for own in ["Host", "X-Request-Id", "Traceparent", "Content-Length", "Authorization"] {
        lines.push(format!("Connection: {own}"));
    }
    for line in [
        "Connection: X-Hop\r\nX-Hop: forged",
        "Connection: x-hop\r\nX-HOP: forged",
        "Connection: keep-alive, X-Hop\r\nX-Hop: forged",
        "Connection: keep-alive\r\nConnection: X-Hop\r\nX-Hop: forged",
        "Connection: ,,X-Hop ,\r\nX-Hop: forged",
        "Connection: X-Hop;q=1, X-Hop\r\nX-Hop: forged",
        "Connection: Cookie\r\nCookie: forged",
        "Connection: If-Match\r\nIf-Match: forged",
        "Keep-Alive: timeout=forged",
        "Proxy-Connection: forged",
        "Proxy-Authorization: Basic forged",
        "Proxy-Authenticate: forged",
        "Proxy: forged",
        "Proxy_Authorization: forged",
        "TE: forged",
        "TE: trailers, forged",
        "Trailer: forged",
        "Upgrade: forged",
        "Connection: Upgrade\r\nUpgrade: forged",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: forged",
        "Upgrade: h2c\r\nHTTP2-Settings: forged",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nConnection: X-Hop\r\nX-Hop: forged",
        "Connection: Upgrade\r\nUpgrade: TLS/1.3, forged",
        "Content_Length: forged",
        "Content.Length: forged",
        "CONTENT_LENGTH: forged",
        "Transfer_Encoding: forged",
        "Transfer.Encoding: forged",
        "X_Request_Id: forged",
        "Keep_Alive: forged",
        "Host_: x",
        "Expect: forged",
        "Expect: 100-continue, forged",
        "Authorization_: x",
        "X-Request-Id: for/ged: forged",
        "X-Request-Id: one\r\nX-Request-Id: forged",
        "Traceparent: forged",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-forged",
    ] {
        lines.push(line.to_owned());
    }
    for line in &lines {
        let request = format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{}{line}\r\n\r\n", bearer());
        let replies = bed.send(format!("{request}{}", probe()).as_bytes());
        assert_eq!(replies[0].status, 200, "{line:?}: {}", replies[0].text());
        let forwarded = bed.forwarded();
        let head = &forwarded[0].head;
        assert!(!head.contains("forged"), "{line:?} reached the backend: {head}");
        for (name, value) in [
            ("host", "scim.test"),
            ("x-scim-credential-id", ID),
            ("x-scim-tenant", TENANT),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "scim.test"),
            ("x-forwarded-proto", "http"),
        ] {
            assert_eq!(forwarded[0].headers(name), [value], "{line:?}");
        }
        for name in ["authorization", "connection", "upgrade", "te", "trailer", "expect"] {
            assert!(forwarded[0].headers(name).is_empty(), "{line:?}: {head}");
        }
    }
    for kept in [
        "X-Odd: a,b;c=\"d\"",
        "X-Empty:",
        "X_Under: 1",
        "x.dot: 1",
        "Via: 1.1 other",
        "Cookie: a=b",
        "X-Utf8: \u{e4}",
        "X-HTTP-Method-Override: DELETE",
        "Accept-Encoding: gzip",
        "If-None-Match: W/\"a\", \"b\"",
        "Proxy-Status: x",
        "X-Original-URL: /x",
        "X-Tab: a\tb",
        "!#$%&'*+-.^_`|~: 1",
    ] {
        let request = format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{}{kept}\r\n\r\n", bearer());
        assert_eq!(bed.send(format!("{request}{}", probe()).as_bytes())[0].status, 200, "{kept}");
        let forwarded = bed.forwarded();
        let (name, value) = kept.split_once(':').expect("a field");
        let text = format!("{}: {}", name.to_ascii_lowercase(), value.trim());
        assert!(forwarded[0].head.contains(&text), "{kept}: {}", forwarded[0].head);
    }
    bed.end();
}

#[test]
fn authorization_is_one_header_of_one_token() {
    let mut bed = Bed::start(|setup| setup);
    for (fields, fate) in [
        (String::new(), Fate::Refused(401)),
        ("Authorization: Basic YTpi".to_owned(), Fate::Refused(401)),
        ("Authorization: Digest x".to_owned(), Fate::Refused(401)),
        ("Authorization:".to_owned(), Fate::Refused(400)),
        ("Authorization: Bearer".to_owned(), Fate::Refused(400)),
        (format!("Authorization: {TOKEN}"), Fate::Refused(400)),
        (format!("Authorization: Bearer{TOKEN}"), Fate::Refused(400)),
        (format!("Authorization: Bearer Bearer {TOKEN}"), Fate::Refused(400)),
        (format!("Authorization: Bearer \"{TOKEN}\""), Fate::Refused(401)),
        (format!("Authorization: Bearer {TOKEN},"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}, Basic x"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN} x"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}\u{e4}"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}\u{0}"), Fate::Closed(400)),
        (format!("Authorization: Bearer {TOKEN}\u{7f}"), Fate::Closed(400)),
        (format!("Authorization: Bearer\r\n {TOKEN}"), Fate::Closed(400)),
        (format!("Authorization : Bearer {TOKEN}"), Fate::Closed(400)),
        (format!("Authorization_: Bearer {TOKEN}"), Fate::Refused(401)),
        (format!("X-Authorization: Bearer {TOKEN}"), Fate::Refused(401)),
        (format!("Proxy-Authorization: Bearer {TOKEN}"), Fate::Refused(401)),
        (format!("Cookie: access_token={TOKEN}"), Fate::Refused(401)),
        (format!("Authorization: Bearer x\r\nAuthorization: Bearer {TOKEN}"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}\r\nauthorization: Bearer x"), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}\r\nAuthorization:"), Fate::Refused(400)),
        (format!("Authorization: Basic YTpi\r\nAuthorization: Bearer {TOKEN}"), Fate::Refused(400)),
        (format!("Authorization: Bearer {}", TOKEN.to_uppercase()), Fate::Refused(401)),
        (format!("Authorization: Bearer {TOKEN}="), Fate::Refused(401)),
        (format!("Authorization: Bearer {}", "x".repeat(5000)), Fate::Refused(400)),
        (format!("Authorization: Bearer {TOKEN}"), Fate::Passed),
        (format!("AUTHORIZATION: bEARER {TOKEN}"), Fate::Passed),
        (format!("authorization:Bearer   {TOKEN}  "), Fate::Passed),
        (format!("Connection: Authorization\r\nAuthorization: Bearer {TOKEN}"), Fate::Passed),
    ] {
        let fields = if fields.is_empty() { fields } else { fields + "\r\n" };
        let request = format!("GET /scim/v2/Users HTTP/1.1\r\n{HOST}{fields}\r\n");
        check(&mut bed, &request, &fate);
    }
    bed.end();
}

#[test]
fn targets_that_could_mean_two_things_are_refused() {
    let mut bed = Bed::start(|setup| {
        let address = setup.routes.clone();
        let other = address.replace("path: /scim/v2", "path: /other").replace(TENANT, "z-other");
        setup.routes(&(address + &other))
    });
    let mut targets: Vec<String> = Vec::new();
    for dots in [
        ".",
        "..",
        "%2e",
        "%2E",
        "%2e%2e",
        ".%2e",
        "%2E.",
        "%252e",
        "%252e%252e",
        "..;",
        "..;a=b",
        "%2e%2e;x",
        ".;",
        "..%3b",
        "..%253bx",
    ] {
        targets.push(format!("/scim/v2/{dots}/admin"));
        targets.push(format!("/scim/v2/{dots}"));
        targets.push(format!("/scim/v2/Users/{dots}/{dots}/other"));
        targets.push(format!("/scim/{dots}/other/Users"));
    }
    for separator in ["%2f", "%2F", "%252f", "%5c", "%5C", "%255c", "\\"] {
        targets.push(format!("/scim/v2/..{separator}other"));
        targets.push(format!("/scim/v2/Users{separator}..{separator}Groups"));
        targets.push(format!("/scim{separator}v2/Users"));
    }
    targets.extend(
        [
            "/scim/v2/a\\b",
            "/scim/v2/a%5cb",
            "/scim/v2//Users",
            "/scim//v2/Users",
            "//scim/v2/Users",
            "/scim/v2///Users",
            "/SCIM/v2/Users",
            "/scim/V2/Users",
            "/Scim/v2",
            "/%73cim/v2/Users",
            "/scim/%762/Users",
            "/scim/%2576%32/Users",
            "/scim/v2;a/Users",
            "/scim;/v2/Users",
            "/scim/v2/Users%00",
            "/scim/v2/Users%0a",
            "/scim/v2/Users%0d%0aX:y",
            "/scim/v2/Users%2500",
            "/scim/v2/Users%7f",
            "/scim/v2/%09",
        ]
        .map(str::to_owned),
    );
    for target in &targets {
        let request = format!("GET {target} HTTP/1.1\r\n{HOST}{}\r\n", bearer());
        check(&mut bed, &request, &Fate::Refused(400));
    }
    for (target, status) in [
        ("/", 404),
        ("/scim", 404),
        ("/scim/v2x", 404),
        ("/scim/v2x/Users", 404),
        ("/x/scim/v2", 404),
        ("/scim/v2?x", 200),
        ("/other/Users", 401),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{HOST}{}\r\n", bearer());
        let fate = if status == 200 { Fate::Passed } else { Fate::Refused(status) };
        check(&mut bed, &request, &fate);
    }
    bed.end();
}

#[test]
fn odd_and_legal_targets_pass_byte_for_byte() {
    let mut bed = Bed::start(|setup| setup);
    let long = format!("/Users?filter={}", "x".repeat(30_000));
    for rest in [
        "",
        "/",
        "/Users",
        "/Users/",
        "/Users?",
        "/Users??",
        "/Users?a",
        "/Users?=",
        "/Users?&&",
        "/Users?a=1&a=2",
        "/Users?cursor=",
        "/Users?aadOptscim062020",
        "/Users/a%2Fb",
        "/Users/a%2fb",
        "/Users/a;b=c",
        "/Users/;",
        "/Users/a:b@c~d!$&'()*+,=",
        "/Users/100%25",
        "/Users/%E4%BD%A0",
        "/Users/\u{4f60}",
        "/Users/...",
        "/Users/a..b",
        "/Users/..a",
        "/Users/.search",
        "/Users/a|b",
        "/Users/a^b",
        "/Users/{id}",
        "/Users/[x]",
        "/Users//x",
        "/Users/%20",
        "/Users/%",
        "/Users/%zz",
        "/Schemas/urn:ietf:params:scim:x",
        "/Users?filter=userName%20eq%20%22a%2Bb%40x%22",
        "/Users?filter=a+eq+\"b\"",
        "/Users?filter=a[b%20eq%20\"c\"]",
        "/Users?filter=<>",
        "/Users?filter=\\",
        "/Users?filter=\u{4f60}\"",
        "/Users?../../x",
        "/Users?x=/../",
        "/Users?x=%2e%2e%2f",
        "/Users?x=%00",
        "/Users?http://other/",
        "/Users?`{}|^",
        "/Users?a=\"&b=<c>&d='e'",
        &long,
    ] {
        for rest in
            [rest.to_owned(), format!("{rest}{}", if rest.contains('?') { "&q" } else { "?q" })]
        {
            let request = format!("GET /scim/v2{rest} HTTP/1.1\r\n{HOST}{}\r\n", bearer());
            let replies = bed.send(format!("{request}{}", probe()).as_bytes());
            assert_eq!(replies[0].status, 200, "{rest:.60}: {}", replies[0].text());
            let lines: Vec<_> = bed.forwarded().iter().map(|it| it.line().to_owned()).collect();
            assert_eq!(lines[0], format!("GET /scim/v2{rest} HTTP/1.1"));
            assert_eq!(lines.len(), 2, "{rest:.60}");
        }
    }
    bed.end();
}

/// Requests that come close behind each other are read one by one, each as strictly as the first.
#[test]
fn each_of_many_requests_in_one_read_is_checked() {
    let mut bed = Bed::start(|setup| setup);
    let get = |rest: &str| format!("GET /scim/v2{rest} HTTP/1.1\r\n{HOST}{}\r\n", bearer());
    let post = |framing: &str, body: &str, token: &str| {
        format!(
            "POST /scim/v2/Users HTTP/1.1\r\n{HOST}Authorization: Bearer {token}\r\n{framing}\r\n\r\n{body}"
        )
    };
    let firsts = [
        (get("/A"), 200),
        (get("/A?filter=\"x\""), 200),
        (post("Content-Length: 3", "abc", TOKEN), 200),
        (post("Content-Length: 3", "abc", "wrong"), 401),
        (post("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", TOKEN), 200),
        (post("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", "wrong"), 401),
        (get("/..%2f"), 400),
        (
            post(
                "Content-Length: 40",
                &"GET /scim/v2/Smuggled HTTP/1.1\r\nX: y\r\n\r\n"[..40],
                "wrong",
            ),
            401,
        ),
    ];
    let seconds = [
        (get("/B#x"), vec![400]),
        (get("/B?filter=a%20eq%20\"b\""), vec![200, 200]),
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked", "0\r\n\r\n", TOKEN), vec![400]),
        (post("Content-Length: 3\r\nContent-Length: 3", "abc", TOKEN), vec![400]),
        (post("X: y\nZ: a", "", TOKEN), vec![400]),
        (post("Content-Length: 3", "abc", TOKEN), vec![200, 200]),
        (post("Content-Length: 3", "abc", "wrong"), vec![401, 200]),
        (get("/C").replace("HTTP/1.1", "HTTP/1.3"), vec![400]),
    ];
    for (first, status) in &firsts {
        for (second, statuses) in &seconds {
            let expected = [&[*status][..], statuses].concat();
            let passed = expected.iter().filter(|status| **status == 200).count();
            let all = format!("{first}{second}{}", probe());
            // In one piece, and split at odd places.
            for cut in [0, 1, first.len() - 1, first.len(), first.len() + 9, all.len() - 2] {
                let mut client = bed.guard.client();
                client.write(&all.as_bytes()[..cut]);
                let _ = std::io::Write::write_all(&mut client.stream, &all.as_bytes()[cut..]);
                let mut seen = Vec::new();
                while let Some(reply) = client.reply(false) {
                    seen.push(reply.status);
                }
                assert_eq!(seen, expected, "{first:?} then {second:?}, cut at {cut}");
                let forwarded = bed.forwarded();
                assert_eq!(forwarded.len(), passed, "{first:?} then {second:?}");
                assert!(forwarded.iter().all(|it| !it.line().contains("Smuggled")));
                if second.contains("/B?filter") {
                    let line = "GET /scim/v2/B?filter=a%20eq%20\"b\" HTTP/1.1";
                    assert!(forwarded.iter().any(|it| it.line() == line), "{forwarded:?}");
                }
            }
        }
    }
    let many = format!("{}{}", get("/A").repeat(200), probe());
    assert_eq!(bed.send(many.as_bytes()).len(), 201);
    assert_eq!(bed.forwarded().len(), 201);
    bed.end();
}

#[test]
fn a_client_that_expects_something_is_decided_first() {
    let mut bed = Bed::start(|setup| setup);
    for (expect, token, statuses) in [
        ("100-continue", TOKEN, vec![100, 200]),
        ("100-Continue", TOKEN, vec![100, 200]),
        ("100-continue", "wrong", vec![401]),
        ("200-maybe", TOKEN, vec![200]),
        ("200-maybe", "wrong", vec![401]),
        ("100-continue, x", "wrong", vec![401]),
        ("", TOKEN, vec![200]),
    ] {
        let mut client = bed.guard.client();
        let head = format!(
            "POST /scim/v2/Users HTTP/1.1\r\n{HOST}Authorization: Bearer {token}\r\nConnection: close\r\nExpect: {expect}\r\nContent-Length: 3\r\n\r\n"
        );
        client.write(head.as_bytes());
        let mut seen = Vec::new();
        if statuses[0] != 200 {
            seen.push(client.reply(false).expect("an answer").status);
        }
        if statuses.contains(&200) {
            client.write(b"abc");
        }
        while let Some(reply) = client.reply(false) {
            seen.push(reply.status);
        }
        assert_eq!(seen, statuses, "{expect}");
        let bodies: Vec<_> = bed.forwarded().into_iter().map(|it| it.body).collect();
        assert_eq!(bodies.len(), usize::from(token == TOKEN), "{expect}");
    }
    bed.end();
}

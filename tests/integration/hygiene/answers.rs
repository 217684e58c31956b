//! What backends may answer.

use super::recorder::{Message, Recorder};
use super::{Bed, HOST, bearer, is_scim_error};
use crate::guard::TOKEN;

/// What the client sees of an answer.
#[derive(Clone)]
enum Sees {
    /// This status and this body, whole.
    Whole(u16, &'static str),
    /// A SCIM error of this status.
    Refusal(u16),
    /// An answer that is visibly not whole, or none.
    Cut,
}

struct Case {
    method: &'static str,
    answer: Vec<u8>,
    /// Whether the backend closes the connection behind it.
    closes: bool,
    sees: Sees,
}

fn cases() -> Vec<Case> {
    use Sees::{Cut, Refusal, Whole};
    let ok = "HTTP/1.1 200 OK\r\n";
    let long = "x".repeat(100_000);
    let mut cases = Vec::new();
    let mut add = |method, answer: String, closes, sees: Sees| {
        cases.push(Case { method, answer: answer.into_bytes(), closes, sees });
    };
    // Lengths that are in doubt, and heads that are none. Whether the backend closes or not.
    let broken = [
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "Content-Length: 2, 2\r\n\r\nok",
        "Content-Length: +2\r\n\r\nok",
        "Content-Length: -2\r\n\r\nok",
        "Content-Length: 0x2\r\n\r\nok",
        "Content-Length: 2 2\r\n\r\nok",
        "Content-Length:\r\n\r\nok",
        "Content-Length: two\r\n\r\nok",
        "Content-Length: 99999999999999999999\r\n\r\nok",
        "Content-Length : 2\r\n\r\nok",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\nok",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding:\r\n\r\nok",
        "Transfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Sp ace: x\r\nContent-Length: 2\r\n\r\nok",
        ": x\r\nContent-Length: 2\r\n\r\nok",
        "no colon\r\nContent-Length: 2\r\n\r\nok",
        "X: nul\0\r\nContent-Length: 2\r\n\r\nok",
        "X: del\u{7f}\r\nContent-Length: 2\r\n\r\nok",
        "X: a\rY: b\r\nContent-Length: 2\r\n\r\nok",
        "X: fold\r\n fold\r\nContent-Length: 2\r\n\r\nok",
    ];
    for fields in broken {
        for closes in [true, false] {
            add("GET", format!("{ok}{fields}"), closes, Refusal(502));
        }
    }
    for head in [
        "nonsense\r\n\r\n",
        "ok",
        "<html>ok</html>\r\n\r\n",
        "HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 20 Short\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 Long\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 abc Text\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
        "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\u{15}\u{3}\u{3}\0\u{2}\u{2}F",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "",
        "HTTP/1.1",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\nok",
    ] {
        add("GET", head.to_owned(), true, Refusal(502));
    }
    add("GET", format!("{ok}X: {}\r\n\r\n", "x".repeat(80_000)), true, Refusal(502));
    add(
        "GET",
        format!("{ok}{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(200)),
        true,
        Refusal(502),
    );
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    add("GET", format!("{flood}{ok}Content-Length: 2\r\n\r\nok"), true, Refusal(502));
    // Bodies that break off must look so.
    for body in [
        "",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ] {
        add("GET", format!("{ok}Transfer-Encoding: chunked\r\n\r\n{body}"), true, Cut);
    }
    add("GET", format!("{ok}Content-Length: 200000\r\n\r\n{long}"), true, Cut);
    add("GET", format!("{ok}Transfer-Encoding: chunked\r\n\r\n186a0\r\n{long}\r\n"), true, Cut);
    // Odd and sound.
    for (answer, closes, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", false, "ok"),
        ("HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok", true, "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200 Gr\u{fc}n\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200 OK\r\n\r\nok", true, "ok"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", true, "ok"),
        ("HTTP/1.0 200 OK\r\n\r\nok", true, "ok"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", true, "ok"),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false, "ok"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n",
            false,
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\no\r\n01\r\nk\r\n0\r\nX: y\r\n\r\n",
            false,
            "ok",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        (
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, ""),
        (
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: forged\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: forged\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        (
            "HTTP/1.1 200 OK\r\nProxy-Authenticate: forged\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\nUpgrade: forged\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
        (
            "HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nok",
            false,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\nX: \u{e4}\r\nContent-Length: 2\r\n\r\nok", false, "ok"),
    ] {
        add("GET", answer.to_owned(), closes, Whole(200, body));
    }
    for status in
        [201, 202, 206, 207, 226, 299, 301, 304, 307, 308, 400, 403, 404, 409, 412, 413, 418, 429]
    {
        let answer = format!("HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n");
        add("GET", answer, false, Whole(status, ""));
    }
    for status in [451, 499, 500, 501, 502, 503, 504, 599, 600, 999] {
        let answer = format!("HTTP/1.1 {status} Odd\r\nContent-Length: 2\r\n\r\nok");
        add("GET", answer, false, Whole(status, "ok"));
    }
    // Bodies where there can be none belong to nobody.
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    ] {
        add("DELETE", answer.to_owned(), false, Whole(204, ""));
        add("GET", answer.to_owned(), true, Whole(204, ""));
    }
    for answer in [
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    ] {
        add("GET", answer.to_owned(), false, Whole(304, ""));
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    ] {
        add("HEAD", answer.to_owned(), false, Whole(200, ""));
    }
    cases
}

/// A backend whose answer is chosen by the number at the end of the path.
fn backend(cases: &[Case]) -> Recorder {
    let answers: Vec<_> = cases.iter().map(|case| (case.answer.clone(), case.closes)).collect();
    Recorder::answering(move |message: &Message| {
        let path = message.line().split(' ').nth(1)?;
        let number: usize = path.strip_prefix("/scim/v2/Case/")?.parse().ok()?;
        Some(answers[number].clone())
    })
}

#[test]
fn answers_are_whole_refused_or_visibly_cut() {
    let cases = cases();
    let mut bed = Bed::before(backend(&cases), |setup| setup.listener(", h2c: true"));
    let streams = super::streams::Peer::connect(bed.guard.proxy);
    for (number, Case { method, answer, sees, .. }) in cases.iter().enumerate() {
        let shown: String = String::from_utf8_lossy(answer).chars().take(200).collect();
        let request = format!(
            "{method} /scim/v2/Case/{number} HTTP/1.1\r\n{HOST}{}Connection: close\r\n\r\n",
            bearer()
        );
        let replies = bed.send(request.as_bytes());
        let reply = replies.first();
        assert!(replies.len() <= 1, "{shown:?}");
        match sees {
            Sees::Whole(status, body) => {
                let reply = reply.expect("an answer");
                assert_eq!((reply.status, reply.text().as_str()), (*status, *body), "{shown:?}");
                assert!(reply.whole, "{shown:?}");
                assert!(*status != 204 || reply.header("content-length").is_none(), "{shown:?}");
                let told = format!("{:?}", reply.headers);
                assert!(!told.contains("forged"), "{shown:?}: {told}");
            }
            Sees::Refusal(status) => {
                let reply = reply.expect("an answer");
                assert_eq!(reply.status, *status, "{shown:?}");
                assert!(is_scim_error(reply), "{shown:?}");
            }
            Sees::Cut => assert!(reply.is_none_or(|reply| !reply.whole), "{shown:?}"),
        }
        assert!(bed.forwarded().len() <= 2, "{shown:?}: sent again");
        // The same over HTTP/2.
        let answer = streams.ask(method, &format!("/scim/v2/Case/{number}"), TOKEN);
        match (sees, answer) {
            (Sees::Whole(status, body), Some((seen, text))) => {
                assert_eq!((seen, text.as_slice()), (*status, body.as_bytes()), "{shown:?}");
            }
            (Sees::Refusal(status), Some((seen, _))) => assert_eq!(seen, *status, "{shown:?}"),
            (Sees::Cut, None) => {}
            (_, answer) => panic!("{shown:?}: {answer:?} over HTTP/2"),
        }
        bed.forwarded();
    }
    bed.end();
}

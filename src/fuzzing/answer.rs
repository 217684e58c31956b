//! What backends answer: the client sees what a strict reader makes of the backend's bytes, a
//! refusal of ours, or an answer that is visibly cut; and nobody else sees anything of it.
//!
//! The first byte of an input says which request is answered and how.

use super::Trial;
use super::bed::{Bed, Exchange, NUMBER, PEERS, Script};
use super::strict::{Fault, Field, Message};

pub fn target() -> Trial {
    let bed = Bed::new();
    Box::new(move |input| {
        let Some((how, bytes)) = input.split_first() else { return };
        check(&bed, how.wrapping_sub(b'0'), bytes);
    })
}

fn check(bed: &Bed, how: u8, bytes: &[u8]) {
    let method = ["GET", "HEAD", "POST", "DELETE"][usize::from(how >> 1 & 3)];
    // On a connection that was used before, or on a new one.
    let reused = how & 8 != 0;
    let number = usize::from(reused);
    let first = request("GET", "first", "");
    let asked = request(method, "case", "");
    let next = request("GET", "next", "Connection: close\r\n");
    let all = if reused { [first, asked, next].concat() } else { asked + &next };
    let pieces = if how & 16 != 0 { 9 } else { 1 };
    let script = Script { number, answer: bytes.to_vec(), pieces, closes: how & 1 != 0 };
    let Exchange { answers, received } =
        bed.exchange(std::iter::once(all.as_bytes()), PEERS[0], Some(script));

    let told = || {
        format!("\nthe backend: {}\nthe client:  {}", bytes.escape_ascii(), answers.escape_ascii())
    };
    let mut rest = &answers[..];
    if reused {
        rest = numbered(rest, 0, &told).unwrap_or_else(|| panic!("the first answer{}", told()));
    }
    let said = read(bytes, method);
    let whole = match Message::answer(rest, method.as_bytes()) {
        Ok(seen) if seen.whole => Some(seen),
        Ok(_) | Err(Fault::Incomplete) => None,
        Err(Fault::Malformed(what)) => panic!("{what}{}", told()),
    };
    let Some(seen) = whole else {
        assert!(!said.is_ok_and(|said| said.whole), "it was whole{}", told());
        assert_eq!(received.len(), number + 1, "nothing was to follow{}", told());
        return;
    };
    // A backend that has hung up without a word is asked again.
    let again = bytes.is_empty() && reused && matches!(method, "GET" | "HEAD");
    if again {
        assert_eq!(seen.values(NUMBER), [b"2"], "{}", told());
    } else if is_ours(&seen) {
        assert!(
            said.is_err() || said.is_ok_and(|said| is_refused(bytes, &said)),
            "it was sound{}",
            told()
        );
    } else {
        match said {
            Ok(said) if said.whole => compare(&said, &seen, method, &told),
            Ok(_) => panic!("it was cut{}", told()),
            Err(fault) => panic!("{fault:?}{}", told()),
        }
    }
    let count = number + 1 + usize::from(again);
    let rest = numbered(&rest[seen.size..], count, &told);
    assert_eq!(rest, Some(&b""[..]), "the next answer{}", told());
    let last = received.last().map(|it| it.bytes.starts_with(b"GET /scim/v2/next "));
    assert_eq!((received.len(), last), (count + 1, Some(true)), "{received:?}{}", told());
}

fn request(method: &str, name: &str, fields: &str) -> String {
    let body = if method == "POST" { "Content-Length: 3\r\n\r\nabc" } else { "\r\n" };
    format!(
        "{method} /scim/v2/{name} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {ID}\r\nAuthorization: Bearer one\r\n{fields}{body}"
    )
}

const ID: &str = "c4f1d2b8-request";

/// What stands behind the answer with this number.
fn numbered<'a>(bytes: &'a [u8], number: usize, told: &dyn Fn() -> String) -> Option<&'a [u8]> {
    let answer = Message::answer(bytes, b"GET").ok().filter(|answer| answer.whole)?;
    assert_eq!(answer.values(NUMBER), [number.to_string().as_bytes()], "{}", told());
    Some(&bytes[answer.size..])
}

/// The final answer, as a strict reader finds it (RFC 9110 section 15.2).
fn read<'a>(bytes: &'a [u8], method: &str) -> Result<Message<'a>, Fault> {
    let mut rest = bytes;
    loop {
        let answer = Message::answer(rest, method.as_bytes())?;
        match answer.line[1] {
            b"101" => return Err(Fault::Malformed("another protocol")),
            [b'1', ..] => rest = &rest[answer.size..],
            _ => return Ok(answer),
        }
    }
}

fn is_ours(seen: &Message<'_>) -> bool {
    seen.values("x-request-id") == [ID.as_bytes()]
        && matches!(seen.line[1], b"502" | b"503" | b"504")
}

/// Whether a sound answer is one that we do not pass on.
fn is_refused(bytes: &[u8], said: &Message<'_>) -> bool {
    let interim = bytes.windows(10).filter(|it| it.starts_with(b"HTTP/1.") && it.ends_with(b" 1"));
    let large = bytes.len() > 64 << 10 || said.fields.len() > 128 || interim.count() > 16;
    !said.whole || said.line[1] == b"401" || large
}

fn compare(said: &Message<'_>, seen: &Message<'_>, method: &str, told: &dyn Fn() -> String) {
    assert_eq!((said.line[1], &said.body), (seen.line[1], &seen.body), "{}", told());
    // What the server of this hop says itself.
    let own =
        |name: &str| ["connection", "content-length", "date", "transfer-encoding"].contains(&name);
    let options = said.options();
    let hop = |name: &str| {
        ["keep-alive", "http2-settings", "proxy", "te", "trailer", "upgrade"].contains(&name)
            || (name.starts_with("proxy-") && name != "proxy-status")
            || options.iter().any(|option| option == name)
    };
    let passes = |field: &&Field<'_>| !own(&field.name) && !hop(&field.name);
    let expected = said.fields.iter().filter(passes);
    let found = seen.fields.iter().filter(|field| !own(&field.name));
    let sorted = |fields: Vec<&Field<'_>>| {
        let mut fields: Vec<_> =
            fields.iter().map(|it| (it.name.clone(), it.value.to_vec())).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    assert_eq!(sorted(expected.collect()), sorted(found.collect()), "{}", told());
    if !said.values("date").is_empty() && !hop("date") {
        assert_eq!(said.values("date"), seen.values("date"), "{}", told());
    }
    // The length of what is not sent is told as it was (RFC 9110 section 8.6).
    if method == "HEAD" && !matches!(said.line[1], b"204" | b"304") {
        let length = |it: &Message<'_>| it.values("content-length").first().map(|it| it.to_vec());
        assert!(length(seen) == length(said) || hop("content-length"), "{}", told());
    }
}

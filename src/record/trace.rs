//! The trace that a request belongs to (W3C Trace Context, version 00).

use http::HeaderName;

pub struct Trace {
    pub is_from_client: bool,
    /// Version, trace, span and flags.
    parent: [u8; 55],
}

impl Trace {
    /// The trace of a `traceparent`; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let parent = text.as_bytes().try_into().ok().filter(|_| is_traceparent(text));
        parent.map(|parent| Self { is_from_client: true, parent })
    }

    /// A new trace, for a request that brings none.
    pub fn begin() -> Self {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
        hex::encode_to_slice(trace.to_be_bytes(), &mut parent[3..35]).expect("it fits");
        hex::encode_to_slice(span.to_be_bytes(), &mut parent[36..52]).expect("it fits");
        Self { is_from_client: false, parent }
    }

    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.parent[3..35]).expect("hexadecimal digits")
    }

    /// As the value of [`TRACEPARENT`].
    pub fn parent(&self) -> &[u8] {
        &self.parent
    }
}

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        part.len() == length && part.bytes().all(digit)
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|byte| byte != b'0');
    let mut parts = text.split('-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, span, flags) = (next(), next(), next(), next());
    version == "00" && id(trace, 32) && id(span, 16) && hex(flags, 2) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_traces_are_gone_on_with() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let kept = Trace::parse(good).expect("well-formed");
        assert_eq!((kept.id(), kept.parent()), (&good[3..35], good.as_bytes()));
        for bad in ["", "00-00000000000000000000000000000000-b7ad6b7169203331-01", &good[1..]] {
            assert!(Trace::parse(bad).is_none(), "{bad}");
        }
        let begun = Trace::begin();
        assert!(is_traceparent(str::from_utf8(begun.parent()).expect("text")));
    }
}

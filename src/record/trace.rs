//! The trace that a request belongs to (W3C Trace Context, version 00).

use std::ops::Range;

use http::HeaderName;

pub struct Trace {
    pub is_from_client: bool,
    /// Whether the next hop is told of it by us, and not in the client's own words.
    pub is_ours: bool,
    /// Version, trace, span and flags.
    parent: [u8; 55],
}

impl Trace {
    /// The trace of a `traceparent`; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let parent = text.as_bytes().try_into().ok().filter(|_| is_traceparent(text));
        parent.map(|parent| Self { is_from_client: true, is_ours: false, parent })
    }

    /// A new trace, for a request that brings none.
    pub fn begin() -> Self {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
        hex::encode_to_slice(trace.to_be_bytes(), &mut parent[3..35]).expect("it fits");
        hex::encode_to_slice(span.to_be_bytes(), &mut parent[36..52]).expect("it fits");
        Self { is_from_client: false, is_ours: true, parent }
    }

    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.parent[3..35]).expect("hexadecimal digits")
    }

    pub fn number(&self) -> u128 {
        u128::from_be_bytes(self.bytes(3..35))
    }

    /// The span that this request comes from.
    pub fn span(&self) -> u64 {
        u64::from_be_bytes(self.bytes(36..52))
    }

    pub fn flags(&self) -> u8 {
        u8::from_be_bytes(self.bytes(53..55))
    }

    pub fn is_sampled(&self) -> bool {
        self.flags() & SAMPLED != 0
    }

    /// Puts a span of ours between the client and the next hop.
    pub fn go_on(&mut self, span: u64, sampled: bool) {
        let flags = self.flags() & !SAMPLED | if sampled { SAMPLED } else { 0 };
        hex::encode_to_slice(span.to_be_bytes(), &mut self.parent[36..52]).expect("it fits");
        hex::encode_to_slice([flags], &mut self.parent[53..55]).expect("it fits");
        self.is_ours = true;
    }

    fn bytes<const N: usize>(&self, digits: Range<usize>) -> [u8; N] {
        let mut bytes = [0; N];
        hex::decode_to_slice(&self.parent[digits], &mut bytes).expect("hexadecimal digits");
        bytes
    }

    /// As the value of [`TRACEPARENT`].
    pub fn parent(&self) -> &[u8] {
        &self.parent
    }
}

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag of a trace that somebody records.
const SAMPLED: u8 = 1;

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

    #[test]
    fn a_span_of_ours_changes_the_parent_and_whether_it_is_sampled() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for (flags, sampled, expected) in
            [("01", true, "01"), ("01", false, "00"), ("00", true, "01"), ("02", true, "03")]
        {
            let text = format!("00-{id}-b7ad6b7169203331-{flags}");
            let mut trace = Trace::parse(&text).expect("well-formed");
            assert!(!trace.is_ours);
            assert_eq!((trace.span(), trace.is_sampled()), (0xb7ad_6b71_6920_3331, flags == "01"));
            trace.go_on(0x1f, sampled);
            let expected = format!("00-{id}-000000000000001f-{expected}");
            assert_eq!(trace.parent(), expected.as_bytes());
            assert!(trace.is_ours && trace.is_from_client);
            assert_eq!(format!("{:032x}", trace.number()), id);
        }
    }
}

//! What stands in credential and deny files: it is taken whole or refused, nothing of it is told,
//! and what is left of a file that was cut opens nothing.
//!
//! The first byte of an input says which file it is.

use std::collections::HashSet;

use super::{PLANTED, Trial};
use crate::source::file::{CredentialReader, DenyList, Faults, Format};

pub fn target() -> Trial {
    Box::new(|input| match input.split_first() {
        Some((b'y', content)) => check(content, Format::Yaml),
        Some((b'j', content)) => check(content, Format::JsonLines),
        Some((b'd', content)) => {
            let _ = DenyList::read(content).inspect_err(tells_no_secret);
        }
        _ => {}
    })
}

fn check(content: &[u8], format: Format) {
    let mut reader = CredentialReader::new(format);
    let listing = match reader.read(content) {
        Ok(listing) => listing,
        Err(faults) => return tells_no_secret(&faults),
    };
    let keys: HashSet<_> = listing.iter().map(|row| (&row.tenant, &row.id)).collect();
    let digests: HashSet<_> = listing.iter().map(|row| row.digest).collect();
    assert_eq!((keys.len(), digests.len()), (listing.len(), listing.len()), "one row each");
    reader.applied(&listing);
    if content.ends_with(b"\n") {
        // Behind lines, where a cut is hardest to see, and in between.
        let lines = content.split_inclusive(|byte| *byte == b'\n').scan(0, |end, line| {
            *end += line.len();
            Some(*end)
        });
        let between = (1..content.len()).step_by(content.len().div_ceil(CUTS));
        for end in lines.take(CUTS).chain(between) {
            for row in reader.read(&content[..end]).into_iter().flatten() {
                assert!(listing.contains(&row), "cut after {end} bytes: {row:?}");
            }
        }
    }
}

const CUTS: usize = 40;

fn tells_no_secret(faults: &Faults) {
    assert!(!faults.0.is_empty(), "refused without a word");
    for fault in &faults.0 {
        assert!(!fault.to_string().contains(PLANTED), "{fault}");
    }
}

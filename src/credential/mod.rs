//! The domain: what a credential is and whether it is good at an instant. No I/O, no clock.

pub mod feed;
pub mod token;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::clock::{Now, Timestamp};

pub use token::{BearerToken, TokenDigest};

/// The registration of one bearer token: everything but the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub id: CredentialId,
    pub tenant: TenantId,
    pub digest: TokenDigest,
    pub status: Status,
    pub expiry: Expiry,
}

impl Credential {
    pub fn judge(&self, now: &Now) -> Verdict {
        if self.status == Status::Disabled {
            return Verdict::Disabled;
        }
        self.expiry.judge(now)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Enabled,
    Disabled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
        }
    }
}

impl FromStr for Status {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "Enabled" => Ok(Self::Enabled),
            "Disabled" => Ok(Self::Disabled),
            _ => Err(Malformed),
        }
    }
}

/// Not the text of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// When a credential ends. RFC 7644 section 7.4 demands a limited lifetime, so `Never` is only
/// for those who asked for it by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The first instant at which it is no longer good.
    At(Timestamp),
    Never,
}

impl Expiry {
    /// Live only if neither clock says expired, expired only if both do: a clock that was set
    /// wrongly may cost an answer, but neither lets an old token in nor condemns a good one. Nor is
    /// anything condemned while the admin API's clock contradicts ours.
    fn judge(self, now: &Now) -> Verdict {
        let Self::At(end) = self else { return Verdict::Live };
        match (now.wall >= end, now.ratchet >= end) {
            (false, false) => Verdict::Live,
            (true, true) if !now.contradicted => Verdict::Expired,
            _ => Verdict::ClockUncertain,
        }
    }
}

/// What a known credential is worth at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Live,
    Disabled,
    /// Named by the deny file.
    Denied,
    Expired,
    /// Clocks differ about its expiry.
    ClockUncertain,
}

/// The number of a change or listing, as its source counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Tencent's zone, Alibaba's directory: whose users a credential may touch (RFC 7644 section 6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(Arc<str>);

macro_rules! identifier {
    ($name:ident) => {
        impl $name {
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if is_identifier(text) { Ok(Self(text.into())) } else { Err(InvalidId) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier!(TenantId);
identifier!(CredentialId);

impl CredentialId {
    /// A new one, which nobody has and nobody can guess: `scimcred-` and 20 characters.
    pub fn random() -> Self {
        Self(format!("scimcred-{}", token::random_text::<36>(20)).into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is 1 to 128 of A-Z a-z 0-9 . _ - and is neither `.` nor `..`")
    }
}

impl std::error::Error for InvalidId {}

fn is_identifier(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn credential(status: Status, expiry: Expiry) -> Credential {
        Credential {
            id: CredentialId::parse("scimcred-1").expect("valid"),
            tenant: TenantId::parse("z-1").expect("valid"),
            digest: TokenDigest::of(b"token"),
            status,
            expiry,
        }
    }

    #[test]
    fn a_credential_ends_at_the_instant_of_its_expiry() {
        let clock = Clock::manual(START);
        let credential =
            credential(Status::Enabled, Expiry::At(START.plus(Duration::from_millis(2))));
        clock.advance(Duration::from_millis(1));
        assert_eq!(credential.judge(&clock.now()), Verdict::Live);
        clock.advance(Duration::from_millis(1));
        assert_eq!(credential.judge(&clock.now()), Verdict::Expired);
    }

    #[test]
    fn a_disabled_credential_is_told_as_disabled_even_when_expired() {
        let clock = Clock::manual(START);
        assert_eq!(
            credential(Status::Disabled, Expiry::At(START)).judge(&clock.now()),
            Verdict::Disabled
        );
        assert_eq!(credential(Status::Enabled, Expiry::Never).judge(&clock.now()), Verdict::Live);
    }

    #[test]
    fn a_stepped_wall_clock_neither_revives_nor_condemns() {
        let hour = Duration::from_secs(3600);
        let clock = Clock::manual(START);
        let ended = credential(Status::Enabled, Expiry::At(START));
        clock.set_wall(Timestamp::from_millis(START.as_millis() - 3_600_000));
        assert_eq!(ended.judge(&clock.now()), Verdict::ClockUncertain);

        let clock = Clock::manual(START);
        let good = credential(Status::Enabled, Expiry::At(START.plus(hour)));
        clock.set_wall(START.plus(2 * hour));
        assert_eq!(good.judge(&clock.now()), Verdict::ClockUncertain);
    }

    #[test]
    fn ids_follow_the_providers_alphabet() {
        for good in ["a", "z-demo00000000", "A.b_c-9", "...", &"x".repeat(128)] {
            assert!(TenantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "%2e", &"x".repeat(129)] {
            assert!(TenantId::parse(bad).is_err(), "{bad}");
        }
    }
}

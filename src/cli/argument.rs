//! Arguments whose refusal says what is wanted and never what was written: that may be a secret in
//! the wrong place.

use std::ffi::OsStr;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

use crate::clock::Timestamp;
use crate::config::value::{AdminUrl, SecretRef, Span, StoreRef};
use crate::credential::{CredentialId, TenantId, TokenDigest};

/// Reads one kind of argument.
#[derive(Clone)]
pub struct Argument<T> {
    wanted: &'static str,
    read: fn(&str) -> Option<T>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Argument<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        value.to_str().and_then(self.read).ok_or_else(|| {
            let name = argument.map(|argument| format!("{argument}: ")).unwrap_or_default();
            let what = format!("{name}write {}", self.wanted);
            clap::Error::raw(ErrorKind::ValueValidation, what + "\n").with_cmd(command)
        })
    }
}

fn from_text<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub const ADMIN_URL: Argument<AdminUrl> = Argument {
    wanted: "https:// (or http://) with host and port and without a path, such as \
             https://guard-admin:8081",
    read: from_text,
};

pub const SECRET_REF: Argument<SecretRef> = Argument {
    wanted: "file:PATH or env:NAME of the token, and not the token itself: everybody on this \
             machine can read command lines",
    read: from_text,
};

/// Stands where people might write a token.
pub const NO_TOKEN: Argument<()> = Argument {
    wanted: "the token to standard input and not here: everybody on this machine can read command \
             lines",
    read: |_| None,
};

pub const STORE: Argument<StoreRef> = Argument {
    wanted: "sqlite:PATH or the path alone",
    read: |text| from_text(text).or_else(|| from_text(&format!("sqlite:{text}"))),
};

pub const SPAN: Argument<Span> = Argument {
    wanted: "a whole number and a unit out of ms, s, m, h, d and y (365 days), such as 90d",
    read: from_text,
};

pub const DIGEST: Argument<TokenDigest> = Argument {
    wanted: "sha256: and 64 hexadecimal digits, as of printf %s \"$TOKEN\" | sha256sum",
    read: TokenDigest::parse,
};

pub const TENANT: Argument<TenantId> = Argument {
    wanted: "an id of 1 to 128 of A-Z a-z 0-9 . _ -",
    read: |text| TenantId::parse(text).ok(),
};

pub const CREDENTIAL: Argument<CredentialId> = Argument {
    wanted: "an id of 1 to 128 of A-Z a-z 0-9 . _ -",
    read: |text| CredentialId::parse(text).ok(),
};

/// When a credential is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    In(Span),
    At(Timestamp),
}

pub const EXPIRES: Argument<Expires> = Argument {
    wanted: "how long it lives, such as 90d, or when it ends, such as 2027-11-22T00:00:00Z",
    read: |text| {
        let at = || Timestamp::parse(text).map(Expires::At);
        from_text(text).map(Expires::In).or_else(at)
    },
};

impl Expires {
    /// As the native API's requests name it.
    pub fn member(self) -> (&'static str, String) {
        match self {
            Self::In(time) => ("expire_in", time.to_string()),
            Self::At(end) => ("expire_time", end.to_string()),
        }
    }
}

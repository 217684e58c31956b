//! `credential enroll`: a token that an identity provider has already.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use clap::Args;
use http::Method;

use super::admin::{Desk, expires_member, members};
use crate::cli::api::target;
use crate::cli::argument::{self, Expires};
use crate::cli::receipt::Wait;
use crate::credential::token::Shape;
use crate::credential::{BearerToken, CredentialId, TenantId, TokenDigest};

/// Which token, and whose it is to be.
#[derive(Args)]
pub struct Enrolled {
    /// Whose it is to be. Default: the only tenant
    #[arg(long, value_parser = argument::TENANT)]
    pub tenant: Option<TenantId>,
    /// The token is that of this credential, which a cloud has made
    #[arg(long, value_name = "CREDENTIAL_ID", value_parser = argument::CREDENTIAL)]
    pub id: Option<CredentialId>,
    #[arg(hide = true, value_parser = argument::NO_TOKEN)]
    _token: Option<()>,
    /// The token's SHA-256, instead of the token
    #[arg(long, value_name = "sha256:DIGEST", value_parser = argument::DIGEST)]
    pub digest: Option<TokenDigest>,
    /// How long it lives from now (90d), or when it ends; a cloud knows that of its own
    #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
    #[arg(required_unless_present = "id", conflicts_with = "id")]
    pub expires: Option<Expires>,
    /// What people call it
    #[arg(long)]
    pub label: Option<String>,
}

pub async fn run(desk: &Desk, enrolled: Enrolled, wait: &Wait) -> Result<ExitCode, String> {
    let Enrolled { tenant, id, digest, expires, label, .. } = enrolled;
    if id.is_some() && label.is_some() {
        return Err("--label is for a credential that is made here: leave it out".to_owned());
    }
    let (member, time) = match digest {
        Some(digest) => (("digest", Some(digest.to_string().into())), wait.time_by_default()),
        None => {
            let token = read_token()?;
            let at_once = is_known_at_once(&token);
            let time = if at_once { wait.time() } else { wait.time_by_default() };
            (("secret", Some(token.into())), time)
        }
    };
    let done = match id {
        None => {
            let tenant = desk.tenant(tenant).await?;
            let label = ("label", label.map(Into::into));
            desk.post(&tenant, &members([member, label, expires_member(expires)])).await?
        }
        Some(id) => {
            let tenant = match tenant {
                Some(tenant) => tenant,
                None => desk.api.credential(&id, None).await?.0,
            };
            let target = format!("{}/digest", target(&tenant, &id));
            desk.api.send(Method::PUT, &target, Some(&members([member]))).await?
        }
    };
    desk.conclude(done, time, "").await
}

/// A proxy asks for a token that looks like ours as soon as it is used; any other one works where
/// it is known.
pub fn is_known_at_once(token: &str) -> bool {
    Shape::of(token.as_bytes()) == (Shape::Ours { intact: true })
}

pub fn read_token() -> Result<String, String> {
    let mut input = std::io::stdin().lock();
    if input.is_terminal() {
        anstream::eprintln!(
            "paste the token and end with Ctrl-D; it shows here, a pipe shows nothing"
        );
    }
    let mut bytes = Vec::new();
    let read = input.by_ref().take(INPUT_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read the token from standard input: {error}"))?;
    taken(&bytes)
}

const INPUT_BYTES_MAX: u64 = 1 << 16;

/// The token, without the one line's end that editors and `echo` add. What was surely not meant is
/// refused: it would be taken over, and never fit.
fn taken(input: &[u8]) -> Result<String, String> {
    let token = input.strip_suffix(b"\n").unwrap_or(input);
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    let quoted = |quote| token.len() > 1 && token.starts_with(quote) && token.ends_with(quote);
    let word = token.get(..7).is_some_and(|it| it.eq_ignore_ascii_case(b"bearer "));
    let refusal = match () {
        () if token.is_empty() => "there is no token on standard input: is the variable set?",
        () if quoted(b"\"") || quoted(b"'") => {
            "the token stands in quotes: take them away; if they belong to it, enrol its digest \
             with --digest"
        }
        () if word => "the token has `Bearer` in front of it: leave that out",
        () if BearerToken::parse(token).is_none() => {
            "a token has 1 to 4096 printable ASCII characters and neither a blank nor a comma: \
             there may be a line's end or a blank too many"
        }
        () => return Ok(String::from_utf8_lossy(token).into_owned()),
    };
    Err(refusal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `told` is a part of the refusal, or the token.
    fn check(input: &str, told: Result<&str, &str>) {
        match (taken(input.as_bytes()), told) {
            (Ok(token), Ok(wanted)) => assert_eq!(token, wanted),
            (Err(refusal), Err(part)) => {
                assert!(refusal.contains(part), "{refusal} should tell {part}");
                assert!(!refusal.contains("s3cret"), "{refusal} repeats the token");
            }
            (outcome, _) => panic!("{input:?}: {outcome:?}"),
        }
    }

    #[test]
    fn one_line_end_is_taken_away_and_nothing_else() {
        check("s3cret", Ok("s3cret"));
        check("s3cret\n", Ok("s3cret"));
        check("s3cret\r\n", Ok("s3cret"));
        check("'s3cret", Ok("'s3cret"));
        check("s3cret\n\n", Err("a line's end"));
        check(" s3cret", Err("a blank"));
        check("", Err("no token"));
        check("\n", Err("no token"));
        check("\"s3cret\"\n", Err("quotes"));
        check("'s3cret'", Err("quotes"));
        check("bearer s3cret", Err("`Bearer`"));
    }
}

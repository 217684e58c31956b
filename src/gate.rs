//! Token and place → permit. The only maker of a [`Permit`], without which nothing is forwarded.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};

use crate::authority::{Access, Held, Judgement, Seat, Unavailable};
use crate::clock::{Clock, Now};
use crate::credential::token::Shape;
use crate::credential::{BearerToken, Credential, TokenDigest, Verdict};
use crate::refusal::Refusal;
use crate::route::{Place, Unclear};

/// One worker's gate.
pub struct Gate {
    seat: Seat,
    clock: Clock,
}

/// The proof that a request may be forwarded.
pub struct Permit {
    holder: Holder,
    access: Access,
}

enum Holder {
    Credential(Held),
    /// For a path listed under `open`.
    Anonymous,
}

impl Permit {
    /// Whose it is; `None` if the path is open to all.
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        match &self.holder {
            Holder::Credential(held) => Some(held.grant.credential()),
            Holder::Anonymous => None,
        }
    }
}

/// A refusal, and whose token it was if that is known.
#[derive(Debug)]
pub struct Refused {
    pub refusal: Refusal,
    pub credential: Option<Arc<Credential>>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, credential: None }
    }
}

impl From<Unclear> for Refused {
    fn from(unclear: Unclear) -> Self {
        match unclear {
            Unclear::Framing(detail) => Refusal::FramingInvalid(detail).into(),
            Unclear::Target(detail) => Refusal::TargetAmbiguous(detail).into(),
            Unclear::Method => Refusal::MethodRefused.into(),
        }
    }
}

impl From<Unavailable> for Refused {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Unloaded => Refusal::UndecidedUnloaded.into(),
            Unavailable::UnknownWhileStale => Refusal::UnknownWhileStale.into(),
            Unavailable::Contended | Unavailable::Unasked => Refusal::UndecidedLookup.into(),
        }
    }
}

impl Gate {
    pub fn new(seat: Seat, clock: Clock) -> Self {
        Self { seat, clock }
    }

    /// Decides about a request by its headers and its place; no place means that no route is
    /// responsible, which only the holder of a live token is told.
    ///
    /// A token that the table does not know and that looks like one of ours may be so new that no
    /// news of it has come yet: the source is asked before it is refused.
    pub async fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        place: Option<&Place<'_>>,
        access: Access,
        now: &Now,
    ) -> Result<Permit, Refused> {
        let Some(token) = credentials_of(headers, place)? else {
            return self.admit_silent(method, headers, place, access, now);
        };
        let digest = token.digest();
        let decided = self.admit_digest(digest, place, access, now);
        let unheard_of = |refused: &Refused| {
            matches!(refused.refusal, Refusal::TokenUnknown | Refusal::UnknownWhileStale)
        };
        if decided.as_ref().is_err_and(unheard_of)
            && Shape::of(token.as_bytes()) == (Shape::Ours { intact: true })
            && self.seat.can_ask(&digest, now)
        {
            self.seat.ask(&digest, now).await?;
            return self.admit_digest(digest, place, access, &self.clock.now());
        }
        decided
    }

    /// Decides as [`Self::admit`] does, by the table alone.
    pub fn decide(
        &self,
        method: &Method,
        headers: &HeaderMap,
        place: Option<&Place<'_>>,
        access: Access,
        now: &Now,
    ) -> Result<Permit, Refused> {
        match credentials_of(headers, place)? {
            Some(token) => self.admit_digest(token.digest(), place, access, now),
            None => self.admit_silent(method, headers, place, access, now),
        }
    }

    /// Decides about a request without a bearer token.
    fn admit_silent(
        &self,
        method: &Method,
        headers: &HeaderMap,
        place: Option<&Place<'_>>,
        access: Access,
        now: &Now,
    ) -> Result<Permit, Refused> {
        let silent = !headers.contains_key(header::AUTHORIZATION);
        match place.filter(|place| silent && place.is_open(method)) {
            Some(place) => self.open(place, access, now),
            None => Err(Refusal::AuthorizationMissing.into()),
        }
    }

    /// Decides about a token of which only the digest is at hand.
    pub fn admit_digest(
        &self,
        digest: TokenDigest,
        place: Option<&Place<'_>>,
        access: Access,
        now: &Now,
    ) -> Result<Permit, Refused> {
        let held = self.authenticate(digest, place.map(|place| place.tenant.name), access, now)?;
        let refusal = match place {
            None => Some(Refusal::RouteUnknown),
            Some(_) => switched_off(&held),
        };
        if let Some(refusal) = refusal {
            let credential = Some(Arc::clone(held.grant.credential()));
            return Err(Refused { refusal, credential });
        }
        held.grant.used(now);
        Ok(Permit { holder: Holder::Credential(held), access })
    }

    /// A permit for nobody. A tenant that does not exist is answered like an unknown token.
    fn open(&self, place: &Place<'_>, access: Access, now: &Now) -> Result<Permit, Refused> {
        let tenant = place.tenant;
        if !tenant.declared && !self.seat.authority().declares(tenant.name) {
            self.seat.authority().unknown(Some(tenant.name), now)?;
            return Err(Refusal::TokenUnknown.into());
        }
        Ok(Permit { holder: Holder::Anonymous, access })
    }

    fn authenticate(
        &self,
        digest: TokenDigest,
        tenant: Option<&str>,
        access: Access,
        now: &Now,
    ) -> Result<Held, Refused> {
        let held = match self.seat.judge(&digest, tenant, now)? {
            Judgement::Known(held) => held,
            Judgement::Denied => return Err(Refusal::CredentialDenied.into()),
            Judgement::Unknown => return Err(Refusal::TokenUnknown.into()),
        };
        let own = held.grant.credential().tenant.as_str();
        let foreign = tenant.is_some_and(|tenant| tenant != own);
        let refusal = if foreign {
            Some(Refusal::TenantMismatch)
        } else {
            self.refusal_of(&held, access, now)
        };
        match refusal {
            Some(refusal) => {
                Err(Refused { refusal, credential: Some(Arc::clone(held.grant.credential())) })
            }
            None => Ok(held),
        }
    }

    fn refusal_of(&self, held: &Held, access: Access, now: &Now) -> Option<Refusal> {
        let tenant = &held.grant.credential().tenant;
        let fresh = || self.seat.authority().trusts_table(access, tenant, now);
        match held.grant.judge(now) {
            Verdict::Disabled => Some(Refusal::CredentialDisabled),
            Verdict::Denied => Some(Refusal::CredentialDenied),
            Verdict::Expired => Some(Refusal::CredentialExpired),
            Verdict::Live | Verdict::ClockUncertain if !fresh() => Some(Refusal::UndecidedStale),
            Verdict::ClockUncertain => Some(Refusal::ClockUncertain),
            Verdict::Live => None,
        }
    }

    /// Whether a permit still holds. To be asked in the same turn of the worker's loop as the first
    /// byte goes upstream: what was decided before a wait may be revoked by now.
    pub fn confirm(&self, permit: &Permit, now: &Now) -> Result<(), Refused> {
        let Holder::Credential(held) = &permit.holder else { return Ok(()) };
        let credential = held.grant.credential();
        if self.seat.stands(held) {
            let refusal = self.refusal_of(held, permit.access, now);
            return match refusal.or_else(|| switched_off(held)) {
                Some(refusal) => Err(Refused { refusal, credential: Some(Arc::clone(credential)) }),
                None => Ok(()),
            };
        }
        let tenant = Some(credential.tenant.as_str());
        let now_held = self.authenticate(held.digest(), tenant, permit.access, now)?;
        // The backend is about to be told whose request it is, and that is somebody else's now.
        if let Some(refusal) = switched_off(&now_held) {
            return Err(Refused { refusal, credential: Some(Arc::clone(credential)) });
        }
        if now_held.grant.credential().id == credential.id {
            Ok(())
        } else {
            Err(Refusal::UndecidedLookup.into())
        }
    }
}

/// The switch of the token's tenant.
fn switched_off(held: &Held) -> Option<Refusal> {
    (!held.grant.synchronizes()).then_some(Refusal::SynchronizationDisabled)
}

fn credentials_of<'a>(
    headers: &'a HeaderMap,
    place: Option<&Place<'_>>,
) -> Result<Option<BearerToken<'a>>, Refusal> {
    bearer_token(headers, place.is_some_and(|place| place.route.bare_token))
}

/// The bearer token of a request (RFC 6750 section 2.1; RFC 9110 section 11.4), or `None` if it
/// brings none.
fn bearer_token(
    headers: &HeaderMap,
    bare_allowed: bool,
) -> Result<Option<BearerToken<'_>>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::AuthorizationMalformed("there is more than one Authorization header"));
    }
    parse_authorization(value, bare_allowed)
}

fn parse_authorization(
    value: &HeaderValue,
    bare_allowed: bool,
) -> Result<Option<BearerToken<'_>>, Refusal> {
    let malformed = |detail| Err(Refusal::AuthorizationMalformed(detail));
    let value = value.as_bytes();
    let is_bearer = |word: &[u8]| word.eq_ignore_ascii_case(b"bearer");
    let Some(blank) = value.iter().position(|byte| *byte == b' ') else {
        return match BearerToken::parse(value) {
            _ if value.is_empty() => malformed("the Authorization header is empty"),
            _ if is_bearer(value) => malformed("there is no token after Bearer"),
            Some(token) if bare_allowed => Ok(Some(token)),
            Some(_) => malformed("write Bearer, a blank and the token; there is only one word"),
            None => malformed("the Authorization header has characters that no token has"),
        };
    };
    let (scheme, rest) = value.split_at(blank);
    // Blanks alone stand between the two (RFC 9110 section 11.4).
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    let rest = &rest[blanks..];
    if !is_bearer(scheme) {
        return if is_scheme(scheme) {
            Ok(None)
        } else {
            malformed("that is no authentication scheme")
        };
    }
    // The usual case is looked at once; a token has none of what the others are about.
    match BearerToken::parse(rest) {
        Some(token) => Ok(Some(token)),
        None if rest.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"bearer ")) => {
            malformed("Bearer is there twice; enter the token without it")
        }
        None if rest.contains(&b' ') => malformed("the token has a blank in it"),
        None => malformed("the token has characters that no token has, or more than 4096 of them"),
    }
}

/// RFC 9110 section 5.6.2.
fn is_scheme(word: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(token)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authority::Authority;
    use crate::authority::files::Follower;
    use crate::clock::{Clock, Timestamp};
    use crate::config::Config;
    use crate::telemetry::metrics::Metrics;

    /// `token` is what must be found; `Err` a part of the hint.
    fn check(value: &[u8], bare: bool, token: Result<Option<&str>, &str>) {
        let header = HeaderValue::from_bytes(value).expect("hyper lets it in");
        let parsed = parse_authorization(&header, bare);
        match (parsed, token) {
            (Ok(found), Ok(expected)) => {
                let expected = expected.map(|token| TokenDigest::of(token.as_bytes()));
                assert!(found.map(BearerToken::digest) == expected, "{value:?}");
            }
            (Err(Refusal::AuthorizationMalformed(hint)), Err(part)) => {
                assert!(hint.contains(part), "{hint} should tell {part}");
            }
            (other, _) => panic!("{value:?}: {other:?}"),
        }
    }

    #[test]
    fn authorization_in_all_its_forms() {
        check(b"Bearer abc", false, Ok(Some("abc")));
        check(b"bEARER   abc==", false, Ok(Some("abc==")));
        check(b"Basic YTpi", false, Ok(None));
        check(b"Digest username=\"a\", realm=\"b\"", false, Ok(None));
        check(b"Bearer", false, Err("no token after"));
        check(b"", false, Err("empty"));
        check(b"abc", false, Err("only one word"));
        check(b"abc", true, Ok(Some("abc")));
        check(b"Bearer", true, Err("no token after"));
        check(b"Bearer Bearer abc", false, Err("twice"));
        check(b"Bearer abc def", false, Err("blank"));
        check(b"Bearer abc,def", false, Err("characters"));
        check(b"Bearer abc, Bearer def", false, Err("blank"));
        check(b"Bearer\tabc", false, Err("characters"));
        check(b"Bearer \tabc", false, Err("characters"));
        check(b"Bearer a\xc3\xa4", false, Err("characters"));
        check(b"B\xc3\xa4rer abc", false, Err("scheme"));
        check(&[b"Bearer ".as_slice(), &[b'x'; 4097]].concat(), false, Err("4096"));
    }

    #[test]
    fn two_headers_are_refused_even_if_they_are_the_same() {
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer abc"));
        }
        let refusal = bearer_token(&headers, false).expect_err("refused");
        assert_eq!(refusal.reason(), "authorization_malformed");
    }

    /// A gate over one row, an hour before its end, on a clock that the test moves.
    struct Bench {
        gate: Gate,
        clock: Clock,
        follower: Follower,
        folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let digest = TokenDigest::of(b"token");
            let row = format!(
                "- {{ credential_id: c-1, tenant: z-1, digest: '{digest}', expire_time: 2023-11-14T23:13:20Z }}\n"
            );
            std::fs::write(folder.path().join("c.yaml"), row).expect("written");
            let text =
                "credentials: { source: file, file: { path: c.yaml }, max_stale: { writes: 10m } }";
            let config = Config::parse(text, folder.path()).expect("valid").credentials;
            let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
            let authority = Authority::new(&config, Arc::new(Metrics::new()));
            let gate = Gate::new(authority.seat(), clock.clone());
            let follower = Follower::start(&config, authority, clock.clone(), Arc::new(|| {}));
            let mut follower = follower.expect("no deny file");
            follower.poll();
            Self { gate, clock, follower, folder }
        }

        /// The reason of the refusal of a request outside all routes; that is what a permit would
        /// have been elsewhere.
        fn reason(&self, access: Access) -> &'static str {
            let digest = TokenDigest::of(b"token");
            let outcome = self.gate.admit_digest(digest, None, access, &self.clock.now());
            outcome.err().expect("there is no place").refusal.reason()
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_old_table_stops_writes_before_reads_and_never_hides_an_expiry() {
        let bench = Bench::new();
        assert_eq!(bench.reason(Access::Write), "route_unknown");
        bench.clock.advance(HOUR / 2);
        assert_eq!(bench.reason(Access::Write), "undecided_stale");
        assert_eq!(bench.reason(Access::Read), "route_unknown");
        bench.clock.advance(HOUR / 2);
        assert_eq!(bench.reason(Access::Write), "credential_expired");
    }

    #[test]
    fn a_clock_that_was_stepped_makes_an_expiry_uncertain() {
        let mut bench = Bench::new();
        bench.clock.set_wall(bench.clock.now().wall.plus(2 * HOUR));
        bench.follower.poll();
        assert_eq!(bench.reason(Access::Read), "clock_uncertain");
        let bench = Bench::new();
        bench.clock.set_wall(bench.clock.now().wall.plus(2 * HOUR));
        assert_eq!(bench.reason(Access::Write), "undecided_stale", "which is looked for first");
    }

    #[test]
    fn a_permit_does_not_outlive_a_change() {
        let mut bench = Bench::new();
        let digest = TokenDigest::of(b"token");
        let now = bench.clock.now();
        let held = bench.gate.authenticate(digest, None, Access::Read, &now).expect("live");
        let permit = Permit { holder: Holder::Credential(held), access: Access::Read };
        assert!(bench.gate.confirm(&permit, &now).is_ok());
        let later = {
            bench.clock.advance(HOUR);
            bench.clock.now()
        };
        let expired = bench.gate.confirm(&permit, &later).expect_err("expired meanwhile");
        assert_eq!(expired.refusal, Refusal::CredentialExpired);
        std::fs::write(bench.folder.path().join("c.yaml"), "[]\n").expect("written");
        bench.follower.poll();
        bench.follower.poll();
        let removed = bench.gate.confirm(&permit, &now).expect_err("removed meanwhile");
        assert_eq!(removed.refusal, Refusal::TokenUnknown);
    }
}

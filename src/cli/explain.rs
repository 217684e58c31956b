//! `explain`: what would become of a request, and why. It asks the same route, table and gate as
//! the proxy; the table holds what the credential file, the admin API or the cloud says now of the
//! token or id in question.

mod ask;

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::api::ApiArgs;
use super::cloud::CloudAccount;
use super::output::Output;
use crate::authority::files::Follower;
use crate::authority::{Access, Applier, Authority};
use crate::clock::Clock;
use crate::config::{Config, Source};
use crate::credential::token::Shape;
use crate::credential::{Credential, CredentialId, Expiry, TenantId, TokenDigest};
use crate::gate::{Gate, Permit, Refused};
use crate::refusal::{Outcome, Refusal};
use crate::route::{Place, Routes, Target};
use crate::server::read_target;
use crate::telemetry::metrics::Metrics;

/// The request in question.
pub struct Request {
    pub id: Option<CredentialId>,
    pub method: String,
    pub path: String,
    pub host: String,
}

pub async fn run(api: &ApiArgs, request: &Request, output: &Output) -> Result<ExitCode, String> {
    let config = api.config.load()?;
    let proxy = config.proxy.as_ref().ok_or("the config has no `proxy` section, so no routes")?;
    let parts = http::Request::builder()
        .method(request.method.as_str())
        .header(header::HOST, &request.host)
        .body(())
        .map_err(|error| format!("that is no request: {error}"))?;
    let (mut parts, ()) = parts.into_parts();
    let routes = Routes::new(&proxy.routes);
    let read = read_target(request.path.as_bytes()).map(|uri| parts.uri = uri);
    let target = read.map_err(|fault| Refused::from(Refusal::from(fault)));
    let target = target.and_then(|()| Ok(Target::parse(&parts)?));
    let place = target.and_then(|target| Ok((routes.find(&target)?, target.access(&parts.method))));
    let (verdict, from) = match place {
        Err(refused) => (Verdict::of(Err(refused), None), None),
        Ok((place, access)) => {
            let who = match &request.id {
                Some(id) => Who::Id(id.clone()),
                None => Who::Token(read_token()?),
            };
            let tenant = place.as_ref().and_then(|it| TenantId::parse(it.tenant.name).ok());
            let desk = Desk::open(&config, api, &who, tenant.as_ref()).await?;
            let verdict = desk.judge(&who, &parts.method, place.as_ref(), access)?;
            (verdict, Some(desk.from))
        }
    };
    let mut facts = verdict.facts();
    facts.push(("known_from", json!(from)));
    output.print(&facts);
    Ok(if verdict.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_token() -> Result<Vec<u8>, String> {
    let mut token = Vec::new();
    let read = std::io::stdin().lock().take(1 << 16).read_to_end(&mut token);
    read.map_err(|error| format!("cannot read the token from standard input: {error}"))?;
    Ok(token)
}

/// Whose request it is.
enum Who {
    Token(Vec<u8>),
    Id(CredentialId),
}

impl Who {
    /// The digests of the token as it stands and as it may have been meant.
    fn digests(&self) -> Vec<TokenDigest> {
        let Self::Token(token) = self else { return Vec::new() };
        if token.is_empty() {
            return Vec::new();
        }
        let mut digests: Vec<_> = variants(token).iter().map(|it| TokenDigest::of(it)).collect();
        digests.insert(0, TokenDigest::of(token));
        digests.dedup();
        digests
    }
}

/// Where the question is decided.
struct Desk {
    gate: Gate,
    clock: Clock,
    /// What is known of whom it is about.
    rows: Vec<Credential>,
    /// Who knows it.
    from: String,
}

impl Desk {
    async fn open(
        config: &Config,
        api: &ApiArgs,
        who: &Who,
        tenant: Option<&TenantId>,
    ) -> Result<Self, String> {
        let clock = Clock::system();
        let authority = Authority::new(&config.credentials, Arc::new(Metrics::new()));
        let gate = Gate::new(authority.seat(), clock.clone());
        let (credentials, nobody) = (&config.credentials, Arc::new(|| {}));
        let follower = Follower::start(credentials, Arc::clone(&authority), clock.clone(), nobody);
        let mut follower = follower.map_err(|invalid| invalid.to_string())?;
        follower.poll(); // A file that was just written counts at the second look.
        if let Some(fault) = follower.fault() {
            return Err(format!("credentials.file: {fault}"));
        }
        let (rows, from) = match config.credentials.source {
            Source::File => {
                let digests = who.digests();
                let meant = |row: &&Credential| match who {
                    Who::Id(id) => row.id == *id,
                    Who::Token(_) => digests.contains(&row.digest),
                };
                let path = credentials.file.as_ref().map(|file| file.path.display().to_string());
                let rows = follower.credentials().filter(meant).cloned().collect();
                (rows, path.unwrap_or_default())
            }
            Source::Embedded | Source::Native => {
                let applier = Applier::new(authority, Box::new(|| {}));
                ask::ask(&api.open()?, who, tenant, applier, &clock).await?
            }
            Source::Tencent | Source::Alibaba => {
                let account = CloudAccount::followed(config, &api.config.file);
                let account = account.expect("the source is a cloud")?;
                let applier = Applier::new(authority, Box::new(|| {}));
                ask::ask_cloud(&account, who, applier, &clock).await?
            }
        };
        Ok(Self { gate, clock, rows, from })
    }

    fn judge(
        &self,
        who: &Who,
        method: &Method,
        place: Option<&Place<'_>>,
        access: Access,
    ) -> Result<Verdict, String> {
        let now = self.clock.now();
        let token = match who {
            Who::Token(token) => token,
            Who::Id(id) => {
                let tenant = place.map(|place| place.tenant.name);
                let here = |row: &&Credential| Some(row.tenant.as_str()) == tenant;
                let row = self.rows.iter().find(here).or(self.rows.first());
                let row = row.ok_or_else(|| format!("{} knows no credential `{id}`", self.from))?;
                let outcome = self.gate.admit_digest(row.digest, place, access, &now);
                return Ok(Verdict::of(outcome, place));
            }
        };
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            match HeaderValue::from_bytes(&[b"Bearer ", token.as_slice()].concat()) {
                Ok(value) => drop(headers.insert(header::AUTHORIZATION, value)),
                Err(_) => {
                    let what = "no header can carry the token as it stands";
                    let refused = Refusal::AuthorizationMalformed(what).into();
                    let mut verdict = Verdict::of(Err(refused), place);
                    verdict.hints = self.hints(token);
                    return Ok(verdict);
                }
            }
        }
        let mut verdict =
            Verdict::of(self.gate.decide(method, &headers, place, access, &now), place);
        if verdict.credential.is_none() {
            verdict.hints = self.hints(token);
        }
        Ok(verdict)
    }

    /// What would match if the token were written otherwise, and what its shape tells.
    fn hints(&self, token: &[u8]) -> Vec<String> {
        let known = |token: &[u8]| {
            let digest = TokenDigest::of(token);
            self.rows.iter().find(|row| row.digest == digest).map(|row| row.id.clone())
        };
        let variants = variants(token);
        let mut hints = Vec::new();
        for (variant, what) in variants.into_iter().zip([
            "without the blank or line break around it",
            "without the quotes around it",
            "without `Bearer` in front of it",
        ]) {
            if let Some(id) = known(variant).filter(|_| hints.is_empty() && variant != token) {
                hints.push(format!("{what} it is the token of {id}"));
            }
        }
        let [_, _, bare] = variants;
        if hints.is_empty() && Shape::of(bare) == (Shape::Ours { intact: false }) {
            hints.push("its checksum does not fit: it was mistyped or cut".to_owned());
        }
        hints
    }
}

/// The token without what people paste along with it: blanks around it, then quotes too, then also
/// `Bearer`, as often as it stands there.
fn variants(token: &[u8]) -> [&[u8]; 3] {
    let trimmed = token.trim_ascii();
    let unquoted = trimmed.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let single = trimmed.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'"));
    let unquoted = unquoted.or(single).unwrap_or(trimmed);
    let mut bare = unquoted;
    while let Some((word, rest)) = bare.split_at_checked(6)
        && word.eq_ignore_ascii_case(b"bearer")
        && rest.first().is_some_and(u8::is_ascii_whitespace)
    {
        bare = rest.trim_ascii();
    }
    [trimmed, unquoted, bare]
}

struct Verdict {
    allowed: bool,
    decision: &'static str,
    status: Option<u16>,
    reason: &'static str,
    route: Option<String>,
    credential: Option<Arc<Credential>>,
    hints: Vec<String>,
}

impl Verdict {
    fn of(outcome: Result<Permit, Refused>, place: Option<&Place<'_>>) -> Self {
        let route = place.map(|place| place.route.label.clone());
        let hints = Vec::new();
        match outcome {
            Ok(permit) => {
                let credential = permit.credential().cloned();
                let reason = if credential.is_some() { "allowed" } else { "open" };
                let decision = Outcome::Allowed.as_str();
                Self { allowed: true, decision, status: None, reason, route, credential, hints }
            }
            Err(Refused { refusal, credential }) => {
                let (decision, reason) = (refusal.outcome().as_str(), refusal.reason());
                let status = Some(refusal.status().as_u16());
                Self { allowed: false, decision, status, reason, route, credential, hints }
            }
        }
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        let credential = self.credential.as_ref();
        let expires = credential.map(|credential| match credential.expiry {
            Expiry::At(end) => end.to_string(),
            Expiry::Never => "never".to_owned(),
        });
        vec![
            ("decision", json!(self.decision)),
            ("reason", json!(self.reason)),
            ("status", json!(self.status)),
            ("route", json!(self.route)),
            ("tenant", json!(credential.map(|credential| credential.tenant.as_str()))),
            ("credential_id", json!(credential.map(|credential| credential.id.as_str()))),
            ("expire_time", json!(expires)),
            ("hint", json!((!self.hints.is_empty()).then(|| self.hints.join("; ")))),
        ]
    }
}

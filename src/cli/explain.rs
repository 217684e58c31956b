//! `explain`: what would become of a request, and why. It asks the same route, table and gate as
//! the proxy, over the files as they are now, and needs no running process.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use http::{Method, header};
use serde_json::{Value, json};

use super::{ConfigFile, Output};
use crate::authority::follow::Follower;
use crate::authority::{Access, Authority};
use crate::clock::Clock;
use crate::credential::token::Shape;
use crate::credential::{BearerToken, Credential, Expiry, TokenDigest};
use crate::gate::{Gate, Permit, Refused};
use crate::route::{Place, Routes, Target};
use crate::telemetry::metrics::Metrics;

/// The request in question.
pub struct Request {
    pub id: Option<String>,
    pub method: String,
    pub path: String,
    pub host: String,
}

pub fn run(file: &ConfigFile, request: &Request, output: &Output) -> Result<ExitCode, String> {
    let config = file.load()?;
    let proxy = config.proxy.as_ref().ok_or("the config has no `proxy` section, so no routes")?;
    let clock = Clock::system();
    let authority = Authority::new(&config.credentials, Arc::new(Metrics::new()));
    let seat = authority.seat();
    let follower = Follower::start(&config.credentials, authority, clock.clone(), Box::new(|| {}));
    let mut follower = follower.map_err(|invalid| invalid.to_string())?;
    follower.poll(); // A file that was just written counts at the second look.
    if let Some(fault) = follower.fault() {
        return Err(format!("credentials.file: {fault}"));
    }
    let desk = Desk { gate: Gate::new(seat), clock, follower };

    let parts = http::Request::builder()
        .method(request.method.as_str())
        .uri(&request.path)
        .header(header::HOST, &request.host)
        .body(())
        .map_err(|error| format!("that is no request: {error}"))?
        .into_parts()
        .0;
    let routes = Routes::new(&proxy.routes);
    let place = Target::parse(&parts)
        .and_then(|target| Ok((routes.find(&target)?, target.access(&parts.method))));
    let verdict = match place {
        Err(unclear) => Verdict::of(Err(Refused::from(unclear)), None),
        Ok((place, access)) => desk.judge(request, &parts.method, place.as_ref(), access)?,
    };
    output.print(&verdict.facts());
    Ok(if verdict.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the question is decided.
struct Desk {
    gate: Gate,
    clock: Clock,
    follower: Follower,
}

impl Desk {
    fn judge(
        &self,
        request: &Request,
        method: &Method,
        place: Option<&Place<'_>>,
        access: Access,
    ) -> Result<Verdict, String> {
        let admit = |digest| self.gate.admit_digest(digest, place, access, &self.clock.now());
        if let Some(id) = &request.id {
            let row = self.follower.credentials().find(|row| row.id.as_str() == id);
            let row = row.ok_or_else(|| format!("no credential `{id}` is in the table"))?;
            return Ok(Verdict::of(admit(row.digest), place));
        }
        let mut token = Vec::new();
        let read = std::io::stdin().lock().take(1 << 16).read_to_end(&mut token);
        read.map_err(|error| format!("cannot read the token from standard input: {error}"))?;
        if token.is_empty() {
            let headers = http::HeaderMap::new();
            let outcome = self.gate.admit(method, &headers, place, access, &self.clock.now());
            return Ok(Verdict::of(outcome, place));
        }
        let mut verdict = Verdict::of(admit(TokenDigest::of(&token)), place);
        if BearerToken::parse(&token).is_none() {
            verdict.hints.push("as it stands no Authorization header can carry it".to_owned());
        }
        if verdict.credential.is_none() {
            verdict.hints.extend(self.variants(&token));
        }
        Ok(verdict)
    }

    /// What would match if the token were written otherwise, and what its shape tells.
    fn variants(&self, token: &[u8]) -> Vec<String> {
        let known = |token: &[u8]| {
            let digest = TokenDigest::of(token);
            self.follower.credentials().find(|row| row.digest == digest).map(|row| row.id.clone())
        };
        let trimmed = token.trim_ascii();
        let unquoted = trimmed.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        let single = trimmed.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'"));
        let unquoted = unquoted.or(single).unwrap_or(trimmed);
        let word = unquoted.get(..7).filter(|word| word.eq_ignore_ascii_case(b"bearer "));
        let bare = word.map_or(unquoted, |_| unquoted[7..].trim_ascii());
        let mut hints = Vec::new();
        for (variant, what) in [
            (trimmed, "without the blank or line break around it"),
            (unquoted, "without the quotes around it"),
            (bare, "without `Bearer` in front of it"),
        ] {
            if let Some(id) = known(variant).filter(|_| hints.is_empty() && variant != token) {
                hints.push(format!("{what} it is the token of {id}"));
            }
        }
        if hints.is_empty() && Shape::of(bare) == (Shape::Ours { intact: false }) {
            hints.push("its checksum does not fit: it was mistyped or cut".to_owned());
        }
        hints
    }
}

struct Verdict {
    allowed: bool,
    status: Option<u16>,
    reason: &'static str,
    route: Option<String>,
    credential: Option<Arc<Credential>>,
    hints: Vec<String>,
}

impl Verdict {
    fn of(outcome: Result<Permit, Refused>, place: Option<&Place<'_>>) -> Self {
        let (allowed, status, reason, credential) = match outcome {
            Ok(permit) => {
                let credential = permit.credential().cloned();
                (true, None, if credential.is_some() { "allowed" } else { "open" }, credential)
            }
            Err(Refused { refusal, credential }) => {
                (false, Some(refusal.status().as_u16()), refusal.reason(), credential)
            }
        };
        let route = place.map(|place| place.route.label.clone());
        Self { allowed, status, reason, route, credential, hints: Vec::new() }
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        let credential = self.credential.as_ref();
        let expires = credential.map(|credential| match credential.expiry {
            Expiry::At(end) => end.to_string(),
            Expiry::Never => "never".to_owned(),
        });
        vec![
            ("decision", json!(if self.allowed { "allowed" } else { "refused" })),
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

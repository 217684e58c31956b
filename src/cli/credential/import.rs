//! `credential import`: takes over a credential file by its digests. What is there already stays,
//! so that a run which broke off can be repeated; nothing is ever enabled by it.

use std::path::Path;
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::admin::{Desk, members};
use crate::cli::api::{Failure, target};
use crate::cli::output::{self, Form, Tone};
use crate::cli::receipt::{Receipt, Wait};
use crate::clock::{Clock, Timestamp};
use crate::credential::{Credential, CredentialId, Expiry, Status};
use crate::source::file::{CredentialReader, Format};
use crate::source::watch::{Look, WatchedFile};

pub async fn run(desk: &Desk, file: &Path, wait: &Wait) -> Result<ExitCode, String> {
    let rows = read(file)?;
    let now = Clock::system().now().wall;
    let mut lines = Vec::with_capacity(rows.len());
    let mut import = Import { desk, now, written: None, stopped: None };
    for (credential, label) in &rows {
        let (outcome, note) = import.row(credential, label).await;
        lines.push(Line { of: credential, outcome, note });
    }
    let Import { written, stopped, .. } = import;
    let receipt = match written.zip(wait.time_by_default()).filter(|_| stopped.is_none()) {
        Some((revision, time)) => Some(Receipt::wait(&desk.api, revision, time).await),
        None => None,
    };
    let told = receipt.as_ref().and_then(|receipt| receipt.as_ref().ok());
    match desk.output.form {
        Form::Json => anstream::println!("{}", json_of(&lines, told)),
        Form::Table => anstream::print!("{}", text_of(&lines, told)),
    }
    if let Some(why) = stopped {
        return Err(why);
    }
    let failed = lines.iter().any(|line| line.outcome == Outcome::Failed);
    let code = receipt.transpose()?.map_or(ExitCode::SUCCESS, |receipt| receipt.code());
    Ok(if failed { ExitCode::FAILURE } else { code })
}

fn read(file: &Path) -> Result<Vec<(Credential, String)>, String> {
    let place = file.display();
    let content = match WatchedFile::new(file).look() {
        Ok(Look::Read { content, .. }) => content,
        Ok(Look::Same) => unreachable!("the first look reads"),
        Err(error) => return Err(format!("{place}: cannot be read: {error}")),
    };
    let rows = CredentialReader::new(Format::of(file)).read_labelled(&content);
    rows.map_err(|faults| {
        let lines = faults.0.iter().map(|fault| format!("{place}: {fault}"));
        lines.collect::<Vec<_>>().join("\n")
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Skipped,
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

struct Line<'a> {
    of: &'a Credential,
    outcome: Outcome,
    note: String,
}

struct Import<'a> {
    desk: &'a Desk,
    now: Timestamp,
    /// The revision of the last write.
    written: Option<u64>,
    /// Why the rest is not tried.
    stopped: Option<String>,
}

impl Import<'_> {
    async fn row(&mut self, credential: &Credential, label: &str) -> (Outcome, String) {
        if self.stopped.is_some() {
            return (Outcome::Failed, "not tried".to_owned());
        }
        let end = match credential.expiry {
            Expiry::Never => {
                let what = "never ends, and the admin API wants an end: give it an expire_time";
                return (Outcome::Failed, what.to_owned());
            }
            Expiry::At(end) if end <= self.now => {
                return (Outcome::Skipped, "has expired".to_owned());
            }
            Expiry::At(end) => end,
        };
        match self.enroll(credential, label, end).await {
            Ok(told) => told,
            Err(failure) => {
                let general = failure.is_general();
                let detail = failure.body["detail"].as_str().unwrap_or("no answer").to_owned();
                if general {
                    self.stopped = Some(failure.text);
                }
                (Outcome::Failed, detail)
            }
        }
    }

    async fn enroll(
        &mut self,
        credential: &Credential,
        label: &str,
        end: Timestamp,
    ) -> Result<(Outcome, String), Failure> {
        let Credential { tenant, digest, status, .. } = credential;
        let api = &self.desk.api;
        let body = members([
            ("digest", Some(digest.to_string().into())),
            ("expire_time", Some(end.to_string().into())),
            ("label", (!label.is_empty()).then(|| label.into())),
            ("status", Some(status.as_str().into())),
        ]);
        let place = format!("/v1/tenants/{tenant}/credentials");
        match api.send(Method::POST, &place, Some(&body)).await {
            Ok(done) => {
                self.written = self.written.max(done.revision);
                Ok((Outcome::Done, format!("as {}", word(&done.body, "credential_id"))))
            }
            Err(failure)
                if failure.is("digest_taken")
                    && failure.body["owner"]["tenant"] == tenant.as_str() =>
            {
                let name = word(&failure.body["owner"], "credential_id");
                let there = format!("is there already as {name}");
                Ok((Outcome::Skipped, there + self.disable_too(credential, &name).await?))
            }
            Err(failure) => Err(failure),
        }
    }

    /// What the file has as disabled is so afterwards, whatever became of it since.
    async fn disable_too(
        &mut self,
        credential: &Credential,
        there: &str,
    ) -> Result<&'static str, Failure> {
        let (Status::Disabled, Ok(id)) = (credential.status, CredentialId::parse(there)) else {
            return Ok("");
        };
        let patch = json!({ "status": Status::Disabled.as_str() });
        let target = target(&credential.tenant, &id);
        let done = self.desk.api.send(Method::PATCH, &target, Some(&patch)).await?;
        self.written = self.written.max(done.revision);
        Ok(", disabled")
    }
}

fn word(of: &Value, key: &str) -> String {
    of[key].as_str().unwrap_or("-").to_owned()
}

fn json_of(lines: &[Line<'_>], receipt: Option<&Receipt>) -> Value {
    let row = |line: &Line<'_>| {
        json!({
            "credential_id": line.of.id.as_str(),
            "tenant": line.of.tenant.as_str(),
            "outcome": line.outcome.as_str(),
            "note": line.note,
        })
    };
    let mut object = json!({ "rows": lines.iter().map(row).collect::<Vec<_>>() });
    for outcome in [Outcome::Done, Outcome::Skipped, Outcome::Failed] {
        object[outcome.as_str()] = count(lines, outcome).into();
    }
    if let Some(receipt) = receipt {
        object["receipt"] = receipt.body.clone();
    }
    object
}

fn text_of(lines: &[Line<'_>], receipt: Option<&Receipt>) -> String {
    let row = |line: &Line<'_>| {
        let tone = match line.outcome {
            Outcome::Done => Tone::Plain,
            Outcome::Skipped => Tone::Faint,
            Outcome::Failed => Tone::Warning,
        };
        let cells =
            [line.of.id.as_str(), line.of.tenant.as_str(), line.outcome.as_str(), &line.note];
        (tone, cells.map(str::to_owned).to_vec())
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    let mut text = output::list_text(&["row", "tenant", "outcome", "note"], &rows);
    let counts = [Outcome::Done, Outcome::Skipped, Outcome::Failed]
        .map(|outcome| format!("{} {}", count(lines, outcome), outcome.as_str()));
    text += &format!("{}\n", counts.join(", "));
    if let Some(receipt) = receipt {
        text += &format!("{}\n", receipt.text());
    }
    text
}

fn count(lines: &[Line<'_>], outcome: Outcome) -> usize {
    lines.iter().filter(|line| line.outcome == outcome).count()
}

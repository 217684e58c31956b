//! `credential`: the life of credentials, from the first token to the last, through the admin API.
//! A secret goes to standard output once, before anything that may fail or take time.

mod enroll;
mod import;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::api::{Api, ApiArgs, Done, target};
use super::argument::{self, Expires};
use super::output::{self, Facts, Form, Output, Tone};
use super::receipt::{Receipt, Wait};
use crate::clock::{Clock, Timestamp};
use crate::config::value::Span;
use crate::credential::{CredentialId, TenantId, TokenDigest};

#[derive(Args)]
pub struct Credential {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Make a credential; its token is shown this once
    Create {
        /// Whose it is to be. Default: the only tenant
        #[arg(long, value_parser = argument::TENANT)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        about: About,
        #[command(flatten)]
        wait: Wait,
    },
    /// List credentials; exit code 10 if --expiring finds any
    List {
        /// Only this tenant's. Default: all that the token sees
        #[arg(long, value_parser = argument::TENANT)]
        tenant: Option<TenantId>,
        /// Only those that end within this time, soonest first; expired ones too
        #[arg(long, value_name = "TIME", value_parser = argument::SPAN)]
        expiring: Option<Span>,
    },
    /// Show a credential
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Let a disabled credential's token in again
    Enable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Refuse a credential's token until it is enabled again
    Disable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a credential; its token opens nothing any more
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a new credential in the place of one; the new token is shown this once
    Rotate {
        #[command(flatten)]
        which: Which,
        /// How long the old token goes on, never beyond its own end. Default: 24h
        #[arg(long, value_name = "TIME", value_parser = argument::SPAN, conflicts_with = "leaked")]
        overlap: Option<Span>,
        /// Somebody else has the old token: it ends at once
        #[arg(long)]
        leaked: bool,
        /// How long the new one lives (90d), or when it ends. Default: what the admin API's config says
        #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
        expires: Option<Expires>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take over a token that was made elsewhere, read from standard input; waits 10s by default
    Enroll {
        /// Whose it is to be. Default: the only tenant
        #[arg(long, value_parser = argument::TENANT)]
        tenant: Option<TenantId>,
        #[arg(hide = true, value_parser = argument::NO_TOKEN)]
        _token: Option<()>,
        /// The token's SHA-256, instead of the token
        #[arg(long, value_name = "sha256:DIGEST", value_parser = argument::DIGEST)]
        digest: Option<TokenDigest>,
        /// How long it lives from now (90d), or when it ends
        #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
        expires: Expires,
        /// What people call it
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take over the credentials of a file, as `source: file` reads it; waits 10s by default
    Import {
        file: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
}

/// What a new credential is to be.
#[derive(Args)]
struct About {
    /// What people call it
    #[arg(long)]
    label: Option<String>,
    /// How long it lives (90d), or when it ends. Default: what the admin API's config says
    #[arg(long, value_name = "TIME", value_parser = argument::EXPIRES)]
    expires: Option<Expires>,
}

/// Which credential is meant.
#[derive(Args)]
struct Which {
    #[arg(value_name = "CREDENTIAL_ID", value_parser = argument::CREDENTIAL)]
    id: CredentialId,
    /// Whose it is. Default: the one tenant that has it
    #[arg(long, value_parser = argument::TENANT)]
    tenant: Option<TenantId>,
}

impl Which {
    async fn target(&self, api: &Api) -> Result<(TenantId, String), String> {
        let tenant = match &self.tenant {
            Some(tenant) => tenant.clone(),
            None => api.credential(&self.id, None).await?.0,
        };
        let target = target(&tenant, &self.id);
        Ok((tenant, target))
    }
}

pub async fn run(arguments: Credential) -> Result<ExitCode, String> {
    let Credential { api, output, act } = arguments;
    let desk = Desk { api: api.open()?, output };
    match act {
        Act::Create { tenant, about, wait } => desk.create(tenant, &about, &wait).await,
        Act::List { tenant, expiring } => desk.list(tenant, expiring).await,
        Act::Show { which } => desk.show(&which).await,
        Act::Enable { which, wait } => desk.set_status(&which, "Enabled", &wait).await,
        Act::Disable { which, wait } => desk.set_status(&which, "Disabled", &wait).await,
        Act::Delete { which, wait } => desk.delete(&which, &wait).await,
        Act::Rotate { which, overlap, leaked, expires, wait } => {
            desk.rotate(&which, overlap, leaked, expires, &wait).await
        }
        Act::Enroll { tenant, _token, digest, expires, label, wait } => {
            enroll::run(&desk, tenant, digest, expires, label, &wait).await
        }
        Act::Import { file, wait } => import::run(&desk, &file, &wait).await,
    }
}

/// Where commands are carried out and told.
struct Desk {
    api: Api,
    output: Output,
}

impl Desk {
    async fn create(
        &self,
        tenant: Option<TenantId>,
        about: &About,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        let body = members([
            ("label", about.label.as_deref().map(Value::from)),
            expires_member(about.expires),
        ]);
        let tenant = self.tenant(tenant).await?;
        let done = self.post(&tenant, &body).await?;
        self.conclude(done, wait.time(), "").await
    }

    async fn list(
        &self,
        tenant: Option<TenantId>,
        expiring: Option<Span>,
    ) -> Result<ExitCode, String> {
        let tenants = match tenant {
            Some(tenant) => vec![tenant],
            None => self.api.tenants().await?,
        };
        let mut rows = Vec::new();
        for tenant in &tenants {
            self.list_tenant(tenant, expiring, &mut rows).await?;
        }
        if expiring.is_some() {
            rows.sort_by_key(end);
        }
        let due = expiring.is_some() && !rows.is_empty();
        if self.output.form == Form::Json {
            anstream::println!("{}", json!({ "total": rows.len(), "credentials": rows }));
        } else if rows.is_empty() {
            let what = expiring.map(|time| format!(" that ends within {time}"));
            anstream::println!("no credential{}", what.unwrap_or_default());
        } else {
            anstream::print!("{}", list_text(&rows, Clock::system().now().wall));
        }
        Ok(if due { ExitCode::from(DUE) } else { ExitCode::SUCCESS })
    }

    /// All pages of a tenant's list.
    async fn list_tenant(
        &self,
        tenant: &TenantId,
        expiring: Option<Span>,
        rows: &mut Vec<Value>,
    ) -> Result<(), String> {
        let within = expiring.map(|time| format!("&expiring_in={time}")).unwrap_or_default();
        let mut after = String::new();
        loop {
            let target = format!("/v1/tenants/{tenant}/credentials?rows=1000{within}{after}");
            let mut page = self.api.get(&target).await?;
            if let Value::Array(found) = page["credentials"].take() {
                rows.extend(found);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(()),
            }
        }
    }

    async fn show(&self, which: &Which) -> Result<ExitCode, String> {
        let (_, credential) = self.api.credential(&which.id, which.tenant.as_ref()).await?;
        match self.output.form {
            Form::Json => anstream::println!("{credential}"),
            Form::Table => anstream::print!("{}", output::facts_text(&facts(&credential))),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn set_status(
        &self,
        which: &Which,
        status: &str,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        let (_, target) = which.target(&self.api).await?;
        let patch = json!({ "status": status });
        let done = self.api.send(Method::PATCH, &target, Some(&patch)).await?;
        self.conclude(done, wait.time(), "").await
    }

    async fn delete(&self, which: &Which, wait: &Wait) -> Result<ExitCode, String> {
        let (tenant, target) = which.target(&self.api).await?;
        let mut done = self.api.send(Method::DELETE, &target, None).await?;
        done.body["credential_id"] = which.id.as_str().into();
        done.body["tenant"] = tenant.as_str().into();
        done.body["status"] = "Deleted".into();
        self.conclude(done, wait.time(), "").await
    }

    async fn rotate(
        &self,
        which: &Which,
        overlap: Option<Span>,
        leaked: bool,
        expires: Option<Expires>,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        let (_, target) = which.target(&self.api).await?;
        let body = members([
            ("overlap", overlap.map(|time| time.to_string().into())),
            ("leaked", leaked.then(|| true.into())),
            expires_member(expires),
        ]);
        let done = self.api.send(Method::POST, &format!("{target}/rotate"), Some(&body)).await?;
        let overlap = overlap.map_or("24h".to_owned(), |time| time.to_string());
        let old = match leaked {
            true => format!("{} is gone, and its token opens nothing any more", which.id),
            false => format!("{} goes on for {overlap}, or until its own end", which.id),
        };
        self.conclude(done, wait.time(), &old).await
    }

    async fn tenant(&self, named: Option<TenantId>) -> Result<TenantId, String> {
        match named {
            Some(tenant) => Ok(tenant),
            None => self.api.only_tenant().await,
        }
    }

    async fn post(&self, tenant: &TenantId, body: &Value) -> Result<Done, String> {
        let target = format!("/v1/tenants/{tenant}/credentials");
        Ok(self.api.send(Method::POST, &target, Some(body)).await?)
    }

    /// Tells what a write has done, then waits for its receipt. `note` is for people.
    async fn conclude(
        &self,
        done: Done,
        time: Option<Duration>,
        note: &str,
    ) -> Result<ExitCode, String> {
        let Done { mut body, revision } = done;
        let has_secret = body["secret"].is_string();
        let first = self.output.form == Form::Table || has_secret;
        if first {
            self.tell_written(&body)?;
        }
        if has_secret {
            anstream::eprintln!("the token is not kept, and is shown this once");
        }
        if !note.is_empty() {
            anstream::eprintln!("{note}");
        }
        let receipt = match time.zip(revision) {
            Some((time, revision)) => Some(Receipt::wait(&self.api, revision, time).await),
            None => None,
        };
        match (&receipt, first) {
            (Some(Ok(receipt)), true) if self.output.form == Form::Table => {
                anstream::println!("{}", receipt.text());
            }
            (Some(Ok(receipt)), true) => anstream::eprintln!("{}", receipt.text()),
            (Some(Ok(receipt)), false) => body["receipt"] = receipt.body.clone(),
            (Some(Err(_)) | None, _) => {}
        }
        if !first {
            self.tell_written(&body)?;
        }
        Ok(receipt.transpose()?.map_or(ExitCode::SUCCESS, |receipt| receipt.code()))
    }

    /// One JSON object; or facts, and then the secret alone on its line.
    fn tell_written(&self, body: &Value) -> Result<(), String> {
        let text = match (self.output.form, body["secret"].as_str()) {
            (Form::Json, _) => format!("{body}\n"),
            (Form::Table, None) => output::facts_text(&facts(body)),
            (Form::Table, Some(secret)) => {
                format!("{}\n{secret}\n", output::facts_text(&facts(body)))
            }
        };
        output::print_surely(&text).map_err(|error| {
            format!("{}: it is done, but {error}", body["credential_id"].as_str().unwrap_or("-"))
        })
    }
}

/// A JSON object of those members that are there.
fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

fn expires_member(expires: Option<Expires>) -> (&'static str, Option<Value>) {
    match expires.map(Expires::member) {
        Some((name, value)) => (name, Some(value.into())),
        None => ("expire_in", None),
    }
}

/// What people want to know of a credential; members that an answer lacks are left out.
fn facts(credential: &Value) -> Facts {
    const SHOWN: [(&str, &str); 13] = [
        ("credential_id", "credential_id"),
        ("tenant", "tenant"),
        ("status", "status"),
        ("create_time", "created"),
        ("created_by", "created_by"),
        ("expire_time", "expires"),
        ("label", "label"),
        ("hint", "hint"),
        ("last_used", "last_used"),
        ("origin", "origin"),
        ("enrolled", "enrolled"),
        ("strength", "strength"),
        ("revision", "revision"),
    ];
    let there = SHOWN.iter().filter(|(key, _)| credential.get(key).is_some());
    there.map(|(key, name)| (*name, member(credential, key))).collect()
}

/// A member as people are told it.
fn member(credential: &Value, key: &str) -> Value {
    match &credential[key] {
        Value::Null if key == "expire_time" => "never".into(),
        value => value.clone(),
    }
}

fn list_text(rows: &[Value], now: Timestamp) -> String {
    const COLUMNS: [(&str, &str); 7] = [
        ("id", "credential_id"),
        ("tenant", "tenant"),
        ("status", "status"),
        ("expires", "expire_time"),
        ("last used", "last_used"),
        ("label", "label"),
        ("hint", "hint"),
    ];
    let row = |credential: &Value| {
        let expired = end(credential).is_some_and(|end| end <= now);
        let mut cells: Vec<_> =
            COLUMNS.iter().map(|(_, key)| output::cell(&member(credential, key))).collect();
        if expired {
            cells[3] += " (expired)";
        }
        let tone = match credential["status"].as_str() {
            _ if expired => Tone::Warning,
            Some("Disabled") => Tone::Faint,
            _ => Tone::Plain,
        };
        (tone, cells)
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    output::list_text(&COLUMNS.map(|(name, _)| name), &rows)
}

fn end(credential: &Value) -> Option<Timestamp> {
    Timestamp::parse(credential["expire_time"].as_str()?)
}

/// The exit code that tells of credentials which are due.
const DUE: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_what_has_expired_and_what_never_ends() {
        let rows = [
            json!({
                "credential_id": "c-1", "tenant": "z-1", "status": "Enabled", "label": "Okta",
                "expire_time": "2030-01-01T00:00:00Z", "last_used": null, "hint": "ab12",
            }),
            json!({ "credential_id": "c-2", "tenant": "z-1", "status": "Disabled", "label": "" }),
        ];
        let now = Timestamp::parse("2030-01-01T00:00:00Z").expect("a time");
        let text = list_text(&rows, now);
        let text = anstream::adapter::strip_str(&text).to_string();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines,
            [
                words("ID TENANT STATUS EXPIRES LAST USED LABEL HINT"),
                words("c-1 z-1 Enabled 2030-01-01T00:00:00Z (expired) - Okta ab12"),
                words("c-2 z-1 Disabled never - - -"),
            ]
        );
    }

    #[test]
    fn facts_are_those_that_an_answer_has() {
        let deleted = json!({ "credential_id": "c-1", "status": "Deleted", "revision": 7 });
        assert_eq!(
            facts(&deleted),
            [("credential_id", json!("c-1")), ("status", json!("Deleted")), ("revision", json!(7))]
        );
        assert_eq!(facts(&json!({ "expire_time": null })), [("expires", json!("never"))]);
    }
}

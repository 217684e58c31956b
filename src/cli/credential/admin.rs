//! The commands through an admin API, which answers with receipts.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};

use super::enroll::is_known_at_once;
use super::{About, Act, Which, enroll, import, told};
use crate::cli::api::{Api, Done, Failure, target};
use crate::cli::argument::Expires;
use crate::cli::output::{Form, Output};
use crate::cli::receipt::{Receipt, Wait};
use crate::config::value::Span;
use crate::credential::{CredentialId, TenantId};

/// Where commands are carried out and told.
pub struct Desk {
    pub api: Api,
    pub output: Output,
}

impl Desk {
    pub async fn run(&self, act: Act) -> Result<ExitCode, String> {
        match act {
            Act::Create { tenant, about, discard, wait } => {
                self.create(tenant, &about, discard.as_ref(), &wait).await
            }
            Act::List { tenant, expiring } => self.list(tenant, expiring).await,
            Act::Show { which } => self.show(&which).await,
            Act::Enable { which, wait } => self.set_status(&which, "Enabled", &wait).await,
            Act::Disable { which, wait } => self.set_status(&which, "Disabled", &wait).await,
            Act::Delete { which, wait } => self.delete(&which, &wait).await,
            Act::Rotate { which, overlap, leaked, expires, wait } => {
                self.rotate(&which, overlap, leaked, expires, &wait).await
            }
            Act::Enroll { whose, wait } => enroll::run(self, whose, &wait).await,
            Act::Import { file, wait } => import::run(self, &file, &wait).await,
        }
    }

    async fn create(
        &self,
        tenant: Option<TenantId>,
        about: &About,
        discard: Option<&CredentialId>,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        let body = members([
            ("label", about.label.as_deref().map(Value::from)),
            expires_member(about.expires),
        ]);
        let tenant = self.tenant(tenant).await?;
        if let Some(id) = discard {
            self.discard(&tenant, id).await?;
        }
        let done = self.post(&tenant, &body).await?;
        let at_once = done.body["secret"].as_str().is_none_or(is_known_at_once);
        let time = if at_once { wait.time() } else { wait.time_by_default() };
        self.conclude(done, time, "").await
    }

    /// Deletes a credential whose token nobody has. One that has gone is no hindrance.
    async fn discard(&self, tenant: &TenantId, id: &CredentialId) -> Result<(), String> {
        let target = target(tenant, id);
        let gone = |failure: Failure| match failure.is("credential_unknown") {
            true => Ok(()),
            false => Err(failure.text),
        };
        let found = match self.api.get(&target).await {
            Ok(found) => found,
            Err(failure) => return gone(failure),
        };
        if found["cloud"].as_str().is_some_and(|cloud| cloud != "not_enrolled") {
            return Err(told::not_discarded(id));
        }
        self.api.send(Method::DELETE, &target, None).await.map(drop).or_else(gone)
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
        Ok(told::list(&self.output, rows, expiring))
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
        told::one(&self.output, &credential);
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

    pub async fn tenant(&self, named: Option<TenantId>) -> Result<TenantId, String> {
        match named {
            Some(tenant) => Ok(tenant),
            None => self.api.only_tenant().await,
        }
    }

    pub async fn post(&self, tenant: &TenantId, body: &Value) -> Result<Done, String> {
        let target = format!("/v1/tenants/{tenant}/credentials");
        Ok(self.api.send(Method::POST, &target, Some(body)).await?)
    }

    /// Tells what a write has done, then waits for its receipt. `note` is for people.
    pub async fn conclude(
        &self,
        done: Done,
        time: Option<Duration>,
        note: &str,
    ) -> Result<ExitCode, String> {
        let Done { mut body, revision } = done;
        let has_secret = body["secret"].is_string();
        let first = self.output.form == Form::Table || has_secret;
        if first {
            told::written(&self.output, &body)?;
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
            told::written(&self.output, &body)?;
        }
        Ok(receipt.transpose()?.map_or(ExitCode::SUCCESS, |receipt| receipt.code()))
    }
}

/// A JSON object of those members that are there.
pub fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

pub fn expires_member(expires: Option<Expires>) -> (&'static str, Option<Value>) {
    match expires.map(Expires::member) {
        Some((name, value)) => (name, Some(value.into())),
        None => ("expire_in", None),
    }
}

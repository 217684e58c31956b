//! The admin API as commands ask it. It never prints a token.

mod find;

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use self::find::Found;
pub use self::find::{ApiArgs, Backend};
use crate::config::read_secret;
use crate::config::value::AdminUrl;
use crate::credential::{CredentialId, TenantId};
use crate::source::client::{Answer, Client};

/// An admin API, and how we came to ask this one.
pub struct Api {
    client: Client,
    found: Found,
}

/// What the API has done or found.
pub struct Done {
    pub body: Value,
    /// The number of the change, if it was one.
    pub revision: Option<u64>,
}

/// Why it has not.
#[derive(Debug)]
pub struct Failure {
    /// The stable word of its kind; none if there was no answer of an admin API.
    pub code: Option<String>,
    /// The problem document.
    pub body: Value,
    pub text: String,
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.text
    }
}

impl Failure {
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the next request would fare no better.
    pub fn is_general(&self) -> bool {
        const GENERAL: [&str; 4] =
            ["token_missing", "invalid_token", "role_insufficient", "logins_limited"];
        self.code.as_deref().is_none_or(|code| GENERAL.contains(&code))
    }
}

impl Api {
    fn open(found: Found) -> Result<Self, String> {
        let Found { url, token, ca, url_from, token_from, .. } = &found;
        if !url.secure && !url.is_loopback() && !found.cleartext_allowed {
            return Err(format!(
                "{url} ({url_from}): tokens would go over the network in clear text: write \
                 https://, or --insecure-cleartext if something else encrypts"
            ));
        }
        read_secret(token).map_err(|error| {
            format!(
                "no token for {url}: {error}\nits place comes from: {token_from}; name another by \
                 --admin-token (file:PATH or env:NAME)"
            )
        })?;
        let client = Client::new(url.clone(), token.clone(), ca.as_deref())?;
        Ok(Self { client, found })
    }

    pub fn url(&self) -> &AdminUrl {
        &self.found.url
    }

    pub async fn get(&self, target: &str) -> Result<Value, Failure> {
        Ok(self.send(Method::GET, target, None).await?.body)
    }

    pub async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Done, Failure> {
        self.send_within(ANSWER_TIME, method, target, body).await
    }

    pub async fn send_within(
        &self,
        time: Duration,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Done, Failure> {
        let sent = self.client.send(method, target, body);
        let answer = match tokio::time::timeout(time, sent).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(what)) => return Err(self.unreachable(&what)),
            Err(_) => {
                let what = format!("{}: no answer within {} s", self.url(), time.as_secs());
                return Err(self.unreachable(&what));
            }
        };
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match body.filter(Value::is_object) {
            Some(body) if answer.is_success() => {
                let revision = answer.headers.get("scim-guard-revision");
                let revision = revision.and_then(|it| it.to_str().ok()?.parse().ok());
                Ok(Done { body, revision })
            }
            Some(body) if body["code"].is_string() => Err(self.refused(&answer, body)),
            _ => Err(self.unreachable(&format!(
                "{}: this is no answer of an admin API (HTTP {})",
                self.url(),
                answer.status.as_u16()
            ))),
        }
    }

    fn unreachable(&self, what: &str) -> Failure {
        let mut text = format!(
            "{what}\nthe address comes from: {}; see that `scim-guard serve` runs there, or name \
             another by --admin-url and --admin-token",
            self.found.url_from
        );
        if self.url().secure {
            text += "\nif it is the certificate: --admin-ca names the one that signs it, --admin-url \
                     an address that it is made out to";
        }
        Failure { code: None, body: Value::Null, text }
    }

    fn refused(&self, answer: &Answer, body: Value) -> Failure {
        let title = body["title"].as_str().unwrap_or("It was refused");
        let mut text = format!("{}: {title}: {}", self.url(), answer.complaint());
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let Found { token, token_from, .. } = &self.found;
            text += &format!(
                "\nthe token is {token} (from: {token_from}); name another by --admin-token"
            );
        }
        text += &room(&body);
        Failure { code: answer.code(), body, text }
    }

    /// The tenants that the token sees.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, Failure> {
        let body = self.get("/v1/tenants").await?;
        let rows = body["tenants"].as_array().into_iter().flatten();
        Ok(rows.filter_map(|row| TenantId::parse(row["tenant"].as_str()?).ok()).collect())
    }

    /// The tenant that is meant when none is named: the only one there is, or that the config
    /// names.
    pub async fn only_tenant(&self) -> Result<TenantId, String> {
        let seen = self.tenants().await?;
        match (seen.as_slice(), self.found.tenants.as_slice()) {
            ([tenant], _) => Ok(tenant.clone()),
            ([_, ..], [tenant]) if seen.contains(tenant) => Ok(tenant.clone()),
            ([], _) => Err(format!(
                "{} shows no tenant to this token: declare one by a route or by `admin.tenants`",
                self.url()
            )),
            _ => Err(format!("say which tenant by --tenant: {}", listed(&seen))),
        }
    }

    /// A credential, in this tenant or in the only one that has it.
    pub async fn credential(
        &self,
        id: &CredentialId,
        tenant: Option<&TenantId>,
    ) -> Result<(TenantId, Value), String> {
        if let Some(tenant) = tenant {
            return Ok((tenant.clone(), self.get(&target(tenant, id)).await?));
        }
        let mut found = Vec::new();
        for tenant in self.tenants().await? {
            match self.get(&target(&tenant, id)).await {
                Ok(credential) => found.push((tenant, credential)),
                // A tenant may go while we look.
                Err(failure)
                    if failure.is("credential_unknown") || failure.is("tenant_unknown") => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        match found.len() {
            0 => Err(format!("{}: no tenant that this token sees has credential {id}", self.url())),
            1 => Ok(found.remove(0)),
            _ => {
                let tenants: Vec<_> = found.into_iter().map(|(tenant, _)| tenant).collect();
                Err(format!(
                    "{id} is in several tenants, say which by --tenant: {}",
                    listed(&tenants)
                ))
            }
        }
    }
}

/// Where the API has a credential.
pub fn target(tenant: &TenantId, id: &CredentialId) -> String {
    format!("/v1/tenants/{tenant}/credentials/{id}")
}

/// How to make room where a limit leaves none, in the words of our commands.
fn room(body: &Value) -> String {
    let held = body["credentials"].as_array().into_iter().flatten();
    let lines = held.filter_map(|it| {
        let (id, tenant) = (it["credential_id"].as_str()?, it["tenant"].as_str()?);
        Some(format!("\n  scim-guard credential delete {id} --tenant {tenant}"))
    });
    let lines: String = lines.collect();
    let or = "\nor replace one at once with `scim-guard credential rotate ID --leaked`";
    if lines.is_empty() { lines } else { format!("\nfree a place with one of{lines}{or}") }
}

fn listed(tenants: &[TenantId]) -> String {
    tenants.iter().map(TenantId::as_str).collect::<Vec<_>>().join(", ")
}

const ANSWER_TIME: Duration = Duration::from_secs(30);

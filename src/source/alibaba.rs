//! Alibaba Cloud CloudSSO, version 2021-05-15: the SCIM credentials of a directory. It speaks ACS3 by
//! POST and keeps nothing between two requests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand;
use serde::Deserialize;
use serde_json::Value;

use super::cloud::{
    self, Cloud, CloudError, Complaint, Created, Effect, KeyRefs, Line, Listed, Meaning, Told,
};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::credential::{CredentialId, Status, TenantId};
use crate::signature::{self, acs3};
use crate::store::Provider;
use crate::telemetry::metrics::Metrics;

pub struct Alibaba {
    pub(super) line: Line,
    keys: KeyRefs,
    tenant: TenantId,
}

impl Alibaba {
    /// Fails if the certificates of `ca` cannot be read.
    pub fn new(
        config: &config::Alibaba,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        Ok(Self {
            line: Line::new(&config.endpoint, config.ca.as_deref(), clock, metrics)?,
            keys: KeyRefs {
                id: config.access_key_id.clone(),
                secret: config.access_key_secret.clone(),
                token: config.security_token.clone(),
            },
            tenant: config.directory_id.0.clone(),
        })
    }

    /// Does an action on the directory.
    async fn act(
        &self,
        effect: Effect,
        action: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<Value, CloudError> {
        let directory = [("DirectoryId", self.tenant.as_str())];
        let query = signature::encode(directory.into_iter().chain(parameters.iter().copied()));
        let keys = self.keys.read()?;
        let unsigned = acs3::Unsigned {
            method: "POST",
            host: self.line.host(),
            action,
            version: VERSION,
            query: &query,
            body: &[],
            headers: &[],
        };
        let mut headers = acs3::sign(&keys.key(), &unsigned, self.line.now(), &nonce());
        // Left unsigned: what stands between may write it in another way.
        headers.push(("accept", "application/json".to_owned()));
        let told = self.line.post(effect, &query, headers, Vec::new()).await?;
        judge(effect, action, &told)?;
        Ok(told.json)
    }

    fn listed(&self, row: &Row) -> Result<Listed, String> {
        let row = cloud::Row {
            tenant: &row.directory_id,
            id: &row.credential_id,
            status: &row.status,
            created: row.create_time.as_deref(),
            expires: row.expire_time.as_deref(),
        };
        row.read(&self.tenant, Timestamp::parse)
    }
}

#[async_trait]
impl Cloud for Alibaba {
    fn provider(&self) -> Provider {
        Provider::Alibaba
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn list(&self) -> Result<Vec<Listed>, CloudError> {
        let answer = self.act(Effect::Read, "ListSCIMServerCredentials", &[]).await?;
        let listing: Listing =
            cloud::read(answer).ok_or_else(|| CloudError::Implausible(UNFIT.to_owned()))?;
        let rows = listing.credentials.iter().map(|row| self.listed(row));
        cloud::whole_listing(listing.total, rows)
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(YEAR)
    }

    async fn create(&self, _: Duration) -> Result<Created, CloudError> {
        let mut answer = self.act(Effect::Change, "CreateSCIMServerCredential", &[]).await?;
        let NewRow { row, secret } = cloud::read(answer[CREDENTIAL].take())
            .ok_or_else(|| CloudError::Uncertain(UNFIT.to_owned()))?;
        cloud::created(self.listed(&row), secret)
    }

    async fn set_status(&self, id: &CredentialId, status: Status) -> Result<(), CloudError> {
        let parameters = [("CredentialId", id.as_str()), ("NewStatus", status.as_str())];
        let action = "UpdateSCIMServerCredentialStatus";
        let answer = self.act(Effect::Change, action, &parameters).await?;
        match answer[CREDENTIAL]["Status"].as_str() {
            Some(told) if told != status.as_str() => {
                Err(CloudError::Uncertain(format!("{id} is not {} after that", status.as_str())))
            }
            _ => Ok(()),
        }
    }

    async fn delete(&self, id: &CredentialId) -> Result<(), CloudError> {
        let parameters = [("CredentialId", id.as_str())];
        self.act(Effect::Change, "DeleteSCIMServerCredential", &parameters).await.map(drop)
    }
}

/// A code is an error with every HTTP status. What has no request id is not the API's.
fn judge(effect: Effect, action: &str, told: &Told) -> Result<(), CloudError> {
    let text = |name: &str| told.json[name].as_str();
    let request = text("RequestId");
    let failed = !told.status.is_success();
    let millis = told.number("x-acs-retry-after").filter(|millis| failed && *millis > 0);
    let asked = millis.map(|millis| Duration::from_millis(millis).min(cloud::WAIT_MAX));
    let unsure = effect == Effect::Change && told.status.is_server_error();
    let retry_after = asked.or_else(|| told.retry_after());
    match text("Code").filter(|code| !code.is_empty()) {
        // With that header a code is one of throttling, whatever it says. But when something has
        // broken as well, it may have broken after a change.
        Some(code) if asked.is_some() && !unsure || code.contains("Throttling") => {
            Err(CloudError::Throttled { retry_after })
        }
        Some(code) => {
            let message = text("Message").unwrap_or_default();
            let request = request.unwrap_or_default();
            let permission = format!("{SERVICE}:{action}");
            let complaint = Complaint { code, message, request, permission, retry_after };
            Err(complaint.mean(&CODES, effect, told))
        }
        None if !failed && request.is_some() => Ok(()),
        None => Err(told.foreign(effect)),
    }
}

/// Each request has its own.
fn nonce() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system's random source works");
    hex::encode(bytes)
}

#[derive(Deserialize)]
struct Listing {
    #[serde(rename = "TotalCounts")]
    total: u64,
    #[serde(rename = "SCIMServerCredentials")]
    credentials: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    directory_id: String,
    credential_id: String,
    status: String,
    create_time: Option<String>,
    expire_time: Option<String>,
}

#[derive(Deserialize)]
struct NewRow {
    #[serde(flatten)]
    row: Row,
    #[serde(rename = "CredentialSecret")]
    secret: Option<String>,
}

const SERVICE: &str = "cloudsso";
const VERSION: &str = "2021-05-15";
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const CREDENTIAL: &str = "SCIMServerCredential";
const UNFIT: &str = "the answer does not have its form";
/// The first that fits counts.
const CODES: [(&str, Meaning); 14] = [
    ("InvalidTimeStamp.Expired", Meaning::Clock),
    ("InvalidAccessKeyId", Meaning::Refused),
    ("SignatureDoesNotMatch", Meaning::Refused),
    ("InvalidSecurityToken", Meaning::Refused),
    ("MissingSecurityToken", Meaning::Refused),
    ("Forbidden", Meaning::Forbidden),
    ("NoPermission", Meaning::Forbidden),
    ("EntityNotExists.SCIMCredential", Meaning::Missing),
    ("EntityNotExists.SCIMServerCredential", Meaning::Missing),
    ("EntityNotExists.Directory", Meaning::TenantMissing),
    ("LimitExceeded", Meaning::LimitReached),
    // Nonces are random, so this one was ours: the request has come there twice.
    ("SignatureNonceUsed", Meaning::Broken),
    ("InternalError", Meaning::Broken),
    ("ServiceUnavailable", Meaning::Broken),
];

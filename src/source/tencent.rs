//! Tencent Cloud Organization, version 2021-03-31: the SCIM credentials of a zone. It speaks TC3 by
//! POST and keeps nothing between two requests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cloud::{
    self, Cloud, CloudError, Complaint, Created, Effect, KeyRefs, Line, Listed, Meaning, Told,
};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::config::value::TimeOffset;
use crate::credential::{CredentialId, Status, TenantId};
use crate::signature::tc3;
use crate::store::Provider;
use crate::telemetry::metrics::Metrics;

pub struct Tencent {
    pub(super) line: Line,
    keys: KeyRefs,
    tenant: TenantId,
    region: Option<String>,
    time_offset: TimeOffset,
}

impl Tencent {
    /// Fails if the certificates of `ca` cannot be read.
    pub fn new(
        config: &config::Tencent,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        Ok(Self {
            line: Line::new(&config.endpoint, config.ca.as_deref(), clock, metrics)?,
            keys: KeyRefs {
                id: config.secret_id.clone(),
                secret: config.secret_key.clone(),
                token: config.security_token.clone(),
            },
            tenant: config.zone_id.0.clone(),
            region: config.region.clone(),
            time_offset: config.time_offset,
        })
    }

    /// Does an action on the zone.
    async fn act(
        &self,
        effect: Effect,
        action: &'static str,
        mut parameters: Value,
    ) -> Result<Value, CloudError> {
        parameters["ZoneId"] = json!(self.tenant.as_str());
        let body = parameters.to_string().into_bytes();
        let keys = self.keys.read()?;
        let unsigned = tc3::Unsigned {
            method: "POST",
            host: self.line.host(),
            service: SERVICE,
            action,
            version: VERSION,
            content_type: "application/json",
            query: "",
            body: &body,
            covers_action: true,
        };
        let mut headers = tc3::sign(&keys.key(), &unsigned, self.line.now());
        headers.push(("accept", "application/json".to_owned()));
        headers.push(("x-tc-language", "en-US".to_owned()));
        headers.extend(self.region.iter().map(|region| ("x-tc-region", region.clone())));
        let mut told = self.line.post(effect, "", headers, body).await?;
        judge(effect, action, &told)?;
        Ok(told.json["Response"].take())
    }

    /// Times have no zone.
    fn time(&self, text: &str) -> Option<Timestamp> {
        let bytes = text.as_bytes();
        let written = bytes.len() == "2024-05-31 15:04:53".len() && bytes[10] == b' ';
        let time: DateTime = text.parse().ok().filter(|_| written)?;
        let offset = Offset::from_seconds(i32::from(self.time_offset.minutes()) * 60).ok()?;
        Some(Timestamp::from_millis(offset.to_timestamp(time).ok()?.as_millisecond()))
    }

    fn listed(&self, row: &Row) -> Result<Listed, String> {
        let row = cloud::Row {
            tenant: &row.zone_id,
            id: &row.credential_id,
            status: &row.status,
            created: row.create_time.as_deref(),
            expires: row.expire_time.as_deref(),
        };
        row.read(&self.tenant, |text| self.time(text))
    }
}

#[async_trait]
impl Cloud for Tencent {
    fn provider(&self) -> Provider {
        Provider::Tencent
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn list(&self) -> Result<Vec<Listed>, CloudError> {
        let answer = self.act(Effect::Read, "ListSCIMCredentials", json!({})).await?;
        let listing: Listing =
            cloud::read(answer).ok_or_else(|| CloudError::Implausible(UNFIT.to_owned()))?;
        let rows = listing.credentials.iter().map(|row| self.listed(row));
        cloud::whole_listing(listing.total, rows)
    }

    async fn create(&self, lifetime: Duration) -> Result<Created, CloudError> {
        let parameters = json!({ "ExpireDuration": lifetime.as_secs() });
        let answer = self.act(Effect::Change, "CreateSCIMCredential", parameters).await?;
        let NewRow { row, secret } =
            cloud::read(answer).ok_or_else(|| CloudError::Uncertain(UNFIT.to_owned()))?;
        cloud::created(self.listed(&row), secret)
    }

    async fn set_status(&self, id: &CredentialId, status: Status) -> Result<(), CloudError> {
        let parameters = json!({ "CredentialId": id.as_str(), "NewStatus": status.as_str() });
        self.act(Effect::Change, "UpdateSCIMCredentialStatus", parameters).await.map(drop)
    }

    async fn delete(&self, id: &CredentialId) -> Result<(), CloudError> {
        let parameters = json!({ "CredentialId": id.as_str() });
        self.act(Effect::Change, "DeleteSCIMCredential", parameters).await.map(drop)
    }
}

/// Errors come with HTTP 200 as well. What has no request id is not the API's.
fn judge(effect: Effect, action: &str, told: &Told) -> Result<(), CloudError> {
    let response = &told.json["Response"];
    let error = &response["Error"];
    let request = response["RequestId"].as_str();
    match error["Code"].as_str() {
        Some(code) => {
            let message = error["Message"].as_str().unwrap_or_default();
            let request = request.unwrap_or_default();
            let permission = format!("{SERVICE}:{action}");
            let retry_after = told.retry_after();
            let complaint = Complaint { code, message, request, permission, retry_after };
            Err(complaint.mean(&CODES, effect, told))
        }
        None if told.status.is_success() && error.is_null() && request.is_some() => Ok(()),
        None => Err(told.foreign(effect)),
    }
}

#[derive(Deserialize)]
struct Listing {
    #[serde(rename = "TotalCounts")]
    total: u64,
    #[serde(rename = "SCIMCredentials")]
    credentials: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    zone_id: String,
    credential_id: String,
    /// Of a new credential it has another name.
    #[serde(alias = "CredentialStatus")]
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

const SERVICE: &str = "organization";
const VERSION: &str = "2021-03-31";
const UNFIT: &str = "the answer does not have its form";
/// The first that fits counts.
const CODES: [(&str, Meaning); 16] = [
    ("RequestLimitExceeded", Meaning::Throttled),
    ("AuthFailure.SignatureExpire", Meaning::Clock),
    ("AuthFailure.UnauthorizedOperation", Meaning::Forbidden),
    ("AuthFailure", Meaning::Refused),
    ("UnauthorizedOperation", Meaning::Forbidden),
    ("IpInBlacklist", Meaning::Refused),
    ("IpNotInWhitelist", Meaning::Refused),
    ("FailedOperation.IdentityCenterNotOpen", Meaning::Refused),
    ("InvalidParameter.ScimCredentialNotFound", Meaning::Missing),
    ("FailedOperation.ZoneIdNotExist", Meaning::TenantMissing),
    ("LimitExceeded", Meaning::LimitReached),
    // A storage that failed may have stored before.
    ("FailedOperation", Meaning::Broken),
    ("InternalError", Meaning::Broken),
    ("ServiceUnavailable", Meaning::Broken),
    ("ResourceUnavailable", Meaning::Broken),
    ("ResponseSizeLimitExceeded", Meaning::Broken),
];

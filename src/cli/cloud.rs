//! A cloud as commands ask it when the proxies follow it themselves, joined with the enrolment file
//! that says whose tokens are known. What went wrong is told with the way out.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::value::{AdminUrl, SecretRef, Span};
use crate::config::{self, Config, Source, read_secret};
use crate::credential::{Credential, CredentialId, Expiry};
use crate::source::alibaba::Alibaba;
use crate::source::cloud::{Cloud, CloudError, Listed};
use crate::source::enrolment::Enrolment;
use crate::source::file::Row;
use crate::source::tencent::Tencent;
use crate::store::Standing;
use crate::telemetry::metrics::Metrics;

pub struct CloudAccount {
    pub cloud: Box<dyn Cloud>,
    pub enrolment: Enrolment,
    /// Between two questions of the proxies.
    pub refresh: Span,
    origin: Origin,
}

/// Where the config says what we ask with.
struct Origin {
    file: String,
    endpoint: AdminUrl,
    key: [SecretRef; 2],
    /// What the keys of the section are called.
    tenant_name: &'static str,
    key_names: [&'static str; 2],
}

impl CloudAccount {
    /// The cloud that the config's proxies follow, if it is one. Nobody is asked yet.
    pub fn followed(config: &Config, file: &Path) -> Option<Result<Self, String>> {
        let credentials = &config.credentials;
        let account = match credentials.source {
            Source::Tencent => Self::tencent(credentials.tencent.as_ref(), file),
            Source::Alibaba => Self::alibaba(credentials.alibaba.as_ref(), file),
            Source::Embedded | Source::Native | Source::File => return None,
        };
        let account = account.map(|account| Self { refresh: credentials.refresh, ..account });
        Some(account.map_err(|what| {
            format!("{}: credentials.{}.ca: {what}", file.display(), credentials.source.as_str())
        }))
    }

    fn tencent(section: Option<&config::Tencent>, file: &Path) -> Result<Self, String> {
        let section = section.expect(CHECKED);
        let cloud = Tencent::new(section, Clock::system(), Arc::new(Metrics::new()))?;
        let origin = Origin {
            file: file.display().to_string(),
            endpoint: section.endpoint.clone(),
            key: [section.secret_id.clone(), section.secret_key.clone()],
            tenant_name: "zone_id",
            key_names: ["secret_id", "secret_key"],
        };
        Ok(Self::new(Box::new(cloud), section.enrolment.as_deref(), origin))
    }

    fn alibaba(section: Option<&config::Alibaba>, file: &Path) -> Result<Self, String> {
        let section = section.expect(CHECKED);
        let cloud = Alibaba::new(section, Clock::system(), Arc::new(Metrics::new()))?;
        let origin = Origin {
            file: file.display().to_string(),
            endpoint: section.endpoint.clone(),
            key: [section.access_key_id.clone(), section.access_key_secret.clone()],
            tenant_name: "directory_id",
            key_names: ["access_key_id", "access_key_secret"],
        };
        Ok(Self::new(Box::new(cloud), section.enrolment.as_deref(), origin))
    }

    fn new(cloud: Box<dyn Cloud>, enrolment: Option<&Path>, origin: Origin) -> Self {
        let enrolment = Enrolment::at(enrolment.expect(CHECKED));
        Self { cloud, enrolment, refresh: Span::seconds(0), origin }
    }

    /// What the cloud lists and what is enrolled, by id.
    pub async fn credentials(&self) -> Result<Vec<CloudCredential>, String> {
        let rows = self.enrolment.rows()?;
        let listed = self.cloud.list().await.map_err(|error| self.told(&error))?;
        Ok(self.joined(listed, rows))
    }

    fn joined(&self, listed: Vec<Listed>, mut rows: Vec<Row>) -> Vec<CloudCredential> {
        rows.retain(|row| row.tenant() == self.cloud.tenant());
        let with_row = |listed: Listed| {
            let place = rows.iter().position(|row| *row.id() == listed.id);
            let enrolled = place.map(|place| rows.remove(place));
            CloudCredential { id: listed.id.clone(), listed: Some(listed), enrolled }
        };
        let mut joined: Vec<_> = listed.into_iter().map(with_row).collect();
        let unlisted =
            |row: Row| CloudCredential { id: row.id().clone(), listed: None, enrolled: Some(row) };
        joined.extend(rows.into_iter().map(unlisted));
        joined.sort_by(|a, b| a.id.cmp(&b.id));
        joined
    }

    /// As the native API tells of a mirrored one.
    pub fn json(&self, credential: &CloudCredential) -> Value {
        let CloudCredential { id, listed, enrolled } = credential;
        let about = enrolled.as_ref().map(Row::about).unwrap_or_default();
        let mut object = json!({
            "credential_id": id.as_str(),
            "tenant": self.cloud.tenant().as_str(),
            "credential_type": "BearerToken",
            "create_time": about.create_time.map(|time| time.to_string()),
            "label": about.label.unwrap_or_default(),
            "hint": about.hint,
            "origin": self.cloud.name(),
            "cloud": credential.standing().as_str(),
        });
        let enrolled = enrolled.as_ref().map(|row| row.credential());
        let enrolled = enrolled.map(|credential| (credential.status, credential.expiry));
        if let Some(listed) = listed
            && let Some(created) = listed.created
        {
            object["create_time"] = created.to_string().into();
        }
        let counts = listed.as_ref().map(|listed| (listed.status, listed.expiry)).or(enrolled);
        if let Some((status, expiry)) = counts {
            object["status"] = status.as_str().into();
            object["expire_time"] = match expiry {
                Expiry::At(end) => end.to_string().into(),
                Expiry::Never => Value::Null,
            };
        }
        object
    }

    /// What went wrong and where.
    pub fn what(&self, error: &CloudError) -> String {
        format!("{} {}: {error}", self.cloud.name(), self.cloud.tenant())
    }

    /// And the way out.
    pub fn told(&self, error: &CloudError) -> String {
        let Origin { file, endpoint, key: [id, secret], tenant_name, key_names } = &self.origin;
        let ([id_name, secret_name], name) = (key_names, self.cloud.name());
        let section = format!("credentials.{name}");
        let key = || {
            format!(
                "the key is {id} with {secret} ({section}.{id_name} and .{secret_name} in {file})"
            )
        };
        let is_keyless = [id, secret].into_iter().any(|part| read_secret(part).is_err());
        let way_out = match error {
            CloudError::Refused(_) => key(),
            CloudError::Unreachable(_) if is_keyless => key(),
            CloudError::Unreachable(_) => {
                format!("nothing was done; {endpoint} comes from: {section}.endpoint in {file}")
            }
            CloudError::Clock { .. } => {
                "set this machine's clock, as by NTP: before that no try helps".to_owned()
            }
            CloudError::Throttled { .. } => {
                "nothing was done: wait, and see who else asks with this account".to_owned()
            }
            CloudError::TenantMissing(_) => format!(
                "it comes from: {section}.{tenant_name} in {file}; {endpoint} must be the endpoint of \
                 its site or region ({section}.endpoint)"
            ),
            CloudError::Uncertain(_) => {
                "`scim-guard credential list` tells how it is now".to_owned()
            }
            CloudError::Missing
            | CloudError::LimitReached(_)
            | CloudError::Implausible(_)
            | CloudError::Failed { .. } => return self.what(error),
        };
        format!("{}\n{way_out}", self.what(error))
    }
}

/// What the source's rules make sure of.
const CHECKED: &str = "a checked config has it";

/// A credential that the cloud lists, or that is enrolled, or both.
pub struct CloudCredential {
    pub id: CredentialId,
    pub listed: Option<Listed>,
    pub enrolled: Option<Row>,
}

impl CloudCredential {
    pub fn standing(&self) -> Standing {
        match (&self.listed, &self.enrolled) {
            (Some(_), Some(_)) => Standing::Listed,
            (Some(_), None) => Standing::NotEnrolled,
            (None, _) => Standing::Unlisted,
        }
    }

    /// What it is worth, once its token is known and while the cloud lists it.
    pub fn credential(&self) -> Option<Credential> {
        let (listed, row) = self.listed.as_ref().zip(self.enrolled.as_ref())?;
        let Listed { status, expiry, .. } = *listed;
        Some(Credential { status, expiry, ..row.credential() })
    }
}

//! The six actions, each with the parameters and the fields that its SDKs know. Parameters that no
//! action has are passed over, as the cloud does: some SDKs send the region everywhere.

use serde_json::json;

use super::Alibaba;
use super::login::Login;
use super::problem::Fault;
use crate::admin::signed::{Action, Fields, ROWS_MAX, SYNCHRONIZATION, fields};
use crate::admin::{Caller, Created, Lifetime, Patch, Secret};
use crate::clock::Timestamp;
use crate::credential::feed::PageKey;
use crate::credential::{CredentialId, Expiry, Status, TenantId};
use crate::store::{Filter, Record};

/// By the names that the cloud has for them.
pub const ACTIONS: [(Action, &str); 6] = [
    (Action::Create, "CreateSCIMServerCredential"),
    (Action::List, "ListSCIMServerCredentials"),
    (Action::UpdateStatus, "UpdateSCIMServerCredentialStatus"),
    (Action::Delete, "DeleteSCIMServerCredential"),
    (Action::GetSynchronization, "GetSCIMSynchronizationStatus"),
    (Action::SetSynchronization, "SetSCIMSynchronizationStatus"),
];

impl Alibaba {
    pub(super) async fn run(
        &self,
        action: Action,
        caller: &Caller,
        login: &Login<'_>,
    ) -> Result<Fields, Fault> {
        let service = &self.desk.service;
        let directory = directory(login)?;
        match action {
            Action::Create => {
                let (lifetime, status) = (Lifetime::Default, Status::Enabled);
                let created =
                    service.create(caller, &directory, lifetime, "", Secret::Mint, status).await?;
                let Created { record, secret } = created;
                let secret = secret.expect("it was to be made");
                let mut credential = shown(&record);
                credential.insert("CredentialSecret".to_owned(), secret.reveal().into());
                Ok(fields([(CREDENTIAL, credential.into())]))
            }
            Action::List => {
                let tenant = directory;
                let filter = Filter { tenant, after: None, expires_by: None, rows: ROWS_MAX };
                let found = service.records(caller, &filter).await?;
                let rows: Vec<_> = found.records.iter().map(shown).collect();
                let total = rows.len().into();
                Ok(fields([("TotalCounts", total), ("SCIMServerCredentials", json!(rows))]))
            }
            Action::UpdateStatus => {
                let key = (directory, credential(login)?);
                let record = self.update(caller, key, status(login, "NewStatus")?).await?;
                Ok(fields([(CREDENTIAL, shown(&record).into())]))
            }
            Action::Delete => {
                service.delete(caller, &(directory, credential(login)?)).await?;
                Ok(Fields::new())
            }
            Action::GetSynchronization => {
                let row = service.tenant(caller, &directory).await?;
                Ok(fields([(SYNCHRONIZATION, row.synchronization.as_str().into())]))
            }
            Action::SetSynchronization => {
                match status(login, SYNCHRONIZATION)? {
                    Some(status) => {
                        service.set_synchronization(caller, &directory, status).await?;
                    }
                    None => {
                        service.tenant(caller, &directory).await?;
                    }
                }
                Ok(Fields::new())
            }
        }
    }

    /// The credential as it is from then on. The status may be left out, and all stays as it is.
    async fn update(
        &self,
        caller: &Caller,
        key: PageKey,
        status: Option<Status>,
    ) -> Result<Record, Fault> {
        let service = &self.desk.service;
        let Some(status) = status else { return Ok(service.record(caller, &key).await?) };
        let patch = Patch { status: Some(status), label: None };
        Ok(service.patch(caller, &key, patch).await?.record)
    }
}

fn directory(login: &Login<'_>) -> Result<TenantId, Fault> {
    let text = login.parameter("DirectoryId").ok_or_else(|| Fault::missing("DirectoryId"))?;
    TenantId::parse(text).map_err(|_| Fault::directory_unknown())
}

fn credential(login: &Login<'_>) -> Result<CredentialId, Fault> {
    let text = login.parameter("CredentialId").ok_or_else(|| Fault::missing("CredentialId"))?;
    CredentialId::parse(text).map_err(|_| Fault::credential_unknown())
}

fn status(login: &Login<'_>, name: &str) -> Result<Option<Status>, Fault> {
    let invalid = |_| Fault::invalid(name, "must be Enabled or Disabled");
    login.parameter(name).map(|text| text.parse().map_err(invalid)).transpose()
}

/// All but the secret.
fn shown(record: &Record) -> Fields {
    let credential = &record.credential;
    let end = match credential.expiry {
        Expiry::At(end) => time(end),
        Expiry::Never => "9999-12-31T23:59:59Z".to_owned(),
    };
    fields([
        ("Status", credential.status.as_str().into()),
        ("DirectoryId", credential.tenant.as_str().into()),
        ("CredentialId", credential.id.as_str().into()),
        ("CreateTime", time(record.create_time).into()),
        ("CredentialType", "BearerToken".into()),
        ("ExpireTime", end.into()),
    ])
}

/// Whole seconds in UTC.
fn time(time: Timestamp) -> String {
    Timestamp::from_millis(time.as_millis().div_euclid(1000) * 1000).to_string()
}

const CREDENTIAL: &str = "SCIMServerCredential";

//! The six actions, each with the parameters and the fields that its SDKs know.

use jiff::tz::Offset;
use serde_json::{Value, json};

use super::Tencent;
use super::parameters::Parameters;
use super::problem::Fault;
use crate::admin::signed::{Action, Fields, ROWS_MAX, SYNCHRONIZATION, fields};
use crate::admin::{Caller, Created, Lifetime, Patch, Secret};
use crate::clock::Timestamp;
use crate::credential::{Expiry, Status, TenantId};
use crate::store::{Filter, Record};

/// By the names that the cloud has for them.
pub const ACTIONS: [(Action, &str); 6] = [
    (Action::Create, "CreateSCIMCredential"),
    (Action::List, "ListSCIMCredentials"),
    (Action::UpdateStatus, "UpdateSCIMCredentialStatus"),
    (Action::Delete, "DeleteSCIMCredential"),
    (Action::GetSynchronization, "GetSCIMSynchronizationStatus"),
    (Action::SetSynchronization, "UpdateSCIMSynchronizationStatus"),
];

impl Tencent {
    pub(super) async fn run(
        &self,
        action: Action,
        caller: &Caller,
        mut parameters: Parameters,
    ) -> Result<Fields, Fault> {
        let zone = parameters.zone();
        match action {
            Action::Create => self.create(caller, zone, parameters).await,
            Action::List => self.list(caller, zone, parameters).await,
            Action::UpdateStatus => self.update_status(caller, zone, parameters).await,
            Action::Delete => self.delete(caller, zone, parameters).await,
            Action::GetSynchronization => {
                parameters.end()?;
                let row = self.desk.service.tenant(caller, &zone?).await?;
                Ok(fields([(SYNCHRONIZATION, row.synchronization.as_str().into())]))
            }
            Action::SetSynchronization => {
                let code = "InvalidParameter.ScimSyncStatusError";
                let status = parameters.status(SYNCHRONIZATION, code);
                parameters.end()?;
                let (zone, status) = (zone?, status?);
                self.desk.service.set_synchronization(caller, &zone, status).await?;
                Ok(Fields::new())
            }
        }
    }

    async fn create(
        &self,
        caller: &Caller,
        zone: Result<TenantId, Fault>,
        mut parameters: Parameters,
    ) -> Result<Fields, Fault> {
        let seconds = parameters.seconds("ExpireDuration");
        parameters.end()?;
        let (zone, seconds) = (zone?, seconds?);
        let lifetime = seconds.map_or(Lifetime::Default, |seconds| {
            Lifetime::In(std::time::Duration::from_secs(seconds))
        });
        let created = self
            .desk
            .service
            .create(caller, &zone, lifetime, "", Secret::Mint, Status::Enabled)
            .await?;
        let Created { record, secret } = created;
        let secret = secret.expect("it was to be made");
        let mut answer = self.shown(&record);
        let status = record.credential.status.as_str();
        answer.insert("CredentialStatus".to_owned(), status.into());
        answer.insert("CredentialSecret".to_owned(), secret.reveal().into());
        Ok(answer)
    }

    async fn list(
        &self,
        caller: &Caller,
        zone: Result<TenantId, Fault>,
        mut parameters: Parameters,
    ) -> Result<Fields, Fault> {
        let only = parameters.credential();
        parameters.end()?;
        let (tenant, only) = (zone?, only?);
        let filter = Filter { tenant, after: None, expires_by: None, rows: ROWS_MAX };
        let mut records = self.desk.service.records(caller, &filter).await?.records;
        if let Some(only) = only {
            records.retain(|record| record.credential.id.as_str() == only);
        }
        let rows = records.iter().map(|record| {
            let mut row = self.shown(record);
            row.insert("Status".to_owned(), record.credential.status.as_str().into());
            Value::Object(row)
        });
        let rows: Vec<_> = rows.collect();
        Ok(fields([("TotalCounts", rows.len().into()), ("SCIMCredentials", json!(rows))]))
    }

    async fn update_status(
        &self,
        caller: &Caller,
        zone: Result<TenantId, Fault>,
        mut parameters: Parameters,
    ) -> Result<Fields, Fault> {
        let id = parameters.needed_credential();
        let code = "InvalidParameter.UserScimCredentialStatusError";
        let status = parameters.status("NewStatus", code);
        parameters.end()?;
        let (zone, status, id) = (zone?, status?, id?);
        let patch = Patch { status: Some(status), label: None };
        self.desk.service.patch(caller, &(zone, id), patch).await?;
        Ok(Fields::new())
    }

    async fn delete(
        &self,
        caller: &Caller,
        zone: Result<TenantId, Fault>,
        mut parameters: Parameters,
    ) -> Result<Fields, Fault> {
        let id = parameters.needed_credential();
        parameters.end()?;
        self.desk.service.delete(caller, &(zone?, id?)).await?;
        Ok(Fields::new())
    }

    /// What create and list tell alike.
    fn shown(&self, record: &Record) -> Fields {
        let credential = &record.credential;
        let end = match credential.expiry {
            Expiry::At(end) => self.time(end),
            Expiry::Never => NEVER.to_owned(),
        };
        fields([
            ("ZoneId", credential.tenant.as_str().into()),
            ("CredentialId", credential.id.as_str().into()),
            ("CredentialType", "BearerToken".into()),
            ("CreateTime", self.time(record.create_time).into()),
            ("ExpireTime", end.into()),
        ])
    }

    /// Whole seconds in a zone that is not told.
    fn time(&self, time: Timestamp) -> String {
        let offset = Offset::from_seconds(i32::from(self.offset.minutes()) * 60);
        let offset = offset.expect("the config takes no more than some hours");
        match jiff::Timestamp::from_millisecond(time.as_millis()) {
            Ok(instant) => offset.to_datetime(instant).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => NEVER.to_owned(),
        }
    }
}

/// Its form has no word for it.
const NEVER: &str = "9999-12-31 23:59:59";

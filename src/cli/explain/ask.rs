//! What the admin API or the cloud knows now of a token or an id, put into a table.

use std::sync::Arc;

use super::Who;
use crate::authority::{Applier, Confirmation};
use crate::cli::api::Api;
use crate::cli::cloud::{CloudAccount, CloudCredential};
use crate::clock::Clock;
use crate::credential::feed::{Change, Row, TenantRow};
use crate::credential::{Credential, Revision, Status, TenantId, TokenDigest};
use crate::source::wire::{LookupJson, RowJson, TenantJson};
use crate::store::Standing;

/// Puts into the table what the admin API knows now: its tenants, and the rows in question.
pub async fn ask(
    api: &Api,
    who: &Who,
    tenant: Option<&TenantId>,
    mut applier: Applier,
    clock: &Clock,
) -> Result<(Vec<Credential>, String), String> {
    let begun = clock.now();
    for tenant in tenants(api).await? {
        let row = (&tenant).try_into().map_err(|_| unfit(api))?;
        applier.change(&Change::Tenant(row));
    }
    let mut rows = Vec::new();
    if let Who::Id(id) = who {
        let here = match tenant {
            Some(tenant) => api.credential(id, Some(tenant)).await.ok(),
            None => None,
        };
        let (_, credential) = match here {
            Some(here) => here,
            None => api.credential(id, None).await?,
        };
        // The digest is not told here, and nothing is decided by it.
        let stand_in = TokenDigest::of(id.as_str().as_bytes());
        let credential = serde_json::from_value(credential).map_err(|_| unfit(api))?;
        rows.push(row(api, credential, stand_in)?);
    }
    let mut disputed = false;
    for digest in who.digests() {
        match api.get(&format!("/v1/lookup/{digest}")).await {
            Ok(found) => {
                let found = serde_json::from_value::<LookupJson>(found);
                let LookupJson { head, row: found } = found.map_err(|_| unfit(api))?;
                disputed |= head.disputed;
                rows.push(row(api, found, digest)?);
            }
            Err(failure) if failure.is("digest_unknown") => {
                disputed |= failure.body["disputed"] == true;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    rows.iter().for_each(|row| applier.put(row.clone()));
    applier.authority().confirm(Confirmation::new(begun, Vec::new()));
    let credentials = rows.iter().map(|row| Credential::clone(&row.credential)).collect();
    let warning = if disputed { ", whose store is disputed: proxies may know more" } else { "" };
    Ok((credentials, format!("{}{warning}", api.url())))
}

/// Puts into the table what the cloud lists now and whose token is enrolled.
pub async fn ask_cloud(
    account: &CloudAccount,
    who: &Who,
    mut applier: Applier,
    clock: &Clock,
) -> Result<(Vec<Credential>, String), String> {
    let begun = clock.now();
    let held = account.credentials().await?;
    let (tenant, synchronization) = (account.cloud.tenant().clone(), Status::Enabled);
    let revision = Revision(1);
    applier.change(&Change::Tenant(TenantRow { tenant, synchronization, revision }));
    let credentials: Vec<_> = held.iter().filter_map(CloudCredential::credential).collect();
    for credential in &credentials {
        applier.put(Row { credential: Arc::new(credential.clone()), revision });
    }
    applier.authority().confirm(Confirmation::new(begun, Vec::new()));
    let (name, file) = (account.cloud.name(), account.enrolment.path().display());
    let mut from = format!("{name} {} and {file}", account.cloud.tenant());
    let digests = who.digests();
    let meant = |it: &&CloudCredential| match who {
        Who::Id(id) => it.id == *id,
        Who::Token(_) => it.enrolled.as_ref().is_some_and(|row| digests.contains(row.digest())),
    };
    if let Some(it) = held.iter().find(meant) {
        match it.standing() {
            Standing::Unlisted => {
                from += &format!(", where it is enrolled as {}, which {name} lists no more", it.id);
            }
            Standing::NotEnrolled => {
                return Err(format!(
                    "{name} lists {}, and its token is not enrolled, so it opens nothing here: \
                 `scim-guard credential enroll --id {}`",
                    it.id, it.id
                ));
            }
            _ => {}
        }
    }
    Ok((credentials, from))
}

/// All tenants and their switches, in one of two ways: replicas may not list tenants, and others
/// may not read the table.
async fn tenants(api: &Api) -> Result<Vec<TenantJson>, String> {
    let mut body = match api.get("/v1/tenants").await {
        Err(failure) if failure.is("role_insufficient") => api.get("/v1/table?rows=1").await?,
        answer => answer?,
    };
    serde_json::from_value(body["tenants"].take()).map_err(|_| unfit(api))
}

fn row(api: &Api, json: RowJson, digest: TokenDigest) -> Result<Row, String> {
    let json = RowJson { digest: Some(digest.to_string()), ..json };
    Row::try_from(&json).map_err(|_| unfit(api))
}

fn unfit(api: &Api) -> String {
    format!("{}: an answer does not have its form", api.url())
}

//! The operations on tenants.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::input::{InTenant, Members, Query};
use super::problem::Fault;
use super::views::{DeletedJson, SynchronizationJson, TenantJson, TenantsJson};
use super::{Shared, revised};
use crate::admin::Caller;

/// Lists the tenants that you may see.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants",
    responses((status = 200, body = TenantsJson, description = "All of them."))
)]
pub async fn list_tenants(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
) -> Result<Response, Fault> {
    let tenants = shared.service.tenants(&caller).await?;
    let tenants = tenants.iter().map(TenantJson::from).collect();
    Ok(Json(TenantsJson { tenants }).into_response())
}

/// Shows a tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}", tag = "tenants",
    params(InTenant),
    responses(
        (status = 200, body = TenantJson, description = "It."),
        (status = 404, description = "`tenant_unknown`"),
    )
)]
pub async fn show_tenant(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
) -> Result<Response, Fault> {
    let row = shared.service.tenant(&caller, &tenant).await?;
    Ok(Json(TenantJson::from(&row)).into_response())
}

/// Declares a tenant.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}", tag = "tenants",
    params(InTenant),
    responses(
        (status = 200, body = TenantJson, description = "It was declared already.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 201, body = TenantJson, description = "Declared.",
            headers(("Scim-Guard-Revision" = u64))),
    )
)]
pub async fn put_tenant(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
    members: Members,
) -> Result<Response, Fault> {
    members.end()?;
    let (row, is_new) = shared.service.put_tenant(&caller, &tenant).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(revised(row.revision, (status, Json(TenantJson::from(&row)))))
}

/// Deletes a tenant that has no credentials.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}", tag = "tenants",
    params(InTenant),
    responses(
        (status = 200, body = DeletedJson, description = "Gone.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`"),
        (status = 409, description = "`tenant_in_use`, `tenant_configured`"),
    )
)]
pub async fn delete_tenant(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
    query: Query,
) -> Result<Response, Fault> {
    query.end()?;
    let revision = shared.service.delete_tenant(&caller, &tenant).await?;
    Ok(revised(revision, Json(DeletedJson::from(revision))))
}

/// Shows whether a tenant's provisioning goes on.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/synchronization", tag = "tenants",
    params(InTenant),
    responses(
        (status = 200, body = SynchronizationJson, description = "The switch."),
        (status = 404, description = "`tenant_unknown`"),
    )
)]
pub async fn show_synchronization(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
) -> Result<Response, Fault> {
    let row = shared.service.tenant(&caller, &tenant).await?;
    let status = row.synchronization.as_str().to_owned();
    Ok(Json(SynchronizationJson { status }).into_response())
}

/// Stops all of a tenant's provisioning, or lets it go on.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/synchronization", tag = "tenants",
    params(InTenant),
    request_body = SynchronizationJson,
    responses(
        (status = 200, body = SynchronizationJson, description = "As it is now.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`"),
    )
)]
pub async fn put_synchronization(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
    mut members: Members,
) -> Result<Response, Fault> {
    let wanted = members.status("status")?;
    let status = wanted.ok_or_else(|| Fault::invalid("status", "must be Enabled or Disabled"))?;
    members.end()?;
    let revision = shared.service.set_synchronization(&caller, &tenant, status).await?;
    let status = status.as_str().to_owned();
    Ok(revised(revision, Json(SynchronizationJson { status })))
}

//! The operations on a tenant's credentials.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use utoipa::{IntoParams, ToSchema};

use super::input::{InTenant, Members, OfCredential, Query};
use super::problem::Fault;
use super::views::{CreatedJson, CredentialJson, CredentialsJson, DeletedJson};
use super::{Shared, revised};
use crate::admin::{Caller, Created, Lifetime, Overlap, Patch, Secret};
use crate::credential::{CredentialId, Status};
use crate::store::Filter;

/// What a new credential is to be. All of it may be left out, unless a token is enrolled.
#[derive(ToSchema)]
#[schema(as = NewCredential)]
#[expect(dead_code, reason = "it describes what `Members` reads one by one")]
pub struct NewCredentialJson {
    /// How long it lives: a text such as `90d`, or a whole number of seconds. Default: as
    /// configured.
    #[schema(schema_with = super::openapi::span_schema)]
    expire_in: Option<String>,
    /// When it ends, instead of `expire_in`.
    #[schema(format = DateTime, nullable = false)]
    expire_time: Option<String>,
    #[schema(max_length = 256, nullable = false)]
    label: Option<String>,
    /// `Enabled` or `Disabled`; one that is made `Disabled` was never good. Default: `Enabled`.
    status: Option<String>,
    /// Enrols a token that was made elsewhere, by its value.
    #[schema(nullable = false)]
    secret: Option<String>,
    /// Enrols a token that was made elsewhere, by its SHA-256: `sha256:` and 64 hexadecimal digits.
    #[schema(nullable = false)]
    digest: Option<String>,
}

/// Makes a credential, or enrols a token that was made elsewhere.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/credentials", tag = "credentials",
    params(InTenant),
    request_body = Option<NewCredentialJson>,
    responses(
        (status = 201, body = CreatedJson, description = "Made; the token is shown this once.",
            headers(("Location"), ("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`"),
        (status = 409, description = "`limit_reached` with `credentials`, `digest_taken` with \
            `owner` if you may see it, or `owned_by_cloud`"),
        (status = 503, description = "`cloud_unavailable`, with `Retry-After`"),
        (status = 504, description = "`cloud_uncertain`: one of `candidates` may have been made, and \
            nobody knows its token"),
    )
)]
pub async fn create_credential(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
    mut members: Members,
) -> Result<Response, Fault> {
    let lifetime = lifetime(&mut members)?;
    let label = members.text("label")?.unwrap_or_default();
    let secret = secret(&mut members)?;
    let status = members.status("status")?.unwrap_or(Status::Enabled);
    members.end()?;
    let service = &shared.service;
    let created = service.create(&caller, &tenant, lifetime, &label, secret, status).await?;
    Ok(shown_once(&created))
}

/// The token that is told, or that one is to be made.
fn secret(members: &mut Members) -> Result<Secret, Fault> {
    match (members.text("secret")?, members.digest("digest")?) {
        (None, None) => Ok(Secret::Mint),
        (Some(secret), None) => Ok(Secret::Known(secret)),
        (None, Some(digest)) => Ok(Secret::Digest(digest)),
        (Some(_), Some(_)) => Err(Fault::invalid("digest", "cannot stand with `secret`")),
    }
}

/// The token of a credential that is a cloud's.
#[derive(ToSchema)]
#[schema(as = Enrolment)]
#[expect(dead_code, reason = "it describes what `Members` reads one by one")]
pub struct EnrolmentJson {
    /// By its value.
    #[schema(nullable = false)]
    secret: Option<String>,
    /// By its SHA-256: `sha256:` and 64 hexadecimal digits.
    #[schema(nullable = false)]
    digest: Option<String>,
}

/// Tells the token of a mirrored credential, which its cloud keeps to itself.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/credentials/{id}/digest", tag = "credentials",
    params(OfCredential),
    request_body = EnrolmentJson,
    responses(
        (status = 200, body = CredentialJson, description = "As it is from then on.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`, `credential_unknown`: its cloud does not \
            list it"),
        (status = 409, description = "`digest_taken` with `owner` if you may see it"),
        (status = 503, description = "`cloud_unavailable`, with `Retry-After`"),
    )
)]
pub async fn put_digest(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    path: OfCredential,
    mut members: Members,
) -> Result<Response, Fault> {
    let secret = secret(&mut members)?;
    members.end()?;
    let changed = shared.service.enroll(&caller, &path.key(), secret).await?;
    Ok(revised(changed.revision, Json(CredentialJson::from(&changed.record))))
}

/// Lists a tenant's credentials.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/credentials", tag = "credentials",
    params(InTenant, Listing),
    responses(
        (status = 200, body = CredentialsJson, description = "A page."),
        (status = 404, description = "`tenant_unknown`"),
    )
)]
pub async fn list_credentials(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InTenant { tenant }: InTenant,
    mut query: Query,
) -> Result<Response, Fault> {
    let after = query.parsed("after", "a credential's id", |id| CredentialId::parse(id).ok())?;
    let within = query.span("expiring_in")?;
    let rows = query.rows(100, 1000)?;
    query.end()?;
    let expires_by = within.map(|within| shared.service.clock().now().wall.plus(within));
    let filter = Filter { tenant, after, expires_by, rows };
    let found = shared.service.records(&caller, &filter).await?;
    Ok(Json(CredentialsJson::from(&found)).into_response())
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Query` reads one by one")]
pub struct Listing {
    /// Only those that end within this time, such as `90d`; expired ones too.
    expiring_in: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    rows: Option<u32>,
}

/// Shows a credential.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/credentials/{id}", tag = "credentials",
    params(OfCredential),
    responses(
        (status = 200, body = CredentialJson, description = "It."),
        (status = 404, description = "`tenant_unknown`, `credential_unknown`"),
    )
)]
pub async fn show_credential(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    path: OfCredential,
) -> Result<Response, Fault> {
    let record = shared.service.record(&caller, &path.key()).await?;
    Ok(Json(CredentialJson::from(&record)).into_response())
}

/// A merge patch (RFC 7396) of the only members that can be changed.
#[derive(ToSchema)]
#[schema(as = CredentialPatch)]
#[expect(dead_code, reason = "it describes what `Members` reads one by one")]
pub struct PatchJson {
    /// `Enabled` or `Disabled`.
    #[schema(nullable = false)]
    status: Option<String>,
    #[schema(max_length = 256, nullable = false)]
    label: Option<String>,
}

/// Disables or enables a credential, or gives it another label.
#[utoipa::path(
    patch, path = "/v1/tenants/{tenant}/credentials/{id}", tag = "credentials",
    params(OfCredential),
    request_body(content((PatchJson = "application/merge-patch+json"),
        (PatchJson = "application/json"))),
    responses(
        (status = 200, body = CredentialJson, description = "As it is now; the same revision if \
            it was so already.", headers(("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`, `credential_unknown`"),
    )
)]
pub async fn patch_credential(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    path: OfCredential,
    mut members: Members,
) -> Result<Response, Fault> {
    if members.is_empty() {
        return Err(Fault::invalid("body", "must name `status` or `label`"));
    }
    let patch = Patch { status: members.status("status")?, label: members.text("label")? };
    members.end()?;
    let changed = shared.service.patch(&caller, &path.key(), patch).await?;
    Ok(revised(changed.revision, Json(CredentialJson::from(&changed.record))))
}

/// Deletes a credential. Its token opens nothing from then on.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/credentials/{id}", tag = "credentials",
    params(OfCredential),
    responses(
        (status = 200, body = DeletedJson, description = "Gone.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`, `credential_unknown`"),
    )
)]
pub async fn delete_credential(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    path: OfCredential,
    query: Query,
) -> Result<Response, Fault> {
    query.end()?;
    let revision = shared.service.delete(&caller, &path.key()).await?;
    Ok(revised(revision, Json(DeletedJson::from(revision))))
}

/// How a credential gives way to its successor.
#[derive(ToSchema)]
#[schema(as = Rotation)]
#[expect(dead_code, reason = "it describes what `Members` reads one by one")]
pub struct RotationJson {
    /// How long the old token goes on, never beyond its own end. Default: `24h`.
    #[schema(schema_with = super::openapi::span_schema)]
    overlap: Option<String>,
    /// Somebody else has the old token: it ends at once, and so there is no `overlap`.
    #[schema(nullable = false)]
    leaked: Option<bool>,
    /// How long the new one lives.
    #[schema(schema_with = super::openapi::span_schema)]
    expire_in: Option<String>,
    /// When the new one ends, instead of `expire_in`.
    #[schema(format = DateTime, nullable = false)]
    expire_time: Option<String>,
}

/// Makes a new credential in the place of one, whose token goes on for a while.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/credentials/{id}/rotate", tag = "credentials",
    params(OfCredential),
    request_body = Option<RotationJson>,
    responses(
        (status = 201, body = CreatedJson, description = "The new one; its token is shown this \
            once.", headers(("Location"), ("Scim-Guard-Revision" = u64))),
        (status = 404, description = "`tenant_unknown`, `credential_unknown`"),
        (status = 409, description = "`limit_reached` with `credentials`, or \
            `rotated` with `successor`"),
    )
)]
pub async fn rotate_credential(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    path: OfCredential,
    mut members: Members,
) -> Result<Response, Fault> {
    let overlap = match (members.span("overlap")?, members.flag("leaked")?.unwrap_or_default()) {
        (Some(_), true) => return Err(Fault::invalid("overlap", "cannot stand with `leaked`")),
        (None, true) => Overlap::Leaked,
        (overlap, false) => Overlap::For(overlap.unwrap_or(OVERLAP)),
    };
    let lifetime = lifetime(&mut members)?;
    members.end()?;
    let created = shared.service.rotate(&caller, &path.key(), overlap, lifetime).await?;
    Ok(shown_once(&created))
}

const OVERLAP: Duration = Duration::from_secs(24 * 3600);

fn lifetime(members: &mut Members) -> Result<Lifetime, Fault> {
    match (members.span("expire_in")?, members.time("expire_time")?) {
        (None, None) => Ok(Lifetime::Default),
        (Some(time), None) => Ok(Lifetime::In(time)),
        (None, Some(end)) => Ok(Lifetime::At(end)),
        (Some(_), Some(_)) => Err(Fault::invalid("expire_time", "cannot stand with `expire_in`")),
    }
}

/// The one answer that has a secret in it.
fn shown_once(created: &Created) -> Response {
    let (tenant, id) = created.record.key();
    let place = format!("/v1/tenants/{tenant}/credentials/{id}");
    let body = (StatusCode::CREATED, Json(CreatedJson::from(created)));
    let mut response = revised(created.record.revision, body);
    let place = HeaderValue::from_str(&place).expect("ids are ASCII");
    response.headers_mut().insert(LOCATION, place);
    response
}

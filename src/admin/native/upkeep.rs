//! The operations on the store as a whole.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use utoipa::{IntoParams, ToSchema};

use super::input::{Members, Query};
use super::problem::{self, Fault};
use super::views::{AuditEntryJson, AuditJson, DisputeJson, HeadJson};
use super::{Shared, revised};
use crate::admin::{Caller, Problem};

/// Shows the store's history, and what accepting it would bring back.
#[utoipa::path(
    get, path = "/v1/history", tag = "store",
    responses((status = 200, body = DisputeJson, description = "The head, and what replicas hold \
        against it."))
)]
pub async fn show_history(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
) -> Result<Response, Fault> {
    let dispute = shared.service.dispute(&caller).await?;
    Ok(Json(DisputeJson::from(&dispute)).into_response())
}

/// Ends a dispute in favour of the present state: a new history begins, and replicas list anew.
#[utoipa::path(
    post, path = "/v1/history/accept", tag = "store",
    responses((status = 200, body = HeadJson, description = "The new history.",
        headers(("Scim-Guard-Revision" = u64))))
)]
pub async fn accept_history(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    members: Members,
) -> Result<Response, Fault> {
    members.end()?;
    let head = shared.service.accept(&caller).await?;
    Ok(revised(head.position.revision, Json(HeadJson::from(&head))))
}

/// Where a backup goes.
#[derive(ToSchema)]
#[schema(as = Backup)]
#[expect(dead_code, reason = "it describes what `Members` reads one by one")]
pub struct BackupJson {
    /// An absolute path on the admin API's machine, where there is no file yet.
    path: String,
}

/// Writes a consistent copy of the store to a new file.
#[utoipa::path(
    post, path = "/v1/backup", tag = "store",
    request_body = BackupJson,
    responses(
        (status = 200, body = HeadJson, description = "What the copy holds.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 503, description = "`backup_failed`, `store_failed`"),
    )
)]
pub async fn back_up(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    mut members: Members,
) -> Result<Response, Fault> {
    let path = members.text("path")?.unwrap_or_default();
    members.end()?;
    let path = Path::new(&path);
    if !path.is_absolute() {
        return Err(Fault::invalid("path", "must be an absolute path"));
    }
    let head = shared.service.backup(&caller, path).await.map_err(|problem| match problem {
        Problem::StoreFailed(what) => Fault::new(&problem::BACKUP_FAILED, what),
        problem => problem.into(),
    })?;
    Ok(revised(head.position.revision, Json(HeadJson::from(&head))))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Query` reads one by one")]
pub struct AuditParams {
    /// The `next` of the page before, or the last `number` that is known.
    after: Option<u64>,
    /// Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    rows: Option<u32>,
}

/// Reads who did what, oldest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "store",
    params(AuditParams),
    responses((status = 200, body = AuditJson, description = "A page."))
)]
pub async fn read_audit(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    mut query: Query,
) -> Result<Response, Fault> {
    let number = |text: &str| text.parse().ok().filter(|&number: &u64| number <= NUMBER_MAX);
    let after = query.parsed("after", "an entry's number", number)?.unwrap_or_default();
    let rows = query.rows(100, 1000)?;
    query.end()?;
    let (entries, next) = shared.service.audit(&caller, after, rows).await?;
    let entries = entries.iter().map(AuditEntryJson::from).collect();
    Ok(Json(AuditJson { entries, next }).into_response())
}

/// What a store's signed integers take.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// Describes this API.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "description",
    security(()),
    responses((status = 200, content_type = "application/json", description = "OpenAPI 3.1."))
)]
pub async fn read_openapi(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = shared.openapi.clone().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

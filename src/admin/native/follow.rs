//! The operations for those who follow the table, and for those who want to know how far they are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use utoipa::IntoParams;

use super::input::{Named, Payload, Query};
use super::problem::Fault;
use super::stream::{self, Stream};
use super::views::{
    ChangesJson, HeardJson, LookupJson, PageJson, ReceiptJson, ReplicasJson, ReportJson, RowJson,
};
use super::{Shared, revised};
use crate::admin::Caller;
use crate::credential::feed::{Position, Report};
use crate::credential::{Revision, TokenDigest};
use crate::source::wire::page_key;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Query` reads one by one")]
pub struct TableParams {
    /// The `next` of the page before.
    after: Option<String>,
    /// Leaves other tenants out.
    tenant: Option<String>,
    /// Default: 1000.
    #[param(minimum = 1, maximum = 5000)]
    rows: Option<u32>,
}

/// Reads the table, page by page. Follow from the position of the first page.
#[utoipa::path(
    get, path = "/v1/table", tag = "following",
    params(TableParams),
    responses((status = 200, body = PageJson, description = "A page, by tenant and id."))
)]
pub async fn read_table(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    mut query: Query,
) -> Result<Response, Fault> {
    let key = |text: &str| page_key(text).ok();
    let after = query.parsed("after", "the `next` of the page before", key)?;
    let tenant = query.tenant()?;
    let rows = query.rows(1000, 5000)?;
    let page = shared.service.page(&caller, after.as_ref(), tenant.as_ref(), rows).await?;
    Ok(Json(PageJson::of(&page, caller.sees_digests())).into_response())
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Query` reads one by one")]
pub struct ChangesParams {
    /// A position, `HISTORY:REVISION:MARK`. Default: the present one.
    after: Option<String>,
    /// Leaves other tenants out.
    tenant: Option<String>,
    /// How many changes to look at, at most; not for a stream. Default: 1000.
    #[param(minimum = 1, maximum = 5000)]
    rows: Option<u32>,
}

/// Reads the changes after a position, or follows them as server-sent events.
///
/// With `Accept: text/event-stream` the answer does not end: events are `credential`, `deleted`
/// and `tenant`, whose data is a `Change`, and `heartbeat`, whose data is a position. The `id` of an
/// event is the position up to which all was told; `Last-Event-ID` resumes there and goes before
/// `after`.
#[utoipa::path(
    get, path = "/v1/changes", tag = "following",
    params(
        ChangesParams,
        ("Last-Event-ID" = Option<String>, Header, description = "Where a stream goes on."),
    ),
    responses(
        (status = 200, description = "The changes, in order.", content(
            (ChangesJson = "application/json"), (String = "text/event-stream"))),
        (status = 410, description = "`changes_compacted` or `history_unknown`: list again"),
    )
)]
pub async fn read_changes(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    mut query: Query,
) -> Result<Response, Fault> {
    let wanted = "a position, HISTORY:REVISION:MARK";
    let streams = headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(stream::EVENT_STREAM)));
    let mut after = query.parsed("after", wanted, |text| text.parse::<Position>().ok())?;
    if let Some(last) = headers.get("last-event-id").filter(|_| streams) {
        let last = last.to_str().ok().and_then(|text| text.parse().ok());
        after =
            Some(last.ok_or_else(|| Fault::invalid("Last-Event-ID", format!("must be {wanted}")))?);
    }
    let tenant = query.tenant()?;
    let rows = query.rows(1000, 5000)?;
    // Seen before the changes are read, so that none is missed.
    let latest = shared.service.store().latest();
    let after = match after {
        Some(after) => after,
        None => shared.service.store().head().await.map_err(crate::admin::Problem::from)?.position,
    };
    let changes = shared.service.changes(&caller, &after, tenant.as_ref(), rows).await?;
    if streams {
        return Ok(Stream { shared, caller, tenant, latest }.start(changes));
    }
    Ok(Json(ChangesJson::of(&changes, caller.sees_digests())).into_response())
}

/// Finds the credential of a digest.
#[utoipa::path(
    get, path = "/v1/lookup/{digest}", tag = "following",
    params(("digest" = String, Path,
        description = "SHA-256 of the token: 64 hexadecimal digits, `sha256:` before them or not.")),
    responses(
        (status = 200, body = LookupJson, description = "Its row, and the head of that moment."),
        (status = 404, description = "`digest_unknown`, with the members of `Head`"),
    )
)]
pub async fn look_up(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Named(digest): Named,
) -> Result<Response, Fault> {
    let bare = digest.strip_prefix("sha256:").unwrap_or(&digest);
    let digest = TokenDigest::parse(&format!("sha256:{bare}"))
        .ok_or_else(|| Fault::invalid("digest", "must be 64 hexadecimal digits"))?;
    let (head, record) = shared.service.lookup(&caller, &digest).await?;
    let record = record.ok_or_else(|| Fault::digest_unknown(&head))?;
    let row = RowJson::of(&record.row(), caller.sees_digests());
    Ok(Json(LookupJson { head: (&head).into(), row }).into_response())
}

/// Reports what a replica has applied, and answers with what there is to apply.
#[utoipa::path(
    put, path = "/v1/replicas/{instance}", tag = "following",
    params(("instance" = String, Path, description = "Chosen at random by each process.")),
    request_body = ReportJson,
    responses(
        (status = 200, body = HeardJson, description = "The head, read after the report arrived.",
            headers(("Scim-Guard-Revision" = u64))),
        (status = 503, description = "`replicas_limited`, `store_failed`, with \
            `Retry-After`"),
    )
)]
pub async fn put_replica(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Named(instance): Named,
    payload: Payload,
) -> Result<Response, Fault> {
    let json: ReportJson = payload.read()?;
    let report = Report::try_from(&json)
        .map_err(|_| Fault::invalid("body", "holds a position, an id or a time that is none"))?;
    let heard = shared.service.report(&caller, &instance, report).await?;
    Ok(revised(heard.head.position.revision, Json(HeardJson::from(&heard))))
}

/// Takes a replica's leave: it decides nothing any more.
#[utoipa::path(
    delete, path = "/v1/replicas/{instance}", tag = "following",
    params(("instance" = String, Path)),
    responses((status = 204, description = "Forgotten, or never known.",
        headers(("Scim-Guard-Revision" = u64))))
)]
pub async fn delete_replica(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Named(instance): Named,
) -> Result<Response, Fault> {
    shared.service.deregister(&caller, &instance).await?;
    let revision = shared.service.store().latest().borrow().revision;
    Ok(revised(revision, StatusCode::NO_CONTENT))
}

/// Lists the replicas, and which have applied all there is.
#[utoipa::path(
    get, path = "/v1/replicas", tag = "following",
    responses((status = 200, body = ReplicasJson, description = "All that are known."))
)]
pub async fn list_replicas(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
) -> Result<Response, Fault> {
    let replicas = shared.service.replicas(&caller).await?;
    Ok(Json(ReplicasJson::from(&*replicas)).into_response())
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Query` reads one by one")]
pub struct ReceiptParams {
    /// How long to wait for it to be complete, such as `10s`; at most `60s`. Default: `0s`.
    wait: Option<String>,
}

/// Shows how far a change has come.
#[utoipa::path(
    get, path = "/v1/revisions/{n}/receipt", tag = "following",
    params(("n" = u64, Path, description = "The revision of the change."), ReceiptParams),
    responses(
        (status = 200, body = ReceiptJson, description = "The receipt, complete or not."),
        (status = 404, description = "`revision_unknown`: not made yet; `head` is the latest one"),
    )
)]
pub async fn show_receipt(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Named(revision): Named,
    mut query: Query,
) -> Result<Response, Fault> {
    let revision = revision.parse().map(Revision);
    let revision = revision.map_err(|_| Fault::invalid("n", "must be a whole number"))?;
    let wait = query.span("wait")?.unwrap_or_default().min(WAIT_MAX);
    query.end()?;
    let receipt = tokio::select! {
        receipt = shared.service.receipt(&caller, revision, wait) => receipt?,
        // We are leaving: as it is, rather than nothing.
        () = shared.stop.cancelled() => {
            shared.service.receipt(&caller, revision, Duration::ZERO).await?
        }
    };
    Ok(Json(ReceiptJson::from(&receipt)).into_response())
}

const WAIT_MAX: Duration = Duration::from_secs(60);

//! Changes as server-sent events. A stream waits for the store and never polls it for changes; it
//! ends when the token does, when we leave, and by itself after a while.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::Shared;
use crate::admin::{Caller, Problem};
use crate::credential::TenantId;
use crate::credential::feed::{Changes, Position};
use crate::source::wire::ChangeJson;

/// One follower.
pub struct Stream {
    pub shared: Arc<Shared>,
    pub caller: Caller,
    pub tenant: Option<TenantId>,
    /// As of before the first changes were read.
    pub latest: watch::Receiver<Position>,
}

impl Stream {
    /// The answer that begins with the first changes.
    pub fn start(self, first: Changes) -> Response {
        // One batch waits at most: who does not read is not read for.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let (shared, caller) = (Arc::clone(&self.shared), self.caller.clone());
            tokio::select! {
                biased;
                () = end(&shared, &caller) => {}
                () = sender.closed() => {}
                () = self.tell(first, &sender) => {}
            }
        });
        let mut response = Response::new(Body::new(Events(receiver)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    async fn tell(mut self, first: Changes, sender: &mpsc::Sender<Bytes>) {
        let mut text = events(&first, self.caller.sees_digests());
        let (mut position, mut head) = (first.position, first.head.position);
        if text.is_empty() {
            text = heartbeat(&position);
        }
        loop {
            if !text.is_empty() && sender.send(text.into()).await.is_err() {
                return;
            }
            let is_beat = position == head && !self.moved_within(self.shared.beat).await;
            let service = &self.shared.service;
            let tenant = self.tenant.as_ref();
            let changes = match service.changes(&self.caller, &position, tenant, BATCH).await {
                Ok(changes) => changes,
                // It asks again, and is told then.
                Err(Problem::Gone(_)) => return,
                Err(problem) => return tracing::warn!("a stream of changes ends: {problem:?}"),
            };
            text = events(&changes, self.caller.sees_digests());
            // What was left out has moved the position too, and a receipt may wait for that.
            if text.is_empty() && (is_beat || changes.position != position) {
                text = heartbeat(&changes.position);
            }
            (position, head) = (changes.position, changes.head.position);
        }
    }

    /// Whether the store changes before the time is over.
    async fn moved_within(&mut self, time: Duration) -> bool {
        match tokio::time::timeout(time, self.latest.changed()).await {
            Ok(Ok(())) => true,
            // The store is gone: heartbeats until we leave.
            Ok(Err(_)) => {
                tokio::time::sleep(time).await;
                false
            }
            Err(_) => false,
        }
    }
}

/// Comes when a stream must not go on.
async fn end(shared: &Shared, caller: &Caller) {
    let members = shared.service.members();
    let mut changes = members.changes();
    let watch = async {
        while members.holds(caller, &shared.service.clock().now()) {
            // A token's own end rings no bell.
            let _ = tokio::time::timeout(TOKEN_CHECK, changes.changed()).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = shared.stop.cancelled() => {}
        () = tokio::time::sleep(STREAM_TIME) => {}
    }
}

pub const EVENT_STREAM: &str = "text/event-stream";
/// Changes looked at in one go.
const BATCH: usize = 500;
const TOKEN_CHECK: Duration = Duration::from_secs(1);
const STREAM_TIME: Duration = Duration::from_secs(30 * 60);

/// The events of one batch. Only the last one has an id: whoever resumes there misses nothing.
fn events(changes: &Changes, with_digests: bool) -> String {
    let mut text = String::new();
    for (index, change) in changes.changes.iter().enumerate() {
        let json = ChangeJson::of(change, with_digests);
        let data = serde_json::to_string(&json).expect("plain values");
        let is_last = index + 1 == changes.changes.len();
        event(&mut text, json.event(), &data, is_last.then_some(&changes.position));
    }
    text
}

fn heartbeat(position: &Position) -> String {
    let Position { history, revision, mark } = position;
    let data = json!({
        "history": history.as_str(), "revision": revision.0, "mark": mark.to_string(),
    });
    let mut text = String::new();
    event(&mut text, "heartbeat", &data.to_string(), Some(position));
    text
}

fn event(text: &mut String, name: &str, data: &str, id: Option<&Position>) {
    if let Some(id) = id {
        writeln!(text, "id: {id}").expect("a string");
    }
    write!(text, "event: {name}\ndata: {data}\n\n").expect("a string");
}

/// The body: what the stream's task sends.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

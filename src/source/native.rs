//! The native admin API of another process, followed over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Answer, Client, date_of};
use super::wire::{ChangeJson, ChangesJson, HeadJson, HeardJson, LookupJson, PageJson, ReportJson};
use super::{Feed, FeedError};
use crate::clock::Clock;
use crate::config;
use crate::credential::TokenDigest;
use crate::credential::feed::{
    Change, Changes, Gone, Head, Heard, Page, PageKey, Position, Report, Row,
};
use crate::telemetry::metrics::Metrics;

pub struct Native {
    client: Client,
    instance: String,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Native {
    /// Fails if the certificates of `ca` cannot be read.
    pub fn new(
        config: &config::Native,
        instance: String,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let client = Client::new(config.url.clone(), config.token.clone(), config.ca.as_deref())?;
        Ok(Self { client, instance, clock, metrics })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, FeedError> {
        let answer = self.send(method, target, body).await?;
        if !answer.is_success() {
            return Err(self.complaint(&answer));
        }
        self.read(&answer.body)
    }

    /// The clocks are compared when the head of an answer has come: its body may take a while.
    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Answer, FeedError> {
        let heard = |headers: &HeaderMap| self.witness(headers);
        let sent = self.client.send_hearing(method, target, body, heard).await;
        sent.map_err(FeedError::Unreachable)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, FeedError> {
        serde_json::from_slice(body).map_err(|error| self.malformed(error))
    }

    fn malformed(&self, what: impl std::fmt::Display) -> FeedError {
        FeedError::Unreachable(format!("{}: no answer of an admin API: {what}", self.client.url()))
    }

    fn unfit(&self) -> FeedError {
        self.malformed("a value does not have its form")
    }

    fn complaint(&self, answer: &Answer) -> FeedError {
        let text = format!("{}: {}", self.client.url(), answer.complaint());
        match answer.status {
            StatusCode::GONE if answer.code().as_deref() == Some("changes_compacted") => {
                FeedError::Gone(Gone::Compacted)
            }
            StatusCode::GONE => FeedError::Gone(Gone::Unknown),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FeedError::Refused(text),
            _ => FeedError::Unreachable(text),
        }
    }

    /// Compares the clocks.
    fn witness(&self, headers: &HeaderMap) {
        if let Some(date) = date_of(headers) {
            let ahead = self.clock.witness(date);
            self.metrics.clock_skew.set(ahead as f64 / 1e3);
        }
    }
}

#[async_trait]
impl Feed for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn report(&self, report: &Report) -> Result<Heard, FeedError> {
        let body = json!(ReportJson::from(report));
        let target = format!("/v1/replicas/{}", self.instance);
        let heard: HeardJson = self.ask(Method::PUT, &target, Some(&body)).await?;
        Heard::try_from(&heard).map_err(|_| self.unfit())
    }

    async fn leave(&self) -> Result<(), FeedError> {
        let target = format!("/v1/replicas/{}", self.instance);
        let answer = self.send(Method::DELETE, &target, None).await?;
        if answer.is_success() { Ok(()) } else { Err(self.complaint(&answer)) }
    }

    async fn page(&self, after: Option<&PageKey>) -> Result<Page, FeedError> {
        let target = match after {
            Some((tenant, id)) => format!("/v1/table?after={tenant}:{id}"),
            None => "/v1/table".to_owned(),
        };
        let page: PageJson = self.ask(Method::GET, &target, None).await?;
        Page::try_from(&page).map_err(|_| self.unfit())
    }

    async fn changes(&self, after: &Position) -> Result<Changes, FeedError> {
        let target = format!("/v1/changes?after={after}");
        let changes: ChangesJson = self.ask(Method::GET, &target, None).await?;
        Changes::try_from(&changes).map_err(|_| self.unfit())
    }

    async fn stream(
        &self,
        after: &Position,
        sink: &mpsc::Sender<(Position, Changes)>,
    ) -> FeedError {
        let target = format!("/v1/changes?after={after}");
        let opened = self.client.open(Method::GET, &target, None, "text/event-stream");
        let response = match tokio::time::timeout(OPEN_TIME, opened).await {
            Ok(Ok(response)) => response,
            Ok(Err(what)) => return FeedError::Unreachable(what),
            Err(_) => return self.malformed("no stream within 5 s"),
        };
        let (parts, body) = response.into_parts();
        self.witness(&parts.headers);
        if !parts.status.is_success() {
            let body = http_body_util::Limited::new(body, COMPLAINT_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return self.complaint(&Answer { status: parts.status, headers: parts.headers, body });
        }
        self.pass_on(body, after.clone(), sink).await
    }

    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Row>), FeedError> {
        let answer = self.send(Method::GET, &format!("/v1/lookup/{digest}"), None).await?;
        let fit = |head: &HeadJson| Head::try_from(head).map_err(|_| self.unfit());
        match answer.status {
            StatusCode::NOT_FOUND => Ok((fit(&self.read::<HeadJson>(&answer.body)?)?, None)),
            status if status.is_success() => {
                let LookupJson { head, row } = self.read(&answer.body)?;
                Ok((fit(&head)?, Some(Row::try_from(&row).map_err(|_| self.unfit())?)))
            }
            _ => Err(self.complaint(&answer)),
        }
    }
}

impl Native {
    /// Passes batches on as they come: all events up to one with an id.
    async fn pass_on(
        &self,
        mut body: Incoming,
        mut after: Position,
        sink: &mpsc::Sender<(Position, Changes)>,
    ) -> FeedError {
        let mut batches = Batches::default();
        loop {
            let bytes = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    return self.malformed(format!("the stream broke: {error}"));
                }
                Ok(None) => return self.malformed("the stream has ended"),
                Err(_) => return self.malformed("the stream is silent"),
            };
            batches.push(&bytes);
            loop {
                let (changes, position) = match batches.next() {
                    Ok(Some(batch)) => batch,
                    Ok(None) => break,
                    Err(Unread::TooLong) => return self.malformed("an event is too long"),
                    Err(Unread::Unfit) => return self.unfit(),
                };
                let from = std::mem::replace(&mut after, position.clone());
                let head = Head {
                    position: position.clone(),
                    disputed: false,
                    accepts: Vec::new(),
                    began: self.clock.now().wall,
                };
                let changes = Changes { changes, position, head };
                if sink.send((from, changes)).await.is_err() {
                    return self.malformed("nobody listens any more");
                }
            }
        }
    }
}

/// Changes out of pieces of a stream: all up to one with an id, which names the position behind it.
#[derive(Default)]
pub struct Batches {
    events: Events,
    changes: Vec<Change>,
}

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// An event that is longer than any of ours.
    TooLong,
    /// A value does not have its form.
    Unfit,
}

impl Batches {
    pub fn push(&mut self, bytes: &[u8]) {
        self.events.buffer.extend_from_slice(bytes);
    }

    /// The next whole batch, if one has come.
    #[expect(clippy::should_implement_trait, reason = "more may come after none")]
    pub fn next(&mut self) -> Result<Option<(Vec<Change>, Position)>, Unread> {
        while let Some(event) = self.events.next()? {
            if event.name != "heartbeat" {
                let change = serde_json::from_str::<ChangeJson>(&event.data).ok();
                match change.and_then(|change| (&change).try_into().ok()) {
                    Some(change) => self.changes.push(change),
                    // A kind of change that only a later version knows.
                    None if !KNOWN.contains(&event.name.as_str()) => {}
                    None => return Err(Unread::Unfit),
                }
            }
            if let Some(id) = event.id {
                let position = id.parse().map_err(|_| Unread::Unfit)?;
                return Ok(Some((std::mem::take(&mut self.changes), position)));
            }
        }
        Ok(None)
    }
}

/// Server-sent events out of pieces of a stream (WHATWG HTML section 9.2), as far as the admin API
/// uses them.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct SentEvent {
    name: String,
    data: String,
    id: Option<String>,
}

impl Events {
    /// The next whole event; comments alone are none.
    fn next(&mut self) -> Result<Option<SentEvent>, Unread> {
        loop {
            let Some(end) = memchr::memmem::find(&self.buffer, b"\n\n") else {
                let endless = self.buffer.len() > EVENT_BYTES_MAX;
                return if endless { Err(Unread::TooLong) } else { Ok(None) };
            };
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let mut sent = SentEvent::default();
            for line in text.lines() {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "event" => sent.name = value.to_owned(),
                    "data" => sent.data += value,
                    "id" => sent.id = Some(value.to_owned()),
                    _ => {}
                }
            }
            if sent != SentEvent::default() {
                return Ok(Some(sent));
            }
        }
    }
}

const KNOWN: [&str; 3] = ["credential", "deleted", "tenant"];
const OPEN_TIME: Duration = Duration::from_secs(5);
/// Three heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const EVENT_BYTES_MAX: usize = 1 << 20;
const COMPLAINT_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = b": hello\n\nevent: credential\ndata: {\"a\":1}\n\nevent: heartbeat\ndata: {}\nid: h:1:00\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut read = Vec::new();
            for piece in text.chunks(size) {
                events.buffer.extend_from_slice(piece);
                while let Some(event) = events.next().expect("short") {
                    read.push(event);
                }
            }
            assert_eq!(read.len(), 2, "in pieces of {size}");
            assert_eq!((&*read[0].name, &*read[0].data), ("credential", "{\"a\":1}"));
            assert_eq!((&read[0].id, read[1].id.as_deref()), (&None, Some("h:1:00")));
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut batches = Batches::default();
        batches.push(&vec![b'x'; EVENT_BYTES_MAX + 1]);
        assert_eq!(batches.next(), Err(Unread::TooLong));
    }
}

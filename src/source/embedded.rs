//! The admin API of this very process, followed by direct calls: the same follower, the same lease.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Feed, FeedError};
use crate::clock::Clock;
use crate::credential::TokenDigest;
use crate::credential::feed::{Changes, Head, Heard, Page, PageKey, Position, Report, Row};
use crate::store::replicas::Replicas;
use crate::store::{Failed, Record, Store};

pub struct Embedded {
    name: &'static str,
    /// Whether nothing is known before every mirror has read its cloud.
    waits: bool,
    store: Arc<dyn Store>,
    replicas: Arc<Replicas>,
    clock: Clock,
}

impl Embedded {
    pub fn new(store: Arc<dyn Store>, replicas: Arc<Replicas>, clock: Clock) -> Self {
        Self { name: "embedded", waits: false, store, replicas, clock }
    }

    /// Of a store that holds nothing but what a cloud's mirror puts there. Before that has read its
    /// cloud nobody can say who is to be let in, and who is not.
    pub fn of_cloud(
        name: &'static str,
        store: Arc<dyn Store>,
        replicas: Arc<Replicas>,
        clock: Clock,
    ) -> Self {
        Self { name, waits: true, store, replicas, clock }
    }
}

impl From<Failed> for FeedError {
    fn from(failed: Failed) -> Self {
        Self::Unreachable(failed.0)
    }
}

#[async_trait]
impl Feed for Embedded {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn report(&self, report: &Report) -> Result<Heard, FeedError> {
        let now = self.clock.now();
        if self.waits && self.replicas.lags.at(&now).iter().any(|lag| lag.age.is_none()) {
            return Err(FeedError::Unreachable("it was not read yet".to_owned()));
        }
        Ok(self.replicas.report(INSTANCE, report.clone(), &now).await?)
    }

    async fn leave(&self) -> Result<(), FeedError> {
        Ok(self.replicas.remove(INSTANCE).await?)
    }

    async fn page(&self, after: Option<&PageKey>) -> Result<Page, FeedError> {
        Ok(self.store.page(after, None, PAGE_ROWS).await?)
    }

    async fn changes(&self, after: &Position) -> Result<Changes, FeedError> {
        self.store.changes(after, None, BATCH).await?.map_err(FeedError::Gone)
    }

    async fn stream(
        &self,
        after: &Position,
        sink: &mpsc::Sender<(Position, Changes)>,
    ) -> FeedError {
        let mut latest = self.store.latest();
        let mut after = after.clone();
        loop {
            latest.borrow_and_update();
            let changes = match self.changes(&after).await {
                Ok(changes) => changes,
                Err(why) => return why,
            };
            let whole = changes.position == changes.head.position;
            let from = std::mem::replace(&mut after, changes.position.clone());
            if from != after && sink.send((from, changes)).await.is_err() {
                return FeedError::Unreachable("nobody listens any more".to_owned());
            }
            if whole && latest.changed().await.is_err() {
                return FeedError::Unreachable("the store is closed".to_owned());
            }
        }
    }

    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Row>), FeedError> {
        let (head, record) = self.store.lookup(digest).await?;
        Ok((head, record.as_ref().map(Record::row)))
    }
}

/// The store is locked for one process at a time, so the next one takes over the lease of one that
/// was killed: nobody else is left to wait for.
const INSTANCE: &str = "embedded";
/// Rows a page and changes a batch: what is read at a time.
const PAGE_ROWS: usize = 10_000;
const BATCH: usize = 1_000;

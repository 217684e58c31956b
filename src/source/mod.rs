//! Where credentials come from. A source reads and understands; it never decides and never
//! changes the table.

pub mod alibaba;
pub mod client;
pub mod cloud;
pub mod embedded;
pub mod enrolment;
pub mod file;
pub mod native;
pub mod tencent;
pub mod watch;
pub mod wire;

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::credential::feed::{Changes, Gone, Head, Heard, Page, PageKey, Position, Report, Row};
use crate::credential::{Credential, TokenDigest};

/// All the credentials that a source knows.
pub type Listing = Vec<Credential>;

/// An admin API that can be followed: it numbers its changes, and counts those who follow.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// What metrics and logs call it.
    fn name(&self) -> &'static str;

    /// Tells what is applied here; the answer is read after the report has arrived.
    async fn report(&self, report: &Report) -> Result<Heard, FeedError>;

    /// Says that nothing is decided here any more.
    async fn leave(&self) -> Result<(), FeedError>;

    async fn page(&self, after: Option<&PageKey>) -> Result<Page, FeedError>;

    async fn changes(&self, after: &Position) -> Result<Changes, FeedError>;

    /// Tells changes as they are made, each batch with the position that it follows on, until
    /// something ends it. A batch without changes moves the position on.
    async fn stream(&self, after: &Position, sink: &mpsc::Sender<(Position, Changes)>)
    -> FeedError;

    /// The row of a digest.
    async fn lookup(&self, digest: &TokenDigest) -> Result<(Head, Option<Row>), FeedError>;
}

/// Why a feed gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// It does not tell what follows on the position.
    Gone(Gone),
    /// It does not take our token for this.
    Refused(String),
    Unreachable(String),
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(Gone::Compacted) => f.write_str("the changes since are thrown away"),
            Self::Gone(Gone::Unknown) => f.write_str("the store has never been at this position"),
            Self::Refused(what) | Self::Unreachable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for FeedError {}

//! Runs a follower against a feed, on a thread of its own: asks what it wants asked, and tells it
//! what has come of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::follow::{Ask, Event, Follower, Terms};
use super::{Answer, Inquiry};
use crate::clock::Clock;
use crate::credential::TokenDigest;
use crate::credential::feed::Position;
use crate::source::{Feed, FeedError};

/// A follower at work.
pub struct Driver {
    terms: mpsc::UnboundedSender<Terms>,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Driver {
    /// Starts to follow; `wanted` are the tokens that workers ask for.
    pub fn start(
        feed: Arc<dyn Feed>,
        follower: Follower,
        clock: Clock,
        wanted: mpsc::Receiver<Inquiry>,
    ) -> Self {
        let (terms, new_terms) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (events, _) = mpsc::channel(1);
            let desk = Desk {
                feed,
                follower,
                clock,
                events,
                asking: HashMap::new(),
                stream: None,
                failing: false,
            };
            runtime.expect("a runtime can be built").block_on(desk.run(wanted, new_terms, stopped));
        };
        let thread = std::thread::Builder::new().name("follower".into()).spawn(work);
        Self { terms, stop, thread: thread.expect("a thread can be started") }
    }

    pub fn reconfigure(&self, terms: Terms) {
        // It ends only with us.
        let _ = self.terms.send(terms);
    }

    /// Ends it, and says goodbye to the admin API: nothing may be decided here any more.
    pub fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the follower has panicked");
        }
    }
}

struct Desk {
    feed: Arc<dyn Feed>,
    follower: Follower,
    clock: Clock,
    /// Where answers come in.
    events: mpsc::Sender<Event>,
    /// Who waits for news of which token.
    asking: HashMap<TokenDigest, Vec<Inquiry>>,
    stream: Option<AbortHandle>,
    /// Whether the last report got no answer.
    failing: bool,
}

impl Desk {
    async fn run(
        mut self,
        mut wanted: mpsc::Receiver<Inquiry>,
        mut terms: mpsc::UnboundedReceiver<Terms>,
        stopped: CancellationToken,
    ) {
        let (events, mut inbox) = mpsc::channel(256);
        self.events = events;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut census = tokio::time::interval(CENSUS);
        loop {
            let event = tokio::select! {
                Some(event) = inbox.recv() => event,
                Some(inquiry) = wanted.recv() => match self.admit(inquiry) {
                    Some(event) => event,
                    None => continue,
                },
                Some(terms) = terms.recv() => {
                    self.follower.reconfigure(terms);
                    continue;
                }
                _ = census.tick() => {
                    self.follower.take_census(&self.clock.now());
                    continue;
                }
                _ = ticks.tick() => Event::Tick,
                () = stopped.cancelled() => break,
            };
            if let Event::Reported(reply) = &event {
                self.tell(reply.as_ref().err());
            }
            for ask in self.follower.step(event, &self.clock.now()) {
                self.perform(ask);
            }
        }
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
        match tokio::time::timeout(LEAVE_TIME, self.leave(&mut inbox)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!("cannot say goodbye to the admin API: {why}"),
            Err(_) => tracing::warn!("cannot say goodbye to the admin API in time"),
        }
    }

    /// Tells what there is to tell, and that this was all.
    async fn leave(&mut self, inbox: &mut mpsc::Receiver<Event>) -> Result<(), FeedError> {
        // A report that arrives after the goodbye would be taken for a new replica's.
        while self.follower.is_reporting()
            && inbox.recv().await.is_some_and(|event| !matches!(event, Event::Reported(_)))
        {
        }
        let mut told = Ok(());
        for report in self.follower.last_reports() {
            told = told.and(self.feed.report(&report).await.map(drop));
        }
        told.and(self.feed.leave().await)
    }

    /// Notes who asks; one question a token goes out.
    fn admit(&mut self, inquiry: Inquiry) -> Option<Event> {
        let digest = inquiry.digest;
        if let Some(waiting) = self.asking.get_mut(&digest) {
            waiting.push(inquiry);
            return None;
        }
        if self.asking.len() >= FLIGHTS_MAX {
            // Whoever asked is told by the channel's end.
            return None;
        }
        self.asking.insert(digest, vec![inquiry]);
        Some(Event::Wanted(digest))
    }

    fn perform(&mut self, ask: Ask) {
        let (feed, events) = (Arc::clone(&self.feed), self.events.clone());
        match ask {
            Ask::Report(report) => self.spawn(async move {
                let reply = within(REPORT_TIME, feed.report(&report)).await;
                Event::Reported(reply)
            }),
            Ask::Page { ticket, after } => self.spawn(async move {
                let reply = within(PAGE_TIME, feed.page(after.as_ref())).await;
                Event::Page { ticket, reply }
            }),
            Ask::Poll { ticket, after } => self.spawn(async move {
                let reply = within(PAGE_TIME, feed.changes(&after)).await;
                Event::Polled { ticket, after, reply }
            }),
            Ask::Lookup(digest) => self.spawn(async move {
                let reply = within(LOOKUP_TIME, feed.lookup(&digest)).await;
                Event::LookedUp { digest, reply }
            }),
            Ask::Stream { ticket, after } => {
                let stream = tokio::spawn(follow(feed, events, ticket, after));
                if let Some(old) = self.stream.replace(stream.abort_handle()) {
                    old.abort();
                }
            }
            Ask::Answer(digest, answer) => {
                let inquiries = self.asking.remove(&digest).unwrap_or_default();
                if let Some(first) = inquiries.first().filter(|_| answer == Answer::Unknown) {
                    self.follower.applier().authority().note_unknown(first);
                }
                for inquiry in inquiries {
                    // A client that has gone away waits no more.
                    let _ = inquiry.answer.send(answer);
                }
            }
        }
    }

    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let event = work.await;
            // It fails only at the end, when nobody wants to know.
            let _ = events.send(event).await;
        });
    }

    /// Says once that reports fail, and once that they work again.
    fn tell(&mut self, failure: Option<&FeedError>) {
        let name = self.feed.name();
        let up = &self.follower.applier().authority().metrics.source_up;
        up.with_label_values(&[name]).set(i64::from(failure.is_none()));
        match failure {
            Some(why) if !std::mem::replace(&mut self.failing, true) => {
                tracing::error!(source = name, "the admin API does not answer: {why}");
            }
            None if std::mem::take(&mut self.failing) => {
                tracing::info!(source = name, "the admin API answers again");
            }
            _ => {}
        }
    }
}

/// Passes a stream on until it ends.
async fn follow(feed: Arc<dyn Feed>, events: mpsc::Sender<Event>, ticket: u64, after: Position) {
    let (sink, mut batches) = mpsc::channel(16);
    let told = async {
        let why = feed.stream(&after, &sink).await;
        drop(sink);
        why
    };
    let passed = async {
        while let Some((after, changes)) = batches.recv().await {
            let _ = events.send(Event::Streamed { ticket, after, changes }).await;
        }
    };
    let (why, ()) = tokio::join!(told, passed);
    tracing::debug!("the stream of changes has ended: {why}");
    let _ = events.send(Event::StreamEnded { ticket, why }).await;
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, FeedError>>,
) -> Result<T, FeedError> {
    let late = |_| Err(FeedError::Unreachable(format!("no answer within {time:?}")));
    tokio::time::timeout(time, work).await.unwrap_or_else(late)
}

const TICK: Duration = Duration::from_millis(100);
const CENSUS: Duration = Duration::from_secs(30);
const REPORT_TIME: Duration = Duration::from_secs(5);
const PAGE_TIME: Duration = Duration::from_secs(60);
const LOOKUP_TIME: Duration = Duration::from_millis(1500);
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// Tokens asked for at a time.
const FLIGHTS_MAX: usize = 64;

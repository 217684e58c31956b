//! One machine with a proxy on it, and what is on its way between the proxy and the admin API.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::authority::follow::{Ask, Event, Follower, Terms};
use crate::authority::{Access, Answer, Applier, Authority};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::credential::feed::{Changes, Head, Position, Report};
use crate::credential::{CredentialId, TokenDigest};
use crate::gate::{Gate, Permit};
use crate::source::FeedError;
use crate::telemetry::metrics::Metrics;

use super::truth::Sight;

pub struct Machine {
    pub name: String,
    pub clock: Clock,
    /// Whether the network between it and the admin API is cut.
    pub cut: bool,
    /// Since when its wall clock is wrong.
    pub astray: Option<Timestamp>,
    pub proxy: Option<Proxy>,
    /// How many processes have run on it.
    processes: u32,
}

pub struct Proxy {
    pub instance: String,
    pub follower: Follower,
    pub gate: Gate,
    /// Questions without an answer, in the order in which they were asked.
    pub exchanges: Vec<Exchange>,
    /// The last one is the one that it listens to; of earlier ones something may still come.
    pub streams: Vec<Stream>,
    pub requests: Vec<Request>,
    /// Answers that came, and may come again.
    pub echoes: Vec<Event>,
    /// When its reports and listings were sent, and with what they were answered.
    pub reads: Vec<(Timestamp, Head)>,
}

/// A question, and where it is.
pub struct Exchange {
    pub ask: Ask,
    pub sent: Timestamp,
    pub leg: Leg,
}

pub enum Leg {
    Going,
    /// With the admin API's time as of the answer.
    Coming(Event, Timestamp),
}

pub struct Stream {
    pub ticket: u64,
    /// Where the admin API's side is; none once that has ended.
    pub at: Option<Position>,
    pub batches: VecDeque<Batch>,
}

pub enum Batch {
    Told(Position, Changes),
    Ended(FeedError),
}

/// A request of a client that waits for something.
pub struct Request {
    pub id: CredentialId,
    pub access: Access,
    pub begun: Timestamp,
    /// Whether the store had its token good all the time.
    pub live: bool,
    pub waits: Waits,
}

pub enum Waits {
    ForLookup,
    /// For a connection.
    With(Permit),
}

impl Machine {
    pub fn new(name: String, start: Timestamp) -> Self {
        let clock = Clock::manual(start);
        Self { name, clock, cut: false, astray: None, proxy: None, processes: 0 }
    }

    /// Sets its wall clock right.
    pub fn set_right(&mut self, now: Timestamp) {
        self.clock.set_wall(now);
        self.astray = None;
    }

    pub fn start(&mut self, config: &Config, metrics: &Arc<Metrics>) {
        self.processes += 1;
        let authority = Authority::new(&config.credentials, Arc::clone(metrics));
        let gate = Gate::new(authority.seat(), self.clock.clone());
        let applier = Applier::new(authority, Box::new(|| {}));
        let terms = Terms::new(self.name.clone(), &config.credentials);
        self.proxy = Some(Proxy {
            instance: format!("{}-{}", self.name, self.processes),
            follower: Follower::new(applier, terms, &self.clock.now()),
            gate,
            exchanges: Vec::new(),
            streams: Vec::new(),
            requests: Vec::new(),
            echoes: Vec::new(),
            reads: Vec::new(),
        });
    }
}

impl Proxy {
    /// Tells the follower what has happened; gives the answers about tokens.
    pub fn tell(
        &mut self,
        event: Event,
        clock: &Clock,
        sent: Timestamp,
    ) -> Vec<(TokenDigest, Answer)> {
        let mut answers = Vec::new();
        for ask in self.follower.step(event, &clock.now()) {
            match ask {
                Ask::Answer(digest, answer) => answers.push((digest, answer)),
                Ask::Stream { ticket, after } => {
                    self.streams.retain(|stream| !stream.batches.is_empty());
                    self.streams.iter_mut().for_each(|stream| stream.at = None);
                    let batches = VecDeque::new();
                    self.streams.push(Stream { ticket, at: Some(after), batches });
                }
                ask => self.exchanges.push(Exchange { ask, sent, leg: Leg::Going }),
            }
        }
        answers
    }

    pub fn with_sight<T>(&self, look: impl FnOnce(&Sight<'_>) -> T) -> T {
        look(&Sight { instance: &self.instance, held: self.follower.held(), reads: &self.reads })
    }

    /// Whether the stream at an index is the one that is listened to.
    pub fn is_latest(&self, stream: usize) -> bool {
        stream + 1 == self.streams.len()
    }
}

/// How long the driver waits for an answer.
pub fn patience(ask: &Ask) -> Duration {
    match ask {
        Ask::Report(_) => Duration::from_secs(5),
        Ask::Lookup(_) => Duration::from_millis(1500),
        _ => Duration::from_secs(60),
    }
}

/// What the driver tells when it has waited in vain.
pub fn in_vain(ask: &Ask) -> Event {
    let why = || FeedError::Unreachable("no answer".to_owned());
    match ask {
        Ask::Report(_) => Event::Reported(Err(why())),
        Ask::Page { ticket, .. } => Event::Page { ticket: *ticket, reply: Err(why()) },
        Ask::Poll { ticket, after } => {
            Event::Polled { ticket: *ticket, after: after.clone(), reply: Err(why()) }
        }
        Ask::Lookup(digest) => Event::LookedUp { digest: *digest, reply: Err(why()) },
        Ask::Stream { .. } | Ask::Answer(..) => unreachable!("no exchange"),
    }
}

/// A report that arrives after its sender has given up.
pub struct Stray {
    pub instance: String,
    pub report: Report,
}

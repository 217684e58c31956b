//! Follows an admin API: registers, lists, follows its changes, and reports what is applied.
//!
//! A machine of steps: it is told what has happened and when, changes the table through the
//! [`Applier`], and says what to ask for next. It does no I/O, so a simulation can drive it.
//!
//! Four rules make it safe. The table is the store's state at the position that is reported, and
//! goes on only by what follows on that very position. It counts as fresh as of the *sending* of
//! the last report whose answered head it has applied. A row's own revision decides between what
//! comes late and what is here. And a store whose present does not follow from what we hold is
//! *disputed*: only what takes rights away is taken from it, until an operator accepts it.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::listing::{Listing, Needs};
use super::{Answer, Applier, Confirmation};
use crate::clock::{Now, Timestamp, Uptime};
use crate::config::Credentials;
use crate::credential::feed::{
    Change, Changes, Gone, Head, Heard, History, Page, PageKey, Position, REPORT_INTERVAL_MAX,
    Report, Row, TenantRow, Use,
};
use crate::credential::{Credential, Expiry, Revision, Status, TokenDigest};
use crate::guards::{Guard, off};
use crate::source::FeedError;

/// What has happened. Answers carry the ticket of their question.
#[derive(Debug)]
pub enum Event {
    Tick,
    Reported(Result<Heard, FeedError>),
    Page {
        ticket: u64,
        reply: Result<Page, FeedError>,
    },
    Polled {
        ticket: u64,
        after: Position,
        reply: Result<Changes, FeedError>,
    },
    /// A stream has told changes that follow on `after`, or that there are none up to a position.
    Streamed {
        ticket: u64,
        after: Position,
        changes: Changes,
    },
    StreamEnded {
        ticket: u64,
        why: FeedError,
    },
    /// A worker wants to know of a token.
    Wanted(TokenDigest),
    LookedUp {
        digest: TokenDigest,
        reply: Result<(Head, Option<Row>), FeedError>,
    },
}

/// What to do next. Each question but a stream's is answered once.
#[derive(Clone, Debug)]
pub enum Ask {
    Report(Report),
    Page {
        ticket: u64,
        after: Option<PageKey>,
    },
    Poll {
        ticket: u64,
        after: Position,
    },
    /// Ends an earlier stream.
    Stream {
        ticket: u64,
        after: Position,
    },
    Lookup(TokenDigest),
    Answer(TokenDigest, Answer),
}

/// How a follower is to behave.
#[derive(Clone, Debug)]
pub struct Terms {
    /// A label for people.
    pub name: String,
    pub refresh: Duration,
    pub max_stale: Duration,
    /// A history that the config lets in.
    pub accept_history: Option<History>,
}

impl Terms {
    pub fn new(name: String, config: &Credentials) -> Self {
        let native = config.native.as_ref();
        Self {
            name,
            refresh: config.refresh.0,
            max_stale: config.max_stale.reads.0.max(config.max_stale.writes.0),
            accept_history: native.and_then(|native| native.accept_history.as_ref()?.parse().ok()),
        }
    }

    /// Time between two reports: some of them may be lost before an unknown token is 503.
    fn report_interval(&self) -> Duration {
        (self.refresh / 3).min(REPORT_INTERVAL_MAX)
    }
}

pub struct Follower {
    applier: Applier,
    terms: Terms,
    /// What the table is; none before the first listing.
    held: Option<Position>,
    /// Up to where the store was followed. It is `held`, except in a dispute.
    cursor: Option<Position>,
    disputed: bool,
    survey: Option<Survey>,
    /// When the last whole listing began.
    listed: Option<Uptime>,
    poll: Option<u64>,
    polled: Option<Uptime>,
    /// Whether the store has denied to know what we hold.
    lost: bool,
    stream: Stream,
    /// The report under way: when it was sent, the position told, and how many uses.
    reporting: Option<Sent>,
    report_due: Option<Uptime>,
    /// Whether something was applied since the last report.
    unreported: bool,
    /// A report whose answered head is not applied yet.
    unconfirmed: Option<(Arc<Confirmation>, Position)>,
    /// A report whose answered head was passed without standing on it.
    passed: Option<(Arc<Confirmation>, Revision)>,
    failures: u32,
    /// Uses that are to be reported.
    unsaid: Vec<Use>,
    /// Uses from here on are not among them yet.
    used_from: Timestamp,
    would_revive: Vec<PageKey>,
    awaited: Vec<Awaited>,
    /// Of the last poll after which there was nothing more to be had.
    caught_up: u64,
    tickets: u64,
}

/// A token that the store knows by a change which is not here yet.
struct Awaited {
    digest: TokenDigest,
    revision: Revision,
    /// The last ticket that was given out before. A later poll brings the change.
    since: u64,
}

/// A report that is not answered yet, and what it told.
struct Sent {
    at: Now,
    applied: Option<Position>,
    max_stale: Duration,
    uses: usize,
}

/// A listing under way.
struct Survey {
    /// Of the question that is open.
    ticket: u64,
    purpose: Purpose,
    begun: Uptime,
    /// What was held when it began.
    held: Option<Position>,
    listing: Listing,
    /// Whether all of it is there, and only the store's word is missing that it knows what is held.
    whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The first table, or another one in place of what is held.
    Rebase,
    /// To be merged with what is here.
    Refresh,
    /// To take away what it takes away.
    Restrict,
}

#[derive(Default)]
struct Stream {
    /// Of the one that is open.
    ticket: Option<u64>,
    retry: Option<Uptime>,
    failures: u32,
}

impl Stream {
    fn close(&mut self, now: &Now) {
        self.ticket = None;
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now.boot.plus(backoff(self.failures)));
    }
}

/// How a store's head relates to what is held.
#[derive(Debug, PartialEq, Eq)]
enum Relation {
    /// Nothing is held.
    First,
    Successor,
    /// Another history, which an operator has put in the place of ours.
    Accepted,
    /// It does not follow from what we hold.
    Rewound,
}

impl Follower {
    pub fn new(applier: Applier, terms: Terms, now: &Now) -> Self {
        Self {
            applier,
            terms,
            held: None,
            cursor: None,
            disputed: false,
            survey: None,
            listed: None,
            poll: None,
            polled: None,
            lost: false,
            stream: Stream::default(),
            reporting: None,
            report_due: None,
            unreported: true,
            unconfirmed: None,
            passed: None,
            failures: 0,
            unsaid: Vec::new(),
            used_from: now.wall,
            would_revive: Vec::new(),
            awaited: Vec::new(),
            caught_up: 0,
            tickets: 0,
        }
    }

    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// What the table is.
    pub fn held(&self) -> Option<&Position> {
        self.held.as_ref()
    }

    pub fn reconfigure(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Takes one event, and says what to do next.
    pub fn step(&mut self, event: Event, now: &Now) -> Vec<Ask> {
        let mut asks = Vec::new();
        match event {
            Event::Tick => {}
            Event::Reported(reply) => self.reported(reply, now, &mut asks),
            Event::Page { ticket, reply } if self.surveys(ticket) => {
                self.listed(reply, Listing::add_page, now, &mut asks);
            }
            Event::Polled { ticket, reply, .. } if self.surveys(ticket) => {
                if self.survey.as_ref().is_some_and(|survey| survey.whole) {
                    self.vouched(reply, now);
                } else {
                    self.listed(reply, Listing::add_changes, now, &mut asks);
                }
            }
            Event::Polled { ticket, after, reply } if self.poll == Some(ticket) => {
                self.poll = None;
                self.polled(&after, reply, now, &mut asks);
                if self.poll.is_none() {
                    self.caught_up = ticket;
                }
            }
            Event::Streamed { ticket, after, changes } if self.stream.ticket == Some(ticket) => {
                self.stream.failures = 0;
                if !self.take(&after, changes, now) {
                    self.stream.close(now);
                }
            }
            Event::StreamEnded { ticket, why } if self.stream.ticket == Some(ticket) => {
                self.stream_ended(why, now, &mut asks);
            }
            Event::Page { .. }
            | Event::Polled { .. }
            | Event::Streamed { .. }
            | Event::StreamEnded { .. } => {}
            Event::Wanted(digest) => asks.push(match self.held {
                Some(_) if !self.disputed => Ask::Lookup(digest),
                _ => Ask::Answer(digest, Answer::Undecided),
            }),
            Event::LookedUp { digest, reply } => self.looked_up(digest, reply, &mut asks),
        }
        self.answer_awaited(&mut asks);
        self.go_on(now, &mut asks);
        asks
    }

    /// Asks for what is due.
    fn go_on(&mut self, now: &Now, asks: &mut Vec<Ask>) {
        let due = self.report_due.is_none_or(|due| due <= now.boot);
        if self.reporting.is_none() && (due || (self.unreported && self.failures == 0)) {
            self.report(now, asks);
        }
        let Some(cursor) = self.cursor.clone().filter(|_| self.survey.is_none()) else { return };
        let passed =
            |then: Option<Uptime>, span| then.is_none_or(|then| now.boot.since(then) >= span);
        if passed(self.listed, RELIST) {
            let purpose = if self.disputed { Purpose::Restrict } else { Purpose::Refresh };
            return self.list(purpose, now, asks);
        }
        let due = passed(self.polled, self.terms.refresh) || !self.awaited.is_empty();
        if self.poll.is_none() && due {
            self.ask_changes(cursor.clone(), now, asks);
        }
        if self.stream.ticket.is_none() && self.stream.retry.is_none_or(|retry| retry <= now.boot) {
            let ticket = self.ticket();
            self.stream.ticket = Some(ticket);
            asks.push(Ask::Stream { ticket, after: cursor });
        }
    }

    // Reports, freshness, and what a head tells.

    fn report(&mut self, now: &Now, asks: &mut Vec<Ask>) {
        if self.unsaid.is_empty() && now.wall.since(self.used_from) >= USED_INTERVAL {
            self.unsaid = self.applier.used_since(self.used_from).collect();
            self.used_from = now.wall;
        }
        let used = self.unsaid.iter().rev().take(USED_MAX).cloned().collect::<Vec<_>>();
        self.unreported = false;
        let report = self.report_with(used);
        let (applied, max_stale) = (report.applied.clone(), report.max_stale);
        self.reporting = Some(Sent { at: *now, applied, max_stale, uses: report.used.len() });
        asks.push(Ask::Report(report));
    }

    fn report_with(&self, used: Vec<Use>) -> Report {
        Report {
            name: self.terms.name.clone(),
            applied: self.held.clone(),
            max_stale: self.terms.max_stale,
            compared: self.cursor.clone(),
            would_revive: self.would_revive.clone(),
            used,
        }
    }

    pub fn is_reporting(&self) -> bool {
        self.reporting.is_some()
    }

    /// Reports of the uses that nobody was told of, for who leaves.
    pub fn last_reports(&mut self) -> Vec<Report> {
        let mut used = std::mem::take(&mut self.unsaid);
        used.extend(self.applier.used_since(self.used_from));
        used.chunks(USED_MAX).map(|used| self.report_with(used.to_vec())).collect()
    }

    fn reported(&mut self, reply: Result<Heard, FeedError>, now: &Now, asks: &mut Vec<Ask>) {
        let Some(sent) = self.reporting.take() else { return };
        let Sent { at: sent, applied: told, max_stale, uses } = sent;
        let metrics = &self.applier.authority().metrics;
        let result = if reply.is_ok() { "success" } else { "failure" };
        metrics.source_refresh.with_label_values(&[result]).inc();
        let Heard { head, lags } = match reply {
            Ok(heard) => heard,
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                let pause = backoff(self.failures).min(self.terms.report_interval());
                self.report_due = Some(now.boot.plus(pause));
                return;
            }
        };
        self.failures = 0;
        let sent = Confirmation::new(sent, lags);
        // From here on receipts wait that long for us, and no longer.
        self.applier.authority().lease(max_stale);
        self.unsaid.truncate(self.unsaid.len() - uses);
        self.report_due = Some(now.boot.plus(self.terms.report_interval()));
        let history = |it: &Option<Position>| it.as_ref().map(|it| it.history.clone());
        if history(&told) != history(&self.held) {
            // It is about a table that is here no more.
            self.unreported = true;
            return;
        }
        let relation = self.relation(&head, told.as_ref());
        if self.disputed && self.held.is_some() {
            return self.reconsider(relation, &head, now, asks);
        }
        match relation {
            Relation::First if head.disputed && !self.lets_in(&head) => {
                self.wait_for_acceptance(&head);
            }
            Relation::First | Relation::Accepted => {
                self.unconfirmed = Some((sent, head.position));
                self.want(Purpose::Rebase, now, asks);
            }
            Relation::Rewound => self.dispute(&head, now, asks),
            Relation::Successor => {
                self.confirm_passed(told.as_ref());
                // One who is always a little behind gets there for the older head at least.
                let position = &head.position;
                let older = |old: &Position| {
                    old.history == position.history && old.revision < position.revision
                };
                if !self.unconfirmed.as_ref().is_some_and(|(_, old)| older(old)) {
                    self.unconfirmed = Some((sent, head.position));
                }
                self.confirm();
                let behind = self.unconfirmed.is_some() && self.stream.ticket.is_none();
                if behind && self.poll.is_none() && self.survey.is_none() {
                    let cursor = self.cursor.clone().expect("a successor follows on something");
                    self.ask_changes(cursor, now, asks);
                }
            }
        }
    }

    /// `told` is the position that the head answers. What was applied since then may be further on.
    fn relation(&self, head: &Head, told: Option<&Position>) -> Relation {
        let Some(held) = &self.held else { return Relation::First };
        if off(Guard::Lineage) {
            return Relation::Successor;
        }
        let position = &head.position;
        let other = position.history != held.history;
        if other && self.lets_in(head) {
            return Relation::Accepted;
        }
        // What somebody else holds of it, it has lost: perhaps what would be taken away here next.
        if head.disputed && !self.lets_in(head) {
            return Relation::Rewound;
        }
        if other {
            let accepted = head.accepts.contains(&held.history);
            return if accepted { Relation::Accepted } else { Relation::Rewound };
        }
        let lost = |told: &Position| {
            told.history == position.history
                && (told.revision > position.revision
                    || (told.revision == position.revision && told.mark != position.mark))
        };
        let lost = self.lost || told.is_some_and(lost);
        if lost { Relation::Rewound } else { Relation::Successor }
    }

    /// Whether the config lets the store's present in, disputed or not.
    fn lets_in(&self, head: &Head) -> bool {
        self.terms.accept_history.as_ref() == Some(&head.position.history)
    }

    /// The table is fresh as of a report once the head that answered it is applied.
    fn confirm(&mut self) {
        let (Some((sent, head)), Some(held)) = (&self.unconfirmed, &self.held) else { return };
        if self.disputed {
            return;
        }
        if held == head || off(Guard::Heads) {
            self.applier.authority().confirm(Arc::clone(sent));
            (self.unconfirmed, self.passed) = (None, None);
        } else if held.history == head.history && held.revision > head.revision {
            self.passed = Some((Arc::clone(sent), head.revision));
            self.unconfirmed = None;
        }
    }

    /// A head that was passed may be of another past than what is held: that of a store which was
    /// rewound while changes of the old one still came in. It counts once the store is known to know
    /// what came after it.
    fn confirm_passed(&mut self, known: Option<&Position>) {
        let known = known.map_or(Revision(0), |known| known.revision);
        if let Some((sent, _)) = self.passed.take_if(|(_, head)| *head <= known) {
            self.applier.authority().confirm(sent);
        }
    }

    fn wait_for_acceptance(&mut self, head: &Head) {
        if !std::mem::replace(&mut self.disputed, true) {
            tracing::error!(
                history = %head.position.history,
                "the admin API's store is disputed, and there is no table here yet: nothing is \
                 decided until an operator runs `scim-guard source accept`"
            );
        }
        self.tell_dispute(true);
    }

    fn dispute(&mut self, head: &Head, now: &Now, asks: &mut Vec<Ask>) {
        let held = self.held.as_ref().expect("a dispute is about something");
        tracing::error!(
            held = %held, head = %head.position,
            "the admin API's store has lost changes that are applied here, or is another one: nothing \
             is loosened and nobody admitted by it until an operator runs `scim-guard source accept`"
        );
        self.disputed = true;
        self.tell_dispute(true);
        (self.cursor, self.poll, self.survey) = (None, None, None);
        (self.unconfirmed, self.passed) = (None, None);
        self.stream = Stream::default();
        self.want(Purpose::Restrict, now, asks);
    }

    /// Looks in a dispute whether it is over, and follows the store for what it takes away.
    fn reconsider(&mut self, relation: Relation, head: &Head, now: &Now, asks: &mut Vec<Ask>) {
        let (history, held) =
            (&head.position.history, self.held.clone().expect("held in a dispute"));
        if relation == Relation::Accepted {
            return self.want(Purpose::Rebase, now, asks);
        }
        if self.cursor.as_ref().is_none_or(|cursor| cursor.history != *history) {
            self.want(Purpose::Restrict, now, asks);
        } else if held.history == *history
            && !head.disputed
            && self.poll.is_none()
            && self.survey.is_none()
        {
            // It looks like ours again: whether it knows what we hold, it must say.
            self.ask_changes(held, now, asks);
        }
    }

    fn tell_dispute(&self, disputed: bool) {
        let authority = self.applier.authority();
        authority.disputed.store(disputed, std::sync::atomic::Ordering::Release);
        authority.metrics.source_history_changed.set(i64::from(disputed));
    }

    // Listings.

    /// Begins a listing, unless one of the kind is under way.
    fn want(&mut self, purpose: Purpose, now: &Now, asks: &mut Vec<Ask>) {
        if self.survey.as_ref().is_none_or(|survey| survey.purpose != purpose) {
            self.list(purpose, now, asks);
        }
    }

    fn list(&mut self, purpose: Purpose, now: &Now, asks: &mut Vec<Ask>) {
        let (ticket, held) = (self.ticket(), self.held.clone());
        let listing = Listing::default();
        let (begun, whole) = (now.boot, false);
        self.survey = Some(Survey { ticket, purpose, begun, held, listing, whole });
        asks.push(Ask::Page { ticket, after: None });
    }

    /// Adds an answer to the listing that has asked for it.
    fn listed<T>(
        &mut self,
        reply: Result<T, FeedError>,
        add: impl FnOnce(&mut Listing, T) -> Result<Needs, String>,
        now: &Now,
        asks: &mut Vec<Ask>,
    ) {
        let mut survey = self.survey.take().expect("it has asked");
        // Each question has a ticket of its own: an answer that comes twice counts once.
        let (ticket, purpose) = (self.ticket(), survey.purpose);
        survey.ticket = ticket;
        let needs = reply.map_err(|why| why.to_string());
        match needs.and_then(|reply| add(&mut survey.listing, reply)) {
            // The next report's answer leads here again.
            Err(why) => return self.listing_failed(purpose, &why, now),
            Ok(Needs::Page(after)) => asks.push(Ask::Page { ticket, after: Some(after) }),
            Ok(Needs::Changes(after)) if purpose != Purpose::Restrict => {
                asks.push(Ask::Poll { ticket, after });
            }
            Ok(Needs::Nothing | Needs::Changes(_)) => match survey.held.clone() {
                Some(after) if purpose == Purpose::Refresh => {
                    survey.whole = true;
                    asks.push(Ask::Poll { ticket, after });
                }
                _ => return self.listed_whole(survey, now),
            },
        }
        self.survey = Some(survey);
    }

    /// A store that was rewound may have grown beyond what is held since, and then its numbers look
    /// like those of a successor: only its marks tell.
    fn vouched(&mut self, reply: Result<Changes, FeedError>, now: &Now) {
        let survey = self.survey.take().expect("it has asked");
        match reply {
            Ok(_) | Err(FeedError::Gone(Gone::Compacted)) => self.listed_whole(survey, now),
            Err(FeedError::Gone(Gone::Unknown)) => {
                self.lost = true;
                self.report_due = Some(now.boot);
            }
            Err(why) => self.listing_failed(survey.purpose, &why.to_string(), now),
        }
    }

    fn listing_failed(&mut self, purpose: Purpose, why: &str, now: &Now) {
        tracing::warn!(?purpose, "listing dropped, the table stays: {why}");
        if purpose == Purpose::Refresh {
            // Another try in a while; changes are followed all the same.
            self.listed = Some(now.boot);
        }
        self.report_due = Some(now.boot.plus(backoff(1)));
    }

    fn listed_whole(&mut self, survey: Survey, now: &Now) {
        let Survey { purpose, begun, held, listing, .. } = survey;
        let (floor, rows, tenants) = listing.into_parts();
        // As far as the store says now, and not further back than when it was asked.
        let relation = self.relation(&floor, held.as_ref());
        // What must not be taken as a whole still takes away.
        let purpose = match purpose {
            Purpose::Rebase if self.disputed && relation == Relation::Rewound => Purpose::Restrict,
            purpose => purpose,
        };
        let counts = match purpose {
            Purpose::Rebase if relation == Relation::First => {
                !floor.disputed || self.lets_in(&floor)
            }
            Purpose::Rebase => relation != Relation::Rewound,
            Purpose::Refresh => relation == Relation::Successor && !self.disputed,
            Purpose::Restrict => self.disputed,
        };
        if !counts {
            return self.listing_failed(purpose, "the store has changed its past meanwhile", now);
        }
        let (count, position) = (rows.len(), floor.position);
        let again = self.cursor.as_ref().is_some_and(|it| it.history == position.history);
        match purpose {
            Purpose::Rebase => {
                self.applier.rebase(rows, &tenants);
                self.held = Some(position.clone());
                (self.disputed, self.lost) = (false, false);
                self.would_revive.clear();
                self.passed = None;
                self.tell_dispute(false);
                self.stream = Stream::default();
            }
            Purpose::Refresh => {
                self.applier.list(rows, &tenants, position.revision);
                // What came in meanwhile is further on.
                if self.held.as_ref().is_none_or(|held| held.revision < position.revision) {
                    self.held = Some(position.clone());
                }
            }
            Purpose::Restrict => {
                self.restrict(&rows, &tenants, now);
                self.cursor = Some(position.clone());
                self.stream = Stream::default();
            }
        }
        if !self.disputed {
            self.cursor.clone_from(&self.held);
        }
        (self.listed, self.polled) = (Some(begun), Some(now.boot));
        self.applied(now);
        // An operator may be waiting for what would come back to life.
        self.unreported |= self.disputed && !again;
        tracing::info!(credentials = count, %position, ?purpose, "table listed");
    }

    /// Takes away what a disputed store takes away, and notes what it would give back.
    fn restrict(&mut self, rows: &[Row], tenants: &[TenantRow], now: &Now) {
        let live = |row: &Credential| {
            row.status == Status::Enabled
                && !matches!(row.expiry, Expiry::At(end) if end <= now.wall)
        };
        let off_there = tenants.iter().filter(|row| row.synchronization == Status::Disabled);
        let off_there: HashSet<_> = off_there.map(|row| &row.tenant).collect();
        let live_there = |row: &Credential| live(row) && !off_there.contains(&row.tenant);
        let live_here = |row: &Credential| live(row) && self.applier.synchronizes(&row.tenant);
        let refused_here = |row: &&Row| {
            let here = self.applier.get(&row.key());
            live_there(&row.credential) && !here.is_some_and(live_here)
        };
        self.would_revive =
            rows.iter().filter(refused_here).map(Row::key).take(REVIVED_MAX).collect();
        for row in rows {
            self.applier.restrict_row(&row.credential);
        }
        for tenant in tenants {
            self.applier.restrict(&Change::Tenant(tenant.clone()));
        }
    }

    // Changes.

    fn ask_changes(&mut self, after: Position, now: &Now, asks: &mut Vec<Ask>) {
        let ticket = self.ticket();
        self.poll = Some(ticket);
        self.polled = Some(now.boot);
        asks.push(Ask::Poll { ticket, after });
    }

    fn polled(
        &mut self,
        after: &Position,
        reply: Result<Changes, FeedError>,
        now: &Now,
        asks: &mut Vec<Ask>,
    ) {
        let at_cursor = self.cursor.as_ref().is_some_and(|it| it.history == after.history);
        let ours = self.disputed && self.held.as_ref() == Some(after);
        match reply {
            // The store knows what we hold: it is ours after all.
            Ok(known) if ours && !known.head.disputed => self.ours_after_all(now, asks),
            Err(FeedError::Gone(Gone::Compacted)) if ours => self.ours_after_all(now, asks),
            Ok(changes) => {
                let head = changes.head.position.revision;
                self.take(after, changes, now);
                if let Some(cursor) = self.cursor.clone().filter(|it| it.revision < head) {
                    self.ask_changes(cursor, now, asks);
                }
            }
            Err(FeedError::Gone(gone)) if at_cursor || self.disputed => {
                self.gone(gone, after, now, asks);
            }
            Err(_) => {}
        }
    }

    fn ours_after_all(&mut self, now: &Now, asks: &mut Vec<Ask>) {
        self.lost = false;
        self.want(Purpose::Rebase, now, asks);
    }

    fn stream_ended(&mut self, why: FeedError, now: &Now, asks: &mut Vec<Ask>) {
        self.stream.close(now);
        if let FeedError::Gone(gone) = why
            && let Some(cursor) = self.cursor.clone()
        {
            self.gone(gone, &cursor, now, asks);
        }
    }

    /// The store does not tell what follows on a position.
    fn gone(&mut self, gone: Gone, after: &Position, now: &Now, asks: &mut Vec<Ask>) {
        match gone {
            Gone::Compacted if self.disputed => self.want(Purpose::Restrict, now, asks),
            Gone::Compacted => self.want(Purpose::Refresh, now, asks),
            Gone::Unknown if self.disputed => {
                if self.cursor.as_ref() == Some(after) {
                    self.cursor = None;
                    self.want(Purpose::Restrict, now, asks);
                }
            }
            // Whether another history is accepted, the answer to a report tells.
            Gone::Unknown => {
                self.lost = true;
                self.report_due = Some(now.boot);
            }
        }
    }

    /// Takes changes if they follow on what is here; whether that is so, or they are known. Others
    /// may be of another past, even if their numbers would fit.
    fn take(&mut self, after: &Position, changes: Changes, now: &Now) -> bool {
        let Changes { changes, position, .. } = changes;
        let Some(cursor) = &self.cursor else { return false };
        if position.history == cursor.history && position.revision <= cursor.revision {
            return true;
        }
        if after != cursor {
            return false;
        }
        for change in &changes {
            if self.disputed { self.applier.restrict(change) } else { self.applier.change(change) }
        }
        self.cursor = Some(position);
        if !self.disputed {
            self.held.clone_from(&self.cursor);
        }
        self.applied(now);
        true
    }

    /// What was changed counts from here on.
    fn applied(&mut self, now: &Now) {
        self.applier.settle();
        // In a dispute the position stays: news of it would be answered with more to look at.
        self.unreported = !self.disputed;
        self.confirm();
        let revision = self.held.as_ref().map_or(0, |held| held.revision.0);
        self.applier.authority().metrics.table_revision.set(revision as i64);
        self.applier.take_census(false, now);
    }

    /// Counts what changes with time alone. To be called about twice a minute.
    pub fn take_census(&mut self, now: &Now) {
        self.applier.take_census(true, now);
    }

    // Lookups.

    /// A row that is looked up never goes into the table by itself: it is of a later state than the
    /// rest, of which the position that we report says nothing. The changes up to it are fetched.
    fn looked_up(
        &mut self,
        digest: TokenDigest,
        reply: Result<(Head, Option<Row>), FeedError>,
        asks: &mut Vec<Ask>,
    ) {
        let ours = |head: &Head| {
            let held = self.held.as_ref().filter(|_| !self.disputed);
            held.is_some_and(|held| held.history == head.position.history)
        };
        match reply {
            Ok((head, Some(row))) if ours(&head) => {
                self.awaited.push(Awaited { digest, revision: row.revision, since: self.tickets });
            }
            Ok((head, None)) if ours(&head) => asks.push(Ask::Answer(digest, Answer::Unknown)),
            _ => asks.push(Ask::Answer(digest, Answer::Undecided)),
        }
    }

    fn answer_awaited(&mut self, asks: &mut Vec<Ask>) {
        let held = self.held.as_ref().map_or(Revision(0), |held| held.revision);
        self.awaited.retain(|token| {
            let answer = if self.applier.knows(&token.digest) {
                Answer::Known
            } else if self.disputed || token.revision <= held || token.since < self.caught_up {
                // It was removed again, or its store was; or the changes are not to be had now.
                Answer::Undecided
            } else {
                return true;
            };
            asks.push(Ask::Answer(token.digest, answer));
            false
        });
    }

    fn surveys(&self, ticket: u64) -> bool {
        self.survey.as_ref().is_some_and(|survey| survey.ticket == ticket)
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

/// 100 ms, doubling to 5 s.
fn backoff(failures: u32) -> Duration {
    let doubled =
        Duration::from_millis(100) * 2u32.saturating_pow(failures.min(7).saturating_sub(1));
    doubled.min(Duration::from_secs(5))
}

/// Between two whole listings; changes are followed in between.
const RELIST: Duration = Duration::from_secs(3600);
const USED_INTERVAL: Duration = Duration::from_secs(60);
/// Uses in one report, which the admin API must take with the longest names too.
const USED_MAX: usize = 2_000;
const REVIVED_MAX: usize = 100;

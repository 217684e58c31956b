//! Who follows the store, how far each has come, and what that says about a change: the receipt.
//!
//! A replica reports every few seconds and is answered with the head. It counts its table as fresh
//! only up to a report whose head it has applied, so one that was last answered with a head before
//! some change stops accepting by itself, `max_stale` after that report. That is why a receipt can
//! promise something about replicas that nobody hears any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::lags::Lags;
use super::{Failed, Lease, Store};
use crate::clock::{Now, Timestamp};
use crate::credential::Revision;
use crate::credential::feed::{Gone, Head, Heard, PageKey, Position, Report};
use crate::guards::{Guard, off};

/// Added to a replica's own limit for what its clock and ours may differ by.
pub const GRACE: Duration = Duration::from_secs(10);

pub struct Replicas {
    store: Arc<dyn Store>,
    /// Told with each answer.
    pub lags: Lags,
    heard: Mutex<HashMap<String, Replica>>,
    /// Rung at each report.
    news: Notify,
    /// When this process began to listen, and until when replicas may exist of which it has never
    /// heard.
    settling: Mutex<Settling>,
    /// What replicas that we do not know may have as their `max_stale`.
    max_stale: Duration,
}

struct Settling {
    since: Now,
    /// The head when last looked at; a dispute or a new history begins the wait anew.
    disputed: bool,
    history: String,
    /// Whether there is anything to wait for.
    due: bool,
}

/// What we know of one replica.
struct Replica {
    report: Report,
    /// The name and the longest `max_stale` that its lease has; none if it has no lease yet.
    lease: Option<(String, Duration)>,
    last: Now,
    /// The heads that it was answered with, ascending, each with the arrival of the last report
    /// that was answered so. Revision 0 stands for answers that we do not know.
    answers: Vec<(Revision, Now)>,
}

impl Replica {
    /// The arrival of the last report that was answered with an older head than this.
    fn answered_before(&self, revision: Revision) -> Option<Now> {
        self.answers.iter().rev().find(|(head, _)| *head < revision).map(|(_, arrival)| *arrival)
    }

    fn answer(&mut self, head: Revision, arrival: Now) {
        // An older head that comes later counts for all that follows on it.
        while self.answers.last().is_some_and(|(known, _)| *known >= head) {
            self.answers.pop();
        }
        self.answers.push((head, arrival));
        if self.answers.len() > ANSWERS_MAX {
            // The older head with the later time: that waits too long rather than too short.
            self.answers[0].1 = self.answers[1].1;
            self.answers.remove(1);
        }
    }
}

const ANSWERS_MAX: usize = 256;

/// Leases that there may be at a time.
pub const LEASES_MAX: usize = 10_000;

/// How far a change has come.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub revision: Revision,
    /// No decision anywhere uses a state without the change, and no request's first byte goes
    /// upstream on an older permit.
    pub complete: bool,
    pub replicas: Vec<ReplicaState>,
    /// Until when replicas may exist that this store has never heard of.
    pub settles_by: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct ReplicaState {
    pub name: String,
    pub instance: String,
    pub applied: Option<Position>,
    pub state: Progress,
    /// When a pending one stops accepting by itself at the latest.
    pub refuses_by: Option<Timestamp>,
    pub heard: Timestamp,
    /// What it holds as revoked and the store as good; told only in a dispute.
    pub would_revive: Vec<PageKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Applied,
    /// It has no table, and will get one with the change.
    Unloaded,
    Pending,
    /// Not heard for so long that it refuses by itself.
    Expired,
}

impl Progress {
    pub const ALL: [Self; 4] = [Self::Applied, Self::Unloaded, Self::Pending, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unloaded => "unloaded",
            Self::Pending => "pending",
            Self::Expired => "expired",
        }
    }
}

/// The revision is not made yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Future;

impl Replicas {
    /// Counts every replica that the store knows as heard now, and as not up to date.
    pub async fn load(
        store: Arc<dyn Store>,
        max_stale: Duration,
        now: Now,
    ) -> Result<Self, Failed> {
        let head = store.head().await?;
        let known = store.leases().await?.into_iter().map(|lease| {
            let report = Report { applied: None, ..lease.report };
            let lease_known = Some((report.name.clone(), report.max_stale));
            let answers = vec![(Revision(0), now)];
            (lease.instance, Replica { report, lease: lease_known, last: now, answers })
        });
        let heard: HashMap<_, _> = known.collect();
        let young = now.wall.since(head.began) <= longest(&heard, max_stale) + GRACE;
        let settling = Settling {
            since: now,
            disputed: head.disputed,
            history: head.position.history.to_string(),
            due: head.disputed || (young && !head.accepts.is_empty()),
        };
        Ok(Self {
            store,
            lags: Lags::default(),
            heard: Mutex::new(heard),
            news: Notify::new(),
            settling: Mutex::new(settling),
            max_stale,
        })
    }

    /// Takes a report that arrived now, and answers with the head as read after that. A position
    /// that the store has never been in makes it disputed.
    pub async fn report(&self, instance: &str, report: Report, now: &Now) -> Result<Heard, Failed> {
        // Whatever head it is answered with, it is not older than this one; and a receipt that is made
        // while the answer is on its way must know of it.
        let floor = self.store.latest().borrow().revision;
        self.expect(instance, &report, floor, now);
        // What these promise is in any head that is read from here on.
        let lags = self.lags.at(now);
        let mut head = self.store.head().await?;
        if let Some(applied) = &report.applied
            && *applied != head.position
            && !head.accepts.contains(&applied.history)
            && self.store.changes(applied, Some(&[]), 0).await? == Err(Gone::Unknown)
        {
            if !head.disputed {
                tracing::error!(
                    replica = report.name,
                    "a replica holds a later state than this store, which has lost changes or was \
                     replaced: nothing is loosened until an operator runs `scim-guard source accept`"
                );
            }
            self.store.dispute(&applied.history).await?;
            head = self.store.head().await?;
        }
        // A full disk must not keep a replica from its head.
        if !report.used.is_empty()
            && let Err(error) = self.store.note_used(&report.used).await
        {
            tracing::warn!(%error, "when credentials were last used was not noted");
        }
        if self.is_news(instance, &report) {
            self.store
                .put_lease(&Lease { instance: instance.to_owned(), report: report.clone() })
                .await?;
        }
        self.note(instance, report, head.position.revision, now);
        self.settles_by(&head, now);
        self.news.notify_waiters();
        Ok(Heard { head, lags })
    }

    /// Whether the durable part of the lease has to be written.
    fn is_news(&self, instance: &str, report: &Report) -> bool {
        let heard = self.heard();
        let lease = heard.get(instance).and_then(|known| known.lease.as_ref());
        lease.is_none_or(|(name, longest)| *name != report.name || *longest < report.max_stale)
    }

    /// Counts on a replica whose report is not answered yet.
    fn expect(&self, instance: &str, report: &Report, floor: Revision, now: &Now) {
        let mut heard = self.heard();
        // One that comes with a table from before our time was answered by somebody else.
        let first = || {
            let answers = report.applied.iter().map(|_| (Revision(0), *now)).collect();
            let report = Report { applied: None, used: Vec::new(), ..report.clone() };
            Replica { report, lease: None, last: *now, answers }
        };
        let known = heard.entry(instance.to_owned()).or_insert_with(first);
        known.report.max_stale = known.report.max_stale.max(report.max_stale);
        known.last = *now;
        known.answer(floor, *now);
    }

    fn note(&self, instance: &str, report: Report, head: Revision, now: &Now) {
        let mut heard = self.heard();
        // It may have said goodbye meanwhile.
        let Some(known) = heard.get_mut(instance) else { return };
        let max_stale = known.report.max_stale.max(report.max_stale);
        known.lease = Some((report.name.clone(), max_stale));
        known.report = Report { max_stale, used: Vec::new(), ..report };
        known.answer(head, *now);
    }

    /// A replica says that it decides nothing any more.
    pub async fn remove(&self, instance: &str) -> Result<(), Failed> {
        self.store.remove_lease(instance).await?;
        self.heard().remove(instance);
        self.news.notify_waiters();
        Ok(())
    }

    /// Whether there is room for the lease of this replica. One that calls itself otherwise at each
    /// report would take all that there is of memory and disk.
    pub async fn has_room(&self, instance: &str, now: &Now) -> Result<bool, Failed> {
        let is_full = || {
            let heard = self.heard();
            heard.len() >= LEASES_MAX && !heard.contains_key(instance)
        };
        if is_full() {
            self.forget(now, Duration::ZERO).await?;
        }
        Ok(!is_full())
    }

    /// Forgets those that have refused by themselves for an hour.
    pub async fn sweep(&self, now: &Now) -> Result<(), Failed> {
        self.forget(now, KEPT).await
    }

    async fn forget(&self, now: &Now, kept: Duration) -> Result<(), Failed> {
        let long_gone = |known: &Replica| {
            now.boot.since(known.last.boot) > known.report.max_stale + GRACE + kept
        };
        let gone: Vec<String> = {
            let heard = self.heard();
            heard.iter().filter(|(_, it)| long_gone(it)).map(|(id, _)| id.clone()).collect()
        };
        for instance in gone {
            // It may be back.
            if self.heard().get(&instance).is_none_or(long_gone) {
                self.remove(&instance).await?;
            }
        }
        Ok(())
    }

    /// How far a revision has come.
    pub async fn receipt(
        &self,
        revision: Revision,
        now: &Now,
    ) -> Result<Result<Receipt, Future>, Failed> {
        let head = self.store.head().await?;
        if revision > head.position.revision {
            return Ok(Err(Future));
        }
        let replicas = self.states(revision, &head, now);
        let settles_by = self.settles_by(&head, now);
        let pending = replicas.iter().any(|replica| replica.state == Progress::Pending);
        let complete = !pending && settles_by.is_none();
        Ok(Ok(Receipt { revision, complete, replicas, settles_by }))
    }

    /// The receipt once it is complete, or as it is when the time is over.
    pub async fn receipt_within(
        &self,
        revision: Revision,
        wait: Duration,
        now: impl Fn() -> Now,
    ) -> Result<Result<Receipt, Future>, Failed> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let receipt = self.receipt(revision, &now()).await?;
            let over = tokio::time::Instant::now() >= deadline;
            match receipt {
                Ok(Receipt { complete: false, .. }) if !over => {}
                receipt => return Ok(receipt),
            }
            // Leases also run out without any news.
            let pause = deadline.min(tokio::time::Instant::now() + Duration::from_millis(500));
            let _ = tokio::time::timeout_at(pause, news).await;
        }
    }

    /// All replicas, as to the present head.
    pub async fn all(&self, now: &Now) -> Result<Vec<ReplicaState>, Failed> {
        let head = self.store.head().await?;
        Ok(self.states(head.position.revision, &head, now))
    }

    fn states(&self, revision: Revision, head: &Head, now: &Now) -> Vec<ReplicaState> {
        let heard = self.heard();
        let mut states: Vec<_> = heard
            .iter()
            .map(|(instance, known)| {
                let (state, refuses_in) = progress(known, revision, head, now);
                ReplicaState {
                    name: known.report.name.clone(),
                    instance: instance.clone(),
                    applied: known.report.applied.clone(),
                    state,
                    refuses_by: refuses_in.map(|time| now.wall.plus(time)),
                    heard: known.last.wall,
                    would_revive: known.report.would_revive.clone(),
                }
            })
            .collect();
        states.sort_by(|a, b| (&a.name, &a.instance).cmp(&(&b.name, &b.instance)));
        states
    }

    /// While the store is disputed, and after a new history has begun, there may be replicas that
    /// are in no lease of it.
    fn settles_by(&self, head: &Head, now: &Now) -> Option<Timestamp> {
        let longest = longest(&self.heard(), self.max_stale) + GRACE;
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let history = head.position.history.as_str();
        let turned = settling.history != history || (head.disputed && !settling.disputed);
        if turned {
            let history = history.to_owned();
            *settling = Settling { since: *now, disputed: head.disputed, history, due: true };
        }
        settling.disputed = head.disputed;
        let waited = now.boot.since(settling.since.boot);
        settling.due &= waited <= longest;
        settling.due.then(|| now.wall.plus(longest - waited))
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Replica>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one that refuses by itself is still shown.
const KEPT: Duration = Duration::from_secs(3600);

fn longest(heard: &HashMap<String, Replica>, at_least: Duration) -> Duration {
    heard.values().map(|known| known.report.max_stale).fold(at_least, Duration::max)
}

fn progress(
    known: &Replica,
    revision: Revision,
    head: &Head,
    now: &Now,
) -> (Progress, Option<Duration>) {
    let applied = &known.report.applied;
    // What is beyond the head, the store has lost: nobody knows what it was.
    let here = |position: &Position| {
        position.history == head.position.history && position.revision <= head.position.revision
    };
    if applied.as_ref().is_some_and(|it| here(it) && it.revision >= revision) {
        return (Progress::Applied, None);
    }
    // One that was never answered with less lists its first table after the change.
    let Some(answered) = known.answered_before(revision) else {
        return (Progress::Unloaded, None);
    };
    // Only boot time: a wall clock that is set forward must not end a wait.
    let waited = now.boot.since(answered.boot);
    let lease = if off(Guard::Leases) { GRACE } else { known.report.max_stale + GRACE };
    match lease.checked_sub(waited) {
        Some(rest) => (Progress::Pending, Some(rest)),
        None => (Progress::Expired, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::AuditEntry;
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn the_wait_for_replicas_never_heard_begins_with_the_history_and_not_with_the_question() {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let store = Arc::new(Memory::new(clock.now().wall));
        let max_stale = Duration::from_secs(60);
        let loaded = Replicas::load(store.clone(), max_stale, clock.now()).await;
        let replicas = loaded.expect("it works");
        let audit = AuditEntry {
            time: clock.now().wall,
            actor: "test".to_owned(),
            peer: String::new(),
            request_id: String::new(),
            action: "history.accept",
            tenant: None,
            credential_id: None,
            detail: String::new(),
        };
        let head = store.accept(audit).await.expect("it works");
        let report = Report {
            name: "host".to_owned(),
            applied: Some(head.position),
            max_stale,
            would_revive: Vec::new(),
            used: Vec::new(),
        };
        replicas.report("a", report, &clock.now()).await.expect("it works");
        for (seconds, complete) in [(70, false), (1, true)] {
            clock.advance(Duration::from_secs(seconds));
            let receipt = replicas.receipt(Revision(0), &clock.now()).await.expect("it works");
            assert_eq!(receipt.expect("it was made").complete, complete);
        }
    }
}

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
use crate::credential::feed::{Gone, Head, Heard, PageKey, Position, REPORT_INTERVAL_MAX, Report};
use crate::guards::{Guard, off};

/// Added to a replica's own limit for what its clock and ours may differ by.
pub const GRACE: Duration = Duration::from_secs(10);

pub struct Replicas {
    store: Arc<dyn Store>,
    /// Told with each answer.
    pub lags: Lags,
    /// When this process began to listen.
    pub since: Now,
    heard: Mutex<HashMap<String, Replica>>,
    /// Rung at each report.
    news: Notify,
    /// Until when replicas may exist of which this process has never heard.
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
    /// Whether its last report to this process says that it holds nothing which was not compared
    /// with the store.
    compared: bool,
    /// The heads that it was answered with, ascending, each with the arrival of the last report
    /// that was answered so. Revision 0 stands for answers that we do not know.
    answers: Vec<(Revision, Now)>,
}

impl Replica {
    /// The arrival of the last report that was answered with an older head than this.
    fn answered_before(&self, revision: Revision) -> Option<Now> {
        self.answers.iter().rev().find(|(head, _)| *head < revision).map(|(_, arrival)| *arrival)
    }

    /// Whether it has refused by itself for so long.
    fn is_silent(&self, time: Duration, now: &Now) -> bool {
        now.boot.since(self.last.boot) > self.report.max_stale + GRACE + time
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
    /// Whether the store knows what it holds, or `would_revive` tells how that differs. True also of
    /// one that was not heard by this process, and whose lease has run out.
    pub compared: bool,
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
            let known = Some((report.name.clone(), report.max_stale));
            let answers = vec![(Revision(0), now)];
            let known = Replica { report, lease: known, last: now, compared: false, answers };
            (lease.instance, known)
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
            since: now,
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
        let ahead = match &report.applied {
            Some(it) if !head.accepts.contains(&it.history) && !self.knows(it, &head).await? => {
                Some(it)
            }
            _ => None,
        };
        if let Some(applied) = ahead {
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
        let compared = match (ahead, &report.compared) {
            (None, _) => true,
            (Some(_), Some(position)) => self.knows(position, &head).await?,
            (Some(_), None) => false,
        };
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
        self.note(instance, report, compared, head.position.revision, now);
        self.settles_by(&head, now);
        self.news.notify_waiters();
        Ok(Heard { head, lags })
    }

    /// Whether the store is in this state, or has come from it.
    async fn knows(&self, position: &Position, head: &Head) -> Result<bool, Failed> {
        Ok(*position == head.position
            || self.store.changes(position, Some(&[]), 0).await? != Err(Gone::Unknown))
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
            Replica { report, lease: None, last: *now, compared: false, answers }
        };
        let known = heard.entry(instance.to_owned()).or_insert_with(first);
        known.report.max_stale = known.report.max_stale.max(report.max_stale);
        known.last = *now;
        known.answer(floor, *now);
    }

    fn note(&self, instance: &str, report: Report, compared: bool, head: Revision, now: &Now) {
        let mut heard = self.heard();
        // It may have said goodbye meanwhile.
        let Some(known) = heard.get_mut(instance) else { return };
        let max_stale = known.report.max_stale.max(report.max_stale);
        known.lease = Some((report.name.clone(), max_stale));
        known.report = Report { max_stale, used: Vec::new(), ..report };
        known.compared = compared;
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
        let long_gone = |known: &Replica| known.is_silent(kept, now);
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
                let applied = &known.report.applied;
                let compared = match applied {
                    Some(applied) => head.accepts.contains(&applied.history),
                    // Of one that this process has not heard, nothing is known but its lease.
                    None => known.is_silent(Duration::ZERO, now),
                };
                ReplicaState {
                    name: known.report.name.clone(),
                    instance: instance.clone(),
                    applied: applied.clone(),
                    state,
                    refuses_by: refuses_in.map(|time| now.wall.plus(time)),
                    heard: known.last.wall,
                    compared: compared || known.compared || off(Guard::Comparisons),
                    would_revive: known.report.would_revive.clone(),
                }
            })
            .collect();
        states.sort_by(|a, b| (&a.name, &a.instance).cmp(&(&b.name, &b.instance)));
        states
    }

    /// Until when replicas that this process has not heard may tell what they hold; none once each
    /// that reaches it has reported twice.
    pub fn compares_by(&self, now: &Now) -> Option<Timestamp> {
        let left = (2 * REPORT_INTERVAL_MAX).checked_sub(now.boot.since(self.since.boot));
        left.map(|left| now.wall.plus(left))
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

    fn report(applied: Option<Position>) -> Report {
        Report {
            name: "host".to_owned(),
            applied,
            max_stale: MAX_STALE,
            compared: None,
            would_revive: Vec::new(),
            used: Vec::new(),
        }
    }

    const MAX_STALE: Duration = Duration::from_secs(60);

    async fn load(store: &Arc<Memory>, clock: &Clock) -> Replicas {
        let store = Arc::clone(store) as Arc<dyn Store>;
        Replicas::load(store, MAX_STALE, clock.now()).await.expect("it works")
    }

    #[tokio::test]
    async fn a_replica_counts_as_compared_once_it_has_told_what_it_holds_against_this_store() {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let store = Arc::new(Memory::new(clock.now().wall));
        let here = store.head().await.expect("it works").position;
        let elsewhere = Position { history: "lost".parse().expect("valid"), ..here.clone() };
        let beyond = Position { revision: Revision(9), ..here.clone() };
        for instance in ["a", "gone"] {
            let (instance, report) = (instance.to_owned(), report(None));
            store.put_lease(&Lease { instance, report }).await.expect("it works");
        }
        let replicas = load(&store, &clock).await;
        let missing = async || {
            let states = replicas.all(&clock.now()).await.expect("it works");
            let missing = states.into_iter().filter(|it| !it.compared).map(|it| it.instance);
            missing.collect::<Vec<_>>()
        };
        let tell = async |instance: &str, report: Report| {
            replicas.report(instance, report, &clock.now()).await.expect("it works");
        };
        assert_eq!(missing().await, ["a", "gone"], "not heard yet");
        for (applied, compared, counts) in [
            (None, None, true),
            (Some(&here), None, true),
            (Some(&beyond), None, false),
            (Some(&beyond), Some(&beyond), false),
            (Some(&elsewhere), Some(&elsewhere), false),
            (Some(&elsewhere), Some(&here), true),
        ] {
            let report = Report { compared: compared.cloned(), ..report(applied.cloned()) };
            tell("a", report).await;
            assert_eq!(!missing().await.contains(&"a".to_owned()), counts, "{applied:?}");
        }
        assert_eq!(missing().await, ["gone"]);
        tell("b", report(Some(beyond.clone()))).await;
        assert!(replicas.compares_by(&clock.now()).is_some());
        clock.advance(MAX_STALE + GRACE + Duration::from_secs(1));
        assert_eq!(missing().await, ["b"], "it may be back with what it knows");
        assert_eq!(replicas.compares_by(&clock.now()), None);
        store.accept(entry(&clock)).await.expect("it works");
        assert_eq!(missing().await, [""; 0]);
    }

    fn entry(clock: &Clock) -> AuditEntry {
        AuditEntry {
            time: clock.now().wall,
            actor: "test".to_owned(),
            peer: String::new(),
            request_id: String::new(),
            action: "history.accept",
            tenant: None,
            credential_id: None,
            detail: String::new(),
        }
    }

    #[tokio::test]
    async fn the_wait_for_replicas_never_heard_begins_with_the_history_and_not_with_the_question() {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let store = Arc::new(Memory::new(clock.now().wall));
        let replicas = load(&store, &clock).await;
        let head = store.accept(entry(&clock)).await.expect("it works");
        replicas.report("a", report(Some(head.position)), &clock.now()).await.expect("it works");
        for (seconds, complete) in [(70, false), (1, true)] {
            clock.advance(Duration::from_secs(seconds));
            let receipt = replicas.receipt(Revision(0), &clock.now()).await.expect("it works");
            assert_eq!(receipt.expect("it was made").complete, complete);
        }
    }
}

//! Follows one zone or directory of a cloud into the store, so that a fleet follows the store and the
//! cloud sees one who asks. What takes rights away is done here first, durably, and the cloud is told
//! until it knows; what gives rights goes to the cloud first. A listing that began before a change was
//! confirmed never undoes it, and one that failed changes nothing.

mod enrolments;
mod rules;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Now, Timestamp, Uptime};
use crate::credential::{Credential, CredentialId, Status, TenantId, TokenDigest};
use crate::source::cloud::{Cloud, CloudError};
use crate::store::replicas::Replicas;
use crate::store::{
    AuditEntry, Decide, Edit, Failed, Filter, Order, Provider, Record, Standing, Store, View,
    WriteError, Written,
};
use crate::telemetry::metrics::Metrics;
pub use enrolments::Enrolments;
use rules::Listing;
pub use serve::Wish;

pub struct Mirror {
    cloud: Arc<dyn Cloud>,
    interval: Duration,
    store: Arc<dyn Store>,
    replicas: Arc<Replicas>,
    clock: Clock,
    metrics: Arc<Metrics>,
    known: Mutex<Known>,
    /// Taken by whoever changes something in the cloud.
    turn: tokio::sync::Mutex<()>,
    /// Rung when the cloud is to be told something.
    news: Notify,
}

/// What is known of the cloud in this process.
#[derive(Default)]
struct Known {
    /// How many listings have begun.
    begun: u64,
    /// The number of the last one that counted: none that began before it does.
    applied: u64,
    /// The last whole one.
    listing: Option<Arc<Listing>>,
    /// How many had begun when the cloud confirmed the last change of a credential: these know
    /// nothing of it.
    confirmed: HashMap<CredentialId, u64>,
}

impl Known {
    /// Whether a listing is to count: it is the latest one.
    fn counts(&mut self, number: u64) -> bool {
        let counts = number >= self.applied;
        self.applied = self.applied.max(number);
        counts
    }

    fn listed(&mut self, mut listing: Arc<Listing>, number: u64) -> bool {
        if number != self.applied {
            return false;
        }
        self.confirmed.retain(|_, confirmed| *confirmed >= number);
        // What was changed there since it began is as it was before, amended.
        for id in self.confirmed.keys() {
            let known = self.listing.as_ref().and_then(|listing| listing.get(id));
            let listing = Arc::make_mut(&mut listing);
            match known {
                Some(known) => drop(listing.insert(id.clone(), known.clone())),
                None => drop(listing.remove(id)),
            }
        }
        self.listing = Some(listing);
        true
    }

    /// Listings that have begun by now know nothing of what has just been confirmed.
    fn hold(&mut self, id: &CredentialId) {
        self.confirmed.insert(id.clone(), self.begun);
    }

    /// A change that the cloud has confirmed, of what was listed; no status if it is gone.
    fn changed(&mut self, id: &CredentialId, status: Option<Status>) {
        self.hold(id);
        let Some(listing) = self.listing.as_mut().map(Arc::make_mut) else { return };
        match status {
            None => drop(listing.remove(id)),
            Some(status) => {
                listing.entry(id.clone()).and_modify(|it| it.status = status);
            }
        }
    }
}

/// Why the store does not say what the cloud does.
#[derive(Debug)]
enum Trouble {
    Cloud(CloudError),
    Store(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cloud(error) => error.fmt(f),
            Self::Store(what) => write!(f, "the store: {what}"),
        }
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        Self::Store(match error {
            WriteError::Denied(denied) => format!("{denied:?}"),
            WriteError::Full => "there is no room for new things".to_owned(),
            WriteError::Failed(Failed(what)) => what,
        })
    }
}

impl Mirror {
    /// `interval` is the time between two listings. What the store has is as old as it says, also
    /// after a restart.
    pub async fn load(
        cloud: Arc<dyn Cloud>,
        interval: Duration,
        store: Arc<dyn Store>,
        replicas: Arc<Replicas>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Failed> {
        let now = clock.now();
        let reads = store.reads().await?;
        let read = reads.into_iter().find(|(tenant, _)| tenant == cloud.tenant());
        // One of the future tells of a clock that was stepped, and nothing of an age.
        let read = read.map(|(_, begun)| begun).filter(|begun| *begun <= now.wall);
        let read = read.map(|begun| Now { wall: begun, ..now });
        replicas.lags.declare(cloud.tenant(), interval, read);
        Ok(Arc::new(Self {
            cloud,
            interval,
            store,
            replicas,
            clock,
            metrics,
            known: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            news: Notify::new(),
        }))
    }

    pub fn tenant(&self) -> &TenantId {
        self.cloud.tenant()
    }

    /// How long each credential lives, if the cloud does not let that be chosen.
    pub fn fixed_lifetime(&self) -> Option<Duration> {
        self.cloud.lifetime()
    }

    /// Waits until no change of the cloud is under way, as long as one may take.
    pub async fn finish(&self) {
        if tokio::time::timeout(FINISH_TIME, self.turn.lock()).await.is_err() {
            tracing::warn!(tenant = %self.tenant(), "a change of the cloud is cut off");
        }
    }

    pub fn provider(&self) -> Provider {
        self.cloud.provider()
    }

    /// Follows until told to stop. Rows come from the `enrolments` alone if there are any.
    pub async fn run(self: Arc<Self>, enrolments: Option<Enrolments>, stop: CancellationToken) {
        // Side by side: a listing that hangs keeps nobody from telling the cloud.
        let both = async { tokio::join!(self.keep_listing(enrolments), self.keep_telling()) };
        stop.run_until_cancelled(both).await;
    }

    async fn keep_listing(self: &Arc<Self>, mut enrolments: Option<Enrolments>) {
        let mut pace = Pace::default();
        loop {
            let begun = self.clock.now();
            if let Some(enrolments) = &mut enrolments
                && enrolments.look()
                && let Err(trouble) = self.enroll_all(enrolments.rows()).await
            {
                tracing::error!(tenant = %self.tenant(), "the enrolments do not count: {trouble}");
                enrolments.again();
            }
            let rows = enrolments.as_ref().map(Enrolments::rows);
            let can_list = enrolments.as_ref().is_none_or(Enrolments::are_read);
            if can_list && pace.is_due(&begun) {
                let listed = self.poll(rows.unwrap_or_default()).await;
                self.note("listed", &mut pace, &begun, &listed, self.interval);
                self.metrics.source_refresh.with_label_values(&[word(&listed)]).inc();
                let up = self.metrics.source_up.with_label_values(&[self.tenant().as_str()]);
                up.set(i64::from(listed.is_ok()));
            }
            let left = if can_list { pace.left(&self.clock.now()) } else { TICK };
            tokio::time::sleep(left.min(TICK)).await;
        }
    }

    async fn keep_telling(self: &Arc<Self>) {
        let mut pace = Pace::default();
        loop {
            let begun = self.clock.now();
            let told = self.tell().await;
            self.note("told", &mut pace, &begun, &told, TELL_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pace.left(&self.clock.now())) => {}
                () = self.news.notified() => {}
            }
        }
    }

    /// Lists once. `enrolments` are rows that are to be there beside those that are.
    async fn poll(self: &Arc<Self>, enrolments: &[Credential]) -> Result<(), Trouble> {
        let number = {
            let mut known = self.known();
            known.begun += 1;
            known.begun
        };
        let begun = self.clock.now();
        let listed = self.cloud.list().await.map_err(Trouble::Cloud)?;
        let listing = listed.into_iter().map(|it| (it.id.clone(), it)).collect::<Listing>();
        let listing = Arc::new(listing);
        let written = self.settle(number, begun.wall, &listing, enrolments, false).await;
        if let Err(WriteError::Full) = written {
            // What takes rights away has room still; the listing as a whole does not count.
            self.settle(number, begun.wall, &listing, enrolments, true).await?;
        }
        written?;
        if !self.known().listed(listing, number) {
            return Ok(());
        }
        self.replicas.lags.read(self.tenant(), begun);
        // Of use after a restart alone, and no reason to be older now.
        if let Err(failed) = self.store.note_read(self.tenant(), begun.wall).await {
            tracing::warn!(tenant = %self.tenant(), "when the cloud was read was not noted: {failed}");
        }
        Ok(())
    }

    /// Writes what a listing makes of the rows, or only what of that takes rights away.
    async fn settle(
        self: &Arc<Self>,
        number: u64,
        wall: Timestamp,
        listing: &Arc<Listing>,
        enrolments: &[Credential],
        restricts: bool,
    ) -> Result<Written, WriteError> {
        let (mirror, rows) = (Arc::clone(self), Arc::clone(listing));
        let enrolments = enrolments.to_vec();
        let decide = Box::new(move |view: &View| {
            if !mirror.known().counts(number) {
                return Ok(Vec::new());
            }
            let held = |id: &CredentialId| mirror.is_held(id, number);
            let mut edits = super::rules::declare(view)?;
            edits.extend(rules::settle(view, &rows, wall, held));
            let new = enrolments.iter().filter(|row| view.record(&row.id).is_none());
            let new = new.filter(|row| !held(&row.id)).cloned().collect::<Vec<_>>();
            edits.extend(rules::take_up(&new, mirror.provider(), &rows, false, wall));
            edits.retain(|edit| !restricts || rules::takes_away(view, edit));
            Ok(edits)
        });
        self.write(self.entry("mirror.list", None), None, restricts, decide).await
    }

    /// Makes the rows those of a file. Before the first listing there is nothing to say of them.
    async fn enroll_all(self: &Arc<Self>, rows: &[Credential]) -> Result<(), Trouble> {
        let (listing, begun) = {
            let known = self.known();
            let Some(listing) = known.listing.clone() else { return Ok(()) };
            (listing, known.begun)
        };
        let (mirror, rows) = (Arc::clone(self), rows.to_vec());
        let now = self.clock.now().wall;
        let decide = Box::new(move |view: &View| {
            let edits = rules::enroll_file(view, &rows, mirror.provider(), &listing, now);
            let mut known = mirror.known();
            for edit in &edits {
                if let Edit::Put(record) = edit {
                    known.confirmed.insert(record.credential.id.clone(), begun);
                }
            }
            Ok(edits)
        });
        self.write(self.entry("mirror.enroll", None), None, false, decide).await?;
        Ok(())
    }

    /// Tells the cloud what it does not know yet.
    async fn tell(self: &Arc<Self>) -> Result<(), Trouble> {
        let _turn = self.turn.lock().await;
        let mut outcome = Ok(());
        for (id, standing) in rules::pending(&self.records().await?) {
            let told = match standing {
                Standing::DeletePending => self.cloud.delete(&id).await,
                _ => self.cloud.set_status(&id, Status::Disabled).await,
            };
            match told {
                Ok(()) | Err(CloudError::Missing) => self.confirm(&id, standing).await?,
                Err(error) => outcome = Err(Trouble::Cloud(error)),
            }
        }
        outcome
    }

    /// Notes that the cloud knows of what was pending.
    async fn confirm(
        self: &Arc<Self>,
        id: &CredentialId,
        standing: Standing,
    ) -> Result<(), Trouble> {
        let status = (standing == Standing::DisablePending).then_some(Status::Disabled);
        self.known().changed(id, status);
        let named = id.clone();
        let decide = Box::new(move |view: &View| Ok(rules::confirm(view, &named, standing)));
        self.write(self.entry("mirror.confirm", Some(id)), None, true, decide).await?;
        Ok(())
    }

    async fn records(&self) -> Result<Vec<Record>, Trouble> {
        let filter =
            Filter { tenant: self.tenant().clone(), after: None, expires_by: None, rows: ROWS_MAX };
        let found = self.store.records(&filter).await;
        Ok(found.map_err(|Failed(what)| Trouble::Store(what))?.records)
    }

    fn is_held(&self, id: &CredentialId, listing: u64) -> bool {
        self.known().confirmed.get(id).is_some_and(|confirmed| *confirmed >= listing)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, action: &'static str, id: Option<&CredentialId>) -> AuditEntry {
        AuditEntry {
            time: self.clock.now().wall,
            actor: "mirror".to_owned(),
            peer: String::new(),
            request_id: String::new(),
            action,
            tenant: Some(self.tenant().clone()),
            credential_id: id.cloned(),
            detail: String::new(),
        }
    }

    async fn write(
        &self,
        audit: AuditEntry,
        digest: Option<TokenDigest>,
        restricts: bool,
        decide: Decide,
    ) -> Result<Written, WriteError> {
        let order = Order { tenant: self.tenant().clone(), digest, decide, audit, restricts };
        self.store.write(order).await
    }

    /// Sets the pace for the next time, and says once when something fails and once when it works.
    fn note(
        &self,
        act: &str,
        pace: &mut Pace,
        begun: &Now,
        outcome: &Result<(), Trouble>,
        pause: Duration,
    ) {
        let (tenant, cloud) = (self.tenant(), self.cloud.name());
        let was_failing = pace.failures > 0;
        match outcome {
            Ok(()) => {
                *pace = Pace { due: Some(begun.boot.plus(pause)), failures: 0 };
                if was_failing {
                    tracing::info!(%tenant, cloud, "the cloud is {act} again");
                }
            }
            Err(trouble) => {
                pace.failures = pace.failures.saturating_add(1);
                let now = self.clock.now();
                pace.due = Some(now.boot.plus(trouble.pause(pace.failures, pause)));
                if !was_failing {
                    tracing::error!(%tenant, cloud, "the cloud cannot be {act}, all stays as it was: {trouble}");
                }
            }
        }
    }
}

fn word(outcome: &Result<(), Trouble>) -> &'static str {
    match outcome {
        Ok(()) => "success",
        Err(Trouble::Cloud(error)) => error.word(),
        Err(Trouble::Store(_)) => "store",
    }
}

/// When something is due again.
#[derive(Default)]
struct Pace {
    due: Option<Uptime>,
    failures: u32,
}

impl Pace {
    fn is_due(&self, now: &Now) -> bool {
        self.due.is_none_or(|due| due <= now.boot)
    }

    fn left(&self, now: &Now) -> Duration {
        self.due.map_or(Duration::ZERO, |due| due.since(now.boot))
    }
}

impl Trouble {
    /// Until the next try: the usual time, doubling to a minute, and not before the cloud wants to be
    /// asked again.
    fn pause(&self, failures: u32, usual: Duration) -> Duration {
        let doubled = usual.saturating_mul(2u32.saturating_pow(failures.min(16) - 1));
        let pause = doubled.clamp(usual, PAUSE_MAX.max(usual));
        match self {
            Self::Cloud(CloudError::Throttled { retry_after: Some(wait) }) => pause.max(*wait),
            _ => pause,
        }
    }
}

/// A zone or directory has two.
const ROWS_MAX: usize = 10_000;
const TICK: Duration = Duration::from_secs(1);
/// Between two looks for what the cloud is still to be told.
const TELL_PAUSE: Duration = Duration::from_secs(1);
/// A little longer than a cloud is waited for.
const FINISH_TIME: Duration = Duration::from_secs(16);
const PAUSE_MAX: Duration = Duration::from_secs(60);

//! Is this token good now? Hides table, cache, epochs, deny file and every source behind
//! [`Seat::judge`]. It never says no to a token because of its own ignorance.

mod apply;
mod cache;
pub mod drive;
pub mod files;
pub mod follow;
mod listing;
mod table;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Now, Uptime};
use crate::config::Credentials;
use crate::credential::feed::Lag;
use crate::credential::{Credential, Status, TenantId, TokenDigest, Verdict};
use crate::guards::{Guard, off};
use crate::source::file::DenyList;
use crate::telemetry::metrics::Metrics;
pub use apply::Applier;
use cache::{Cells, Contended, Epoch, Epochs, Filed, Found, Memo, find};
use table::{Entry, Index};

/// The one state that all workers ask and the follower changes.
pub struct Authority {
    index: Index,
    deny: ArcSwap<DenyList>,
    /// Tenants that the source knows, or that rows name.
    tenants: ArcSwap<HashMap<TenantId, Arc<TenantState>>>,
    epochs: Epochs,
    cache: moka::sync::Cache<TokenDigest, Filed<Arc<Grant>>, cache::DigestHash>,
    /// When the source last confirmed what the table holds; none before the first listing.
    confirmed: ArcSwapOption<Confirmation>,
    /// The longest that the admin API knows us to accept on an unconfirmed table, in milliseconds.
    leased: AtomicU64,
    /// The source's state is not a successor of ours: nothing that it adds counts.
    disputed: AtomicBool,
    /// Where single tokens can be asked for, if the source can tell.
    asks: OnceLock<mpsc::Sender<Inquiry>>,
    /// Tokens that the source has just denied to know.
    unknown: moka::sync::Cache<TokenDigest, Denial, cache::DigestHash>,
    terms: Terms,
    metrics: Arc<Metrics>,
}

/// The source's word that the table was its state at a time.
pub struct Confirmation {
    at: Now,
    /// Tenants that were older even there.
    lags: HashMap<TenantId, Lag>,
}

impl Confirmation {
    pub fn new(at: Now, lags: Vec<Lag>) -> Arc<Self> {
        let lags = lags.into_iter().map(|lag| (lag.tenant.clone(), lag)).collect();
        Arc::new(Self { at, lags })
    }

    /// Time since the state of a tenant's rows, or of the oldest one's, was confirmed, and how much
    /// of it is as usual. What was never read has no age.
    fn age(&self, tenant: Option<&str>, now: &Now) -> Age {
        let age = |lag: &Lag| Age {
            since: lag.age.map(|age| now.age(&self.at).saturating_add(age)),
            usual: 2 * lag.interval,
        };
        let since = Some(now.age(&self.at));
        let own = Age { since, usual: Duration::ZERO };
        match tenant {
            _ if self.lags.is_empty() => own,
            Some(tenant) => self.lags.get(tenant).map_or(own, age),
            None => self.lags.values().map(age).fold(own, Age::older),
        }
    }
}

struct Age {
    since: Option<Duration>,
    usual: Duration,
}

impl Age {
    fn is_within(&self, most: Duration) -> bool {
        self.since.is_some_and(|since| since <= most)
    }

    /// The one of two that is further beyond what is usual.
    fn older(self, other: Self) -> Self {
        let excess =
            |age: &Self| age.since.map_or(Duration::MAX, |since| since.saturating_sub(age.usual));
        if excess(&other) > excess(&self) { other } else { self }
    }
}

/// A tenant's switch, which counts at once and for all its tokens.
#[derive(Debug)]
pub struct TenantState {
    synchronizes: AtomicBool,
}

impl TenantState {
    fn enabled() -> Self {
        Self { synchronizes: AtomicBool::new(true) }
    }

    /// Whether that is a change.
    fn set_synchronization(&self, status: Status) -> bool {
        let on = status == Status::Enabled;
        self.synchronizes.swap(on, Ordering::AcqRel) != on
    }

    pub fn synchronizes(&self) -> bool {
        self.synchronizes.load(Ordering::Acquire)
    }
}

/// A token that the source is asked for. The answer comes when the table has what is known of it.
pub struct Inquiry {
    pub digest: TokenDigest,
    pub answer: oneshot::Sender<Answer>,
    /// When it was begun.
    epoch: Epoch,
    at: Uptime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The table has it now.
    Known,
    Unknown,
    /// It could not be asked, or its answer does not count.
    Undecided,
}

/// An answer "unknown", good while its epoch stands and for a few seconds.
#[derive(Clone, Copy)]
struct Denial {
    epoch: Epoch,
    at: Uptime,
}

/// How long the source is not asked again for a token that it does not know.
const UNKNOWN_TTL: Duration = Duration::from_secs(5);
/// For one answer about a token.
const ASK_TIME: Duration = Duration::from_secs(2);
/// Tokens asked for at a time; beyond them 503.
pub const ASKS_MAX: usize = 256;

/// A credential in use, resolved.
#[derive(Debug)]
pub struct Grant {
    entry: Arc<Entry>,
    /// The entry's: one step less on the way of every request.
    credential: Arc<Credential>,
    tenant: Arc<TenantState>,
    denied: bool,
}

impl Grant {
    pub fn credential(&self) -> &Arc<Credential> {
        &self.credential
    }

    pub fn judge(&self, now: &Now) -> Verdict {
        match self.credential().judge(now) {
            Verdict::Disabled => Verdict::Disabled,
            _ if self.denied => Verdict::Denied,
            verdict => verdict,
        }
    }

    /// Whether the tenant's provisioning is switched on.
    pub fn synchronizes(&self) -> bool {
        self.tenant.synchronizes()
    }

    /// Notes that it has let a request pass.
    pub fn used(&self, now: &Now) {
        self.entry.touch(now);
    }
}

/// What we know of a token.
pub enum Judgement {
    Known(Held),
    /// The deny file names a digest that is in no table.
    Denied,
    Unknown,
}

/// We cannot say whether there is such a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No listing was ever loaded.
    Unloaded,
    /// The table is too old to deny what may have been added since.
    UnknownWhileStale,
    /// Changes came faster than we could look.
    Contended,
    /// The source could not be asked for the token.
    Unasked,
}

/// How much a request can do, which decides how old the table may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A grant as it was found, good while its epoch stands.
#[derive(Clone)]
pub struct Held {
    pub grant: Arc<Grant>,
    digest: TokenDigest,
    epoch: Epoch,
}

impl Held {
    pub fn digest(&self) -> TokenDigest {
        self.digest
    }
}

/// How long the table may go unconfirmed; changes with a reload.
struct Terms {
    refresh: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Terms {
    fn new(config: &Credentials) -> Self {
        let terms = Self {
            refresh: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        };
        terms.set(config);
        terms
    }

    fn set(&self, config: &Credentials) {
        let millis = |span: crate::config::value::Span| span.0.as_millis() as u64;
        self.refresh.store(millis(config.refresh), Ordering::Relaxed);
        self.reads.store(millis(config.max_stale.reads), Ordering::Relaxed);
        self.writes.store(millis(config.max_stale.writes), Ordering::Relaxed);
    }
}

impl Authority {
    pub fn new(config: &Credentials, metrics: Arc<Metrics>) -> Arc<Self> {
        let cache = moka::sync::Cache::builder()
            .max_capacity(config.cache.entries)
            .build_with_hasher(cache::DigestHash::default());
        Arc::new(Self {
            index: Index::new(),
            deny: ArcSwap::default(),
            tenants: ArcSwap::default(),
            epochs: Epochs::new(),
            cache,
            confirmed: ArcSwapOption::empty(),
            leased: AtomicU64::new(u64::MAX),
            disputed: AtomicBool::new(false),
            asks: OnceLock::new(),
            unknown: moka::sync::Cache::builder()
                .max_capacity(config.cache.unknown_entries)
                .build_with_hasher(cache::DigestHash::default()),
            terms: Terms::new(config),
            metrics,
        })
    }

    /// One worker's place to ask from.
    pub fn seat(self: &Arc<Self>) -> Seat {
        Seat { authority: Arc::clone(self), memo: RefCell::default() }
    }

    /// Takes over `refresh` and `max_stale` of a new config.
    pub fn reconfigure(&self, config: &Credentials) {
        self.terms.set(config);
    }

    pub fn is_loaded(&self) -> bool {
        self.confirmed.load().is_some()
    }

    /// Time since the source last confirmed the table.
    pub fn age(&self, now: &Now) -> Option<Duration> {
        self.confirmed.load().as_ref().map(|it| now.age(&it.at))
    }

    /// Time since the clouds of mirrored tenants were read; none for one that never was.
    pub fn lags(&self, now: &Now) -> Vec<(TenantId, Option<Duration>)> {
        let confirmed = self.confirmed.load();
        let age = |it: &Confirmation, tenant: &TenantId| it.age(Some(tenant.as_str()), now).since;
        let all =
            confirmed.iter().flat_map(|it| it.lags.keys().map(|key| (key.clone(), age(it, key))));
        all.collect()
    }

    /// Whether the table is fresh enough to let a live token of a tenant do this.
    pub fn trusts_table(&self, access: Access, tenant: &TenantId, now: &Now) -> bool {
        let most = match access {
            Access::Read => &self.terms.reads,
            Access::Write => &self.terms.writes,
        };
        let confirmed = self.confirmed.load();
        let age = |it: &Arc<Confirmation>| it.age(Some(tenant.as_str()), now);
        let most = millis(most);
        confirmed
            .as_ref()
            .is_some_and(|it| age(it).is_within(most) && now.age(&it.at) <= millis(&self.leased))
    }

    /// The admin API has heard for how long we accept: a longer time that a reload brings counts
    /// from here on, since receipts rely on the one that was told.
    fn lease(&self, max_stale: Duration) {
        self.leased.store(max_stale.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn declares(&self, tenant: &str) -> bool {
        self.tenants.load().contains_key(tenant)
    }

    /// Whether the source tells of a state that does not follow from ours.
    pub fn is_disputed(&self) -> bool {
        self.disputed.load(Ordering::Acquire)
    }

    /// Lets single tokens be asked for.
    pub fn answer_by(&self, asks: mpsc::Sender<Inquiry>) {
        // There is one source a process.
        let _ = self.asks.set(asks);
    }

    /// The table is as the source had it then.
    pub fn confirm(&self, then: Arc<Confirmation>) {
        self.confirmed.store(Some(then));
    }

    /// The source does not know this token. Kept also if nobody waits for the answer any more.
    fn note_unknown(&self, inquiry: &Inquiry) {
        let Inquiry { digest, epoch, at, .. } = *inquiry;
        self.unknown.insert(digest, Denial { epoch, at });
    }

    /// The answer about what is in no table: no, if we can be sure of it. `tenant` is that of the
    /// route, if there is one.
    pub fn unknown(&self, tenant: Option<&str>, now: &Now) -> Result<Judgement, Unavailable> {
        let confirmed = self.confirmed.load();
        let Some(confirmed) = confirmed.as_ref() else { return Err(Unavailable::Unloaded) };
        let age = confirmed.age(tenant, now);
        if self.is_disputed() || !age.is_within(2 * millis(&self.terms.refresh) + age.usual) {
            return Err(Unavailable::UnknownWhileStale);
        }
        Ok(Judgement::Unknown)
    }
}

fn millis(value: &AtomicU64) -> Duration {
    Duration::from_millis(value.load(Ordering::Relaxed))
}

impl Cells for Authority {
    type Grant = Arc<Grant>;

    fn epoch(&self, digest: &TokenDigest) -> Epoch {
        self.epochs.of(digest)
    }

    fn filed(&self, digest: &TokenDigest) -> Option<Filed<Arc<Grant>>> {
        self.cache.get(digest)
    }

    fn file(&self, digest: &TokenDigest, find: Filed<Arc<Grant>>) {
        self.cache.insert(*digest, find);
    }

    fn resolve(&self, digest: &TokenDigest) -> Option<Arc<Grant>> {
        let entry = self.index.get(digest)?;
        let denied = self.deny.load().names(&entry.credential);
        let known = self.tenants.load().get(&entry.credential.tenant).cloned();
        let tenant = known.unwrap_or_else(|| Arc::new(TenantState::enabled()));
        let credential = Arc::clone(&entry.credential);
        Some(Arc::new(Grant { entry, credential, tenant, denied }))
    }
}

/// One worker's place to ask from, with a memo of its own.
pub struct Seat {
    authority: Arc<Authority>,
    memo: RefCell<Memo<Arc<Grant>>>,
}

impl Seat {
    /// Is this token good now? What a known one is worth, [`Grant::judge`] says.
    /// `tenant` is the route's, if there is one.
    pub fn judge(
        &self,
        digest: &TokenDigest,
        tenant: Option<&str>,
        now: &Now,
    ) -> Result<Judgement, Unavailable> {
        let authority = &*self.authority;
        let (metrics, memo) = (&authority.metrics, &mut self.memo.borrow_mut());
        let found = find(authority, memo, digest).map_err(|Contended| Unavailable::Contended)?;
        let (counter, find) = match found {
            Found::InMemo(find) => (&metrics.cache_memo, Some(find)),
            Found::InCache(find) => (&metrics.cache_hit, Some(find)),
            Found::InTable(find) => (&metrics.cache_miss, Some(find)),
            Found::Nothing => (&metrics.cache_miss, None),
        };
        counter.inc();
        match find {
            Some(Filed { grant, epoch }) => {
                Ok(Judgement::Known(Held { grant, digest: *digest, epoch }))
            }
            None if authority.deny.load().names_digest(digest) => Ok(Judgement::Denied),
            None => authority.unknown(tenant, now),
        }
    }

    /// Whether the source may know a token that the table does not.
    pub fn can_ask(&self, digest: &TokenDigest, now: &Now) -> bool {
        let authority = &self.authority;
        let denied = |denial: &Denial| {
            denial.epoch == authority.epoch(digest) && now.boot.since(denial.at) < UNKNOWN_TTL
        };
        authority.asks.get().is_some()
            && !authority.unknown.get(digest).is_some_and(|it| denied(&it))
    }

    /// Asks the source for a token. Afterwards the table has what there is to know, so judge again.
    pub async fn ask(&self, digest: &TokenDigest, now: &Now) -> Result<(), Unavailable> {
        let asks = self.authority.asks.get().ok_or(Unavailable::Unasked)?;
        let epoch = self.authority.epoch(digest);
        let (answer, answered) = oneshot::channel();
        let inquiry = Inquiry { digest: *digest, answer, epoch, at: now.boot };
        asks.try_send(inquiry).map_err(|_| Unavailable::Unasked)?;
        match tokio::time::timeout(ASK_TIME, answered).await {
            Ok(Ok(Answer::Known | Answer::Unknown)) => Ok(()),
            _ => Err(Unavailable::Unasked),
        }
    }

    /// Whether nothing has changed about this grant since it was found.
    pub fn stands(&self, held: &Held) -> bool {
        off(Guard::Epochs) || self.authority.epoch(&held.digest) == held.epoch
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

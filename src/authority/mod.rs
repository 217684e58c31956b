//! Is this token good now? Hides table, cache, epochs, deny file and every source behind
//! [`Seat::judge`]. It never says no to a token because of its own ignorance.

mod cache;
pub mod follow;
mod table;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Now;
use crate::config::Credentials;
use crate::credential::{Credential, TenantId, TokenDigest, Verdict};
use crate::source::file::DenyList;
use crate::telemetry::metrics::Metrics;
use cache::{Cells, Contended, Epoch, Epochs, Filed, Found, Memo, find};
use table::Index;

/// The one state that all workers ask and the follower changes.
pub struct Authority {
    index: Index,
    deny: ArcSwap<DenyList>,
    /// Tenants that the table names.
    tenants: ArcSwap<std::collections::HashSet<TenantId>>,
    epochs: Epochs,
    cache: moka::sync::Cache<TokenDigest, Filed<Arc<Grant>>, cache::DigestHash>,
    /// When the source last confirmed what the table holds; none before the first listing.
    confirmed: ArcSwapOption<Now>,
    terms: Terms,
    metrics: Arc<Metrics>,
}

/// A credential in use, resolved.
#[derive(Debug)]
pub struct Grant {
    pub credential: Arc<Credential>,
    denied: bool,
}

impl Grant {
    pub fn judge(&self, now: &Now) -> Verdict {
        match self.credential.judge(now) {
            Verdict::Disabled => Verdict::Disabled,
            _ if self.denied => Verdict::Denied,
            verdict => verdict,
        }
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
        self.confirmed.load().as_ref().map(|then| now.age(then))
    }

    /// Whether the table is fresh enough to let a live token do this.
    pub fn trusts_table(&self, access: Access, now: &Now) -> bool {
        let most = match access {
            Access::Read => &self.terms.reads,
            Access::Write => &self.terms.writes,
        };
        self.age(now).is_some_and(|age| age <= millis(most))
    }

    pub fn declares(&self, tenant: &str) -> bool {
        self.tenants.load().contains(tenant)
    }

    /// The answer about what is in no table: no, if we can be sure of it.
    pub fn unknown(&self, now: &Now) -> Result<Judgement, Unavailable> {
        match self.age(now) {
            None => Err(Unavailable::Unloaded),
            Some(age) if age > 2 * millis(&self.terms.refresh) => {
                Err(Unavailable::UnknownWhileStale)
            }
            Some(_) => Ok(Judgement::Unknown),
        }
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
        let credential = self.index.get(digest)?;
        let denied = self.deny.load().names(&credential);
        Some(Arc::new(Grant { credential, denied }))
    }
}

/// One worker's place to ask from, with a memo of its own.
pub struct Seat {
    authority: Arc<Authority>,
    memo: RefCell<Memo<Arc<Grant>>>,
}

impl Seat {
    /// Is this token good now? What a known one is worth, [`Grant::judge`] says.
    pub fn judge(&self, digest: &TokenDigest, now: &Now) -> Result<Judgement, Unavailable> {
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
            None => authority.unknown(now),
        }
    }

    /// Whether nothing has changed about this grant since it was found.
    pub fn stands(&self, held: &Held) -> bool {
        self.authority.epoch(&held.digest) == held.epoch
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

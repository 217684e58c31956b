//! Exact revocation over caches that are not: epochs.
//!
//! Whoever changes what a digest means writes the change first and raises the digest's epoch then.
//! Whoever looks a digest up reads the epoch first, and files what was found under the epoch read.
//! A find counts only while its epoch stands. So a find made before a change can be filed after
//! it, as often and as late as it likes: it is never used.
//!
//! [`find`] is that rule and nothing else, over four cells that may be anything. A model checker
//! runs it over all interleavings (see the tests).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::credential::TokenDigest;

/// What workers and the applier share.
pub trait Cells {
    type Grant: Clone;

    fn epoch(&self, digest: &TokenDigest) -> Epoch;
    fn filed(&self, digest: &TokenDigest) -> Option<Filed<Self::Grant>>;
    fn file(&self, digest: &TokenDigest, find: Filed<Self::Grant>);
    /// What the table says now.
    fn resolve(&self, digest: &TokenDigest) -> Option<Self::Grant>;
}

/// A find under the epoch that stood before it was made.
#[derive(Clone)]
pub struct Filed<G> {
    pub grant: G,
    pub epoch: Epoch,
}

/// Changes raced with every one of our rounds.
#[derive(Debug, PartialEq, Eq)]
pub struct Contended;

/// What a digest means, if anything, and which place knew it.
pub enum Found<G> {
    InMemo(Filed<G>),
    InCache(Filed<G>),
    InTable(Filed<G>),
    Nothing,
}

/// What a digest means, in the state of now or of a later moment.
pub fn find<C: Cells>(
    cells: &C,
    memo: &mut Memo<C::Grant>,
    digest: &TokenDigest,
) -> Result<Found<C::Grant>, Contended> {
    let mut epoch = cells.epoch(digest);
    if let Some(find) = memo.0.get(digest)
        && find.epoch == epoch
    {
        return Ok(Found::InMemo(find.clone()));
    }
    for _ in 0..ROUNDS {
        if let Some(find) = cells.filed(digest)
            && find.epoch == epoch
        {
            memo.keep(digest, find.clone());
            return Ok(Found::InCache(find));
        }
        let found = cells.resolve(digest).map(|grant| Filed { grant, epoch });
        if let Some(find) = &found {
            cells.file(digest, find.clone());
            memo.keep(digest, find.clone());
        }
        let standing = cells.epoch(digest);
        if standing == epoch {
            return Ok(found.map_or(Found::Nothing, Found::InTable));
        }
        epoch = standing;
    }
    Err(Contended)
}

const ROUNDS: usize = 3;

/// One worker's few latest finds: no lock, no sharing, no cleverness.
pub struct Memo<G>(HashMap<TokenDigest, Filed<G>, DigestHash>);

impl<G> Default for Memo<G> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<G> Memo<G> {
    fn keep(&mut self, digest: &TokenDigest, find: Filed<G>) {
        if self.0.len() >= MEMO_ENTRIES {
            self.0.clear();
        }
        self.0.insert(*digest, find);
    }
}

const MEMO_ENTRIES: usize = 1024;

/// How often what a digest means has changed: a count for its stripe, and one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    stripe: u64,
    all: u64,
}

/// The counts, striped by digest so that one change spoils few finds.
pub struct Epochs {
    stripes: Box<[AtomicU64]>,
    all: AtomicU64,
}

impl Epochs {
    pub fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(), all: AtomicU64::new(0) }
    }

    pub fn of(&self, digest: &TokenDigest) -> Epoch {
        Epoch {
            stripe: self.stripe(digest).load(Ordering::Acquire),
            all: self.all.load(Ordering::Acquire),
        }
    }

    pub fn raise(&self, digest: &TokenDigest) {
        self.stripe(digest).fetch_add(1, Ordering::AcqRel);
    }

    /// For changes that may concern any digest.
    pub fn raise_all(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    fn stripe(&self, digest: &TokenDigest) -> &AtomicU64 {
        &self.stripes[digest.bits() as usize % STRIPES]
    }
}

const STRIPES: usize = 1024;

/// A digest is its own hash.
pub type DigestHash = BuildHasherDefault<DigestBits>;

#[derive(Default)]
pub struct DigestBits(u64);

impl Hasher for DigestBits {
    /// Takes the last eight bytes: the derived `Hash` also sends the length ahead of them.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The rule of epochs under loom: every interleaving of the atomic steps of an applier, a worker
/// that decides and another that fills the cache meanwhile.
#[cfg(test)]
mod model {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use loom::sync::{Arc, Mutex};

    use super::*;

    /// The cells, each a single atomic step. `guards` can be left out to see the model fail.
    struct Model {
        guards: Guards,
        epoch: AtomicU64,
        row_is_live: AtomicBool,
        cache: Mutex<Option<Filed<bool>>>,
        /// Held by a worker while it is within one turn of its loop.
        turn: Mutex<()>,
        applied: AtomicBool,
    }

    #[derive(Clone, Copy)]
    struct Guards {
        epochs: bool,
        round_of_workers: bool,
    }

    impl Cells for Model {
        type Grant = bool;

        fn epoch(&self, _: &TokenDigest) -> Epoch {
            let stripe = if self.guards.epochs { self.epoch.load(Ordering::Acquire) } else { 0 };
            Epoch { stripe, all: 0 }
        }

        fn filed(&self, _: &TokenDigest) -> Option<Filed<bool>> {
            self.cache.lock().expect("not poisoned").clone()
        }

        fn file(&self, _: &TokenDigest, find: Filed<bool>) {
            *self.cache.lock().expect("not poisoned") = Some(find);
        }

        fn resolve(&self, _: &TokenDigest) -> Option<bool> {
            Some(self.row_is_live.load(Ordering::Acquire))
        }
    }

    impl Model {
        /// The applier's side: disable the credential and count that as applied.
        fn disable(&self) {
            self.row_is_live.store(false, Ordering::Release);
            self.epoch.fetch_add(1, Ordering::AcqRel);
            *self.cache.lock().expect("not poisoned") = None;
            if self.guards.round_of_workers {
                drop(self.turn.lock().expect("not poisoned"));
            }
            self.applied.store(true, Ordering::Release);
        }

        /// A worker's side: look up, wait for a connection, check again and write, both in one
        /// turn. The write must not follow a disable that counts as applied.
        fn forward(&self, memo: &mut Memo<bool>, digest: &TokenDigest) {
            let (Ok(Found::InMemo(find)) | Ok(Found::InCache(find)) | Ok(Found::InTable(find))) =
                find(self, memo, digest)
            else {
                return;
            };
            let _turn = self.turn.lock().expect("not poisoned");
            let stands = self.epoch(digest) == find.epoch;
            if find.grant && stands {
                assert!(!self.applied.load(Ordering::Acquire), "written on an older permit");
            }
        }
    }

    fn explore(guards: Guards) -> bool {
        let explored = catch_unwind(AssertUnwindSafe(|| {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(3);
            builder.check(move || {
                let model = Arc::new(Model {
                    guards,
                    epoch: AtomicU64::new(0),
                    row_is_live: AtomicBool::new(true),
                    cache: Mutex::new(None),
                    turn: Mutex::new(()),
                    applied: AtomicBool::new(false),
                });
                let digest = TokenDigest::of(b"token");
                let filler = Arc::clone(&model);
                let filling = loom::thread::spawn(move || {
                    let _ = find(&*filler, &mut Memo::default(), &digest);
                });
                let worker = Arc::clone(&model);
                let deciding = loom::thread::spawn(move || {
                    let mut memo = Memo::default();
                    worker.forward(&mut memo, &digest);
                    worker.forward(&mut memo, &digest);
                });
                model.disable();
                filling.join().expect("a filler ends");
                deciding.join().expect("a worker ends");
                model.forward(&mut Memo::default(), &digest);
            });
        }));
        explored.is_ok()
    }

    #[test]
    fn no_decision_uses_a_state_older_than_the_applied_one() {
        assert!(explore(Guards { epochs: true, round_of_workers: true }));
    }

    #[test]
    fn without_epochs_a_revoked_token_is_accepted() {
        assert!(!explore(Guards { epochs: false, round_of_workers: true }));
    }

    #[test]
    fn without_the_round_of_the_workers_a_write_follows_the_revocation() {
        assert!(!explore(Guards { epochs: true, round_of_workers: false }));
    }
}

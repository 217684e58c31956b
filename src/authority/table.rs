//! The rows, which belong to credentials, and the index from digest to row. One applier owns the
//! rows and makes all changes; workers see the index.
//!
//! Whatever arrives late, twice or out of order, a row never goes back and a removed row never
//! returns: each row carries the revision of its change, and each removal leaves a grave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

use super::cache::DigestHash;
use crate::clock::{Now, Timestamp};
use crate::credential::feed::{PageKey, Row, Use};
use crate::credential::{Credential, Expiry, Revision, Status, TokenDigest};
use crate::guards::{Guard, off};

/// A credential in the index, and the minute of its last use.
#[derive(Debug)]
pub struct Entry {
    pub credential: Arc<Credential>,
    used: AtomicU32,
}

impl Entry {
    fn new(credential: Arc<Credential>) -> Self {
        Self { credential, used: AtomicU32::new(0) }
    }

    /// Notes a use. Costs a write only once a minute.
    pub fn touch(&self, now: &Now) {
        let minute = minute_of(now.wall);
        if self.used.load(Ordering::Relaxed) != minute {
            self.used.store(minute, Ordering::Relaxed);
        }
    }
}

fn minute_of(time: Timestamp) -> u32 {
    u32::try_from(time.as_millis() / MINUTE).unwrap_or_default()
}

const MINUTE: i64 = 60_000;

/// What workers look tokens up in.
pub struct Index(DashMap<TokenDigest, Arc<Entry>, DigestHash>);

impl Index {
    pub fn new() -> Self {
        Self(DashMap::with_capacity_and_hasher_and_shard_amount(0, DigestHash::default(), SHARDS))
    }

    pub fn get(&self, digest: &TokenDigest) -> Option<Arc<Entry>> {
        self.0.get(digest).map(|entry| Arc::clone(&entry))
    }

    /// Removes the digest if it still leads to this credential: another may have taken it over.
    fn remove(&self, digest: &TokenDigest, owner: &PageKey) {
        let owned = |entry: &Arc<Entry>| {
            (&entry.credential.tenant, &entry.credential.id) == (&owner.0, &owner.1)
        };
        self.0.remove_if(digest, |_, entry| owned(entry));
    }
}

const SHARDS: usize = 128;

/// The applier's view: every row under the credential it belongs to. Each of its acts calls
/// `changed` for each digest whose meaning has just changed.
pub struct Table {
    rows: HashMap<PageKey, Held>,
    /// Rows removed since the last listing, which may have been read before.
    graves: HashMap<PageKey, Revision>,
}

struct Held {
    entry: Arc<Entry>,
    revision: Revision,
}

impl Table {
    pub fn new() -> Self {
        Self { rows: HashMap::new(), graves: HashMap::new() }
    }

    pub fn rows(&self) -> impl Iterator<Item = &Credential> {
        self.rows.values().map(|row| &*row.entry.credential)
    }

    pub fn get(&self, key: &PageKey) -> Option<&Credential> {
        self.rows.get(key).map(|row| &*row.entry.credential)
    }

    /// Takes a row, unless a newer one is here or has been.
    pub fn put(&mut self, row: Row, index: &Index, mut changed: impl FnMut(&TokenDigest)) {
        let key = row.key();
        if !self.is_news(&key, row.revision) {
            return;
        }
        let retired = self.insert(key.clone(), row, index, &mut changed);
        if let Some(digest) = retired {
            index.remove(&digest, &key);
            changed(&digest);
        }
    }

    /// Whether a row of this revision is newer than all that is known of the credential.
    fn is_news(&self, key: &PageKey, revision: Revision) -> bool {
        let newer = |known: Option<Revision>| known.is_none_or(|known| known < revision);
        let news = newer(self.rows.get(key).map(|held| held.revision)) || off(Guard::Versions);
        news && (newer(self.graves.get(key).copied()) || off(Guard::Graves))
    }

    /// Removes a row, unless it is newer than its removal.
    pub fn remove(
        &mut self,
        key: &PageKey,
        revision: Revision,
        index: &Index,
        mut changed: impl FnMut(&TokenDigest),
    ) {
        let grave = self.graves.entry(key.clone()).or_default();
        *grave = revision.max(*grave);
        if self.rows.get(key).is_some_and(|held| held.revision < revision) {
            self.take_out(key, index, &mut changed);
        }
    }

    fn take_out(&mut self, key: &PageKey, index: &Index, changed: &mut impl FnMut(&TokenDigest)) {
        if let Some(held) = self.rows.remove(key) {
            index.remove(&held.entry.credential.digest, key);
            changed(&held.entry.credential.digest);
        }
    }

    /// Merges a whole listing that was begun at `floor`. A row that it lacks is gone, if the row is
    /// not newer than that.
    ///
    /// Old digests go last, so that a token which only moves from one row to another is known
    /// throughout.
    pub fn list(
        &mut self,
        listing: Vec<Row>,
        floor: Revision,
        index: &Index,
        changed: impl FnMut(&TokenDigest),
    ) {
        self.merge(listing, Some(floor), index, changed);
    }

    /// Makes the table what a whole listing says, whatever was known before: another store's
    /// numbers mean nothing here.
    pub fn rebase(&mut self, listing: Vec<Row>, index: &Index, changed: impl FnMut(&TokenDigest)) {
        self.merge(listing, None, index, changed);
    }

    fn merge(
        &mut self,
        listing: Vec<Row>,
        floor: Option<Revision>,
        index: &Index,
        mut changed: impl FnMut(&TokenDigest),
    ) {
        let mut retired: Vec<(TokenDigest, PageKey)> = Vec::new();
        let mut listed: HashMap<PageKey, ()> = HashMap::with_capacity(listing.len());
        for row in listing {
            let key = row.key();
            listed.insert(key.clone(), ());
            if floor.is_none() || self.is_news(&key, row.revision) {
                let digest = self.insert(key.clone(), row, index, &mut changed);
                retired.extend(digest.map(|digest| (digest, key)));
            }
        }
        let gone = |key: &PageKey, held: &Held| {
            !listed.contains_key(key)
                && floor.is_none_or(|floor| held.revision <= floor || off(Guard::Floor))
        };
        let gone: Vec<_> =
            self.rows.iter().filter(|(k, held)| gone(k, held)).map(|(k, _)| k.clone()).collect();
        for key in gone {
            let held = self.rows.remove(&key).expect("it was just there");
            retired.push((held.entry.credential.digest, key));
        }
        for (digest, owner) in retired {
            index.remove(&digest, &owner);
            changed(&digest);
        }
        self.graves.clear();
    }

    /// Puts a row in its place, and gives the digest that leads to it no more.
    fn insert(
        &mut self,
        key: PageKey,
        row: Row,
        index: &Index,
        changed: &mut impl FnMut(&TokenDigest),
    ) -> Option<TokenDigest> {
        let Row { credential, revision } = row;
        let old = match self.rows.get_mut(&key) {
            Some(held) if held.entry.credential == credential => {
                held.revision = revision;
                return None;
            }
            old => old.map(|held| Arc::clone(&held.entry)),
        };
        let entry = Entry::new(credential);
        if let Some(old) = &old {
            entry.used.store(old.used.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let (entry, digest) = (Arc::new(entry), old.map(|old| old.credential.digest));
        index.0.insert(entry.credential.digest, Arc::clone(&entry));
        changed(&entry.credential.digest);
        let retired = digest.filter(|digest| *digest != entry.credential.digest);
        self.rows.insert(key, Held { entry, revision });
        retired
    }

    /// Takes only what a row takes away from the one that is here: its status, and time.
    pub fn restrict(
        &mut self,
        by: &Credential,
        index: &Index,
        mut changed: impl FnMut(&TokenDigest),
    ) {
        let key = (by.tenant.clone(), by.id.clone());
        let Some(held) = self.rows.get(&key) else { return };
        let known = &held.entry.credential;
        let status = match by.status {
            Status::Disabled => Status::Disabled,
            Status::Enabled => known.status,
        };
        let expiry = match (known.expiry, by.expiry) {
            (Expiry::At(known), Expiry::At(by)) => Expiry::At(known.min(by)),
            (Expiry::Never, by) => by,
            (known, Expiry::Never) => known,
        };
        if (status, expiry) != (known.status, known.expiry) {
            let credential = Arc::new(Credential { status, expiry, ..(**known).clone() });
            let row = Row { credential, revision: held.revision };
            self.insert(key, row, index, &mut changed);
        }
    }

    /// Removes a row whatever its revision.
    pub fn strike(&mut self, key: &PageKey, index: &Index, mut changed: impl FnMut(&TokenDigest)) {
        self.take_out(key, index, &mut changed);
    }

    /// Uses in or after a minute.
    pub fn used_since(&self, time: Timestamp) -> impl Iterator<Item = Use> {
        let first = minute_of(time).max(1);
        self.rows.iter().filter_map(move |(key, held)| {
            let minute = held.entry.used.load(Ordering::Relaxed);
            (minute >= first)
                .then(|| (key.clone(), Timestamp::from_millis(i64::from(minute) * MINUTE)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::{CredentialId, TenantId};

    fn credential(id: u8, digest: u8, status: Status) -> Credential {
        Credential {
            id: CredentialId::parse(&format!("c-{id}")).expect("valid"),
            tenant: TenantId::parse("z-1").expect("valid"),
            digest: TokenDigest::of(&[digest]),
            status,
            expiry: Expiry::Never,
        }
    }

    fn row(credential: Credential, revision: u64) -> Row {
        Row { credential: Arc::new(credential), revision: Revision(revision) }
    }

    /// A listing whose rows have all changed with it, as those of a file have.
    fn list(
        table: &mut Table,
        index: &Index,
        listing: Vec<Credential>,
        revision: u64,
    ) -> Vec<TokenDigest> {
        let mut told = Vec::new();
        let rows = listing.into_iter().map(|it| row(it, revision)).collect();
        table.list(rows, Revision(revision), index, |digest| told.push(*digest));
        told
    }

    #[test]
    fn a_removed_row_returns_with_no_late_change_and_no_late_listing() {
        let (mut table, index) = (Table::new(), Index::new());
        let live = credential(1, 1, Status::Enabled);
        let key = (live.tenant.clone(), live.id.clone());
        table.put(row(live.clone(), 2), &index, |_| {});
        table.remove(&key, Revision(3), &index, |_| {});
        table.put(row(live.clone(), 2), &index, |_| {});
        assert!(index.get(&live.digest).is_none(), "by a change that came twice");
        table.list(vec![row(live.clone(), 2)], Revision(2), &index, |_| {});
        assert!(index.get(&live.digest).is_none(), "by a listing that was begun before");
    }

    #[test]
    fn a_row_never_goes_back() {
        let (mut table, index) = (Table::new(), Index::new());
        let (live, disabled) =
            (credential(1, 1, Status::Enabled), credential(1, 1, Status::Disabled));
        let key = (live.tenant.clone(), live.id.clone());
        table.put(row(disabled, 5), &index, |_| {});
        table.put(row(live.clone(), 4), &index, |_| {});
        table.list(vec![row(live.clone(), 4)], Revision(4), &index, |_| {});
        table.remove(&key, Revision(3), &index, |_| {});
        let entry = index.get(&live.digest).expect("still there");
        assert_eq!(entry.credential.status, Status::Disabled);
    }

    #[test]
    fn a_listing_removes_nothing_that_is_newer_than_it() {
        let (mut table, index) = (Table::new(), Index::new());
        let (old, new) = (credential(1, 1, Status::Enabled), credential(2, 2, Status::Enabled));
        table.put(row(old.clone(), 3), &index, |_| {});
        table.put(row(new.clone(), 8), &index, |_| {});
        table.list(Vec::new(), Revision(7), &index, |_| {});
        assert!(index.get(&old.digest).is_none() && index.get(&new.digest).is_some());
    }

    #[test]
    fn a_restriction_only_takes_away() {
        let (mut table, index) = (Table::new(), Index::new());
        let end = |millis| Expiry::At(Timestamp::from_millis(millis));
        let with = |status, expiry| Credential { expiry, ..credential(1, 1, status) };
        table.put(row(with(Status::Enabled, end(50)), 1), &index, |_| {});
        let state = |table: &Table| {
            let it = table.rows().next().expect("a row");
            (it.status, it.expiry)
        };
        table.restrict(&with(Status::Enabled, end(90)), &index, |_| panic!("nothing has changed"));
        table.restrict(&with(Status::Enabled, end(40)), &index, |_| {});
        assert_eq!(state(&table), (Status::Enabled, end(40)));
        table.restrict(&with(Status::Disabled, end(60)), &index, |_| {});
        table.restrict(&with(Status::Enabled, Expiry::Never), &index, |_| {});
        assert_eq!(state(&table), (Status::Disabled, end(40)));
        table.restrict(&credential(2, 2, Status::Disabled), &index, |_| {});
        assert_eq!(table.rows().count(), 1, "it admits nobody");
    }

    #[test]
    fn uses_are_kept_to_the_minute_over_changes() {
        let (mut table, index) = (Table::new(), Index::new());
        let clock = crate::clock::Clock::manual(Timestamp::from_millis(90_000_000));
        let live = credential(1, 1, Status::Enabled);
        table.put(row(live.clone(), 1), &index, |_| {});
        index.get(&live.digest).expect("there").touch(&clock.now());
        table.put(row(credential(1, 1, Status::Disabled), 2), &index, |_| {});
        let since = |millis| table.used_since(Timestamp::from_millis(millis)).count();
        assert_eq!((since(0), since(90_000_000), since(90_060_000)), (1, 1, 0));
    }

    #[test]
    fn a_token_that_moves_to_another_row_is_known_throughout() {
        let (mut table, index) = (Table::new(), Index::new());
        let live = |id, digest| credential(id, digest, Status::Enabled);
        list(&mut table, &index, vec![live(1, 1), live(2, 0)], 1);
        let moved = TokenDigest::of(&[1]);
        let mut changes = 0;
        let rows = vec![row(live(1, 2), 2), row(live(2, 1), 2)];
        table.list(rows, Revision(2), &index, |_| {
            assert!(index.get(&moved).is_some(), "after change {changes}");
            changes += 1;
        });
        assert_eq!(index.get(&moved).expect("a row").credential.id.as_str(), "c-2");
    }

    #[test]
    fn two_credentials_can_exchange_their_digests() {
        let (mut table, index) = (Table::new(), Index::new());
        let live = |id, digest| credential(id, digest, Status::Enabled);
        list(&mut table, &index, vec![live(1, 1), live(2, 2)], 1);
        list(&mut table, &index, vec![live(1, 2), live(2, 1)], 2);
        let entry = |digest: u8| index.get(&TokenDigest::of(&[digest])).expect("a row");
        let owner = |digest| entry(digest).credential.id.clone();
        assert_eq!(owner(1).as_str(), "c-2");
        assert_eq!(owner(2).as_str(), "c-1");
    }

    /// Listings of up to six credentials over six digests, each used once.
    fn listings() -> impl Strategy<Value = Vec<Vec<Credential>>> {
        let digests = Just((0..6u8).collect::<Vec<_>>()).prop_shuffle();
        let rows = (digests, prop::collection::vec(prop::option::of(any::<bool>()), 6));
        let listing = rows.prop_map(|(digests, states)| {
            let row = |(id, (digest, state)): (u8, (u8, Option<bool>))| {
                let status = if state? { Status::Enabled } else { Status::Disabled };
                Some(credential(id, digest, status))
            };
            (0..).zip(digests.into_iter().zip(states)).filter_map(row).collect()
        });
        prop::collection::vec(listing, 1..8)
    }

    proptest! {
        /// After each listing the index leads to exactly its rows, and every digest whose meaning
        /// has changed was told.
        #[test]
        fn the_index_is_the_last_listing(listings in listings()) {
            let (mut table, index) = (Table::new(), Index::new());
            let mut before: HashMap<TokenDigest, Credential> = HashMap::new();
            for (revision, listing) in (1..).zip(listings) {
                let after: HashMap<_, _> =
                    listing.iter().map(|row| (row.digest, row.clone())).collect();
                let told = list(&mut table, &index, listing, revision);
                for digest in (0..6u8).map(|digest| TokenDigest::of(&[digest])) {
                    let seen = index.get(&digest).map(|it| (*it.credential).clone());
                    prop_assert_eq!(&seen, &after.get(&digest).cloned());
                    if before.get(&digest) != after.get(&digest) {
                        prop_assert!(told.contains(&digest));
                    }
                }
                before = after;
            }
        }
    }
}

//! The rows, which belong to credentials, and the index from digest to row. One applier owns the
//! rows and makes all changes; workers see the index.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;

use super::cache::DigestHash;
use crate::credential::{Credential, CredentialId, Revision, TenantId, TokenDigest};

/// What workers look tokens up in.
pub struct Index(DashMap<TokenDigest, Arc<Credential>, DigestHash>);

impl Index {
    pub fn new() -> Self {
        Self(DashMap::with_capacity_and_hasher_and_shard_amount(0, DigestHash::default(), SHARDS))
    }

    pub fn get(&self, digest: &TokenDigest) -> Option<Arc<Credential>> {
        self.0.get(digest).map(|row| Arc::clone(&row))
    }

    /// Removes the digest if it still leads to this credential: another may have taken it over.
    fn remove(&self, digest: &TokenDigest, owner: &Key) {
        self.0.remove_if(digest, |_, row| (&row.tenant, &row.id) == (&owner.0, &owner.1));
    }
}

const SHARDS: usize = 128;

type Key = (TenantId, CredentialId);

/// The applier's view: every row under the credential it belongs to.
pub struct Table {
    rows: HashMap<Key, Arc<Credential>>,
    applied: Revision,
}

impl Table {
    pub fn new() -> Self {
        Self { rows: HashMap::new(), applied: Revision::default() }
    }

    pub fn rows(&self) -> impl Iterator<Item = &Credential> {
        self.rows.values().map(|row| &**row)
    }

    pub fn applied(&self) -> Revision {
        self.applied
    }

    /// Makes the table what a whole listing says, and calls `changed` for each digest whose meaning
    /// has just changed. A listing that is not newer than the last one changes nothing: no row goes
    /// back, and none that was removed returns.
    ///
    /// Old digests go last, so that a token which only moves from one row to another is known
    /// throughout.
    pub fn replace(
        &mut self,
        listing: Vec<Credential>,
        revision: Revision,
        index: &Index,
        mut changed: impl FnMut(&TokenDigest),
    ) {
        if revision <= self.applied {
            return;
        }
        self.applied = revision;
        let mut old_rows = std::mem::take(&mut self.rows);
        let mut retired: Vec<(TokenDigest, Key)> = Vec::new();
        self.rows.reserve(listing.len());
        for credential in listing {
            let key = (credential.tenant.clone(), credential.id.clone());
            let row = match old_rows.remove(&key) {
                Some(old) if *old == credential => old,
                old => {
                    let row = Arc::new(credential);
                    index.0.insert(row.digest, Arc::clone(&row));
                    changed(&row.digest);
                    let rebound = old.filter(|old| old.digest != row.digest);
                    retired.extend(rebound.map(|old| (old.digest, key.clone())));
                    row
                }
            };
            self.rows.insert(key, row);
        }
        retired.extend(old_rows.into_iter().map(|(key, row)| (row.digest, key)));
        for (digest, owner) in retired {
            index.remove(&digest, &owner);
            changed(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::{Expiry, Status};

    fn credential(id: u8, digest: u8, status: Status) -> Credential {
        Credential {
            id: CredentialId::parse(&format!("c-{id}")).expect("valid"),
            tenant: TenantId::parse("z-1").expect("valid"),
            digest: TokenDigest::of(&[digest]),
            status,
            expiry: Expiry::Never,
        }
    }

    #[test]
    fn a_late_listing_brings_nothing_back() {
        let (mut table, index) = (Table::new(), Index::new());
        let row = credential(1, 1, Status::Enabled);
        table.replace(vec![row.clone()], Revision(2), &index, |_| {});
        table.replace(vec![], Revision(3), &index, |_| {});
        for late in [1, 2, 3] {
            table.replace(vec![row.clone()], Revision(late), &index, |_| {});
            assert_eq!(index.get(&row.digest), None);
        }
    }

    #[test]
    fn a_token_that_moves_to_another_row_is_known_throughout() {
        let (mut table, index) = (Table::new(), Index::new());
        let row = |id, digest| credential(id, digest, Status::Enabled);
        table.replace(vec![row(1, 1), row(2, 0)], Revision(1), &index, |_| {});
        let moved = TokenDigest::of(&[1]);
        let mut changes = 0;
        table.replace(vec![row(1, 2), row(2, 1)], Revision(2), &index, |_| {
            assert!(index.get(&moved).is_some(), "after change {changes}");
            changes += 1;
        });
        assert_eq!(index.get(&moved).expect("a row").id.as_str(), "c-2");
    }

    #[test]
    fn two_credentials_can_exchange_their_digests() {
        let (mut table, index) = (Table::new(), Index::new());
        let row = |id, digest| credential(id, digest, Status::Enabled);
        table.replace(vec![row(1, 1), row(2, 2)], Revision(1), &index, |_| {});
        table.replace(vec![row(1, 2), row(2, 1)], Revision(2), &index, |_| {});
        let owner = |digest: u8| index.get(&TokenDigest::of(&[digest])).expect("a row").id.clone();
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
                let mut told = Vec::new();
                let after: HashMap<_, _> =
                    listing.iter().map(|row| (row.digest, row.clone())).collect();
                table.replace(listing, Revision(revision), &index, |digest| told.push(*digest));
                for digest in (0..6u8).map(|digest| TokenDigest::of(&[digest])) {
                    let seen = index.get(&digest).map(|row| (*row).clone());
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

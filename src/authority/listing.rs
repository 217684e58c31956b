//! A whole listing out of pages. It is of one state of the store, or none: pages that were read one
//! after the other are of different states, and the changes since the first page make them one.

use std::collections::{HashMap, HashSet};

use crate::credential::Revision;
use crate::credential::feed::{Change, Changes, Head, Page, PageKey, Position, Row, TenantRow};

#[derive(Default)]
pub struct Listing {
    /// What it is of: the head of the first page, and then that of the changes added last.
    head: Option<Head>,
    /// The revisions of the first page and of the last one.
    floor: Revision,
    reach: Revision,
    /// Whether the pages are of different states.
    mixed: bool,
    rows: Vec<Row>,
    tenants: Vec<TenantRow>,
    /// Those since the first page.
    changes: Vec<Change>,
}

/// What a listing needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Needs {
    Page(PageKey),
    Changes(Position),
    Nothing,
}

impl Listing {
    pub fn add_page(&mut self, page: Page) -> Result<Needs, String> {
        let Page { head, rows, tenants, next } = page;
        let first = self.head.get_or_insert_with(|| {
            self.floor = head.position.revision;
            head.clone()
        });
        if head.position.history != first.position.history {
            return Err("another history began meanwhile".to_owned());
        }
        if head.position.revision < self.reach {
            return Err(LOST.to_owned());
        }
        self.mixed |= head.position != first.position;
        self.reach = head.position.revision;
        self.rows.extend(rows);
        self.tenants.extend(tenants);
        match next {
            Some(next) => Ok(Needs::Page(next)),
            None if self.mixed => Ok(Needs::Changes(first.position.clone())),
            None => twin(&self.rows).map_or(Ok(Needs::Nothing), Err),
        }
    }

    pub fn add_changes(&mut self, changes: Changes) -> Result<Needs, String> {
        let Changes { changes, position, head } = changes;
        if head.position.revision < self.reach {
            return Err(LOST.to_owned());
        }
        self.changes.extend(changes);
        let behind = position.revision < self.reach;
        self.head = Some(Head { position: position.clone(), ..head });
        if behind {
            return Ok(Needs::Changes(position));
        }
        self.merge()?;
        twin(&self.rows).map_or(Ok(Needs::Nothing), Err)
    }

    /// Makes of the pages what they are after the changes. A row that is newer than the first page
    /// must be among these: else it is of a state that the store has lost.
    fn merge(&mut self) -> Result<(), String> {
        let told: HashMap<_, _> = self.changes.iter().map(|it| (it.revision(), it)).collect();
        let mut rows = HashMap::with_capacity(self.rows.len());
        for row in self.rows.drain(..) {
            let change = Change::Credential(row.clone());
            if row.revision > self.floor && told.get(&row.revision) != Some(&&change) {
                return Err(LOST.to_owned());
            }
            if let Some(twin) = rows.insert(row.key(), row) {
                return Err(told_twice(&twin));
            }
        }
        let tenants = self.tenants.drain(..).map(|row| (row.tenant.clone(), row));
        let mut tenants: HashMap<_, _> = tenants.collect();
        for change in self.changes.drain(..) {
            match change {
                Change::Credential(row) => drop(rows.insert(row.key(), row)),
                Change::CredentialDeleted { tenant, id, .. } => drop(rows.remove(&(tenant, id))),
                Change::Tenant(row) => drop(tenants.insert(row.tenant.clone(), row)),
                Change::TenantDeleted { tenant, .. } => drop(tenants.remove(&tenant)),
            }
        }
        self.rows = rows.into_values().collect();
        self.tenants = tenants.into_values().collect();
        Ok(())
    }

    /// What it is of, and what it lists.
    pub fn into_parts(self) -> (Head, Vec<Row>, Vec<TenantRow>) {
        (self.head.expect("a listing begins with a page"), self.rows, self.tenants)
    }
}

const LOST: &str = "the store has lost what it listed";

/// A credential or digest that a listing has twice.
fn twin(rows: &[Row]) -> Option<String> {
    let (mut keys, mut digests) = (HashSet::new(), HashSet::new());
    rows.iter().find_map(|row| {
        let key = (&row.credential.tenant, &row.credential.id);
        let fresh = keys.insert(key) && digests.insert(row.credential.digest);
        (!fresh).then(|| told_twice(row))
    })
}

fn told_twice(row: &Row) -> String {
    format!("{} is there twice", row.credential.id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::credential::feed::{History, Mark};
    use crate::credential::{Credential, CredentialId, Expiry, Status, TenantId, TokenDigest};

    fn row(id: &str, revision: u64) -> Row {
        let credential = Credential {
            id: CredentialId::parse(id).expect("valid"),
            tenant: TenantId::parse("z-1").expect("valid"),
            digest: TokenDigest::of(id.as_bytes()),
            status: Status::Enabled,
            expiry: Expiry::Never,
        };
        Row { credential: Arc::new(credential), revision: Revision(revision) }
    }

    fn head(revision: u64) -> Head {
        let position = Position {
            history: "h1".parse::<History>().expect("valid"),
            revision: Revision(revision),
            mark: Mark::default().then(Revision(revision), b""),
        };
        let began = Timestamp::from_millis(0);
        Head { position, disputed: false, accepts: Vec::new(), began }
    }

    fn page(revision: u64, rows: Vec<Row>, more: bool) -> Page {
        let next = rows.last().filter(|_| more).map(Row::key);
        Page { head: head(revision), rows, tenants: Vec::new(), next }
    }

    fn changes(changes: Vec<Change>, to: u64) -> Changes {
        Changes { changes, position: head(to).position, head: head(to) }
    }

    #[test]
    fn pages_of_several_states_become_one_state() {
        let mut listing = Listing::default();
        let first = page(5, vec![row("a", 1), row("b", 2)], true);
        assert_eq!(listing.add_page(first), Ok(Needs::Page(row("b", 2).key())));
        let needs = listing.add_page(page(7, vec![row("c", 7)], false));
        assert_eq!(needs, Ok(Needs::Changes(head(5).position)));
        let (tenant, id) = row("a", 1).key();
        let deleted = Change::CredentialDeleted { tenant, id, revision: Revision(6) };
        let since = vec![deleted, Change::Credential(row("c", 7))];
        assert_eq!(listing.add_changes(changes(since, 7)), Ok(Needs::Nothing));
        let (head, mut rows, _) = listing.into_parts();
        rows.sort_by_key(Row::key);
        assert_eq!((head.position.revision.0, rows), (7, vec![row("b", 2), row("c", 7)]));
    }

    #[test]
    fn pages_of_a_state_that_was_lost_meanwhile_are_no_listing() {
        let mixed = || {
            let mut listing = Listing::default();
            listing.add_page(page(5, vec![row("a", 1)], true)).expect("more");
            listing.add_page(page(7, vec![row("c", 7)], false)).expect("more");
            listing
        };
        assert!(mixed().add_changes(changes(Vec::new(), 6)).is_err(), "rewound");
        let others = vec![Change::Credential(row("d", 6)), Change::Credential(row("e", 7))];
        assert!(mixed().add_changes(changes(others, 7)).is_err(), "rewound and gone on");
        assert!(mixed().add_page(page(6, Vec::new(), false)).is_err(), "rewound between pages");
    }

    #[test]
    fn what_is_there_twice_is_no_listing() {
        let mut listing = Listing::default();
        assert!(listing.add_page(page(5, vec![row("a", 1), row("a", 1)], false)).is_err());
    }
}

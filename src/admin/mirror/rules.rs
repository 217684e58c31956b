//! What a cloud's listing and the enrolments make of a mirrored tenant. Pure functions over what a
//! transaction sees: local changes that come meanwhile are seen too.

use std::collections::{HashMap, HashSet};

use crate::clock::Timestamp;
use crate::credential::{Credential, CredentialId, Expiry, Revision, Status};
use crate::source::cloud::Listed;
use crate::store::{Edit, Origin, Provider, Record, Standing, View};

/// A whole listing, by id.
pub type Listing = HashMap<CredentialId, Listed>;

/// Brings all rows to what a listing says. `is_held` are those whose last local change was confirmed
/// after the listing began: it knows nothing of them.
pub fn settle(
    view: &View,
    listing: &Listing,
    now: Timestamp,
    is_held: impl Fn(&CredentialId) -> bool,
) -> Vec<Edit> {
    let rows = view.records.iter().filter(|record| !is_held(&record.credential.id));
    rows.filter_map(|record| settled(record, listing.get(&record.credential.id), now)).collect()
}

fn settled(record: &Record, listed: Option<&Listed>, now: Timestamp) -> Option<Edit> {
    let Origin::Mirrored(provider, standing) = record.origin else { return None };
    // The listing may have begun before it was blocked. Only the cloud's own word ends that.
    if matches!(standing, Standing::DisablePending | Standing::DeletePending) {
        return None;
    }
    let mut new = record.clone();
    let standing = match listed {
        Some(listed) => {
            new.credential.status = listed.status;
            new.credential.expiry = expiry(record, listed);
            new.create_time = listed.created.unwrap_or(new.create_time);
            // A rotation has ended it here; the cloud is to know.
            let replaced = record.successor.is_some() && new.expires_by(now);
            if replaced && listed.status == Status::Enabled {
                new.credential.status = Status::Disabled;
                Standing::DisablePending
            } else {
                Standing::Listed
            }
        }
        None => {
            new.credential.status = Status::Disabled;
            Standing::Unlisted
        }
    };
    new.origin = Origin::Mirrored(provider, standing);
    (new != *record).then_some(Edit::Put(new))
}

/// The cloud's, unless a rotation has shortened it here.
fn expiry(record: &Record, listed: &Listed) -> Expiry {
    match (&record.successor, record.credential.expiry, listed.expiry) {
        (Some(_), Expiry::At(here), Expiry::At(there)) => Expiry::At(here.min(there)),
        (Some(_), here, Expiry::Never) => here,
        (_, _, there) => there,
    }
}

/// Refuses it here, durably, before its cloud is told.
pub fn block(view: &View, id: &CredentialId, pending: Standing) -> Vec<Edit> {
    let Some(record) = view.record(id) else { return Vec::new() };
    let Origin::Mirrored(provider, standing) = record.origin else { return Vec::new() };
    let is_deleted = standing == Standing::DeletePending;
    // One that is disabled as listed may have been enabled there since.
    let is_so = standing == Standing::DisablePending && pending == Standing::DisablePending;
    if is_deleted || is_so {
        return Vec::new();
    }
    let mut new = record.clone();
    new.credential.status = Status::Disabled;
    new.origin = Origin::Mirrored(provider, pending);
    vec![Edit::Put(new)]
}

/// Notes that the cloud knows of what was pending.
pub fn confirm(view: &View, id: &CredentialId, pending: Standing) -> Vec<Edit> {
    let Some(record) = view.record(id) else { return Vec::new() };
    match record.origin {
        Origin::Mirrored(_, Standing::DeletePending) if pending == Standing::DeletePending => {
            vec![Edit::Delete(id.clone())]
        }
        Origin::Mirrored(provider, standing) if standing == pending => {
            let origin = Origin::Mirrored(provider, Standing::Listed);
            vec![Edit::Put(Record { origin, ..record.clone() })]
        }
        _ => Vec::new(),
    }
}

/// Enables it here after its cloud has, unless somebody has changed it meanwhile.
pub fn enable(view: &View, id: &CredentialId, seen: Revision) -> Vec<Edit> {
    let Some(record) = view.record(id).filter(|record| record.revision == seen) else {
        return Vec::new();
    };
    let Origin::Mirrored(provider, standing) = record.origin else { return Vec::new() };
    if standing == Standing::DeletePending {
        return Vec::new();
    }
    let mut new = record.clone();
    new.credential.status = Status::Enabled;
    new.origin = Origin::Mirrored(provider, Standing::Listed);
    if new == *record { Vec::new() } else { vec![Edit::Put(new)] }
}

/// Makes the rows those of an enrolment file.
pub fn enroll_file(
    view: &View,
    rows: &[Credential],
    provider: Provider,
    listing: &Listing,
    now: Timestamp,
) -> Vec<Edit> {
    let wanted: HashSet<_> = rows.iter().map(|row| &row.id).collect();
    let gone = view.records.iter().filter(|record| !wanted.contains(&record.credential.id));
    // First, so that a digest may move to another row.
    let mut edits: Vec<_> = gone.map(|record| Edit::Delete(record.credential.id.clone())).collect();
    let is_known = |row: &&Credential| {
        view.record(&row.id).is_some_and(|known| known.credential.digest == row.digest)
    };
    let new: Vec<_> = rows.iter().filter(|row| !is_known(row)).cloned().collect();
    edits.extend(take_up(&new, provider, listing, true, now));
    edits
}

/// Takes enrolments up as a listing has them. One that it lacks counts as it says itself if it
/// `is_new`, until a listing that began later; else it is refused.
pub fn take_up(
    rows: &[Credential],
    provider: Provider,
    listing: &Listing,
    is_new: bool,
    now: Timestamp,
) -> Vec<Edit> {
    let record = |row: &Credential| {
        let (status, standing) = match is_new {
            true => (row.status, Standing::Awaited),
            false => (Status::Disabled, Standing::Unlisted),
        };
        let credential = Credential { status, ..row.clone() };
        let record = enrolled(credential, Origin::Mirrored(provider, standing), now);
        let listed = listing.get(&row.id).and_then(|listed| settled(&record, Some(listed), now));
        listed.unwrap_or(Edit::Put(record))
    };
    rows.iter().map(record).collect()
}

/// Whether an edit does nothing but take rights away, which there is room for on a full disk too.
pub fn takes_away(view: &View, edit: &Edit) -> bool {
    match edit {
        Edit::Delete(_) => true,
        Edit::Put(new) => {
            let same = |known: &Record| known.credential.digest == new.credential.digest;
            new.credential.status == Status::Disabled
                && view.record(&new.credential.id).is_some_and(same)
        }
        Edit::PutTenant(_) | Edit::DeleteTenant => false,
    }
}

/// The row of a credential whose token was told to us.
pub fn enrolled(credential: Credential, origin: Origin, now: Timestamp) -> Record {
    Record {
        credential,
        revision: Revision(0),
        create_time: now,
        label: String::new(),
        hint: None,
        origin,
        created_by: String::new(),
        enrolled: true,
        last_used: None,
        successor: None,
    }
}

/// What the cloud is still to be told, oldest change first.
pub fn pending(records: &[Record]) -> Vec<(CredentialId, Standing)> {
    let mut waiting: Vec<_> = records
        .iter()
        .filter_map(|record| match record.origin {
            Origin::Mirrored(
                _,
                standing @ (Standing::DisablePending | Standing::DeletePending),
            ) => Some((record.revision, record.credential.id.clone(), standing)),
            _ => None,
        })
        .collect();
    waiting.sort_by_key(|(revision, ..)| *revision);
    waiting.into_iter().map(|(_, id, standing)| (id, standing)).collect()
}

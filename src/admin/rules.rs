//! What may be written: pure functions over what a transaction sees, which run within it, so that a
//! limit holds however many ask at a time; and what a token and a label must be.

use std::time::Duration;

use super::{Patch, Problem};
use crate::clock::Timestamp;
use crate::credential::{BearerToken, CredentialId, Expiry, Status, TokenDigest};
use crate::store::{Denied, Edit, Origin, Record, Standing, View};

/// Makes room for nobody: a new credential must fit the limit as things are. Expired ones count,
/// as at the clouds.
pub fn create(view: &View, new: &Record, most: usize) -> Result<Vec<Edit>, Denied> {
    declared(view)?;
    free(view, new)?;
    if view.records.len() >= most {
        return Err(Denied::LimitReached(view.records.clone()));
    }
    Ok(vec![Edit::Put(new.clone())])
}

pub fn patch(view: &View, id: &CredentialId, patch: &Patch) -> Result<Vec<Edit>, Denied> {
    let record = known(view, id)?;
    let mut changed = record.clone();
    if let Some(status) = patch.status {
        changed.credential.status = status;
        // Its cloud is mirrored no more, and is told nothing.
        if let Origin::Mirrored(provider, _) = record.origin {
            changed.origin = Origin::Mirrored(provider, Standing::Listed);
        }
    }
    if let Some(label) = &patch.label {
        changed.label.clone_from(label);
    }
    Ok(if changed == *record { Vec::new() } else { vec![Edit::Put(changed)] })
}

pub fn delete(view: &View, id: &CredentialId) -> Result<Vec<Edit>, Denied> {
    known(view, id)?;
    Ok(vec![Edit::Delete(id.clone())])
}

/// How long the old token of a rotation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Never beyond its own end.
    For(Duration),
    /// Somebody else has it: it ends now, and its place is free at once.
    Leaked,
}

/// Puts `new` into the place of `id`. What an earlier rotation left and has expired goes first.
pub fn rotate(
    view: &View,
    id: &CredentialId,
    new: &Record,
    overlap: Overlap,
    most: usize,
    now: Timestamp,
) -> Result<Vec<Edit>, Denied> {
    declared(view)?;
    let old = known(view, id)?;
    if let Some(successor) = old.successor.as_ref().filter(|it| view.record(it).is_some()) {
        return Err(Denied::Rotated(successor.clone()));
    }
    free(view, new)?;
    let left_over = left_over(&view.records, id, now);
    let mut edits: Vec<_> = left_over.map(|it| Edit::Delete(it.credential.id.clone())).collect();
    match overlap {
        Overlap::Leaked => edits.push(Edit::Delete(id.clone())),
        Overlap::For(overlap) => {
            if view.records.len() - edits.len() >= most {
                return Err(Denied::LimitReached(view.records.clone()));
            }
            edits.push(Edit::Put(replaced(old, now.plus(overlap), &new.credential.id)));
        }
    }
    edits.push(Edit::Put(new.clone()));
    Ok(edits)
}

/// What earlier rotations to `id` left, and has expired.
pub fn left_over<'a>(
    records: &'a [Record],
    id: &'a CredentialId,
    now: Timestamp,
) -> impl Iterator<Item = &'a Record> {
    records.iter().filter(move |it| it.successor.as_ref() == Some(id) && it.expires_by(now))
}

/// The old credential of a rotation, which ends then, or before if it would anyway.
pub fn replaced(old: &Record, end: Timestamp, successor: &CredentialId) -> Record {
    let mut old = old.clone();
    old.credential.expiry = match old.credential.expiry {
        Expiry::At(own) => Expiry::At(own.min(end)),
        Expiry::Never => Expiry::At(end),
    };
    old.successor = Some(successor.clone());
    old
}

pub fn declare(view: &View) -> Result<Vec<Edit>, Denied> {
    Ok(match view.tenant {
        Some(_) => Vec::new(),
        None => vec![Edit::PutTenant(Status::Enabled)],
    })
}

pub fn set_synchronization(view: &View, status: Status) -> Result<Vec<Edit>, Denied> {
    match &view.tenant {
        None => Err(Denied::TenantUnknown),
        Some(tenant) if tenant.synchronization == status => Ok(Vec::new()),
        Some(_) => Ok(vec![Edit::PutTenant(status)]),
    }
}

pub fn delete_tenant(view: &View) -> Result<Vec<Edit>, Denied> {
    declared(view)?;
    if view.records.is_empty() { Ok(vec![Edit::DeleteTenant]) } else { Err(Denied::TenantInUse) }
}

fn declared(view: &View) -> Result<(), Denied> {
    if view.tenant.is_some() { Ok(()) } else { Err(Denied::TenantUnknown) }
}

fn known<'a>(view: &'a View, id: &CredentialId) -> Result<&'a Record, Denied> {
    declared(view)?;
    view.record(id).ok_or(Denied::CredentialUnknown)
}

/// A digest opens one credential only, over all tenants.
pub fn free(view: &View, new: &Record) -> Result<(), Denied> {
    match &view.digest_owner {
        Some(owner) if *owner != new.key() => Err(Denied::DigestTaken(owner.clone())),
        _ => Ok(()),
    }
}

/// The digest of a token made elsewhere, if it is one that cannot be guessed at once.
pub fn strong(token: &str) -> Result<TokenDigest, Problem> {
    let invalid = |what: &str| Problem::Invalid { field: "secret", what: what.to_owned() };
    let parsed = BearerToken::parse(token.as_bytes()).ok_or_else(|| {
        invalid("must be 1 to 4096 printable ASCII characters without blank and comma")
    })?;
    if parsed.is_weak() {
        return Err(invalid(
            "is too easy to guess: it must have 20 characters at least, and 8 different ones",
        ));
    }
    Ok(parsed.digest())
}

pub fn checked_label(label: &str) -> Result<&str, Problem> {
    if label.len() <= LABEL_BYTES_MAX && !label.chars().any(char::is_control) {
        Ok(label)
    } else {
        let what = "must have at most 256 bytes and no control characters".to_owned();
        Err(Problem::Invalid { field: "label", what })
    }
}

const LABEL_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::feed::TenantRow;
    use crate::credential::{Credential, Revision, TenantId};
    use crate::store::Origin;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn record(id: &str, end: Timestamp) -> Record {
        Record {
            credential: Credential {
                id: CredentialId::parse(id).expect("valid"),
                tenant: TenantId::parse("z-1").expect("valid"),
                digest: TokenDigest::of(id.as_bytes()),
                status: Status::Enabled,
                expiry: Expiry::At(end),
            },
            revision: Revision(1),
            create_time: NOW,
            label: String::new(),
            hint: None,
            origin: Origin::Local,
            created_by: "test".to_owned(),
            enrolled: false,
            last_used: None,
            successor: None,
        }
    }

    fn view(records: Vec<Record>) -> View {
        let tenant = TenantRow {
            tenant: TenantId::parse("z-1").expect("valid"),
            synchronization: Status::Enabled,
            revision: Revision(1),
        };
        View { tenant: Some(tenant), records, digest_owner: None }
    }

    /// The view after the edits.
    fn after(view: &View, edits: Vec<Edit>) -> View {
        let mut view = view.clone();
        for edit in edits {
            let id = match &edit {
                Edit::Put(record) => record.credential.id.clone(),
                Edit::Delete(id) => id.clone(),
                _ => unreachable!("no edit of a tenant here"),
            };
            view.records.retain(|record| record.credential.id != id);
            if let Edit::Put(record) = edit {
                view.records.push(record);
            }
        }
        view
    }

    fn id(text: &str) -> CredentialId {
        CredentialId::parse(text).expect("valid")
    }

    #[test]
    fn expired_credentials_take_a_place_too() {
        let full = view(vec![record("a", NOW), record("b", NOW.plus(HOUR))]);
        let new = record("c", NOW.plus(HOUR));
        assert_eq!(create(&full, &new, 2).err(), Some(Denied::LimitReached(full.records.clone())));
        assert!(create(&full, &new, 3).is_ok());
        assert!(create(&View { tenant: None, ..full }, &new, 3).is_err());
    }

    #[test]
    fn a_rotation_leaves_the_old_token_for_a_while_and_clears_what_the_last_one_left() {
        let start = view(vec![record("a", NOW.plus(100 * HOUR))]);
        let edits = rotate(&start, &id("a"), &record("b", NOW), Overlap::For(HOUR), 2, NOW);
        let first = after(&start, edits.expect("room for two"));
        let old = first.record(&id("a")).expect("still there");
        assert_eq!(old.credential.expiry, Expiry::At(NOW.plus(HOUR)));
        assert_eq!(old.successor, Some(id("b")));

        let again = |now| rotate(&first, &id("b"), &record("c", NOW), Overlap::For(HOUR), 2, now);
        assert!(matches!(again(NOW), Err(Denied::LimitReached(_))), "the old one still lives");
        let second = after(&first, again(NOW.plus(HOUR)).expect("it has expired"));
        let ids: Vec<_> = second.records.iter().map(|it| it.credential.id.as_str()).collect();
        assert_eq!(ids, ["b", "c"]);
        let twice = rotate(&first, &id("a"), &record("d", NOW), Overlap::For(HOUR), 9, NOW);
        assert_eq!(twice.err(), Some(Denied::Rotated(id("b"))));
    }

    #[test]
    fn an_overlap_lengthens_nothing_and_a_leak_has_none() {
        let start = view(vec![record("a", NOW.plus(HOUR)), record("x", NOW)]);
        let new = record("b", NOW);
        let long = rotate(&start, &id("a"), &new, Overlap::For(9 * HOUR), 3, NOW).expect("room");
        let old = after(&start, long).record(&id("a")).expect("still there").clone();
        assert_eq!(old.credential.expiry, Expiry::At(NOW.plus(HOUR)));
        let leaked = rotate(&start, &id("a"), &new, Overlap::Leaked, 2, NOW).expect("at the limit");
        let left = after(&start, leaked);
        assert!(left.record(&id("a")).is_none() && left.record(&id("b")).is_some());
    }

    #[test]
    fn what_is_so_already_needs_no_edit() {
        let view = view(vec![record("a", NOW)]);
        let set = |status| patch(&view, &id("a"), &Patch { status: Some(status), label: None });
        assert!(set(Status::Enabled).expect("known").is_empty());
        assert_eq!(set(Status::Disabled).expect("known").len(), 1);
        assert!(set_synchronization(&view, Status::Enabled).expect("declared").is_empty());
        assert!(declare(&view).expect("possible").is_empty());
        assert_eq!(delete_tenant(&view).err(), Some(Denied::TenantInUse));
        assert_eq!(delete(&view, &id("b")).err(), Some(Denied::CredentialUnknown));
    }
}

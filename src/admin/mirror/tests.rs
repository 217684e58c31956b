//! What listings make of rows, whatever came meanwhile.

use super::rules::{self, Listing};
use crate::clock::Timestamp;
use crate::credential::{
    Credential, CredentialId, Expiry, Revision, Status, TenantId, TokenDigest,
};
use crate::source::cloud::Listed;
use crate::store::Standing::{
    Awaited, DeletePending, DisablePending, Listed as AsListed, Unlisted,
};
use crate::store::{Edit, Origin, Provider, Record, Standing, View};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn id() -> CredentialId {
    CredentialId::parse("scimcred-1").expect("valid")
}

fn credential(status: Status) -> Credential {
    Credential {
        id: id(),
        tenant: TenantId::parse("d-1").expect("valid"),
        digest: TokenDigest::of(b"token"),
        status,
        expiry: Expiry::At(LATER),
    }
}

fn record(status: Status, standing: Standing) -> Record {
    let origin = Origin::Mirrored(Provider::Alibaba, standing);
    Record { revision: Revision(7), ..rules::enrolled(credential(status), origin, NOW) }
}

fn listed(status: Status) -> Listed {
    Listed { id: id(), status, created: Some(NOW), expiry: Expiry::At(LATER) }
}

fn view(record: Option<&Record>) -> View {
    View { tenant: None, records: record.cloned().into_iter().collect(), digest_owner: None }
}

fn listing(of: Option<Status>) -> Listing {
    of.map(|status| (id(), listed(status))).into_iter().collect()
}

/// Status and standing afterwards; none if the row is gone.
fn after(record: &Record, edits: &[Edit]) -> Option<(Status, Standing)> {
    let record = match edits {
        [] => record,
        [Edit::Put(record)] => record,
        [Edit::Delete(_)] => return None,
        other => panic!("{other:?}"),
    };
    let Origin::Mirrored(_, standing) = record.origin else { panic!("{record:?}") };
    Some((record.credential.status, standing))
}

use Status::{Disabled, Enabled};

#[test]
fn a_listing_decides_unless_something_is_pending() {
    for (status, standing, says, expected) in [
        (Enabled, Awaited, Some(Enabled), Some((Enabled, AsListed))),
        (Enabled, Awaited, None, Some((Disabled, Unlisted))),
        (Enabled, AsListed, Some(Disabled), Some((Disabled, AsListed))),
        (Enabled, AsListed, None, Some((Disabled, Unlisted))),
        (Disabled, AsListed, Some(Enabled), Some((Enabled, AsListed))),
        (Disabled, Unlisted, Some(Enabled), Some((Enabled, AsListed))),
        (Disabled, Unlisted, None, Some((Disabled, Unlisted))),
        // A stale or late listing revives nothing that was blocked here.
        (Disabled, DisablePending, Some(Enabled), Some((Disabled, DisablePending))),
        (Disabled, DisablePending, Some(Disabled), Some((Disabled, DisablePending))),
        (Disabled, DisablePending, None, Some((Disabled, DisablePending))),
        (Disabled, DeletePending, Some(Enabled), Some((Disabled, DeletePending))),
        (Disabled, DeletePending, None, Some((Disabled, DeletePending))),
    ] {
        let before = record(status, standing);
        let settle = |held| rules::settle(&view(Some(&before)), &listing(says), NOW, |_| held);
        assert_eq!(after(&before, &settle(false)), expected, "{status:?} {standing:?} {says:?}");
        assert!(settle(true).is_empty(), "it began before the last change was confirmed");
    }
}

#[test]
fn a_rotation_ends_the_old_one_here_whatever_the_cloud_says() {
    let soon = Timestamp::from_millis(NOW.as_millis() + 1000);
    let mut old = record(Enabled, AsListed);
    old.credential.expiry = Expiry::At(soon);
    old.successor = Some(CredentialId::parse("scimcred-2").expect("valid"));
    let settle = |now| rules::settle(&view(Some(&old)), &listing(Some(Enabled)), now, |_| false);
    assert!(settle(NOW).is_empty(), "the cloud's end is later, and ours stays");
    assert_eq!(after(&old, &settle(soon)), Some((Disabled, DisablePending)), "it is told");
}

#[test]
fn what_is_blocked_stays_so_until_the_cloud_knows() {
    let live = record(Enabled, AsListed);
    let blocked = |record: &Record, pending| {
        after(record, &rules::block(&view(Some(record)), &id(), pending))
    };
    assert_eq!(blocked(&live, DisablePending), Some((Disabled, DisablePending)));
    assert_eq!(blocked(&live, DeletePending), Some((Disabled, DeletePending)));
    let deleting = record(Disabled, DeletePending);
    assert_eq!(blocked(&deleting, DisablePending), Some((Disabled, DeletePending)));
    // It may have been enabled there since it was listed.
    let disabled = record(Disabled, AsListed);
    assert_eq!(blocked(&disabled, DisablePending), Some((Disabled, DisablePending)));
    let pending = record(Disabled, DisablePending);
    assert_eq!(blocked(&pending, DeletePending), Some((Disabled, DeletePending)));

    let confirm = |record: &Record, standing| {
        after(record, &rules::confirm(&view(Some(record)), &id(), standing))
    };
    assert_eq!(confirm(&pending, DisablePending), Some((Disabled, AsListed)));
    assert_eq!(confirm(&deleting, DeletePending), None);
    // It was to be deleted while the cloud disabled it.
    assert_eq!(confirm(&deleting, DisablePending), Some((Disabled, DeletePending)));
}

#[test]
fn who_enables_does_not_undo_what_came_after_he_looked() {
    let disabled = record(Disabled, AsListed);
    let enable = |seen| rules::enable(&view(Some(&disabled)), &id(), Revision(seen));
    assert_eq!(after(&disabled, &enable(7)), Some((Enabled, AsListed)));
    assert!(enable(6).is_empty());
    let going = record(Disabled, DeletePending);
    assert!(rules::enable(&view(Some(&going)), &id(), Revision(7)).is_empty());
}

#[test]
fn an_enrolment_counts_by_itself_only_if_it_is_new() {
    let row = [credential(Enabled)];
    let take_up = |is_new, says| {
        let edits = rules::take_up(&row, Provider::Alibaba, &listing(says), is_new, NOW);
        after(&record(Enabled, AsListed), &edits)
    };
    assert_eq!(take_up(true, None), Some((Enabled, Awaited)));
    assert_eq!(take_up(false, None), Some((Disabled, Unlisted)));
    for is_new in [true, false] {
        assert_eq!(take_up(is_new, Some(Enabled)), Some((Enabled, AsListed)));
        assert_eq!(take_up(is_new, Some(Disabled)), Some((Disabled, AsListed)));
    }

    let known = record(Enabled, AsListed);
    let file = |rows: &[Credential]| {
        rules::enroll_file(&view(Some(&known)), rows, Provider::Alibaba, &listing(None), NOW)
    };
    assert!(file(&row).is_empty(), "nothing new");
    assert!(matches!(&*file(&[]), [Edit::Delete(_)]));
    let other = Credential { digest: TokenDigest::of(b"other"), ..credential(Enabled) };
    assert!(
        matches!(&*file(std::slice::from_ref(&other)), [Edit::Put(it)] if it.credential == other)
    );
}

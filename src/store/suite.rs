//! What every engine must do, said once and tried on each.

mod alike;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::memory::Memory;
use super::sqlite::{Options, Sqlite};
use super::*;
use crate::credential::feed::Mark;

pub const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

macro_rules! suite {
    ($($case:ident)*) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Arc::new(super::Memory::new(super::START))).await;
            })*
        }
        mod in_sqlite {
            $(#[tokio::test]
            async fn $case() {
                let (_directory, store) = super::sqlite().await;
                super::$case(super::Arc::new(store)).await;
            })*
        }
    };
}

suite! {
    keeps_what_was_put_until_it_is_deleted
    a_digest_has_one_owner_over_all_tenants
    each_edit_has_a_revision_and_a_mark_of_its_own
    tells_the_changes_after_each_position
    does_not_know_positions_of_others
    tells_when_texts_are_thrown_away
    a_filtered_change_moves_the_position_on
    pages_through_a_table_that_changes
    leaves_other_tenants_out_of_a_page
    lists_the_records_of_a_tenant
    finds_a_record_by_its_digest
    a_use_never_goes_back
    keeps_leases
    an_accepted_dispute_begins_a_new_history
    audits_what_it_writes_and_nothing_else
    keeps_admin_tokens
    a_nonce_is_taken_once_until_it_is_forgotten
    a_denied_order_writes_nothing
    a_panic_in_an_order_breaks_nothing
    tells_the_latest_position_after_it_is_written
}

pub async fn sqlite() -> (TempDir, Sqlite) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory).await;
    (directory, store)
}

pub async fn open(directory: &TempDir) -> Sqlite {
    let path = directory.path().join("admin.db");
    Sqlite::open(&path, Options::default(), START).await.expect("a store").store
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("an id")
}

pub fn key(tenant_id: &str, id: &str) -> PageKey {
    (tenant(tenant_id), CredentialId::parse(id).expect("an id"))
}

/// Each id has a token of its own.
pub fn record(tenant_id: &str, id: &str) -> Record {
    let (tenant, id) = key(tenant_id, id);
    let digest = TokenDigest::of(format!("{tenant}/{id}").as_bytes());
    Record {
        credential: Credential {
            digest,
            status: Status::Enabled,
            expiry: Expiry::At(START.plus(Duration::from_secs(60))),
            tenant,
            id,
        },
        revision: Revision(0),
        create_time: START,
        label: "a label".to_owned(),
        hint: Some("abcd".to_owned()),
        origin: Origin::Local,
        created_by: "admin".to_owned(),
        enrolled: true,
        last_used: None,
        successor: None,
    }
}

pub fn entry(action: &'static str) -> AuditEntry {
    AuditEntry {
        time: START,
        actor: "admin".to_owned(),
        peer: "127.0.0.1".to_owned(),
        request_id: "r-1".to_owned(),
        action,
        tenant: Some(tenant("z-1")),
        credential_id: None,
        detail: String::new(),
    }
}

pub fn order(tenant_id: &str, decide: Decide) -> Order {
    let (tenant, audit) = (tenant(tenant_id), entry("test"));
    Order { tenant, digest: None, decide, audit, restricts: false }
}

pub async fn make(store: &dyn Store, tenant: &str, edits: Vec<Edit>) -> Head {
    let written = store.write(order(tenant, Box::new(|_| Ok(edits)))).await;
    written.expect("written").head
}

pub async fn put(store: &dyn Store, tenant: &str, id: &str) -> Head {
    make(store, tenant, vec![Edit::Put(record(tenant, id))]).await
}

fn delete(id: &str) -> Edit {
    Edit::Delete(CredentialId::parse(id).expect("an id"))
}

async fn position(store: &dyn Store) -> Position {
    store.head().await.expect("a head").position
}

async fn keeps_what_was_put_until_it_is_deleted(store: Arc<dyn Store>) {
    make(&*store, "z-1", vec![Edit::PutTenant(Status::Enabled)]).await;
    let full =
        Record { last_used: Some(START), successor: Some(key("z-1", "b").1), ..record("z-1", "a") };
    let origin = Origin::Mirrored(Provider::Alibaba, Standing::DisablePending);
    let mut bare = Record { hint: None, enrolled: false, origin, ..record("z-1", "b") };
    bare.credential.expiry = Expiry::Never;
    bare.credential.status = Status::Disabled;
    make(&*store, "z-1", vec![Edit::Put(full.clone()), Edit::Put(bare.clone())]).await;

    let full = Record { revision: Revision(2), ..full };
    let bare = Record { revision: Revision(3), ..bare };
    assert_eq!(store.record(&full.key()).await.expect("read"), Some(full.clone()));
    assert_eq!(store.record(&bare.key()).await.expect("read"), Some(bare.clone()));
    let view = |view: &View| {
        assert_eq!(view.records, [full.clone(), bare]);
        Ok(vec![Edit::Delete(full.credential.id), Edit::PutTenant(Status::Disabled)])
    };
    store.write(order("z-1", Box::new(view))).await.expect("written");

    assert_eq!(store.record(&key("z-1", "a")).await.expect("read"), None);
    let row = TenantRow {
        tenant: tenant("z-1"),
        synchronization: Status::Disabled,
        revision: Revision(5),
    };
    assert_eq!(store.tenant(&tenant("z-1")).await.expect("read"), Some(row.clone()));
    assert_eq!(store.tenants().await.expect("read"), [row]);
    make(&*store, "z-1", vec![delete("b"), Edit::DeleteTenant]).await;
    assert_eq!(store.tenants().await.expect("read"), []);
}

async fn a_digest_has_one_owner_over_all_tenants(store: Arc<dyn Store>) {
    put(&*store, "z-1", "a").await;
    let owner = async |token: &[u8]| {
        let digest = Some(TokenDigest::of(token));
        let decide = |view: &View| {
            Err(Denied::DigestTaken(view.digest_owner.clone().unwrap_or(key("-", "-"))))
        };
        let denied = store.write(Order { digest, ..order("z-2", Box::new(decide)) }).await;
        match denied {
            Err(WriteError::Denied(Denied::DigestTaken(owner))) => owner,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(owner(b"z-1/a").await, key("z-1", "a"));
    assert_eq!(owner(b"other").await, key("-", "-"));

    let mut rebound = record("z-1", "a");
    rebound.credential.digest = TokenDigest::of(b"other");
    make(&*store, "z-1", vec![Edit::Put(rebound)]).await;
    assert_eq!(owner(b"z-1/a").await, key("-", "-"));
    assert_eq!(owner(b"other").await, key("z-1", "a"));
}

async fn each_edit_has_a_revision_and_a_mark_of_its_own(store: Arc<dyn Store>) {
    let first = store.head().await.expect("a head");
    assert_eq!(first.position, Position::start(first.position.history.clone()));
    assert_eq!((first.began, first.disputed), (START, false));

    let edits = [Edit::PutTenant(Status::Enabled), Edit::Put(record("z-1", "a")), delete("a")];
    let head = make(&*store, "z-1", edits.to_vec()).await;
    let chain = |mark: Mark, (number, edit): (usize, &Edit)| {
        mark.then(Revision(number as u64 + 1), log_text(edit, &tenant("z-1")).as_bytes())
    };
    let mark = edits.iter().enumerate().fold(Mark::default(), chain);
    assert_eq!(head.position, Position { revision: Revision(3), mark, ..first.position });
    assert_eq!(store.head().await.expect("a head"), head);
}

async fn tells_the_changes_after_each_position(store: Arc<dyn Store>) {
    let mut positions = vec![position(&*store).await];
    let edits = [
        Edit::PutTenant(Status::Disabled),
        Edit::Put(record("z-1", "a")),
        delete("a"),
        Edit::DeleteTenant,
    ];
    for edit in edits {
        positions.push(make(&*store, "z-1", vec![edit]).await.position);
    }
    let all = store.changes(&positions[0], None, 10).await.expect("read").expect("known").changes;
    let tenant_row = TenantRow {
        tenant: tenant("z-1"),
        synchronization: Status::Disabled,
        revision: Revision(1),
    };
    let (tenant, id) = key("z-1", "a");
    let row = Record { revision: Revision(2), ..record("z-1", "a") }.row();
    assert_eq!(
        all,
        [
            Change::Tenant(tenant_row),
            Change::Credential(row),
            Change::CredentialDeleted { tenant: tenant.clone(), id, revision: Revision(3) },
            Change::TenantDeleted { tenant, revision: Revision(4) },
        ]
    );
    for (number, after) in positions.iter().enumerate() {
        for most in 0..=5 {
            let told = store.changes(after, None, most).await.expect("read").expect("known");
            let last = (number + most).min(4);
            assert_eq!(told.changes, all[number..last], "{most} after {number}");
            assert_eq!(told.position, positions[last]);
            assert_eq!(told.head.position, positions[4]);
        }
    }
}

async fn does_not_know_positions_of_others(store: Arc<dyn Store>) {
    let known = put(&*store, "z-1", "a").await.position;
    for unknown in [
        Position { history: History::random(), ..known.clone() },
        Position { revision: Revision(2), ..known.clone() },
        Position { revision: Revision(u64::MAX), ..known.clone() },
        Position { mark: Mark::default(), ..known.clone() },
        Position { revision: Revision(0), ..known },
    ] {
        let told = store.changes(&unknown, Some(&[]), 0).await.expect("read");
        assert_eq!(told, Err(Gone::Unknown), "{unknown}");
    }
}

async fn tells_when_texts_are_thrown_away(store: Arc<dyn Store>) {
    let start = position(&*store).await;
    let first = put(&*store, "z-1", "a").await.position;
    let later = START.plus(Duration::from_secs(1));
    let audit = AuditEntry { time: later, ..entry("test") };
    let decide: Decide = Box::new(|_| Ok(vec![Edit::Put(record("z-1", "b"))]));
    store.write(Order { audit, ..order("z-1", decide) }).await.expect("written");
    store.compact(START).await.expect("compacted");
    assert!(store.changes(&start, None, 9).await.expect("read").is_ok(), "its time is not over");

    store.compact(later).await.expect("compacted");
    assert_eq!(store.changes(&start, None, 9).await.expect("read"), Err(Gone::Compacted));
    assert!(store.changes(&start, None, 0).await.expect("read").is_ok(), "it was there");
    let rest = store.changes(&first, None, 9).await.expect("read").expect("kept");
    assert_eq!(rest.changes.len(), 1);
    assert_eq!(store.page(None, None, 9).await.expect("read").rows.len(), 2);
}

async fn a_filtered_change_moves_the_position_on(store: Arc<dyn Store>) {
    let start = position(&*store).await;
    put(&*store, "z-1", "a").await;
    let head = put(&*store, "z-2", "b").await;
    let told =
        store.changes(&start, Some(&[tenant("z-1")]), 9).await.expect("read").expect("known");
    assert_eq!(told.changes.len(), 1);
    assert_eq!(told.changes[0].tenant(), &tenant("z-1"));
    assert_eq!(told.position, head.position);
}

async fn pages_through_a_table_that_changes(store: Arc<dyn Store>) {
    for (tenant, id) in [("z-1", "b"), ("z-1", "d"), ("z-10", "a"), ("z-2", "a")] {
        put(&*store, tenant, id).await;
    }
    make(&*store, "z-1", vec![Edit::PutTenant(Status::Enabled)]).await;
    let first = store.page(None, None, 2).await.expect("read");
    assert_eq!(first.tenants.len(), 1);
    assert_eq!(first.next, Some(key("z-1", "d")));
    put(&*store, "z-1", "c").await;
    put(&*store, "z-1", "e").await;
    make(&*store, "z-10", vec![delete("a")]).await;

    let second = store.page(first.next.as_ref(), None, 2).await.expect("read");
    let ids =
        |page: &Page| page.rows.iter().map(|row| row.credential.id.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (ids(&first), ids(&second)),
        (vec!["b".into(), "d".into()], vec!["e".into(), "a".into()])
    );
    assert_eq!(second.next, None, "a full page that is the last one");
    assert_eq!(second.tenants, []);
    assert!(second.head.position.revision > first.head.position.revision);
}

async fn leaves_other_tenants_out_of_a_page(store: Arc<dyn Store>) {
    for name in ["z-1", "z-2", "z-3"] {
        make(&*store, name, vec![Edit::PutTenant(Status::Enabled)]).await;
        put(&*store, name, "a").await;
        put(&*store, name, "b").await;
    }
    let wanted = [tenant("z-3"), tenant("z-1")];
    let first = store.page(None, Some(&wanted), 3).await.expect("read");
    let keys: Vec<_> = first.rows.iter().map(|row| row.credential.tenant.to_string()).collect();
    assert_eq!(keys, ["z-1", "z-1", "z-3"]);
    assert_eq!(first.tenants.len(), 2);
    let second = store.page(first.next.as_ref(), Some(&wanted), 3).await.expect("read");
    assert_eq!((second.rows.len(), second.next), (1, None));
    let none = store.page(None, Some(&[]), 3).await.expect("read");
    assert_eq!((none.rows.len(), none.tenants.len(), none.next), (0, 0, None));
}

async fn lists_the_records_of_a_tenant(store: Arc<dyn Store>) {
    for (id, expiry) in [
        ("a", Expiry::At(START)),
        ("b", Expiry::Never),
        ("c", Expiry::At(START.plus(Duration::from_millis(1)))),
        ("d", Expiry::At(START)),
    ] {
        let mut one = record("z-1", id);
        one.credential.expiry = expiry;
        make(&*store, "z-1", vec![Edit::Put(one)]).await;
    }
    put(&*store, "z-2", "e").await;
    let list = async |after: Option<&str>, expires_by, rows| {
        let after = after.map(|id| key("z-1", id).1);
        let filter = Filter { tenant: tenant("z-1"), after, expires_by, rows };
        let found = store.records(&filter).await.expect("read");
        let ids = found.records.iter().map(|it| it.credential.id.to_string());
        (ids.collect::<String>(), found.total, found.next.map(|id| id.to_string()))
    };
    assert_eq!(list(None, None, 9).await, ("abcd".into(), 4, None));
    assert_eq!(list(None, None, 3).await, ("abc".into(), 4, Some("c".into())));
    assert_eq!(list(Some("c"), None, 3).await, ("d".into(), 4, None));
    assert_eq!(list(None, Some(START), 1).await, ("a".into(), 2, Some("a".into())));
    assert_eq!(list(Some("a"), Some(START), 1).await, ("d".into(), 2, None));
}

async fn finds_a_record_by_its_digest(store: Arc<dyn Store>) {
    let head = put(&*store, "z-1", "a").await;
    let found = store.lookup(&TokenDigest::of(b"z-1/a")).await.expect("read");
    assert_eq!(found, (head.clone(), Some(Record { revision: Revision(1), ..record("z-1", "a") })));
    assert_eq!(store.lookup(&TokenDigest::of(b"b")).await.expect("read"), (head, None));
}

async fn a_use_never_goes_back(store: Arc<dyn Store>) {
    let head = put(&*store, "z-1", "a").await;
    let at = |seconds| START.plus(Duration::from_secs(seconds));
    for (noted, known) in [(5, 5), (4, 5), (6, 6)] {
        let used = [(key("z-1", "a"), at(noted)), (key("z-1", "gone"), at(noted))];
        store.note_used(&used).await.expect("noted");
        let record = store.record(&key("z-1", "a")).await.expect("read").expect("there");
        assert_eq!((record.last_used, record.revision), (Some(at(known)), Revision(1)));
    }
    assert_eq!(store.head().await.expect("a head"), head, "a use is no change");
}

async fn keeps_leases(store: Arc<dyn Store>) {
    let report = Report {
        name: "host".to_owned(),
        applied: Some(position(&*store).await),
        max_stale: Duration::from_secs(5),
        compared: Some(position(&*store).await),
        would_revive: vec![key("z-1", "a")],
        used: vec![(key("z-1", "a"), START)],
    };
    let kept =
        Report { compared: None, would_revive: Vec::new(), used: Vec::new(), ..report.clone() };
    for instance in ["i-2", "i-1"] {
        let lease = Lease { instance: instance.to_owned(), report: report.clone() };
        store.put_lease(&lease).await.expect("kept");
    }
    let second = Lease {
        instance: "i-2".to_owned(),
        report: Report { applied: None, max_stale: Duration::ZERO, ..kept.clone() },
    };
    store.put_lease(&second).await.expect("kept");
    let first = Lease { instance: "i-1".to_owned(), report: kept };
    assert_eq!(store.leases().await.expect("read"), [first.clone(), second]);
    store.remove_lease("i-2").await.expect("removed");
    store.remove_lease("i-2").await.expect("removed before");
    assert_eq!(store.leases().await.expect("read"), [first]);
}

async fn an_accepted_dispute_begins_a_new_history(store: Arc<dyn Store>) {
    let before = put(&*store, "z-1", "a").await;
    let (held, other) = (History::random(), History::random());
    for history in [&held, &other, &held] {
        store.dispute(history).await.expect("noted");
    }
    let disputed = store.head().await.expect("a head");
    assert_eq!(disputed, Head { disputed: true, ..before.clone() });

    let time = START.plus(Duration::from_secs(9));
    let head =
        store.accept(AuditEntry { time, ..entry("history.accept") }).await.expect("accepted");
    let mut accepts = vec![held.clone(), other, before.position.history.clone()];
    accepts.sort();
    assert_ne!(head.position.history, before.position.history);
    let position = Position { history: head.position.history.clone(), ..before.position.clone() };
    assert_eq!(head, Head { position, disputed: false, accepts, began: time });
    // A report that came in before is noted after.
    for history in [&held, &before.position.history] {
        store.dispute(history).await.expect("noted");
    }
    assert_eq!(store.head().await.expect("a head"), head);
    assert_eq!(*store.latest().borrow(), head.position);
    let told = store.changes(&before.position, None, 9).await.expect("read");
    assert_eq!(told, Err(Gone::Unknown), "the ended history is no longer followed");
    assert_eq!(store.audit(1, 9).await.expect("read")[0].action, "history.accept");
}

async fn audits_what_it_writes_and_nothing_else(store: Arc<dyn Store>) {
    let two = vec![Edit::PutTenant(Status::Enabled), Edit::Put(record("z-1", "a"))];
    make(&*store, "z-1", two).await;
    let nothing = store.write(order("z-1", Box::new(|_| Ok(Vec::new())))).await.expect("done");
    assert!(!nothing.changed);
    let login = AuditEntry { tenant: None, ..entry("login.fail") };
    store.append_audit(login).await.expect("kept");
    let row = AuditRow {
        number: 1,
        revision: Revision(2),
        time: START,
        actor: "admin".to_owned(),
        peer: "127.0.0.1".to_owned(),
        request_id: "r-1".to_owned(),
        action: "test".to_owned(),
        tenant: Some(tenant("z-1")),
        credential_id: None,
        detail: String::new(),
    };
    let login =
        AuditRow { number: 2, action: "login.fail".to_owned(), tenant: None, ..row.clone() };
    assert_eq!(store.audit(0, 9).await.expect("read"), [row.clone(), login.clone()]);
    assert_eq!(store.audit(0, 1).await.expect("read"), [row]);
    assert_eq!(store.audit(1, 9).await.expect("read"), [login]);
    assert_eq!(store.audit(2, 9).await.expect("read"), []);
}

async fn keeps_admin_tokens(store: Arc<dyn Store>) {
    let token = |name: &str, secret: &str| StoredToken {
        name: name.to_owned(),
        digest: TokenDigest::of(secret.as_bytes()),
    };
    for (name, secret) in [("a", "1"), ("b", "2"), ("a", "3")] {
        store.put_token(&token(name, secret)).await.expect("kept");
    }
    assert_eq!(store.stored_tokens().await.expect("read"), [token("b", "2"), token("a", "3")]);
}

async fn a_nonce_is_taken_once_until_it_is_forgotten(store: Arc<dyn Store>) {
    let (one, other) = (Nonce::of(b"one"), Nonce::of(b"other"));
    let later = START.plus(Duration::from_secs(1));
    let take = async |nonce, until| store.take_nonce(nonce, until, false).await.expect("kept");
    assert!(take(&one, START).await && take(&other, later).await);
    assert!(!take(&one, later).await);
    store.forget_nonces(START).await.expect("forgotten");
    for begun in [START, START.plus(Duration::from_secs(1))] {
        store.note_read(&tenant("d-1"), begun).await.expect("noted");
        assert_eq!(store.reads().await.expect("kept"), [(tenant("d-1"), begun)]);
    }
    assert!(take(&one, later).await && !take(&other, later).await);
}

async fn a_denied_order_writes_nothing(store: Arc<dyn Store>) {
    let before = put(&*store, "z-1", "a").await;
    let denied = store.write(order("z-1", Box::new(|_| Err(Denied::TenantUnknown)))).await;
    assert!(matches!(denied, Err(WriteError::Denied(Denied::TenantUnknown))));
    assert_eq!(store.head().await.expect("a head"), before);
    assert_eq!(store.audit(0, 9).await.expect("read").len(), 1);
}

async fn a_panic_in_an_order_breaks_nothing(store: Arc<dyn Store>) {
    let before = put(&*store, "z-1", "a").await;
    let same = store.clone();
    let broken = tokio::spawn(async move {
        same.write(order("z-1", Box::new(|_| panic!("on purpose")))).await.map(|_| ())
    });
    assert!(broken.await.is_err());
    assert_eq!(store.head().await.expect("a head"), before);
    assert_eq!(put(&*store, "z-1", "b").await.position.revision, Revision(2));
}

async fn tells_the_latest_position_after_it_is_written(store: Arc<dyn Store>) {
    let mut latest = store.latest();
    assert_eq!(*latest.borrow_and_update(), position(&*store).await);
    let (writer, reader) = (store.clone(), store.clone());
    let written = tokio::spawn(async move { put(&*writer, "z-1", "a").await });
    latest.changed().await.expect("the store is there");
    let told = latest.borrow().clone();
    assert_eq!(reader.head().await.expect("a head").position, told);
    assert_eq!(written.await.expect("written").position, told);
    let _ = store.write(order("z-1", Box::new(|_| Err(Denied::TenantUnknown)))).await;
    assert!(!latest.has_changed().expect("the store is there"));
}

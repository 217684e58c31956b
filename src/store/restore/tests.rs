use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::credential::feed::{Gone, Report};
use crate::credential::{Expiry, Status, TokenDigest};
use crate::store::replicas::Replicas;
use crate::store::sqlite::{Options, Sqlite};
use crate::store::suite::{self, START, entry, key, make as edit, put, record};
use crate::store::{Edit, Origin, Provider, Standing, Store};

/// A day after all else.
const LATER: Timestamp = Timestamp::from_millis(START.as_millis() + 86_400_000);

struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn open(&self) -> Sqlite {
        suite::open(&self.directory).await
    }

    async fn restore(&self, exact: bool) -> Result<Restored, RestoreError> {
        restore(&self.path("backup.db"), &self.path("admin.db"), exact, LATER).await
    }

    /// Makes a store with some credentials of two tenants, and a backup of it.
    async fn with_backup(&self) -> (Sqlite, Head) {
        let store = self.open().await;
        for tenant in ["z-1", "z-2", "z-3"] {
            edit(&store, tenant, vec![Edit::PutTenant(Status::Enabled)]).await;
        }
        for id in ["deleted", "disabled", "shortened", "extended", "rebound", "same"] {
            put(&store, "z-1", id).await;
        }
        edit(&store, "z-1", vec![changed("enabled", |it| it.credential.status = Status::Disabled)])
            .await;
        put(&store, "z-3", "gone").await;
        let token = StoredToken { name: "admin".to_owned(), digest: TokenDigest::of(b"first") };
        store.put_token(&token).await.expect("kept");
        let head = store.backup(&self.path("backup.db")).await.expect("a backup");
        (store, head)
    }
}

fn changed(id: &str, change: impl FnOnce(&mut Record)) -> Edit {
    let mut record = record("z-1", id);
    change(&mut record);
    Edit::Put(record)
}

fn expiring(seconds: u64) -> impl FnOnce(&mut Record) {
    move |it| it.credential.expiry = Expiry::At(START.plus(Duration::from_secs(seconds)))
}

/// What is done to a store after its backup.
async fn go_on(store: &Sqlite) -> Head {
    for change in [
        Edit::Delete(key("z-1", "deleted").1),
        changed("disabled", |it| {
            it.credential.status = Status::Disabled;
            expiring(1)(it);
        }),
        changed("shortened", expiring(1)),
        changed("extended", expiring(99)),
        changed("rebound", |it| it.credential.digest = TokenDigest::of(b"another")),
        changed("enabled", |_| ()),
        changed("new", |_| ()),
    ] {
        edit(store, "z-1", vec![change]).await;
    }
    edit(store, "z-2", vec![Edit::PutTenant(Status::Disabled)]).await;
    let gone = Edit::Delete(key("z-3", "gone").1);
    edit(store, "z-3", vec![gone, Edit::DeleteTenant]).await;
    let token = StoredToken { name: "admin".to_owned(), digest: TokenDigest::of(b"second") };
    store.put_token(&token).await.expect("kept");
    let report = Report {
        name: "host".to_owned(),
        applied: None,
        max_stale: Duration::from_secs(5),
        compared: None,
        would_revive: Vec::new(),
        used: Vec::new(),
    };
    let lease = Lease { instance: "i-1".to_owned(), report };
    store.put_lease(&lease).await.expect("kept");
    assert!(store.take_nonce(&TokenDigest::of(b"nonce"), LATER, false).await.expect("kept"));
    store.head().await.expect("a head")
}

/// Each credential with what it is worth.
async fn told(store: &Sqlite) -> Vec<String> {
    let mut told = Vec::new();
    for row in store.page(None, None, 99).await.expect("read").rows {
        let Expiry::At(end) = row.credential.expiry else { panic!("all end") };
        let status = row.credential.status.as_str();
        told.push(format!("{} {status} {}", row.credential.id, end.since(START).as_secs()));
    }
    for row in store.tenants().await.expect("read") {
        told.push(format!("{} {}", row.tenant, row.synchronization.as_str()));
    }
    told
}

fn lines(restored: &Restored) -> Vec<String> {
    restored.differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn takes_away_again_what_was_taken_away_since() {
    let files = Files::new();
    let (store, then) = files.with_backup().await;
    let last = go_on(&store).await;
    drop(store);
    let restored = files.restore(false).await.expect("restored");
    assert_eq!(
        lines(&restored),
        [
            "z-1/deleted: deleted since the backup; carried over",
            "z-1/disabled: disabled since the backup; carried over",
            "z-1/disabled: set to expire at 2023-11-14T22:13:21Z since the backup; carried over",
            "z-1/enabled: enabled since the backup; lost",
            "z-1/extended: set to expire at 2023-11-14T22:14:59Z since the backup; lost",
            "z-1/rebound: bound to another token since the backup; disabled here",
            "z-1/shortened: set to expire at 2023-11-14T22:13:21Z since the backup; carried over",
            "z-3/gone: deleted since the backup; carried over",
            "z-1/new: created since the backup; lost",
            "tenant z-2: disabled since the backup; carried over",
            "tenant z-3: deleted since the backup; carried over",
        ]
    );
    let aside = restored.replaced.clone().expect("one was replaced");
    assert!(aside.ends_with("admin.db.replaced-20231115T221320Z"), "{}", aside.display());
    assert_eq!(restored.unreadable, None);

    let store = files.open().await;
    assert_eq!(
        told(&store).await,
        [
            "disabled Disabled 1",
            "enabled Disabled 60",
            "extended Enabled 60",
            "rebound Disabled 60",
            "same Enabled 60",
            "shortened Enabled 1",
            "z-1 Enabled",
            "z-2 Disabled",
        ]
    );
    let head = store.head().await.expect("a head");
    assert_eq!(head, restored.head);
    assert!(head.disputed);
    assert_eq!(head.began, LATER);
    let first = last.position.revision.0 + 2;
    for row in store.page(None, None, 99).await.expect("read").rows {
        let touched = !["same", "enabled", "extended"].contains(&row.credential.id.as_str());
        assert_eq!(row.revision.0 >= first, touched, "{row:?}");
    }
    for lost in [&then, &last] {
        assert_ne!(head.position.history, lost.position.history);
        let told = store.changes(&lost.position, None, 9).await.expect("read");
        assert_eq!(told, Err(Gone::Unknown));
    }
    assert_eq!(store.stored_tokens().await.expect("read")[0].digest, TokenDigest::of(b"second"));
    assert!(!store.take_nonce(&TokenDigest::of(b"nonce"), LATER, false).await.expect("known"));
    assert_eq!(store.leases().await.expect("read").len(), 1);
    let audited = store.audit(0, 99).await.expect("read");
    assert_eq!(audited.last().expect("one").action, "store.restore");

    let accepted = store.accept(entry("history.accept")).await.expect("accepted").accepts;
    for history in [&then, &last, &head].map(|it| &it.position.history) {
        assert!(accepted.contains(history));
    }
    drop(store);
    let old = Sqlite::open(&aside, Options::default(), START).await.expect("a store").store;
    assert_eq!(old.head().await.expect("a head"), last, "the replaced store is whole");
}

#[tokio::test]
async fn an_exact_one_is_as_the_backup_was() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    let then = told(&store).await;
    let last = go_on(&store).await;
    drop(store);
    let restored = files.restore(true).await.expect("restored");
    assert!(restored.differences.iter().all(|it| !it.carried));
    assert_eq!(restored.differences.len(), 11);
    let store = files.open().await;
    assert_eq!(told(&store).await, then);
    let head = store.head().await.expect("a head");
    assert_eq!(head.position.revision.0, last.position.revision.0 + 1);
    assert!(head.disputed);
    assert_eq!(store.stored_tokens().await.expect("read")[0].digest, TokenDigest::of(b"first"));
}

#[tokio::test]
async fn a_new_store_in_place_has_deleted_nothing() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    let then = told(&store).await;
    drop(store);
    fs::remove_file(files.path("admin.db")).expect("removed");
    edit(&files.open().await, "z-1", vec![Edit::PutTenant(Status::Enabled)]).await;
    let restored = files.restore(false).await.expect("restored");
    assert!(restored.differences.iter().all(|it| !it.carried), "{:?}", lines(&restored));
    assert_eq!(told(&files.open().await).await, then);
    assert!(restored.head.disputed);
    assert!(restored.head.position.revision.0 > 1_000_000_000, "above what is lost");
}

#[tokio::test]
async fn of_two_branches_only_the_common_trunk_tells_what_was_deleted() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    fs::rename(files.path("backup.db"), files.path("first.db")).expect("renamed");
    put(&store, "z-1", "newer").await;
    store.backup(&files.path("backup.db")).await.expect("a backup");
    drop(store);
    // The older backup was put in place by mistake, and then something was deleted.
    restore(&files.path("first.db"), &files.path("admin.db"), false, START).await.expect("done");
    edit(&files.open().await, "z-1", vec![Edit::Delete(key("z-1", "same").1)]).await;
    let restored = files.restore(false).await.expect("restored");
    assert_eq!(
        lines(&restored),
        [
            "z-1/newer: not in the replaced store; kept",
            "z-1/same: deleted since the backup; carried over"
        ]
    );
}

#[tokio::test]
async fn is_put_where_nothing_is() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    drop(store);
    let to = files.path("new/admin.db");
    let restored = restore(&files.path("backup.db"), &to, false, LATER).await.expect("restored");
    assert_eq!((restored.replaced, restored.differences), (None, Vec::new()));
    let store = Sqlite::open(&to, Options::default(), START).await.expect("a store");
    assert!(!store.created);
    assert!(store.store.head().await.expect("a head").disputed);
}

#[tokio::test]
async fn one_that_cannot_be_read_is_put_aside_as_it_is() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    drop(store);
    drop(files.open().await);
    let mut broken = fs::read(files.path("admin.db")).expect("a store");
    broken[100..].fill(0xa5);
    fs::write(files.path("admin.db"), &broken).expect("written");
    fs::write(files.path("admin.db-wal"), b"frames").expect("written");
    fs::write(files.path("admin.db.restoring"), b"left over").expect("written");
    let restored = files.restore(false).await.expect("restored");
    assert!(restored.unreadable.is_some());
    assert!(restored.head.disputed);
    assert!(fs::read(restored.replaced.expect("one was replaced")).expect("a file") == broken);
    assert_eq!(told(&files.open().await).await.len(), 11);
}

#[tokio::test]
async fn is_refused_while_the_store_is_in_use() {
    let files = Files::new();
    let (store, head) = files.with_backup().await;
    let refused = files.restore(false).await.expect_err("in use");
    assert!(matches!(refused, RestoreError::Store(OpenError::InUse(_))), "{refused}");
    assert_eq!(store.head().await.expect("a head"), head);
    put(&store, "z-1", "more").await;
}

#[tokio::test]
async fn a_bad_backup_changes_nothing() {
    let files = Files::new();
    let (store, head) = files.with_backup().await;
    drop(store);
    let good = fs::read(files.path("backup.db")).expect("a backup");
    let mut other = good.clone();
    other[68] = 7;
    let mut broken = good.clone();
    let middle = good.len() / 2;
    broken[middle..middle + 4096].fill(0xa5);
    for (bytes, word) in [
        (None, "there is no such backup"),
        (Some(other), "another program"),
        (Some(good[..good.len() - 1].to_vec()), "its end is missing"),
        (Some(broken), "is damaged"),
    ] {
        let backup = files.path("bad.db");
        if let Some(bytes) = bytes {
            fs::write(&backup, bytes).expect("written");
        }
        let refused = restore(&backup, &files.path("admin.db"), false, LATER).await;
        let told = refused.expect_err(word).to_string();
        assert!(told.contains(word), "{told} does not say {word}");
        assert!(!files.path("admin.db.restoring").exists());
    }
    fs::write(files.path("backup.db-wal"), b"frames").expect("written");
    let refused = files.restore(false).await.expect_err("a copy of a store in use");
    assert!(matches!(refused, RestoreError::Unfinished(_)), "{refused}");
    assert_eq!(files.open().await.head().await.expect("a head"), head);
}

#[tokio::test]
async fn a_receipt_waits_for_replicas_of_the_lost_store() {
    let files = Files::new();
    let (store, _) = files.with_backup().await;
    drop(store);
    files.restore(false).await.expect("restored");
    let store: Arc<dyn Store> = Arc::new(files.open().await);
    let now = Clock::manual(LATER).now();
    let minute = Duration::from_secs(60);
    let replicas = Replicas::load(store.clone(), minute, now).await.expect("loaded");
    let revision = store.head().await.expect("a head").position.revision;
    let receipt = replicas.receipt(revision, &now).await.expect("read").expect("made");
    assert!(!receipt.complete);
}

/// A listing of the cloud that comes after the restore brings nothing back.
#[tokio::test]
async fn what_was_taken_away_of_a_cloud_stays_so_whatever_it_lists() {
    use Standing::{DeletePending, DisablePending, Listed};
    use Status::{Disabled, Enabled};
    let files = Files::new();
    let store = files.open().await;
    edit(&store, "z-1", vec![Edit::PutTenant(Enabled)]).await;
    let put = async |id: &str, status, standing, change: &dyn Fn(&mut Record)| {
        let mirrored = changed(id, |it| {
            it.credential.status = status;
            it.origin = Origin::Mirrored(Provider::Alibaba, standing);
            change(it);
        });
        edit(&store, "z-1", vec![mirrored]).await;
    };
    for (id, status) in [("blocked", Enabled), ("again", Disabled), ("rotated", Enabled)] {
        put(id, status, Listed, &|_| ()).await;
    }
    put("rebound", Enabled, Listed, &|_| ()).await;
    store.backup(&files.path("backup.db")).await.expect("a backup");
    put("blocked", Disabled, DeletePending, &|_| ()).await;
    put("again", Disabled, DisablePending, &|_| ()).await;
    put("rotated", Enabled, Listed, &|it| {
        expiring(1)(it);
        it.successor = Some(key("z-1", "new").1);
    })
    .await;
    put("rebound", Enabled, Listed, &|it| it.credential.digest = TokenDigest::of(b"another")).await;
    drop(store);
    files.restore(false).await.expect("restored");

    let store = files.open().await;
    let record = async |id| store.record(&key("z-1", id)).await.expect("read");
    for id in ["blocked", "again"] {
        let record = record(id).await.expect("there");
        let pending = Origin::Mirrored(Provider::Alibaba, DisablePending);
        assert_eq!((record.credential.status, record.origin), (Disabled, pending), "{id}");
    }
    let rotated = record("rotated").await.expect("there");
    assert_eq!(rotated.successor, Some(key("z-1", "new").1));
    assert_eq!(record("rebound").await, None, "nobody knows the token that it has there");
}

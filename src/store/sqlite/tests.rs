use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sqlx::sqlite::{SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection as _, query_scalar};
use tempfile::TempDir;

use super::*;
use crate::credential::Status;
use crate::store::suite::{self, START, entry, key, make, order, put, record};
use crate::store::{Denied, Edit, View};

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join("admin.db")
}

async fn refusal(path: &Path) -> OpenError {
    match Sqlite::open(path, Options::default(), START).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// Makes a store that is like ours but for what a script does to it.
async fn altered(script: &'static str) -> TempDir {
    let (directory, store) = suite::sqlite().await;
    drop(store);
    let file = path(&directory);
    let mut connection =
        Connection::open(&file, SqliteJournalMode::Delete).await.expect("our store");
    raw_sql(script).execute(&mut *connection).await.expect("a right script");
    drop(connection);
    directory
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[tokio::test]
async fn keeps_all_until_it_is_opened_again() {
    let (directory, store) = suite::sqlite().await;
    make(&store, "z-1", vec![Edit::PutTenant(Status::Disabled)]).await;
    let head = put(&store, "z-1", "a").await;
    store.dispute(&History::random()).await.expect("noted");
    let page = store.page(None, None, 9).await.expect("read");
    assert_eq!(page.head, Head { disputed: true, ..head });
    drop(store);

    let opened = Sqlite::open(&path(&directory), Options::default(), START).await.expect("ours");
    assert!(!opened.created);
    assert_eq!(opened.store.page(None, None, 9).await.expect("read"), page);
    assert_eq!(*opened.store.latest().borrow(), page.head.position);
    assert_eq!(put(&opened.store, "z-1", "b").await.position.revision.0, 3);
}

#[tokio::test]
async fn makes_directories_and_files_that_nobody_else_may_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a/b/admin.db");
    let opened = Sqlite::open(&file, Options::default(), START).await.expect("a store");
    assert!(opened.created);
    put(&opened.store, "z-1", "a").await;
    for made in ["a", "a/b"] {
        assert_eq!(mode(&directory.path().join(made)), 0o700, "{made}");
    }
    let names: Vec<_> = fs::read_dir(directory.path().join("a/b"))
        .expect("a directory")
        .map(|it| it.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for suffix in ["", "-wal", ".lock", ".reserve"] {
        assert_eq!(mode(&place::beside(&file, suffix)), 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn is_opened_by_one_at_a_time() {
    let (directory, store) = suite::sqlite().await;
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(path(&directory), &link).expect("a link");
    for file in [path(&directory), link] {
        let refused = refusal(&file).await;
        assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
    }
    put(&store, "z-1", "a").await;
    drop(store);
    drop(suite::open(&directory).await);

    // Also when it is held by a program that knows nothing of our lock file.
    let mut other =
        SqliteConnection::connect(path(&directory).to_str().expect("UTF-8")).await.expect("opened");
    raw_sql("BEGIN; SELECT * FROM store").execute(&mut other).await.expect("read");
    assert!(matches!(refusal(&path(&directory)).await, OpenError::InUse(_)));
}

#[tokio::test]
async fn refuses_what_is_not_its_own_and_leaves_it_as_it_is() {
    let whole = fs::read(path(&altered("").await)).expect("a store");
    let newer = fs::read(path(&altered("PRAGMA user_version = 99098").await)).expect("a store");
    let foreign = fs::read(path(&altered("PRAGMA application_id = 7").await)).expect("a database");
    let mut scrambled = whole.clone();
    scrambled[100..].fill(0xa5);
    let cut = |bytes: usize| whole[..bytes].to_vec();
    for (bytes, word) in [
        (Vec::new(), "is empty"),
        (b"credentials:\n".repeat(50), "is not an SQLite database"),
        (foreign, "another program"),
        (newer, "a later version of scim-guard (schema 99)"),
        (cut(50), "is not an SQLite database"),
        (cut(1000), "is damaged"),
        (cut(4096), "is damaged"),
        (cut(whole.len() - 1), "is damaged"),
        (cut(whole.len() - 4096), "is damaged"),
        (scrambled, "is damaged"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(path(&directory), &bytes).expect("written");
        let refused = refusal(&path(&directory)).await.to_string();
        assert!(refused.contains(word), "{refused} does not say {word}");
        assert!(fs::read(path(&directory)).expect("still there") == bytes, "touched: {refused}");
    }
}

#[tokio::test]
async fn opens_a_newer_store_that_says_that_we_can_read_it() {
    let newer = "ALTER TABLE credentials ADD COLUMN cloud TEXT; PRAGMA user_version = 3001; \
                 INSERT INTO credentials (tenant, id, status, revision, created, label, origin, \
                 created_by, enrolled) VALUES ('z-1', 'cloud', 'Enabled', 1, 0, '', 'tencent', \
                 '', 0); UPDATE store SET revision = 1; \
                 INSERT INTO log VALUES (1, '0000000000000001', 0, '{\"cloud\":1}')";
    let directory = altered(newer).await;
    let store = suite::open(&directory).await;
    put(&store, "z-1", "a").await;
    let page = store.page(None, None, 9).await.expect("read");
    assert_eq!(page.rows.len(), 1, "a row without a digest opens nothing");
    let start = Position::start(page.head.position.history);
    let told = store.changes(&start, None, 9).await.expect("read");
    assert_eq!(told, Err(Gone::Compacted), "a change that we do not understand: list again");
    let mut kept = store.lock().await;
    let version: u32 = query_scalar("PRAGMA user_version")
        .fetch_one(&mut *kept.connection)
        .await
        .expect("a number");
    assert_eq!(version, 3001);
}

#[tokio::test]
async fn brings_an_older_store_up_to_date() {
    let directory = altered("DROP TABLE nonces; DROP TABLE reads; ALTER TABLE credentials DROP COLUMN mirrored; PRAGMA user_version = 1001").await;
    let store = suite::open(&directory).await;
    assert!(store.take_nonce(&TokenDigest::of(b"n"), START, false).await.expect("kept"));
}

#[tokio::test]
async fn makes_no_new_store_where_the_changes_of_an_old_one_are() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(place::beside(&path(&directory), "-wal"), b"frames").expect("written");
    assert!(matches!(refusal(&path(&directory)).await, OpenError::Orphaned(_)));
    assert!(!path(&directory).exists());
}

#[tokio::test]
async fn begins_anew_when_it_was_interrupted_while_it_was_made() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(place::beside(&path(&directory), ".new"), b"half").expect("written");
    fs::write(place::beside(&path(&directory), ".new-journal"), b"half").expect("written");
    put(&suite::open(&directory).await, "z-1", "a").await;
    assert!(!place::beside(&path(&directory), ".new").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_holds_among_many_at_once() {
    let (_directory, store) = suite::sqlite().await;
    let store = Arc::new(store);
    let limited = |number: usize| {
        let create = move |view: &View| match view.records.len() {
            0 | 1 => Ok(vec![Edit::Put(record("z-1", &format!("c-{number}")))]),
            _ => Err(Denied::LimitReached(view.records.clone())),
        };
        let store = store.clone();
        tokio::spawn(async move { store.write(order("z-1", Box::new(create))).await.is_ok() })
    };
    let tasks: Vec<_> = (0..100).map(limited).collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.expect("no panic"));
    }
    assert_eq!(made, 2);
    assert_eq!(store.page(None, None, 9).await.expect("read").rows.len(), 2);
    assert_eq!(store.head().await.expect("a head").position.revision.0, 2);
}

#[tokio::test]
async fn a_write_is_brought_to_its_end_without_its_caller() {
    let (_directory, store) = suite::sqlite().await;
    let mut latest = store.latest();
    let mut abandoned = Box::pin(put(&store, "z-1", "a"));
    while !latest.has_changed().expect("the store is there") {
        // It is polled a few times, and dropped wherever it is then.
        let step = std::time::Duration::from_micros(fastrand::u64(1..300));
        if tokio::time::timeout(step, &mut abandoned).await.is_ok() {
            break;
        }
        drop(std::mem::replace(&mut abandoned, Box::pin(put(&store, "z-1", "a"))));
    }
    drop(abandoned);
    let head = put(&store, "z-1", "b").await;
    assert_eq!(*latest.borrow_and_update(), head.position);
    assert_eq!(store.head().await.expect("a head"), head);
}

#[tokio::test]
async fn a_taken_digest_is_refused_by_the_engine_too() {
    let (_directory, store) = suite::sqlite().await;
    let before = put(&store, "z-1", "a").await;
    let mut thief = record("z-2", "b");
    thief.credential.digest = record("z-1", "a").credential.digest;
    let decide = Box::new(|_: &View| Ok(vec![Edit::Put(record("z-2", "c")), Edit::Put(thief)]));
    let refused = store.write(order("z-2", decide)).await;
    assert!(matches!(refused, Err(WriteError::Failed(_))), "{refused:?}");
    assert_eq!(store.head().await.expect("a head"), before);
    assert_eq!(store.record(&key("z-2", "c")).await.expect("read"), None);
    put(&store, "z-2", "b").await;
}

async fn pages_max(store: &Sqlite, more: i64) {
    let mut kept = store.lock().await;
    let pages: i64 =
        query_scalar("PRAGMA page_count").fetch_one(&mut *kept.connection).await.expect("a number");
    let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + more));
    raw_sql(limit).execute(&mut *kept.connection).await.expect("a limit");
}

#[tokio::test]
async fn a_full_store_says_so_and_goes_on() {
    let (_directory, store) = suite::sqlite().await;
    pages_max(&store, 0).await;
    let mut full = None;
    for number in 0..100 {
        let before = store.head().await.expect("a head");
        let decide = Box::new(move |_: &View| {
            Ok(vec![Edit::Put(record("z-1", &format!("c-{number}"))), Edit::DeleteTenant])
        });
        match store.write(order("z-1", decide)).await {
            Ok(written) => assert_eq!(store.head().await.expect("a head"), written.head),
            Err(error) => {
                assert_eq!(store.head().await.expect("a head"), before);
                full = Some(error);
                break;
            }
        }
    }
    assert!(matches!(full, Some(WriteError::Full)), "{full:?}");
    let told = store.append_audit(AuditEntry { detail: "x".repeat(5000), ..entry("test") });
    assert_eq!(told.await.expect_err("full").to_string(), "no room is left on the disk");
    pages_max(&store, 100).await;
    put(&store, "z-1", "c-100").await;
}

#[tokio::test]
async fn nonces_take_the_reserve_only_for_what_takes_rights_away() {
    let (directory, store) = suite::sqlite().await;
    pages_max(&store, 0).await;
    let mut full = None;
    for number in 0..1000_u32 {
        let nonce = TokenDigest::of(&number.to_be_bytes());
        if let Err(failed) = store.take_nonce(&nonce, START, false).await {
            full = Some(failed.to_string());
            break;
        }
    }
    assert_eq!(full.as_deref(), Some("no room is left on the disk"));
    let reserve = place::beside(&path(&directory), ".reserve");
    assert!(reserve.exists(), "whoever signs, this is not for all");
    // This limit is not the disk's, so that what is given up does not help.
    store.take_nonce(&TokenDigest::of(b"disable"), START, true).await.expect_err("full");
    assert!(!reserve.exists());
}

#[tokio::test]
async fn a_backup_is_a_whole_store_of_its_own() {
    let (directory, store) = suite::sqlite().await;
    put(&store, "z-1", "a").await;
    let to = directory.path().join("backup.db");
    let head = store.backup(&to).await.expect("written");
    assert_eq!(head, store.head().await.expect("a head"));
    assert_eq!(mode(&to), 0o600);
    let before = fs::read(&to).expect("a file");
    store.backup(&to).await.expect_err("the file is there");
    assert!(fs::read(&to).expect("a file") == before);
    store.backup(&directory.path().join("no/backup.db")).await.expect_err("no directory");

    put(&store, "z-1", "b").await;
    let copy = Sqlite::open(&to, Options::default(), START).await.expect("a store").store;
    assert_eq!(copy.head().await.expect("a head"), head);
    assert_eq!(copy.page(None, None, 9).await.expect("read").rows.len(), 1);
}

#[tokio::test]
async fn a_filter_of_tenants_reads_no_others() {
    let (_directory, store) = suite::sqlite().await;
    put(&store, "z-1", "a").await;
    for (tenants, rows) in [(vec!["z-1", "z-2"], 1), (vec!["z'--", "z-2\""], 0)] {
        let wanted: Vec<_> = tenants.iter().filter_map(|it| TenantId::parse(it).ok()).collect();
        let page = store.page(None, Some(&wanted), 9).await.expect("read");
        assert_eq!(page.rows.len(), rows, "{tenants:?}");
    }
}

/// A disk that is really full. It needs a mount of its own, so the test starts itself once more in
/// a new namespace, where it may mount one.
#[cfg(feature = "e2e")]
#[tokio::test]
async fn a_full_disk_still_takes_restrictions() {
    let Ok(disk) = std::env::var("SCIM_GUARD_TEST_DISK") else { return within_a_small_disk() };
    let disk = Path::new(&disk);
    let file = disk.join("admin.db");
    let store = Sqlite::open(&file, Options::default(), START).await.expect("a store").store;
    for number in 0..20 {
        put(&store, "z-1", &format!("c-{number}")).await;
    }
    let filler = disk.join("filler");
    let full = fs::write(&filler, vec![1; 64 * 1024 * 1024]).expect_err("the disk is smaller");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    let mut refused = 0;
    for number in 0..2000_usize {
        let put = Edit::Put(record("z-1", &format!("c-{}", number + 20)));
        match store.write(order("z-1", Box::new(|_| Ok(vec![put])))).await {
            Err(WriteError::Full) => refused += 1,
            Err(other) => panic!("{other:?}"),
            Ok(_) => assert_eq!(refused, 0, "room has come from nowhere"),
        }
        if refused == 0 {
            continue;
        }
        let mut one = record("z-1", &format!("c-{}", number % 20));
        one.credential.status = Status::Disabled;
        let disable = order("z-1", Box::new(|_| Ok(vec![Edit::Put(one)])));
        let restricted = store.write(Order { restricts: true, ..disable }).await;
        assert!(restricted.is_ok(), "{restricted:?} after {refused}");
        if refused == 200 {
            break;
        }
    }
    assert_eq!(refused, 200);
    let nonces = [1, 2].map(|it: u8| TokenDigest::of(&[it]));
    store.take_nonce(&nonces[0], START, false).await.expect_err("no room");
    assert!(store.take_nonce(&nonces[1], START, true).await.expect("taken"));
    store.dispute(&History::random()).await.expect("noted");
    store.accept(entry("history.accept")).await.expect("accepted");

    fs::remove_file(&filler).expect("removed");
    put(&store, "z-1", "again").await;
    assert!(place::beside(&file, ".reserve").exists(), "there is room again");
}

#[cfg(feature = "e2e")]
fn within_a_small_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = "store::sqlite::tests::a_full_disk_still_takes_restrictions";
    let script =
        "mount -t tmpfs -o size=8m tmpfs \"$SCIM_GUARD_TEST_DISK\" && exec \"$0\" --exact \"$1\"";
    let done = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().expect("this test"))
        .arg(name)
        .env("SCIM_GUARD_TEST_DISK", directory.path())
        .output()
        .expect("unshare is installed");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("1 passed"), "{told}");
}

//! Whatever is asked of them in a row, the engines end in the same state.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Order { tenant: u8, edits: Vec<Small> },
    Use { tenant: u8, id: u8, time: i64 },
    Dispute,
    Accept { time: i64 },
    Compact { time: i64 },
}

#[derive(Clone, Debug)]
enum Small {
    Put { id: u8, token: u8, disabled: bool, expires: Option<i64> },
    Delete { id: u8 },
    PutTenant { disabled: bool },
    DeleteTenant,
}

fn small() -> impl Strategy<Value = Small> {
    prop_oneof![
        4 => (0..4u8, 0..3u8, any::<bool>(), prop::option::of(any::<i64>())).prop_map(
            |(id, token, disabled, expires)| Small::Put { id, token, disabled, expires }
        ),
        2 => (0..4u8).prop_map(|id| Small::Delete { id }),
        1 => any::<bool>().prop_map(|disabled| Small::PutTenant { disabled }),
        1 => Just(Small::DeleteTenant),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let edits = prop::collection::vec(small(), 0..4);
    prop_oneof![
        6 => (0..3u8, edits).prop_map(|(tenant, edits)| Step::Order { tenant, edits }),
        1 => (0..3u8, 0..4u8, 0..9i64).prop_map(|(tenant, id, time)| Step::Use { tenant, id, time }),
        1 => Just(Step::Dispute),
        1 => (0..9i64).prop_map(|time| Step::Accept { time }),
        1 => (0..9i64).prop_map(|time| Step::Compact { time }),
    ]
}

fn status(disabled: bool) -> Status {
    if disabled { Status::Disabled } else { Status::Enabled }
}

fn edit(tenant: &str, small: &Small) -> Edit {
    match *small {
        Small::Put { id, token, disabled, expires } => {
            let mut put = record(tenant, &format!("c-{id}"));
            // No other credential ever has it: who may have a digest is for orders to decide.
            put.credential.digest = TokenDigest::of(format!("{tenant}/{id}/{token}").as_bytes());
            put.credential.status = status(disabled);
            put.credential.expiry =
                expires.map_or(Expiry::Never, |end| Expiry::At(Timestamp::from_millis(end)));
            Edit::Put(put)
        }
        Small::Delete { id } => delete(&format!("c-{id}")),
        Small::PutTenant { disabled } => Edit::PutTenant(status(disabled)),
        Small::DeleteTenant => Edit::DeleteTenant,
    }
}

async fn take(store: &dyn Store, step: &Step, time: i64, held: &History) {
    let at = |time| Timestamp::from_millis(time);
    match step {
        Step::Order { tenant, edits } => {
            let name = format!("z-{tenant}");
            let edits: Vec<_> = edits.iter().map(|small| edit(&name, small)).collect();
            let audit = AuditEntry { time: at(time), ..entry("test") };
            let order = Order { audit, ..order(&name, Box::new(|_| Ok(edits))) };
            store.write(order).await.expect("written");
        }
        Step::Use { tenant, id, time } => {
            let key = key(&format!("z-{tenant}"), &format!("c-{id}"));
            store.note_used(&[(key, at(*time))]).await.expect("noted");
        }
        Step::Dispute => store.dispute(held).await.expect("noted"),
        Step::Accept { time } => {
            let audit = AuditEntry { time: at(*time), ..entry("history.accept") };
            store.accept(audit).await.expect("accepted");
        }
        Step::Compact { time } => store.compact(at(*time)).await.expect("compacted"),
    }
}

/// All that can be told of a store but the random names of its histories.
async fn told(store: &dyn Store, marks: &[(Revision, Mark)]) -> Vec<String> {
    let history = store.head().await.expect("a head").position.history;
    let nameless = |head: Head| {
        let Head { position, disputed, accepts, began } = head;
        format!("{:?} {:?} {disputed} {} {began}", position.revision, position.mark, accepts.len())
    };
    let mut told = Vec::new();
    for wanted in [None, Some(vec![tenant("z-0"), tenant("z-2")])] {
        let wanted = wanted.as_deref();
        for (revision, mark) in marks {
            let after = Position { history: history.clone(), revision: *revision, mark: *mark };
            told.push(match store.changes(&after, wanted, 3).await.expect("read") {
                Ok(Changes { changes, position, head }) => {
                    format!("{changes:?} {:?} {}", position.mark, nameless(head))
                }
                Err(gone) => format!("{gone:?}"),
            });
        }
        let mut after = None;
        loop {
            let page = store.page(after.as_ref(), wanted, 2).await.expect("read");
            told.push(format!("{:?} {:?} {}", page.rows, page.tenants, nameless(page.head)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    for name in ["z-0", "z-1", "z-2"] {
        let filter = Filter { tenant: tenant(name), after: None, expires_by: Some(START), rows: 2 };
        told.push(format!("{:?}", store.records(&filter).await.expect("read")));
    }
    told.push(format!("{:?}", store.audit(0, 99).await.expect("read")));
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn engines_do_alike(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let memory = Memory::new(START);
            let (_directory, sqlite) = sqlite().await;
            let held = History::random();
            let mut marks = vec![(Revision(0), Mark::default())];
            for (time, step) in steps.iter().enumerate() {
                take(&memory, step, time as i64, &held).await;
                take(&sqlite, step, time as i64, &held).await;
                let position = position(&memory).await;
                marks.push((position.revision, position.mark));
            }
            assert_eq!(told(&memory, &marks).await, told(&sqlite, &marks).await);
        });
    }
}

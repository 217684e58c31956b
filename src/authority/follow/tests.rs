//! What the follower asks for, event by event.

use std::sync::Arc;

use super::*;
use crate::authority::{Access, Authority, Unavailable};
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::feed::{Lag, Mark};
use crate::credential::{CredentialId, TenantId};
use crate::source::wire::ReportJson;
use crate::telemetry::metrics::Metrics;

/// A follower, and the test in the place of the admin API.
struct Talk {
    follower: Follower,
    clock: Clock,
}

impl Talk {
    fn new() -> Self {
        let text = "credentials: { source: file, file: { path: c.yaml }, refresh: 30s }";
        let config = Config::parse(text, std::path::Path::new("/")).expect("valid").credentials;
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let authority = Authority::new(&config, Arc::new(Metrics::new()));
        let applier = Applier::new(authority, Box::new(|| {}));
        let terms = Terms::new("host".to_owned(), &config);
        Self { follower: Follower::new(applier, terms, &clock.now()), clock }
    }

    /// One that has listed `a` and `b` at revision 3 of `h1`, and waits for an answer to the
    /// report of that.
    fn listed() -> Self {
        let mut talk = Self::new();
        talk.step(Event::Tick);
        talk.step(reported(head("h1", 3)));
        let asks = talk.page(head("h1", 3), vec![row("a", 2), row("b", 3)]);
        assert!(matches!(&asks[..], [Ask::Report(_), Ask::Poll { .. } | Ask::Stream { .. }, ..]));
        talk
    }

    fn step(&mut self, event: Event) -> Vec<Ask> {
        self.follower.step(event, &self.clock.now())
    }

    fn wait(&mut self, seconds: u64) -> Vec<Ask> {
        self.clock.advance(Duration::from_secs(seconds));
        self.step(Event::Tick)
    }

    /// Answers the listing under way.
    fn page(&mut self, head: Head, rows: Vec<Row>) -> Vec<Ask> {
        let ticket = self.follower.survey.as_ref().expect("it lists").ticket;
        let page = Page { head, rows, tenants: Vec::new(), next: None };
        self.step(Event::Page { ticket, reply: Ok(page) })
    }

    fn stream(&mut self, after: u64, changes: Changes) -> Vec<Ask> {
        let ticket = self.follower.stream.ticket.expect("it is open");
        self.step(Event::Streamed { ticket, after: position("h1", after), changes })
    }

    fn status(&self, id: &str) -> Option<Status> {
        self.follower.applier.get(&row(id, 0).key()).map(|row| row.status)
    }

    fn unknown(&self) -> Option<Unavailable> {
        self.follower.applier.authority().unknown(None, &self.clock.now()).err()
    }

    fn age(&self) -> Option<u64> {
        self.follower.applier.authority().age(&self.clock.now()).map(|age| age.as_secs())
    }
}

fn position(history: &str, revision: u64) -> Position {
    let mark = Mark::default().then(Revision(revision), b"");
    let history = history.parse().expect("valid");
    Position { history, revision: Revision(revision), mark }
}

fn reported(head: Head) -> Event {
    Event::Reported(Ok(Heard { head, lags: Vec::new() }))
}

fn head(history: &str, revision: u64) -> Head {
    let began = Timestamp::from_millis(0);
    let position = position(history, revision);
    Head { position, disputed: false, accepts: Vec::new(), began }
}

fn row(id: &str, revision: u64) -> Row {
    let credential = Credential {
        id: CredentialId::parse(id).expect("valid"),
        tenant: TenantId::parse("z-1").expect("valid"),
        digest: digest(id),
        status: Status::Enabled,
        expiry: Expiry::Never,
    };
    Row { credential: Arc::new(credential), revision: Revision(revision) }
}

fn digest(id: &str) -> TokenDigest {
    TokenDigest::of(id.as_bytes())
}

fn disabled(id: &str, revision: u64) -> Row {
    let row = row(id, revision);
    let credential = Credential { status: Status::Disabled, ..(*row.credential).clone() };
    Row { credential: Arc::new(credential), ..row }
}

/// The one change that leads to a revision of `h1`.
fn change(row: Row) -> Changes {
    let head = head("h1", row.revision.0);
    Changes { changes: vec![Change::Credential(row)], position: head.position.clone(), head }
}

fn reports(asks: &[Ask]) -> Option<&Option<Position>> {
    asks.iter().find_map(|ask| match ask {
        Ask::Report(report) => Some(&report.applied),
        _ => None,
    })
}

fn polls(asks: &[Ask]) -> Option<(u64, &Position)> {
    asks.iter().find_map(|ask| match ask {
        Ask::Poll { ticket, after } => Some((*ticket, after)),
        _ => None,
    })
}

fn lists(asks: &[Ask]) -> bool {
    asks.iter().any(|ask| matches!(ask, Ask::Page { after: None, .. }))
}

const BODY_BYTES_MAX: usize = 1 << 20;

fn used(number: usize) -> Use {
    let tenant = TenantId::parse(&"t".repeat(128)).expect("valid");
    let id = CredentialId::parse(&format!("{number:0128}")).expect("valid");
    ((tenant, id), Timestamp::from_millis(1_700_000_000_123))
}

#[test]
fn uses_are_told_in_reports_that_fit_and_again_until_they_are_answered() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let config = serde_saphyr::from_str("source: embedded").expect("a section");
    let authority = Authority::new(&config, Arc::new(Metrics::new()));
    let applier = Applier::new(authority, Box::new(|| {}));
    let terms = Terms::new("name".to_owned(), &config);
    let mut follower = Follower::new(applier, terms, &clock.now());
    follower.unsaid = (0..USED_MAX + 1).map(used).collect();
    let head = Head {
        position: Position::start(History::random()),
        disputed: true,
        accepts: Vec::new(),
        began: clock.now().wall,
    };
    let mut told = HashSet::new();
    for (answered, count) in [(false, USED_MAX), (true, USED_MAX), (true, 1), (true, 0)] {
        clock.advance(REPORT_INTERVAL_MAX);
        let asks = follower.step(Event::Tick, &clock.now());
        let [Ask::Report(report)] = &*asks else { panic!("{asks:?}") };
        assert_eq!(report.used.len(), count);
        let json = serde_json::to_string(&ReportJson::from(report)).expect("plain values");
        assert!(json.len() < BODY_BYTES_MAX, "{}", json.len());
        let lost = Err(FeedError::Unreachable("it is away".to_owned()));
        let heard = Heard { head: head.clone(), lags: Vec::new() };
        let reply = if answered { Ok(heard) } else { lost };
        if answered {
            told.extend(report.used.iter().map(|(key, _)| key.clone()));
        }
        follower.step(Event::Reported(reply), &clock.now());
    }
    assert_eq!(told.len(), USED_MAX + 1);
}

#[test]
fn a_first_table_is_fresh_as_of_the_report_before_it() {
    let mut talk = Talk::new();
    let asks = talk.step(Event::Tick);
    assert_eq!(reports(&asks), Some(&None));
    talk.clock.advance(Duration::from_secs(4));
    assert!(lists(&talk.step(reported(head("h1", 3)))));
    assert_eq!(talk.unknown(), Some(Unavailable::Unloaded));
    let asks = talk.page(head("h1", 3), vec![row("a", 2)]);
    assert_eq!((talk.status("a"), talk.age()), (Some(Status::Enabled), Some(4)));
    assert_eq!(reports(&asks), Some(&Some(position("h1", 3))));
    let streams = |ask: &Ask| matches!(ask, Ask::Stream { after, .. } if after.revision.0 == 3);
    assert!(asks.iter().any(streams));
}

#[test]
fn a_change_is_told_once_it_is_applied_and_a_head_confirms_only_then() {
    let mut talk = Talk::listed();
    talk.wait(9);
    talk.step(reported(head("h1", 4)));
    assert_eq!(talk.age(), Some(9), "the head is not here yet");
    let asks = talk.stream(3, change(disabled("a", 4)));
    assert_eq!((talk.status("a"), talk.age()), (Some(Status::Disabled), Some(9)));
    assert_eq!(reports(&asks), Some(&Some(position("h1", 4))));
    talk.step(reported(head("h1", 4)));
    assert_eq!(talk.age(), Some(0));
}

#[test]
fn a_mirrored_tenant_is_as_old_as_what_its_mirror_has_read() {
    let mut talk = Talk::listed();
    let mirrored = TenantId::parse("z-1").expect("valid");
    let other = TenantId::parse("z-2").expect("valid");
    let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
    let told = |age| {
        let lag = Lag { tenant: mirrored.clone(), age, interval: 30 * second };
        Event::Reported(Ok(Heard { head: head("h1", 4), lags: vec![lag] }))
    };
    // Told with a head that is not applied: what is here is as old as before.
    talk.wait(9);
    talk.step(told(Some(second)));
    let trusts = |talk: &Talk, tenant| {
        let authority = talk.follower.applier.authority();
        authority.trusts_table(Access::Write, tenant, &talk.clock.now())
    };
    let unknown = |talk: &Talk, tenant: Option<&TenantId>| {
        let authority = talk.follower.applier.authority();
        authority.unknown(tenant.map(TenantId::as_str), &talk.clock.now()).err()
    };
    talk.stream(3, change(disabled("a", 4)));
    for (age, trusted, sure) in [
        (Some(second), true, true),
        // Twice `refresh` and twice the mirror's interval.
        (Some(120 * second), true, true),
        (Some(121 * second), true, false),
        (Some(12 * hour), true, false),
        (Some(12 * hour + second), false, false),
        (None, false, false),
    ] {
        talk.step(told(age));
        assert_eq!(talk.age(), Some(0));
        assert_eq!(trusts(&talk, &mirrored), trusted, "{age:?}");
        let why = (!sure).then_some(Unavailable::UnknownWhileStale);
        assert_eq!(unknown(&talk, Some(&mirrored)), why, "{age:?}");
        assert_eq!(unknown(&talk, None), why, "without a route the oldest counts: {age:?}");
        assert!(trusts(&talk, &other) && unknown(&talk, Some(&other)).is_none());
        talk.wait(10);
    }
}

#[test]
fn a_head_that_was_passed_confirms_once_the_store_knows_what_came_after_it() {
    let passed = || {
        let mut talk = Talk::listed();
        talk.step(reported(head("h1", 3)));
        talk.wait(10);
        let mut changes = change(disabled("a", 5));
        changes.changes.insert(0, Change::Credential(disabled("b", 4)));
        talk.stream(3, changes);
        talk.step(reported(head("h1", 4)));
        assert_eq!(talk.age(), Some(10), "it may be another change than the one applied");
        talk.clock.advance(Duration::from_secs(2));
        talk
    };
    let mut talk = passed();
    talk.step(reported(head("h1", 6)));
    assert_eq!(talk.age(), Some(2));
    let mut talk = passed();
    talk.step(reported(Head { disputed: true, ..head("h1", 6) }));
    assert_eq!(talk.age(), Some(12));
}

#[test]
fn a_poll_finds_what_the_stream_has_not_told() {
    let mut talk = Talk::listed();
    let asks = talk.wait(30);
    let (ticket, after) = polls(&asks).expect("it is due");
    assert_eq!(after.revision, Revision(3));
    let (after, reply) = (after.clone(), Ok(change(disabled("a", 4))));
    talk.step(Event::Polled { ticket, after, reply });
    assert_eq!(talk.status("a"), Some(Status::Disabled));
}

#[test]
fn changes_after_a_gap_are_not_taken_and_the_stream_begins_anew() {
    let mut talk = Talk::listed();
    talk.stream(4, change(disabled("a", 5)));
    assert_eq!(talk.status("a"), Some(Status::Enabled));
    let again = |ask: &Ask| matches!(ask, Ask::Stream { after, .. } if after.revision.0 == 3);
    assert!(talk.wait(1).iter().any(again));
}

#[test]
fn changes_of_another_past_are_not_taken() {
    let mut talk = Talk::listed();
    let asks = talk.wait(30);
    let (ticket, after) = polls(&asks).expect("it is due");
    talk.stream(3, change(disabled("b", 4)));
    let mut changes = change(row("c", 5));
    changes.changes.insert(0, Change::Credential(disabled("a", 4)));
    let (after, reply) = (after.clone(), Ok(changes));
    let asks = talk.step(Event::Polled { ticket, after, reply });
    assert_eq!((talk.status("c"), talk.follower.held()), (None, Some(&position("h1", 4))));
    let (_, after) = polls(&asks).expect("it asks whether that is known");
    assert_eq!(after, &position("h1", 4));
}

#[test]
fn what_is_gone_is_listed_and_a_late_listing_takes_nothing_back() {
    let mut talk = Talk::listed();
    let asks = talk.wait(30);
    let (ticket, after) = polls(&asks).expect("it is due");
    let reply = Err(FeedError::Gone(Gone::Compacted));
    let after = after.clone();
    assert!(lists(&talk.step(Event::Polled { ticket, after, reply })));
    talk.stream(3, change(disabled("a", 4)));
    let asks = talk.page(head("h1", 3), vec![row("a", 2)]);
    assert_eq!(talk.status("b"), Some(Status::Enabled), "not before the store vouches for it");
    let (ticket, after) = polls(&asks).expect("whether it knows what was held");
    assert_eq!(*after, position("h1", 3));
    let (after, reply) = (after.clone(), Ok(change(disabled("a", 4))));
    talk.step(Event::Polled { ticket, after, reply });
    assert_eq!((talk.status("a"), talk.status("b")), (Some(Status::Disabled), None));
    assert_eq!(talk.follower.held(), Some(&position("h1", 4)));
}

#[test]
fn a_rewound_store_only_takes_away_until_it_is_accepted() {
    let mut talk = Talk::listed();
    let asks = talk.step(reported(head("h1", 2)));
    assert!(lists(&asks), "for what it takes away");
    talk.page(head("h1", 2), vec![disabled("a", 1), row("c", 2)]);
    let statuses = ["a", "b", "c"].map(|id| talk.status(id));
    assert_eq!(statuses, [Some(Status::Disabled), Some(Status::Enabled), None]);
    assert_eq!(talk.unknown(), Some(Unavailable::UnknownWhileStale));
    assert_eq!(talk.follower.held(), Some(&position("h1", 3)), "which the admin must hear of");

    talk.wait(10);
    let accepts = vec!["h1".parse().expect("valid")];
    let accepted = Head { accepts, ..head("h2", 2) };
    assert!(lists(&talk.step(reported(accepted.clone()))));
    talk.page(accepted, vec![row("a", 1), row("c", 2)]);
    let statuses = ["a", "b", "c"].map(|id| talk.status(id));
    assert_eq!(statuses, [Some(Status::Enabled), None, Some(Status::Enabled)]);
    assert_eq!(talk.follower.held(), Some(&position("h2", 2)));
}

#[test]
fn a_store_that_somebody_else_disputes_makes_nobody_fresh() {
    let mut talk = Talk::listed();
    talk.wait(10);
    let disputed = Head { disputed: true, ..head("h1", 3) };
    assert!(lists(&talk.step(reported(disputed.clone()))));
    assert_eq!((talk.unknown(), talk.age()), (Some(Unavailable::UnknownWhileStale), Some(10)));
    // What has come of it is told once, or the answer would lead to the next listing at once.
    assert!(reports(&talk.page(disputed.clone(), vec![row("a", 2)])).is_some());
    assert!(!lists(&talk.step(reported(disputed))));
    let ticket = talk.follower.stream.ticket.expect("it is open");
    let (after, changes) = (position("h1", 3), change(disabled("a", 4)));
    assert!(reports(&talk.step(Event::Streamed { ticket, after, changes })).is_none());
    assert_eq!(talk.status("a"), Some(Status::Disabled));
}

#[test]
fn a_rewound_store_is_told_at_once_what_it_was_compared_with() {
    let told = |asks: &[Ask]| {
        let report = asks.iter().find_map(|ask| match ask {
            Ask::Report(report) => Some(report.clone()),
            _ => None,
        });
        let Report { applied, compared, would_revive, .. } = report.expect("it reports");
        let keys = would_revive.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>();
        (applied.expect("a table"), compared, keys)
    };
    let mut talk = Talk::listed();
    talk.step(reported(head("h1", 3)));
    let held = position("h1", 3);
    assert_eq!(told(&talk.wait(10)), (held.clone(), Some(held.clone()), vec![]));
    for store in ["h2", "h3"] {
        // Before that it says which store it knows instead, and that was another one.
        talk.step(reported(head(store, 2)));
        let asks = talk.page(head(store, 2), vec![row("a", 1), row("c", 2)]);
        let expected = (held.clone(), Some(position(store, 2)), vec!["c".to_owned()]);
        assert_eq!(told(&asks), expected);
        talk.step(reported(head(store, 2)));
        assert_eq!(told(&talk.wait(10)), expected, "and again");
    }
}

#[test]
fn a_dispute_ends_when_the_store_knows_what_is_held() {
    for known in [Ok(Changes { changes: vec![], ..change(row("b", 3)) }), {
        Err(FeedError::Gone(Gone::Compacted))
    }] {
        let mut talk = Talk::listed();
        talk.step(reported(head("h1", 2)));
        talk.page(head("h1", 2), Vec::new());
        talk.wait(10);
        let asks = talk.step(reported(head("h1", 3)));
        let (ticket, after) = polls(&asks).expect("it asks whether it is known");
        let after = after.clone();
        assert!(lists(&talk.step(Event::Polled { ticket, after, reply: known })));
        talk.page(head("h1", 3), vec![row("a", 2), row("b", 3)]);
        assert_eq!(talk.follower.held(), Some(&position("h1", 3)));
        assert!(!talk.follower.applier.authority().is_disputed());
    }
}

#[test]
fn an_answer_about_a_table_that_was_replaced_says_nothing() {
    let mut talk = Talk::listed();
    let accepts = vec!["h1".parse().expect("valid")];
    let accepted = |history| Head { accepts: accepts.clone(), ..head(history, 3) };
    talk.step(reported(accepted("h2")));
    assert!(reports(&talk.wait(10)).is_some(), "the listing takes long");
    talk.page(accepted("h3"), vec![row("a", 2)]);
    talk.step(reported(accepted("h2")));
    assert!(!talk.follower.applier.authority().is_disputed());
}

#[test]
fn a_token_that_was_looked_up_is_known_with_all_changes_before_it() {
    let mut talk = Talk::listed();
    let asks = talk.step(Event::Wanted(digest("c")));
    assert!(matches!(asks[..], [Ask::Lookup(asked)] if asked == digest("c")));
    let reply = Ok((head("h1", 5), Some(row("c", 5))));
    let asks = talk.step(Event::LookedUp { digest: digest("c"), reply });
    assert_eq!(talk.status("c"), None, "not before what led to it");
    let (ticket, after) = polls(&asks).expect("it asks for the changes");
    let mut changes = change(row("c", 5));
    changes.changes.insert(0, Change::Credential(disabled("a", 4)));
    let (after, reply) = (after.clone(), Ok(changes));
    let asks = talk.step(Event::Polled { ticket, after, reply });
    let known = |ask: &Ask| matches!(ask, Ask::Answer(_, Answer::Known));
    assert!(asks.iter().any(known));
    assert_eq!(talk.status("a"), Some(Status::Disabled));
}

#[test]
fn a_lookup_says_no_only_of_the_store_that_is_followed() {
    let check = |head: Head, row: Option<Row>, expected: Answer| {
        let mut talk = Talk::listed();
        let digest = digest("c");
        let asks = talk.step(Event::LookedUp { digest, reply: Ok((head, row)) });
        assert!(matches!(asks[..], [Ask::Answer(_, answer)] if answer == expected), "{asks:?}");
    };
    check(head("h1", 3), None, Answer::Unknown);
    check(head("h2", 9), None, Answer::Undecided);
    // Its store has it by a change that should be here.
    check(head("h1", 3), Some(row("c", 2)), Answer::Undecided);
    check(head("h1", 3), Some(row("a", 2)), Answer::Undecided);
}

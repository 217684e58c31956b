//! Follows the deny file and, if it is the source, the credential file.
//!
//! Each second both files are looked at; what is to be done about what was seen is decided by
//! steps that know neither file nor clock.

use std::sync::Arc;
use std::time::Duration;

use super::{Applier, Authority, Confirmation};
use crate::clock::{Clock, Now};
use crate::config::{Credentials, Source};
use crate::credential::feed::Row;
use crate::credential::{Credential, Expiry, Revision};
use crate::source::Listing;
use crate::source::file::{CredentialReader, DenyList, Format};
use crate::source::watch::{Step, Tracked};

/// How often files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// To be polled once every [`INTERVAL`] by one thread.
pub struct Follower {
    authority: Arc<Authority>,
    clock: Clock,
    deny: Option<Tracked<DenyList>>,
    /// Returns once every worker has come round its loop.
    round: Arc<dyn Fn() + Send + Sync>,
    source: Option<FileSource>,
    polls: u64,
}

/// The credential file as the source.
struct FileSource {
    credentials: Tracked<Listing>,
    reader: CredentialReader,
    applier: Applier,
    applied: Revision,
}

/// A start that must not go on.
#[derive(Debug)]
pub struct DenyFileInvalid(String);

impl std::fmt::Display for DenyFileInvalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DenyFileInvalid {}

impl Follower {
    /// Reads the deny file, without which nothing is decided, and has a first look at the
    /// credential file, if that is the source.
    ///
    /// # Panics
    /// If the config is not a checked one and lacks the section of its source.
    pub fn start(
        config: &Credentials,
        authority: Arc<Authority>,
        clock: Clock,
        round: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, DenyFileInvalid> {
        let source = (config.source == Source::File).then(|| {
            let path = &config.file.as_ref().expect("a checked config has it").path;
            let round = Arc::clone(&round);
            FileSource {
                credentials: Tracked::new("credentials", path),
                reader: CredentialReader::new(Format::of(path)),
                applier: Applier::new(Arc::clone(&authority), Box::new(move || round())),
                applied: Revision::default(),
            }
        });
        let deny = config.deny.as_ref().map(|path| Tracked::new("deny", path));
        let mut follower = Self { authority, clock, deny, round, source, polls: 0 };
        follower.poll();
        if let Some(deny) = &follower.deny
            && let Some(fault) = deny.fault()
        {
            let path = deny.path().display();
            let what =
                format!("credentials.deny: {path}: {fault}: mend the file, or write [] to it");
            return Err(DenyFileInvalid(what));
        }
        Ok(follower)
    }

    /// The rows of the credential file.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.source.iter().flat_map(|source| source.applier.rows())
    }

    /// What keeps the credential file from being taken.
    pub fn fault(&self) -> Option<&str> {
        self.source.as_ref().and_then(|source| source.credentials.fault())
    }

    /// Looks at the files once and applies what is ripe.
    pub fn poll(&mut self) {
        let begun = self.clock.now();
        self.polls += 1;
        let denials_changed = self.poll_deny();
        if let Some(source) = &mut self.source {
            source.poll(begun, Revision(self.polls));
            source
                .applier
                .take_census(denials_changed || self.polls.is_multiple_of(CENSUS), &begun);
        }
    }

    /// Denials count at first sight, their removal when two looks agree. Whether they have changed.
    fn poll_deny(&mut self) -> bool {
        let Some(deny) = &mut self.deny else { return false };
        let known = self.authority.deny.load_full();
        let step = deny.step(|content| DenyList::read(content).map_err(|f| f.to_string()));
        let list = match step {
            Step::Wait | Step::Confirm => None,
            Step::Preview(list) => Some(known.with(list)),
            Step::Apply(list) if list.may_be_cut(&known) => {
                tracing::error!(
                    "the deny file ends within a line, as one that was cut: end the line; until then no denial ends"
                );
                Some(known.with(&list))
            }
            Step::Apply(list) => Some(list),
        };
        let up = i64::from(deny.fault().is_none());
        self.authority.metrics.source_up.with_label_values(&["deny"]).set(up);
        let Some(list) = list.filter(|list| *known != *list) else { return false };
        let denials = list.len();
        self.authority.deny.store(Arc::new(list));
        self.authority.epochs.raise_all();
        (self.round)();
        tracing::info!(denials, "deny file applied");
        true
    }
}

impl FileSource {
    /// `number` is this look's: a listing is as new as the look that it came with.
    fn poll(&mut self, begun: Now, number: Revision) {
        let reader = &mut self.reader;
        let step = self.credentials.step(|content| reader.read(content).map_err(|f| f.to_string()));
        match step {
            Step::Wait | Step::Preview(_) => {}
            Step::Confirm => self.applier.authority().confirm(Confirmation::new(begun, Vec::new())),
            Step::Apply(listing) => {
                self.reader.applied(&listing);
                self.apply(listing, number);
                self.applier.authority().confirm(Confirmation::new(begun, Vec::new()));
            }
        }
        let metrics = &self.applier.authority().metrics;
        let good = self.credentials.fault().is_none();
        metrics.table_revision.set(self.applied.0 as i64);
        metrics.source_refresh.with_label_values(&[if good { "success" } else { "failure" }]).inc();
        metrics.source_up.with_label_values(&["file"]).set(i64::from(good));
    }

    fn apply(&mut self, listing: Listing, revision: Revision) {
        for endless in listing.iter().filter(|row| row.expiry == Expiry::Never) {
            tracing::warn!(credential_id = %endless.id, "insecure_no_expiry: this token never ends");
        }
        let count = listing.len();
        let row = |credential| Row { credential: Arc::new(credential), revision };
        self.applier.list(listing.into_iter().map(row).collect(), &[], revision);
        self.applier.settle();
        self.applied = revision;
        tracing::info!(credentials = count, revision = revision.0, "table applied");
    }
}

/// Polls between two counts over all rows.
const CENSUS: u64 = 30;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::authority::{Access, Judgement, Seat, Unavailable};
    use crate::clock::Timestamp;
    use crate::config::Config;
    use crate::credential::{Status, TenantId, TokenDigest, Verdict};
    use crate::telemetry::metrics::Metrics;

    /// A folder with a credential file and a deny file, followed by hand.
    struct Bench {
        folder: tempfile::TempDir,
        clock: Clock,
        seat: Seat,
        follower: Follower,
    }

    impl Bench {
        fn new(rows: &str, deny: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("credentials.yaml"), rows).expect("written");
            fs::write(folder.path().join("deny.yaml"), deny).expect("written");
            let text =
                "credentials: { source: file, file: { path: credentials.yaml }, deny: deny.yaml }";
            let config = Config::parse(text, folder.path()).expect("valid").credentials;
            let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
            let authority = Authority::new(&config, Arc::new(Metrics::new()));
            let seat = authority.seat();
            let follower = Follower::start(&config, authority, clock.clone(), Arc::new(|| {}));
            let mut bench = Self { folder, clock, seat, follower: follower.expect("a deny file") };
            bench.pass(1);
            bench
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.clock.advance(INTERVAL);
                self.follower.poll();
            }
        }

        /// Replaces a file as the docs say: by renaming a whole one over it.
        fn replace(&self, name: &str, content: &str) {
            let new = self.folder.path().join("new");
            fs::write(&new, content).expect("written");
            fs::rename(new, self.folder.path().join(name)).expect("renamed");
        }

        fn judge(&self, token: &str) -> Result<Option<Verdict>, Unavailable> {
            let now = self.clock.now();
            self.seat.judge(&TokenDigest::of(token.as_bytes()), None, &now).map(|judgement| {
                match judgement {
                    Judgement::Known(held) => Some(held.grant.judge(&now)),
                    Judgement::Denied => Some(Verdict::Denied),
                    Judgement::Unknown => None,
                }
            })
        }

        fn trusted(&self) -> bool {
            let tenant = TenantId::parse("z-1").expect("valid");
            self.seat.authority().trusts_table(Access::Write, &tenant, &self.clock.now())
        }
    }

    fn row(id: &str, token: &str, status: &str) -> String {
        let digest = TokenDigest::of(token.as_bytes());
        format!(
            "- {{ credential_id: {id}, tenant: z-1, digest: '{digest}', status: {status}, expire_time: 2027-11-22T00:00:00Z }}\n"
        )
    }

    #[test]
    fn a_disabled_credential_is_refused_from_memo_and_cache_on() {
        let mut bench = Bench::new(&row("c-1", "token", "Enabled"), "[]");
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)));
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)));
        bench.replace("credentials.yaml", &row("c-1", "token", "Disabled"));
        bench.pass(2);
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Disabled)));
        assert_eq!(bench.judge("other"), Ok(None));
    }

    #[test]
    fn a_faulty_file_changes_nothing_and_ages_until_it_is_good_again() {
        let good = row("c-1", "token", "Enabled");
        let twice = format!("{good}{}", row("c-2", "token", "Enabled"));
        for faulty in ["", "- credential_id", &good[..60], &twice, &format!("{good}{good}")] {
            let mut bench = Bench::new(&good, "[]");
            bench.replace("credentials.yaml", faulty);
            bench.pass(60);
            assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)), "{faulty}");
            assert_eq!(bench.judge("other"), Ok(None), "{faulty}");
            bench.pass(1);
            assert_eq!(bench.judge("other"), Err(Unavailable::UnknownWhileStale), "{faulty}");
            bench.pass(12 * 3600);
            assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)), "{faulty}");
            assert!(!bench.trusted());
            bench.replace("credentials.yaml", &good);
            bench.pass(2);
            assert!(bench.trusted());
            assert_eq!(bench.judge("other"), Ok(None), "{faulty}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_survived_and_a_missing_one_is_waited_for() {
        let mut bench = Bench::new(&row("c-1", "token", "Enabled"), "[]");
        fs::remove_file(bench.folder.path().join("credentials.yaml")).expect("removed");
        bench.pass(61);
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)));
        assert_eq!(bench.judge("other"), Err(Unavailable::UnknownWhileStale));

        let mut bench = Bench::new("- cut", "[]");
        assert_eq!(bench.judge("token"), Err(Unavailable::Unloaded));
        bench.replace("credentials.yaml", "[]");
        bench.pass(2);
        assert_eq!(bench.judge("token"), Ok(None));
    }

    #[test]
    fn denials_count_at_first_sight_and_their_removal_at_the_second() {
        let mut bench = Bench::new(&row("c-1", "token", "Enabled"), "[]");
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)));
        bench.replace("deny.yaml", "- credential_id: c-1\n");
        bench.pass(1);
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Denied)));
        bench.replace("deny.yaml", &format!("- digest: {}\n", TokenDigest::of(b"other")));
        bench.pass(1);
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Denied)));
        assert_eq!(bench.judge("other"), Ok(Some(Verdict::Denied)));
        bench.pass(1);
        assert_eq!(bench.judge("token"), Ok(Some(Verdict::Live)));
        for faulty in ["", "- nonsense"] {
            bench.replace("deny.yaml", faulty);
            bench.pass(3);
            assert_eq!(bench.judge("other"), Ok(Some(Verdict::Denied)), "{faulty}");
        }
    }

    #[test]
    fn without_a_valid_deny_file_there_is_no_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "credentials: { source: file, file: { path: c.yaml }, deny: deny.yaml }";
        let config = Config::parse(text, folder.path()).expect("valid").credentials;
        for content in [None, Some(""), Some("- nonsense")] {
            if let Some(content) = content {
                fs::write(folder.path().join("deny.yaml"), content).expect("written");
            }
            let authority = Authority::new(&config, Arc::new(Metrics::new()));
            let started = Follower::start(&config, authority, Clock::system(), Arc::new(|| {}));
            let error = started.err().expect("refused").to_string();
            assert!(error.contains("credentials.deny") && error.contains("deny.yaml"), "{error}");
        }
    }

    const TOKENS: [&str; 4] = ["t-0", "t-1", "t-2", "t-3"];

    /// What both files say at one time.
    #[derive(Clone, Copy)]
    struct State {
        /// By token: not listed, disabled, or enabled.
        rows: [Option<Status>; TOKENS.len()],
        /// Whether the rows have exchanged their tokens.
        exchanged: bool,
        denied: Option<usize>,
    }

    impl State {
        fn random(random: &mut fastrand::Rng) -> Self {
            let choices = [None, Some(Status::Disabled), Some(Status::Enabled)];
            let rows = std::array::from_fn(|_| choices[random.usize(..choices.len())]);
            let denied = Some(random.usize(..=TOKENS.len())).filter(|token| *token < TOKENS.len());
            Self { rows, exchanged: random.bool(), denied }
        }

        fn rows(&self) -> String {
            let id = |token| format!("c-{}", if self.exchanged { token ^ 1 } else { token });
            let line = |(token, status): (usize, &Option<Status>)| {
                let status = (*status)?;
                Some(row(&id(token), TOKENS[token], &format!("{status:?}")))
            };
            let lines: String = self.rows.iter().enumerate().filter_map(line).collect();
            if lines.is_empty() { "[]".to_owned() } else { lines }
        }

        fn deny(&self) -> String {
            let digest = self.denied.map(|token| TokenDigest::of(TOKENS[token].as_bytes()));
            digest.map_or("[]".to_owned(), |digest| format!("- digest: {digest}\n"))
        }

        /// What is to be said of a token by these rows and another state's denial.
        fn verdict(&self, denied: Option<usize>, token: usize) -> Option<Verdict> {
            match self.rows[token] {
                Some(Status::Disabled) => Some(Verdict::Disabled),
                _ if denied == Some(token) => Some(Verdict::Denied),
                Some(Status::Enabled) => Some(Verdict::Live),
                None => None,
            }
        }
    }

    /// Random changes to both files against workers that decide all the time. Each decision must
    /// fit the state in force, or one that was being applied while it was made.
    #[test]
    fn no_decision_contradicts_the_state_in_force() {
        let mut random = fastrand::Rng::with_seed(20_261_122);
        let mut bench = Bench::new("[]", "[]");
        let first = State { rows: [None; TOKENS.len()], exchanged: false, denied: None };
        let states = Mutex::new(vec![first]);
        let in_force = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        let decide = |seat: Seat, clock: Clock| {
            let mut decisions = 0;
            while !over.load(Ordering::SeqCst) {
                let token = decisions % TOKENS.len();
                let oldest = in_force.load(Ordering::SeqCst);
                let now = clock.now();
                let judged = seat.judge(&TokenDigest::of(TOKENS[token].as_bytes()), None, &now);
                let decision = match judged {
                    Ok(Judgement::Known(held)) => Some(held.grant.judge(&now)),
                    Ok(Judgement::Denied) => Some(Verdict::Denied),
                    Ok(Judgement::Unknown) => None,
                    Err(_) => continue,
                };
                let possible = states.lock().expect("not poisoned")[oldest..].to_vec();
                let fits = |state: &State| {
                    possible.iter().any(|other| state.verdict(other.denied, token) == decision)
                };
                assert!(possible.iter().any(fits), "{token}: {decision:?}");
                decisions += 1;
            }
            decisions
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let seat = bench.follower.authority.seat();
                    let clock = bench.clock.clone();
                    scope.spawn(|| decide(seat, clock))
                })
                .collect();
            for number in 1..=150 {
                let next = State::random(&mut random);
                states.lock().expect("not poisoned").push(next);
                bench.replace("deny.yaml", &next.deny());
                bench.replace("credentials.yaml", &next.rows());
                bench.pass(2);
                in_force.store(number, Ordering::SeqCst);
            }
            over.store(true, Ordering::SeqCst);
            for worker in workers {
                assert!(worker.join().expect("every decision fits") > 1000);
            }
        });
    }
}

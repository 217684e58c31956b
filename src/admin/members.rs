//! Who may use the admin API, each by a name and with a role: holders of tokens, which are known by
//! their digests and may end, and of what stands for a token, a certificate or an access key.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::sync::watch;

use super::Caller;
use crate::clock::{Now, Timestamp, Uptime};
use crate::config::value::{SecretRef, TenantName};
use crate::config::{AccessKey, AdminCertificate, AdminToken, Role, read_secret};
use crate::credential::token::MintedToken;
use crate::credential::{TenantId, TokenDigest};
use crate::server::ClientCertificate;
use crate::source::watch::{Step, Tracked};
use crate::store::{Store, StoredToken};

/// One who may use it. A token is kept in no other form than this.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub role: Role,
    /// The only tenants that are its; none means all.
    pub tenants: Option<Vec<TenantId>>,
    expires: Option<Timestamp>,
    proof: Proof,
}

/// By what it is known.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    Token(TokenDigest),
    /// A subject alternative name.
    Certificate(String),
    /// The digest of an access key's secret.
    Key(TokenDigest),
}

impl Member {
    pub fn sees(&self, tenant: &TenantId) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }

    /// Who signs with an access key, whose end is that it is taken out of the config.
    pub(super) fn of_key(key: &AccessKey, secret: &str) -> Self {
        let digest = TokenDigest::of(secret.as_bytes());
        let (name, tenants) = (key.id.clone(), only(&key.tenants));
        Self { name, role: key.role, tenants, expires: None, proof: Proof::Key(digest) }
    }

    /// Judged like a credential: good only if neither clock says that it has ended.
    fn is_live(&self, now: &Now) -> bool {
        self.expires.is_none_or(|end| !now.is_past(end))
    }
}

pub struct Members {
    /// Those that the store keeps.
    stored: Vec<Arc<Member>>,
    configured: Mutex<Configuration>,
    live: ArcSwap<Vec<Arc<Member>>>,
    changed: watch::Sender<()>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Default)]
struct Configuration {
    tokens: Vec<Configured>,
    certificates: Vec<Arc<Member>>,
}

/// A token of the config, and its file if it has one.
struct Configured {
    member: Arc<Member>,
    file: Option<Tracked<TokenDigest>>,
}

/// Failed logins from one address.
struct Failures {
    since: Uptime,
    count: u32,
}

/// Why a token opens nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    Unknown,
    /// Too many came from there.
    Limited {
        retry_after: Duration,
    },
}

impl Members {
    /// With the tokens that the store keeps, which are operators'.
    pub fn new(stored: Vec<StoredToken>) -> Self {
        let operator = |token: StoredToken| {
            let StoredToken { name, digest } = token;
            Arc::new(Member {
                name,
                role: Role::Operator,
                tenants: None,
                expires: None,
                proof: Proof::Token(digest),
            })
        };
        let stored: Vec<_> = stored.into_iter().map(operator).collect();
        let (changed, _) = watch::channel(());
        Self {
            live: ArcSwap::from_pointee(stored.clone()),
            stored,
            configured: Mutex::default(),
            changed,
            failures: Mutex::default(),
        }
    }

    /// Reads the tokens of a config; each fault names its key.
    pub fn load(config: &[AdminToken]) -> Result<Vec<Loaded>, Vec<String>> {
        let mut faults = Vec::new();
        let mut loaded: Vec<Loaded> = Vec::new();
        for (index, token) in config.iter().enumerate() {
            match read_secret(&token.token).and_then(|secret| digest_of(secret.as_bytes())) {
                Ok(digest) => loaded.push(Loaded { config: token.clone(), digest }),
                Err(what) => faults.push(format!("admin.tokens[{index}].token: {what}")),
            }
        }
        let names = |it: &Loaded| it.config.name.clone();
        for (index, token) in loaded.iter().enumerate() {
            let twin = loaded[..index].iter().find(|other| other.digest == token.digest);
            if let Some(twin) = twin {
                let (name, other) = (names(token), names(twin));
                faults.push(format!(
                    "admin.tokens: {name} has the same token as {other}: give each one of its own"
                ));
            }
        }
        if faults.is_empty() { Ok(loaded) } else { Err(faults) }
    }

    /// Puts others in the place of the configured ones.
    pub fn configure(&self, tokens: Vec<Loaded>, certificates: &[AdminCertificate]) {
        let tokens = tokens.into_iter().map(|Loaded { config, digest }| {
            let member = Arc::new(Member {
                name: config.name,
                role: config.role,
                tenants: only(&config.tenants),
                expires: config.expires.map(|end| end.0),
                proof: Proof::Token(digest),
            });
            let file = match &config.token {
                SecretRef::File(path) => Some(Tracked::new("admin token", path)),
                SecretRef::Env(_) => None,
            };
            Configured { member, file }
        });
        let mut known = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        known.tokens = tokens.collect();
        let certificate = |config: &AdminCertificate| {
            Arc::new(Member {
                name: config.san.clone(),
                role: config.role,
                tenants: only(&config.tenants),
                expires: None,
                proof: Proof::Certificate(config.san.clone()),
            })
        };
        known.certificates = certificates.iter().map(certificate).collect();
        self.publish(&known);
    }

    /// Looks whether token files have changed. To be called about once a second.
    pub fn refresh(&self) {
        let mut known = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for Configured { member, file } in &mut known.tokens {
            let Some(file) = file else { continue };
            let step = file.step(|content| digest_of(content.trim_ascii()));
            if let Step::Apply(digest) = step
                && member.proof != Proof::Token(digest)
            {
                tracing::info!(token = member.name, "admin token replaced");
                *member = Arc::new(Member {
                    name: member.name.clone(),
                    role: member.role,
                    tenants: member.tenants.clone(),
                    expires: member.expires,
                    proof: Proof::Token(digest),
                });
                changed = true;
            }
        }
        if changed {
            self.publish(&known);
        }
    }

    fn publish(&self, configured: &Configuration) {
        let mut live = self.stored.clone();
        live.extend(configured.tokens.iter().map(|it| Arc::clone(&it.member)));
        live.extend(configured.certificates.iter().cloned());
        if **self.live.load() != live {
            self.live.store(Arc::new(live));
            self.changed.send_replace(());
        }
    }

    /// Whose token this is. Failures are counted by address, but a good token opens whatever came
    /// before it: nobody is to lock the operator out.
    pub fn authenticate(
        &self,
        token: &[u8],
        peer: IpAddr,
        now: &Now,
    ) -> Result<Arc<Member>, Rejected> {
        let digest = TokenDigest::of(token);
        let live = self.live.load();
        let mut found = None;
        // Without an early end, so that time tells nothing of what is in the list.
        for known in live.iter() {
            if let Proof::Token(known_digest) = &known.proof
                && verify_slices_are_equal(known_digest.as_bytes(), digest.as_bytes()).is_ok()
            {
                found = Some(known);
            }
        }
        match found.filter(|member| member.is_live(now)) {
            Some(member) => Ok(Arc::clone(member)),
            None => Err(self.failed(peer, now)),
        }
    }

    /// For whom a certificate stands: the first of those that are named.
    pub fn holder(&self, certificate: &ClientCertificate) -> Option<Arc<Member>> {
        let live = self.live.load();
        let named = |member: &&Arc<Member>| matches!(&member.proof, Proof::Certificate(san) if certificate.is_for(san));
        live.iter().find(named).cloned()
    }

    /// Counts a failed login.
    pub(super) fn failed(&self, peer: IpAddr, now: &Now) -> Rejected {
        let peer = peer.to_canonical();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, it| now.boot.since(it.since) < WINDOW);
        if failures.len() >= PEERS_MAX && !failures.contains_key(&peer) {
            return Rejected::Limited { retry_after: WINDOW };
        }
        let known = failures.entry(peer).or_insert(Failures { since: now.boot, count: 0 });
        known.count += 1;
        if known.count <= FAILURES_MAX {
            Rejected::Unknown
        } else {
            Rejected::Limited { retry_after: WINDOW - now.boot.since(known.since) }
        }
    }

    /// Whether who was let in at the beginning of a stream would be so still.
    pub fn holds(&self, caller: &Caller, now: &Now) -> bool {
        let member = &caller.member;
        let lasts = caller.certificate_end.is_none_or(|end| !now.is_past(end));
        lasts && member.is_live(now) && self.live.load().iter().any(|known| known == member)
    }

    /// Rung when any of them comes or goes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// The only tenants that a config allows; naming none allows all.
fn only(tenants: &[TenantName]) -> Option<Vec<TenantId>> {
    let tenants: Vec<_> = tenants.iter().map(|tenant| tenant.0.clone()).collect();
    (!tenants.is_empty()).then_some(tenants)
}

/// Where the operator's token of the first start is.
pub fn file_beside(store: &Path) -> PathBuf {
    store.with_file_name("admin.token")
}

/// Whether whoever has the file beside a store can log in to it. For a store without any token one
/// is made at its start.
pub fn opens(file: &Path, tokens: &[StoredToken]) -> bool {
    let secret = read_secret(&SecretRef::File(file.to_owned()));
    let digest = secret.map(|secret| TokenDigest::of(secret.as_bytes()));
    tokens.is_empty() || tokens.iter().any(|token| Ok(token.digest) == digest)
}

/// Makes an operator's token for a store that has none, which is one on its first start. The file
/// is on disk before the store knows the token, so a crash in between leaves a file that is taken
/// up at the next start.
pub async fn first_operator(store: &dyn Store, file: &Path) -> Result<(), String> {
    if !store.stored_tokens().await.map_err(|failed| failed.0)?.is_empty() {
        return Ok(());
    }
    let place = file.display();
    let told = |error: io::Error| format!("{place}: the operator's token cannot be kept: {error}");
    let digest = match make_token(file) {
        Ok(token) => {
            tracing::info!(file = %place, "made the operator's token for the admin API");
            token.digest()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let secret = read_secret(&SecretRef::File(file.to_owned()))?;
            tracing::info!(file = %place, "took up the operator's token that was here");
            digest_of(secret.as_bytes()).map_err(|what| {
                format!("{place}: {what}: take the file away to have another one made")
            })?
        }
        Err(error) => return Err(told(error)),
    };
    let token = StoredToken { name: "first-operator".to_owned(), digest };
    store.put_token(&token).await.map_err(|failed| failed.0)
}

/// Puts a new token into a file that does not exist: all of it or nothing, and on disk.
fn make_token(file: &Path) -> io::Result<MintedToken> {
    let token = MintedToken::mint_admin();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut made = tempfile::Builder::new().prefix(".admin.token-").tempfile_in(folder)?;
    writeln!(made, "{}", token.reveal())?;
    made.as_file().sync_all()?;
    made.persist_noclobber(file)?;
    File::open(folder)?.sync_all()?;
    Ok(token)
}

/// A configured token that was read.
#[derive(Debug)]
pub struct Loaded {
    config: AdminToken,
    digest: TokenDigest,
}

fn digest_of(secret: &[u8]) -> Result<TokenDigest, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err("is too short: an admin token has 20 characters at least".to_owned());
    }
    Ok(TokenDigest::of(secret))
}

const SECRET_BYTES_MIN: usize = 20;
/// Failed logins from one address within the window.
const FAILURES_MAX: u32 = 20;
/// Addresses whose failures are counted at a time.
const PEERS_MAX: usize = 10_000;
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECRET: &str = "a-token-of-twenty-characters";
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn members(folder: &Path, expires: Option<Timestamp>) -> Members {
        let path = folder.join("token");
        std::fs::write(&path, format!("{SECRET}\n")).expect("written");
        let config = AdminToken {
            name: "ci".to_owned(),
            role: Role::Reader,
            tenants: Vec::new(),
            expires: expires.map(crate::config::value::Instant),
            token: SecretRef::File(path),
        };
        let members = Members::new(Vec::new());
        members.configure(Members::load(&[config]).expect("readable"), &[]);
        members
    }

    fn caller(member: &Arc<Member>) -> Caller {
        let (peer, request_id) = (String::new(), String::new());
        Caller { member: Arc::clone(member), certificate_end: None, peer, request_id }
    }

    #[test]
    fn a_token_opens_until_its_end_and_until_it_is_taken_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let end = clock.now().wall.plus(Duration::from_secs(60));
        let members = members(folder.path(), Some(end));
        let token = members.authenticate(SECRET.as_bytes(), PEER, &clock.now()).expect("known");
        assert_eq!((&*token.name, token.role), ("ci", Role::Reader));
        assert!(members.holds(&caller(&token), &clock.now()));
        clock.advance(Duration::from_secs(60));
        assert!(!members.holds(&caller(&token), &clock.now()));
        let late = members.authenticate(SECRET.as_bytes(), PEER, &clock.now());
        assert_eq!(late, Err(Rejected::Unknown));

        let changes = members.changes();
        members.configure(Vec::new(), &[]);
        assert!(changes.has_changed().expect("it lives"));
    }

    #[test]
    fn a_changed_file_is_another_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let members = members(folder.path(), None);
        let now = clock.now();
        let old = members.authenticate(SECRET.as_bytes(), PEER, &now).expect("known");
        for content in ["short", "another-token-of-many-characters"] {
            std::fs::write(folder.path().join("token"), content).expect("written");
            (0..3).for_each(|_| members.refresh());
        }
        assert!(!members.holds(&caller(&old), &now));
        assert!(members.authenticate(b"another-token-of-many-characters", PEER, &now).is_ok());
        assert!(members.authenticate(b"short", PEER, &now).is_err());
    }

    #[test]
    fn who_guesses_is_slowed_down_and_locks_nobody_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let members = members(folder.path(), None);
        let guess = |peer| members.authenticate(b"guess", peer, &clock.now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(guess(PEER), Err(Rejected::Unknown));
        }
        assert!(matches!(guess(PEER), Err(Rejected::Limited { .. })));
        assert_eq!(guess(IpAddr::from([127, 0, 0, 2])), Err(Rejected::Unknown));
        assert!(members.authenticate(SECRET.as_bytes(), PEER, &clock.now()).is_ok());
        clock.advance(WINDOW);
        assert_eq!(guess(PEER), Err(Rejected::Unknown));
    }

    #[tokio::test]
    async fn the_first_operators_token_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin.token");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let store = crate::store::memory::Memory::new(clock.now().wall);
        first_operator(&store, &file).await.expect("made");
        let secret = std::fs::read_to_string(&file).expect("written");
        let members = Members::new(store.stored_tokens().await.expect("kept"));
        let token = members.authenticate(secret.trim().as_bytes(), PEER, &clock.now());
        assert_eq!(token.expect("known").role, Role::Operator);

        std::fs::remove_file(&file).expect("removed");
        first_operator(&store, &file).await.expect("nothing to do");
        assert!(!file.exists(), "never again beside a store that has one");

        // The store was not told before the crash.
        std::fs::write(&file, &secret).expect("written");
        let other = crate::store::memory::Memory::new(clock.now().wall);
        first_operator(&other, &file).await.expect("taken up");
        assert_eq!(
            other.stored_tokens().await.expect("kept"),
            store.stored_tokens().await.expect("kept")
        );
        std::fs::write(&file, "short").expect("written");
        let third = crate::store::memory::Memory::new(clock.now().wall);
        assert!(first_operator(&third, &file).await.expect_err("refused").contains("too short"));
    }

    #[test]
    fn a_token_that_cannot_be_read_is_told_by_its_key() {
        let config = AdminToken {
            name: "ci".to_owned(),
            role: Role::Reader,
            tenants: Vec::new(),
            expires: None,
            token: SecretRef::File("/nonexistent/token".into()),
        };
        let faults = Members::load(&[config]).expect_err("unreadable");
        assert!(faults[0].starts_with("admin.tokens[0].token: /nonexistent/token"), "{faults:?}");
    }
}

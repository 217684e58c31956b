//! The stage of one fault: an admin API, proxies that follow it through relays, a backend, and
//! identity providers at work.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scim_guard::credential::TokenDigest;
use serde_json::{Value, json};

use crate::Fault;
use crate::alerts::Alerts;
use crate::callers::{Entra, Failed, Front, Okta, Secret, Thief, Worker};
use crate::client::{Answer, Client, Request};
use crate::ledger::Ledger;
use crate::program::{Faces, Program};
use crate::relay::Relay;
use crate::scim::ScimServer;

pub struct Scene<'a> {
    pub fault: &'static Fault,
    pub alerts: &'a Alerts,
    pub ledger: Arc<Ledger>,
    number: u8,
    struck: Mutex<Option<Instant>>,
}

impl<'a> Scene<'a> {
    pub fn new(fault: &'static Fault, number: u8, alerts: &'a Alerts) -> Self {
        Self { fault, alerts, ledger: Arc::default(), number, struck: Mutex::default() }
    }

    /// An address that nobody else has.
    pub fn address(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, 80, self.number, host).into()
    }

    /// From here on the alert is due.
    pub fn strike(&self) {
        *self.struck.lock().expect("sound") = Some(Instant::now());
    }

    pub fn struck(&self) -> Option<Instant> {
        *self.struck.lock().expect("sound")
    }

    pub fn check(&self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.ledger.broken(what);
        }
    }

    /// Time from the fault to its alert, once that fires.
    pub fn seconds_to_alert(&self) -> Option<f64> {
        let fired = *self.alerts.of(self.fault.name).get(self.fault.alert?)?;
        Some(fired.saturating_duration_since(self.struck()?).as_secs_f64())
    }

    pub fn has_fired(&self) -> bool {
        let alert = self.fault.alert.expect("it has one");
        self.alerts.of(self.fault.name).contains_key(alert)
    }

    pub fn is_overdue(&self) -> bool {
        self.struck().expect("the fault has come").elapsed() > ALERT_TIME
    }

    /// Waits for the right alert, as long as it may take.
    pub fn wait_for_alert(&self) {
        while !self.has_fired() && !self.is_overdue() {
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// Looks on for as long as an alert that is due at once would need.
    pub fn look_on(&self) {
        let struck = self.struck().expect("the fault has come");
        while struck.elapsed() < QUIET_TIME {
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// Waits for something that must come about.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// What somebody says to a token, on a connection of its own; 0 if it says nothing.
    pub fn status(&self, address: SocketAddr, path: &str, token: &str) -> u16 {
        let request = Request::new("GET", format!("/scim/v2{path}")).bearer(token);
        self.ledger.requests.add(1);
        let answer = Client::new(address).send(&request);
        answer.map_or(0, |answer| {
            self.ledger.note(&answer);
            answer.status
        })
    }

    /// Sets the stage and waits until all is well.
    pub fn fleet(&self, plan: &Plan) -> Fleet {
        Fleet::start(self, plan)
    }
}

/// The alert must fire within it.
pub const ALERT_TIME: Duration = Duration::from_secs(60);
/// Longer than any alert waits that is due at once.
const QUIET_TIME: Duration = Duration::from_secs(45);
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What waits the longest is a cloud that was asked in vain: for twice as long each time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is not as usual, as lines or keys of the config.
pub struct Plan {
    /// Keys of a proxy's listener and upstream, and lines of its sections `proxy` and
    /// `credentials`.
    pub listener: String,
    pub upstream: String,
    pub proxy: String,
    pub credentials: String,
    /// Where credentials come from, for a proxy whose way to the admin API has this address.
    pub source: fn(SocketAddr) -> String,
    /// The backend's host, if it is not its address.
    pub backend: Option<&'static str>,
    /// Lines of the section `admin`, and of its `credentials`.
    pub admin: String,
    /// What programs are started by.
    pub admin_wrapper: Vec<String>,
    pub proxy_wrapper: Vec<String>,
    pub files: Vec<(String, String)>,
    /// How clients get to a proxy, if not in clear text.
    pub way: Box<dyn Fn(SocketAddr) -> SocketAddr>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            listener: String::new(),
            upstream: String::new(),
            proxy: "  drain: { delay: 0s, deadline: 5s }\n".to_owned(),
            credentials: "  max_stale: { reads: 10m, writes: 10m }\n".to_owned(),
            source: |admin| {
                format!("native\n  native: {{ url: 'http://{admin}', token: file:fleet }}")
            },
            backend: None,
            admin: String::new(),
            admin_wrapper: Vec::new(),
            proxy_wrapper: Vec::new(),
            files: Vec::new(),
            way: Box::new(|address| address),
        }
    }
}

/// A credential and its token.
#[derive(Clone)]
pub struct Made {
    pub id: String,
    pub secret: String,
    pub revision: u64,
}

/// Who administers.
#[derive(Clone)]
pub struct Operator {
    pub address: SocketAddr,
}

pub struct Fleet {
    pub admin: Program,
    pub proxies: Vec<Program>,
    /// Between each proxy and the admin API.
    pub relays: Vec<Relay>,
    pub backend: ScimServer,
    pub operator: Operator,
    pub front: Front,
    pub entra_secret: Secret,
    pub okta_secret: Secret,
    pub entra: Worker<usize>,
    pub okta: Worker<Vec<Failed>>,
    pub thief: Thief,
    pub made: Credentials,
}

/// Those of the identity providers, one that nobody uses, and one that was revoked before the day
/// began.
pub struct Credentials {
    pub entra: Made,
    pub okta: Made,
    pub spare: Made,
    pub dead: Made,
}

impl Credentials {
    /// As the file of enrolments has them, for those who follow a cloud by themselves.
    fn enrolment(&self) -> String {
        let row = |made: &Made| {
            let digest = TokenDigest::of(made.secret.as_bytes());
            format!(
                "- {{ credential_id: {}, tenant: {TENANT}, digest: '{digest}', expire_time: 2099-01-01T00:00:00Z }}\n",
                made.id
            )
        };
        [&self.entra, &self.okta, &self.spare, &self.dead].map(row).concat()
    }
}

pub const TENANT: &str = "z-day";
pub const OPERATOR: &str = "operator-token-0123456789";
pub const FLEET: &str = "replica-token-0123456789";

impl Fleet {
    fn start(scene: &Scene<'_>, plan: &Plan) -> Self {
        let backend = ScimServer::start(scene.address(1));
        let admin = start_admin(scene, plan);
        let operator = Operator { address: admin.faces.admin };
        let made = Credentials {
            entra: operator.create(&json!({ "label": "entra" })),
            okta: operator.create(&json!({ "label": "okta" })),
            spare: operator.create(&json!({ "label": "spare" })),
            dead: operator.create(&json!({ "label": "dead" })),
        };
        operator.set(&made.dead, "Disabled");
        let enrolment = made.enrolment();
        let relays: Vec<Relay> = (0..2).map(|_| Relay::to(admin.faces.admin)).collect();
        let proxies: Vec<Program> = (0..2)
            .map(|number| {
                let name = format!("proxy-{number}");
                let faces = Faces::at(scene.address(20 + number));
                let relay = relays[usize::from(number)].address;
                let config = proxy_config(plan, &name, faces, relay, &backend);
                let files = [("proxy.yaml", &*config), ("enrolment.yaml", &enrolment)];
                launch(plan, &name, faces, &files, &plan.proxy_wrapper)
            })
            .collect();
        proxies.iter().for_each(Program::wait_until_ready);
        let ways: Vec<_> = proxies.iter().map(|it| (plan.way)(it.faces.proxy)).collect();
        let front = Front::of(ways.clone());
        let (entra_secret, okta_secret) =
            (Secret::new(&made.entra.secret), Secret::new(&made.okta.secret));
        let ledger = &scene.ledger;
        let fleet = Self {
            entra: Entra::start(&front, &entra_secret, ledger),
            okta: Okta::start(&front, &okta_secret, ledger),
            thief: Thief::start(&ways, &made.dead.secret, ledger),
            admin,
            proxies,
            relays,
            backend,
            operator,
            front,
            entra_secret,
            okta_secret,
            made,
        };
        fleet.thief.is_dead();
        fleet.watch(scene, &[]);
        fleet.wait_for_work(scene);
        fleet
    }

    /// Has all of it scraped, and more.
    pub fn watch(&self, scene: &Scene<'_>, more: &[&Program]) {
        let all = self.proxies.iter().chain([&self.admin]).chain(more.iter().copied());
        let all: Vec<_> = all.map(|it| (it.name.clone(), it.faces.ops)).collect();
        scene.alerts.watch(scene.fault.name, &all);
        scene.wait_for("scrapes", || scene.alerts.knows(scene.fault.name, all.len()));
    }

    /// Waits until each caller has got a few more things done.
    pub fn wait_for_work(&self, scene: &Scene<'_>) {
        let done = || [self.entra.done(), self.okta.done(), self.thief.tries()];
        let before = done();
        scene.wait_for("work of all callers", || {
            done().iter().zip(before).all(|(now, before)| *now >= before + 3)
        });
    }

    /// Waits until so many more people have left, by Okta's doing.
    pub fn wait_for_leavers(&self, scene: &Scene<'_>, number: usize) {
        let before = self.okta.done();
        scene.wait_for("leavers", || self.okta.done() >= before + number);
    }

    /// All is mended: everybody finishes what is to be done, and nobody is left active.
    pub fn close(mut self, scene: &Scene<'_>) {
        self.thief.stop();
        let left = self.entra.stop();
        scene.check(left == 0, format!("{left} objects stay in Entra ID's escrow"));
        let failed = self.okta.stop();
        scene.ledger.by_hand.add(failed.len());
        if let Some(first) = failed.first().filter(|_| !scene.fault.stops_okta) {
            let (number, why) = (failed.len(), &first.why);
            scene.ledger.broken(format!("{number} deactivations failed at once, the first: {why}"));
        }
        for task in Okta::retry(&self.front, &self.okta_secret, &scene.ledger, failed) {
            scene.ledger.broken(format!("a deactivation cannot be retried: {}", task.why));
        }
        let active = self.backend.active_users();
        scene.ledger.left_active.add(active.len());
        scene.check(active.is_empty(), format!("left active: {active:?}"));
        for program in self.proxies.iter().chain([&self.admin]) {
            let panicked = program.diagnostics().contains("panicked");
            scene.check(!panicked, format!("{} has panicked", program.name));
        }
    }

    /// What a proxy says to a token, on a connection of its own; 0 if it says nothing.
    pub fn status(&self, scene: &Scene<'_>, proxy: usize, token: &str) -> u16 {
        scene.status(self.proxies[proxy].faces.proxy, "/Users?count=1", token)
    }
}

fn launch(
    plan: &Plan,
    name: &str,
    faces: Faces,
    own: &[(&str, &str)],
    wrapper: &[String],
) -> Program {
    let mut files = vec![("operator", OPERATOR), ("fleet", FLEET)];
    files.extend(own);
    files.extend(plan.files.iter().map(|(name, content)| (name.as_str(), content.as_str())));
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    Program::launch(name, faces, &files, &wrapper)
}

fn start_admin(scene: &Scene<'_>, plan: &Plan) -> Program {
    let faces = Faces::at(scene.address(10));
    let config = admin_config(faces, &plan.admin);
    let program = launch(plan, "admin", faces, &[("proxy.yaml", &config)], &plan.admin_wrapper);
    program.wait_until_ready();
    program
}

/// An admin API by itself, with more lines of its section.
pub fn admin_config(faces: Faces, more: &str) -> String {
    format!(
        "\
credentials: {{ source: embedded, refresh: 1s }}
admin:
  listen: {}
  store: sqlite:data/admin.db
  tenants: [{TENANT}]
  limits: {{ credentials_per_tenant: 10000, expire_min: 1s }}
  tokens:
    - {{ name: operator, role: operator, token: file:operator }}
    - {{ name: fleet, role: replica, token: file:fleet }}
{more}ops: {{ listen: {} }}
",
        faces.admin, faces.ops
    )
}

fn proxy_config(
    plan: &Plan,
    name: &str,
    faces: Faces,
    admin: SocketAddr,
    backend: &ScimServer,
) -> String {
    let Faces { proxy, ops, .. } = faces;
    let Plan { listener, upstream, proxy: more, credentials, .. } = plan;
    let usual = backend.address.ip().to_string();
    let source = (plan.source)(admin);
    let (host, port) = (plan.backend.unwrap_or(&usual), backend.address.port());
    format!(
        "\
proxy:
  listeners: [{{ address: {proxy}{listener} }}]
{more}  routes:
    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ url: 'http://{host}:{port}/scim/v2'{upstream} }} }}
credentials:
  source: {source}
  refresh: 1s
{credentials}ops: {{ listen: {ops} }}
replica: {{ name: {name} }}
"
    )
}

impl Operator {
    /// The answer, if there is one.
    pub fn try_ask(
        &self,
        method: &'static str,
        path: &str,
        body: &Value,
    ) -> std::io::Result<Answer> {
        let mut request = Request::new(method, path).bearer(OPERATOR);
        if !body.is_null() {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        Client::new(self.address).send(&request)
    }

    pub fn ask(&self, method: &'static str, path: &str, body: &Value) -> Answer {
        let answer = self.try_ask(method, path, body).expect("the admin API answers");
        assert!(answer.status < 300, "{method} {path}: {answer}");
        answer
    }

    pub fn create(&self, terms: &Value) -> Made {
        made(&self.ask("POST", CREDENTIALS, terms))
    }

    pub fn rotate(&self, old: &Made, terms: &Value) -> Made {
        made(&self.ask("POST", &format!("{CREDENTIALS}/{}/rotate", old.id), terms))
    }

    /// The revision of the change.
    pub fn set(&self, made: &Made, status: &str) -> u64 {
        let body = json!({ "status": status });
        revision(&self.ask("PATCH", &format!("{CREDENTIALS}/{}", made.id), &body))
    }

    pub fn receipt(&self, revision: u64, wait: &str) -> Value {
        let path = format!("/v1/revisions/{revision}/receipt?wait={wait}");
        self.ask("GET", &path, &Value::Null).json()
    }

    pub fn accept(&self) {
        self.ask("POST", "/v1/history/accept", &json!({}));
    }
}

fn made(answer: &Answer) -> Made {
    let body = answer.json();
    let text = |name: &str| body[name].as_str().expect("a text").to_owned();
    Made { id: text("credential_id"), secret: text("secret"), revision: revision(answer) }
}

fn revision(answer: &Answer) -> u64 {
    let told = answer.header("scim-guard-revision").and_then(|it| it.parse().ok());
    told.expect("each write tells it")
}

pub const CREDENTIALS: &str = "/v1/tenants/z-day/credentials";

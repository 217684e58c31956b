//! A cloud that is mirrored: our own admin API stands for it, asked in its dialect through a relay
//! that loses what a test says.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{Api, Process, config, furnish, probe, secret_of};
use crate::backend::Backend;
use crate::cluster::relay::{Flow, Relay};
use crate::guard::{digest, wait_for};
use crate::http::Client;
use crate::signed::{KEYS, SECRET, with_keys};

const TENANT: &str = "z-a";
const CREDENTIALS: &str = "/v1/tenants/z-a/credentials";
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Tencent,
    Alibaba,
}

const DIALECTS: [Dialect; 2] = [Dialect::Tencent, Dialect::Alibaba];

impl Dialect {
    /// The section that follows the cloud, with more keys.
    fn section(self, cloud: SocketAddr, keys: &str) -> String {
        let (name, tenant, id, secret) = match self {
            Self::Tencent => ("tencent", "zone_id", "secret_id", "secret_key"),
            Self::Alibaba => ("alibaba", "directory_id", "access_key_id", "access_key_secret"),
        };
        format!(
            "{name}: {{ {tenant}: {TENANT}, {id}: 'file:key.id', {secret}: 'file:key.secret', \
             endpoint: 'http://{cloud}'{keys} }}"
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tencent => "tencent",
            Self::Alibaba => "alibaba",
        }
    }
}

/// The cloud, asked natively too by those who want to know what it thinks.
struct Cloud {
    _folder: tempfile::TempDir,
    _process: Process,
    api: Api,
    relay: Relay,
}

impl Cloud {
    fn start() -> Self {
        let backend = Backend::friendly();
        let folder = tempfile::tempdir().expect("a folder");
        furnish(folder.path(), &with_keys(&config("127.0.0.1:0", backend.address, 2), &KEYS));
        fs::write(folder.path().join("key.secret"), SECRET).expect("written");
        let process = Process::start(folder.path());
        let address = process.address("admin");
        let api = Api::operator(address, folder.path());
        Self { _folder: folder, _process: process, api, relay: Relay::to(address) }
    }

    fn create(&mut self) -> (String, String) {
        made(&self.api.ask("POST", CREDENTIALS, "{}").json())
    }

    fn set(&mut self, id: &str, status: &str) {
        let body = json!({ "status": status }).to_string();
        let reply = self.api.ask("PATCH", &format!("{CREDENTIALS}/{id}"), &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    fn status(&mut self, id: &str) -> Value {
        self.api.get(&format!("{CREDENTIALS}/{id}")).json()["status"].clone()
    }

    /// How often it was asked for a listing.
    fn lists(&self) -> usize {
        let lists = |action: &str| action.starts_with("ListSCIM");
        let action = |seen: &crate::backend::Seen| {
            [seen.headers("x-tc-action"), seen.headers("x-acs-action")]
                .concat()
                .into_iter()
                .any(lists)
        };
        self.relay.seen().iter().filter(|seen| action(seen)).count()
    }
}

/// Id and secret of a new credential.
fn made(json: &Value) -> (String, String) {
    let text = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
    (text("credential_id"), text("secret"))
}

fn give_keys(folder: &std::path::Path) {
    fs::write(folder.join("key.id"), KEYS[0].0).expect("written");
    fs::write(folder.join("key.secret"), SECRET).expect("written");
}

/// An admin instance that mirrors the cloud, with a proxy of its own, and one that follows it.
struct Bed {
    cloud: Cloud,
    _folders: [tempfile::TempDir; 2],
    api: Api,
    near: Process,
    far: Process,
    clients: [Client; 2],
    _backend: Backend,
}

impl Bed {
    fn start(dialect: Dialect) -> Self {
        let (cloud, backend) = (Cloud::start(), Backend::friendly());
        let folders = [(), ()].map(|()| tempfile::tempdir().expect("a folder"));
        let text = config("127.0.0.1:0", backend.address, 2);
        let section = dialect.section(cloud.relay.address, "");
        let mirror = format!("  mirror: [{{ {section}, interval: 200ms }}]\n  tokens:\n");
        furnish(folders[0].path(), &text.replace("  tokens:\n", &mirror));
        give_keys(folders[0].path());
        let near = Process::start(folders[0].path());
        let admin = near.address("admin");
        furnish(folders[1].path(), &crate::admin::follower(admin, backend.address));
        let far = Process::start(folders[1].path());
        let api = Api::operator(admin, folders[0].path());
        let clients = [&near, &far].map(|it| Client::connect(it.address("proxy")));
        Self { cloud, _folders: folders, api, near, far, clients, _backend: backend }
    }

    /// Waits until both proxies answer so.
    fn wait_for(&mut self, secret: &str, status: u16) {
        let told = format!("{status} from both; {} {}", self.near.said(), self.far.said());
        wait_for(&told, || self.clients.iter_mut().all(|it| probe(it, TENANT, secret) == status));
    }

    fn now(&mut self, secret: &str) -> [u16; 2] {
        [0, 1].map(|index| probe(&mut self.clients[index], TENANT, secret))
    }

    fn show(&mut self, id: &str) -> Value {
        self.api.get(&format!("{CREDENTIALS}/{id}")).json()
    }

    fn wait_for_standing(&mut self, id: &str, standing: &str) {
        wait_for(standing, || self.show(id)["cloud"] == standing);
    }

    fn patch(&mut self, id: &str, status: &str) -> (u16, Value) {
        let body = json!({ "status": status }).to_string();
        let reply = self.api.ask("PATCH", &format!("{CREDENTIALS}/{id}"), &body);
        (reply.status, reply.json())
    }
}

#[test]
fn what_is_done_in_the_cloud_counts_everywhere_after_one_look() {
    for dialect in DIALECTS {
        let mut bed = Bed::start(dialect);
        let made_here = bed.api.ask("POST", CREDENTIALS, "{\"label\": \"entra\"}").json();
        let (id, secret) = made(&made_here);
        assert_eq!(
            (&made_here["origin"], &made_here["cloud"]),
            (&json!(dialect.name()), &json!("awaited"))
        );
        bed.wait_for(&secret, 200);
        assert_eq!(bed.cloud.status(&id), "Enabled", "it is the cloud's");
        bed.wait_for_standing(&id, "listed");
        assert_eq!(bed.show(&id)["label"], "entra");

        bed.cloud.set(&id, "Disabled");
        bed.wait_for(&secret, 401);
        bed.cloud.set(&id, "Enabled");
        bed.wait_for(&secret, 200);
        let gone = bed.cloud.api.ask("DELETE", &format!("{CREDENTIALS}/{id}"), "");
        assert_eq!(gone.status, 200);
        bed.wait_for(&secret, 401);
        bed.wait_for_standing(&id, "unlisted");
    }
}

#[test]
fn what_takes_rights_away_needs_no_cloud() {
    for dialect in DIALECTS {
        let mut bed = Bed::start(dialect);
        let [(id, secret), (other, other_secret)] =
            [(), ()].map(|()| made(&bed.api.ask("POST", CREDENTIALS, "{}").json()));
        bed.wait_for(&secret, 200);
        bed.wait_for(&other_secret, 200);

        bed.cloud.relay.set(Flow::Cut);
        let (status, disabled) = bed.patch(&id, "Disabled");
        assert_eq!((status, &disabled["cloud"]), (200, &json!("disable_pending")));
        let gone = bed.api.ask("DELETE", &format!("{CREDENTIALS}/{other}"), "");
        assert_eq!(gone.status, 200, "{}", gone.text());
        bed.wait_for(&secret, 401);
        bed.wait_for(&other_secret, 401);
        let (status, refused) = bed.patch(&id, "Enabled");
        assert_eq!((status, &refused["code"]), (503, &json!("cloud_unavailable")), "{refused}");
        assert_eq!(bed.cloud.status(&id), "Enabled", "it does not know");

        bed.cloud.relay.set(Flow::Open);
        bed.wait_for_standing(&id, "listed");
        wait_for("the deletion", || bed.show(&other)["status"] == 404);
        assert_eq!(bed.cloud.status(&id), "Disabled");
        assert_eq!(bed.cloud.status(&other), 404);
        assert_eq!(bed.now(&secret), [401; 2]);

        let (status, enabled) = bed.patch(&id, "Enabled");
        assert_eq!((status, &enabled["status"]), (200, &json!("Enabled")));
        assert_eq!(bed.cloud.status(&id), "Enabled", "first there");
        bed.wait_for(&secret, 200);
    }
}

/// The cloud has done it, and its answer is lost.
#[test]
fn an_enable_without_an_answer_does_not_outlive_a_disable() {
    for dialect in DIALECTS {
        let mut bed = Bed::start(dialect);
        let (id, secret) = made(&bed.api.ask("POST", CREDENTIALS, "{}").json());
        bed.wait_for(&secret, 200);
        bed.cloud.set(&id, "Disabled");
        bed.wait_for(&secret, 401);
        bed.cloud.relay.set(Flow::AnswersLost);
        assert_eq!(bed.patch(&id, "Enabled").0, 503);
        wait_for("the cloud", || bed.cloud.status(&id) == "Enabled");
        let (status, disabled) = bed.patch(&id, "Disabled");
        assert_eq!((status, &disabled["cloud"]), (200, &json!("disable_pending")));
        bed.cloud.relay.set(Flow::Open);
        bed.wait_for_standing(&id, "listed");
        assert_eq!(bed.cloud.status(&id), "Disabled");
        assert_eq!(bed.now(&secret), [401; 2]);
    }
}

#[test]
fn a_token_that_the_cloud_has_made_is_told() {
    let mut bed = Bed::start(Dialect::Alibaba);
    let (id, secret) = bed.cloud.create();
    wait_for("the listing", || {
        let listed = bed.api.get(CREDENTIALS).json();
        listed["credentials"][0]["cloud"] == "not_enrolled"
    });
    wait_for("certainty", || bed.now(&secret) == [401; 2]);
    let local = json!({ "secret": secret, "expire_in": "1d" }).to_string();
    let refused = bed.api.ask("POST", CREDENTIALS, &local);
    assert_eq!((refused.status, refused.json()["code"].clone()), (409, json!("owned_by_cloud")));

    let place = format!("{CREDENTIALS}/{id}/digest");
    let told = bed.api.ask("PUT", &place, &json!({ "digest": digest(&secret) }).to_string());
    assert_eq!((told.status, told.json()["cloud"].clone()), (200, json!("listed")));
    bed.wait_for(&secret, 200);
    let unknown = format!("{CREDENTIALS}/scimcred-unknown/digest");
    let unknown = bed.api.ask("PUT", &unknown, &json!({ "secret": "x".repeat(40) }).to_string());
    assert!(matches!(unknown.status, 400 | 404), "{}", unknown.text());

    // Through the clouds' dialects it is the same row, and what is done there goes to the cloud.
    bed.cloud.set(&id, "Disabled");
    bed.wait_for(&secret, 401);
}

#[test]
fn a_cloud_that_cannot_be_read_makes_the_tenant_old_and_nothing_else() {
    let mut bed = Bed::start(Dialect::Tencent);
    let (_, secret) = made(&bed.api.ask("POST", CREDENTIALS, "{}").json());
    bed.wait_for(&secret, 200);
    bed.cloud.relay.set(Flow::Cut);
    // Twice `refresh` and twice the interval.
    wait_for("doubt", || bed.now("an-unknown-token") == [503; 2]);
    assert_eq!(bed.now(&secret), [200; 2], "the last state stands");
    let other = |client: &mut Client| probe(client, "z-b", "an-unknown-token");
    wait_for("another tenant's certainty", || {
        [0, 1].map(|index| other(&mut bed.clients[index])) == [401; 2]
    });
    assert!(bed.far.metric("scim_guard_table_age_seconds{feed=\"z-a\"}") > 2.0);
    bed.cloud.relay.set(Flow::Open);
    wait_for("certainty", || bed.now("an-unknown-token") == [401; 2]);
}

#[test]
fn a_restart_without_the_cloud_keeps_the_last_state_and_its_age() {
    let mut bed = Bed::start(Dialect::Alibaba);
    let [(live, live_secret), (blocked, blocked_secret)] =
        [(), ()].map(|()| made(&bed.api.ask("POST", CREDENTIALS, "{}").json()));
    bed.wait_for_standing(&live, "listed");
    bed.wait_for(&blocked_secret, 200);
    bed.cloud.relay.set(Flow::Cut);
    assert_eq!(bed.patch(&blocked, "Disabled").0, 200);
    bed.near.kill();
    let near = Process::start(&bed.near.folder);
    bed.api = Api::operator(near.address("admin"), &bed.near.folder);
    bed.clients[0] = Client::connect(near.address("proxy"));
    let first = &mut bed.clients[0];
    assert_eq!(probe(first, TENANT, &live_secret), 200);
    assert_eq!(probe(first, TENANT, &blocked_secret), 401);
    assert_eq!(bed.show(&blocked)["cloud"], "disable_pending");
    bed.cloud.relay.set(Flow::Open);
    bed.wait_for_standing(&blocked, "listed");
    assert_eq!(bed.cloud.status(&blocked), "Disabled");
    near.stop();
}

#[test]
fn what_was_ours_before_stays_ours_and_can_be_ended() {
    let mut bed = Bed::start(Dialect::Alibaba);
    let (id, secret) = made(&bed.api.ask("POST", CREDENTIALS, "{}").json());
    bed.wait_for(&secret, 200);
    bed.near.kill();
    let place = bed.near.folder.join("proxy.yaml");
    let mirrored = fs::read_to_string(&place).expect("there");
    let without = |line: &&str| !line.contains("mirror:");
    let plain = mirrored.lines().filter(without).map(|line| format!("{line}\n"));
    fs::write(&place, plain.collect::<String>()).expect("written");
    let mut near = Process::start(&bed.near.folder);
    bed.api = Api::operator(near.address("admin"), &bed.near.folder);
    let (ours, our_secret) = made(&bed.api.ask("POST", CREDENTIALS, "{}").json());
    near.kill();
    fs::write(&place, mirrored).expect("written");
    let near = Process::start(&bed.near.folder);
    bed.api = Api::operator(near.address("admin"), &bed.near.folder);
    let mut client = Client::connect(near.address("proxy"));
    for (id, secret) in [(&ours, &our_secret), (&id, &secret)] {
        assert_eq!(probe(&mut client, TENANT, secret), 200);
        assert_eq!(bed.patch(id, "Disabled").0, 200);
        wait_for("the refusal", || probe(&mut client, TENANT, secret) == 401);
    }
    near.stop();
}

#[test]
fn the_cloud_sees_one_who_asks_however_many_follow() {
    let bed = Bed::start(Dialect::Alibaba);
    let reader = secret_of("follower");
    let mut followers: Vec<_> = (0..1_000).map(|_| Api::new(bed.api.address, &reader)).collect();
    let (begun, before) = (std::time::Instant::now(), bed.cloud.lists());
    while bed.cloud.lists() < before + 5 {
        for (number, follower) in followers.iter_mut().enumerate() {
            let report = json!({ "name": format!("n-{number}"), "max_stale": "1h" }).to_string();
            let reply = follower.ask("PUT", &format!("/v1/replicas/i-{number}"), &report);
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.json()["mirrored"][0]["tenant"], TENANT);
        }
    }
    let most = begun.elapsed().as_millis() / INTERVAL.as_millis() + 2;
    let lists = (bed.cloud.lists() - before) as u128;
    assert!(lists <= most, "{lists} listings, at most {most} are due");
}

#[test]
fn a_creation_without_an_answer_is_told_with_what_may_have_come_of_it() {
    let mut bed = Bed::start(Dialect::Alibaba);
    bed.cloud.relay.set(Flow::AnswersLost);
    let lost = bed.api.ask("POST", CREDENTIALS, "{}");
    let problem = lost.json();
    assert_eq!((lost.status, &problem["code"]), (504, &json!("cloud_uncertain")), "{problem}");
    assert!(problem["detail"].as_str().expect("a text").contains("is not known"), "{problem}");
    bed.cloud.relay.set(Flow::Open);
    wait_for("the listing", || bed.api.get(CREDENTIALS).json()["total"] == 1);
    let listed = bed.api.get(CREDENTIALS).json();
    let candidate = &listed["credentials"][0];
    assert_eq!(candidate["cloud"], "not_enrolled", "nobody knows its token");
    let candidate = candidate["credential_id"].as_str().expect("a text");
    let gone = bed.api.ask("DELETE", &format!("{CREDENTIALS}/{candidate}"), "");
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert_eq!(bed.cloud.api.get(CREDENTIALS).json()["total"], 0);
}

#[test]
fn a_rotation_makes_the_new_one_there_and_ends_the_old_one_here() {
    let mut bed = Bed::start(Dialect::Tencent);
    let (id, secret) = made(&bed.api.ask("POST", CREDENTIALS, "{}").json());
    bed.wait_for(&secret, 200);
    let rotate = |bed: &mut Bed, id: &str, terms: &str| {
        bed.api.ask("POST", &format!("{CREDENTIALS}/{id}/rotate"), terms)
    };
    let rotated = rotate(&mut bed, &id, "{\"overlap\": \"2s\"}");
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    let (new, new_secret) = made(&rotated.json());
    bed.wait_for(&new_secret, 200);
    assert_eq!(bed.now(&secret), [200; 2], "it goes on for a while");
    bed.wait_for(&secret, 401);
    wait_for("the cloud to know", || bed.cloud.status(&id) == "Disabled");

    // The leaked one goes at once, and makes room also at the limit.
    let leaked = rotate(&mut bed, &new, "{\"leaked\": true}");
    assert_eq!(leaked.status, 201, "{}", leaked.text());
    bed.wait_for(&new_secret, 401);
    assert_eq!(bed.cloud.status(&new), 404);
    bed.wait_for(&made(&leaked.json()).1, 200);
    // What the first rotation left went with the second one.
    assert_eq!(bed.api.ask("POST", CREDENTIALS, "{}").status, 201);
    let full = bed.api.ask("POST", CREDENTIALS, "{}");
    assert_eq!((full.status, &full.json()["code"]), (409, &json!("limit_reached")));
    assert_eq!(full.json()["credentials"].as_array().expect("both").len(), 2);
}

/// A proxy that follows the cloud by itself.
struct Sidecar {
    folder: tempfile::TempDir,
    process: Process,
    backend: Backend,
}

impl Sidecar {
    fn start(dialect: Dialect, cloud: SocketAddr, enrolled: &str) -> Self {
        let backend = Backend::friendly();
        let folder = tempfile::tempdir().expect("a folder");
        let source = dialect.name();
        let section = dialect.section(cloud, ", enrolment: enrolment.yaml");
        let text = format!(
            "proxy:\n  listeners: [{{ address: '127.0.0.1:0' }}]\n  drain: {{ delay: 0s }}\n  routes: \
             [{{ tenant: {TENANT}, path: /{TENANT}/scim/v2, upstream: {{ url: 'http://{}/scim/v2' }} \
             }}]\nops: {{ listen: '127.0.0.1:0' }}\ncredentials:\n  source: {source}\n  refresh: 1s\n  \
             {section}\n",
            backend.address
        );
        furnish(folder.path(), &text);
        give_keys(folder.path());
        fs::write(folder.path().join("enrolment.yaml"), enrolled).expect("written");
        let process = Process::launch(folder.path());
        Self { folder, process, backend }
    }

    fn client(&self) -> Client {
        Client::connect(self.process.address("proxy"))
    }

    fn enroll(&self, rows: &str) {
        fs::write(self.folder.path().join("new"), rows).expect("written");
        fs::rename(self.folder.path().join("new"), self.folder.path().join("enrolment.yaml"))
            .expect("renamed");
    }
}

fn enrolment(id: &str, secret: &str, end: &str) -> String {
    let digest = digest(secret);
    format!(
        "- {{ credential_id: {id}, tenant: {TENANT}, digest: '{digest}', expire_time: '{end}' }}\n"
    )
}

#[test]
fn a_proxy_follows_a_cloud_by_itself() {
    for dialect in DIALECTS {
        let mut cloud = Cloud::start();
        let (id, secret) = cloud.create();
        let rows = enrolment(&id, &secret, "2099-01-01T00:00:00Z");
        cloud.relay.set(Flow::Cut);
        let sidecar = Sidecar::start(dialect, cloud.relay.address, &rows);
        let mut client = sidecar.client();
        // Nothing is known yet, and that is no reason to say no.
        assert_eq!(probe(&mut client, TENANT, &secret), 503);
        assert_eq!(probe(&mut client, TENANT, "unknown-token"), 503);
        cloud.relay.set(Flow::Open);
        wait_for("the first listing", || probe(&mut client, TENANT, &secret) == 200);
        wait_for("certainty", || probe(&mut client, TENANT, "unknown-token") == 401);
        cloud.set(&id, "Disabled");
        wait_for("the refusal", || probe(&mut client, TENANT, &secret) == 401);
        cloud.set(&id, "Enabled");
        wait_for("the return", || probe(&mut client, TENANT, &secret) == 200);

        // Another one, enrolled while it runs; a broken file changes nothing.
        let (second, second_secret) = cloud.create();
        wait_for("certainty", || probe(&mut client, TENANT, &second_secret) == 401);
        sidecar.enroll("- broken");
        wait_for("the fault", || sidecar.process.said().contains("enrolment"));
        assert_eq!(probe(&mut client, TENANT, &secret), 200);
        sidecar
            .enroll(&(rows.clone() + &enrolment(&second, &second_secret, "2099-01-01T00:00:00Z")));
        wait_for("the second", || probe(&mut client, TENANT, &second_secret) == 200);
        // One that was cut where it still is YAML takes nobody away.
        sidecar.enroll(rows.trim_end());
        wait_for("the fault", || sidecar.process.said().contains("ends within a line"));
        assert_eq!(probe(&mut client, TENANT, &second_secret), 200);
        sidecar.enroll(&enrolment(&second, &second_secret, "2099-01-01T00:00:00Z"));
        wait_for("the first to go", || probe(&mut client, TENANT, &secret) == 401);
        assert!(!sidecar.backend.seen().is_empty());
    }
}

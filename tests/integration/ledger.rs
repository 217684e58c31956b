//! What an admin API has answered and logged, kept by the test, and whether the two agree. It
//! reads the log from the beginning and makes everything out of it anew: marks, table, and what
//! each audited change was.

use std::collections::{BTreeMap, HashMap, HashSet};

use scim_guard::clock::Timestamp;
use scim_guard::credential::Revision;
use scim_guard::credential::feed::{Change, Mark, Row};
use scim_guard::source::wire::ChangeJson;
use scim_guard::store::{Edit, Origin, Record, log_text};
use serde_json::Value;

use crate::admin::{Api, Process, position, probe};
use crate::guard::digest;
use crate::http::Client;

/// An answered write.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `create`, `patch`, `delete`, `rotate`, `tenant` or `tenant_delete`.
    pub act: &'static str,
    pub tenant: String,
    /// Of the credential that was asked for, if it was one.
    pub id: String,
    /// Of the header.
    pub revision: u64,
    pub body: Value,
}

/// The log as far as it was read.
#[derive(Default)]
pub struct Ledger {
    history: String,
    mark: Mark,
    /// By revision, from 1 on.
    pub changes: Vec<Value>,
    /// What the changes lead to.
    pub rows: BTreeMap<(String, String), Value>,
    pub tenants: BTreeMap<String, Value>,
    audited: u64,
    audited_revision: u64,
    /// Answers with their credential's view, by its revision.
    views: HashMap<(String, u64), Value>,
    /// Revisions of changes that somebody was answered.
    answered: HashSet<u64>,
}

impl Ledger {
    pub fn position(&self) -> String {
        format!("{}:{}:{}", self.history, self.changes.len(), self.mark)
    }

    /// As it was at a revision.
    pub fn at(&self, revision: u64) -> Self {
        let mut earlier = Self { history: self.history.clone(), ..Self::default() };
        self.changes[..revision as usize].iter().for_each(|change| earlier.take(change));
        earlier
    }

    /// Reads what is new. Panics if the log has a gap, changes its past, or ends elsewhere than
    /// its marks say.
    pub fn catch_up(&mut self, follower: &mut Api) {
        if self.history.is_empty() {
            let head = follower.get("/v1/table").json();
            self.history = head["history"].as_str().expect("a text").to_owned();
        }
        loop {
            let target = format!("/v1/changes?after={}&rows=5000", self.position());
            let reply = follower.get(&target);
            assert_eq!(reply.status, 200, "{target}: {}", reply.text());
            let told = reply.json();
            for change in told["changes"].as_array().expect("a list") {
                self.take(change);
            }
            assert_eq!(position(&told), self.position(), "marks chain");
            if position(&told["head"]) == self.position() {
                return;
            }
        }
    }

    fn take(&mut self, change: &Value) {
        assert_eq!(change["revision"], self.changes.len() + 1, "a gap before {change}");
        self.mark = chained(self.mark, change);
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        let (tenant, key) = (text("tenant"), (text("tenant"), text("credential_id")));
        let mut plain = change.clone();
        plain.as_object_mut().expect("an object").remove("type");
        match change["type"].as_str().expect("a text") {
            "credential" => drop(self.rows.insert(key, plain)),
            "deleted" => assert!(self.rows.remove(&key).is_some(), "{change} of nothing"),
            "tenant" => drop(self.tenants.insert(tenant, plain)),
            "tenant_deleted" => {
                assert!(self.rows.keys().all(|(it, _)| *it != tenant), "{change} in use");
                assert!(self.tenants.remove(&tenant).is_some(), "{change} of nothing");
            }
            other => panic!("{other}"),
        }
        let count = self.rows.keys().filter(|(it, _)| *it == tenant_of(change)).count();
        assert!(count <= LIMIT, "{count} credentials of one tenant at {change}");
        self.changes.push(change.clone());
    }

    /// Whether the table is what the log says.
    pub fn check_table(&self, follower: &mut Api) {
        let table = follower.get("/v1/table?rows=5000").json();
        assert_eq!(position(&table), self.position(), "nobody writes meanwhile");
        assert_eq!(table["next"], Value::Null);
        let rows: Vec<_> = self.rows.values().cloned().collect();
        assert_eq!(table["rows"], Value::Array(rows));
        let tenants: Vec<_> = self.tenants.values().cloned().collect();
        assert_eq!(table["tenants"], Value::Array(tenants));
    }

    /// Whether credentials are just as they were last answered, down to what followers never see.
    pub fn check_credentials(&self, operator: &mut Api) {
        for tenant in self.tenants.keys() {
            let target = format!("/v1/tenants/{tenant}/credentials");
            let listed = operator.get(&target).json();
            for credential in listed["credentials"].as_array().expect("a list") {
                let id = credential["credential_id"].as_str().expect("a text").to_owned();
                let revision = credential["revision"].as_u64().expect("a number");
                if let Some(view) = self.views.get(&(id, revision)) {
                    assert_eq!(view, &without(credential, &["last_used", "secret"]));
                }
            }
        }
    }

    /// Whether each change of the log was answered for by one whole audited act: none is half done.
    pub fn check_audit(&mut self, operator: &mut Api) {
        loop {
            let page = operator.get(&format!("/v1/audit?rows=1000&after={}", self.audited)).json();
            for entry in page["entries"].as_array().expect("a list") {
                assert_eq!(entry["number"], self.audited + 1);
                self.audited += 1;
                let to = entry["revision"].as_u64().expect("a number");
                let from = std::mem::replace(&mut self.audited_revision, to) as usize;
                let changes = &self.changes[from..to as usize];
                assert!(is_whole(entry, changes), "{entry} did {changes:?}");
            }
            if page["next"] == Value::Null {
                break;
            }
        }
        assert_eq!(self.audited_revision, self.changes.len() as u64, "each change is audited");
    }

    /// Whether what was answered is what the log has under that number.
    pub fn check_answers(&mut self, answers: &[Answer]) {
        for answer in answers {
            let at = |revision: u64| {
                let index = revision.checked_sub(1).expect("a change has a number from 1 on");
                self.changes.get(index as usize).unwrap_or_else(|| panic!("{answer:?} is lost"))
            };
            let change = at(answer.revision);
            let is = |kind: &str, id: &str| {
                change["type"] == kind
                    && change["tenant"] == *answer.tenant
                    && (id.is_empty() || change["credential_id"] == *id)
            };
            let made = answer.body["credential_id"].as_str().unwrap_or_default();
            let good = match answer.act {
                "create" | "patch" => is("credential", made) && agrees(change, &answer.body),
                "rotate" => {
                    let old = at(answer.revision - 1);
                    is("credential", made)
                        && agrees(change, &answer.body)
                        && old["credential_id"] == *answer.id
                }
                "delete" => is("deleted", &answer.id),
                "tenant" => is("tenant", "") && agrees(change, &answer.body),
                "tenant_delete" => is("tenant_deleted", ""),
                other => panic!("{other}"),
            };
            assert!(good, "{answer:?} is not what the log has: {change}");
            let no_op = answer.act == "patch" || answer.act == "tenant";
            let first = self.answered.insert(answer.revision);
            assert!(first || no_op, "{answer:?} has the number of another answer");
            if !made.is_empty() {
                let view = without(&answer.body, &["last_used", "secret"]);
                let known = self.views.insert((made.to_owned(), answer.revision), view.clone());
                assert!(known.is_none_or(|known| known == view), "{answer:?} is told in two ways");
            }
        }
    }
}

/// Whether a proxy accepts and refuses just what the log says.
pub fn check_follower(
    process: &Process,
    ledger: &Ledger,
    secrets: &HashMap<(String, String), String>,
) {
    let mut counts = BTreeMap::from([("Enabled", 0.0), ("Disabled", 0.0)]);
    for row in ledger.rows.values() {
        *counts.get_mut(row["status"].as_str().expect("a text")).expect("a status") += 1.0;
    }
    for (status, count) in counts {
        let series = format!("scim_guard_credentials{{state=\"{}\"}}", status.to_ascii_lowercase());
        assert_eq!(process.metric(&series), count, "{series}");
    }
    let mut client = Client::connect(process.address("proxy"));
    let mut seen = BTreeMap::new();
    for (key, secret) in secrets {
        let switch = ledger.tenants.get(&key.0).map(|it| &it["synchronization"]);
        let wanted = match (ledger.rows.get(key), switch) {
            (Some(row), Some(switch)) => {
                assert_eq!(row["digest"], *digest(secret));
                match (row["status"].as_str(), switch.as_str()) {
                    (Some("Disabled"), _) => 401,
                    (_, Some("Disabled")) => 403,
                    _ => 200,
                }
            }
            _ => 401,
        };
        let status = probe(&mut client, &key.0, secret);
        assert_eq!(status, wanted, "{key:?} at {:?}", process.folder);
        *seen.entry(status).or_insert(0) += 1;
    }
    println!("{seen:?}");
}

/// As many credentials as a tenant may have in these tests.
pub const LIMIT: usize = 3;

fn tenant_of(change: &Value) -> &str {
    change["tenant"].as_str().expect("a text")
}

fn without(value: &Value, members: &[&str]) -> Value {
    let mut value = value.clone();
    members.iter().for_each(|member| drop(value.as_object_mut().expect("one").remove(*member)));
    value
}

/// Whether an answer says nothing else than a change does.
fn agrees(change: &Value, body: &Value) -> bool {
    ["status", "expire_time", "revision", "synchronization"].iter().all(|member| {
        let (told, logged) = (&body[*member], &change[*member]);
        told.is_null() || logged.is_null() || told == logged
    })
}

/// Whether changes are all that an audited act makes, and no other's.
fn is_whole(entry: &Value, changes: &[Value]) -> bool {
    let kinds: Vec<_> = changes.iter().map(|it| it["type"].as_str().expect("a text")).collect();
    let own = changes.iter().all(|change| change["tenant"] == entry["tenant"]);
    let id = |index: usize| changes[index]["credential_id"].clone();
    let detail = entry["detail"].as_str().expect("a text");
    own && match (entry["action"].as_str().expect("a text"), kinds.as_slice()) {
        ("credential.create" | "credential.enroll", ["credential"])
        | ("credential.disable" | "credential.enable" | "credential.label", ["credential"])
        | ("credential.delete", ["deleted"]) => id(0) == entry["credential_id"],
        ("credential.rotate", [kind, "credential"]) => {
            let leaked = if *kind == "deleted" { ", leaked" } else { "" };
            let successor = id(1);
            let successor = successor.as_str().expect("a text");
            id(0) == entry["credential_id"] && detail == format!("replaced by {successor}{leaked}")
        }
        ("tenant.declare" | "tenant.synchronization", ["tenant"])
        | ("tenant.delete", ["tenant_deleted"])
        | ("table.read" | "store.backup" | "login.fail", []) => true,
        _ => false,
    }
}

/// The mark after a change, made as the store makes it, out of what followers are told.
fn chained(mark: Mark, change: &Value) -> Mark {
    let json: ChangeJson = serde_json::from_value(change.clone()).expect("a change");
    let change = Change::try_from(&json).expect("a change");
    let edit = match &change {
        Change::Credential(row) => Edit::Put(record(row)),
        Change::CredentialDeleted { id, .. } => Edit::Delete(id.clone()),
        Change::Tenant(row) => Edit::PutTenant(row.synchronization),
        Change::TenantDeleted { .. } => Edit::DeleteTenant,
    };
    let text = log_text(&edit, change.tenant());
    mark.then(change.revision(), text.as_bytes())
}

/// With nothing but what the log knows.
fn record(row: &Row) -> Record {
    Record {
        credential: (*row.credential).clone(),
        revision: Revision(0),
        create_time: Timestamp::from_millis(0),
        label: String::new(),
        hint: None,
        origin: Origin::Local,
        created_by: String::new(),
        enrolled: false,
        last_used: None,
        successor: None,
    }
}

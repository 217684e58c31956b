//! Writers who ask an admin API for all kinds of changes, and note what they are answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{Api, Unanswered};
use crate::guard::wait_for;
use crate::http::Reply;
use crate::ledger::Answer;

/// Some are in the config, and others come and go.
const TENANTS: [&str; 10] = ["z-a", "z-b", "z-c", "z-1", "z-2", "z-3", "z-4", "z-5", "z-6", "z-7"];

/// What writers share.
#[derive(Default)]
pub struct Load {
    pub answers: Mutex<Vec<Answer>>,
    /// Credentials that were made and not seen to be gone.
    pub known: Mutex<Vec<(String, String)>>,
    /// Tokens by credential.
    pub secrets: Mutex<HashMap<(String, String), String>>,
    /// Whether to write.
    open: AtomicBool,
    pub over: AtomicBool,
    busy: AtomicUsize,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no writer has panicked")
}

impl Load {
    /// Writes until it is over, as long as somebody answers.
    pub fn write(&self, operator: &Api, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut api = Api::new(operator.address, &operator.token);
        while !self.over.load(Ordering::SeqCst) {
            self.busy.fetch_add(1, Ordering::SeqCst);
            while self.open.load(Ordering::SeqCst) {
                if self.act(&mut api, &mut rng).is_err() {
                    // Whoever has killed the server opens again.
                    std::thread::yield_now();
                }
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            while !self.open.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }

    /// Lets them write from here on.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Waits until each of them has had its answer, or will have none.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        wait_for("writers to pause", || self.busy.load(Ordering::SeqCst) == 0);
    }

    pub fn count(&self) -> usize {
        lock(&self.answers).len()
    }

    /// One act of some kind.
    fn act(&self, api: &mut Api, rng: &mut fastrand::Rng) -> Result<(), Unanswered> {
        let tenant = *rng.choice(&TENANTS).expect("there are some");
        let kind = rng.u8(..100);
        if kind < 25 {
            let label = json!({ "label": format!("label-{}", rng.u16(..)) });
            return self.create(api, tenant, &label.to_string());
        }
        if kind >= 90 {
            return self.switch(api, tenant, kind);
        }
        let known = rng.choice(lock(&self.known).iter()).cloned();
        let Some((tenant, id)) = known else { return Ok(()) };
        let target = format!("/v1/tenants/{tenant}/credentials/{id}");
        let patch = |body: Value| ("patch", "PATCH", target.clone(), body.to_string());
        let (act, method, target, body) = match kind {
            ..40 => patch(json!({ "status": "Disabled" })),
            40..55 => patch(json!({ "status": "Enabled" })),
            55..62 => patch(json!({ "label": format!("label-{}", rng.u16(..)) })),
            62..75 => ("delete", "DELETE", target, String::new()),
            _ => {
                let body = json!({ "leaked": rng.bool() }).to_string();
                ("rotate", "POST", format!("{target}/rotate"), body)
            }
        };
        let reply = api.try_ask(method, &target, &body)?;
        let key = (tenant, id);
        let gone = reply.status == 404 || act == "delete" || body.contains("true");
        if gone {
            lock(&self.known).retain(|it| *it != key);
        }
        self.note(act, &key.0, &key.1, &reply);
        Ok(())
    }

    fn create(&self, api: &mut Api, tenant: &str, body: &str) -> Result<(), Unanswered> {
        let target = format!("/v1/tenants/{tenant}/credentials");
        let reply = api.try_ask("POST", &target, body)?;
        self.note("create", tenant, "", &reply);
        Ok(())
    }

    /// What is done to a tenant as a whole.
    fn switch(&self, api: &mut Api, tenant: &str, kind: u8) -> Result<(), Unanswered> {
        let target = format!("/v1/tenants/{tenant}");
        let (act, reply) = match kind {
            90..94 => {
                let status = if kind == 90 { "Disabled" } else { "Enabled" };
                let body = json!({ "status": status }).to_string();
                let switch = format!("{target}/synchronization");
                ("tenant", api.try_ask("PUT", &switch, &body)?)
            }
            94..98 => ("tenant", api.try_ask("PUT", &target, "")?),
            _ => ("tenant_delete", api.try_ask("DELETE", &target, "")?),
        };
        self.note(act, tenant, "", &reply);
        Ok(())
    }

    pub fn note(&self, act: &'static str, tenant: &str, id: &str, reply: &Reply) {
        if matches!(reply.status, 404 | 409) {
            return;
        }
        assert!(matches!(reply.status, 200 | 201), "{act}: {} {}", reply.status, reply.text());
        let body = reply.json();
        let revision = reply.header("scim-guard-revision").expect("each write has one");
        let revision = revision.parse().expect("a number");
        if let Some(secret) = body["secret"].as_str() {
            let made = body["credential_id"].as_str().expect("a text").to_owned();
            let key = (tenant.to_owned(), made);
            lock(&self.secrets).insert(key.clone(), secret.to_owned());
            lock(&self.known).push(key);
        }
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        lock(&self.answers).push(Answer { act, tenant, id, revision, body });
    }
}

/// Ends the writers, also when the test fails.
pub struct Over<'a>(pub &'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::SeqCst);
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// A number that can be set from outside, to try others.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

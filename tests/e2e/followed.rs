//! What an official SDK does in a cloud, for which our own admin API stands, closes the proxies that
//! follow that cloud: one by itself, and one whose admin instance mirrors it.

use serde_json::{Value, json};

use crate::admin::{Admin, OPERATOR};
use crate::backend::Backend;
use crate::client::{Client, Request};
use crate::guard::Guard;
use crate::process::until;
use crate::sdk::{ALIBABA, Asker, Sdk, TENCENT};

/// A cloud's SDK and the words in which it is configured and asked.
struct Cloud {
    sdk: Sdk,
    name: &'static str,
    keys: [&'static str; 3],
    create: &'static str,
    update: &'static str,
    tenant: &'static str,
}

const CLOUDS: [Cloud; 2] = [
    Cloud {
        sdk: TENCENT[0],
        name: "tencent",
        keys: ["zone_id", "secret_id", "secret_key"],
        create: "CreateSCIMCredential",
        update: "UpdateSCIMCredentialStatus",
        tenant: "ZoneId",
    },
    Cloud {
        sdk: ALIBABA[0],
        name: "alibaba",
        keys: ["directory_id", "access_key_id", "access_key_secret"],
        create: "CreateSCIMServerCredential",
        update: "UpdateSCIMServerCredentialStatus",
        tenant: "DirectoryId",
    },
];

impl Cloud {
    fn section(&self, admin: &Admin, more: &str) -> String {
        let Self { name, keys: [tenant, id, secret], .. } = self;
        let address = admin.address;
        format!(
            "{name}: {{ {tenant}: {ZONE}, {id}: 'file:key.id', {secret}: 'file:key.secret', endpoint: \
             'http://{address}'{more} }}"
        )
    }

    /// Id and secret of a new credential.
    fn create(&self, asker: &mut Asker) -> (String, String) {
        let made = asker.done(self.create, json!({ self.tenant: ZONE }));
        let made = made.get("SCIMServerCredential").unwrap_or(&made);
        let text = |name: &str| made[name].as_str().expect("a text").to_owned();
        (text("CredentialId"), text("CredentialSecret"))
    }

    fn set(&self, asker: &mut Asker, id: &str, status: &str) {
        let wanted: Value = json!({ self.tenant: ZONE, "CredentialId": id, "NewStatus": status });
        asker.done(self.update, wanted);
    }
}

const ZONE: &str = "z-0";
const RATES: &str = "tencent_requests_per_second: 1000, alibaba_requests_per_second: 1000";

fn wait_for(client: &mut Client, guard: &Guard, token: &str, status: u16) {
    let request = Request::new("GET", format!("{}/Users", guard.path)).bearer(token);
    until(&format!("{status}: {}", guard.written()), || {
        (client.send(&request).expect("an answer").status == status).then_some(())
    });
}

const KEYS: [(&str, &str); 2] = [("key.id", OPERATOR.0), ("key.secret", OPERATOR.1)];

#[test]
fn a_proxy_by_itself_follows_what_the_sdk_does() {
    let backend = Backend::Uvicorn.start();
    for cloud in &CLOUDS {
        let admin = Admin::start(false, 1, RATES);
        let mut asker = cloud.sdk.start(&admin, OPERATOR);
        let (id, secret) = cloud.create(&mut asker);
        let section = cloud.section(&admin, ", enrolment: enrolment.yaml");
        let source =
            format!("credentials:\n  source: {}\n  refresh: 1s\n  {section}\n", cloud.name);
        let digest = scim_guard::credential::TokenDigest::of(secret.as_bytes());
        let row = format!(
            "- {{ credential_id: {id}, tenant: {ZONE}, digest: '{digest}', expire_time: \
             2099-01-01T00:00:00Z }}\n"
        );
        let files = [&KEYS[..], &[("enrolment.yaml", &row)]].concat();
        let guard = Guard::start_for(&backend, ZONE, &files, &source);
        let mut client = Client::new(guard.address);
        wait_for(&mut client, &guard, &secret, 200);
        cloud.set(&mut asker, &id, "Disabled");
        wait_for(&mut client, &guard, &secret, 401);
        cloud.set(&mut asker, &id, "Enabled");
        wait_for(&mut client, &guard, &secret, 200);
        assert!(!guard.written().contains(OPERATOR.1));
    }
}

#[test]
fn a_mirror_follows_what_the_sdk_does() {
    let backend = Backend::Uvicorn.start();
    for cloud in &CLOUDS {
        let admin = Admin::start(false, 1, RATES);
        let mut asker = cloud.sdk.start(&admin, OPERATOR);
        let section = cloud.section(&admin, "");
        let source = format!(
            "credentials: {{ source: embedded }}\nadmin:\n  listen: 127.0.0.1:0\n  store: \
             sqlite:admin.db\n  mirror: [{{ {section}, interval: 500ms }}]\n"
        );
        let guard = Guard::start_for(&backend, ZONE, &KEYS, &source).with_admin();
        let told = guard.run(&["credential", "create", "--tenant", ZONE, "--output", "json"], "");
        let made: Value = serde_json::from_str(&told).expect("JSON");
        let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
        let (id, secret) = (text("credential_id"), text("secret"));
        let mut client = Client::new(guard.address);
        wait_for(&mut client, &guard, &secret, 200);
        cloud.set(&mut asker, &id, "Disabled");
        wait_for(&mut client, &guard, &secret, 401);
        cloud.set(&mut asker, &id, "Enabled");
        wait_for(&mut client, &guard, &secret, 200);
        guard.run(&["credential", "disable", &id, "--tenant", ZONE], "");
        wait_for(&mut client, &guard, &secret, 401);
    }
}

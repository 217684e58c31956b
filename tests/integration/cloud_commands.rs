//! The commands at a cloud that the proxies ask themselves. The cloud is another process: our own
//! admin API in the dialects of both.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::admin::Api;
use crate::admin_commands::{Told, run};
use crate::backend::{Act, Backend, Seen, read_request};
use crate::guard::{Guard, digest};
use crate::port::Reserved;

const TENANT: &str = "z-demo00000000";
const FOREIGN: &str = "foreign-token-0123456789-abcdef";
const CLOUDS: [&str; 2] = ["tencent", "alibaba"];

const CLOUD: &str = "\
credentials: { source: embedded }
admin:
  listen: '127.0.0.1:0'
  store: 'sqlite:data/admin.db'
  tenants: [z-demo00000000]
  access_keys:
    - { id: AKIDoperator, secret: 'file:key.secret', role: operator }
    - { id: AKIDreader, secret: 'file:key.secret', role: reader }
ops: { listen: '127.0.0.1:0' }
";

/// A cloud, and a folder with the config of a proxy that asks it.
struct Site {
    name: &'static str,
    cloud: Guard,
    folder: tempfile::TempDir,
}

impl Site {
    fn start(name: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("proxy.yaml"), CLOUD).expect("written");
        fs::write(folder.path().join("key.secret"), SECRET).expect("written");
        let cloud = Guard::start_in(folder);
        let folder = tempfile::tempdir().expect("a folder");
        let site = Self { name, cloud, folder };
        site.write("id", "AKIDoperator");
        site.write("key", SECRET);
        site.lead_to(site.cloud.admin);
        site
    }

    /// Writes the config, with the cloud at this address.
    fn lead_to(&self, cloud: SocketAddr) {
        let keys = match self.name {
            "tencent" => format!("zone_id: {TENANT}, secret_id: 'file:id', secret_key: 'file:key'"),
            _ => format!(
                "directory_id: {TENANT}, access_key_id: 'file:id', access_key_secret: 'file:key'"
            ),
        };
        let name = self.name;
        self.write(
            "proxy.yaml",
            &format!(
                "\
proxy:
  listeners: [{{ address: '127.0.0.1:0' }}]
  routes:
    - {{ tenant: {TENANT}, path: /scim/v2, upstream: {{ url: 'http://127.0.0.1:1/' }} }}
credentials:
  source: {name}
  {name}: {{ {keys}, endpoint: 'http://{cloud}', enrolment: enrolment.yaml }}
"
            ),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("written");
    }

    fn enrolment(&self) -> String {
        fs::read_to_string(self.path("enrolment.yaml")).unwrap_or_default()
    }

    fn run(&self, line: &str) -> Told {
        self.feed(line, "")
    }

    fn feed(&self, line: &str, input: &str) -> Told {
        run(self.folder.path(), line, input)
    }

    fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} -o json")).expect(0).json()
    }

    /// A new credential: its id and its token.
    fn create(&self) -> (String, String) {
        let created = self.json("credential create");
        let text = |key: &str| created[key].as_str().expect("a text").to_owned();
        (text("credential_id"), text("secret"))
    }

    /// How the listed and the enrolled ones stand, by id.
    fn standings(&self) -> Vec<(String, String, String)> {
        let listed = self.json("credential list");
        let text = |row: &Value, key: &str| row[key].as_str().expect(key).to_owned();
        let rows = listed["credentials"].as_array().expect("a list").iter();
        rows.map(|row| (text(row, "credential_id"), text(row, "status"), text(row, "cloud")))
            .collect()
    }

    fn stands(&self, id: &str) -> (String, String) {
        let found = self.standings().into_iter().find(|(it, ..)| it == id);
        let (_, status, cloud) = found.expect("it is there");
        (status, cloud)
    }

    /// What becomes of a token.
    fn reason(&self, token: &str) -> String {
        let told = self.feed("explain --path /scim/v2/Users -o json", token).json();
        told["reason"].as_str().expect("a reason").to_owned()
    }

    /// The cloud as its own operator sees it.
    fn operator(&self) -> Api {
        Api::operator(self.cloud.admin, self.cloud.folder.path())
    }

    fn at_cloud(&self) -> usize {
        let target = format!("/v1/tenants/{TENANT}/credentials");
        self.operator().get(&target).json()["total"].as_u64().expect("a number") as usize
    }
}

const SECRET: &str = "planted-access-key-secret";

/// Leads to the cloud. `judge` sees each request before it goes on, and says if its answer comes back.
fn relay(target: SocketAddr, judge: impl Fn(&Seen) -> bool + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut near in listener.incoming().map_while(Result::ok) {
            let Some(request) = read_request(&mut near, &mut Vec::new(), 0) else { continue };
            let comes_back = judge(&request);
            let mut far = TcpStream::connect(target).expect("the cloud is there");
            let bytes = [request.head.as_bytes(), b"\r\n\r\n", &request.body].concat();
            far.write_all(&bytes).expect("written");
            // When an answer begins, the cloud has done what it was asked.
            let mut buffer = vec![0; 65_536];
            let read = far.read(&mut buffer).expect("an answer");
            if comes_back {
                near.write_all(&buffer[..read]).expect("written");
                std::thread::spawn(move || std::io::copy(&mut far, &mut near));
            }
        }
    });
    address
}

fn creates(request: &Seen) -> bool {
    request.head.contains("CreateSCIM")
}

#[test]
fn a_credential_lives_from_create_to_delete() {
    for name in CLOUDS {
        let site = Site::start(name);
        let made = site.run("credential create --label Okta").expect(0);
        let secrets: Vec<_> = made.out.lines().filter(|line| line.starts_with("scimg_")).collect();
        let [token] = secrets[..] else { panic!("{made:#?}") };
        assert_eq!(made.out.matches(token).count(), 1);
        let enrolment = site.enrolment();
        assert!(enrolment.contains(&digest(token)) && enrolment.contains("Okta"), "{enrolment}");
        assert!(!enrolment.contains(token) && !made.err.contains(token));
        let mode = fs::metadata(site.path("enrolment.yaml")).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let shown = site.json("credential list")["credentials"][0].clone();
        let told = |key: &str| shown[key].as_str().expect(key).to_owned();
        let id = told("credential_id");
        assert_eq!(
            (told("tenant"), told("origin"), told("cloud"), told("label"), told("hint")),
            (
                TENANT.into(),
                name.into(),
                "listed".into(),
                "Okta".into(),
                token[token.len() - 4..].into()
            )
        );
        assert_eq!(site.json(&format!("credential show {id}")), shown);
        let table = site.run("credential list").expect(0).out;
        assert!(table.contains("CLOUD") && table.contains("  enrolled  "), "{table}");
        assert_eq!(site.reason(token), "allowed");

        let disabled = site.run(&format!("credential disable {id} --wait")).expect(0);
        assert!(disabled.err.contains("--wait has no meaning here"), "{disabled:#?}");
        assert_eq!(site.stands(&id), ("Disabled".into(), "listed".into()));
        assert!(site.enrolment().contains("status: Disabled"));
        assert_eq!(site.reason(token), "credential_disabled");
        site.run(&format!("credential enable {id}")).expect(0);
        assert_eq!(site.reason(token), "allowed");

        let deleted = site.json(&format!("credential delete {id}"));
        assert_eq!(deleted["status"], "Deleted");
        assert_eq!(site.standings(), []);
        assert!(site.enrolment().ends_with("[]\n"));
        assert_eq!(site.reason(token), "token_unknown");
        site.run(&format!("credential delete {id}")).refuses("lists no credential");
        site.run(&format!("credential disable {id}")).refuses("lists no credential");
    }
}

#[test]
fn a_token_that_the_cloud_has_made_is_enrolled() {
    for name in CLOUDS {
        let site = Site::start(name);
        let mut operator = site.operator();
        let place = format!("/v1/tenants/{TENANT}/credentials");
        let mut ids = Vec::new();
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let made = operator.ask("POST", &place, "{}").json();
            ids.push(made["credential_id"].as_str().expect("an id").to_owned());
            tokens.push(made["secret"].as_str().expect("a token").to_owned());
        }
        assert_eq!(site.stands(&ids[0]), ("Enabled".into(), "not_enrolled".into()));
        assert_eq!(site.reason(&tokens[0]), "token_unknown");
        site.run(&format!("explain --path /scim/v2/Users --id {}", ids[0]))
            .refuses("its token is not enrolled");

        let line = format!("credential enroll --id {} --label Entra", ids[0]);
        let enrolled = site.feed(&line, &format!("{}\n", tokens[0])).expect(0);
        assert!(!enrolled.out.contains(&tokens[0]) && !site.enrolment().contains(&tokens[0]));
        site.run(&format!("credential enroll --id {} --digest {}", ids[1], digest(&tokens[1])))
            .expect(0);
        for (id, token) in ids.iter().zip(&tokens) {
            assert_eq!(site.stands(id), ("Enabled".into(), "listed".into()));
            assert_eq!(site.reason(token), "allowed");
        }
        for (line, input, told) in [
            (&*format!("credential enroll --id {}", ids[1]), &*tokens[0], "is the token of"),
            (&format!("credential enroll --id {}", ids[1]), "short", "too easy to guess"),
            ("credential enroll --id c-9", FOREIGN, &*ids[0]),
            ("credential enroll --expires 1y", FOREIGN, "say by --id"),
        ] {
            site.feed(line, input).refuses(told);
        }
        let again = site.feed(&line.replace(" --label Entra", ""), FOREIGN).expect(0);
        assert!(again.err.contains("another token was enrolled"), "{again:#?}");
        assert!(again.out.contains("Entra"), "{again:#?}");
        assert_eq!(site.reason(&tokens[0]), "token_unknown");

        operator.ask("DELETE", &format!("{place}/{}", ids[0]), "");
        assert_eq!(site.stands(&ids[0]), ("Enabled".into(), "unlisted".into()));
        let told = site.feed("explain --path /scim/v2/Users", FOREIGN).expect(1).out;
        assert!(told.contains("which") && told.contains("lists no more"), "{told}");
        assert_eq!(site.reason(FOREIGN), "token_unknown");
        site.run("credential list --expiring 99y -o json").expect(10);
        let gone = site.run(&format!("credential delete {}", ids[0])).expect(0);
        assert!(gone.err.contains("had deleted it before"), "{gone:#?}");
        assert_eq!(site.standings().len(), 1);
    }
}

#[test]
fn how_long_a_credential_lives_is_told_or_refused() {
    let site = Site::start("tencent");
    site.run("credential create --expires 30d").expect(0);
    site.run("credential list --expiring 31d").expect(10);
    site.run("credential list --expiring 29d").expect(0);
    site.run("credential create --expires 2020-01-01T00:00:00Z").refuses("--expires is past");
    site.run("credential create --expires 1s").refuses("InvalidParameter");
    let site = Site::start("alibaba");
    site.run("credential create --expires 30d").refuses("gives every credential 1y");
    assert_eq!(site.at_cloud(), 0);
    site.run("credential create --expires 1y").expect(0);
    site.run("credential list --expiring 366d").expect(10);
}

#[test]
fn at_the_limit_both_are_told_and_how_to_free_a_place() {
    for name in CLOUDS {
        let site = Site::start(name);
        let ((first, _), (second, _)) = (site.create(), site.create());
        site.run(&format!("credential disable {second}")).expect(0);
        let before = site.enrolment();
        let told = site.run("credential create").expect(1);
        for part in [
            "there are as many as there may be",
            &format!("{first}  Enabled, made 2"),
            &format!("{second}  Disabled, made 2"),
            &format!("scim-guard credential delete {first}"),
        ] {
            assert!(told.err.contains(part), "{part}: {told:#?}");
        }
        assert_eq!((told.out, site.enrolment()), (String::new(), before));
    }
}

#[test]
fn a_key_that_does_not_fit_is_told_with_what_it_takes() {
    for (name, permission) in [
        ("tencent", "organization:CreateSCIMCredential"),
        ("alibaba", "cloudsso:CreateSCIMServerCredential"),
    ] {
        let site = Site::start(name);
        site.write("id", "AKIDreader");
        site.run("credential list").expect(0);
        site.run("credential create").refuses(&format!("it needs {permission}"));
        site.write("id", "AKIDoperator");
        site.write("key", "another-access-key-secret");
        for line in ["credential list", "credential create", "credential disable c-1"] {
            let told = site.run(line).expect(1);
            assert!(told.err.contains("our key is refused: "), "{told:#?}");
            assert!(told.err.contains("the key is file:id with file:key"), "{told:#?}");
            assert!(!told.err.contains("another-access-key"), "{told:#?}");
        }
        assert_eq!((site.at_cloud(), site.enrolment()), (0, String::new()));
    }
}

#[test]
fn a_create_without_an_answer_leads_to_the_one_to_discard() {
    for name in CLOUDS {
        let site = Site::start(name);
        let (kept, token) = site.create();
        site.lead_to(relay(site.cloud.admin, |request| !creates(request)));
        let told = site.run("credential create").expect(1);
        assert!(told.out.is_empty() && told.err.contains("that is unknown"), "{told:#?}");
        let lost = site.standings().into_iter().find(|(.., cloud)| cloud == "not_enrolled");
        let (lost, ..) = lost.expect("it was made");
        let advice = format!("scim-guard credential create --discard {lost}");
        assert!(told.err.contains(&advice) && !told.err.contains(&kept), "{told:#?}");

        site.lead_to(site.cloud.admin);
        site.run(&format!("credential create --discard {kept}")).refuses("is enrolled");
        let made = site.json(&format!("credential create --discard {lost}"));
        let new = made["credential_id"].as_str().expect("an id");
        let mut standing: Vec<_> = site.standings().into_iter().map(|(id, ..)| id).collect();
        standing.sort();
        let mut wanted = [kept, new.to_owned()];
        wanted.sort();
        assert_eq!(standing, wanted);
        assert_eq!(site.reason(&token), "allowed");
        assert_eq!(site.reason(made["secret"].as_str().expect("a token")), "allowed");
        site.run(&format!("credential delete {new}")).expect(0);
        let gone = site.run(&format!("credential create --discard {lost}")).expect(0);
        assert!(gone.err.contains("was gone already"), "{gone:#?}");
    }
}

#[test]
fn a_token_that_cannot_be_recorded_is_not_shown() {
    for name in CLOUDS {
        let site = Site::start(name);
        site.write("enrolment.yaml", "- broken");
        site.run("credential create").refuses("nothing was made");
        assert_eq!((site.at_cloud(), &*site.enrolment()), (0, "- broken"));

        site.write("enrolment.yaml", "[]\n");
        let file = site.path("enrolment.yaml");
        let spoil = move |request: &Seen| {
            if creates(request) {
                fs::write(&file, "- broken").expect("written");
            }
            true
        };
        site.lead_to(relay(site.cloud.admin, spoil));
        site.run("credential create").refuses("is deleted again");
        assert_eq!((site.at_cloud(), &*site.enrolment()), (0, "- broken"));

        let file = site.path("enrolment.yaml");
        let spoil_all = move |request: &Seen| {
            if creates(request) {
                fs::write(&file, "- broken").expect("written");
            }
            !request.head.contains("DeleteSCIM")
        };
        site.write("enrolment.yaml", "[]\n");
        site.lead_to(relay(site.cloud.admin, spoil_all));
        site.run("credential create").refuses("scim-guard credential create --discard ");
    }
}

/// Against a stub of the cloud: what it takes to hear these is not at our command.
#[test]
fn a_wrong_clock_and_too_many_questions_are_told_with_their_measure() {
    let site = Site::start("tencent");
    let cloud = |code: &str, head: &str| {
        let body = format!(
            r#"{{"Response":{{"Error":{{"Code":"{code}","Message":"no"}},"RequestId":"r-1"}}}}"#
        );
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        Backend::start(move |_| Act::Answer(answer.clone().into_bytes()))
    };
    let told = |stub: &Backend| {
        site.lead_to(stub.address);
        let told = site.run("credential create").expect(1);
        assert_eq!((told.out, site.enrolment()), (String::new(), String::new()));
        assert_eq!(stub.seen().len(), 1, "nothing is tried twice");
        told.err
    };
    let clock = told(&cloud("AuthFailure.SignatureExpire", "Date: Thu, 01 Jan 2099 00:00:00 GMT"));
    assert!(clock.contains(" ms behind the cloud's\nset this machine's clock"), "{clock}");
    let throttled = told(&cloud("RequestLimitExceeded", "Retry-After: 3"));
    assert!(
        throttled.contains("asked too often: again in 3000 ms\nnothing was done"),
        "{throttled}"
    );
}

#[test]
fn what_only_an_admin_api_can_do_is_told() {
    let site = Site::start("tencent");
    site.write("rows.yaml", "[]\n");
    for (line, told) in [
        ("credential rotate c-1", "rotate needs an admin API"),
        ("credential import rows.yaml", "import needs an admin API"),
        ("credential list --tenant z-9", "and not z-9"),
        ("source accept --yes", "ask tencent themselves"),
        ("audit", "ask tencent themselves"),
    ] {
        site.run(line).refuses(told);
    }
    let told = site.run(&format!(
        "credential list --admin-url http://{} --admin-token file:gone",
        site.cloud.admin
    ));
    told.refuses("gone");
    let nobody = Reserved::at(Ipv4Addr::LOCALHOST);
    site.lead_to(nobody.address);
    site.run("credential list").refuses("credentials.tencent.endpoint in proxy.yaml");
}

#[test]
fn check_reads_the_files_of_a_cloud() {
    for name in CLOUDS {
        let site = Site::start(name);
        let told = site.run("check").expect(0);
        assert!(told.err.contains("enrolment.yaml is not there yet"), "{told:#?}");
        site.create();
        let told = site.json("check");
        assert_eq!(told[format!("credentials.{name}.enrolment")], 1, "{told}");
        assert!(told[name].as_str().is_some_and(|it| it.starts_with(TENANT)), "{told}");
        site.write("enrolment.yaml", "- broken");
        fs::remove_file(site.path("key")).expect("removed");
        let told = site.run("check").expect(1);
        for part in ["enrolment.yaml: line 1", "key: cannot be read"] {
            assert!(told.err.contains(part), "{part}: {told:#?}");
        }
    }
}

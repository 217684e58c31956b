//! An edge between a client and a backend that remembers, and the guard it asks, each where the
//! kernel had room.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::Value;

use super::edge::{Edge, Places, replace_once};
use super::recorder::Recorder;
use crate::client::{Answer, Client, Request};
use crate::guard::Guard;
use crate::port::Reserved;
use crate::process::{Process, until};

pub struct Rig {
    pub edge: &'static Edge,
    pub backend: Recorder,
    places: Places,
    _reserved: [Reserved; 3],
    _process: Process,
}

/// The tokens that the cases speak of, as `{good}` and so on.
pub struct Tokens {
    pub good_id: String,
    named: Vec<(&'static str, String)>,
}

impl Rig {
    /// Starts the edge while nobody listens where it looks for the guard, and waits until it says so.
    pub fn start(edge: &'static Edge) -> Self {
        let backend = Recorder::start();
        let reserved = [(); 3].map(|()| Reserved::at(Ipv4Addr::LOCALHOST));
        let [edge_place, guard, relay] = reserved.each_ref().map(|it| it.address);
        let places = Places { edge: edge_place, guard, relay, backend: backend.address };
        let mut process = edge.start(&places);
        process.until("an edge that asks its guard", |_| {
            let answer = Client::new(places.edge).send(&users());
            answer.is_ok_and(|answer| answer.status == edge.away.status).then_some(())
        });
        assert!(backend.take().is_empty(), "{}: open without a guard", edge.name);
        Self { edge, backend, places, _reserved: reserved, _process: process }
    }

    /// Starts the guard on the config shipped beside the edge's, with a second tenant, an open path,
    /// and leave for credentials that last a second.
    pub fn guard(&self) -> Guard {
        let config = replace_once(
            &self.config(),
            "      path: /scim/v2\n",
            "      path: /scim/v2\n      open: [ServiceProviderConfig]\n    - tenant: z-other\n      \
             path: /other/v2\n",
        );
        let config = replace_once(
            &config,
            "sqlite:./data/admin.db ",
            "sqlite:admin.db\n  limits: { credentials_per_tenant: 9, expire_min: 1s }",
        );
        let config = replace_once(&config, "listen: 127.0.0.1:8081\n", "listen: 127.0.0.1:0\n");
        let config = replace_once(&config, "listen: 127.0.0.1:9090 ", "listen: 127.0.0.1:0 ");
        Guard::start_deciding(&config)
    }

    /// Starts a guard that has never seen a table: nobody listens where its source should be, for
    /// as long as the other value is kept.
    pub fn unloaded_guard(&self) -> (Guard, Reserved) {
        let nobody = Reserved::at(Ipv4Addr::LOCALHOST);
        let config = self.config();
        let (faces, _source) = config.split_once("\ncredentials:").expect("a section of its own");
        let guard = Guard::start_unloaded(&format!(
            "{faces}
credentials: {{ source: native, native: {{ url: \"http://{}\", token: file:token }} }}
ops: {{ listen: 127.0.0.1:0 }}
",
            nobody.address
        ));
        (guard, nobody)
    }

    /// Takes connections in the guard's place and says nothing.
    pub fn hanging_guard(&self) -> TcpListener {
        TcpListener::bind(self.places.guard).expect("it was kept free")
    }

    pub fn client(&self) -> Client {
        Client::new(self.places.edge)
    }

    /// The shipped config, at the test's address and without the time in which load balancers look
    /// away from a guard that is about to go.
    fn config(&self) -> String {
        let text = self.edge.shipped("proxy.yaml");
        let address = format!("address: {} ", self.places.guard);
        let text = replace_once(&text, "address: 127.0.0.1:8082 ", &address);
        replace_once(&text, "\nproxy:\n", "\nproxy:\n  drain: { delay: 0s, deadline: 5s }\n")
    }
}

impl Tokens {
    pub fn make(guard: &Guard, rig: &Rig) -> Self {
        let create = |tenant: &str, more: &[&str]| {
            let command = ["credential", "create", "--tenant", tenant, "--output", "json"];
            let told = guard.run(&[&command, more].concat(), "");
            let made: Value = serde_json::from_str(&told).expect("JSON");
            ["credential_id", "secret"].map(|key| made[key].as_str().expect("a text").to_owned())
        };
        let [good_id, good] = create(TENANT, &[]);
        let [disabled_id, disabled] = create(TENANT, &[]);
        guard.run(&["credential", "disable", &disabled_id, "--tenant", TENANT, "--wait"], "");
        let [_, expired] = create(TENANT, &["--expires", "1s"]);
        let [_, foreign] = create("z-other", &[]);
        let unknown = good.replace("scimg_", "scimg-");
        let mut client = rig.client();
        until("an expired credential", || {
            let answer = ask(&mut client, &users().bearer(&expired));
            (answer.status == 401).then_some(())
        });
        rig.backend.take();
        let named = [("{good}", good), ("{disabled}", disabled), ("{expired}", expired)];
        let named = named.into_iter().chain([("{foreign}", foreign), ("{unknown}", unknown)]);
        Self { good_id, named: named.collect() }
    }

    pub fn fill(&self, text: &str) -> String {
        let fill = |text: String, (name, token): &(_, String)| text.replace(*name, token);
        self.named.iter().fold(text.to_owned(), fill)
    }
}

pub fn users() -> Request {
    Request::new("GET", "/scim/v2/Users").header("Host", HOST)
}

pub fn ask(client: &mut Client, request: &Request) -> Answer {
    client.send(request).expect("an answer")
}

pub const TENANT: &str = "z-demo00000000";
pub const HOST: &str = "scim.example.com";

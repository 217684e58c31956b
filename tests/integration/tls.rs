//! TLS on listeners: who is let in, what they are shown, and files that change meanwhile.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
};
use rustix::process::Signal;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::backend::{Backend, ok};
use crate::guard::{Guard, Setup, TOKEN, command, wait_for};
use crate::http::{Client, connect};

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, rcgen::KeyPair>);

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {:016x}", fastrand::u64(..));
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("signed"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn pair(&self, names: &[&str]) -> Pair {
        self.pair_until(names, 2099)
    }

    fn pair_until(&self, names: &[&str], year: i32) -> Pair {
        let (uris, names): (Vec<&str>, Vec<&str>) =
            names.iter().copied().partition(|name| name.contains("://"));
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        for uri in uris {
            let uri = uri.try_into().expect("a URI");
            parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
        }
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("signed");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts servers with certificates from here.
    pub fn client(&self) -> TlsClient {
        TlsClient { config: self.config(&[&TLS13, &TLS12], None), name: "localhost".to_owned() }
    }

    fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Pair>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![pair.der()], key).expect("a pair")
            }
        }
    }
}

impl Pair {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

#[derive(Clone)]
pub struct TlsClient {
    config: ClientConfig,
    name: String,
}

impl TlsClient {
    /// The same client with this certificate to show.
    pub fn showing(self, authority: &Authority, pair: &Pair) -> Self {
        Self { config: authority.config(&[&TLS13], Some(pair)), ..self }
    }

    fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// A connection whose handshake is done, as far as the client can tell.
    fn try_connect(&self, address: SocketAddr) -> io::Result<Client<Tls>> {
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        let mut session =
            ClientConnection::new(Arc::new(self.config.clone()), name).expect("a session");
        let mut stream = connect(address);
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Client::over(StreamOwned::new(session, stream)))
    }

    pub fn connect(&self, address: SocketAddr) -> Client<Tls> {
        self.try_connect(address).expect("a handshake")
    }

    /// What the client sees when there is no connection to be had.
    pub fn refusal(&self, address: SocketAddr) -> String {
        let outcome = self.try_connect(address).and_then(|mut client| {
            client.stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")?;
            client.stream.read(&mut [0; 1])
        });
        outcome.expect_err("it is refused").to_string()
    }

    /// The certificate that a new connection is shown.
    pub fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        shown(&self.connect(address))
    }
}

fn shown(client: &Client<Tls>) -> CertificateDer<'static> {
    client.stream.conn.peer_certificates().expect("shown")[0].clone()
}

pub const PAIR: &str = ", tls: { certificate: tls.crt, private_key: tls.key }";

/// A guard's setup with this pair on its listener.
pub fn setup(backend: &Backend, pair: &Pair) -> Setup {
    Setup::new(backend.address)
        .listener(PAIR)
        .file("tls.crt", &pair.certificate)
        .file("tls.key", &pair.key)
}

fn install(guard: &Guard, pair: &Pair) {
    guard.replace("tls.crt", &pair.certificate);
    guard.replace("tls.key", &pair.key);
}

fn rejects(guard: &Guard, cause: &str) -> f64 {
    guard.metric(&format!("scim_guard_http_rejects_total{{cause=\"{cause}\",face=\"proxy\"}}"))
}

#[test]
fn serves_over_both_versions_and_tells_the_backend() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let guard = setup(&backend, &authority.pair(&["localhost"])).start();
    for (version, expected) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut config = authority.config(&[version], None);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = TlsClient { config, ..authority.client() };
        let mut first = client.connect(guard.proxy);
        for _ in 0..2 {
            assert_eq!(first.get("/Users", TOKEN).status, 200, "{expected:?}");
        }
        assert_eq!(first.get("/Users", "unknown").status, 401);
        let session = &first.stream.conn;
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let mut second = client.connect(guard.proxy);
        assert_eq!(second.get("/Users", TOKEN).status, 200);
        assert_eq!(second.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }
    for seen in backend.seen() {
        assert_eq!(seen.headers("x-forwarded-proto"), ["https"]);
    }
    let listening = guard.diagnostics();
    assert!(listening.contains("\"tls\":true"), "{listening}");
}

#[test]
fn bodies_pass_whole_and_who_does_not_read_is_cut() {
    let body = "x".repeat(8 << 20);
    let answer = body.clone();
    let backend = Backend::start(move |_| ok(&answer));
    let authority = Authority::new();
    let guard = setup(&backend, &authority.pair(&["localhost"]))
        .proxy("limits: { send_idle_timeout: 300ms }")
        .start();
    let mut client = authority.client().connect(guard.proxy);
    let upload = &body[..4 << 20];
    let head = format!(
        "POST /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        upload.len()
    );
    let reply = client.send(&(head + upload));
    assert!(reply.whole && reply.body == body.as_bytes());
    assert!(backend.only().body == upload.as_bytes());

    client.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the cut", || rejects(&guard, "send_idle_timeout") == 1.0);
}

#[test]
fn handshakes_that_fail_are_counted_and_harm_nobody() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let guard = setup(&backend, &authority.pair(&["localhost"]))
        .proxy("limits: { header_timeout: 300ms }")
        .start();

    let told = Authority::new().client().refusal(guard.proxy);
    assert!(told.contains("UnknownIssuer"), "{told}");
    wait_for("the count", || rejects(&guard, "tls") == 1.0);

    // Clear text.
    let mut plain = guard.client();
    plain.write(b"GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = plain.rest();
    assert!(rest.len() < 16 && !rest.starts_with(b"HTTP"), "at most an alert: {rest:?}");
    wait_for("the count", || rejects(&guard, "tls") == 2.0);

    // No protocol in common.
    let mut config = authority.config(&[&TLS13], None);
    config.alpn_protocols = vec![b"h3".to_vec()];
    let told = TlsClient { config, ..authority.client() }.refusal(guard.proxy);
    assert!(told.contains("NoApplicationProtocol"), "{told}");
    wait_for("the count", || rejects(&guard, "tls") == 3.0);

    // Silence, from the beginning and in the midst of a record.
    let mut stopping = guard.client();
    stopping.write(&[22, 3, 1, 2, 0]);
    assert!(guard.client().rest().is_empty());
    assert!(stopping.rest().is_empty());
    wait_for("the count", || rejects(&guard, "header_timeout") == 2.0);

    // A look at the port.
    drop(connect(guard.proxy));
    assert_eq!(authority.client().connect(guard.proxy).get("/Users", TOKEN).status, 200);
    wait_for("their ends", || guard.metric("scim_guard_connections{face=\"proxy\"}") == 0.0);
    assert_eq!(rejects(&guard, "tls"), 3.0);
}

#[test]
fn clients_that_speak_http_2_are_answered_so() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let guard = setup(&backend, &authority.pair(&["localhost"])).start();
    let mut config = authority.config(&[&TLS13], None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = TlsClient { config, ..authority.client() }.connect(guard.proxy);
    assert_eq!(client.stream.conn.alpn_protocol(), Some(b"h2".as_slice()));
}

#[test]
fn clients_are_shown_the_certificate_of_the_name_they_ask_for() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let first = authority.pair(&["127.0.0.1", "a.test"]);
    let second = authority.pair(&["b.test", "*.c.test"]);
    let list = ", tls: [{ certificate: tls.crt, private_key: tls.key }, { certificate: b.crt, private_key: b.key }]";
    let guard = setup(&backend, &first)
        .file("b.crt", &second.certificate)
        .file("b.key", &second.key)
        .listener(list)
        .start();
    for (name, pair) in [
        ("a.test", &first),
        ("b.test", &second),
        ("B.Test", &second),
        ("x.c.test", &second),
        ("127.0.0.1", &first),
    ] {
        assert!(authority.client().name(name).shown(guard.proxy) == pair.der(), "{name}");
    }
    let told = authority.client().name("d.test").refusal(guard.proxy);
    assert!(told.contains("a.test"), "the first one is shown: {told}");
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let (clients, others) = (Authority::new(), Authority::new());
    for required in [true, false] {
        let client_auth = if required { "required" } else { "optional" };
        let guard = setup(&backend, &authority.pair(&["localhost"]))
            .listener(&format!(
                ", tls: {{ certificate: tls.crt, private_key: tls.key, client_ca: ca.crt, client_auth: {client_auth} }}"
            ))
            .file("ca.crt", &clients.pem())
            .start();
        for (round, version) in [&TLS12, &TLS13].into_iter().enumerate() {
            let client = |identity: Option<&Pair>| TlsClient {
                config: authority.config(&[version], identity),
                ..authority.client()
            };
            let known = client(Some(&clients.pair(&["idp.test"])));
            for _ in 0..2 {
                let mut connection = known.connect(guard.proxy);
                assert_eq!(connection.get("/Users", TOKEN).status, 200);
                assert_eq!(connection.get("/Users", "unknown").status, 401, "the token decides");
                let kind = connection.stream.conn.handshake_kind();
                assert_ne!(kind, Some(HandshakeKind::Resumed), "each is verified");
            }
            let expired = clients.pair_until(&["idp.test"], 2001);
            for bad in [others.pair(&["idp.test"]), expired] {
                let told = client(Some(&bad)).refusal(guard.proxy);
                assert!(told.contains("alert"), "{told}");
            }
            let count = 2.0 * (round + 1) as f64;
            wait_for("the count", || rejects(&guard, "client_certificate") == count);
            if required {
                let told = client(None).refusal(guard.proxy);
                assert!(told.contains("alert"), "{told}");
                wait_for("the count", || rejects(&guard, "tls") == (round + 1) as f64);
            } else {
                assert_eq!(client(None).connect(guard.proxy).get("/Users", TOKEN).status, 200);
            }
        }
        if required {
            // Another authority takes over.
            let known = TlsClient {
                config: authority.config(&[&TLS13], Some(&clients.pair(&["idp.test"]))),
                ..authority.client()
            };
            let mut kept = known.connect(guard.proxy);
            assert_eq!(kept.get("/Users", TOKEN).status, 200);
            guard.replace("ca.crt", &others.pem());
            guard.wait_for_diagnostic("the files have changed and are in force");
            let told = known.refusal(guard.proxy);
            assert!(told.contains("alert"), "{told}");
            assert_eq!(kept.get("/Users", TOKEN).status, 200, "it was verified when it began");
        }
    }
}

#[test]
fn changed_files_count_for_new_connections_and_old_ones_go_on() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let (old, new) = (authority.pair(&["localhost"]), authority.pair_until(&["localhost"], 2098));
    // As Kubernetes has it: the files are links through a link that is swapped.
    let listener = ", tls: { certificate: secret/tls.crt, private_key: secret/tls.key }";
    let setup = Setup::new(backend.address).listener(listener);
    let folder = tempfile::tempdir().expect("a folder");
    setup.write(folder.path());
    let secret = folder.path().join("secret");
    for (version, pair) in [("v1", &old), ("v2", &new)] {
        fs::create_dir_all(secret.join(version)).expect("made");
        fs::write(secret.join(version).join("tls.crt"), &pair.certificate).expect("written");
        fs::write(secret.join(version).join("tls.key"), &pair.key).expect("written");
    }
    symlink("v1", secret.join("..data")).expect("linked");
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), secret.join(name)).expect("linked");
    }
    let guard = Guard::start_in(folder);
    let client = authority.client();
    let mut kept = client.connect(guard.proxy);
    assert!(shown(&kept) == old.der());
    let expiry = "scim_guard_tls_certificate_expiry_timestamp_seconds{listener=\"127.0.0.1:0\"}";
    assert_eq!(guard.metric(expiry), 4_070_908_800.0, "2099-01-01");

    symlink("v2", secret.join("..tmp")).expect("linked");
    fs::rename(secret.join("..tmp"), secret.join("..data")).expect("swapped");
    wait_for("the new certificate", || client.shown(guard.proxy) == new.der());
    assert_eq!(kept.get("/Users", TOKEN).status, 200);
    wait_for("the metric", || guard.metric(expiry) == 4_039_372_800.0);
}

#[test]
fn files_that_do_not_fit_keep_the_old_ones_and_say_so_once() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let (old, new) = (authority.pair(&["localhost"]), authority.pair(&["localhost"]));
    let guard = setup(&backend, &old).start();
    let client = authority.client();
    let mut kept = client.connect(guard.proxy);
    let good = "scim_guard_tls_last_renewal_successful{listener=\"127.0.0.1:0\"}";
    assert_eq!(guard.metric(good), 1.0);
    guard.replace("tls.crt", &new.certificate);
    guard.wait_for_diagnostic("tls.key: is not the key of the first certificate in");
    wait_for("the metric", || guard.metric(good) == 0.0);
    assert!(client.shown(guard.proxy) == old.der());
    guard.replace("tls.key", &new.key[..100]);
    guard.wait_for_diagnostic("tls.key: is broken or cut short");
    fs::remove_file(guard.path("tls.key")).expect("removed");
    guard.wait_for_diagnostic("tls.key: No such file");
    assert!(client.shown(guard.proxy) == old.der());
    assert_eq!(kept.get("/Users", TOKEN).status, 200);
    install(&guard, &new);
    wait_for("the new certificate", || client.shown(guard.proxy) == new.der());
    wait_for("the metric", || guard.metric(good) == 1.0);
    let told = guard.diagnostics();
    assert_eq!(told.matches("No such file").count(), 1, "{told}");
    assert_eq!(told.matches("the last good files stay in force").count(), 3, "{told}");
}

#[test]
fn a_reload_adds_changes_and_removes_tls_or_changes_nothing() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let (old, new) = (authority.pair(&["localhost"]), authority.pair(&["localhost"]));
    let secured = setup(&backend, &old).file("new.crt", &new.certificate);
    let plain = Setup::new(backend.address);
    let guard = Setup { files: secured.files.clone(), ..Setup::new(backend.address) }.start();
    let reload = |config: &str, told: &str| {
        let before = guard.diagnostics().matches(told).count();
        guard.replace("proxy.yaml", config);
        guard.signal(Signal::HUP);
        wait_for(told, || guard.diagnostics().matches(told).count() > before);
    };
    let client = authority.client();
    let mut kept = guard.client();
    assert_eq!(kept.get("/Users", TOKEN).status, 200);

    reload(&secured.config(), "config reloaded");
    assert_eq!(kept.get("/Users", TOKEN).status, 200, "in clear text, as it began");
    assert!(client.shown(guard.proxy) == old.der());

    let bad = secured.config().replace("tls.crt", "new.crt");
    let bad = bad.replace("listeners: [", "listeners: [{ address: '[::1]:0' }, ");
    reload(&bad, "config not reloaded");
    let told = guard.diagnostics();
    assert!(told.contains("proxy.listeners[1].tls.private_key: "), "{told}");
    assert_eq!(guard.addresses().len(), 1, "nothing was bound");
    assert!(client.shown(guard.proxy) == old.der());

    guard.replace("new.key", &new.key);
    let changed = secured.config().replace("tls.crt", "new.crt").replace("tls.key", "new.key");
    reload(&changed, "config reloaded");
    assert!(client.shown(guard.proxy) == new.der());
    assert_eq!(guard.metric("scim_guard_config_last_reload_successful"), 1.0);

    reload(&plain.config(), "config reloaded");
    assert_eq!(guard.get("/Users", TOKEN).status, 200);
    let metrics = guard.ops("/metrics").text();
    assert!(!metrics.contains("tls_certificate_expiry"), "nobody asks for it any more");
}

#[test]
fn a_drain_says_farewell_and_waits_for_no_handshake() {
    let backend = Backend::start(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        ok("late")
    });
    let authority = Authority::new();
    let mut guard = setup(&backend, &authority.pair(&["localhost"])).start();
    let client = authority.client();
    let (mut idle, mut busy) = (client.connect(guard.proxy), client.connect(guard.proxy));
    let fresh = client.connect(guard.proxy);
    let silent = guard.client();
    assert_eq!(idle.get("/Users", TOKEN).text(), "late");
    busy.write(
        format!("GET /scim/v2/Users HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
            .as_bytes(),
    );
    wait_for("the request", || guard.metric("scim_guard_requests_in_flight") == 1.0);
    guard.signal(Signal::TERM);
    let reply = busy.reply(false).expect("an answer");
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("late", Some("close")));
    // The end of each is meant: a client of TLS takes another one for an attack.
    for client in [idle, busy, fresh] {
        assert!(client.rest().is_empty());
    }
    assert!(silent.rest().is_empty());
    assert_eq!(guard.wait().code(), Some(0));
}

#[test]
fn files_that_do_not_fit_are_told_by_check_and_refused_at_start() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let (pair, other) = (authority.pair(&["localhost"]), authority.pair(&["localhost"]));
    let folder = tempfile::tempdir().expect("a folder");
    setup(&backend, &Pair { key: other.key, ..pair }).write(folder.path());
    for arguments in [["check"], ["serve"]] {
        let ended = command(folder.path(), &arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("proxy.listeners[0].tls.private_key: "), "{told}");
        assert!(told.contains("put the two files of one pair there"), "{told}");
    }
}

#[test]
fn an_expired_certificate_is_shown_with_a_warning() {
    let (backend, authority) = (Backend::friendly(), Authority::new());
    let guard = setup(&backend, &authority.pair_until(&["localhost"], 2001)).start();
    guard.wait_for_diagnostic("tls.crt: has ended at 2001-01-01T00:00:00Z: renew it");
    let told = authority.client().refusal(guard.proxy);
    assert!(told.contains("Expired") || told.contains("expired"), "{told}");
    let checked = command(guard.folder.path(), &["check"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{told}");
    assert!(told.contains("warning: proxy.listeners[0].tls.certificate: "), "{told}");
}

//! Certificates that have ended, do not fit, or are not believed.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::Fault;
use crate::relay::Relay;
use crate::scene::{Fleet, Plan, Scene};

pub const FAULTS: [Fault; 4] = [
    Fault {
        name: "server certificate near its end",
        alert: Some("ScimGuardCertificateExpiresIn7Days"),
        also: &[],
        stops_okta: false,
        play: near_its_end,
    },
    Fault {
        name: "server certificate expired",
        alert: Some("ScimGuardCertificateExpired"),
        also: &[],
        stops_okta: true,
        play: expired,
    },
    Fault {
        name: "key that does not fit its certificate",
        alert: Some("ScimGuardCertificateUnusable"),
        also: &[],
        stops_okta: false,
        play: does_not_fit,
    },
    Fault {
        name: "client CA swapped",
        alert: Some("ScimGuardClientCertificateRefused"),
        also: &[],
        stops_okta: true,
        play: client_ca_swapped,
    },
];

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {:016x}", fastrand::u64(..));
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("signed"))
    }

    /// For this host, ending after a time.
    fn pair(&self, life: Duration) -> Pair {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is past");
        parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + life;
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("signed");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts servers with certificates from here, and shows this one.
    fn client(&self, shown: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).expect("a certificate");
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        match shown {
            None => builder.with_no_client_auth(),
            Some(Pair { certificate, key }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                let chain = vec![certificate.expect("a certificate")];
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        }
    }
}

/// Proxies that show a certificate to clients of an authority.
fn plan(shown: &Pair, client: ClientConfig, more: &str) -> Plan {
    let files = [("tls.crt", &shown.certificate), ("tls.key", &shown.key)];
    Plan {
        listener: format!(", tls: {{ certificate: tls.crt, private_key: tls.key{more} }}"),
        files: files.map(|(name, content)| (name.to_owned(), content.clone())).to_vec(),
        way: Box::new(move |proxy: SocketAddr| Relay::secured(proxy, client.clone()).address),
        ..Plan::default()
    }
}

fn install(fleet: &Fleet, pair: &Pair) {
    for proxy in &fleet.proxies {
        proxy.write("tls.crt", &pair.certificate);
        proxy.write("tls.key", &pair.key);
    }
}

fn near_its_end(scene: &Scene<'_>) {
    let authority = Authority::new();
    let fleet = scene.fleet(&plan(&authority.pair(YEAR), authority.client(None), ""));
    scene.strike();
    install(&fleet, &authority.pair(3 * DAY));
    scene.wait_for_alert();
    install(&fleet, &authority.pair(YEAR));
    scene.wait_for("the end of the alert", || {
        let firing = "ALERTS{alertname=\"ScimGuardCertificateExpiresIn7Days\"";
        scene.alerts.ask(&format!("{firing},fault=\"{}\"}}", scene.fault.name)).is_empty()
    });
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// All who check it stay away, which no proxy can help.
fn expired(scene: &Scene<'_>) {
    let authority = Authority::new();
    let fleet = scene.fleet(&plan(&authority.pair(YEAR), authority.client(None), ""));
    let life = Duration::from_secs(10);
    let installed = Instant::now();
    install(&fleet, &authority.pair(life));
    fleet.wait_for_work(scene);
    // It tells whole seconds.
    scene.wait_for("its end", || installed.elapsed() + Duration::from_secs(1) > life);
    scene.strike();
    scene.wait_for_alert();
    install(&fleet, &authority.pair(YEAR));
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

/// The old pair stays in force.
fn does_not_fit(scene: &Scene<'_>) {
    let authority = Authority::new();
    let fleet = scene.fleet(&plan(&authority.pair(YEAR), authority.client(None), ""));
    scene.strike();
    let new = authority.pair(YEAR);
    fleet.proxies.iter().for_each(|proxy| proxy.write("tls.crt", &new.certificate));
    scene.wait_for_alert();
    fleet.wait_for_work(scene);
    install(&fleet, &new);
    for proxy in &fleet.proxies {
        scene.wait_for("the new pair", || proxy.diagnostics().contains("and are in force"));
    }
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

fn client_ca_swapped(scene: &Scene<'_>) {
    let (authority, clients) = (Authority::new(), Authority::new());
    let client = authority.client(Some(&clients.pair(YEAR)));
    let more = ", client_ca: ca.crt, client_auth: required";
    let mut plan = plan(&authority.pair(YEAR), client, more);
    plan.files.push(("ca.crt".to_owned(), clients.0.pem()));
    let fleet = scene.fleet(&plan);
    let write = |pem: &str| fleet.proxies.iter().for_each(|proxy| proxy.write("ca.crt", pem));
    write(&Authority::new().0.pem());
    for proxy in &fleet.proxies {
        scene.wait_for("the new authority", || proxy.diagnostics().contains("and are in force"));
    }
    scene.strike();
    scene.wait_for_alert();
    write(&clients.0.pem());
    fleet.wait_for_work(scene);
    fleet.close(scene);
}

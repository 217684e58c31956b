//! TLS on a listener: the certificate that fits the name a client asks for, clients' certificates,
//! and files that are read anew while connections go on. It watches no file: who does says when.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use super::certificate::{NamedFile, load_pair, read_authorities};
use super::connection::HTTP_2;
use super::stream::Socket;
use crate::clock::Timestamp;
use crate::config::tls::{self as config, ClientAuth};

/// How the connections of one listener are secured. Shared by its acceptor, which uses it, and by
/// who watches [the files](config::Tls::files), which calls [`Tls::renew`].
pub struct Tls {
    /// Where it stands in the config, such as `proxy.listeners[0].tls`.
    place: String,
    config: config::Tls,
    sessions: Arc<dyn StoresServerSessions>,
    current: ArcSwap<Material>,
    /// What keeps the files from counting.
    fault: Mutex<Option<String>>,
}

/// What was made of the files at one time. Replaced as a whole.
struct Material {
    server: Arc<ServerConfig>,
    /// When each certificate ends.
    ends: Vec<Timestamp>,
}

impl Tls {
    /// Reads the files. Fails with all that is wrong with them: key, file and mend.
    pub fn load(config: &config::Tls, place: &str) -> Result<Self, Vec<String>> {
        let sessions: Arc<dyn StoresServerSessions> = match config.client_auth() {
            None => ServerSessionMemoryCache::new(SESSIONS),
            // A resumed session brings its client's identity back without looking whether the
            // certificate has ended or the authorities have changed.
            Some(_) => Arc::new(NoServerSessionStorage {}),
        };
        let material = Material::load(config, place, &sessions)?;
        Ok(Self {
            place: place.to_owned(),
            config: config.clone(),
            sessions,
            current: ArcSwap::from_pointee(material),
            fault: Mutex::default(),
        })
    }

    /// Reads the files again. If they are good, connections from now on are met with them; if not,
    /// the last good ones stay, and that is logged once. Whether they are good.
    pub fn renew(&self) -> bool {
        let loaded = Material::load(&self.config, &self.place, &self.sessions);
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(material) => {
                self.current.store(Arc::new(material));
                *known = None;
                tracing::info!("{}: the files have changed and are in force", self.place);
                true
            }
            Err(faults) => {
                let fault = faults.join("; ");
                if known.as_ref() != Some(&fault) {
                    tracing::error!("{fault}: the last good files stay in force");
                }
                *known = Some(fault);
                false
            }
        }
    }

    /// When the first of the certificates ends.
    pub fn expiry(&self) -> Option<Timestamp> {
        self.current.load().ends.iter().min().copied()
    }

    /// The certificates that have ended, in words. They are shown to clients all the same: some
    /// may not mind, and none would be served without.
    pub fn expired(&self, now: Timestamp) -> Vec<String> {
        let material = self.current.load();
        let entries = self.config.places(&self.place).zip(&material.ends);
        let expired = entries.filter(|(_, end)| **end <= now);
        let words = expired.map(|((place, it), end)| {
            let file = it.certificate.display();
            format!("{place}.certificate: {file}: has ended at {end}: renew it")
        });
        words.collect()
    }

    /// The server's side of a handshake.
    pub(super) async fn accept(&self, stream: Socket) -> io::Result<TlsStream<Socket>> {
        let server = Arc::clone(&self.current.load().server);
        TlsAcceptor::from(server).accept(stream).await
    }
}

/// Sessions that can be resumed, one to two kilobytes each.
const SESSIONS: usize = 4096;

impl Material {
    fn load(
        config: &config::Tls,
        place: &str,
        sessions: &Arc<dyn StoresServerSessions>,
    ) -> Result<Self, Vec<String>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut faults = Vec::new();
        let (mut keys, mut ends) = (Vec::new(), Vec::new());
        for (place, entry) in config.places(place) {
            let certificate = NamedFile::new(&place, "certificate", &entry.certificate);
            let private_key = NamedFile::new(&place, "private_key", &entry.private_key);
            match load_pair(&certificate, &private_key, &provider) {
                Ok((key, end)) => {
                    keys.push(Arc::new(key));
                    ends.push(end);
                }
                Err(told) => faults.extend(told),
            }
        }
        let verifier = match config.client_auth() {
            None => WebPkiClientVerifier::no_client_auth(),
            Some((file, client_auth)) => {
                // In a list, all entries say the same.
                let (place, _) = config.places(place).next().expect("one says so");
                verifier(file, client_auth, &provider).unwrap_or_else(|what| {
                    faults.push(NamedFile::new(&place, "client_ca", file).fault(&what));
                    WebPkiClientVerifier::no_client_auth()
                })
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName(keys)));
        server.alpn_protocols = vec![HTTP_2.to_vec(), b"http/1.1".to_vec()];
        // All suites are strong; scanners expect that the server has a say.
        server.ignore_client_order = true;
        server.session_storage = Arc::clone(sessions);
        if !sessions.can_cache() {
            server.send_tls13_tickets = 0;
        }
        Ok(Self { server: Arc::new(server), ends })
    }
}

fn verifier(
    file: &Path,
    client_auth: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = read_authorities(file)?;
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    let builder = match client_auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| error.to_string())
}

/// The certificate whose names have the one that the client asks for, else the first.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().find(|it| is_for(it, &name)));
        named.or(self.0.first()).cloned()
    }
}

fn is_for(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = pair.end_entity_cert().ok().and_then(|it| EndEntityCert::try_from(it).ok());
    parsed.is_some_and(|it| it.verify_is_valid_for_subject_name(name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.0.path().join(name), content).expect("written");
        }

        fn config(&self, client_auth: Option<ClientAuth>) -> config::Tls {
            let path = |name: &str| self.0.path().join(name);
            let certificate = config::Certificate {
                certificate: path("tls.crt"),
                private_key: path("tls.key"),
                client_ca: client_auth.map(|_| path("ca.crt")),
                client_auth,
            };
            config::Tls { certificates: vec![certificate] }
        }

        fn load(&self, client_auth: Option<ClientAuth>) -> Result<Tls, String> {
            Tls::load(&self.config(client_auth), "tls").map_err(|faults| faults.join("\n"))
        }
    }

    /// A pair in PEM that ends in this year.
    fn pair(year: i32) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(vec![]).expect("no names");
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = parameters.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn files_that_do_not_fit_are_told_with_their_key_and_mend() {
        let ((certificate, key), (other, other_key)) = (pair(2099), pair(2099));
        let foreign = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let kind = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (certificate, key, authorities, told) in [
            ("", key.as_str(), other.as_str(), "tls.crt: holds no certificate: write it as PEM"),
            (&certificate[..99], &key, &other, "tls.crt: is broken or cut short"),
            (foreign, &key, &other, "tls.crt: its first part is no X.509 certificate"),
            (&certificate, "", &other, "tls.key: holds no private key: write it as PEM"),
            (&certificate, &key[..99], &other, "tls.key: is broken or cut short"),
            (&certificate, kind, &other, "tls.key: is of a kind that is not known"),
            (&certificate, &other_key, &other, "tls.key: is not the key of the first certificate"),
            (&certificate, &key, "", "ca.crt: holds no certificate"),
            (&certificate, &key, foreign, "ca.crt: has a part that is no X.509"),
        ] {
            let files = Files::new();
            files.write("tls.crt", certificate);
            files.write("tls.key", key);
            files.write("ca.crt", authorities);
            let faults = files.load(Some(ClientAuth::Required)).err().unwrap_or_default();
            assert!(faults.contains(told) && !faults.contains('\n'), "{told}: {faults}");
            assert!(faults.starts_with("tls."), "{faults}");
        }
        let faults = Files::new().load(Some(ClientAuth::Optional)).err().unwrap_or_default();
        assert_eq!(faults.matches("No such file").count(), 3, "{faults}");
    }

    #[test]
    fn what_is_read_anew_counts_only_if_it_is_good() {
        let files = Files::new();
        let install = |(certificate, key): &(String, String)| {
            files.write("tls.crt", certificate);
            files.write("tls.key", key);
        };
        install(&pair(2098));
        let tls = files.load(None).expect("good");
        let expiry = || tls.expiry().expect("one").to_string();
        assert_eq!(expiry(), "2098-01-01T00:00:00Z");
        let next = pair(2099);
        files.write("tls.crt", &next.0);
        assert!(!tls.renew());
        assert_eq!(expiry(), "2098-01-01T00:00:00Z");
        install(&next);
        assert!(tls.renew());
        assert_eq!(expiry(), "2099-01-01T00:00:00Z");
    }

    #[test]
    fn an_expired_certificate_is_told_and_used() {
        let files = Files::new();
        let (certificate, key) = pair(2001);
        files.write("tls.crt", &certificate);
        files.write("tls.key", &key);
        let tls = files.load(None).expect("good");
        let at = |text| Timestamp::parse(text).expect("a time");
        assert_eq!(tls.expired(at("2000-12-31T23:59:59Z")), [""; 0]);
        let told = tls.expired(at("2001-01-01T00:00:00Z")).join("\n");
        assert!(told.contains("tls.crt: has ended at 2001-01-01T00:00:00Z"), "{told}");
    }

    /// A resumed session would outlive a change of the authorities, and the client's certificate.
    #[test]
    fn sessions_of_clients_with_certificates_are_not_resumed() {
        let files = Files::new();
        let (certificate, key) = pair(2099);
        files.write("tls.crt", &certificate);
        files.write("tls.key", &key);
        files.write("ca.crt", &certificate);
        let resumes = |client_auth| {
            let tls = files.load(client_auth).expect("good");
            let server = Arc::clone(&tls.current.load().server);
            let cached = server.session_storage.can_cache() && server.send_tls13_tickets > 0;
            cached || server.ticketer.enabled()
        };
        assert!(resumes(None));
        assert!(!resumes(Some(ClientAuth::Optional)));
        assert!(!resumes(Some(ClientAuth::Required)));
    }
}

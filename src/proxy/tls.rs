//! TLS to a backend: whom we believe, what we show, and files that are read anew while requests go
//! on. What was verified by older files is not used for another request.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use crate::config;
use crate::server::{NamedFile, load_pair, read_authorities};
use crate::source::watch::WatchedFiles;

/// How connections to an upstream are secured.
pub struct Tls {
    /// Where the upstream stands in the config.
    place: String,
    config: config::Upstream,
    current: ArcSwap<Material>,
    watched: Mutex<Watched>,
}

/// What was made of the files at one time.
pub struct Material {
    pub client: Arc<ClientConfig>,
    /// Raised with each change; connections remember by which they were made.
    pub generation: u64,
}

struct Watched {
    files: WatchedFiles,
    /// What keeps them from counting.
    fault: Option<String>,
}

impl Tls {
    /// Reads the files. Fails with all that is wrong with them: key, file and mend.
    pub fn load(config: &config::Upstream, place: &str) -> Result<Self, Vec<String>> {
        // Looked at first: what changes while we read is a change.
        let files = WatchedFiles::new(config.tls_files());
        let client = client(config, place)?;
        Ok(Self {
            place: place.to_owned(),
            config: config.clone(),
            current: ArcSwap::from_pointee(Material { client, generation: 1 }),
            watched: Mutex::new(Watched { files, fault: None }),
        })
    }

    pub fn current(&self) -> arc_swap::Guard<Arc<Material>> {
        self.current.load()
    }

    /// Looks whether the files have changed. If they do not fit, the last good ones stay, and that
    /// is logged once.
    pub fn refresh(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !watched.files.have_changed() {
            return;
        }
        match client(&self.config, &self.place) {
            Ok(client) => {
                let generation = self.current().generation + 1;
                self.current.store(Arc::new(Material { client, generation }));
                watched.fault = None;
                tracing::info!("{}: the files of TLS have changed and are in force", self.place);
            }
            Err(faults) => {
                let fault = Some(faults.join("; "));
                if watched.fault != fault {
                    let told = fault.as_deref().unwrap_or_default();
                    tracing::error!("{told}: the last good files stay in force");
                }
                watched.fault = fault;
            }
        }
    }
}

fn client(config: &config::Upstream, place: &str) -> Result<Arc<ClientConfig>, Vec<String>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut faults = Vec::new();
    let roots = roots(config, place).unwrap_or_else(|what| {
        faults.push(what);
        RootCertStore::empty()
    });
    let pair = match (&config.client_certificate, &config.client_key) {
        (Some(certificate), Some(key)) => {
            let certificate = NamedFile::new(place, "client_certificate", certificate);
            let key = NamedFile::new(place, "client_key", key);
            load_pair(&certificate, &key, &provider).map_err(|told| faults.extend(told)).ok()
        }
        _ => None,
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has suites for both")
        .with_root_certificates(roots);
    let mut client = match pair {
        Some((pair, _)) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(client))
}

fn roots(config: &config::Upstream, place: &str) -> Result<RootCertStore, String> {
    if let Some(path) = &config.ca {
        let authorities = read_authorities(path);
        return authorities.map_err(|what| NamedFile::new(place, "ca", path).fault(&what));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(format!(
            "{place}.ca: this system has no certificates to trust: install its package \
             ca-certificates, or name a file with the backend's authority here"
        ));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A self-signed pair in PEM.
    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![]).expect("no names");
        (parameters.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    fn load(folder: &Path) -> Result<Tls, String> {
        let file = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "{{ url: 'https://b/', ca: '{}', client_certificate: '{}', client_key: '{}' }}",
            file("ca"),
            file("certificate"),
            file("key")
        );
        let config = serde_saphyr::from_str(&text).expect("valid");
        Tls::load(&config, "upstream").map_err(|faults| faults.join("\n"))
    }

    #[test]
    fn files_that_do_not_fit_are_told_with_their_key_and_mend() {
        let ((certificate, key), (other, other_key)) = (pair(), pair());
        for (authorities, certificate, key, told) in [
            ("", &*certificate, &*key, "upstream.ca: /ca: holds no certificate: write it as PEM"),
            (&other[..99], &certificate, &key, "upstream.ca: /ca: is broken or cut short"),
            (&other, "", &key, "upstream.client_certificate: /certificate: holds no certificate"),
            (&other, &certificate, "", "upstream.client_key: /key: holds no private key"),
            (&other, &certificate, &other_key, "upstream.client_key: /key: is not the key of"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("ca"), authorities).expect("written");
            fs::write(folder.path().join("certificate"), certificate).expect("written");
            fs::write(folder.path().join("key"), key).expect("written");
            let faults = load(folder.path()).err().unwrap_or_default();
            let faults = faults.replace(&folder.path().display().to_string(), "");
            assert!(faults.contains(told) && !faults.contains('\n'), "{told}: {faults}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let faults = load(folder.path()).err().unwrap_or_default();
        assert_eq!(faults.matches("No such file").count(), 3, "{faults}");
    }

    #[test]
    fn changed_files_begin_a_generation_and_bad_ones_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let install = |(certificate, key): &(String, String)| {
            fs::write(folder.path().join("certificate"), certificate).expect("written");
            fs::write(folder.path().join("key"), key).expect("written");
        };
        let (first, second) = (pair(), pair());
        fs::write(folder.path().join("ca"), &first.0).expect("written");
        install(&first);
        let tls = load(folder.path()).expect("good");
        let generation = || {
            tls.refresh(); // Sees the change,
            tls.refresh(); // and that it has come to rest.
            tls.current().generation
        };
        assert_eq!(generation(), 1);
        install(&(second.0.clone(), first.1));
        assert_eq!(generation(), 1);
        install(&second);
        assert_eq!(generation(), 2);
        assert_eq!(generation(), 2);
    }
}

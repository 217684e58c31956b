//! What is read of certificates and keys. No text here repeats what stands in a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use webpki::EndEntityCert;

use crate::clock::Timestamp;
use crate::config::open_regular;

/// A client's certificate, which an authority that we trust has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub der: CertificateDer<'static>,
    /// Its subject alternative names, as they stand there.
    pub dns_names: Vec<String>,
    pub uris: Vec<String>,
    /// When it ends.
    pub end: Option<Timestamp>,
}

impl ClientCertificate {
    /// Of a certificate that was verified.
    pub(super) fn read(der: &CertificateDer<'_>) -> Self {
        let names = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        let parsed = EndEntityCert::try_from(der);
        let (dns_names, uris) = parsed.as_ref().map_or_else(
            |_| Default::default(),
            |it| (names(&mut it.valid_dns_names()), names(&mut it.valid_uri_names())),
        );
        Self { der: der.clone().into_owned(), dns_names, uris, end: end(der) }
    }

    /// Whether it is for this name: a URI as it stands, a DNS name in any case.
    pub fn is_for(&self, name: &str) -> bool {
        self.uris.iter().any(|uri| uri == name)
            || self.dns_names.iter().any(|dns| dns.eq_ignore_ascii_case(name))
    }
}

/// A file that the config names.
pub struct NamedFile<'a> {
    /// Where in the config, such as `proxy.listeners[0].tls.certificate`.
    place: String,
    path: &'a Path,
}

impl<'a> NamedFile<'a> {
    pub fn new(place: &str, key: &str, path: &'a Path) -> Self {
        Self { place: format!("{place}.{key}"), path }
    }

    pub fn fault(&self, what: &str) -> String {
        format!("{}: {}: {what}", self.place, self.path.display())
    }
}

/// A certificate with its key, and when it ends. Fails with all that is wrong with the files.
pub fn load_pair(
    certificate: &NamedFile<'_>,
    private_key: &NamedFile<'_>,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Timestamp), Vec<String>> {
    let chain = read_certificates(certificate.path).map_err(|what| certificate.fault(&what));
    let key = read_key(private_key.path).map_err(|what| private_key.fault(&what));
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let end = end(&chain[0]).filter(|_| EndEntityCert::try_from(&chain[0]).is_ok());
    let end = end.ok_or_else(|| vec![certificate.fault("its first part is no X.509 certificate of version 3: put the one that belongs to the key there")])?;
    let signing = provider.key_provider.load_private_key(key).map_err(|_| {
        vec![private_key.fault(
            "is of a kind that is not known here: make one for ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more)",
        )]
    })?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Err(Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            let file = certificate.path.display();
            Err(vec![private_key.fault(&format!(
                "is not the key of the first certificate in {file}: put the two files of one pair there"
            ))])
        }
        _ => Ok((pair, end)),
    }
}

/// The authorities of a PEM file.
pub fn read_authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in read_certificates(path)? {
        roots.add(authority).map_err(|_| "has a part that is no X.509 certificate: take it out")?;
    }
    Ok(roots)
}

/// All certificates of a PEM file.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = read(path).map_err(|error| error.to_string())?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(
            "holds no certificate: write it as PEM, which begins with -----BEGIN CERTIFICATE-----"
                .to_owned(),
        ),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(BROKEN_PEM.to_owned()),
    }
}

/// The private key of a PEM file.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = read(path).map_err(|error| error.to_string())?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "holds no private key: write it as PEM, without a passphrase".to_owned()
        }
        _ => BROKEN_PEM.to_owned(),
    })
}

const BROKEN_PEM: &str = "is broken or cut short: write the whole PEM file anew";

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file: File = open_regular(path)?;
    let mut content = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Some thousand certificates.
const BYTES_MAX: u64 = 16 << 20;

/// When a certificate ends (RFC 5280 section 4.1); `None` if it is none.
fn end(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // Its version, which may be left out, its serial number, algorithm and issuer stand before.
    let version = usize::from(rest.first() == Some(&0xa0));
    for _ in 0..version + 3 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    let time = std::str::from_utf8(time).ok()?;
    let century = match tag {
        UTC_TIME if time < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let text = format!("{century}{time}");
    if text == "99991231235959Z" {
        return Some(Timestamp::from_millis(i64::MAX)); // Never, by section 4.1.2.5.
    }
    let part = |from: usize| text.get(from..from + 2);
    let (year, month, day) = (text.get(..4)?, part(4)?, part(6)?);
    let (hour, minute, second) = (part(8)?, part(10)?, text.get(12..)?);
    Timestamp::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}"))
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The tag and the content of a DER element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ ..0x80 => (short, rest),
        long => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            let length = digits.iter().try_fold(0_usize, |length, digit| {
                length.checked_mul(256)?.checked_add(usize::from(*digit))
            });
            (length?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: Vec<&str>, year: i32) -> rcgen::Certificate {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut parameters = rcgen::CertificateParams::new(names).expect("names");
        let uri = "spiffe://example.com/idp".try_into().expect("a URI");
        parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
        parameters.not_after = rcgen::date_time_ymd(year, 2, 3);
        let key = rcgen::KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("signed")
    }

    #[test]
    fn the_end_is_read_in_both_forms() {
        for year in [1999, 2027, 2049, 2050, 2999] {
            let told = end(certificate(vec![], year).der());
            assert_eq!(told.map(|it| it.to_string()), Some(format!("{year}-02-03T00:00:00Z")));
        }
    }

    #[test]
    fn what_is_cut_has_no_end() {
        let whole = certificate(vec![], 2027);
        for length in 0..whole.der().len() {
            assert_eq!(end(&whole.der()[..length]), None);
        }
    }

    #[test]
    fn the_names_of_a_client_are_read() {
        let certificate = certificate(vec!["idp.example.com", "*.example.org"], 2027);
        let client = ClientCertificate::read(certificate.der());
        assert_eq!(client.dns_names, ["idp.example.com", "*.example.org"]);
        assert_eq!(client.uris, ["spiffe://example.com/idp"]);
        assert_eq!(&client.der, certificate.der());
        assert_eq!(client.end.map(|it| it.to_string()), Some("2027-02-03T00:00:00Z".to_owned()));
        for (name, fits) in [
            ("spiffe://example.com/idp", true),
            ("spiffe://example.com/IDP", false),
            ("spiffe://example.com", false),
            ("IDP.example.com", true),
            ("other.example.org", false),
        ] {
            assert_eq!(client.is_for(name), fits, "{name}");
        }
    }
}

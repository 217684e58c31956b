//! TLS on a listener: which certificates it shows, and whether it asks clients for theirs.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::rebase;

/// Written as one certificate, or as a list of them for several names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The first is for clients that name no other one.
    pub certificates: Vec<Certificate>,
}

/// A certificate with its key. The files are watched; replace each by renaming a whole one over
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A PEM file: the certificate, then those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// A PEM file: the certificate's key, without a passphrase.
    pub private_key: PathBuf,
    /// A PEM file: the authorities whose certificates clients show. The same in all entries of a
    /// list. Clients that are asked for certificates do the whole handshake for each connection.
    /// Default: clients are asked for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Stands beside `client_ca`: `required` ends connections of clients that show no certificate,
    /// `optional` serves them too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    Required,
    Optional,
}

impl Tls {
    /// Whose certificates clients are asked for, if they are.
    pub fn client_auth(&self) -> Option<(&Path, ClientAuth)> {
        let first = self.certificates.first()?;
        Some((first.client_ca.as_deref()?, first.client_auth?))
    }

    /// Each certificate with its path in the config, of which `place` is this one's.
    pub fn places(&self, place: &str) -> impl Iterator<Item = (String, &Certificate)> {
        let alone = self.certificates.len() == 1;
        let path = move |index| if alone { place.to_owned() } else { format!("{place}[{index}]") };
        self.certificates.iter().enumerate().map(move |(index, it)| (path(index), it))
    }

    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter();
        let pairs = pairs.flat_map(|it| [it.certificate.as_path(), &it.private_key]);
        pairs.chain(self.client_auth().map(|(authorities, _)| authorities))
    }

    pub(super) fn rebase(&mut self, directory: &Path) {
        for it in &mut self.certificates {
            rebase(&mut it.certificate, directory);
            rebase(&mut it.private_key, directory);
            it.client_ca.iter_mut().for_each(|path| rebase(path, directory));
        }
    }
}

impl<'de> Deserialize<'de> for Tls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Vec<Certificate>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("certificate and private_key, or a list of such pairs")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let one = Certificate::deserialize(MapAccessDeserializer::new(map))?;
                Ok(vec![one])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(seq))
            }
        }

        let certificates = deserializer.deserialize_any(OneOrMany)?;
        Ok(Self { certificates })
    }
}

impl Serialize for Tls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.certificates.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl JsonSchema for Tls {
    fn schema_name() -> Cow<'static, str> {
        "Tls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Certificate>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::{Fault, Node};
    use super::*;

    fn decoded(text: &str) -> (Option<Tls>, Vec<String>) {
        let decoded = Node::parse(text).expect("YAML").decode();
        (decoded.value, decoded.faults.iter().map(Fault::to_string).collect())
    }

    #[test]
    fn one_or_many_are_printed_as_they_were_written() {
        for (text, count) in [
            ("certificate: a\nprivate_key: b\nclient_ca: c\nclient_auth: optional\n", 1),
            ("- certificate: a\n  private_key: b\n- certificate: c\n  private_key: d\n", 2),
        ] {
            let (tls, faults) = decoded(text);
            assert_eq!(faults, [""; 0]);
            let tls = tls.expect("valid");
            assert_eq!(tls.certificates.len(), count);
            let printed = serde_saphyr::to_string(&tls).expect("plain data");
            assert_eq!(decoded(&printed).0, Some(tls), "{printed}");
        }
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let told = |text| decoded(text).1.join("\n");
        assert!(
            told("x").contains("write certificate and private_key, or a list"),
            "{}",
            told("x")
        );
        let text = "- certificate: a\n  private_key: b\n- certificate: c\n  privat_key: d\n";
        let told_in_list = told(text);
        assert!(
            told_in_list
                .contains("line 4, [1].privat_key: unknown key: did you mean `private_key`?"),
            "{told_in_list}"
        );
        let text = "certificate: a\nprivate_key: b\nclient_auth: maybe\n";
        assert!(told(text).contains("line 3, client_auth: "), "{}", told(text));
    }
}

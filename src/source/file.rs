//! The `file` source and the deny file: YAML lists for people, JSON lines for many. A file is
//! taken whole or not at all.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Listing;
use crate::clock::Timestamp;
use crate::config::value::text_value;
use crate::config::yaml::{Fault, Node};
use crate::credential::{Credential, CredentialId, Expiry, Status, TenantId, TokenDigest};

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    JsonLines,
}

impl Format {
    pub fn of(path: &std::path::Path) -> Self {
        match path.extension() {
            Some(extension) if extension == "jsonl" => Self::JsonLines,
            _ => Self::Yaml,
        }
    }
}

/// Understands the credential file, and remembers of it what a cut could hide.
pub struct CredentialReader {
    format: Format,
    /// Credentials and tokens that are disabled by what is in force.
    disabled: HashSet<(TenantId, CredentialId)>,
    disabled_digests: HashSet<TokenDigest>,
    /// Whether what is in force ended with a line's end; and what was read last.
    ends_line: (bool, bool),
}

impl CredentialReader {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            disabled: HashSet::new(),
            disabled_digests: HashSet::new(),
            ends_line: (false, false),
        }
    }

    /// All rows, or all that is wrong with them.
    pub fn read(&mut self, content: &[u8]) -> Result<Listing, Faults> {
        let rows = self.read_rows(content)?;
        Ok(rows.iter().map(Row::credential).collect())
    }

    /// All rows with what people call them.
    pub fn read_labelled(&mut self, content: &[u8]) -> Result<Vec<(Credential, String)>, Faults> {
        let labelled = |row: Row| (row.credential(), row.label.unwrap_or_default());
        Ok(self.read_rows(content)?.into_iter().map(labelled).collect())
    }

    /// All rows as they stand there.
    pub fn read_rows(&mut self, content: &[u8]) -> Result<Vec<Row>, Faults> {
        self.ends_line.1 = content.ends_with(b"\n");
        if self.ends_line == (true, false) && !content.is_empty() && !content.ends_with(b"]") {
            return Err(Faults::one(
                0,
                "this ends within a line, as a file that was cut: end the line",
            ));
        }
        let rows: Vec<(u64, Row)> = rows(content, self.format)?;
        let mut faults = Vec::new();
        let mut ids = HashMap::new();
        let mut digests = HashMap::new();
        for (index, (line, row)) in rows.iter().enumerate() {
            let told = [
                self.fault_of(row),
                twin(&mut ids, (&row.tenant.0, &row.credential_id.0), *line, "credential_id"),
                twin(&mut digests, &row.digest.0, *line, "digest"),
            ];
            let place = |what| Fault { path: format!("[{index}]"), line: *line, what };
            faults.extend(told.into_iter().flatten().map(place));
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// What was read last is in force now.
    pub fn applied(&mut self, listing: &Listing) {
        self.ends_line.0 = self.ends_line.1;
        let disabled = || listing.iter().filter(|row| row.status == Status::Disabled);
        self.disabled = disabled().map(|row| (row.tenant.clone(), row.id.clone())).collect();
        self.disabled_digests = disabled().map(|row| row.digest).collect();
    }

    fn fault_of(&self, row: &Row) -> Option<String> {
        let text = match (&row.expire_time, row.insecure_no_expiry) {
            (None, false) => {
                "`expire_time` is required (RFC 7644 section 7.4): add it, or insecure_no_expiry: true"
            }
            (Some(_), true) => "has both `expire_time` and insecure_no_expiry: take one out",
            _ if row.digest.0 == TokenDigest::of(b"") => {
                "`digest` is the one of an empty text: the variable that it was made from was not set"
            }
            _ if row.status.is_none() && self.was_disabled(row) => {
                "was Disabled and says nothing about `status` now: write it, should the file be cut"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn was_disabled(&self, row: &Row) -> bool {
        self.disabled_digests.contains(&row.digest.0)
            || self.disabled.contains(&(row.tenant.0.clone(), row.credential_id.0.clone()))
    }
}

/// Notes `key`, and tells if it has been there before.
fn twin<K: std::hash::Hash + Eq>(
    seen: &mut HashMap<K, u64>,
    key: K,
    line: u64,
    name: &str,
) -> Option<String> {
    let other = seen.insert(key, line)?;
    Some(format!("has the same `{name}` as the row at line {other}: change or remove one of them"))
}

/// What the deny file names: it wins over every source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DenyList {
    digests: HashSet<TokenDigest>,
    everywhere: HashSet<CredentialId>,
    in_tenant: HashSet<(TenantId, CredentialId)>,
    /// Whether the file ended where a row can end, and not perhaps within one.
    ends_row: bool,
}

impl DenyList {
    pub fn read(content: &[u8]) -> Result<Self, Faults> {
        let ends_row = matches!(content.last(), Some(b'\n' | b']' | b'}'));
        let mut list = Self { ends_row, ..Self::default() };
        for (line, row) in rows::<Denial>(content, Format::Yaml)? {
            match (row.credential_id, row.tenant, row.digest) {
                (Some(id), None, None) => drop(list.everywhere.insert(id.0)),
                (Some(id), Some(tenant), None) => drop(list.in_tenant.insert((tenant.0, id.0))),
                (None, None, Some(digest)) => drop(list.digests.insert(digest.0)),
                _ => {
                    let what =
                        "must have `credential_id`, perhaps with `tenant`, or `digest` alone";
                    return Err(Faults::one(line, what));
                }
            }
        }
        Ok(list)
    }

    pub fn names_digest(&self, digest: &TokenDigest) -> bool {
        self.digests.contains(digest)
    }

    pub fn names(&self, credential: &Credential) -> bool {
        let here = || (credential.tenant.clone(), credential.id.clone());
        self.digests.contains(&credential.digest)
            || self.everywhere.contains(&credential.id)
            || (!self.in_tenant.is_empty() && self.in_tenant.contains(&here()))
    }

    /// Whether this may be what is left of a file that was cut within a row.
    pub fn may_be_cut(&self, before: &Self) -> bool {
        before.ends_row && !self.ends_row
    }

    /// Both lists' denials together.
    pub fn with(&self, other: &Self) -> Self {
        Self {
            ends_row: self.ends_row,
            digests: self.digests.union(&other.digests).copied().collect(),
            everywhere: self.everywhere.union(&other.everywhere).cloned().collect(),
            in_tenant: self.in_tenant.union(&other.in_tenant).cloned().collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.digests.len() + self.everywhere.len() + self.in_tenant.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All that is wrong with a file.
#[derive(Debug)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    fn one(line: u64, what: &str) -> Self {
        Self(vec![Fault { path: String::new(), line, what: what.to_owned() }])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, rest) = self.0.split_first().expect("made with one at least");
        match rest.len() {
            0 => write!(f, "{first}"),
            more => write!(f, "{first} (and {more} more)"),
        }
    }
}

/// Rows with their lines.
fn rows<T: serde::de::DeserializeOwned>(
    content: &[u8],
    format: Format,
) -> Result<Vec<(u64, T)>, Faults> {
    let text = std::str::from_utf8(content).map_err(|_| Faults::one(0, "this is not UTF-8"))?;
    match format {
        Format::Yaml => yaml_rows(text),
        Format::JsonLines => json_rows(text),
    }
}

fn yaml_rows<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<(u64, T)>, Faults> {
    let document = Node::parse(text).map_err(|fault| Faults(vec![fault]))?;
    if document.is_empty_document() {
        return Err(Faults::one(0, EMPTY));
    }
    let items = document.into_list().ok_or_else(|| Faults::one(1, "this is not a list"))?;
    let mut rows = Vec::with_capacity(items.len());
    let mut faults = Vec::new();
    for item in items {
        let line = item.line();
        let decoded = item.decode();
        match decoded.value {
            Some(row) if decoded.faults.is_empty() => rows.push((line, row)),
            _ => faults.extend(decoded.faults),
        }
    }
    if faults.is_empty() { Ok(rows) } else { Err(Faults(faults)) }
}

fn json_rows<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<(u64, T)>, Faults> {
    if text.trim() == "[]" {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        match serde_json::from_str(text) {
            Ok(row) => rows.push((line, row)),
            Err(_) => faults.extend(json_faults::<T>(line, text)),
        }
    }
    match (faults.is_empty(), rows.is_empty()) {
        (false, _) => Err(Faults(faults)),
        (true, true) => Err(Faults::one(0, EMPTY)),
        (true, false) => Ok(rows),
    }
}

/// What is wrong with a line. YAML reads JSON too, and its faults do not repeat values.
fn json_faults<T: serde::de::DeserializeOwned>(line: u64, text: &str) -> Vec<Fault> {
    let faults = match Node::parse(text) {
        Ok(node) => node.decode::<T>().faults,
        Err(fault) => vec![fault],
    };
    let unclear = || vec![Fault { path: String::new(), line, what: "this is not JSON".to_owned() }];
    let placed = |fault: Fault| Fault { line, ..fault };
    if faults.is_empty() { unclear() } else { faults.into_iter().map(placed).collect() }
}

const EMPTY: &str = "this is empty: write [] if there should be nothing in it";

/// A row of the credential file. Keys are the native API's; those that only inform people are
/// known, and change nothing.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    credential_id: Text<CredentialId>,
    tenant: Text<TenantId>,
    digest: Text<TokenDigest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<RowStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<Text<Timestamp>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    insecure_no_expiry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_type: Option<CredentialType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<Text<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
}

/// What a row tells people beside the credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub create_time: Option<Timestamp>,
    pub label: Option<String>,
    pub hint: Option<String>,
}

impl Row {
    pub fn new(credential: &Credential, about: About) -> Self {
        let expire_time = match credential.expiry {
            Expiry::At(end) => Some(Text(end)),
            Expiry::Never => None,
        };
        Self {
            credential_id: Text(credential.id.clone()),
            tenant: Text(credential.tenant.clone()),
            digest: Text(credential.digest),
            status: Some(credential.status.into()),
            insecure_no_expiry: expire_time.is_none(),
            expire_time,
            credential_type: None,
            create_time: about.create_time.map(Text),
            label: about.label,
            hint: about.hint,
            created_by: None,
        }
    }

    pub fn id(&self) -> &CredentialId {
        &self.credential_id.0
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant.0
    }

    pub fn digest(&self) -> &TokenDigest {
        &self.digest.0
    }

    pub fn is_of(&self, tenant: &TenantId, id: &CredentialId) -> bool {
        self.tenant.0 == *tenant && self.credential_id.0 == *id
    }

    pub fn set_status(&mut self, status: Status) {
        self.status = Some(status.into());
    }

    pub fn about(&self) -> About {
        About {
            create_time: self.create_time.as_ref().map(|time| time.0),
            label: self.label.clone(),
            hint: self.hint.clone(),
        }
    }

    pub fn credential(&self) -> Credential {
        Credential {
            id: self.credential_id.0.clone(),
            tenant: self.tenant.0.clone(),
            digest: self.digest.0,
            status: match self.status {
                Some(RowStatus::Disabled) => Status::Disabled,
                Some(RowStatus::Enabled) | None => Status::Enabled,
            },
            expiry: self.expire_time.as_ref().map_or(Expiry::Never, |time| Expiry::At(time.0)),
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum RowStatus {
    Enabled,
    Disabled,
}

impl From<Status> for RowStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Enabled => Self::Enabled,
            Status::Disabled => Self::Disabled,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum CredentialType {
    BearerToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Denial {
    credential_id: Option<Text<CredentialId>>,
    tenant: Option<Text<TenantId>>,
    digest: Option<Text<TokenDigest>>,
}

/// A value written as text. Its refusal does not repeat what was written: somebody may have put
/// the token where its digest belongs.
#[derive(Clone)]
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

trait Written: Sized {
    const WANTED: &'static str;
    fn read(text: &str) -> Option<Self>;
}

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_value(deserializer, T::WANTED, T::read).map(Self)
    }
}

impl Written for CredentialId {
    const WANTED: &'static str =
        "an id of 1 to 128 of A-Z a-z 0-9 . _ - (quote it if it is a number)";

    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Written for TenantId {
    const WANTED: &'static str = CredentialId::WANTED;

    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Written for TokenDigest {
    const WANTED: &'static str =
        "sha256: and 64 hexadecimal digits, as of printf %s \"$TOKEN\" | sha256sum";

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Written for Timestamp {
    const WANTED: &'static str = "a time with its zone, such as 2027-11-22T00:00:00Z";

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "\
- credential_id: scimcred-1
  tenant: z-1
  digest: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  expire_time: 2027-11-22T00:00:00Z
  status: Disabled
";

    fn read(text: &str) -> Result<Listing, Faults> {
        CredentialReader::new(Format::Yaml).read(text.as_bytes())
    }

    fn check_fault(text: &str, told: &str) {
        let fault = read(text).expect_err(text).to_string();
        assert!(fault.contains(told), "{fault} should tell {told}");
    }

    #[test]
    fn rows_are_read_from_yaml_and_json_lines() {
        let listing = read(ROW).expect("valid");
        assert_eq!(listing[0].digest, TokenDigest::of(b"foo"));
        assert_eq!(listing[0].status, Status::Disabled);
        let json = r#"{"credential_id":"scimcred-1","tenant":"z-1","status":"Disabled","expire_time":"2027-11-22T00:00:00Z","digest":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","label":"Okta"}"#;
        let lines = CredentialReader::new(Format::JsonLines).read(json.as_bytes());
        assert_eq!(lines.expect("valid"), listing);
        for (format, empty) in [(Format::Yaml, "[]\n"), (Format::JsonLines, "[]\n")] {
            assert_eq!(CredentialReader::new(format).read(empty.as_bytes()).expect("valid"), []);
        }
    }

    #[test]
    fn a_row_ends_unless_its_writer_insists() {
        let line = "  expire_time: 2027-11-22T00:00:00Z\n";
        check_fault(&ROW.replace(line, ""), "line 1, [0]: `expire_time` is required");
        let endless = ROW.replace(line, "  insecure_no_expiry: true\n");
        assert_eq!(read(&endless).expect("valid")[0].expiry, Expiry::Never);
        check_fault(&format!("{ROW}  insecure_no_expiry: true\n"), "has both");
    }

    #[test]
    fn faults_are_told_and_values_are_not() {
        check_fault("", "write []");
        check_fault("# nothing\n", "write []");
        check_fault("a: b\n", "not a list");
        check_fault(&ROW.replace("z-1", "z/1"), "line 2, [0].tenant: write an id");
        check_fault(&ROW.replace("00Z", "00"), "write a time with its zone");
        check_fault(&ROW.replace("sha256:2c26", "planted"), "line 3, [0].digest: write sha256:");
        check_fault(&format!("{ROW}{ROW}"), "same `credential_id` as the row at line 1");
        let renamed = ROW.replace("scimcred-1", "scimcred-2");
        check_fault(&format!("{ROW}{renamed}"), "same `digest` as the row at line 1");
        let empty = TokenDigest::of(b"").to_string();
        check_fault(&ROW.replace(&TokenDigest::of(b"foo").to_string(), &empty), "of an empty text");
        for planted in [
            ROW.replace("sha256:", "PLANTED"),
            ROW.replace("Disabled", "PLANTED"),
            ROW.replace("status:", "PLANTED:"),
            format!("{ROW}  insecure_no_expiry: PLANTED\n"),
            format!("{ROW}  PLANTED: x\n"),
            format!("{ROW}  PLANTED: x\n  PLANTED: y\n"),
            format!("{ROW}- PLANTED\n"),
            "PLANTED".to_owned(),
            "{\"PLANTED\": 1, \"status\": \"PLANTED\"}".to_owned(),
        ] {
            for format in [Format::Yaml, Format::JsonLines] {
                let read = CredentialReader::new(format).read(planted.as_bytes());
                let faults = read.expect_err("invalid").0;
                assert!(!format!("{faults:?}").contains("PLANTED"), "{faults:?}");
            }
        }
    }

    /// Every cut within the row is a fault, or has lost nothing but the status.
    #[test]
    fn a_file_cut_inside_a_row_revives_nobody() {
        // With each line as the last one.
        let lines: Vec<&str> = ROW.trim_start_matches("- ").lines().map(str::trim).collect();
        for last in 0..lines.len() {
            let mut lines = lines.clone();
            let moved = lines.remove(last);
            lines.push(moved);
            let row = format!("- {}\n", lines.join("\n  "));
            let mut reader = CredentialReader::new(Format::Yaml);
            let listing = reader.read(row.as_bytes()).expect("valid");
            reader.applied(&listing);
            for length in 0..row.len() {
                // A look at something else in between changes nothing.
                assert!(reader.read(b"[]").is_ok());
                if let Ok(cut) = reader.read(&row.as_bytes()[..length]) {
                    assert_eq!(cut, listing, "cut after {length} bytes of\n{row}");
                }
            }
            let enabled = row.replace("Disabled", "Enabled");
            assert_eq!(reader.read(enabled.as_bytes()).expect("valid")[0].status, Status::Enabled);
        }
    }

    #[test]
    fn the_deny_file_names_credentials_and_digests() {
        let foo = &read(ROW).expect("valid")[0];
        let denies = |text: &str| DenyList::read(text.as_bytes()).expect("valid").names(foo);
        assert!(denies("- credential_id: scimcred-1\n"));
        assert!(denies("- { credential_id: scimcred-1, tenant: z-1 }\n"));
        assert!(!denies("- { credential_id: scimcred-1, tenant: z-2 }\n"));
        assert!(denies(&format!("- digest: {}\n", foo.digest)));
        assert!(!denies("[]\n"));
        for bad in ["", "- tenant: z-1\n", "- {}\n", "- { credential_id: a, digest: b }\n"] {
            assert!(DenyList::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

//! YAML into types, with every fault at once and the line of each. The only file that knows
//! which YAML library we use. It never prints what stands in the text: there may be a secret.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;

/// One thing that is wrong in a file: where, what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `proxy.routes[0].path`; empty for the file as a whole.
    pub path: String,
    /// Counted from 1; 0 if unknown.
    pub line: u64,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.path.as_str()) {
            (0, "") => {}
            (0, path) => write!(f, "{path}: ")?,
            (line, "") => write!(f, "line {line}: ")?,
            (line, path) => write!(f, "line {line}, {path}: ")?,
        }
        f.write_str(&self.what)
    }
}

/// A parsed document that remembers where everything stood.
#[derive(Clone)]
pub struct Node {
    path: String,
    line: u64,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// What a document amounts to when its faulty parts are left out.
pub struct Decoded<T> {
    pub value: Option<T>,
    pub faults: Vec<Fault>,
}

impl Node {
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            with_snippet: false,
            budget: None,
        };
        let raw: Spanned<Raw> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| Fault {
                path: String::new(),
                line: error.location().map_or(0, |location| location.line()),
                what: format!("this is not YAML: {}", discreet(&error.to_string())),
            })?;
        Ok(Self::place(raw, String::new()))
    }

    fn place(raw: Spanned<Raw>, path: String) -> Self {
        let line = raw.referenced.line();
        let kind = match raw.value {
            Raw::Scalar(value) => Kind::Scalar(value),
            Raw::List(items) => Kind::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| Self::place(item, format!("{path}[{index}]")))
                    .collect(),
            ),
            Raw::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| {
                        let child = Self::place(item, join(&path, tellable(&key)));
                        (key, child)
                    })
                    .collect(),
            ),
        };
        Self { path, line, kind }
    }

    pub fn is_empty_document(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Value::Null))
    }

    /// The entries of a list; `None` if this is something else.
    pub fn into_list(self) -> Option<Vec<Node>> {
        match self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    /// The line at which the value under this path stands, or the nearest one around it.
    pub fn line_of(&self, path: &str) -> u64 {
        let deeper = self.children().find(|child| covers(&child.path, path));
        deeper.map_or(self.line, |child| child.line_of(path))
    }

    pub fn line(&self) -> u64 {
        self.line
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Node> + '_> {
        match &self.kind {
            Kind::Scalar(_) => Box::new(std::iter::empty()),
            Kind::List(items) => Box::new(items.iter()),
            Kind::Map(entries) => Box::new(entries.iter().map(|(_, node)| node)),
        }
    }

    /// Decodes again and again, each time without the part that was refused, so that one run
    /// tells every fault.
    pub fn decode<T: DeserializeOwned>(mut self) -> Decoded<T> {
        let mut faults: Vec<Fault> = Vec::new();
        loop {
            let error = match serde_path_to_error::deserialize(self.to_json()) {
                Ok(value) => {
                    faults.sort_by_key(|fault| fault.line);
                    return Decoded { value: Some(value), faults };
                }
                Err(error) => error,
            };
            let complaint = Complaint::of(&error);
            let removed = self.remove(&complaint.place);
            let (path, line) = removed.clone().unwrap_or_else(|| (self.path.clone(), self.line));
            let lacking = complaint.missing.map(|key| join(&path, &key));
            let consequence =
                |told: &Fault| lacking.as_ref().is_some_and(|lacking| covers(lacking, &told.path));
            if !faults.iter().any(consequence) {
                faults.push(Fault { path, line, what: complaint.what });
            }
            if removed.is_none() || faults.len() == FAULTS_MAX {
                faults.sort_by_key(|fault| fault.line);
                return Decoded { value: None, faults };
            }
        }
    }

    /// As serde wants it, without places.
    fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => {
                entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect()
            }
        }
    }

    /// Takes the node at `place` out; its original path and line. `None` if that is the root.
    fn remove(&mut self, place: &[Step]) -> Option<(String, u64)> {
        let (step, deeper) = place.split_first()?;
        let index = match (&self.kind, step) {
            (Kind::List(items), Step::Index(index)) if *index < items.len() => *index,
            (Kind::Map(entries), Step::Key(key)) => entries.iter().position(|(k, _)| k == key)?,
            _ => return None,
        };
        let child = match &mut self.kind {
            Kind::List(items) => &mut items[index],
            Kind::Map(entries) => &mut entries[index].1,
            Kind::Scalar(_) => return None,
        };
        if let Some(removed) = child.remove(deeper) {
            return Some(removed);
        }
        let removed = (child.path.clone(), child.line);
        match &mut self.kind {
            Kind::List(items) => drop(items.remove(index)),
            Kind::Map(entries) => drop(entries.remove(index)),
            Kind::Scalar(_) => {}
        }
        Some(removed)
    }
}

/// Beyond this nobody reads on, and each costs another decoding.
const FAULTS_MAX: usize = 100;

/// Whether `path` is `outer` or lies within it.
pub fn covers(outer: &str, path: &str) -> bool {
    let rest = path.strip_prefix(outer);
    rest.is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

enum Step {
    Index(usize),
    Key(String),
}

/// A complaint of serde's, in our words.
struct Complaint {
    place: Vec<Step>,
    what: String,
    /// The key that was not there.
    missing: Option<String>,
}

impl Complaint {
    fn of(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let mut place: Vec<Step> = error.path().iter().filter_map(step).collect();
        let message = error.inner().to_string();
        if let Some((_, expected)) = message.split_once(", expected ")
            && !message.starts_with("unknown field")
        {
            let wanted = if expected.starts_with("struct") { "keys and values" } else { expected };
            let what = format!("this does not belong here: write {}", wanted.replace('`', ""));
            return Self { place, what, missing: None };
        }
        if let Some((key, known)) = unknown_key(&message) {
            if !matches!(place.last(), Some(Step::Key(last)) if last == key) {
                place.push(Step::Key(key.to_owned()));
            }
            return Self { place, what: unknown_key_text(key, &known), missing: None };
        }
        if let Some(key) = message.strip_prefix("missing field ").map(|key| key.trim_matches('`')) {
            let what = format!("`{key}` is required here and missing: add it");
            return Self { place, what, missing: Some(key.to_owned()) };
        }
        Self { place, what: message, missing: None }
    }
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Takes serde's "unknown field `a`, expected one of `b`, `c`" apart.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`');
    let key = quoted.next()?;
    Some((key, quoted.skip(1).step_by(2).collect()))
}

fn unknown_key_text(key: &str, known: &[&str]) -> String {
    let near = known.iter().filter(|name| strsim::jaro_winkler(key, name) > 0.8);
    let nearest =
        near.max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    match nearest {
        Some(name) => format!("unknown key: did you mean `{name}`?"),
        None => format!("unknown key: known here are {}", known.join(", ")),
    }
}

/// The first line of a message without what it quotes from the text, but for single characters.
fn discreet(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    if line.contains("duplicate") {
        return "a key stands here twice".to_owned();
    }
    let parts = line.split(['`', '\'', '"']).enumerate();
    parts.map(|(index, part)| if index % 2 == 1 && part.len() > 2 { "…" } else { part }).collect()
}

/// A key as it can be told. What does not look like one may be a secret.
fn tellable(key: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-';
    if key.len() <= 32 && key.bytes().all(plain) { key } else { "(a key)" }
}

/// What the parser hands over before paths are known.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(String, Spanned<Raw>)>),
}

impl<'de> serde::Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;

        impl<'de> Visitor<'de> for AnyNode {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list or a mapping")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries: Vec<(String, Spanned<Raw>)> = Vec::new();
                let mut known = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    if !known.insert(key.clone()) {
                        return Err(A::Error::custom("duplicate key"));
                    }
                    entries.push((key, value));
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(AnyNode)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Shelf {
        name: String,
        #[serde(default)]
        books: Vec<Book>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Book {
        title: String,
        #[serde(default)]
        pages: u32,
    }

    fn faults(text: &str) -> Vec<String> {
        match Node::parse(text) {
            Ok(node) => node.decode::<Shelf>().faults.iter().map(Fault::to_string).collect(),
            Err(fault) => vec![fault.to_string()],
        }
    }

    #[test]
    fn a_right_document_has_no_faults() {
        let node = Node::parse("name: a\nbooks: [{ title: b, pages: 3 }]").expect("YAML");
        let decoded = node.decode::<Shelf>();
        assert_eq!(decoded.faults, []);
        let books = vec![Book { title: "b".into(), pages: 3 }];
        assert_eq!(decoded.value, Some(Shelf { name: "a".into(), books }));
    }

    #[test]
    fn every_fault_is_told_once_with_its_place() {
        let text = "\
name: a
color: red
books:
  - title: b
    page: 3
  - pages: -1
    title: c
  - pages: 7
  - title: [d]
";
        assert_eq!(
            faults(text),
            [
                "line 2, color: unknown key: known here are name, books",
                "line 5, books[0].page: unknown key: did you mean `pages`?",
                "line 6, books[1].pages: this does not belong here: write u32",
                "line 8, books[2]: `title` is required here and missing: add it",
                "line 9, books[3].title: this does not belong here: write a string",
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_is_told_by_its_line() {
        let told = faults("name: a\nbooks: [\n").join("");
        assert!(told.contains("this is not YAML"), "{told}");
        let told = faults("name: a\nname: b\n").join("");
        assert!(told.contains("line 2") && told.contains("stands here twice"), "{told}");
    }

    #[test]
    fn a_line_is_found_by_path() {
        let node = Node::parse("name: a\nbooks:\n  - title: b\n").expect("YAML");
        assert_eq!(node.line_of("books[0].title"), 3);
        assert_eq!(node.line_of("books[0].gone"), 3);
        assert_eq!(node.line_of("name"), 1);
    }
}

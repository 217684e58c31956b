//! The config reference, the schema and the admin API's description in `docs/` are what the types
//! say; `UPDATE=1` writes them anew. What pages point to is there: files, headings, tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use scim_guard::config::Config;
use serde_json::Value;

fn check(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, now).expect("written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == now, "docs/{name} is out of date: UPDATE=1 cargo test --test docs");
}

#[test]
fn the_schema_is_the_types() {
    check("proxy.schema.json", &(Config::schema() + "\n"));
}

#[test]
fn the_admin_api_is_as_described() {
    check("openapi.json", &scim_guard::admin::native::openapi());
}

#[test]
fn the_reference_is_the_schema() {
    let schema: Value = serde_json::from_str(&Config::schema()).expect("JSON");
    let mut text = String::from(INTRODUCTION);
    describe(&mut text, &schema, "", &schema);
    check("config.md", &text);
}

const INTRODUCTION: &str = "\
# Config reference

Written from the types by `UPDATE=1 cargo test --test docs`; [proxy.schema.json](proxy.schema.json) is the
same for editors. Unknown keys are errors. Lengths of time are a whole number and a unit out of ms, s, m, h,
d and y (365 days); sizes one out of B, KiB, MiB and GiB. Relative paths start at the config file's folder.
`scim-guard check` tells all faults at once, `scim-guard check --print` shows what is in force.
";

/// The schema behind references.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().or_else(|| {
        let options = schema["anyOf"].as_array()?;
        options.iter().find_map(|option| option["$ref"].as_str())
    });
    match reference.and_then(|it| it.strip_prefix("#/$defs/")) {
        Some(name) => resolve(root, &root["$defs"][name]),
        None => schema,
    }
}

/// A section with a line for each key, then the sections within.
fn describe(text: &mut String, root: &Value, path: &str, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let heading = if path.is_empty() { "top level" } else { path };
    let about = schema["description"].as_str().unwrap_or_default();
    writeln!(text, "\n## {heading}\n\n{}\n", one_line(about)).expect("a string");
    writeln!(text, "| key | value | what it does |\n|---|---|---|").expect("a string");
    let required = schema["required"].as_array();
    let mut sections = Vec::new();
    for (key, property) in properties {
        let is_list = property["items"].is_object();
        let item = if is_list { &property["items"] } else { property };
        let target = resolve(root, item);
        let marks = if is_list { "[]" } else { "" };
        let inner =
            if path.is_empty() { format!("{key}{marks}") } else { format!("{path}.{key}{marks}") };
        let mut value = value(target);
        if target["properties"].is_object() {
            value = "section".to_owned();
            sections.push((inner, target));
        }
        if is_list {
            value = format!("list of: {value}");
        }
        let needed = required.is_some_and(|names| names.iter().any(|name| name == key));
        let mark = if needed { " (required)" } else { "" };
        let own = property["description"].as_str().or(target["description"].as_str());
        let about = one_line(own.unwrap_or_default()).replace('|', "\\|");
        writeln!(text, "| `{key}`{mark} | {} | {about} |", value.replace('|', "\\|"))
            .expect("a string");
    }
    for (inner, target) in sections {
        describe(text, root, &inner, target);
    }
}

fn value(schema: &Value) -> String {
    let names =
        |values: &[Value]| values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    if let Some(values) = schema["enum"].as_array() {
        return names(values);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let constants: Vec<_> = options.iter().map(|option| option["const"].clone()).collect();
        return names(&constants);
    }
    if schema["pattern"].is_string() {
        let wanted = schema["description"].as_str().unwrap_or_default();
        // The introduction has told the units.
        let example =
            wanted.strip_prefix("a whole number and a unit").and(wanted.split(", ").last());
        return example.unwrap_or(wanted).to_owned();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    kind.unwrap_or("one of the above").to_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn links_lead_somewhere() {
    let mut broken = String::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).expect("a page"));
        // Where a link's text ends, its target begins.
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            if let Err(fault) = follow(&page, target) {
                writeln!(broken, "{}: {target}: {fault}", page.display()).expect("a string");
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn the_tests_that_the_security_page_names_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).expect("the page");
    let text = prose(&page);
    let plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    // Nothing else on that page has two underscores.
    let is_test = |span: &&str| span.chars().all(plain) && span.matches('_').count() > 1;
    let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    let exist = tests();
    let missing: Vec<_> = named.iter().filter(|name| !exist.contains(**name)).collect();
    assert!(missing.is_empty(), "named in docs/security.md, and no test: {missing:?}");
    assert!(named.len() > 50, "only {} were found: are they written in another way?", named.len());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root().join(name)));
    pages
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect()
}

/// A page without its fenced blocks, in which nothing is a link.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut text = String::new();
    for line in page.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Follows a link to a file beside the page, and to a heading in it.
fn follow(page: &Path, target: &str) -> Result<(), String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path =
        if file.is_empty() { page.to_owned() } else { page.parent().expect("a file").join(file) };
    if !path.exists() {
        return Err("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let text = prose(&text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let found = headings.map(anchor_of).any(|heading| heading == anchor);
    found.then_some(()).ok_or_else(|| "there is no such heading".to_owned())
}

/// What GitHub calls a heading. None of ours stands twice on a page.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
    text.chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// The names of all tests, the shipped program's too.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["src", "tests"].iter().flat_map(|folder| files(&root().join(folder), "rs")) {
        let text = fs::read_to_string(file).expect("a source file");
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            marked |= line == "#[test]" || line.starts_with("#[tokio::test");
            let name = line.split_once("fn ").and_then(|(_, rest)| rest.split('(').next());
            if let Some(name) = name.filter(|_| marked && !line.starts_with("//")) {
                names.insert(name.to_owned());
                marked = false;
            }
        }
    }
    names
}

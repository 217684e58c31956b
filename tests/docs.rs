//! The config reference, the schema and the admin API's description in `docs/` are what the types
//! say. `UPDATE=1` writes them anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

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

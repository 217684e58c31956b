//! Imports point downward only: a module knows what stands below it, and never a sibling.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// From top to bottom; modules of one line are siblings.
const LAYERS: [&[&str]; 16] = [
    // Tests of the whole.
    &["simulation", "fuzzing"],
    &["cli"],
    &["app"],
    &["proxy", "decision", "admin", "ops"],
    &["record", "identity"],
    &["gate"],
    &["refusal", "route"],
    &["authority"],
    &["source"],
    &["server", "store"],
    &["signature"],
    &["telemetry"],
    &["config"],
    &["credential"],
    &["clock"],
    &["guards"],
];

fn layer(module: &str) -> usize {
    let position = LAYERS.iter().position(|layer| layer.contains(&module));
    position.unwrap_or_else(|| panic!("`{module}` has no layer: give it one"))
}

/// The module that a file of `src` belongs to.
fn module(path: &Path) -> String {
    let first = path.components().next().expect("below src").as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The modules that a text names after `crate::`, also within braces.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = code.collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        assert!(
            !name.is_empty(),
            "write `use crate::` without braces, so that this test can read it"
        );
        found.insert(name);
    }
    found
}

#[test]
fn imports_point_downward() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    for path in files(&source) {
        let relative = path.strip_prefix(&source).expect("below src");
        let own = module(relative);
        if ["lib", "main"].contains(&own.as_str()) {
            continue;
        }
        seen.insert(own.clone());
        for import in imports(&fs::read_to_string(&path).expect("readable")) {
            let macros = import.starts_with(char::is_uppercase);
            assert!(
                macros || import == own || layer(&import) > layer(&own),
                "{} imports `{import}`, which does not stand below `{own}`",
                relative.display()
            );
        }
    }
    let listed: BTreeSet<String> =
        LAYERS.iter().flat_map(|it| it.iter()).map(|it| (*it).to_owned()).collect();
    assert_eq!(seen, listed, "the list of layers is the list of modules");
}

//! What commands print: tables for people, JSON for programs. Colours go to terminals only.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

#[derive(Args)]
pub struct Output {
    /// How to print what was found or done
    #[arg(long = "output", short = 'o', global = true, value_enum, default_value_t = Form::Table)]
    pub form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Table,
    Json,
}

/// What is known of one thing, in the order in which people want to read it.
pub type Facts = Vec<(&'static str, Value)>;

/// How a row of a list is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    /// It is out of use.
    Faint,
    /// Somebody should look at it.
    Warning,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Faint => Style::new().dimmed(),
            Self::Warning => AnsiColor::Yellow.on_default(),
        }
    }
}

impl Output {
    /// Prints what a command found.
    pub fn print(&self, facts: &[(&str, Value)]) {
        match self.form {
            Form::Json => {
                let pairs = facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
                anstream::println!("{}", Value::Object(pairs.collect::<Map<_, _>>()));
            }
            Form::Table => anstream::print!("{}", facts_text(facts)),
        }
    }
}

/// One fact a line.
pub fn facts_text(facts: &[(&str, Value)]) -> String {
    let mut table = bare_table();
    for (key, value) in facts {
        table.add_row([key.replace('_', " "), cell(value)]);
    }
    trimmed(&table, |_| Style::new())
}

/// One thing a line, below the names of its columns.
pub fn list_text(columns: &[&str], rows: &[(Tone, Vec<String>)]) -> String {
    let mut table = bare_table();
    table.add_row(columns.iter().map(|column| column.to_uppercase()));
    for (_, cells) in rows {
        table.add_row(cells);
    }
    trimmed(&table, |line| match line.checked_sub(1) {
        Some(row) => rows[row].0.style(),
        None => Style::new().bold(),
    })
}

/// A value as people read it.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Prints what must not be lost without a word, such as a secret that is shown once.
pub fn print_surely(text: &str) -> Result<(), String> {
    let mut out = anstream::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| format!("standard output takes nothing: {error}"))
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table's lines without blanks at their ends, each in its style.
fn trimmed(table: &Table, style_of: impl Fn(usize) -> Style) -> String {
    let lines = table.to_string();
    let styled = lines.lines().enumerate().map(|(index, line)| {
        let style = style_of(index);
        format!("{style}{}{style:#}\n", line.trim_end())
    });
    styled.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn facts_stand_one_a_line() {
        let facts =
            [("credential_id", json!("c-1")), ("status", json!(401)), ("hint", json!(null))];
        assert_eq!(
            facts_text(&facts),
            " credential id  c-1\n status         401\n hint           -\n"
        );
    }

    #[test]
    fn lists_have_a_header_and_a_tone_for_each_row() {
        let rows = [
            (Tone::Plain, vec!["c-1".to_owned(), "Okta".to_owned()]),
            (Tone::Warning, vec!["c-22".to_owned(), "-".to_owned()]),
        ];
        let text = list_text(&["id", "label"], &rows);
        assert_eq!(plain(&text), " ID    LABEL\n c-1   Okta\n c-22  -\n");
        let coloured = |part: &str| {
            let line = text.lines().find(|line| line.contains(part)).expect("a line");
            plain(line) != line
        };
        assert!(coloured("LABEL") && coloured("c-22") && !coloured("c-1 "));
    }
}

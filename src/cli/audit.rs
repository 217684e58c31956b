//! `audit`: who did what through the admin API.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::api::ApiArgs;
use super::output::{self, Form, Output, Tone};

#[derive(Args)]
pub struct Audit {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: Output,
    /// Only entries after the one with this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
}

pub async fn run(arguments: Audit) -> Result<ExitCode, String> {
    let Audit { api, output, mut after } = arguments;
    let api = api.open()?;
    let mut entries = Vec::new();
    loop {
        let mut page = api.get(&format!("/v1/audit?rows=1000&after={after}")).await?;
        if let Value::Array(found) = page["entries"].take() {
            entries.extend(found);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    match output.form {
        Form::Json => anstream::println!("{}", json!({ "entries": entries })),
        Form::Table => anstream::print!("{}", text_of(&entries)),
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(entries: &[Value]) -> String {
    const COLUMNS: [&str; 7] =
        ["number", "time", "actor", "action", "tenant", "credential_id", "detail"];
    let cells = |entry: &Value| COLUMNS.map(|key| output::cell(&entry[key])).to_vec();
    let rows: Vec<_> = entries.iter().map(|entry| (Tone::Plain, cells(entry))).collect();
    output::list_text(&COLUMNS.map(|key| key.trim_end_matches("_id")), &rows)
}

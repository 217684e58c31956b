//! `store`: copies of what the admin API keeps, and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::api::ApiArgs;
use super::output::Output;

#[derive(Args)]
pub struct Store {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Have the running admin API write a consistent copy of its store to a new file
    Backup {
        /// On the admin API's machine; a relative path starts at the present folder
        path: PathBuf,
    },
}

pub async fn run(arguments: Store) -> Result<ExitCode, String> {
    let Store { api, output, act } = arguments;
    match act {
        Act::Backup { path } => backup(&api, &path, &output).await,
    }
}

async fn backup(api: &ApiArgs, path: &Path, output: &Output) -> Result<ExitCode, String> {
    let path = std::path::absolute(path)
        .map_err(|error| format!("{}: has no absolute form: {error}", path.display()))?;
    let text = path.to_str().ok_or_else(|| format!("{}: is not UTF-8", path.display()))?;
    let api = api.open()?;
    let body = json!({ "path": text });
    let done = api.send_within(BACKUP_TIME, Method::POST, "/v1/backup", Some(&body)).await?;
    let mut facts = vec![("backup", json!(text)), ("written_by", json!(api.url().to_string()))];
    facts.extend(["history", "revision", "mark"].map(|key| (key, done.body[key].clone())));
    output.print(&facts);
    if !api.url().is_loopback() {
        anstream::eprintln!("the file is on the machine of the admin API, not on this one");
    }
    Ok(ExitCode::SUCCESS)
}

/// A large store takes a while.
const BACKUP_TIME: Duration = Duration::from_secs(3600);

//! `store`: copies of what the admin API keeps, and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::api::ApiArgs;
use super::output::{Form, Output};
use super::{ConfigFile, argument, confirm};
use crate::admin::members;
use crate::clock::Clock;
use crate::config::value::StoreRef;
use crate::credential::CredentialId;
use crate::store::restore::{self, Difference, Restored};

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
    /// Put a backup in the place of the store, while no admin API runs on it
    ///
    /// What was disabled, deleted or shortened since the backup is so again afterwards. The store that was
    /// there is kept beside it. Replicas take from the new one only what takes rights away until
    /// `scim-guard source accept`.
    Restore {
        backup: PathBuf,
        /// Put it in place as it is: tokens that were disabled or deleted since the backup live again
        #[arg(long)]
        exact: bool,
        /// The store. Default: `admin.store` in the config
        #[arg(long, value_name = "PATH", value_parser = argument::STORE)]
        store: Option<StoreRef>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(arguments: Store) -> Result<ExitCode, String> {
    let Store { api, output, act } = arguments;
    match act {
        Act::Backup { path } => backup(&api, &path, &output).await,
        Act::Restore { backup, exact, store, yes } => {
            let StoreRef(store) = match store {
                Some(store) => store,
                None => store_of(&api.config)?,
            };
            restore(&backup, &store, exact, yes, &output).await
        }
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

fn store_of(config: &ConfigFile) -> Result<StoreRef, String> {
    let or = "or name the store by --store";
    let loaded = config.load().map_err(|invalid| format!("{invalid}\n{or}"))?;
    let admin = loaded.admin.map(|admin| admin.store);
    admin.ok_or_else(|| format!("{} has no section `admin`: {or}", config.file.display()))
}

async fn restore(
    backup: &Path,
    store: &Path,
    exact: bool,
    yes: bool,
    output: &Output,
) -> Result<ExitCode, String> {
    let question = format!("put {} in the place of {}?", backup.display(), store.display());
    confirm(&question, yes)?;
    let now = Clock::system().now().wall;
    let restored = restore::restore(backup, store, exact, now).await;
    let restored = restored.map_err(|error| format!("{error}\nthe store is as it was"))?;
    let Restored { head, replaced, unreadable, differences, tokens } = restored;
    let position = &head.position;
    let replaced = replaced.map(|path| path.display().to_string());
    let mut facts = vec![
        ("store", json!(store.display().to_string())),
        ("history", json!(position.history.as_str())),
        ("revision", json!(position.revision.0)),
        ("replaced", json!(replaced)),
        ("unreadable", json!(unreadable)),
    ];
    match output.form {
        Form::Json => {
            facts.push(("differences", differences.iter().map(difference).collect()));
            output.print(&facts);
        }
        Form::Table => {
            output.print(&facts);
            differences.iter().for_each(|difference| anstream::println!(" {difference}"));
        }
    }
    if unreadable.is_some() {
        anstream::eprintln!(
            "the replaced store could not be read: what it had disabled or deleted since the backup \
             is not known here"
        );
    }
    let token = members::file_beside(store);
    if !members::opens(&token, &tokens) {
        anstream::eprintln!(
            "{} is not there or not of this store, and no other one is made: unless the config names \
             an operator's token, nobody can log in. Put the one there that was beside the store when \
             the backup was made, or add one to the config, such as `admin.tokens: [{{ name: rescue, \
             role: operator, token: file:rescue.token }}]`, and use `--admin-token file:rescue.token`",
            token.display()
        );
    }
    anstream::eprintln!(
        "next: start the admin API, and run `scim-guard source accept`; until then replicas take \
         from it only what takes rights away"
    );
    Ok(ExitCode::SUCCESS)
}

fn difference(of: &Difference) -> Value {
    json!({
        "tenant": of.tenant.as_str(),
        "credential_id": of.credential.as_ref().map(CredentialId::as_str),
        "carried": of.carried,
        "what": of.to_string(),
    })
}

/// A large store takes a while.
const BACKUP_TIME: Duration = Duration::from_secs(3600);

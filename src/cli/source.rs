//! `source accept`: an operator's word that a store which is not what replicas have followed counts
//! from now on.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::api::{Api, ApiArgs};
use super::confirm;
use super::output::{self, Facts, Form, Output, Tone};

#[derive(Args)]
pub struct Source {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// After the store was replaced or rewound: show what would come back to life, then let it count
    Accept {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(arguments: Source) -> Result<ExitCode, String> {
    let Source { api, output, act: Act::Accept { yes } } = arguments;
    let api = api.open()?;
    let dispute = api.get("/v1/history").await?;
    // For programs the object at the end has it.
    anstream::eprint!("{}", what_it_means(&dispute));
    confirm("let the store's present state count for all replicas?", yes)?;
    let head = accept(&api).await?;
    match output.form {
        Form::Json => {
            let accepted = json!({ "head": head, "ended": dispute });
            anstream::println!("{accepted}");
        }
        Form::Table => anstream::print!("{}", output::facts_text(&facts(&head))),
    }
    Ok(ExitCode::SUCCESS)
}

async fn accept(api: &Api) -> Result<Value, String> {
    Ok(api.send(Method::POST, "/v1/history/accept", Some(&json!({}))).await?.body)
}

fn facts(head: &Value) -> Facts {
    ["history", "revision", "began", "accepts"].map(|key| (key, head[key].clone())).to_vec()
}

/// What an operator should know before saying yes.
fn what_it_means(dispute: &Value) -> String {
    let rows = |key: &str| dispute[key].as_array().map(Vec::as_slice).unwrap_or_default().to_vec();
    let word = |of: &Value, key: &str| output::cell(&of[key]);
    let mut text = format!(
        "history {} at revision {}, begun {}",
        word(dispute, "history"),
        word(dispute, "revision"),
        word(dispute, "began")
    );
    text += match dispute["disputed"].as_bool() {
        Some(true) => ", disputed: replicas take nothing from it but what takes rights away\n",
        _ => {
            ": nobody disputes it, so there is nothing to settle; if replicas followed another store, \
             wait until they have reported\n"
        }
    };
    text += "accepting begins a new history: replicas list anew, and receipts are incomplete until \
             the longest `max_stale` has passed\n";
    let later: Vec<_> = rows("replicas").into_iter().filter(|it| is_ahead(it, dispute)).collect();
    if !later.is_empty() {
        text += "these replicas hold a state that the store does not have:\n";
        let cells = |it: &Value| ["name", "instance", "applied", "heard"].map(|key| word(it, key));
        let lines: Vec<_> = later.iter().map(|it| (Tone::Plain, cells(it).to_vec())).collect();
        text += &output::list_text(&["name", "instance", "applied", "heard"], &lines);
    }
    let back = rows("would_revive");
    if back.is_empty() {
        text += "nothing that a replica holds as revoked would come back to life\n";
    } else {
        text += "these were revoked, as replicas know, and would be good again: disable or delete \
                 them first if they should not be\n";
        let cells = |it: &Value| ["credential_id", "tenant"].map(|key| word(it, key));
        let lines: Vec<_> = back.iter().map(|it| (Tone::Warning, cells(it).to_vec())).collect();
        text += &output::list_text(&["id", "tenant"], &lines);
    }
    text
}

/// Whether a replica's position cannot be one that the store has been at.
fn is_ahead(replica: &Value, head: &Value) -> bool {
    let Some(applied) = replica["applied"].as_str() else { return false };
    let mut parts = applied.splitn(3, ':');
    let (history, revision, mark) = (parts.next(), parts.next(), parts.next());
    let revision: u64 = revision.and_then(|it| it.parse().ok()).unwrap_or_default();
    let here = head["revision"].as_u64().unwrap_or_default();
    let accepted = head["accepts"].as_array().into_iter().flatten();
    if history != head["history"].as_str() {
        return !accepted.into_iter().any(|it| it.as_str() == history);
    }
    revision > here || (revision == here && mark != head["mark"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispute_names_who_is_ahead_and_what_would_come_back() {
        let dispute = json!({
            "history": "aa", "revision": 7, "mark": "m7", "began": "2030-01-01T00:00:00Z",
            "disputed": true, "accepts": ["old"],
            "would_revive": [{ "tenant": "z-1", "credential_id": "c-revoked" }],
            "replicas": [
                { "name": "behind", "applied": "aa:6:m6" },
                { "name": "level", "applied": "aa:7:m7" },
                { "name": "accepted", "applied": "old:99:xx" },
                { "name": "unloaded", "applied": null },
                { "name": "ahead-a", "applied": "aa:8:m8" },
                { "name": "ahead-b", "applied": "aa:7:other" },
                { "name": "ahead-c", "applied": "bb:1:m1" },
            ],
        });
        let text = what_it_means(&dispute);
        assert!(text.contains("disputed: replicas take") && text.contains("c-revoked"), "{text}");
        for name in ["behind", "level", "accepted", "unloaded"] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        assert_eq!(text.matches("ahead-").count(), 3, "{text}");
    }
}

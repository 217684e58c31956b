//! `source accept`: an operator's word that a store which is not what replicas have followed counts
//! from now on.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::api::{Api, ApiArgs};
use super::output::{self, Facts, Form, Output, Tone};
use super::{argument, confirm};
use crate::config::value::Span;

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
        /// Wait until every replica has told what it knows to be revoked, at most this long
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = argument::SPAN)]
        wait: Span,
    },
}

pub async fn run(arguments: Source) -> Result<ExitCode, String> {
    let Source { api, output, act: Act::Accept { yes, wait } } = arguments;
    let api = api.open()?;
    let dispute = settled(&api, wait).await?;
    // For programs the object at the end has it.
    anstream::eprint!("{}{}", what_it_means(&dispute), what_is_missing(&dispute));
    if yes && is_partial(&dispute) {
        anstream::eprintln!("accepting it all the same, as --yes says");
    }
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

/// The dispute, once every replica has told what it holds against the store or the time is over.
async fn settled(api: &Api, wait: Span) -> Result<Value, String> {
    let mut dispute = api.get("/v1/history").await?;
    let begun = Instant::now();
    if is_partial(&dispute) && !wait.0.is_zero() {
        anstream::eprintln!(
            "waiting until every replica has told what it knows to be revoked, at most {wait}"
        );
    }
    while is_partial(&dispute) && begun.elapsed() < wait.0 {
        tokio::time::sleep(PAUSE.min(wait.0.saturating_sub(begun.elapsed()))).await;
        dispute = api.get("/v1/history").await?;
    }
    Ok(dispute)
}

/// Whether there may be replicas that know of more, as far as the API says.
fn is_partial(dispute: &Value) -> bool {
    let all_compared = dispute["uncompared"].as_array().is_some_and(Vec::is_empty);
    !all_compared || dispute["compares_by"].is_string()
}

async fn accept(api: &Api) -> Result<Value, String> {
    Ok(api.send(Method::POST, "/v1/history/accept", Some(&json!({}))).await?.body)
}

fn facts(head: &Value) -> Facts {
    ["history", "revision", "began", "accepts"].map(|key| (key, head[key].clone())).to_vec()
}

/// What an operator should know before saying yes.
fn what_it_means(dispute: &Value) -> String {
    let word = |of: &Value, key: &str| output::cell(&of[key]);
    let mut text = format!(
        "history {} at revision {}, begun {}",
        word(dispute, "history"),
        word(dispute, "revision"),
        word(dispute, "began")
    );
    text += match dispute["disputed"].as_bool() {
        Some(true) => ", disputed: replicas take nothing from it but what takes rights away\n",
        _ => ": nobody disputes it, so there is nothing to settle\n",
    };
    text += "accepting begins a new history: replicas list anew, and receipts are incomplete until \
             the longest `max_stale` has passed\n";
    let mut later = rows(dispute, "replicas").to_vec();
    later.retain(|it| is_ahead(it, dispute));
    if !later.is_empty() {
        text += "these replicas hold a state that the store does not have:\n";
        text += &list(&later, &REPLICA, Tone::Plain);
    }
    let back = rows(dispute, "would_revive");
    if !back.is_empty() {
        text += "these were revoked, as replicas know, and would be good again: disable or delete \
                 them first if they should not be\n";
        text += &list(back, &CREDENTIAL, Tone::Warning);
    } else if is_partial(dispute) {
        text += "nothing is known so far that was revoked and would come back to life\n";
    } else {
        text += "nothing that a replica holds as revoked would come back to life; what was revoked since the \
                 store's state was saved, and no replica has seen, nobody can tell\n";
    }
    text
}

/// Whose knowledge is not in what would come back to life.
fn what_is_missing(dispute: &Value) -> String {
    let mut text = String::new();
    let missing = rows(dispute, "uncompared");
    if !missing.is_empty() {
        text += "warning: these replicas have not compared the store with what they hold: what they \
                 know to be revoked is not in this list\n";
        text += &list(missing, &REPLICA[..2], Tone::Warning);
    } else if dispute["uncompared"].is_null() {
        text += "warning: this admin API does not tell which replicas have compared the store with \
                 what they hold: what they know to be revoked may not be in this list\n";
    }
    if let Some(by) = dispute["compares_by"].as_str() {
        text += &format!(
            "warning: until {by} there may be replicas that have not reported since the admin API \
             began to listen: what they know to be revoked is not in this list\n"
        );
    }
    text
}

fn rows<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Columns, each with the key of its cells.
const REPLICA: [(&str, &str); 4] =
    [("name", "name"), ("instance", "instance"), ("applied", "applied"), ("heard", "heard")];
const CREDENTIAL: [(&str, &str); 2] = [("id", "credential_id"), ("tenant", "tenant")];

fn list(rows: &[Value], columns: &[(&str, &str)], tone: Tone) -> String {
    let (names, keys): (Vec<_>, Vec<_>) = columns.iter().copied().unzip();
    let cells = |row: &Value| keys.iter().map(|key| output::cell(&row[*key])).collect();
    let lines: Vec<_> = rows.iter().map(|row| (tone, cells(row))).collect();
    output::list_text(&names, &lines)
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

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn dispute_at(revision: u64) -> Value {
        json!({
            "history": "aa", "revision": revision, "mark": "m7", "began": "2030-01-01T00:00:00Z",
            "disputed": true, "accepts": ["old"], "would_revive": [], "uncompared": [],
            "compares_by": null, "replicas": [],
        })
    }

    #[test]
    fn a_dispute_is_told_in_full_only_once_all_have_compared() {
        let reassures = |dispute: &Value| what_it_means(dispute).contains("nothing that a replica");
        let all = dispute_at(7);
        assert!(reassures(&all) && !is_partial(&all));
        assert_eq!(what_is_missing(&all), "");
        let late = json!([{ "name": "pod-1", "instance": "i-1" }]);
        for (key, value, told) in [
            ("uncompared", late, "pod-1"),
            ("uncompared", Value::Null, "does not tell"),
            ("compares_by", json!("2030-01-01T00:00:20Z"), "until 2030-01-01T00:00:20Z"),
        ] {
            let mut partial = all.clone();
            partial[key] = value;
            let missing = what_is_missing(&partial);
            assert!(is_partial(&partial) && !reassures(&partial), "{partial}");
            assert!(missing.contains(told) && missing.contains("in this list"), "{missing}");
        }
    }

    #[test]
    fn a_dispute_names_who_is_ahead_and_what_would_come_back() {
        let mut dispute = dispute_at(7);
        dispute["would_revive"] = json!([{ "tenant": "z-1", "credential_id": "c-revoked" }]);
        dispute["replicas"] = json!([
            { "name": "behind", "applied": "aa:6:m6" },
            { "name": "level", "applied": "aa:7:m7" },
            { "name": "accepted", "applied": "old:99:xx" },
            { "name": "unloaded", "applied": null },
            { "name": "ahead-a", "applied": "aa:8:m8" },
            { "name": "ahead-b", "applied": "aa:7:other" },
            { "name": "ahead-c", "applied": "bb:1:m1" },
        ]);
        let text = what_it_means(&dispute);
        assert!(text.contains("disputed: replicas take") && text.contains("c-revoked"), "{text}");
        for name in ["behind", "level", "accepted", "unloaded"] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        assert_eq!(text.matches("ahead-").count(), 3, "{text}");
    }
}

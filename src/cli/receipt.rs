//! Waiting for a receipt: that no replica decides by a state without the change any more.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::api::Api;
use super::argument;
use crate::config::value::Span;

#[derive(Args)]
pub struct Wait {
    /// Wait until every replica knows of it, at most this long: 10s without a time, 0s not at all
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "10s", value_parser = argument::SPAN)]
    wait: Option<Span>,
}

impl Wait {
    /// How long, if at all.
    pub fn time(&self) -> Option<Duration> {
        self.wait.map(|span| span.0).filter(|time| !time.is_zero())
    }

    /// How long for what works at once only where it is known: 10 s if nothing was said.
    pub fn time_by_default(&self) -> Option<Duration> {
        if self.wait.is_none() { Some(DEFAULT) } else { self.time() }
    }
}

const DEFAULT: Duration = Duration::from_secs(10);

/// How far a change has come.
pub struct Receipt {
    pub body: Value,
    took: Duration,
}

impl Receipt {
    /// Waits for the receipt of a revision until it is complete or the time is over.
    pub async fn wait(api: &Api, revision: u64, time: Duration) -> Result<Self, String> {
        let begun = Instant::now();
        let rounds = time.as_secs() / ROUND.as_secs() + 1;
        let mut body = Value::Null;
        for _ in 0..rounds {
            let left = Span(time.saturating_sub(begun.elapsed()).min(ROUND));
            let target = format!("/v1/revisions/{revision}/receipt?wait={left}");
            let asked = api.send_within(left.0 + MARGIN, http::Method::GET, &target, None).await;
            body = asked
                .map_err(|failure| {
                    format!("revision {revision} is made, but has no receipt: {}", failure.text)
                })?
                .body;
            if body["complete"] == true || begun.elapsed() >= time {
                break;
            }
        }
        Ok(Self { body, took: begun.elapsed() })
    }

    pub fn code(&self) -> ExitCode {
        if self.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn is_complete(&self) -> bool {
        self.body["complete"] == true
    }

    /// One line, and one for each replica that is not so far.
    pub fn text(&self) -> String {
        let replicas = self.body["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let state = |of: &Value, state: &str| of["state"] == state;
        let pending: Vec<_> = replicas.iter().filter(|it| state(it, "pending")).collect();
        let expired = replicas.iter().filter(|it| state(it, "expired")).count();
        let (all, done) = (replicas.len(), replicas.len() - pending.len());
        let took = time_text(self.took);
        let mut text = match (self.is_complete(), all) {
            (true, 0) => "no replicas: nobody follows this admin API".to_owned(),
            (true, _) => format!("{done} of {all} replicas, {took}"),
            (false, 0) => format!("incomplete after {took}"),
            (false, _) => format!("incomplete: {done} of {all} replicas after {took}"),
        };
        if expired > 0 {
            text += &format!(" ({expired} not heard for so long that it refuses by itself)");
        }
        for replica in pending {
            let word = |key: &str| replica[key].as_str().unwrap_or("-").to_owned();
            let (name, instance) = (word("name"), word("instance"));
            let until = replica["refuses_by"].as_str();
            let until =
                until.map_or("may accept meanwhile".to_owned(), |by| format!("refuses by {by}"));
            text += &format!("\n  pending  {name} ({instance}), {until}");
        }
        if let Some(by) = self.body["settles_by"].as_str().filter(|_| !self.is_complete()) {
            text += &format!(
                "\n  until {by} there may be replicas of which this store has never heard"
            );
        }
        text
    }
}

/// As people say it: `41 ms`, `10 s`.
fn time_text(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..10_000 => format!("{millis} ms"),
        millis => format!("{} s", millis / 1000),
    }
}

/// The API waits no longer at a time.
const ROUND: Duration = Duration::from_secs(60);
/// For the answer itself.
const MARGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(body: Value, millis: u64) -> String {
        Receipt { body, took: Duration::from_millis(millis) }.text()
    }

    #[test]
    fn a_complete_one_is_a_line() {
        let applied = json!({ "name": "a", "state": "applied" });
        let unloaded = json!({ "name": "b", "state": "unloaded" });
        let body = json!({ "complete": true, "replicas": [applied, unloaded] });
        assert_eq!(text(body, 41), "2 of 2 replicas, 41 ms");
        let none = json!({ "complete": true, "replicas": [] });
        assert_eq!(text(none, 1), "no replicas: nobody follows this admin API");
        let expired = json!({ "complete": true, "replicas": [{ "state": "expired" }] });
        assert_eq!(
            text(expired, 3),
            "1 of 1 replicas, 3 ms (1 not heard for so long that it refuses by itself)"
        );
    }

    #[test]
    fn an_incomplete_one_names_who_is_pending_and_until_when() {
        let body = json!({
            "complete": false,
            "replicas": [
                { "name": "a", "state": "applied" },
                { "name": "b", "instance": "i-2", "state": "pending", "refuses_by": "2030-01-01T00:00:00Z" },
            ],
        });
        assert_eq!(
            text(body, 10_003),
            "incomplete: 1 of 2 replicas after 10 s\n  pending  b (i-2), refuses by 2030-01-01T00:00:00Z"
        );
        let settling =
            json!({ "complete": false, "replicas": [], "settles_by": "2030-01-01T00:00:00Z" });
        assert!(text(settling, 5).starts_with("incomplete after 5 ms\n  until 2030-01-01"));
    }
}

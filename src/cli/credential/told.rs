//! How credentials are told: tables for people, the native API's JSON for programs.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::output::{self, Facts, Form, Output, Tone};
use crate::clock::{Clock, Timestamp};
use crate::config::value::Span;
use crate::credential::CredentialId;

/// Prints a list. Its exit code tells of credentials that are due, if those were asked for.
pub fn list(output: &Output, mut rows: Vec<Value>, expiring: Option<Span>) -> ExitCode {
    if expiring.is_some() {
        rows.sort_by_key(end);
    }
    let due = expiring.is_some() && !rows.is_empty();
    if output.form == Form::Json {
        anstream::println!("{}", json!({ "total": rows.len(), "credentials": rows }));
    } else if rows.is_empty() {
        let what = expiring.map(|time| format!(" that ends within {time}"));
        anstream::println!("no credential{}", what.unwrap_or_default());
    } else {
        anstream::print!("{}", list_text(&rows, Clock::system().now().wall));
    }
    if due { ExitCode::from(DUE) } else { ExitCode::SUCCESS }
}

pub fn one(output: &Output, credential: &Value) {
    match output.form {
        Form::Json => anstream::println!("{credential}"),
        Form::Table => anstream::print!("{}", output::facts_text(&facts(credential))),
    }
}

/// Prints what was made or changed: one JSON object; or facts, and then a secret alone on its line.
pub fn written(output: &Output, body: &Value) -> Result<(), String> {
    let secret = body["secret"].as_str();
    let text = match (output.form, secret) {
        (Form::Json, _) => format!("{body}\n"),
        (Form::Table, None) => output::facts_text(&facts(body)),
        (Form::Table, Some(secret)) => format!("{}\n{secret}\n", output::facts_text(&facts(body))),
    };
    output::print_surely(&text).map_err(|error| {
        format!("{}: it is done, but {error}", body["credential_id"].as_str().unwrap_or("-"))
    })?;
    if secret.is_some() {
        anstream::eprintln!("the token is not kept, and is shown this once");
    }
    Ok(())
}

/// Why a credential is not the one to discard.
pub fn not_discarded(id: &CredentialId) -> String {
    format!(
        "{id} is enrolled, so its token may be in use: --discard is for one whose token was lost; if \
         you mean it, `scim-guard credential delete {id}` comes first"
    )
}

/// What people want to know of a credential; members that an answer lacks are left out.
fn facts(credential: &Value) -> Facts {
    const SHOWN: [(&str, &str); 14] = [
        ("credential_id", "credential_id"),
        ("tenant", "tenant"),
        ("status", "status"),
        ("create_time", "created"),
        ("created_by", "created_by"),
        ("expire_time", "expires"),
        ("label", "label"),
        ("hint", "hint"),
        ("last_used", "last_used"),
        ("origin", "origin"),
        ("cloud", "cloud"),
        ("enrolled", "enrolled"),
        ("strength", "strength"),
        ("revision", "revision"),
    ];
    let there = SHOWN.iter().filter(|(key, _)| credential.get(key).is_some());
    there.map(|(key, name)| (*name, member(credential, key))).collect()
}

/// A member as people are told it.
fn member(credential: &Value, key: &str) -> Value {
    match &credential[key] {
        Value::Null if key == "expire_time" => "never".into(),
        Value::String(standing) if key == "cloud" => match standing.as_str() {
            "listed" => "enrolled".into(),
            "unlisted" => "no longer listed".into(),
            other => other.replace('_', " ").into(),
        },
        value => value.clone(),
    }
}

/// Columns that no row has are left out.
fn list_text(rows: &[Value], now: Timestamp) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("id", "credential_id"),
        ("tenant", "tenant"),
        ("status", "status"),
        ("expires", "expire_time"),
        ("cloud", "cloud"),
        ("last used", "last_used"),
        ("label", "label"),
        ("hint", "hint"),
    ];
    let there = |key: &str| rows.iter().any(|row| row.get(key).is_some());
    let columns: Vec<_> = COLUMNS.into_iter().filter(|(_, key)| there(key)).collect();
    let row = |credential: &Value| {
        let expired = end(credential).is_some_and(|end| end <= now);
        let cell = |(_, key): &(&str, &str)| {
            let mark = if expired && *key == "expire_time" { " (expired)" } else { "" };
            output::cell(&member(credential, key)) + mark
        };
        let refused = matches!(credential["cloud"].as_str(), Some("unlisted" | "not_enrolled"));
        let tone = match credential["status"].as_str() {
            _ if expired => Tone::Warning,
            _ if refused => Tone::Faint,
            Some("Disabled") => Tone::Faint,
            _ => Tone::Plain,
        };
        (tone, columns.iter().map(cell).collect())
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    output::list_text(&names, &rows)
}

pub fn end(credential: &Value) -> Option<Timestamp> {
    Timestamp::parse(credential["expire_time"].as_str()?)
}

/// The exit code that tells of credentials which are due.
const DUE: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_what_has_expired_and_what_never_ends() {
        let rows = [
            json!({
                "credential_id": "c-1", "tenant": "z-1", "status": "Enabled", "label": "Okta",
                "expire_time": "2030-01-01T00:00:00Z", "last_used": null, "hint": "ab12",
            }),
            json!({ "credential_id": "c-2", "tenant": "z-1", "status": "Disabled", "label": "" }),
        ];
        let now = Timestamp::parse("2030-01-01T00:00:00Z").expect("a time");
        let text = list_text(&rows, now);
        let text = anstream::adapter::strip_str(&text).to_string();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines,
            [
                words("ID TENANT STATUS EXPIRES LAST USED LABEL HINT"),
                words("c-1 z-1 Enabled 2030-01-01T00:00:00Z (expired) - Okta ab12"),
                words("c-2 z-1 Disabled never - - -"),
            ]
        );
    }

    #[test]
    fn how_a_credential_stands_with_its_cloud_is_a_column() {
        let row = |id: &str, cloud: &str| {
            json!({
                "credential_id": id, "tenant": "z-1", "status": "Enabled", "label": "",
                "expire_time": "2030-01-01T00:00:00Z", "hint": null, "cloud": cloud,
            })
        };
        let rows = [
            row("c-1", "listed"),
            row("c-2", "not_enrolled"),
            row("c-3", "unlisted"),
            row("c-4", "disable_pending"),
        ];
        let text = list_text(&rows, Timestamp::from_millis(0));
        let text = anstream::adapter::strip_str(&text).to_string();
        for told in [
            "EXPIRES",
            "CLOUD",
            "  enrolled  ",
            "  not enrolled  ",
            "  no longer listed  ",
            "  disable pending  ",
        ] {
            assert!(text.contains(told), "{told:?} in\n{text}");
        }
        assert!(!text.contains("LAST USED"), "{text}");
    }

    #[test]
    fn facts_are_those_that_an_answer_has() {
        let deleted = json!({ "credential_id": "c-1", "status": "Deleted", "revision": 7 });
        assert_eq!(
            facts(&deleted),
            [("credential_id", json!("c-1")), ("status", json!("Deleted")), ("revision", json!(7))]
        );
        assert_eq!(facts(&json!({ "expire_time": null })), [("expires", json!("never"))]);
    }
}

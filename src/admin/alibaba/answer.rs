//! Answers in JSON or XML, which say the same.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::problem::Fault;
use crate::admin::signed::{Fields, Received, response};
use crate::signature::pairs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Xml,
}

impl Format {
    /// What the client asks for. It is told so also when nothing else of it can be read.
    pub fn wanted(received: &Received) -> Self {
        let texts = [received.query(), received.form()];
        let pairs: Vec<_> = texts.into_iter().filter_map(pairs).flatten().collect();
        let find = |name| pairs.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
        let in_headers = received.headers.contains_key("authorization");
        let xml = if !in_headers && find("AccessKeyId").is_some() {
            !find("Format").is_some_and(|format| format.eq_ignore_ascii_case("json"))
        } else {
            let accept = received.header("accept");
            accept.contains("xml") && !accept.contains("json")
        };
        if xml { Self::Xml } else { Self::Json }
    }

    pub fn success(self, action: &str, mut fields: Fields, request_id: &str) -> Response {
        fields.insert("RequestId".to_owned(), request_id.into());
        self.written(StatusCode::OK, &format!("{action}Response"), fields)
    }

    pub fn failure(self, fault: &Fault, host: &str, request_id: &str) -> Response {
        let code = &fault.code;
        let help = format!(
            "https://api.aliyun.com/troubleshoot?q={code}&product=cloudsso&requestId={request_id}"
        );
        let fields = [
            ("RequestId", request_id),
            ("HostId", host),
            ("Code", code),
            ("Message", &fault.message),
            ("Recommend", &help),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        let status = StatusCode::from_u16(fault.status).expect("written in this dialect");
        self.written(status, "Error", fields.collect())
    }

    fn written(self, status: StatusCode, root: &str, fields: Fields) -> Response {
        match self {
            Self::Json => {
                response(status, "application/json;charset=utf-8", json!(fields).to_string())
            }
            Self::Xml => {
                let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned();
                element(root, &Value::Object(fields), &mut text);
                // One of the SDKs compares it to the letter.
                response(status, "text/xml;charset=utf-8", text)
            }
        }
    }
}

/// Rows of a list bear its name without the last letter.
fn element(name: &str, value: &Value, into: &mut String) {
    into.push_str(&format!("<{name}>"));
    match value {
        Value::Object(members) => members.iter().for_each(|(name, it)| element(name, it, into)),
        Value::Array(rows) => {
            let row = name.strip_suffix('s').unwrap_or(name);
            rows.iter().for_each(|it| element(row, it, into));
        }
        Value::String(text) => text.chars().for_each(|letter| escape(letter, into)),
        other => into.push_str(&other.to_string()),
    }
    into.push_str(&format!("</{name}>"));
}

fn escape(letter: char, into: &mut String) {
    match letter {
        '&' => into.push_str("&amp;"),
        '<' => into.push_str("&lt;"),
        '>' => into.push_str("&gt;"),
        // XML 1.0 has no way to write most of them.
        control if control.is_control() => into.push(' '),
        other => into.push(other),
    }
}

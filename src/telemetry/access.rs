//! The access log: one line a request on standard output, formatted by hand into a buffer that
//! each worker keeps, and written in batches by a thread of its own. Query strings, bodies and
//! `Authorization` headers are never among what it is given.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::metrics::Metrics;
use crate::clock::Timestamp;
use crate::config::LogFormat;
use crate::credential::token;

/// One request, told once its last byte has gone.
pub struct Line<'a> {
    pub time: Timestamp,
    pub face: &'static str,
    pub method: &'a str,
    /// The path without its query, or the route's; empty if there was none to read.
    pub path: &'a str,
    pub route: &'a str,
    /// 0 if the client was gone before it got an answer.
    pub status: u16,
    pub outcome: &'static str,
    pub reason: &'static str,
    pub tenant: Option<&'a str>,
    pub credential_id: Option<&'a str>,
    /// None over a Unix socket.
    pub client: Option<&'a str>,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub user_agent: &'a str,
    pub duration: Duration,
    pub upstream_duration: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Where batches of lines go. Dropping the last handle ends the thread when all is written.
#[derive(Clone)]
pub struct AccessLog {
    batches: Sender<Vec<u8>>,
    backlog: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    format: LogFormat,
}

impl AccessLog {
    /// Starts the thread that writes. It ends once every handle has been dropped; the receiver
    /// hangs up then.
    pub fn start(
        mut out: impl Write + Send + 'static,
        format: LogFormat,
        metrics: Arc<Metrics>,
    ) -> (Self, Receiver<()>) {
        let (batches, received) = channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&backlog);
        let (end, ended) = channel::<()>();
        let write = move || {
            write_all(&received, &mut out, &written);
            drop(end);
        };
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(write);
        thread.expect("a thread can be started");
        (Self { batches, backlog, metrics, format }, ended)
    }

    pub fn buffer(&self) -> LineBuffer {
        LineBuffer { log: self.clone(), lines: RefCell::default() }
    }
}

fn write_all(batches: &Receiver<Vec<u8>>, out: &mut impl Write, backlog: &AtomicUsize) {
    while let Ok(batch) = batches.recv() {
        // Standard output gone: requests matter more than their lines.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        backlog.fetch_sub(batch.len(), Ordering::Relaxed);
    }
}

/// One worker's lines on their way to the log.
pub struct LineBuffer {
    log: AccessLog,
    lines: RefCell<Lines>,
}

#[derive(Default)]
struct Lines {
    text: String,
    count: u64,
    time: TimeText,
}

/// The time as lines tell it. Those of one second differ in the milliseconds alone.
#[derive(Default)]
struct TimeText {
    text: String,
    /// Since 1970; which one the text is of.
    second: i64,
}

impl TimeText {
    fn of(&mut self, time: Timestamp) -> &str {
        let second = time.as_millis().div_euclid(1000);
        if second == self.second && self.text.ends_with('Z') {
            let millis = time.as_millis().rem_euclid(1000) as u32;
            let digit = |unit: u32| char::from(b'0' + (millis / unit % 10) as u8);
            self.text.truncate(self.text.len() - "000Z".len());
            self.text.extend([digit(100), digit(10), digit(1), 'Z']);
        } else {
            self.second = second;
            self.text = format!("{time:.3}");
        }
        &self.text
    }
}

impl LineBuffer {
    pub fn write(&self, line: &Line<'_>) {
        let mut lines = self.lines.borrow_mut();
        let lines = &mut *lines;
        match self.log.format {
            LogFormat::Json => write_json(&mut lines.text, line, lines.time.of(line.time)),
            LogFormat::Text => write_text(&mut lines.text, line, lines.time.of(line.time)),
        }
        lines.count += 1;
        if lines.text.len() >= BATCH_BYTES {
            self.pass_on(lines);
        }
    }

    /// Hands over what has gathered. Called a few times a second, and at the end.
    pub fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if lines.count > 0 {
            self.pass_on(&mut lines);
        }
    }

    fn pass_on(&self, lines: &mut Lines) {
        let room = String::with_capacity(BATCH_BYTES + 1024);
        let mut batch = std::mem::replace(&mut lines.text, room);
        if batch.len() < BATCH_BYTES / 2 {
            // Many short ones may have to wait.
            batch.shrink_to_fit();
        }
        let count = std::mem::take(&mut lines.count);
        let waiting = self.log.backlog.fetch_add(batch.len(), Ordering::Relaxed);
        if waiting > BACKLOG_BYTES_MAX {
            self.log.backlog.fetch_sub(batch.len(), Ordering::Relaxed);
            self.log.metrics.access_lines_dropped.inc_by(count);
            return;
        }
        // The thread lives as long as any handle to the log.
        let _ = self.log.batches.send(batch.into_bytes());
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A key as it stands between the field before it and its value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

fn write_json(out: &mut String, line: &Line<'_>, time: &str) {
    out.push_str("{\"timestamp\":\"");
    out.push_str(time);
    out.push_str("\",\"level\":\"INFO\",\"message\":\"request\"");
    plain(out, key!("face"), line.face);
    plain(out, key!("http.request.method"), line.method);
    field(out, key!("url.path"), redacted(line.path));
    field(out, key!("route"), line.route);
    number(out, key!("http.response.status_code"), line.status.into());
    plain(out, key!("outcome"), line.outcome);
    plain(out, key!("reason"), line.reason);
    plain(out, key!("tenant"), line.tenant.unwrap_or_default());
    plain(out, key!("credential_id"), line.credential_id.unwrap_or_default());
    plain(out, key!("client.address"), line.client.unwrap_or_default());
    plain(out, key!("request_id"), line.request_id);
    plain(out, key!("trace_id"), line.trace_id);
    field(out, key!("user_agent.original"), redacted(line.user_agent));
    number(out, key!("duration_us"), micros(line.duration));
    if let Some(duration) = line.upstream_duration {
        number(out, key!("upstream_duration_us"), micros(duration));
    }
    number(out, key!("bytes_in"), line.bytes_in);
    number(out, key!("bytes_out"), line.bytes_out);
    out.push_str("}\n");
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

fn field(out: &mut String, key: &str, value: &str) {
    if !value.is_empty() {
        out.push_str(key);
        out.push('"');
        escape(out, value);
        out.push('"');
    }
}

/// A field whose value is of our own words, or checked to be of letters that JSON leaves alone.
#[inline]
fn plain(out: &mut String, key: &str, value: &str) {
    debug_assert!(!value.bytes().any(is_special), "{key}: {value}");
    if !value.is_empty() {
        out.push_str(key);
        out.push('"');
        out.push_str(value);
        out.push('"');
    }
}

#[inline]
fn number(out: &mut String, key: &str, value: u64) {
    out.push_str(key);
    // Through `fmt` the numbers would be a fifth of a line's cost.
    out.push_str(itoa::Buffer::new().format(value));
}

/// What stands before a token of ours: it has no business in a path or an agent's name.
pub(super) fn redacted(text: &str) -> &str {
    let place = memchr::memmem::find(text.as_bytes(), token::PREFIX.as_bytes());
    place.map_or(text, |place| &text[..place])
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn escape(out: &mut String, value: &str) {
    if !value.bytes().any(is_special) {
        out.push_str(value);
        return;
    }
    for character in value.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
}

fn write_text(out: &mut String, line: &Line<'_>, time: &str) {
    let _ = write!(out, "{time} {} {} ", line.status, line.method);
    escape(out, redacted(line.path));
    let _ = write!(out, " {} {}", line.outcome, line.reason);
    if let Some(credential_id) = line.credential_id {
        let _ = write!(out, " credential={credential_id}");
    }
    let _ = writeln!(out, " {} us id={}", line.duration.as_micros(), line.request_id);
}

/// The thread is woken for each batch, which costs as much as some lines.
const BATCH_BYTES: usize = 256 << 10;
const BACKLOG_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line<'a>(path: &'a str, user_agent: &'a str) -> Line<'a> {
        Line {
            time: Timestamp::from_millis(1_700_000_000_000),
            face: "proxy",
            method: "GET",
            path,
            route: "/scim/v2",
            status: 401,
            outcome: "refused",
            reason: "credential_expired",
            tenant: Some("z-1"),
            credential_id: Some("scimcred-1"),
            client: Some("127.0.0.1"),
            request_id: "r-1",
            trace_id: "",
            user_agent,
            duration: Duration::from_micros(71),
            upstream_duration: None,
            bytes_in: 0,
            bytes_out: 200,
        }
    }

    fn written(format: LogFormat, line: &Line<'_>) -> String {
        let out = Shared::default();
        let (log, ended) = AccessLog::start(out.clone(), format, Arc::new(Metrics::new()));
        let buffer = log.buffer();
        buffer.write(line);
        drop((buffer, log));
        ended.recv().expect_err("it hangs up with the last handle");
        String::from_utf8(out.0.lock().expect("not poisoned").clone()).expect("text")
    }

    #[test]
    fn a_line_is_json_whatever_the_client_sends() {
        let text = written(LogFormat::Json, &line("/scim/v2/\"\\\u{1}ä", "agent \"x\""));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["url.path"], "/scim/v2/\"\\\u{1}ä");
        assert_eq!(value["user_agent.original"], "agent \"x\"");
        assert_eq!(value["timestamp"], "2023-11-14T22:13:20.000Z");
        assert_eq!(value["http.response.status_code"], 401);
        assert_eq!(value["trace_id"], serde_json::Value::Null);
    }

    #[test]
    fn the_time_is_told_whatever_was_told_before() {
        let mut text = TimeText::default();
        for (millis, expected) in [
            (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
            (1_700_000_000_987, "2023-11-14T22:13:20.987Z"),
            (1_700_000_000_045, "2023-11-14T22:13:20.045Z"),
            (1_699_999_999_999, "2023-11-14T22:13:19.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (0, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text.of(Timestamp::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_token_in_a_path_is_not_logged() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let text = written(format, &line("/scim/v2/scimg_planted", "a scimg_planted"));
            assert!(!text.contains("planted"), "{text}");
        }
    }
}

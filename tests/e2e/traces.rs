//! Spans as a real OTLP receiver reads them: rotel, which prints what it is sent.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use crate::backend::{Backend, RunningBackend};
use crate::client::{Client, Request};
use crate::guard::{Authorization, Guard, Row};
use crate::port::Reserved;
use crate::process::{Process, in_repository, until};

#[test]
fn an_allowed_request_has_three_spans_within_the_clients_trace() {
    let (backend, mut receiver) = (Backend::Uvicorn.start(), Receiver::start());
    let guard = start(&backend, receiver.place.address);
    let answer = send(&guard, ROW.token, Some(&format!("00-{TRACE}-{SPAN}-01")));
    assert_eq!(answer, 200);
    let spans = receiver.spans(3);
    let (request, decision, call) = (&spans[0], &spans[1], &spans[2]);
    assert!(spans.iter().all(|span| span["Trace ID"] == TRACE), "{spans:?}");
    assert_eq!((&*request["Name"], &*request["Kind"]), ("GET /v2", "SPAN_KIND_SERVER"));
    assert_eq!((&*decision["Name"], &*decision["Kind"]), ("decision", "SPAN_KIND_INTERNAL"));
    assert_eq!((&*call["Name"], &*call["Kind"]), ("GET", "SPAN_KIND_CLIENT"));
    assert_eq!(request["Parent ID"], SPAN);
    assert_eq!([&decision["Parent ID"], &call["Parent ID"]], [&request["ID"]; 2]);
    let told = format!("traceparent: 00-{TRACE}-{}-01", call["ID"]);
    assert_eq!(parents(&backend), [told]);
    assert_eq!([&request["TraceState"], &call["TraceState"]], ["a=b"; 2]);
    for (span, name, value) in [
        (request, "http.request.method", "Str(GET)"),
        (request, "http.response.status_code", "Int(200)"),
        (request, "http.route", "Str(/v2)"),
        (request, "url.path", "Str(/v2/Users)"),
        (request, "url.scheme", "Str(http)"),
        (request, "client.address", "Str(127.0.0.1)"),
        (request, "server.address", "Str(127.0.0.1)"),
        (request, "user_agent.original", "Str(an-agent)"),
        (request, "scim_guard.outcome", "Str(allowed)"),
        (request, "scim_guard.credential_id", "Str(scimcred-demo00000001)"),
        (decision, "scim_guard.tenant", "Str(z-demo00000000)"),
        (call, "http.response.status_code", "Int(200)"),
    ] {
        assert_eq!(span.get(name).map(String::as_str), Some(value), "{name} of {span:?}");
    }
    let all = receiver.process.stdout();
    assert!(all.contains("service.name: Str(scim-guard)"), "{all}");
    for secret in [ROW.token, "userName"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
}

#[test]
fn a_refused_request_has_two_spans_in_a_trace_of_its_own() {
    let (backend, mut receiver) = (Backend::Uvicorn.start(), Receiver::start());
    let guard = start(&backend, receiver.place.address);
    assert_eq!(send(&guard, "wrong-0123456789-abcdefghijklmnopqrs", None), 401);
    assert_eq!(send(&guard, ROW.token, Some(&format!("00-{TRACE}-{SPAN}-01"))), 200);
    // Each worker sends its own, in its own time.
    let (passed, refused): (Vec<_>, Vec<_>) =
        receiver.spans(5).into_iter().partition(|span| span["Trace ID"] == TRACE);
    assert_eq!((passed.len(), refused.len()), (3, 2), "{passed:?} {refused:?}");
    let (request, decision) = (&refused[0], &refused[1]);
    assert_eq!(request.get("Parent ID").map(String::as_str), Some(""));
    assert_eq!(decision["Parent ID"], request["ID"]);
    assert_eq!(decision["Trace ID"], request["Trace ID"]);
    assert_eq!(request["http.response.status_code"], "Int(401)");
    for span in [request, decision] {
        assert_eq!(span[REASON], "Str(token_unknown)");
        assert_eq!(span.get("scim_guard.credential_id"), None);
    }
    assert_eq!(parents(&backend).len(), 1, "the refused one is not sent on");
}

#[test]
fn a_receiver_that_ends_harms_nobody_and_its_successor_goes_on() {
    let (backend, mut receiver) = (Backend::Uvicorn.start(), Receiver::start());
    let guard = start(&backend, receiver.place.address);
    let traced = || send(&guard, ROW.token, Some(&format!("00-{TRACE}-{SPAN}-01")));
    assert_eq!(traced(), 200);
    receiver.spans(3);
    let place = receiver.end();
    until("lost spans", || {
        assert_eq!(traced(), 200);
        guard.written().contains("spans are lost").then_some(())
    });
    let mut receiver = Receiver::start_at(place);
    assert_eq!(traced(), 200);
    receiver.spans(3);
}

#[test]
fn without_a_receiver_the_clients_words_pass() {
    let backend = Backend::Uvicorn.start();
    let guard = Guard::start(&backend, Authorization::Remove, &[ROW]);
    let parent = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(send(&guard, ROW.token, Some(&parent)), 200);
    assert_eq!(parents(&backend), [format!("traceparent: {parent}")]);
}

/// A guard that sends its spans soon.
fn start(backend: &RunningBackend, receiver: SocketAddr) -> Guard {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("http://{receiver}"));
    let environment = [endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "10")];
    Guard::start_within(backend, Authorization::Remove, &[ROW], &environment)
}

fn send(guard: &Guard, token: &str, parent: Option<&str>) -> u16 {
    let target = format!("{}/Users?filter=userName%20pr", guard.path);
    let mut request = Request::new("GET", target).bearer(token).header("User-Agent", "an-agent");
    if let Some(parent) = parent {
        request = request.header("traceparent", parent).header("tracestate", "a=b");
    }
    Client::new(guard.address).send(&request).expect("an answer").status
}

/// The traces that the backend was told of.
fn parents(backend: &RunningBackend) -> Vec<String> {
    let written = backend.written();
    written.lines().filter(|line| line.starts_with("traceparent: ")).map(str::to_owned).collect()
}

/// rotel, on ports of its own: it takes no port 0.
struct Receiver {
    place: Reserved,
    _place_for_grpc: Reserved,
    process: Process,
}

/// What is printed of a span: its own fields, and its attributes.
type Span = HashMap<String, String>;

impl Receiver {
    fn start() -> Self {
        Self::start_at(Reserved::at(Ipv4Addr::LOCALHOST))
    }

    fn start_at(place: Reserved) -> Self {
        let grpc = Reserved::at(Ipv4Addr::LOCALHOST);
        let directory = tempfile::tempdir().expect("a directory for the logs");
        let mut command = Command::new(program());
        command.args(["start", "--exporter", "blackhole", "--debug-log", "traces"]);
        command.args(["--debug-log-verbosity", "detailed", "--batch-timeout", "10ms"]);
        command.args(["--otlp-http-endpoint", &place.address.to_string()]);
        command.args(["--otlp-grpc-endpoint", &grpc.address.to_string()]);
        for (option, name) in [("--pid-file", "pid"), ("--log-file", "log")] {
            command.arg(option).arg(directory.path().join(name));
        }
        let mut process = Process::start(directory, &mut command);
        process.until("an open port", |_| TcpStream::connect(place.address).ok());
        Self { place, _place_for_grpc: grpc, process }
    }

    /// Ends it, and keeps its place for another.
    fn end(self) -> Reserved {
        self.place
    }

    /// So many spans, in the order in which they came.
    fn spans(&mut self, count: usize) -> Vec<Span> {
        self.process.until("spans", |process| {
            let spans = parse(&process.stdout());
            // They are told last of the last one.
            let last = |span: &Span| if span["Name"] == "decision" { REASON } else { STATUS };
            let whole = spans.last().is_some_and(|span| span.contains_key(last(span)));
            (whole && spans.len() >= count).then_some(spans)
        })
    }
}

/// It comes as a package of Python, whose folder has the version in its name.
fn program() -> PathBuf {
    let versions = fs::read_dir(in_repository("target/e2e/venv/lib")).expect("installed");
    let mut paths = versions.map(|entry| entry.expect("one").path().join(ROTEL));
    paths.find(|path| path.exists()).expect("rotel is installed")
}

fn parse(printed: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for line in printed.lines() {
        if ["Span #", "ResourceSpans #"].iter().any(|start| line.starts_with(start)) {
            spans.push(Span::new());
        } else if let Some(span) = spans.last_mut() {
            let line = line.trim_start().trim_start_matches("-> ");
            let pair = line.split_once(" : ").or_else(|| line.split_once(": "));
            if let Some((key, value)) = pair {
                span.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    // What stands before them is of the resource.
    spans.retain(|span| span.contains_key("Status message"));
    spans
}

const ROTEL: &str = "site-packages/rotel/rotel-agent";
const STATUS: &str = "http.response.status_code";
const REASON: &str = "scim_guard.reason";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const ROW: Row = Row::enabled("scimcred-demo00000001", "traces-0123456789-abcdefghijklmnopqrstu");

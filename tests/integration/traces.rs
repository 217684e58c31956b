//! Spans: what the receiver and the backend get to see, and a receiver that is of no use.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::backend::{Act, Backend, Seen, ok};
use crate::guard::{Guard, Setup, TOKEN, command, listening, wait_for};
use crate::http::Client;
use crate::port::Reserved;
use crate::tls::{Authority, PAIR};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A guard that sends its spans soon.
fn setup(backend: &Backend, receiver: &str) -> Setup {
    Setup::new(backend.address)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)
        .variable("OTEL_BSP_SCHEDULE_DELAY", "10")
}

fn url(receiver: &Backend) -> String {
    format!("http://{}", receiver.address)
}

/// A GET within a trace of the client; the parent that the backend was told of.
fn traced(guard: &Guard, backend: &Backend, flags: &str) -> String {
    let reply = guard.client().send(&format!(
        "GET /scim/v2/Users?filter=planted HTTP/1.1\r\nHost: scim.test\r\n\
         Authorization: Bearer {TOKEN}\r\ntraceparent: 00-{TRACE}-{SPAN}-{flags}\r\n\
         tracestate: a=b\r\n\r\n"
    ));
    assert_eq!(reply.status, 200);
    let seen = backend.seen().pop().expect("one");
    assert_eq!(seen.headers("tracestate"), ["a=b"]);
    let [parent] = seen.headers("traceparent")[..] else { panic!("{seen:?}") };
    parent.to_owned()
}

fn contains(seen: &Seen, part: &[u8]) -> bool {
    seen.body.windows(part.len()).any(|window| window == part)
}

#[test]
fn spans_arrive_and_the_backend_is_told_of_the_last_one() {
    let (backend, receiver) = (Backend::friendly(), Backend::friendly());
    let setup = setup(&backend, &url(&receiver)).variable("OTEL_SERVICE_NAME", "guard-of-test");
    let guard = setup.variable("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b").start();
    let parent = traced(&guard, &backend, "01");
    let span = parent.strip_prefix(&format!("00-{TRACE}-")).and_then(|it| it.strip_suffix("-01"));
    let span = span.unwrap_or_else(|| panic!("{parent}"));
    assert_ne!(span, SPAN);
    wait_for("spans", || !receiver.seen().is_empty());
    let seen = receiver.only();
    assert_eq!(seen.line(), "POST /v1/traces HTTP/1.1");
    assert_eq!(seen.headers("content-type"), ["application/x-protobuf"]);
    assert_eq!(seen.headers("x-key"), ["a b"]);
    for id in [TRACE, SPAN, span] {
        assert!(contains(&seen, &hex::decode(id).expect("digits")), "{id}");
    }
    for text in ["guard-of-test", "GET /scim/v2", "decision", "/scim/v2/Users", "a=b"] {
        assert!(contains(&seen, text.as_bytes()), "{text}");
    }
    for secret in [TOKEN, "planted"] {
        assert!(!contains(&seen, secret.as_bytes()), "{secret}");
    }
    assert!(guard.diagnostics().contains("spans are sent"));
}

#[test]
fn who_is_not_sampled_gets_no_spans_and_the_backend_knows() {
    let (backend, receiver) = (Backend::friendly(), Backend::friendly());
    let guard = setup(&backend, &url(&receiver)).start();
    assert!(traced(&guard, &backend, "00").ends_with("-00"));
    guard.stop();
    assert!(receiver.seen().is_empty());

    let setup = setup(&backend, &url(&receiver)).variable("OTEL_TRACES_SAMPLER", "always_on");
    let guard = setup.start();
    assert!(traced(&guard, &backend, "00").ends_with("-01"));
    guard.stop();
    assert_eq!(receiver.seen().len(), 1);
}

#[test]
fn a_question_of_another_proxy_gets_spans_about_what_it_asked() {
    let (backend, receiver) = (Backend::friendly(), Backend::friendly());
    let mut setup = setup(&backend, &url(&receiver));
    setup.top = "decision: [{ address: '127.0.0.1:0', edge: traefik }]\n".to_owned();
    let guard = setup.start();
    let address = listening(&guard.diagnostics(), "decision")[0];
    let reply = Client::connect(address).send(&format!(
        "GET /question HTTP/1.1\r\nHost: guard.internal\r\nX-Forwarded-Method: POST\r\n\
         X-Forwarded-Uri: /scim/v2/Users\r\nX-Forwarded-Host: scim.test\r\n\
         Authorization: Bearer {TOKEN}\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n"
    ));
    assert_eq!(reply.status, 200);
    guard.stop();
    let seen = receiver.only();
    for text in ["POST /scim/v2", "decision", "/scim/v2/Users", "scim.test"] {
        assert!(contains(&seen, text.as_bytes()), "{text}");
    }
    for text in ["guard.internal", "/question"] {
        assert!(!contains(&seen, text.as_bytes()), "{text}");
    }
    assert!(contains(&seen, &hex::decode(SPAN).expect("digits")));
    assert!(backend.seen().is_empty());
}

#[test]
fn what_is_left_is_sent_when_we_leave() {
    let (backend, receiver) = (Backend::friendly(), Backend::friendly());
    let setup = setup(&backend, &url(&receiver));
    let guard = setup.variable("OTEL_BSP_SCHEDULE_DELAY", "600000").start();
    traced(&guard, &backend, "01");
    guard.stop();
    assert!(contains(&receiver.only(), &hex::decode(SPAN).expect("digits")));
}

#[test]
fn spans_go_over_tls_to_whom_the_certificate_is_believed() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let (backend, spans) = (Backend::friendly(), Backend::friendly());
    let receiver = Setup::new(spans.address)
        .listener(PAIR)
        .file("tls.crt", &pair.certificate)
        .file("tls.key", &pair.key)
        .start();
    for (certificate, arrives) in [("ca.crt", true), ("other.crt", false)] {
        let guard = setup(&backend, &format!("https://{}/scim/v2", receiver.proxy))
            .variable("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{TOKEN}"))
            .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate)
            .file("ca.crt", &authority.pem())
            .file("other.crt", &Authority::new().pem())
            .start();
        traced(&guard, &backend, "01");
        if arrives {
            wait_for("spans", || !spans.seen().is_empty());
        } else {
            guard.wait_for_diagnostic("spans are lost");
            assert!(guard.diagnostics().contains("certificate"), "{}", guard.diagnostics());
        }
    }
    assert_eq!(spans.only().line(), "POST /scim/v2/v1/traces HTTP/1.1");
}

#[test]
fn a_receiver_that_is_of_no_use_harms_nobody() {
    let (backend, nowhere) = (Backend::friendly(), Reserved::at(Ipv4Addr::LOCALHOST));
    let silent = Backend::start(|_| Act::Silence);
    let angry = Backend::start(|_| {
        Act::Answer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    for (receiver, told) in [
        (format!("http://{}", nowhere.address), "Connection refused"),
        (url(&angry), "400"),
        (url(&silent), "the last spans are lost"),
    ] {
        let guard = setup(&backend, &receiver)
            .variable("OTEL_BSP_MAX_QUEUE_SIZE", "12")
            .variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "6")
            .start();
        let mut client = guard.client();
        wait_for("lost spans", || {
            assert_eq!(client.get("/Users", TOKEN).status, 200, "{receiver}");
            guard.metric("scim_guard_spans_dropped_total") >= 12.0
        });
        let begun = Instant::now();
        let (_, diagnostics, _) = guard.stop();
        assert!(begun.elapsed() < Duration::from_secs(8), "{receiver}");
        assert!(diagnostics.contains(told), "{receiver}: {diagnostics}");
        assert!(diagnostics.matches("spans are lost:").count() < 2, "{receiver}: {diagnostics}");
    }
}

#[test]
fn a_receiver_that_comes_back_gets_spans_again() {
    let (backend, receiver) = (Backend::friendly(), Reserved::at(Ipv4Addr::LOCALHOST));
    let endpoint = format!("http://{}", receiver.address);
    let guard = setup(&backend, &endpoint).start();
    traced(&guard, &backend, "01");
    guard.wait_for_diagnostic("spans are lost");
    let receiver =
        Backend::on(TcpListener::bind(receiver.address).expect("still ours"), |_| ok(""));
    traced(&guard, &backend, "01");
    wait_for("spans", || !receiver.seen().is_empty());
}

#[test]
fn a_variable_that_cannot_be_followed_is_told_at_the_start() {
    let setup = Setup::new(Reserved::at(Ipv4Addr::LOCALHOST).address);
    let folder = tempfile::tempdir().expect("a folder");
    setup.write(folder.path());
    for action in ["serve", "check"] {
        let output = command(folder.path(), &[action])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_TRACES_SAMPLER_ARG", "many")
            .env("OTEL_TRACES_SAMPLER", "traceidratio")
            .output()
            .expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{action}");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        for part in ["PROTOCOL: grpc: is not spoken here: set http/protobuf", "ARG: many: is no"] {
            assert!(told.contains(part), "{action}: {told}");
        }
    }
}

//! A token that was planted everywhere a client can put it is nowhere in what we leave.

use std::fs;
use std::path::Path;

use crate::backend::Backend;
use crate::guard::{ID, Setup, route, row};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PLANTED: &str = "scimg_plantedplantedplantedplantedplantedplanted0_000000";

#[test]
fn a_token_is_in_no_line_span_metric_error_or_file() {
    let (backend, receiver) = (Backend::friendly(), Backend::friendly());
    let rows = row(ID, PLANTED, "Enabled", "2099-01-01T00:00:00Z");
    let routes = route(backend.address, ", connect_wait: 0s");
    let setup = Setup::new(backend.address).rows(&rows).routes(&routes).deny("[]\n");
    let endpoint = format!("http://{}", receiver.address);
    let mut setup = setup.variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    setup.top = "log: { level: trace }\n".to_owned();
    let guard = setup.start();
    let mut answers = Vec::new();
    for authorization in [
        format!("Bearer {PLANTED}"),
        format!("bearer  {PLANTED}"),
        format!("Bearer Bearer {PLANTED}"),
        format!("Bearer {PLANTED} x"),
        format!("Bearer {PLANTED},x"),
        format!("Bearer \"{PLANTED}\""),
        format!("Basic {PLANTED}"),
        format!("Odd {PLANTED}"),
        PLANTED.to_owned(),
    ] {
        for target in [
            "/scim/v2/Users".to_owned(),
            format!("/scim/v2/{PLANTED}?access_token={PLANTED}"),
            "/no".to_owned(),
        ] {
            answers.push(guard.client().send(&format!(
                "GET {target} HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\nX-Request-Id: a-{PLANTED}\r\nUser-Agent: x/{PLANTED}\r\ntraceparent: {PARENT}\r\ntracestate: a={PLANTED}\r\n\r\n"
            )));
        }
    }
    // A person who pastes the token where its digest belongs.
    guard.replace("credentials.yaml", &rows.replace(&crate::guard::digest(PLANTED), PLANTED));
    guard.wait_for_diagnostic("the last good one stays in force");
    guard.replace("deny.yaml", &format!("- digest: {PLANTED}\n"));
    guard.wait_for_diagnostic("deny: ");
    guard.replace(
        "proxy.yaml",
        &setup.config().replace("{ url:", &format!("{{ authorization: 'Bearer {PLANTED}', url:")),
    );
    guard.signal(rustix::process::Signal::HUP);
    guard.wait_for_diagnostic("config not reloaded");
    let metrics = guard.ops("/metrics").text();

    let (out, diagnostics, folder) = guard.stop();
    for answer in &answers {
        let text = format!("{:?}{}", answer.headers, answer.text());
        assert!(!text.contains("planted"), "an answer tells it: {text}");
    }
    let sent: Vec<u8> = receiver.seen().into_iter().flat_map(|seen| seen.body).collect();
    let spans = String::from_utf8_lossy(&sent).into_owned();
    let (log, told) = (("access log", &out), ("diagnostics", &diagnostics));
    for (name, text) in [log, told, ("metrics", &metrics), ("spans", &spans)] {
        assert!(!text.is_empty() && !text.contains("planted"), "the {name} tells it:\n{text}");
    }
    for name in ["credentials.yaml", "deny.yaml", "proxy.yaml"] {
        fs::remove_file(folder.path().join(name)).expect("ours to remove");
    }
    assert_eq!(files(folder.path()), Vec::<String>::new(), "it leaves no files");
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("one").file_name().to_string_lossy().into_owned()).collect()
}

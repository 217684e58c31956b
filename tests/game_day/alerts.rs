//! A real Prometheus with the rules of `deploy/observability`, and when it said what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::process::{Process, in_repository};

pub struct Alerts {
    address: SocketAddr,
    process: Process,
    fired: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

impl Alerts {
    /// Starts the Prometheus that `scripts/check-observability` installs. It scrapes and evaluates
    /// once a second whatever it is told of by [`Self::watch`].
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for its files");
        let folder = directory.path();
        std::fs::create_dir(folder.join("targets")).expect("it is ours");
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [in_repository("deploy/observability/rules.yaml")],
            "scrape_configs": [{
                "job_name": "scim-guard",
                "file_sd_configs": [{ "files": [folder.join("targets/*.json")] }],
                // No rule asks for them, and there are many.
                "metric_relabel_configs": [
                    { "source_labels": ["__name__"], "regex": ".+_bucket", "action": "drop" },
                ],
            }],
        });
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config.to_string()).expect("it is ours");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0");
        let mut process = Process::start(directory, &mut command);
        let address = process.until("listening Prometheus", |process| {
            let told = process.stderr();
            let (_, rest) = told.split_once("msg=\"Listening on\" address=")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        process.until("ready Prometheus", |_| {
            let answer = Client::new(address).send(&Request::new("GET", "/-/ready"));
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        });
        let fired = Arc::<Mutex<HashMap<_, _>>>::default();
        let noted = Arc::clone(&fired);
        // It ends with the test's process.
        thread::spawn(move || {
            loop {
                // What one look misses the next one sees.
                let _ = note(&mut Client::new(address), &noted);
                thread::park_timeout(LOOK_PAUSE);
            }
        });
        Self { address, process, fired }
    }

    /// Has the processes of one fault scraped: names, and where each tells its metrics.
    pub fn watch(&self, fault: &str, processes: &[(String, SocketAddr)]) {
        let target = |(name, ops): &(String, SocketAddr)| {
            let instance = format!("{fault}/{name}");
            json!({ "targets": [ops.to_string()], "labels": { "fault": fault, "instance": instance } })
        };
        let targets: Vec<_> = processes.iter().map(target).collect();
        let (folder, file) = (self.process.directory(), fault.replace(' ', "-"));
        let draft = folder.join(&file);
        std::fs::write(&draft, json!(targets).to_string()).expect("it is ours");
        std::fs::rename(draft, folder.join(format!("targets/{file}.json"))).expect("one directory");
    }

    /// Whether each of so many processes was scraped a few times.
    pub fn knows(&self, fault: &str, processes: usize) -> bool {
        let query = format!("sum_over_time(up{{fault=\"{fault}\"}}[1m]) >= 3");
        self.ask(&query).len() == processes
    }

    /// When alerts of a fault were first seen firing.
    pub fn of(&self, fault: &str) -> HashMap<String, Instant> {
        let fired = self.fired.lock().expect("sound");
        let ours = fired.iter().filter(|((other, _), _)| other == fault);
        ours.map(|((_, alert), at)| (alert.clone(), *at)).collect()
    }

    pub fn ask(&self, query: &str) -> Vec<Value> {
        ask(&mut Client::new(self.address), query).expect("Prometheus answers")
    }
}

fn note(client: &mut Client, noted: &Mutex<HashMap<(String, String), Instant>>) -> Option<()> {
    let firing = ask(client, "ALERTS{alertstate=\"firing\"}")?;
    let now = Instant::now();
    let mut noted = noted.lock().expect("sound");
    for alert in firing {
        let label = |name: &str| alert["metric"][name].as_str().unwrap_or_default().to_owned();
        noted.entry((label("fault"), label("alertname"))).or_insert(now);
    }
    Some(())
}

fn ask(client: &mut Client, query: &str) -> Option<Vec<Value>> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let request = Request::new("GET", format!("/api/v1/query?query={encoded}"));
    let answer = client.send(&request).ok()?.json();
    answer["data"]["result"].as_array().cloned()
}

const LOOK_PAUSE: Duration = Duration::from_millis(200);

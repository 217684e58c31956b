//! Every metric family of the product, in one place. Labels come from closed sets or from the
//! config and the table: nothing that a stranger sends can make a series.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub struct Metrics {
    registry: Registry,
    process: Registry,
    refused: Mutex<HashMap<&'static str, HashMap<String, IntCounter>>>,
    pub requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub decision_duration: HistogramVec,
    pub upstream_duration: Histogram,
    pub requests_in_flight: IntGauge,
    pub connections: IntGaugeVec,
    pub connections_max: IntGaugeVec,
    pub http_rejects: IntCounterVec,
    credential_refusals: IntCounterVec,
    pub credentials: IntGaugeVec,
    pub credential_expiry: GaugeVec,
    pub credentials_expiring: IntGaugeVec,
    pub table_revision: IntGauge,
    pub table_age: GaugeVec,
    pub source_up: IntGaugeVec,
    pub source_refresh: IntCounterVec,
    pub source_history_changed: IntGauge,
    pub clock_skew: Gauge,
    pub replicas: IntGaugeVec,
    pub audit_write_failures: IntCounter,
    pub cache_memo: IntCounter,
    pub cache_hit: IntCounter,
    pub cache_miss: IntCounter,
    pub tls_certificate_expiry: GaugeVec,
    pub tls_last_renewal_successful: IntGaugeVec,
    pub config_last_reload_successful: IntGauge,
    pub config_last_reload_success_time: Gauge,
    pub config_hash: GaugeVec,
    pub access_lines_dropped: IntCounter,
    pub drain_cut_off: IntCounter,
    pub spans_dropped: IntCounter,
    pub admin_requests: IntCounterVec,
    pub admin_login_failures: IntCounterVec,
}

impl Metrics {
    #[expect(clippy::new_without_default, reason = "it registers, which a default should not")]
    pub fn new() -> Self {
        let make = Maker(Registry::new_custom(Some("scim_guard".into()), None).expect("a prefix"));
        let cache = make.counters(
            "cache_requests_total",
            "Lookups of known and unknown tokens, by the place that answered.",
            &["result"],
        );
        let build = make.int_gauges("build_info", "Always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            requests: make.counters(
                "requests_total",
                "Requests answered.",
                &["face", "route", "method", "outcome", "reason"],
            ),
            request_duration: make.histograms(
                "request_duration_seconds",
                "From the head of a request to the last byte of its answer.",
                &["face"],
            ),
            decision_duration: make.histograms(
                "decision_duration_seconds",
                "From the head of a request to the decision about it.",
                &["face"],
            ),
            upstream_duration: make.histogram(
                "upstream_duration_seconds",
                "From the decision to the head of the backend's answer.",
            ),
            requests_in_flight: make
                .gauge("requests_in_flight", "Requests begun and not yet answered in full."),
            connections: make.int_gauges("connections", "Connections from clients.", &["face"]),
            connections_max: make.int_gauges(
                "connections_max",
                "Connections from clients that there may be at a time; more wait.",
                &["face"],
            ),
            http_rejects: make.counters(
                "http_rejects_total",
                "Connections ended by a failed TLS handshake, a request that is no HTTP, or a limit on time or size.",
                &["face", "cause"],
            ),
            credential_refusals: make.counters(
                "credential_refusals_total",
                "Refusals of tokens that are in the table; of the first 1,000 credentials refused.",
                &["credential_id", "reason"],
            ),
            credentials: make.int_gauges("credentials", "Credentials in the table.", &["state"]),
            credential_expiry: make.gauges(
                "credential_expiry_timestamp_seconds",
                "When a credential ends; of the 100 that end soonest.",
                &["credential_id"],
            ),
            credentials_expiring: make.int_gauges(
                "credentials_expiring",
                "Credentials that end within the time given.",
                &["within"],
            ),
            table_revision: make
                .gauge("table_revision", "Number of the change or listing that the table holds."),
            table_age: make.gauges(
                "table_age_seconds",
                "Time since the source last confirmed what we hold.",
                &["feed"],
            ),
            source_up: make.int_gauges(
                "source_up",
                "Whether the source could be read when it was last asked.",
                &["source"],
            ),
            source_refresh: make.counters(
                "source_refresh_total",
                "Times that the source was asked.",
                &["result"],
            ),
            source_history_changed: make.gauge(
                "source_history_changed",
                "Whether the source's state does not follow from what is applied here.",
            ),
            clock_skew: make.plain_gauge(
                "clock_skew_seconds",
                "By how much the source's clock is ahead of ours.",
            ),
            replicas: make.int_gauges(
                "replicas",
                "Replicas that the admin API knows, by how far they are.",
                &["state"],
            ),
            audit_write_failures: make.counter(
                "audit_write_failures_total",
                "Logins, reads and backups that could not be audited. Changes are audited or not made.",
            ),
            cache_memo: cache.with_label_values(&["memo"]),
            cache_hit: cache.with_label_values(&["hit"]),
            cache_miss: cache.with_label_values(&["miss"]),
            tls_certificate_expiry: make.gauges(
                "tls_certificate_expiry_timestamp_seconds",
                "When the first of a listener's certificates ends; the label is the address in the config.",
                &["listener"],
            ),
            tls_last_renewal_successful: make.int_gauges(
                "tls_last_renewal_successful",
                "Whether a listener's certificates, keys and authorities could be used when they last changed.",
                &["listener"],
            ),
            config_last_reload_successful: make.gauge(
                "config_last_reload_successful",
                "Whether the config file was valid when it was last read.",
            ),
            config_last_reload_success_time: make.plain_gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the config in force was read.",
            ),
            config_hash: make.gauges(
                "config_hash_info",
                "Always 1; the label is a checksum of the config in force.",
                &["crc32"],
            ),
            drain_cut_off: make.counter(
                "drain_cut_off_connections_total",
                "Connections that drain.deadline cut off.",
            ),
            access_lines_dropped: make.counter(
                "access_lines_dropped_total",
                "Access lines lost because standard output was not read.",
            ),
            spans_dropped: make.counter(
                "spans_dropped_total",
                "Spans lost because the receiver of traces was too slow, or did not take them.",
            ),
            admin_requests: make.counters(
                "admin_requests_total",
                "Requests to the admin API; `action` is the operation's id.",
                &["action", "status"],
            ),
            admin_login_failures: make.counters(
                "admin_login_failures_total",
                "Tokens and signatures that open nothing, and those not looked at after too many of them.",
                &["reason"],
            ),
            registry: make.0,
            process: process(),
            refused: Mutex::default(),
        }
    }

    /// Counts the refusal of a token that is in the table.
    pub fn credential_refused(&self, credential_id: &str, reason: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let series: usize = refused.values().map(HashMap::len).sum();
        let by_id = refused.entry(reason).or_default();
        if let Some(counter) = by_id.get(credential_id) {
            counter.inc();
        } else if series < REFUSAL_SERIES_MAX {
            let counter = self.credential_refusals.with_label_values(&[credential_id, reason]);
            counter.inc();
            by_id.insert(credential_id.to_owned(), counter);
        }
    }

    /// All of it in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&families, &mut text).expect("our metrics have valid names");
        text
    }
}

const REFUSAL_SERIES_MAX: usize = 1000;

/// 50 microseconds to 10 seconds, around what a decision and a backend take.
const BUCKETS: [f64; 17] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

/// Makes families and registers each.
struct Maker(Registry);

impl Maker {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, family: C) -> C {
        self.0.register(Box::new(family.clone())).expect("each name is used once");
        family
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect("a valid name"))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help).expect("a valid name"))
    }

    fn plain_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help).expect("a valid name"))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.register(Histogram::with_opts(options).expect("a valid name"))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.register(HistogramVec::new(options, labels).expect("valid names"))
    }
}

/// CPU, memory and descriptors, under the names that every program gives them.
fn process() -> Registry {
    let registry = Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process)).expect("registered once");
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_many_credentials_do_not_make_series_without_end() {
        let metrics = Metrics::new();
        for credential in 0..2 * REFUSAL_SERIES_MAX {
            metrics.credential_refused(&format!("c-{credential}"), "credential_disabled");
        }
        let text = String::from_utf8(metrics.render()).expect("text");
        let series = text.lines().filter(|line| line.starts_with("scim_guard_credential_refusals"));
        assert_eq!(series.count(), REFUSAL_SERIES_MAX);
    }
}

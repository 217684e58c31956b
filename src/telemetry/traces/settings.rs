//! What the environment says about traces, in the variables that OpenTelemetry's specification names.
//! What cannot be done as it is said there is told at the start, and never guessed at.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use percent_encoding::percent_decode_str;

use super::sampler::Sampler;
use crate::config::value::is_loopback;

/// How traces are made and where they go.
#[derive(Debug)]
pub struct Settings {
    pub endpoint: Uri,
    /// Authorities to trust in place of the system's.
    pub certificate: Option<PathBuf>,
    /// The variable that says so.
    pub certificate_name: String,
    /// Whether the exporter sends headers of the environment with each batch.
    has_headers: bool,
    /// For one batch, with all that is tried again.
    pub timeout: Duration,
    pub sampler: Sampler,
    pub resource: Resource,
    /// Spans that may wait; what comes on top of them is lost.
    pub queue: usize,
    /// Spans in one request to the receiver.
    pub batch: usize,
    /// How long spans wait for a batch to fill.
    pub delay: Duration,
}

impl Settings {
    /// `None` if nobody asks for traces. Fails with all that is wrong, each with its variable.
    pub fn from_env() -> Result<Option<Self>, Vec<String>> {
        Self::read(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
    }

    pub fn is_secure(&self) -> bool {
        self.endpoint.scheme_str() == Some("https")
    }

    /// Whether what may be a secret for the receiver is to be read on its way there.
    pub fn exposes_headers(&self) -> bool {
        let host = self.endpoint.host().unwrap_or_default();
        self.has_headers && !self.is_secure() && !is_loopback(host)
    }

    /// What logs call it. A query may have a secret.
    pub fn receiver(&self) -> String {
        let (endpoint, scheme) = (&self.endpoint, self.endpoint.scheme_str());
        let authority = endpoint.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", scheme.unwrap_or_default(), endpoint.path())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Vec<String>> {
        let mut reader = Reader { variable, faults: Vec::new() };
        if !reader.wants_traces() {
            return if reader.faults.is_empty() { Ok(None) } else { Err(reader.faults) };
        }
        let endpoint = reader.endpoint();
        reader.check_transport();
        let (queue, batch) =
            (reader.number(QUEUE, QUEUE_DEFAULT), reader.number(BATCH, BATCH_DEFAULT));
        if batch > queue {
            reader.fault(BATCH, &format!("{batch}: is more than {QUEUE} ({queue}): lower it"));
        }
        let delay = reader.number(DELAY, DELAY_DEFAULT);
        let certificate = reader.either("CERTIFICATE");
        let certificate_name = certificate.as_ref().map_or(String::new(), |(name, _)| name.clone());
        let settings = Self {
            certificate: certificate.map(|(_, path)| path.into()),
            certificate_name,
            has_headers: reader.either("HEADERS").is_some(),
            timeout: reader.timeout(),
            sampler: reader.sampler(),
            resource: reader.resource(),
            queue: queue as usize,
            batch: batch as usize,
            delay: Duration::from_millis(delay),
            endpoint: endpoint.unwrap_or_default(),
        };
        if reader.faults.is_empty() { Ok(Some(settings)) } else { Err(reader.faults) }
    }
}

struct Reader<F> {
    variable: F,
    faults: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// An empty value is none, says the specification.
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty())
    }

    /// What is set for traces goes before what is set for all signals.
    fn either(&self, rest: &str) -> Option<(String, String)> {
        let names = [format!("{OTLP}TRACES_{rest}"), format!("{OTLP}{rest}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn fault(&mut self, name: &str, what: &str) {
        self.faults.push(format!("{name}: {what}"));
    }

    fn wants_traces(&mut self) -> bool {
        if self.get(DISABLED).is_some_and(|it| it.eq_ignore_ascii_case("true")) {
            return false;
        }
        match self.get(EXPORTER).as_deref() {
            None => self.either("ENDPOINT").is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                let what = format!("{other}: is not known here: set otlp, or none for no traces");
                self.fault(EXPORTER, &what);
                false
            }
        }
    }

    fn endpoint(&mut self) -> Option<Uri> {
        let (name, text) = self
            .either("ENDPOINT")
            .unwrap_or_else(|| (format!("{OTLP}ENDPOINT"), ENDPOINT_DEFAULT.to_owned()));
        let path = if name.contains("TRACES") { "" } else { TRACES_PATH };
        let whole =
            format!("{}{path}", if path.is_empty() { &text } else { text.trim_end_matches('/') });
        let uri = whole.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        let Some(uri) = uri else {
            // Its text may have a secret.
            self.fault(&name, &format!("is no URL such as {ENDPOINT_DEFAULT}"));
            return None;
        };
        if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
            let what = format!("has a user's name before `@`: put it into {OTLP}HEADERS");
            self.fault(&name, &what);
        }
        Some(uri)
    }

    /// What the exporter takes from the environment by itself, or does not know.
    fn check_transport(&mut self) {
        if let Some((name, value)) = self.either("PROTOCOL").filter(|(_, it)| it != PROTOCOL) {
            let what = format!(
                "{value}: is not spoken here: set {PROTOCOL}, and an endpoint with the port that \
                 the receiver has for it, usually 4318"
            );
            self.fault(&name, &what);
        }
        if let Some((name, value)) = self.either("COMPRESSION").filter(|(_, it)| it != "none") {
            self.fault(&name, &format!("{value}: is not known here: set none, or unset it"));
        }
        for rest in ["CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((name, _)) = self.either(rest) {
                self.fault(&name, "we show no certificate to the receiver: unset it");
            }
        }
        if let Some((name, value)) = self.either("HEADERS") {
            for (index, entry) in value.split_terminator(',').enumerate() {
                if !is_header(entry) {
                    // Its text may be a secret.
                    let what = format!("entry {}: is no NAME=VALUE of a header", index + 1);
                    self.fault(&name, &what);
                }
            }
        }
    }

    fn timeout(&mut self) -> Duration {
        let name =
            self.either("TIMEOUT").map_or_else(|| format!("{OTLP}TIMEOUT"), |(name, _)| name);
        Duration::from_millis(self.number(&name, TIMEOUT_DEFAULT))
    }

    fn number(&mut self, name: &str, default: u64) -> u64 {
        let Some(text) = self.get(name) else { return default };
        let number = text.parse().ok().filter(|number| (1..=NUMBER_MAX).contains(number));
        number.unwrap_or_else(|| {
            self.fault(name, &format!("{text}: is no whole number from 1 to {NUMBER_MAX}"));
            default
        })
    }

    fn sampler(&mut self) -> Sampler {
        let name = self.get(SAMPLER).unwrap_or_else(|| SAMPLER_DEFAULT.to_owned());
        let ratio = if name.ends_with("traceidratio") { self.ratio() } else { 1.0 };
        Sampler::parse(&name, ratio).unwrap_or_else(|| {
            let known = Sampler::NAMES.join(", ");
            self.fault(SAMPLER, &format!("{name}: is not known here: set one of {known}"));
            Sampler::parse(SAMPLER_DEFAULT, 1.0).expect("it is one of them")
        })
    }

    fn ratio(&mut self) -> f64 {
        let Some(text) = self.get(SAMPLER_RATIO) else { return 1.0 };
        let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.unwrap_or_else(|| {
            self.fault(SAMPLER_RATIO, &format!("{text}: is no ratio from 0 to 1, such as 0.05"));
            1.0
        })
    }

    fn resource(&mut self) -> Resource {
        let mut attributes = vec![
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        ];
        let said = self.get(RESOURCE).unwrap_or_default();
        for entry in said.split_terminator(',') {
            let pair = entry.split_once('=').map(|(key, value)| (key.trim(), decoded(value)));
            match pair {
                Some((key, Some(value))) if !key.is_empty() => {
                    attributes.push(KeyValue::new(key.to_owned(), value));
                }
                _ => {
                    let entry = entry.trim();
                    self.fault(RESOURCE, &format!("`{entry}`: is no KEY=VALUE: mend or remove it"));
                }
            }
        }
        attributes.extend(self.get(SERVICE).map(|name| KeyValue::new("service.name", name)));
        // Of two with one key the last one counts.
        Resource::builder_empty().with_attributes(attributes).build()
    }
}

fn decoded(value: &str) -> Option<String> {
    Some(percent_decode_str(value.trim()).decode_utf8().ok()?.into_owned())
}

fn is_header(entry: &str) -> bool {
    let Some((name, value)) = entry.split_once('=') else { return false };
    let value = decoded(value).filter(|value| HeaderValue::from_str(value).is_ok());
    name.trim().parse::<HeaderName>().is_ok() && value.is_some()
}

const OTLP: &str = "OTEL_EXPORTER_OTLP_";
const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLER_DEFAULT: &str = "parentbased_always_on";
const SERVICE: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const BATCH: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";
const PROTOCOL: &str = "http/protobuf";
const ENDPOINT_DEFAULT: &str = "http://localhost:4318";
const TRACES_PATH: &str = "/v1/traces";
// The specification's. Times are milliseconds.
const TIMEOUT_DEFAULT: u64 = 10_000;
const QUEUE_DEFAULT: u64 = 2048;
const BATCH_DEFAULT: u64 = 512;
const DELAY_DEFAULT: u64 = 5000;
const NUMBER_MAX: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, Vec<String>> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn on(variables: &[(&str, &str)]) -> Settings {
        read(variables).expect("valid").expect("asked for")
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_are_made_only_if_somebody_asks_for_them() {
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "nonsense")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
        ] {
            assert!(read(variables).expect("valid").is_none(), "{variables:?}");
        }
        let settings = on(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(settings.endpoint, "http://localhost:4318/v1/traces");
    }

    #[test]
    fn the_endpoint_of_traces_is_taken_as_it_is() {
        let at = |variables: &[_]| on(variables).endpoint.to_string();
        assert_eq!(at(&[ENDPOINT]), "http://collector:4318/v1/traces");
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/otlp/");
        assert_eq!(at(&[base]), "https://collector/otlp/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:1/here");
        assert_eq!(at(&[ENDPOINT, own]), "http://other:1/here");
    }

    #[test]
    fn the_resource_is_named_by_the_most_specific_variable() {
        let named = |variables: &[_]| {
            let resource = on(variables).resource;
            ["service.name", "k"].map(|key| resource.get(&Key::new(key)).map(|it| it.to_string()))
        };
        let said = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, k = b%2Cc,");
        let (a, c) = (Some("a".to_owned()), Some("b,c".to_owned()));
        assert_eq!(named(&[ENDPOINT]), [Some("scim-guard".to_owned()), None]);
        assert_eq!(named(&[ENDPOINT, said]), [a, c.clone()]);
        let own = ("OTEL_SERVICE_NAME", "own");
        assert_eq!(named(&[ENDPOINT, said, own]), [Some("own".to_owned()), c]);
    }

    #[test]
    fn headers_in_clear_text_are_noticed() {
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=x");
        for (endpoint, exposed) in [
            ("http://collector:4318", true),
            ("https://collector:4318", false),
            ("http://localhost:4318", false),
            ("http://127.0.0.1:4318", false),
            ("http://[::1]:4318", false),
        ] {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
            assert_eq!(on(&[endpoint, headers]).exposes_headers(), exposed, "{endpoint:?}");
            assert!(!on(&[endpoint]).exposes_headers());
        }
    }

    #[test]
    fn what_cannot_be_done_is_told_with_its_variable_and_no_secret() {
        for (name, value, told) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is no URL"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector", "is no URL"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://planted:planted@collector", "HEADERS"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "planted:planted@collector:4318", "is no URL"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "set http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "set none"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem", "unset it"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,planted", "entry 2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=planted%0A", "entry 1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "whole number"),
            ("OTEL_TRACES_EXPORTER", "otlp,console", "set otlp"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "`c`"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "OTEL_BSP_MAX_QUEUE_SIZE (2048)"),
        ] {
            let faults = read(&[(name, value), ENDPOINT]).expect_err(name);
            let [fault] = &faults[..] else { panic!("{faults:?}") };
            assert!(fault.starts_with(name) && fault.contains(told), "{fault}");
            assert!(!fault.contains("planted"), "{fault}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let faults = read(&[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", "5%")]);
        let expected = "OTEL_TRACES_SAMPLER_ARG: 5%: is no ratio from 0 to 1, such as 0.05";
        assert_eq!(faults.expect_err("no ratio"), [expected]);
    }
}

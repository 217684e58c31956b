//! Which requests get spans.

use opentelemetry::TraceId;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::{Sampler as Rule, SamplingDecision, ShouldSample};

/// Which requests get spans: a rule, and whether it is only for those whose client says nothing.
#[derive(Clone, Debug)]
pub struct Sampler {
    rule: Rule,
    parent_based: bool,
}

impl Sampler {
    pub const NAMES: [&str; 6] = [
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
        "always_on",
        "always_off",
        "traceidratio",
    ];

    /// One of [`Self::NAMES`].
    pub fn parse(name: &str, ratio: f64) -> Option<Self> {
        let own = name.strip_prefix("parentbased_");
        let rule = match own.unwrap_or(name) {
            "always_on" => Rule::AlwaysOn,
            "always_off" => Rule::AlwaysOff,
            "traceidratio" => Rule::TraceIdRatioBased(ratio),
            _ => return None,
        };
        Some(Self { rule, parent_based: own.is_some() })
    }

    /// `parent` is whether the client's own span is sampled, if it named one.
    pub fn samples(&self, trace: u128, parent: Option<bool>) -> bool {
        if let Some(parent) = parent.filter(|_| self.parent_based) {
            return parent;
        }
        let trace = TraceId::from(trace);
        let result = self.rule.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_decides_where_the_sampler_says_so() {
        // Without a parent, with one that is sampled, and with one that is not.
        for (name, expected) in [
            ("parentbased_always_on", [true, true, false]),
            ("parentbased_always_off", [false, true, false]),
            ("parentbased_traceidratio", [false, true, false]),
            ("always_on", [true, true, true]),
            ("always_off", [false, false, false]),
            ("traceidratio", [false, false, false]),
        ] {
            let sampler = Sampler::parse(name, 0.0).expect("known");
            let samples = [None, Some(true), Some(false)].map(|it| sampler.samples(1, it));
            assert_eq!(samples, expected, "{name}");
        }
        assert!(Sampler::NAMES.iter().all(|name| Sampler::parse(name, 1.0).is_some()));
        assert!(Sampler::parse("parentbased_jaeger_remote", 1.0).is_none());
    }

    #[test]
    fn a_ratio_goes_by_the_trace_so_that_all_who_have_it_agree() {
        let sampler = Sampler::parse("traceidratio", 0.25).expect("known");
        let sampled = |trace| sampler.samples(trace, None);
        assert!(sampled(1) && !sampled(u128::from(u64::MAX)));
        let traces = (0..1000).map(|index| (index * 2 + 1) * (u128::from(u64::MAX) / 2000));
        assert_eq!(traces.filter(|trace| sampled(*trace)).count(), 250);
    }
}

//! What stands in `proxy.yaml`: it is right or refused, says nothing of what it quotes, and means
//! the same once it was printed.

use std::path::Path;

use http::Request;

use super::{PLANTED, Trial};
use crate::config::Config;
use crate::config::value::{RouteTenant, Segment};
use crate::config::yaml::Node;
use crate::credential::TenantId;
use crate::route::{Routes, Target};

pub fn target() -> Trial {
    Box::new(|input| {
        if let Ok(text) = std::str::from_utf8(input) {
            check(text);
        }
    })
}

fn check(text: &str) {
    let lines = text.split(['\n', '\r']).count() as u64;
    let config = match Config::parse(text, Path::new("/etc/guard")) {
        Ok(config) => config,
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a word");
            for fault in faults {
                assert!(fault.line <= lines, "{fault}: there are {lines} lines");
            }
            tells_no_secret(text);
            return;
        }
    };
    let printed = config.to_yaml();
    let again = Config::parse(&printed, Path::new("/somewhere/else"));
    let again = again.unwrap_or_else(|faults| panic!("{faults:?} in what was printed:\n{printed}"));
    assert_eq!(again, config, "{printed}");
    assert_eq!(config.restart_needed(&again), None);
    let Some(proxy) = &config.proxy else { return };
    let routes = Routes::new(&proxy.routes);
    for route in &proxy.routes {
        let named = match &route.tenant {
            RouteTenant::One(_) => "z",
            RouteTenant::ByPath => "named",
        };
        let segments = route.path.segments().iter().map(|segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Tenant => format!("/{named}"),
        });
        let path = segments.collect::<String>() + "/Users";
        let host = route.host.as_ref().map(|host| host.as_str());
        let request = Request::get(path.as_str()).header("host", host.unwrap_or("h")).body(());
        let request = request.unwrap_or_else(|error| panic!("{path}: {error}")).into_parts().0;
        let target = Target::parse(&request).unwrap_or_else(|why| panic!("{path}: {why:?}"));
        // Two routes may be so alike that neither is reached by some paths.
        if let Ok(place) = routes.find(&target) {
            let place = place.unwrap_or_else(|| panic!("{path} is nobody's"));
            assert!(TenantId::parse(place.tenant.name).is_ok(), "{path}");
            assert!(path.ends_with(place.rest), "{path}");
        }
    }
}

/// What is wrong with the form of a text is told without any of it.
fn tells_no_secret(text: &str) {
    let faults = match Node::parse(text) {
        Ok(node) => node.decode::<Config>().faults,
        Err(fault) => vec![fault],
    };
    for fault in faults {
        assert!(!fault.to_string().contains(PLANTED), "{fault}");
    }
}

//! `check`: tells all faults at once, also those of the files that the config names.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::ConfigFile;
use super::output::{Form, Output};
use crate::admin::Members;
use crate::clock::Clock;
use crate::config::value::SecretRef;
use crate::config::yaml::Fault;
use crate::config::{self, Config, Invalid, read_secret};
use crate::proxy::Settings;
use crate::server::Tls;
use crate::source::alibaba::Alibaba;
use crate::source::client::Client;
use crate::source::file::{CredentialReader, DenyList, Faults, Format};
use crate::source::tencent::Tencent;
use crate::source::watch::{Look, WatchedFile};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;

pub fn run(file: &ConfigFile, print: bool, output: &Output) -> Result<ExitCode, String> {
    let config = Config::load(&file.file);
    let Examined { facts, warnings, faults } = match &config {
        Ok(config) => examine(config, &file.file.display().to_string()),
        Err(invalid) => Examined { faults: told(invalid), ..Examined::default() },
    };
    if output.form == Form::Json {
        let valid = faults.is_empty();
        let mut all = vec![("valid", json!(valid)), ("faults", Value::from(faults.clone()))];
        all.push(("warnings", Value::from(warnings)));
        all.extend(facts);
        output.print(&all);
    } else {
        warnings.iter().for_each(|warning| anstream::eprintln!("warning: {warning}"));
        faults.iter().for_each(|fault| anstream::eprintln!("{fault}"));
        if faults.is_empty() && !print {
            output.print(&facts);
        }
    }
    if let Some(config) = config.ok().filter(|_| print && faults.is_empty()) {
        anstream::print!("{}", config.to_yaml());
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(invalid: &Invalid) -> Vec<String> {
    invalid.to_string().lines().map(str::to_owned).collect()
}

/// What the config amounts to, and what is to be said of the files that it names.
#[derive(Default)]
struct Examined {
    facts: Vec<(&'static str, Value)>,
    warnings: Vec<String>,
    faults: Vec<String>,
}

fn examine(config: &Config, name: &str) -> Examined {
    let (mut warnings, mut faults) = (Vec::new(), Vec::new());
    let mut facts = vec![("config", json!(name))];
    if let Some(proxy) = &config.proxy {
        facts.push(("listeners", json!(proxy.listeners.len())));
        facts.push(("routes", json!(proxy.routes.len())));
        faults.extend(Settings::new(proxy, &config.log).err().into_iter().flatten());
    }
    faults.extend(traces::Settings::from_env().err().into_iter().flatten());
    let listeners = config.proxy.iter().flat_map(|proxy| proxy.listeners.iter().enumerate());
    let doors = listeners.map(|(index, it)| (format!("proxy.listeners[{index}].tls"), &it.tls));
    if !config.decision.is_empty() {
        facts.push(("decision_listeners", json!(config.decision.len())));
    }
    let decision = config.decision.iter().enumerate();
    let decision = decision.map(|(index, it)| (format!("decision[{index}].tls"), &it.tls));
    let admin = config.admin.iter().map(|admin| ("admin.tls".to_owned(), &admin.tls));
    let now = Clock::system().now().wall;
    for (place, tls) in doors.chain(decision).chain(admin) {
        match tls.as_ref().map(|tls| Tls::load(tls, &place)).transpose() {
            Ok(tls) => warnings.extend(tls.iter().flat_map(|tls| tls.expired(now))),
            Err(told) => faults.extend(told),
        }
    }
    if let Some(admin) = &config.admin {
        facts.push(("admin_tokens", json!(admin.tokens.len())));
        faults.extend(Members::load(&admin.tokens).err().into_iter().flatten());
    }
    if let Some(native) = &config.credentials.native {
        facts.push(("admin_api", json!(native.url.to_string())));
        let secret = read_secret(&native.token).map(drop);
        faults.extend(secret.err().map(|what| format!("credentials.native.token: {what}")));
        let (url, token, ca) = (native.url.clone(), native.token.clone(), native.ca.as_deref());
        let client = Client::new(url, token, ca).map(drop);
        faults.extend(client.err().map(|what| format!("credentials.native.ca: {what}")));
    }
    let (tencent, alibaba) = (&config.credentials.tencent, &config.credentials.alibaba);
    let clouds = clouds("credentials", tencent.as_ref(), alibaba.as_ref());
    let mirrored = config.admin.iter().flat_map(|admin| admin.mirror.iter().enumerate());
    let mirrored = mirrored.flat_map(|(index, it)| {
        let place = format!("admin.mirror[{index}]");
        self::clouds(&place, it.tencent.as_ref(), it.alibaba.as_ref())
    });
    let mirrored: Vec<_> = mirrored.collect();
    for cloud in clouds.iter().chain(&mirrored) {
        facts.push((cloud.name, json!(cloud.about)));
        let place = |key: &str| format!("{}.{key}", cloud.place);
        for (key, secret) in &cloud.secrets {
            let refused = secret.and_then(|secret| read_secret(secret).err());
            faults.extend(refused.map(|what| format!("{}: {what}", place(key))));
        }
        faults.extend(cloud.client.as_ref().err().map(|what| format!("{}: {what}", place("ca"))));
    }
    let mut read = |path: &Path, key: &'static str, count: CountRows<'_>| match read_whole(path) {
        Err(error) => faults.push(format!("{key}: {}: {error}", path.display())),
        Ok(content) => match count(&content) {
            Ok(rows) => facts.push((key, json!(rows))),
            Err(Faults(told)) => {
                let line = |fault: &Fault| format!("{}: {fault}", path.display());
                faults.extend(told.iter().map(line));
            }
        },
    };
    if let Some(file) = &config.credentials.file {
        let mut reader = CredentialReader::new(Format::of(&file.path));
        read(&file.path, "credentials.file", &mut |content| Ok(reader.read(content)?.len()));
    }
    if let Some(path) = &config.credentials.deny {
        read(path, "credentials.deny", &mut |content| Ok(DenyList::read(content)?.len()));
    }
    for Cloud { name, enrolment, enrolment_key, .. } in &clouds {
        let Some(path) = enrolment else { continue };
        if std::fs::exists(path).is_ok_and(|there| !there) {
            warnings.push(format!(
                "{enrolment_key}: {} is not there yet: `scim-guard credential create` and `enroll` make \
                 it; until then no token of {name} is known",
                path.display()
            ));
            continue;
        }
        let mut reader = CredentialReader::new(Format::of(path));
        read(path, enrolment_key, &mut |content| Ok(reader.read(content)?.len()));
    }
    Examined { facts, warnings, faults }
}

/// A cloud's section, tried as far as that goes without asking the cloud.
struct Cloud<'a> {
    name: &'static str,
    /// Where its section stands.
    place: String,
    about: String,
    client: Result<(), String>,
    secrets: [(&'static str, Option<&'a SecretRef>); 3],
    enrolment: Option<&'a Path>,
    enrolment_key: &'static str,
}

fn clouds<'a>(
    place: &str,
    tencent: Option<&'a config::Tencent>,
    alibaba: Option<&'a config::Alibaba>,
) -> Vec<Cloud<'a>> {
    let metrics = || Arc::new(Metrics::new());
    let tencent = tencent.map(|section| Cloud {
        name: "tencent",
        place: format!("{place}.tencent"),
        about: format!("{} at {}", section.zone_id, section.endpoint),
        client: Tencent::new(section, Clock::system(), metrics()).map(drop),
        secrets: [
            ("secret_id", Some(&section.secret_id)),
            ("secret_key", Some(&section.secret_key)),
            ("security_token", section.security_token.as_ref()),
        ],
        enrolment: section.enrolment.as_deref(),
        enrolment_key: "credentials.tencent.enrolment",
    });
    let alibaba = alibaba.map(|section| Cloud {
        name: "alibaba",
        place: format!("{place}.alibaba"),
        about: format!("{} at {}", section.directory_id, section.endpoint),
        client: Alibaba::new(section, Clock::system(), metrics()).map(drop),
        secrets: [
            ("access_key_id", Some(&section.access_key_id)),
            ("access_key_secret", Some(&section.access_key_secret)),
            ("security_token", section.security_token.as_ref()),
        ],
        enrolment: section.enrolment.as_deref(),
        enrolment_key: "credentials.alibaba.enrolment",
    });
    tencent.into_iter().chain(alibaba).collect()
}

fn read_whole(path: &Path) -> std::io::Result<Vec<u8>> {
    match WatchedFile::new(path).look()? {
        Look::Read { content, .. } => Ok(content),
        Look::Same => unreachable!("the first look reads"),
    }
}

type CountRows<'a> = &'a mut dyn FnMut(&[u8]) -> Result<usize, Faults>;

//! Where the admin API is and which token opens it: by arguments and the environment, or else by
//! the config.

use std::path::PathBuf;

use clap::Args;

use super::Api;
use crate::admin::members;
use crate::cli::cloud::CloudAccount;
use crate::cli::{ConfigFile, argument, health};
use crate::config::value::{AdminUrl, RouteTenant, SecretRef};
use crate::config::{Admin, Config, Native, Source};
use crate::credential::TenantId;

#[derive(Args)]
pub struct ApiArgs {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Where the admin API is. Default: what the config says
    #[arg(long, value_name = "URL", env = "SCIM_GUARD_ADMIN_URL", global = true)]
    #[arg(value_parser = argument::ADMIN_URL)]
    admin_url: Option<AdminUrl>,
    /// Where the token for it is: file:PATH or env:NAME. Default: what the config says
    #[arg(long, value_name = "REFERENCE", env = "SCIM_GUARD_ADMIN_TOKEN", global = true)]
    #[arg(value_parser = argument::SECRET_REF, hide_env_values = true)]
    admin_token: Option<SecretRef>,
    /// Certificates, in PEM, that the admin API's one must come from. Default: the system's
    #[arg(long, value_name = "PATH", global = true)]
    admin_ca: Option<PathBuf>,
    /// Allow http:// beyond loopback: whoever listens on the way reads tokens
    #[arg(long, global = true)]
    insecure_cleartext: bool,
}

/// What administers the credentials.
pub enum Backend {
    Admin(Api),
    /// The proxies ask a cloud themselves.
    Cloud(CloudAccount),
}

/// An admin API that was found, and who named it.
pub struct Found {
    pub url: AdminUrl,
    pub token: SecretRef,
    pub ca: Option<PathBuf>,
    pub cleartext_allowed: bool,
    /// Who named them, as people can look it up.
    pub url_from: String,
    pub token_from: String,
    /// The tenants that the config names, if it is what led here.
    pub tenants: Vec<TenantId>,
}

impl ApiArgs {
    /// Fails if it is not told where the API is, or the token cannot be read. Nobody is asked yet.
    pub fn open(&self) -> Result<Api, String> {
        let found = match (&self.admin_url, &self.admin_token) {
            (Some(url), Some(token)) => self.told(url, token),
            (Some(_), None) => {
                return Err(
                    "a URL alone does not open it: name the token for it by --admin-token \
                            or SCIM_GUARD_ADMIN_TOKEN (file:PATH or env:NAME)"
                        .to_owned(),
                );
            }
            (None, _) => {
                let or = "or name an admin API by --admin-url and --admin-token";
                let config = self.config.load().map_err(|invalid| format!("{invalid}\n{or}"))?;
                self.in_config(&config)?
            }
        };
        Api::open(found)
    }

    /// The same, unless the config's proxies ask a cloud themselves and no URL is named.
    pub fn backend(&self) -> Result<Backend, String> {
        let config = self.admin_url.is_none().then(|| self.config.load().ok()).flatten();
        match config.and_then(|config| CloudAccount::followed(&config, &self.config.file)) {
            Some(account) => Ok(Backend::Cloud(account?)),
            None => Ok(Backend::Admin(self.open()?)),
        }
    }

    fn told(&self, url: &AdminUrl, token: &SecretRef) -> Found {
        Found {
            url: url.clone(),
            token: token.clone(),
            ca: self.admin_ca.clone(),
            cleartext_allowed: self.insecure_cleartext,
            url_from: "--admin-url or SCIM_GUARD_ADMIN_URL".to_owned(),
            token_from: TOKEN_ARGUMENT.to_owned(),
            tenants: Vec::new(),
        }
    }

    /// What the config's proxies follow, or else what it serves.
    fn in_config(&self, config: &Config) -> Result<Found, String> {
        let file = self.config.file.display();
        let native = config.credentials.native.as_ref();
        let follows = config.credentials.source == Source::Native;
        let mut found = match (&config.admin, native) {
            (_, Some(native)) if follows => followed(native, &file.to_string()),
            (Some(admin), _) => served(admin, &file.to_string())?,
            (None, Some(native)) => followed(native, &file.to_string()),
            (None, None) if config.credentials.source.is_cloud() => {
                return Err(format!(
                    "the proxies of {file} ask {} themselves: for this name an admin API by \
                     --admin-url and --admin-token",
                    config.credentials.source.as_str()
                ));
            }
            (None, None) => {
                return Err(format!(
                    "{file} has neither a section `admin` nor `credentials.native`: name an admin \
                     API by --admin-url and --admin-token"
                ));
            }
        };
        if let Some(token) = &self.admin_token {
            (found.token, found.token_from) = (token.clone(), TOKEN_ARGUMENT.to_owned());
        }
        if let Some(ca) = &self.admin_ca {
            found.ca = Some(ca.clone());
        }
        found.cleartext_allowed |= self.insecure_cleartext;
        found.tenants = tenants(config);
        Ok(found)
    }
}

const TOKEN_ARGUMENT: &str = "--admin-token or SCIM_GUARD_ADMIN_TOKEN";

/// The admin API that a process with this config serves, with the operator's token of its first
/// start.
fn served(admin: &Admin, file: &str) -> Result<Found, String> {
    let listen = health::reachable(admin.listen.0);
    if listen.port() == 0 {
        return Err(format!(
            "admin.listen in {file} lets the system choose the port: name it by --admin-url and \
             --admin-token"
        ));
    }
    let url = AdminUrl { secure: admin.tls.is_some(), authority: listen.to_string() };
    Ok(Found {
        url,
        token: SecretRef::File(members::file_beside(&admin.store.0)),
        ca: None,
        cleartext_allowed: admin.insecure_cleartext,
        url_from: format!("admin.listen in {file}"),
        token_from: "written beside the store at its first start".to_owned(),
        tenants: Vec::new(),
    })
}

fn followed(native: &Native, file: &str) -> Found {
    Found {
        url: native.url.clone(),
        token: native.token.clone(),
        ca: native.ca.clone(),
        cleartext_allowed: native.insecure_cleartext,
        url_from: format!("credentials.native.url in {file}"),
        token_from: format!("credentials.native.token in {file}"),
        tenants: Vec::new(),
    }
}

fn tenants(config: &Config) -> Vec<TenantId> {
    let routes = config.proxy.iter().flat_map(|proxy| &proxy.routes);
    let by_routes = routes.filter_map(|route| match &route.tenant {
        RouteTenant::One(tenant) => Some(tenant.clone()),
        RouteTenant::ByPath => None,
    });
    let declared = config.admin.iter().flat_map(|admin| &admin.tenants);
    let mut all: Vec<_> = by_routes.chain(declared.map(|tenant| tenant.0.clone())).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SERVED: &str = "\
credentials: { source: embedded }
admin: { listen: '0.0.0.0:8081', insecure_cleartext: true, store: 'sqlite:data/admin.db', tenants: [z-2, z-1] }
";
    const FOLLOWED: &str = "\
credentials:
  source: native
  native: { url: 'https://guard-admin:8081', token: 'file:replica.token', ca: ca.pem }
";

    fn found(config: &str, arguments: ApiArgs) -> Result<Found, String> {
        let config = Config::parse(config, Path::new("/etc/guard")).expect("a valid config");
        arguments.in_config(&config)
    }

    fn arguments() -> ApiArgs {
        ApiArgs {
            config: ConfigFile { file: "proxy.yaml".into() },
            admin_url: None,
            admin_token: None,
            admin_ca: None,
            insecure_cleartext: false,
        }
    }

    #[test]
    fn a_config_leads_to_the_api_that_it_serves_or_follows() {
        let served = found(SERVED, arguments()).expect("found");
        assert_eq!(served.url.to_string(), "http://127.0.0.1:8081");
        assert_eq!(served.token.to_string(), "file:/etc/guard/data/admin.token");
        let tenants: Vec<_> = served.tenants.iter().map(TenantId::as_str).collect();
        assert_eq!(tenants, ["z-1", "z-2"]);

        let followed = found(FOLLOWED, arguments()).expect("found");
        assert_eq!(followed.url.to_string(), "https://guard-admin:8081");
        assert_eq!(followed.token.to_string(), "file:/etc/guard/replica.token");
        assert_eq!(followed.ca.as_deref(), Some(Path::new("/etc/guard/ca.pem")));

        let operator: SecretRef = "env:OPERATOR".parse().expect("valid");
        let own = ApiArgs { admin_token: Some(operator.clone()), ..arguments() };
        let followed = found(FOLLOWED, own).expect("found");
        assert_eq!((followed.token, &*followed.token_from), (operator, TOKEN_ARGUMENT));
    }

    #[test]
    fn a_config_that_leads_nowhere_is_told() {
        let file = "credentials: { source: file, file: { path: c.yaml } }\n";
        for (config, told) in [
            (file, "neither a section `admin`"),
            (&SERVED.replace(":8081'", ":0'"), "choose the port"),
        ] {
            let refusal = found(config, arguments()).err().expect(told);
            assert!(refusal.contains(told) && refusal.contains("--admin-url"), "{refusal}");
        }
        let url_alone = ApiArgs { admin_url: "https://a".parse().ok(), ..arguments() }.open().err();
        assert!(url_alone.is_some_and(|told| told.contains("--admin-token")));
    }
}

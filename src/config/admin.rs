//! The sections about the admin API: our own, and the one that is followed.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cloud::{Alibaba, Tencent};
use super::tls::Tls;
use super::value::{
    Address, AdminUrl, Instant, SecretRef, Span, StoreRef, TenantName, TimeOffset, rebase,
};

/// The admin API that is followed. All but `accept_history` needs a restart to change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Native {
    pub url: AdminUrl,
    /// Allow `http://` beyond loopback, where something else encrypts. Default: false.
    #[serde(default)]
    pub insecure_cleartext: bool,
    /// An admin token of role `replica`. Its file is read anew at each connection.
    pub token: SecretRef,
    /// Certificates, in PEM, that the admin API's one must come from. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// `list` fills the table ahead of time. Default: list.
    #[serde(default)]
    pub mode: Mode,
    /// A history that may be taken in place of the one we hold, when the admin API's store was
    /// replaced and nobody can run `source accept`. Take it out again afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_history: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    List,
}

/// The embedded admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where to listen. A change needs a restart.
    pub listen: Address,
    /// TLS, without which it listens on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Serve without TLS beyond loopback. Whoever can listen there reads admin tokens and new
    /// secrets. Default: false.
    #[serde(default)]
    pub insecure_cleartext: bool,
    /// Where credentials are kept: `sqlite:PATH`. On the first start the file is made, and beside
    /// it `admin.token` with an operator's token. A change needs a restart.
    pub store: StoreRef,
    /// Allow the store on a network file system, whose locks may not hold: two processes on one
    /// store can lose writes. Default: false.
    #[serde(default)]
    pub insecure_network_store: bool,
    /// Tenants that exist, beside those named by routes and those made through the API. Taking one
    /// out does not delete it. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantName>,
    /// Who may use the API, beside the operator of the first start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<AdminToken>,
    /// Who may use the API by a certificate instead of a token. Needs `tls` with `client_ca`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<AdminCertificate>,
    /// Zones and directories of clouds that are followed into the store, so that proxies follow it and
    /// the clouds see one who asks. Their credentials are created and changed there. A change needs
    /// a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<Mirrored>,
    /// Who may use the API with the SDKs of Tencent Cloud and Alibaba Cloud, which sign requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_keys: Vec<AccessKey>,
    /// The zone in which Tencent Cloud's SDKs are told times: their form names none. A change needs
    /// a restart. Default: +08:00.
    #[serde(default = "TimeOffset::china")]
    pub tencent_time_offset: TimeOffset,
    #[serde(default)]
    pub limits: AdminLimits,
}

/// One zone or directory: either `tencent` or `alibaba`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirrored {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tencent: Option<Tencent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alibaba: Option<Alibaba>,
    /// Between two listings. A token that is disabled in the cloud is refused that much later at the
    /// latest. Default: 30 seconds.
    #[serde(default = "Mirrored::default_interval")]
    pub interval: Span,
}

impl Mirrored {
    /// Of a checked config.
    pub fn tenant(&self) -> Option<&TenantName> {
        let zone = self.tencent.as_ref().map(|it| &it.zone_id);
        zone.or(self.alibaba.as_ref().map(|it| &it.directory_id))
    }

    fn default_interval() -> Span {
        Span::seconds(30)
    }
}

/// A named token for the admin API. The file is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminToken {
    /// What the audit log calls its holder.
    pub name: String,
    pub role: Role,
    /// The only tenants that it may see and change. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantName>,
    /// When it ends. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Instant>,
    /// At least 20 characters.
    pub token: SecretRef,
}

/// A client's certificate that stands for a token. A request with an `Authorization` header is
/// judged by that header alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminCertificate {
    /// One of its subject alternative names: a URI, such as `spiffe://example.com/proxy`, or a DNS
    /// name. Compared whole. The audit log calls its holder so.
    pub san: String,
    pub role: Role,
    /// The only tenants that it may see and change. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantName>,
}

/// A key that signs requests. The file of its secret is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// The `SecretId` or `AccessKeyId`; the audit log calls its holder so.
    pub id: String,
    /// The `SecretKey` or `AccessKeySecret`: at least 16 characters. Whoever has seen a signed
    /// request can guess at it for as long as he likes, so make it random.
    pub secret: SecretRef,
    /// Not `replica`.
    pub role: Role,
    /// The only tenants that it may see and change. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantName>,
}

/// What an admin token, certificate or key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything but what replicas do.
    Operator,
    /// Lists credentials and disables them.
    Responder,
    /// Sees what there is, and changes nothing.
    Reader,
    /// A proxy: follows the table, digests included, and reports.
    Replica,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Responder => "responder",
            Self::Reader => "reader",
            Self::Replica => "replica",
        }
    }
}

/// What one tenant may have, and how much may be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminLimits {
    /// Two let one be rotated without a gap. Expired ones count. Default: 2.
    pub credentials_per_tenant: usize,
    /// The shortest life of a new credential. Default: 1 hour.
    pub expire_min: Span,
    /// The longest life of a new credential. Default: 99 years.
    pub expire_max: Span,
    /// The life of one that was asked for without a word about it. Default: 1 year.
    pub expire_default: Span,
    /// Requests a second by an access key, for each action of Tencent Cloud's API. Default: 20.
    pub tencent_requests_per_second: u32,
    /// Requests a second by an access key, for each action of Alibaba Cloud's API. Default: 100.
    pub alibaba_requests_per_second: u32,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            credentials_per_tenant: 2,
            expire_min: Span::seconds(3600),
            expire_max: Span::seconds(99 * 365 * 86_400),
            expire_default: Span::seconds(365 * 86_400),
            tencent_requests_per_second: 20,
            alibaba_requests_per_second: 100,
        }
    }
}

/// What this process calls itself to the admin API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// A label; processes tell themselves apart by a random id. Default: the host's name. A change
    /// needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Native {
    pub(super) fn rebase(&mut self, directory: &Path) {
        self.token.rebase(directory);
        if let Some(ca) = &mut self.ca {
            rebase(ca, directory);
        }
    }
}

impl Admin {
    pub(super) fn rebase(&mut self, directory: &Path) {
        self.store.rebase(directory);
        if let Some(tls) = &mut self.tls {
            tls.rebase(directory);
        }
        self.tokens.iter_mut().for_each(|token| token.token.rebase(directory));
        for mirror in &mut self.mirror {
            mirror.tencent.iter_mut().for_each(|it| it.rebase(directory));
            mirror.alibaba.iter_mut().for_each(|it| it.rebase(directory));
        }
        self.access_keys.iter_mut().for_each(|key| key.secret.rebase(directory));
    }
}

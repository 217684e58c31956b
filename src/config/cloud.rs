//! The sections about a cloud whose SCIM credentials are followed.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{AdminUrl, SecretRef, TenantName, TimeOffset, rebase};

/// A zone of Tencent Cloud Organization. A change needs a restart; secrets are read anew at each
/// request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tencent {
    /// The zone, such as `z-demo00000000`: the tenant of its credentials.
    pub zone_id: TenantName,
    /// The id of the API key that signs our requests.
    pub secret_id: SecretRef,
    /// The key that belongs to `secret_id`.
    pub secret_key: SecretRef,
    /// The session token that goes with temporary keys. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_token: Option<SecretRef>,
    /// Where the API is; for accounts of the international site
    /// `https://organization.intl.tencentcloudapi.com`. Default:
    /// `https://organization.tencentcloudapi.com`.
    #[serde(default = "Tencent::default_endpoint")]
    pub endpoint: AdminUrl,
    /// Sent along for an endpoint that asks for it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The zone of the times in the cloud's answers, which have none. One that is too far east
    /// ends credentials early, one too far west lets them live on. Default: `+08:00`.
    #[serde(default = "Tencent::default_time_offset")]
    pub time_offset: TimeOffset,
    /// Certificates, in PEM, that the endpoint's one must come from. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allow an `http://` endpoint beyond loopback, where something else encrypts. Default: false.
    #[serde(default)]
    pub insecure_cleartext: bool,
    /// The digests of the credentials, which the cloud does not tell: a file as that of the `file`
    /// source. Watched. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<PathBuf>,
}

/// A directory of Alibaba Cloud CloudSSO. A change needs a restart; secrets are read anew at each
/// request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alibaba {
    /// The directory, such as `d-demo00000000`: the tenant of its credentials.
    pub directory_id: TenantName,
    /// The id of the AccessKey that signs our requests.
    pub access_key_id: SecretRef,
    /// The secret that belongs to `access_key_id`.
    pub access_key_secret: SecretRef,
    /// The token that goes with temporary keys of STS. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_token: Option<SecretRef>,
    /// Where the API of the directory's region is, such as
    /// `https://cloudsso.ap-southeast-1.aliyuncs.com`. Default:
    /// `https://cloudsso.cn-shanghai.aliyuncs.com`.
    #[serde(default = "Alibaba::default_endpoint")]
    pub endpoint: AdminUrl,
    /// Certificates, in PEM, that the endpoint's one must come from. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allow an `http://` endpoint beyond loopback, where something else encrypts. Default: false.
    #[serde(default)]
    pub insecure_cleartext: bool,
    /// The digests of the credentials, which the cloud does not tell: a file as that of the `file`
    /// source. Watched. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<PathBuf>,
}

impl Tencent {
    pub(super) fn rebase(&mut self, directory: &Path) {
        self.secret_id.rebase(directory);
        self.secret_key.rebase(directory);
        self.security_token.iter_mut().for_each(|token| token.rebase(directory));
        [&mut self.ca, &mut self.enrolment]
            .into_iter()
            .flatten()
            .for_each(|it| rebase(it, directory));
    }

    fn default_endpoint() -> AdminUrl {
        AdminUrl { secure: true, authority: "organization.tencentcloudapi.com".to_owned() }
    }

    fn default_time_offset() -> TimeOffset {
        TimeOffset::china()
    }
}

impl Alibaba {
    pub(super) fn rebase(&mut self, directory: &Path) {
        self.access_key_id.rebase(directory);
        self.access_key_secret.rebase(directory);
        self.security_token.iter_mut().for_each(|token| token.rebase(directory));
        [&mut self.ca, &mut self.enrolment]
            .into_iter()
            .flatten()
            .for_each(|it| rebase(it, directory));
    }

    fn default_endpoint() -> AdminUrl {
        AdminUrl { secure: true, authority: "cloudsso.cn-shanghai.aliyuncs.com".to_owned() }
    }
}

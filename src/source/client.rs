//! HTTP to admin APIs: connection pools, TLS by our own rules, bounded answers.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::clock::Timestamp;
use crate::config::read_secret;
use crate::config::value::{AdminUrl, SecretRef};
use crate::telemetry::with_causes;

/// An admin API and our token for it.
pub struct Client {
    http: Pool,
    url: AdminUrl,
    token: SecretRef,
}

/// An answer, read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Fails if the body breaks off, or is longer than it may be.
    pub async fn read(parts: Parts, body: Incoming, body_bytes_max: usize) -> Result<Self, String> {
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
        Ok(Self { status: parts.status, headers: parts.headers, body })
    }

    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// What a problem document says, or the status.
    pub fn complaint(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match problem["detail"].as_str().or_else(|| problem["title"].as_str()) {
            Some(detail) => format!("{} ({})", detail, self.status.as_u16()),
            None => format!("HTTP {}", self.status),
        }
    }

    /// The stable word of a problem document.
    pub fn code(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        problem["code"].as_str().map(str::to_owned)
    }
}

/// When an answer says that it was made.
pub fn date_of(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp::from_millis(date.timestamp().as_millisecond()))
}

impl Client {
    /// Fails if the certificates cannot be read.
    pub fn new(url: AdminUrl, token: SecretRef, ca: Option<&Path>) -> Result<Self, String> {
        Ok(Self { http: pool(url.secure, ca, usize::MAX)?, url, token })
    }

    pub fn url(&self) -> &AdminUrl {
        &self.url
    }

    /// Sends a request and reads the answer whole.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, String> {
        self.send_hearing(method, target, body, |_| {}).await
    }

    /// Sends a request, shows the headers of the answer when they have come, and reads it whole.
    pub async fn send_hearing(
        &self,
        method: Method,
        target: &str,
        body: Option<&serde_json::Value>,
        hear: impl FnOnce(&HeaderMap),
    ) -> Result<Answer, String> {
        let response = self.open(method, target, body, "application/json").await?;
        let (parts, body) = response.into_parts();
        hear(&parts.headers);
        let answer = Answer::read(parts, body, ANSWER_BYTES_MAX).await;
        answer.map_err(|error| format!("{}: {error}", self.url))
    }

    /// Sends a request and gives the answer as it begins.
    pub async fn open(
        &self,
        method: Method,
        target: &str,
        body: Option<&serde_json::Value>,
        accept: &'static str,
    ) -> Result<Response<Incoming>, String> {
        let secret = read_secret(&self.token)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {secret}"))
            .map_err(|_| format!("{}: has characters that no token has", self.token))?;
        bearer.set_sensitive(true);
        let uri: Uri = format!("{}{target}", self.url)
            .parse()
            .map_err(|error| format!("{target} is no target: {error}"))?;
        let content = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(uri);
        let headers = request.headers_mut().expect("built from valid parts");
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(content)).expect("built from valid parts");
        let opened = self.http.request(request).await;
        opened.map_err(|error| format!("{}: {}", self.url, with_causes(&error)))
    }
}

/// Connections to whoever a request names.
pub type Pool = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Keeps up to `idle_max` unused connections a host. Fails if the certificates cannot be read.
pub fn pool(secure: bool, ca: Option<&Path>, idle_max: usize) -> Result<Pool, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIME));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(ca, secure)?);
    let connector = if secure { builder.https_only() } else { builder.https_or_http() };
    let connector = connector.enable_http1().wrap_connector(http);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(idle_max)
        .http1_max_headers(100)
        .build(connector))
}

/// Trusts the certificates of a file, or else the system's, which nobody needs in clear text: reading
/// them takes a while.
fn tls(ca: Option<&Path>, secure: bool) -> Result<rustls::ClientConfig, String> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let roots = match ca {
        Some(path) => roots(path)?,
        None if !secure => RootCertStore::empty(),
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "this system has no certificates to trust: name some in `ca`".to_owned()
                );
            }
            roots
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let place = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{place}: no certificates in PEM: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(certificates);
    if taken == 0 { Err(format!("{place}: there is no certificate in it")) } else { Ok(roots) }
}

const CONNECT_TIME: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 << 20;

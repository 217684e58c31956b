//! Both clients against a stub that records what they send and plays what a cloud, or something
//! before it, may answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config;
use crate::signature::{self, acs3, tc3};
use crate::source::alibaba::Alibaba;
use crate::source::tencent::Tencent;

/// What the stub does with a request.
#[derive(Clone, Debug)]
enum Play {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Writes this and waits until the client has left.
    Silence(Vec<u8>),
}

impl Play {
    fn answer(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n");
        Self::Bytes((head + body).into_bytes())
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, "content-type: application/json\r\n", &body.to_string())
    }
}

/// A request as it came.
#[derive(Clone)]
struct Heard {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Heard {
    fn signed(&self) -> signature::Request<'_> {
        let Self { method, path, query, headers, body } = self;
        signature::Request { method, path, query, headers, body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text"))
    }
}

struct Stub {
    address: SocketAddr,
    plays: Arc<Mutex<VecDeque<Play>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Stub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (plays, heard) =
            (Arc::<Mutex<VecDeque<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (script, record) = (Arc::clone(&plays), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = hear(&mut stream).await;
                record.lock().expect("whole").push(request);
                let play = script.lock().expect("whole").pop_front();
                match play.expect("a play for each request") {
                    // Whoever has read enough may be gone.
                    Play::Bytes(bytes) => drop(stream.write_all(&bytes).await),
                    Play::Silence(bytes) => {
                        stream.write_all(&bytes).await.expect("written");
                        drop(stream.read(&mut [0]).await);
                    }
                }
            }
        });
        Self { address, plays, heard }
    }

    /// Does `call` while the stub plays, and gives back the request.
    async fn during<T>(&self, play: Play, call: impl Future<Output = T>) -> (T, Heard) {
        self.plays.lock().expect("whole").push_back(play);
        let outcome = call.await;
        let mut heard = std::mem::take(&mut *self.heard.lock().expect("whole"));
        assert_eq!(heard.len(), 1, "nothing is tried twice");
        (outcome, heard.remove(0))
    }

    fn url(&self) -> AdminUrl {
        format!("http://{}", self.address).parse().expect("a URL")
    }
}

/// Reads one request.
async fn hear(stream: &mut (impl AsyncReadExt + Unpin)) -> Heard {
    let mut bytes = Vec::new();
    loop {
        let read = stream.read_buf(&mut bytes).await.expect("readable");
        assert_ne!(read, 0, "a whole request");
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(end)) = request.parse(&bytes) else { continue };
        let target = request.path.expect("complete");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers: HeaderMap = request
            .headers
            .iter()
            .map(|header| {
                let name = header.name.parse::<http::HeaderName>().expect("a name");
                (name, HeaderValue::from_bytes(header.value).expect("a value"))
            })
            .collect();
        let length = headers.get("content-length").map_or("0", |it| it.to_str().expect("digits"));
        let length: usize = length.parse().expect("a number");
        if bytes.len() < end + length {
            continue;
        }
        return Heard {
            method: request.method.expect("complete").to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: bytes[end..].to_vec(),
        };
    }
}

/// One of the two, with what it takes to speak as it does.
struct Bed {
    cloud: Box<dyn Cloud>,
    stub: Stub,
    clock: Clock,
    /// With the key's parts, `id` and `key`.
    folder: tempfile::TempDir,
}

const NAMES: [&str; 2] = ["tencent", "alibaba"];
/// When all requests are signed: 2026-11-22T08:06:24Z, a second before the next hour's expiry.
const NOW: Timestamp = Timestamp::from_millis(1_795_334_784_250);
const TENANT: &str = "t-stub";

impl Bed {
    async fn new(name: &str) -> Self {
        Self::with(name, TENANT, json!({}), PATIENCE).await
    }

    async fn with(name: &str, tenant: &str, settings: Value, patience: Duration) -> Self {
        let stub = Stub::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("key"), "key-secret\n").expect("written");
        std::fs::write(folder.path().join("id"), "key-id").expect("written");
        let clock = Clock::manual(NOW);
        let cloud = make(name, tenant, &stub.url(), folder.path(), settings, &clock, patience);
        Self { cloud: cloud.expect("made"), stub, clock, folder }
    }

    async fn list(&self, play: Play) -> Result<Vec<Listed>, CloudError> {
        self.stub.during(play, self.cloud.list()).await.0
    }

    async fn create(&self, play: Play) -> Result<Created, CloudError> {
        self.stub.during(play, self.cloud.create(HOUR)).await.0
    }

    async fn delete(&self, play: Play) -> Result<(), CloudError> {
        self.stub.during(play, self.cloud.delete(&id("scimcred-1"))).await.0
    }

    async fn disable(&self, play: Play) -> Result<(), CloudError> {
        self.stub.during(play, self.cloud.set_status(&id("scimcred-1"), Status::Disabled)).await.0
    }

    /// A success with these fields.
    fn success(&self, mut fields: Value) -> Play {
        fields["RequestId"] = "r-1".into();
        match self.cloud.name() {
            "tencent" => Play::json(200, &json!({ "Response": fields })),
            _ => Play::json(200, &fields),
        }
    }

    fn listing(&self, total: u64, rows: Value) -> Play {
        let key = match self.cloud.name() {
            "tencent" => "SCIMCredentials",
            _ => "SCIMServerCredentials",
        };
        self.success(json!({ "TotalCounts": total, key: rows }))
    }

    /// A row that is good, if nothing is changed in it. `null` takes a key away.
    fn row(&self, changes: Value) -> Value {
        let (zone, created, expires) = match self.cloud.name() {
            "tencent" => ("ZoneId", "2026-11-22 16:06:24", "2027-11-22 16:06:24"),
            _ => ("DirectoryId", "2026-11-22T08:06:24Z", "2027-11-22T08:06:24Z"),
        };
        let mut row = json!({
            zone: TENANT, "Status": "Enabled", "CredentialId": "scimcred-1",
            "CredentialType": "BearerToken", "CreateTime": created, "ExpireTime": expires,
        });
        let row_keys = row.as_object_mut().expect("an object");
        for (key, value) in changes.as_object().expect("an object") {
            let key = if key == "Tenant" { zone } else { key };
            match value {
                Value::Null => drop(row_keys.remove(key)),
                value => drop(row_keys.insert(key.to_owned(), value.clone())),
            }
        }
        row
    }

    fn created(&self, changes: Value) -> Play {
        let mut changes = changes;
        if changes.get("CredentialSecret").is_none() {
            changes["CredentialSecret"] = SECRET.into();
        }
        match self.cloud.name() {
            "tencent" => {
                let mut row = self.row(changes);
                row["CredentialStatus"] = row["Status"].take();
                row.as_object_mut().expect("an object").remove("Status");
                self.success(row)
            }
            _ => self.success(json!({ "SCIMServerCredential": self.row(changes) })),
        }
    }

    fn error(&self, status: u16, headers: &str, code: &str) -> Play {
        let body = match self.cloud.name() {
            "tencent" => {
                json!({ "Response": { "Error": { "Code": code, "Message": "no" }, "RequestId": "r-1" } })
            }
            _ => json!({ "Code": code, "Message": "no", "HostId": "h", "RequestId": "r-1" }),
        };
        Play::answer(status, headers, &body.to_string())
    }
}

/// A client whose config has these settings beside those that it needs.
fn make(
    name: &str,
    tenant: &str,
    endpoint: &AdminUrl,
    folder: &Path,
    settings: Value,
    clock: &Clock,
    patience: Duration,
) -> Result<Box<dyn Cloud>, String> {
    let (zone, id, key) = match name {
        "tencent" => ("zone_id", "secret_id", "secret_key"),
        _ => ("directory_id", "access_key_id", "access_key_secret"),
    };
    let file = |name: &str| format!("file:{}/{name}", folder.display());
    let mut section = json!({
        zone: tenant, "endpoint": endpoint.to_string(), id: file("id"), key: file("key"),
    });
    for (key, value) in settings.as_object().expect("an object") {
        section[key] = value.clone();
    }
    let metrics = Arc::new(Metrics::new());
    Ok(match name {
        "tencent" => {
            let section: config::Tencent = serde_json::from_value(section).expect("valid");
            let mut cloud = Tencent::new(&section, clock.clone(), metrics)?;
            cloud.line.patience = patience;
            Box::new(cloud)
        }
        _ => {
            let section: config::Alibaba = serde_json::from_value(section).expect("valid");
            let mut cloud = Alibaba::new(&section, clock.clone(), metrics)?;
            cloud.line.patience = patience;
            Box::new(cloud)
        }
    })
}

fn id(text: &str) -> CredentialId {
    CredentialId::parse(text).expect("an id")
}

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

/// What an outcome comes to, in one word.
fn word<T>(outcome: Result<T, CloudError>) -> &'static str {
    outcome.map_or_else(|error| error.word(), |_| "done")
}

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "OvB59C79jyTQJYpN3HmRk2N5+t0fs[riKaz6RXjyKuL9h=";

/// What a request asks for, once its signature is found to be right.
fn verified(name: &str, request: &Heard, token: Option<&str>) -> (String, Value) {
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/"));
    if name == "tencent" {
        let claim = tc3::Claim::read(request.signed()).expect("readable");
        assert_eq!(claim.verify("key-secret"), Ok(()));
        let names = request.header("authorization").expect("signed").split(", ").nth(1);
        assert_eq!(names, Some("SignedHeaders=content-type;host;x-tc-action"));
        assert!(claim.covers_body);
        assert_eq!((claim.key_id, claim.service), ("key-id", "organization"));
        assert_eq!(claim.time, Timestamp::from_millis(NOW.as_millis() / 1000 * 1000));
        assert_eq!(claim.token, token);
        assert_eq!(request.header("x-tc-version"), Some("2021-03-31"));
        let action = request.header("x-tc-action").expect("there").to_owned();
        (action, serde_json::from_slice(&request.body).expect("JSON"))
    } else {
        let claim = acs3::Claim::read(request.signed()).expect("readable");
        assert_eq!(claim.verify("key-secret"), Ok(()));
        assert_eq!((claim.key_id, claim.version), ("key-id", "2021-05-15"));
        assert_eq!(claim.time, Timestamp::from_millis(NOW.as_millis() / 1000 * 1000));
        assert_eq!(claim.token, token);
        assert!(request.body.is_empty());
        let parameters = claim.parameters.iter().cloned();
        let parameters = parameters.map(|(name, value)| (name, Value::from(value))).collect();
        (claim.action.to_owned(), Value::Object(parameters))
    }
}

#[tokio::test]
async fn what_is_sent_is_signed_and_says_what_is_meant() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        let Bed { stub, cloud, .. } = &bed;
        assert_eq!((cloud.name(), cloud.tenant().as_str()), (name, TENANT));
        let (zone, actions) = match name {
            "tencent" => (
                "ZoneId",
                [
                    "ListSCIMCredentials",
                    "CreateSCIMCredential",
                    "UpdateSCIMCredentialStatus",
                    "DeleteSCIMCredential",
                ],
            ),
            _ => (
                "DirectoryId",
                [
                    "ListSCIMServerCredentials",
                    "CreateSCIMServerCredential",
                    "UpdateSCIMServerCredentialStatus",
                    "DeleteSCIMServerCredential",
                ],
            ),
        };
        let check = |request: &Heard, action: &str, expected: Value| {
            let mut expected = expected;
            expected[zone] = TENANT.into();
            assert_eq!(verified(name, request, None), (action.to_owned(), expected));
            assert_eq!(request.header("host"), Some(&*stub.address.to_string()));
        };
        let [list, create, update, delete] = actions;

        let (listed, request) = stub.during(bed.listing(0, json!([])), cloud.list()).await;
        assert_eq!(listed, Ok(vec![]));
        check(&request, list, json!({}));

        let (made, request) =
            stub.during(bed.created(json!({})), cloud.create(100 * 8766 * HOUR)).await;
        let made = made.expect("made");
        assert_eq!(made.secret.reveal(), SECRET);
        assert_eq!(made.secret.digest(), TokenDigest::of(SECRET.as_bytes()));
        assert_eq!(made.listed.id, id("scimcred-1"));
        assert_eq!(made.listed.created, Some(time("2026-11-22T08:06:24Z")));
        assert_eq!(made.listed.expiry, Expiry::At(time("2027-11-22T08:06:24Z")));
        // A century, to the second: more than 32 bits hold.
        let wish = if name == "tencent" {
            json!({ "ExpireDuration": 3_155_760_000_u64 })
        } else {
            json!({})
        };
        check(&request, create, wish);

        let it = id("scimcred-1");
        for status in [Status::Enabled, Status::Disabled] {
            let play = bed.success(json!({}));
            let (done, request) = stub.during(play, cloud.set_status(&it, status)).await;
            assert_eq!(done, Ok(()));
            check(
                &request,
                update,
                json!({ "CredentialId": "scimcred-1", "NewStatus": status.as_str() }),
            );
        }

        let (done, request) = stub.during(bed.success(json!({})), cloud.delete(&it)).await;
        assert_eq!(done, Ok(()));
        check(&request, delete, json!({ "CredentialId": "scimcred-1" }));
    }
}

#[tokio::test]
async fn temporary_keys_send_their_token_and_the_region_is_sent_along() {
    for name in NAMES {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "session-token").expect("written");
        let mut settings = json!({ "security_token": format!("file:{}", token.display()) });
        if name == "tencent" {
            settings["region"] = "ap-guangzhou".into();
        }
        let bed = Bed::with(name, TENANT, settings, PATIENCE).await;
        let (listed, request) = bed.stub.during(bed.listing(0, json!([])), bed.cloud.list()).await;
        assert_eq!(listed, Ok(vec![]));
        verified(name, &request, Some("session-token"));
        let region = (name == "tencent").then_some("ap-guangzhou");
        assert_eq!(request.header("x-tc-region"), region);
    }
}

#[tokio::test]
async fn each_request_has_a_nonce_and_a_date_of_its_own() {
    let bed = Bed::new("alibaba").await;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let (_, request) = bed.stub.during(bed.listing(0, json!([])), bed.cloud.list()).await;
        let part = |name| request.header(name).expect("there").to_owned();
        assert!(seen.insert(part("x-acs-signature-nonce")) && seen.insert(part("x-acs-date")));
        bed.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn keys_are_read_anew_at_each_request() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        let [id, key] = ["id", "key"].map(|part| bed.folder.path().join(part));
        std::fs::write(&key, "another").expect("written");
        let (_, request) = bed.stub.during(bed.listing(0, json!([])), bed.cloud.list()).await;
        let right = match name {
            "tencent" => tc3::Claim::read(request.signed()).expect("readable").verify("another"),
            _ => acs3::Claim::read(request.signed()).expect("readable").verify("another"),
        };
        assert_eq!(right, Ok(()));
        // Nothing is sent without them.
        std::fs::write(&id, "a\nb").expect("written");
        assert_eq!(word(bed.cloud.create(HOUR).await), "unreachable");
        std::fs::remove_file(&key).expect("there");
        assert_eq!(word(bed.cloud.create(HOUR).await), "unreachable");
        assert!(bed.stub.heard.lock().expect("whole").is_empty());
    }
}

/// The answer that an official SDK took, from `tests/vectors`.
fn recorded(name: &str) -> Play {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let file = std::fs::read(folder.join(name).with_extension("json")).expect("readable");
    let vector: Value = serde_json::from_slice(&file).expect("JSON");
    let answer = &vector["accepted_response"];
    let kind = answer["content_type"].as_str().expect("a type");
    let status = answer["status"].as_u64().expect("a status") as u16;
    let body = answer["body"].as_str().expect("a body");
    Play::answer(status, &format!("content-type: {kind}\r\n"), body)
}

#[tokio::test]
async fn the_answers_that_official_sdks_took_are_read() {
    for (name, tenant, ids, ends) in [
        (
            "tencent",
            "z-stubzone0001",
            ["scimcred-5xcprem3iz89", "scimcred-za7r7tzv2bej"],
            ["2027-11-22T08:06:24Z", "2026-11-22T09:06:24Z"],
        ),
        (
            "alibaba",
            "d-stubdir00001",
            ["scimcred-ruqh745o8shvok0ffrbb", "scimcred-hlnhj6urseau5is8u6im"],
            ["2027-11-22T08:06:51Z"; 2],
        ),
    ] {
        let bed = Bed::with(name, tenant, json!({}), PATIENCE).await;
        let of = |what: &str| match name {
            "tencent" => recorded(&format!("tencent-tc3-post-{what}")),
            _ => recorded(&format!("alibaba-acs3-{what}")),
        };
        let listed = bed.list(of("list")).await.expect("whole");
        let told: Vec<_> = listed.iter().map(|it| (it.id.as_str(), it.status, it.expiry)).collect();
        let expected = |index: usize| (ids[index], Status::Enabled, Expiry::At(time(ends[index])));
        assert_eq!(told, [expected(0), expected(1)]);
        assert_eq!(word(bed.disable(of("disable")).await), "done");
        assert_eq!(word(bed.delete(of("delete")).await), "done");
        assert_eq!(word(bed.delete(of("delete-not-found")).await), "missing");
        assert_eq!(word(bed.create(of("create-over-limit")).await), "limit_reached");
        let create = if name == "tencent" { "create-3600" } else { "create" };
        let made = bed.create(of(create)).await.expect("made");
        assert!(ids.contains(&made.listed.id.as_str()));
    }
}

#[tokio::test]
async fn each_code_means_one_thing() {
    let check = async |name: &str, status: u16, code: &str, read: &str, change: &str| {
        let bed = Bed::new(name).await;
        let play = bed.error(status, "", code);
        let told = [word(bed.list(play.clone()).await), word(bed.create(play).await)];
        assert_eq!(told, [read, change], "{name} {code}");
    };
    for (code, read, change) in [
        ("RequestLimitExceeded", "throttled", "throttled"),
        ("RequestLimitExceeded.UinLimitExceeded", "throttled", "throttled"),
        ("AuthFailure.SignatureExpire", "clock", "clock"),
        ("AuthFailure.SignatureFailure", "refused", "refused"),
        ("AuthFailure.SecretIdNotFound", "refused", "refused"),
        ("UnauthorizedOperation", "refused", "refused"),
        ("FailedOperation.IdentityCenterNotOpen", "refused", "refused"),
        ("InvalidParameter.ScimCredentialNotFound", "missing", "missing"),
        ("FailedOperation.ZoneIdNotExist", "tenant_missing", "tenant_missing"),
        ("LimitExceeded.ScimCredentialLimitExceeded", "limit_reached", "limit_reached"),
        ("FailedOperation.DBOperationError", "unreachable", "uncertain"),
        ("FailedOperation.ScimCredentialGenerateError", "unreachable", "uncertain"),
        ("InternalError", "unreachable", "uncertain"),
        ("InvalidParameter.UserScimCredentialStatusError", "failed", "failed"),
        ("InternalErrors", "failed", "failed"),
    ] {
        check("tencent", 200, code, read, change).await;
    }
    // Whatever the status.
    check("tencent", 500, "AuthFailure.SignatureExpire", "clock", "clock").await;
    check("tencent", 500, "Unheard", "unreachable", "uncertain").await;
    for (status, code, read, change) in [
        (400, "Throttling.User", "throttled", "throttled"),
        (429, "Request.Throttling", "throttled", "throttled"),
        (400, "InvalidTimeStamp.Expired", "clock", "clock"),
        (404, "InvalidAccessKeyId.NotFound", "refused", "refused"),
        (400, "SignatureDoesNotMatch", "refused", "refused"),
        (403, "Forbidden.RAM", "refused", "refused"),
        (404, "EntityNotExists.SCIMCredential", "missing", "missing"),
        (404, "EntityNotExists.Directory", "tenant_missing", "tenant_missing"),
        (409, "LimitExceeded.SCIMCredential", "limit_reached", "limit_reached"),
        (400, "SignatureNonceUsed", "unreachable", "uncertain"),
        (500, "InternalError", "unreachable", "uncertain"),
        (503, "ServiceUnavailable", "unreachable", "uncertain"),
        (502, "Unheard", "unreachable", "uncertain"),
        (404, "InvalidApi.NotFound", "failed", "failed"),
        (200, "InvalidTimeStamp.Expired", "clock", "clock"),
        (200, "Unheard", "failed", "failed"),
    ] {
        check("alibaba", status, code, read, change).await;
    }
}

#[tokio::test]
async fn what_the_cloud_says_is_told_in_one_phrase() {
    let bed = Bed::new("alibaba").await;
    let told = bed.list(bed.error(400, "", "Strange")).await.expect_err("refused");
    assert_eq!(told.to_string(), "Strange: no (request r-1)");
    let told = bed.list(bed.error(403, "", "Forbidden.RAM")).await.expect_err("refused");
    assert_eq!(
        told.to_string(),
        "our key is refused: Forbidden.RAM: no (request r-1): it needs \
         cloudsso:ListSCIMServerCredentials"
    );
    let tencent = Bed::new("tencent").await;
    let told = tencent.create(tencent.error(200, "", "UnauthorizedOperation")).await;
    let told = told.expect_err("refused").to_string();
    assert!(told.ends_with(": it needs organization:CreateSCIMCredential"), "{told}");
    let long = "x\u{1b}\n".repeat(10_000);
    let told = bed.list(bed.error(400, "", &long)).await.expect_err("refused").to_string();
    assert!(told.len() < 1000 && !told.contains(char::is_control), "{told}");
}

#[tokio::test]
async fn who_asks_too_often_hears_how_long_to_wait() {
    let check = async |name: &str, play: fn(&Bed) -> Play, expected: Option<u64>| {
        let bed = Bed::new(name).await;
        let told = bed.create(play(&bed)).await.expect_err("refused");
        let retry_after = expected.map(Duration::from_millis);
        assert_eq!(told, CloudError::Throttled { retry_after });
    };
    check(
        "tencent",
        |bed| bed.error(200, "retry-after: 3\r\n", "RequestLimitExceeded"),
        Some(3000),
    )
    .await;
    check("tencent", |bed| bed.error(200, "", "RequestLimitExceeded"), None).await;
    check("alibaba", |bed| bed.error(400, "x-acs-retry-after: 1500\r\n", "Any"), Some(1500)).await;
    check("alibaba", |bed| bed.error(400, "x-acs-retry-after: 0\r\n", "Throttling"), None).await;
    let bed = Bed::new("alibaba").await;
    let broken = bed.error(500, "x-acs-retry-after: 1500\r\n", "InternalError");
    let told = [word(bed.list(broken.clone()).await), word(bed.create(broken).await)];
    assert_eq!(told, ["throttled", "uncertain"]);
    for name in NAMES {
        check(name, |_| Play::answer(429, "retry-after: 7\r\n", "slowly"), Some(7000)).await;
        // A bad number must not stop us for good.
        let endless = |_: &Bed| Play::answer(429, "retry-after: 18446744073709551615\r\n", "");
        check(name, endless, Some(3_600_000)).await;
        check(name, |_| Play::answer(429, "retry-after: soon\r\n", ""), None).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_by_how_much() {
    for (name, code) in
        [("tencent", "AuthFailure.SignatureExpire"), ("alibaba", "InvalidTimeStamp.Expired")]
    {
        let bed = Bed::new(name).await;
        let check = async |headers: &str, ours_ahead_millis, told: &str| {
            let error = bed.list(bed.error(400, headers, code)).await.expect_err("refused");
            assert_eq!(error, CloudError::Clock { ours_ahead_millis });
            assert_eq!(error.to_string(), told);
        };
        let behind = "date: Sun, 22 Nov 2026 08:16:24 GMT\r\n";
        check(behind, Some(-599_750), "the clock here is 599750 ms behind the cloud's").await;
        assert!(bed.clock.now().contradicted, "expiry is judged with care");
        let ahead = "date: Sun, 22 Nov 2026 08:06:00 GMT\r\n";
        check(ahead, Some(24_250), "the clock here is 24250 ms ahead of the cloud's").await;
        assert!(!bed.clock.now().contradicted);
        check("", None, "the clock here and the cloud's differ too much").await;
    }
}

#[tokio::test]
async fn an_answer_that_tells_nothing_leaves_a_change_uncertain() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        let page = "<html>please log in</html>";
        let whole = match bed.success(json!({ "TotalCounts": 0 })) {
            Play::Bytes(bytes) | Play::Silence(bytes) => bytes,
        };
        let huge = format!("{{\"RequestId\":\"{}\"}}", "x".repeat(ANSWER_BYTES_MAX));
        for play in [
            Play::Bytes(Vec::new()),
            Play::Bytes(b"HTTP/1.1 200 OK\r\ncontent-".to_vec()),
            Play::Bytes(whole[..whole.len() - 1].to_vec()),
            Play::Bytes(b"\x16\x03\x01 no HTTP\r\n\r\n".to_vec()),
            Play::answer(200, "", &huge),
            Play::answer(200, "content-type: text/html\r\n", page),
            Play::answer(502, "content-type: text/html\r\n", page),
            Play::answer(403, "content-type: text/html\r\n", page),
            Play::answer(302, "location: http://127.0.0.1:1/\r\n", ""),
            Play::json(200, &json!({})),
            Play::json(200, &json!([])),
            Play::json(500, &json!({ "Response": { "RequestId": "r" }, "RequestId": "r" })),
            Play::json(200, &json!({ "Response": { "Error": {}, "RequestId": "r" }, "Code": "" })),
        ] {
            let told = [
                word(bed.list(play.clone()).await),
                word(bed.create(play.clone()).await),
                word(bed.disable(play.clone()).await),
                word(bed.delete(play.clone()).await),
            ];
            assert_eq!(told, ["unreachable", "uncertain", "uncertain", "uncertain"], "{play:?}");
        }
    }
}

#[tokio::test]
async fn a_change_has_a_connection_of_its_own() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        for _ in 0..2 {
            // The stub would wait on this one for more.
            let kept = match bed.created(json!({})) {
                Play::Bytes(bytes) | Play::Silence(bytes) => Play::Silence(bytes),
            };
            assert_eq!(word(bed.create(kept).await), "done");
        }
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_only_so_long() {
    for name in NAMES {
        let patience = Duration::from_millis(100);
        let bed = Bed::with(name, TENANT, json!({}), patience).await;
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{";
        for bytes in [&b""[..], begun] {
            let plays = [Play::Silence(bytes.to_vec()), Play::Silence(bytes.to_vec())];
            bed.stub.plays.lock().expect("whole").extend(plays);
            assert_eq!(word(bed.cloud.list().await), "unreachable");
            assert_eq!(word(bed.cloud.create(HOUR).await), "uncertain");
        }
    }
}

#[tokio::test]
async fn a_cloud_that_is_not_reached_did_certainly_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("bound");
    drop(gone);
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["id", "key"] {
        std::fs::write(folder.path().join(name), "x").expect("written");
    }
    let url = format!("http://{address}").parse().expect("a URL");
    for name in NAMES {
        let clock = Clock::manual(NOW);
        let cloud =
            make(name, TENANT, &url, folder.path(), json!({}), &clock, PATIENCE).expect("made");
        let error = cloud.create(HOUR).await.expect_err("nobody is there");
        assert_eq!((error.word(), error.is_certain()), ("unreachable", true), "{error}");
    }
}

#[tokio::test]
async fn a_listing_counts_whole_or_not_at_all() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        let good = bed.row(json!({}));
        let other = bed.row(json!({ "CredentialId": "scimcred-2" }));
        let listed = bed.list(bed.listing(2, json!([good, other]))).await.expect("whole");
        assert_eq!(listed.len(), 2);
        for (what, total, rows) in [
            ("short", 2, json!([good])),
            ("long", 1, json!([good, other])),
            ("empty", 1, json!([])),
            ("null", 0, Value::Null),
            ("twice", 2, json!([good, good])),
            (
                "foreign",
                2,
                json!([good, bed.row(json!({ "CredentialId": "x", "Tenant": "z-other" }))]),
            ),
            ("no tenant", 1, json!([bed.row(json!({ "Tenant": null }))])),
            ("no id", 1, json!([bed.row(json!({ "CredentialId": null }))])),
            ("bad id", 1, json!([bed.row(json!({ "CredentialId": "a/b" }))])),
            ("no status", 1, json!([bed.row(json!({ "Status": null }))])),
            ("no expiry", 1, json!([bed.row(json!({ "ExpireTime": null }))])),
            ("empty expiry", 1, json!([bed.row(json!({ "ExpireTime": "" }))])),
            ("bad expiry", 1, json!([bed.row(json!({ "ExpireTime": "2027-13-01 00:00:00" }))])),
            ("number", 1, json!([bed.row(json!({ "ExpireTime": 1_827_000_000 }))])),
            ("bad creation", 1, json!([bed.row(json!({ "CreateTime": "yesterday" }))])),
        ] {
            assert_eq!(word(bed.list(bed.listing(total, rows)).await), "implausible", "{what}");
        }
        assert_eq!(word(bed.list(bed.success(json!({}))).await), "implausible", "no rows at all");
        let created =
            bed.list(bed.listing(1, json!([bed.row(json!({ "CreateTime": null }))]))).await;
        assert_eq!(created.expect("whole")[0].created, None);
    }
}

#[tokio::test]
async fn a_status_that_is_not_known_counts_as_disabled() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        for (written, read) in [
            ("Enabled", Status::Enabled),
            ("Disabled", Status::Disabled),
            ("enabled", Status::Disabled),
            ("Suspended", Status::Disabled),
            ("", Status::Disabled),
        ] {
            let rows = json!([bed.row(json!({ "Status": written }))]);
            let listed = bed.list(bed.listing(1, rows)).await.expect("whole");
            assert_eq!(listed[0].status, read, "{written}");
        }
    }
}

#[tokio::test]
async fn a_status_that_was_not_taken_is_not_told_as_done() {
    let bed = Bed::new("alibaba").await;
    let answer = |status: &str| {
        bed.success(json!({ "SCIMServerCredential": bed.row(json!({ "Status": status })) }))
    };
    assert_eq!(word(bed.disable(answer("Disabled")).await), "done");
    assert_eq!(word(bed.disable(answer("Enabled")).await), "uncertain");
}

#[tokio::test]
async fn a_secret_is_told_once_and_nowhere_else() {
    for name in NAMES {
        let bed = Bed::new(name).await;
        let made = bed.create(bed.created(json!({}))).await.expect("made");
        assert!(!format!("{made:?}").contains(SECRET), "{made:?}");
        for (changes, what) in [
            (json!({ "Tenant": "z-other" }), "foreign"),
            (json!({ "ExpireTime": SECRET.repeat(2) }), "bad time"),
            (json!({ "CredentialSecret": format!("{SECRET} {SECRET}") }), "blank"),
            (json!({ "CredentialSecret": "" }), "empty"),
            (json!({ "CredentialSecret": [SECRET] }), "list"),
            (json!({ "CredentialId": 7 }), "no id"),
        ] {
            let error = bed.create(bed.created(changes)).await.expect_err(what);
            assert_eq!(error.word(), "uncertain", "{what}");
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
    }
}

#[tokio::test]
async fn times_without_a_zone_are_in_the_one_that_is_set() {
    let check = async |offset: &str, written: &str, read: Option<&str>| {
        let bed = Bed::with("tencent", TENANT, json!({ "time_offset": offset }), PATIENCE).await;
        let rows = json!([bed.row(json!({ "ExpireTime": written }))]);
        let listed = bed.list(bed.listing(1, rows)).await.ok();
        let end = listed.map(|listed| listed[0].expiry);
        assert_eq!(end, read.map(|text| Expiry::At(time(text))), "{written} {offset}");
    };
    check("+08:00", "2027-01-01 07:59:59", Some("2026-12-31T23:59:59Z")).await;
    check("+00:00", "2027-01-01 07:59:59", Some("2027-01-01T07:59:59Z")).await;
    check("-03:30", "2027-01-01 07:59:59", Some("2027-01-01T11:29:59Z")).await;
    check("+08:00", "2125-12-31 00:00:00", Some("2125-12-30T16:00:00Z")).await;
    for bad in
        ["2027-01-01T07:59:59", "2027-01-01 07:59", "2027-01-01 07:59:59Z", "2027-02-30 00:00:00"]
    {
        check("+08:00", bad, None).await;
    }
}

#[tokio::test]
async fn a_certificate_must_come_from_an_authority_that_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["id", "key"] {
        std::fs::write(folder.path().join(name), "x").expect("written");
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("signed");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).expect("written");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("they fit");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            hear(&mut stream).await;
            let body = r#"{"RequestId":"r","TotalCounts":0,"SCIMServerCredentials":[]}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.expect("written");
        }
    });
    let url = format!("https://localhost:{port}").parse().expect("a URL");
    let cloud = |settings: Value| {
        make("alibaba", TENANT, &url, folder.path(), settings, &Clock::manual(NOW), PATIENCE)
    };
    let trusting = cloud(json!({ "ca": ca })).expect("made");
    assert_eq!(trusting.list().await, Ok(vec![]));
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    std::fs::write(&ca, stranger.cert.pem()).expect("written");
    let error = cloud(json!({ "ca": ca })).expect("made").create(HOUR).await.expect_err("refused");
    assert_eq!(error.word(), "unreachable", "{error}");
    std::fs::write(&ca, "nothing").expect("written");
    assert!(cloud(json!({ "ca": ca })).is_err(), "what cannot be read is told at once");
}

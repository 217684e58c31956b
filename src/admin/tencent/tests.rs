//! The dialect over the store in memory, signed as its SDKs sign.

use http::Request;
use serde_json::Value;

use super::actions::ACTIONS;
use super::*;
use crate::admin::testing::{World, key, secret, text};
use crate::clock::Timestamp;
use crate::signature::{FORM, Key, encode, tc3, tencent_v1};

struct Api {
    world: World,
    tencent: Tencent,
}

/// The code of an error, and all that stands in the envelope.
struct Answer {
    code: String,
    fields: Value,
}

const HOST: &str = "127.0.0.1:8081";

impl Api {
    async fn new() -> Self {
        let world = World::new().await;
        let tencent = Tencent::new(world.desk(), TimeOffset::china());
        Self { world, tencent }
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Answer {
        let response = self.tencent.answer(&Received::of(request)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
        let fields = body["Response"].clone();
        let id = fields["RequestId"].as_str().expect("always there");
        assert!(id.len() == 36 && id.to_lowercase() == id && &id[14..15] == "4", "{id}");
        let code = fields["Error"]["Code"].as_str().unwrap_or_default().to_owned();
        let told = fields["Error"]["Message"].as_str().unwrap_or_default();
        assert_eq!(code.is_empty(), told.is_empty(), "{fields}");
        Answer { code, fields }
    }

    async fn ask(&self, who: &str, action: &str, parameters: Value) -> Answer {
        let body = parameters.to_string().into_bytes();
        self.send(tc3(&key(who, &secret(who)), action, body, self.world.now())).await
    }

    /// What an operator is answered, who must not be refused.
    async fn done(&self, action: &str, parameters: Value) -> Value {
        let answer = self.ask("operator", action, parameters).await;
        assert_eq!(answer.code, "", "{action}: {}", answer.fields);
        answer.fields
    }

    async fn create(&self) -> String {
        let made = self.done("CreateSCIMCredential", json!({ "ZoneId": "z-1" })).await;
        made["CredentialId"].as_str().expect("an id").to_owned()
    }
}

fn tc3(key: &Key<'_>, action: &str, body: Vec<u8>, now: Timestamp) -> Request<Vec<u8>> {
    let unsigned = tc3::Unsigned {
        method: "POST",
        host: HOST,
        service: "organization",
        action,
        version: "2021-03-31",
        content_type: "application/json",
        query: "",
        body: &body,
        covers_action: false,
    };
    let headers = tc3::sign(key, &unsigned, now);
    let mut request = Request::post("/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(body).expect("valid")
}

/// A request of the older scheme, whose parameters stand in a form.
fn v1(
    id: &str,
    method: tencent_v1::Method,
    more: &[(&str, &str)],
    now: Timestamp,
) -> Request<Vec<u8>> {
    let common = [("Action", "CreateSCIMCredential"), ("Version", "2021-03-31"), ("Region", "")];
    let all = [&common[..], more].concat();
    let (secret, to) = (secret(id), ("POST", HOST));
    let signed = tencent_v1::sign(&key(id, &secret), method, to, &all, now, 7);
    let request = Request::post("/").header("host", HOST).header("content-type", FORM);
    request.body(encode(signed).into_bytes()).expect("valid")
}

#[tokio::test]
async fn a_credential_goes_through_its_life() {
    let api = Api::new().await;
    let zone = json!({ "ZoneId": "z-1" });
    let list = async || api.done("ListSCIMCredentials", zone.clone()).await;
    assert_eq!(list().await["SCIMCredentials"], json!([]));
    assert_eq!(list().await["TotalCounts"], 0);

    let made = api.done("CreateSCIMCredential", zone.clone()).await;
    let id = made["CredentialId"].as_str().expect("an id").to_owned();
    assert!(made["CredentialSecret"].as_str().expect("a secret").starts_with("scimg_"));
    let expected = json!({
        "ZoneId": "z-1", "CredentialId": id, "CredentialType": "BearerToken",
        "CreateTime": "2027-01-15 16:00:00", "ExpireTime": "2028-01-15 16:00:00",
        "CredentialStatus": "Enabled",
        "CredentialSecret": made["CredentialSecret"], "RequestId": made["RequestId"],
    });
    assert_eq!(made, expected);

    let body = json!({ "ZoneId": "z-1", "ExpireDuration": 3_122_064_000_u64 });
    let second = api.done("CreateSCIMCredential", body).await;
    assert_eq!(second["ExpireTime"], "2125-12-22 16:00:00");
    let third = api.ask("operator", "CreateSCIMCredential", zone.clone()).await;
    assert_eq!(third.code, "LimitExceeded.ScimCredentialLimitExceeded");

    let listed = list().await;
    assert_eq!(listed["TotalCounts"], 2);
    assert_eq!(listed["SCIMCredentials"].as_array().expect("rows").len(), 2);
    let one = json!({ "ZoneId": "z-1", "CredentialId": id });
    let found = api.done("ListSCIMCredentials", one.clone()).await;
    let row = json!({
        "ZoneId": "z-1", "Status": "Enabled", "CredentialId": id, "CredentialType": "BearerToken",
        "CreateTime": "2027-01-15 16:00:00", "ExpireTime": "2028-01-15 16:00:00",
    });
    assert_eq!(found["SCIMCredentials"], json!([row]));
    let nobody = json!({ "ZoneId": "z-1", "CredentialId": "scimcred-unknown" });
    let found = api.done("ListSCIMCredentials", nobody).await;
    assert_eq!((&found["TotalCounts"], &found["SCIMCredentials"]), (&json!(0), &json!([])));

    for status in ["Disabled", "Disabled", "Enabled"] {
        let body = json!({ "ZoneId": "z-1", "CredentialId": id, "NewStatus": status });
        api.done("UpdateSCIMCredentialStatus", body).await;
        let found = api.done("ListSCIMCredentials", one.clone()).await;
        assert_eq!(found["SCIMCredentials"][0]["Status"], status);
    }
    api.done("DeleteSCIMCredential", one.clone()).await;
    let again = api.ask("operator", "DeleteSCIMCredential", one).await;
    assert_eq!(again.code, "InvalidParameter.ScimCredentialNotFound");
    assert_eq!(list().await["TotalCounts"], 1);

    for status in ["Disabled", "Enabled"] {
        let body = json!({ "ZoneId": "z-1", "SCIMSynchronizationStatus": status });
        api.done("UpdateSCIMSynchronizationStatus", body).await;
        let found = api.done("GetSCIMSynchronizationStatus", zone.clone()).await;
        assert_eq!(found["SCIMSynchronizationStatus"], status);
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_by_the_documented_code() {
    let api = Api::new().await;
    let id = &api.create().await;
    let (create, list, update) =
        ("CreateSCIMCredential", "ListSCIMCredentials", "UpdateSCIMCredentialStatus");
    let (delete, get) = ("DeleteSCIMCredential", "GetSCIMSynchronizationStatus");
    let set = "UpdateSCIMSynchronizationStatus";
    let duration = |value: Value| json!({ "ZoneId": "z-1", "ExpireDuration": value });
    let status = |value: &str| json!({ "ZoneId": "z-1", "CredentialId": id, "NewStatus": value });
    let unknown = json!({ "ZoneId": "z-1", "CredentialId": "scimcred-2" });
    let to_unknown =
        json!({ "ZoneId": "z-1", "CredentialId": "scimcred-2", "NewStatus": "Enabled" });
    for (action, parameters, code) in [
        (create, json!({}), "MissingParameter"),
        (create, json!({ "ZoneId": null }), "MissingParameter"),
        (create, json!({ "ZoneId": 5 }), "InvalidParameter"),
        (create, json!({ "ZoneId": "z-3" }), "FailedOperation.ZoneIdNotExist"),
        (create, json!({ "ZoneId": "z \u{e9}" }), "FailedOperation.ZoneIdNotExist"),
        (create, json!({ "ZoneId": "z".repeat(9000) }), "FailedOperation.ZoneIdNotExist"),
        (create, duration(json!(3599)), "InvalidParameter.ParamError"),
        (create, duration(json!(3_122_064_001_u64)), "InvalidParameter.ParamError"),
        (create, duration(json!(u64::MAX)), "InvalidParameter.ParamError"),
        (create, duration(json!(-7200)), "InvalidParameter.ParamError"),
        (create, duration(json!(7200.5)), "InvalidParameter.ParamError"),
        (create, duration(json!("7200")), "InvalidParameter.ParamError"),
        (create, duration(json!(true)), "InvalidParameter.ParamError"),
        (create, json!({ "ZoneId": "z-1", "Dry": true }), "UnknownParameter"),
        (create, json!([1]), "InvalidParameter"),
        (list, json!({ "ZoneId": "z-3" }), "FailedOperation.ZoneIdNotExist"),
        (list, json!({ "ZoneId": "z-1", "CredentialId": 1 }), "InvalidParameter"),
        (update, status("enabled"), "InvalidParameter.UserScimCredentialStatusError"),
        (update, status("\u{e9}"), "InvalidParameter.UserScimCredentialStatusError"),
        (update, json!({ "ZoneId": "z-1", "CredentialId": id }), "MissingParameter"),
        (update, to_unknown, "InvalidParameter.ScimCredentialNotFound"),
        (delete, json!({ "ZoneId": "z-1" }), "MissingParameter"),
        (delete, unknown, "InvalidParameter.ScimCredentialNotFound"),
        (delete, json!({ "ZoneId": "z-3", "CredentialId": id }), "FailedOperation.ZoneIdNotExist"),
        (get, json!({ "ZoneId": "z-3" }), "FailedOperation.ZoneIdNotExist"),
        (set, json!({ "ZoneId": "z-1" }), "MissingParameter"),
        (
            set,
            json!({ "ZoneId": "z-1", "SCIMSynchronizationStatus": "On" }),
            "InvalidParameter.ScimSyncStatusError",
        ),
        ("NoSuchAction", json!({}), "InvalidAction"),
    ] {
        let answer = api.ask("operator", action, parameters.clone()).await;
        assert_eq!(answer.code, code, "{action} {parameters}");
    }
    let rows = api.done(list, json!({ "ZoneId": "z-1" })).await;
    assert_eq!(rows["TotalCounts"], 1, "nothing was made of all this");
}

/// Whatever stands in whichever place, it is an answer and never our own fault.
#[tokio::test]
async fn no_input_is_too_odd() {
    let api = Api::new().await;
    let values = [
        json!(null),
        json!(""),
        json!("\u{0}"),
        json!("\u{1f980}".repeat(99)),
        json!("x".repeat(100_000)),
        json!(-1),
        json!(1e300),
        json!(false),
        json!([[]]),
        json!({ "ZoneId": {} }),
    ];
    let names = ["ZoneId", "CredentialId", "NewStatus", "ExpireDuration"];
    for (_, action) in ACTIONS {
        for name in names.iter().chain(&["SCIMSynchronizationStatus", "\u{e9}"]) {
            for value in &values {
                let mut parameters = json!({ "ZoneId": "z-1" });
                parameters[name] = value.clone();
                // One second for each, or there are too many of them.
                api.world.clock.advance(Duration::from_secs(1));
                api.ask("operator", action, parameters).await;
            }
        }
        assert_eq!(api.world.counted(action, "5xx"), 0);
    }
}

#[tokio::test]
async fn each_role_may_what_it_is_for() {
    let api = Api::new().await;
    let id = &api.create().await;
    let one = json!({ "ZoneId": "z-1", "CredentialId": id });
    let to = |status: &str| json!({ "ZoneId": "z-1", "CredentialId": id, "NewStatus": status });
    let zone = json!({ "ZoneId": "z-1" });
    let (no, yes) = ("AuthFailure.UnauthorizedOperation", "");
    for (action, parameters, reader, responder) in [
        ("ListSCIMCredentials", zone.clone(), yes, yes),
        ("GetSCIMSynchronizationStatus", zone.clone(), yes, yes),
        ("UpdateSCIMCredentialStatus", to("Disabled"), no, yes),
        ("UpdateSCIMCredentialStatus", to("Enabled"), no, no),
        ("CreateSCIMCredential", zone.clone(), no, no),
        ("DeleteSCIMCredential", one, no, no),
        (
            "UpdateSCIMSynchronizationStatus",
            json!({ "ZoneId": "z-1", "SCIMSynchronizationStatus": "Disabled" }),
            no,
            no,
        ),
    ] {
        for (who, code) in [("reader", reader), ("responder", responder)] {
            let answer = api.ask(who, action, parameters.clone()).await;
            assert_eq!(answer.code, code, "{who} {action}");
        }
    }
    let other = json!({ "ZoneId": "z-2" });
    let answer = api.ask("operator-1", "CreateSCIMCredential", other).await;
    assert_eq!(answer.code, "FailedOperation.ZoneIdNotExist", "as good as none");
    assert_eq!(api.ask("operator-1", "CreateSCIMCredential", zone).await.code, "");
}

#[tokio::test]
async fn who_signs_wrongly_is_told_what_is_wrong() {
    let api = Api::new().await;
    let (now, secret) = (api.world.now(), secret("operator"));
    let operator = key("operator", &secret);
    let create = |key: &Key<'_>, now| {
        tc3(key, "CreateSCIMCredential", b"{\"ZoneId\":\"z-1\"}".to_vec(), now)
    };
    let at = |seconds: i64| Timestamp::from_millis(now.as_millis() + seconds * 1000);
    let with = |name: &'static str, value: &'static str| {
        let mut request = create(&operator, now);
        request.headers_mut().insert(name, value.parse().expect("valid"));
        request
    };
    let mut put = create(&operator, now);
    *put.method_mut() = Method::PUT;
    let mut longer = create(&operator, now);
    longer.body_mut().push(b' ');
    let mut large = create(&operator, now);
    large.body_mut().resize((64 << 10) + 1, b' ');
    let with_token = Key { token: Some("a-session"), ..operator };
    for (request, code) in [
        (create(&key("nobody", &secret), now), "AuthFailure.SecretIdNotFound"),
        (create(&key("operator", "another secret"), now), "AuthFailure.SignatureFailure"),
        (create(&operator, at(-301)), "AuthFailure.SignatureExpire"),
        (create(&operator, at(301)), "AuthFailure.SignatureExpire"),
        (create(&with_token, now), "AuthFailure.TokenFailure"),
        (longer, "AuthFailure.SignatureFailure"),
        (large, "RequestSizeLimitExceeded"),
        (with("authorization", "SKIP"), "AuthFailure.InvalidAuthorization"),
        (with("host", "127.0.0.1:8082"), "AuthFailure.SignatureFailure"),
        (with("x-tc-timestamp", "soon"), "AuthFailure.InvalidAuthorization"),
        (with("x-tc-version", "2018-12-25"), "NoSuchVersion"),
        (with("x-tc-action", ""), "MissingParameter"),
        (put, "UnsupportedProtocol"),
    ] {
        assert_eq!(api.send(request).await.code, code);
    }
    let rows = api.done("ListSCIMCredentials", json!({ "ZoneId": "z-1" })).await;
    assert_eq!(rows["TotalCounts"], 0, "nothing happens before the signature is verified");
    assert_eq!(api.send(create(&operator, at(-300))).await.code, "");
    assert_eq!(api.send(create(&operator, at(300))).await.code, "");
}

#[tokio::test]
async fn the_older_scheme_does_the_same() {
    let api = Api::new().await;
    let now = api.world.now();
    let zone = ("ZoneId", "z-1");
    for method in [tencent_v1::Method::HmacSha1, tencent_v1::Method::HmacSha256] {
        let request = v1("operator", method, &[zone, ("ExpireDuration", "7200")], now);
        let made = api.send(request).await;
        assert_eq!(made.fields["ExpireTime"], "2027-01-15 18:00:00", "{}", made.fields);
    }
    let sha1 = tencent_v1::Method::HmacSha1;
    for (id, more, code) in [
        ("operator", ("ExpireDuration", "+7200"), "InvalidParameter.ParamError"),
        ("operator", ("ExpireDuration", "7200.0"), "InvalidParameter.ParamError"),
        ("operator", ("ExpireDuration", "true"), "InvalidParameter.ParamError"),
        ("operator", ("Dry", "1"), "UnknownParameter"),
        ("operator", ("Token", "a-session"), "AuthFailure.TokenFailure"),
        ("operator", ("Language", "zh-CN"), "LimitExceeded.ScimCredentialLimitExceeded"),
        ("reader", ("Language", "zh-CN"), "AuthFailure.UnauthorizedOperation"),
        ("nobody", ("Language", "zh-CN"), "AuthFailure.SecretIdNotFound"),
    ] {
        assert_eq!(api.send(v1(id, sha1, &[zone, more], now)).await.code, code, "{more:?}");
    }
    let bare = Request::post("/").header("host", HOST).header("content-type", FORM);
    let bare = bare.body(b"SecretId=operator&Action=ListSCIMCredentials".to_vec()).expect("valid");
    assert_eq!(api.send(bare).await.code, "MissingParameter");
}

#[tokio::test]
async fn a_request_of_the_older_scheme_that_comes_again_does_nothing() {
    let api = Api::new().await;
    let now = api.world.now();
    let create = |language| {
        let more = [("ZoneId", "z-1"), ("Language", language)];
        v1("operator", tencent_v1::Method::HmacSha256, &more, now)
    };
    assert_eq!(api.send(create("zh-CN")).await.code, "");
    assert_eq!(api.send(create("zh-CN")).await.code, "AuthFailure.SignatureExpire");
    assert_eq!(api.world.audited("login.fail").await.len(), 1);
    assert_eq!(api.world.audited("credential.create").await.len(), 1);
    // The same time and nonce, as a client may choose them twice.
    assert_eq!(api.send(create("en-US")).await.code, "");

    // Another process on the same store, and a tidy one.
    api.world.clock.advance(Duration::from_secs(300));
    api.world.service.tidy().await.expect("in memory");
    let tencent = Tencent::new(api.world.desk(), TimeOffset::china());
    let other = Api { tencent, ..api };
    assert_eq!(other.send(create("zh-CN")).await.code, "AuthFailure.SignatureExpire");
    assert_eq!(other.world.audited("login.fail").await.len(), 2);
    let failures = &other.world.metrics.admin_login_failures;
    assert_eq!(failures.with_label_values(&["replayed"]).get(), 2);
}

#[tokio::test]
async fn requests_of_one_second_have_a_limit_for_each_action() {
    let api = Api::new().await;
    let zone = json!({ "ZoneId": "z-1" });
    let list = async || api.ask("reader", "ListSCIMCredentials", zone.clone()).await;
    for _ in 0..20 {
        assert_eq!(list().await.code, "");
    }
    let refused = list().await;
    assert_eq!(refused.code, "RequestLimitExceeded");
    let told = refused.fields["Error"]["Message"].as_str().expect("a message");
    assert!(told.contains("21 requests") && told.contains("limit is 20"), "{told}");
    api.done("ListSCIMCredentials", zone.clone()).await;
    api.world.clock.advance(Duration::from_secs(1));
    assert_eq!(list().await.code, "");
}

#[tokio::test]
async fn who_guesses_is_audited_and_slowed_down_and_locks_nobody_out() {
    let api = Api::new().await;
    let guess = || tc3(&key("operator", "guess"), "ListSCIMCredentials", vec![], api.world.now());
    for _ in 0..20 {
        assert_eq!(api.send(guess()).await.code, "AuthFailure.SignatureFailure");
    }
    assert_eq!(api.send(guess()).await.code, "RequestLimitExceeded.IPLimitExceeded");
    api.create().await;
    let failed = api.world.audited("login.fail").await;
    assert_eq!(failed.len(), 20);
    assert_eq!((&*failed[0].actor, &*failed[0].peer), ("-", "127.0.0.1"));
    assert_eq!(api.world.audited("credential.create").await[0].actor, "operator");
    let failures = &api.world.metrics.admin_login_failures;
    assert_eq!(failures.with_label_values(&["signature"]).get(), 20);
    assert_eq!(failures.with_label_values(&["limited"]).get(), 1);
}

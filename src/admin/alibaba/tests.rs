//! The dialect over the store in memory, signed as its SDKs sign.

use http::Request;
use serde_json::{Value, json};

use super::actions::ACTIONS;
use super::*;
use crate::admin::testing::{World, key, secret, text};
use crate::clock::Timestamp;
use crate::signature::{FORM, Key, acs3, alibaba_rpc, encode};

struct Api {
    world: World,
    alibaba: Alibaba,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    fields: Value,
}

const HOST: &str = "127.0.0.1:8081";
type Pair<'a> = (&'a str, &'a str);

impl Api {
    async fn new() -> Self {
        let world = World::new().await;
        let alibaba = Alibaba::new(world.desk());
        Self { world, alibaba }
    }

    async fn raw(&self, request: Request<Vec<u8>>) -> (u16, String, String) {
        let response = self.alibaba.answer(&Received::of(request)).await;
        assert_eq!(response.headers()["cache-control"], "no-store");
        let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
        (response.status().as_u16(), kind, text(response).await)
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Answer {
        let (status, kind, body) = self.raw(request).await;
        assert_eq!(kind, "application/json;charset=utf-8", "{body}");
        let fields: Value = serde_json::from_str(&body).expect("JSON");
        let id = fields["RequestId"].as_str().expect("always there");
        assert!(id.len() == 36 && id.to_uppercase() == id, "{id}");
        let code = fields["Code"].as_str().unwrap_or_default().to_owned();
        let parts = ["Code", "Message", "HostId", "Recommend"];
        for part in parts {
            assert_eq!(fields.get(part).is_some(), status >= 400, "{part} in {fields}");
        }
        Answer { status, code, fields }
    }

    async fn ask(&self, who: &str, action: &str, parameters: &[Pair<'_>]) -> Answer {
        self.send(acs3(&key(who, &secret(who)), action, parameters, self.world.now())).await
    }

    async fn done(&self, action: &str, parameters: &[Pair<'_>]) -> Value {
        let answer = self.ask("operator", action, parameters).await;
        assert_eq!((answer.status, &*answer.code), (200, ""), "{action}: {}", answer.fields);
        answer.fields
    }

    async fn create(&self) -> String {
        let made = self.done("CreateSCIMServerCredential", &[DIRECTORY]).await;
        made["SCIMServerCredential"]["CredentialId"].as_str().expect("an id").to_owned()
    }
}

const DIRECTORY: Pair<'static> = ("DirectoryId", "z-1");

fn acs3(key: &Key<'_>, action: &str, parameters: &[Pair<'_>], now: Timestamp) -> Request<Vec<u8>> {
    let nonce = format!("{:x}", fastrand::u128(..));
    acs3_with(key, action, parameters, "", now, &nonce)
}

fn acs3_with(
    key: &Key<'_>,
    action: &str,
    parameters: &[Pair<'_>],
    body: &str,
    now: Timestamp,
    nonce: &str,
) -> Request<Vec<u8>> {
    let query = encode(parameters.iter().copied());
    let unsigned = acs3::Unsigned {
        method: "POST",
        host: HOST,
        action,
        version: "2021-05-15",
        query: &query,
        body: body.as_bytes(),
        headers: &[("accept", "application/json")],
    };
    let mut request = Request::post(format!("/?{query}"));
    for (name, value) in acs3::sign(key, &unsigned, now, nonce) {
        request = request.header(name, value);
    }
    request.body(body.into()).expect("valid")
}

/// A request of the older scheme, with its parameters in the query, in a form, or some in each.
fn rpc(id: &str, parameters: &[Pair<'_>], in_form: usize, now: Timestamp) -> Request<Vec<u8>> {
    let all = [&[("Version", "2021-05-15")], parameters].concat();
    let nonce = format!("{:x}", fastrand::u128(..));
    let signed = alibaba_rpc::sign(&key(id, &secret(id)), "POST", &all, now, &nonce);
    let (form, query) = signed.split_at(in_form);
    let pairs = |pairs: &[(String, String)]| encode(pairs.iter().cloned());
    let mut request = Request::post(format!("/?{}", pairs(query))).header("host", HOST);
    if in_form > 0 {
        request = request.header("content-type", FORM);
    }
    request.body(pairs(form).into_bytes()).expect("valid")
}

#[tokio::test]
async fn a_credential_goes_through_its_life() {
    let api = Api::new().await;
    let list = async || api.done("ListSCIMServerCredentials", &[DIRECTORY]).await;
    let found = list().await;
    assert_eq!((&found["TotalCounts"], &found["SCIMServerCredentials"]), (&json!(0), &json!([])));

    let made = api.done("CreateSCIMServerCredential", &[DIRECTORY]).await;
    let mut credential = made["SCIMServerCredential"].clone();
    let id = credential["CredentialId"].as_str().expect("an id").to_owned();
    let token = credential.as_object_mut().expect("one").remove("CredentialSecret");
    assert!(token.expect("a secret").as_str().expect("text").starts_with("scimg_"));
    let expected = json!({
        "Status": "Enabled", "DirectoryId": "z-1", "CredentialId": id,
        "CreateTime": "2027-01-15T08:00:00Z", "CredentialType": "BearerToken",
        "ExpireTime": "2028-01-15T08:00:00Z",
    });
    assert_eq!(credential, expected);
    assert_eq!(list().await["SCIMServerCredentials"], json!([expected]));

    api.create().await;
    let third = api.ask("operator", "CreateSCIMServerCredential", &[DIRECTORY]).await;
    assert_eq!((third.status, &*third.code), (409, "LimitExceeded.SCIMCredential"));
    assert_eq!(third.fields["HostId"], HOST);

    let one = [DIRECTORY, ("CredentialId", &*id)];
    for (new, now) in [
        (Some("Disabled"), "Disabled"),
        (Some("Disabled"), "Disabled"),
        (None, "Disabled"),
        (Some("Enabled"), "Enabled"),
    ] {
        let new = new.map(|status| ("NewStatus", status));
        let all: Vec<_> = one.into_iter().chain(new).collect();
        let answer = api.done("UpdateSCIMServerCredentialStatus", &all).await;
        let mut expected = expected.clone();
        expected["Status"] = now.into();
        assert_eq!(answer["SCIMServerCredential"], expected);
    }
    api.done("DeleteSCIMServerCredential", &one).await;
    let again = api.ask("operator", "DeleteSCIMServerCredential", &one).await;
    assert_eq!((again.status, &*again.code), (404, "EntityNotExists.SCIMCredential"));
    assert_eq!(list().await["TotalCounts"], 1);

    for (new, now) in [("Disabled", "Disabled"), ("", "Disabled"), ("Enabled", "Enabled")] {
        let switch = [DIRECTORY, ("SCIMSynchronizationStatus", new)];
        api.done("SetSCIMSynchronizationStatus", &switch).await;
        let found = api.done("GetSCIMSynchronizationStatus", &[DIRECTORY]).await;
        assert_eq!(found["SCIMSynchronizationStatus"], now);
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_by_the_documented_code() {
    let api = Api::new().await;
    let id = &*api.create().await;
    let long = "x".repeat(9000);
    let directory = |id| [("DirectoryId", id)];
    for (_, action) in ACTIONS {
        for (parameters, status, code) in [
            (vec![], 400, "MissingDirectoryId"),
            (directory("").to_vec(), 400, "MissingDirectoryId"),
        ] {
            let answer = api.ask("operator", action, &parameters).await;
            assert_eq!((answer.status, &*answer.code), (status, code), "{action} {parameters:?}");
        }
        for unknown in ["z-3", "z \u{e9}/*", "-1", &long] {
            let more = [("CredentialId", id), ("NewStatus", "Enabled")];
            let all = [&directory(unknown)[..], &more].concat();
            let answer = api.ask("operator", action, &all).await;
            assert_eq!((answer.status, &*answer.code), (404, "EntityNotExists.Directory"));
        }
    }
    let (update, delete) = ("UpdateSCIMServerCredentialStatus", "DeleteSCIMServerCredential");
    let set = "SetSCIMSynchronizationStatus";
    for (action, more, status, code) in [
        (update, vec![], 400, "MissingCredentialId"),
        (delete, vec![], 400, "MissingCredentialId"),
        (delete, vec![("CredentialId", "\u{e9}")], 404, "EntityNotExists.SCIMCredential"),
        (
            delete,
            vec![("CredentialId", "a"), ("CredentialId", "b")],
            400,
            "InvalidParameter.Format",
        ),
        (update, vec![("CredentialId", "scimcred-2")], 404, "EntityNotExists.SCIMCredential"),
        (
            update,
            vec![("CredentialId", id), ("NewStatus", "enabled")],
            400,
            "InvalidParameter.NewStatus",
        ),
        (
            set,
            vec![("SCIMSynchronizationStatus", "On")],
            400,
            "InvalidParameter.SCIMSynchronizationStatus",
        ),
        (delete, vec![("CredentialId", &*long)], 404, "EntityNotExists.SCIMCredential"),
        ("NoSuchAction", vec![], 404, "InvalidAction.NotFound"),
    ] {
        let all: Vec<_> = [DIRECTORY].into_iter().chain(more).collect();
        let answer = api.ask("operator", action, &all).await;
        assert_eq!((answer.status, &*answer.code), (status, code), "{action} {all:?}");
    }
    let rows = api.done("ListSCIMServerCredentials", &[DIRECTORY, ("RegionId", "x")]).await;
    assert_eq!(rows["TotalCounts"], 1, "nothing was made of all this");
    for (_, action) in ACTIONS {
        assert_eq!(api.world.counted(action, "5xx"), 0);
    }
}

#[tokio::test]
async fn each_role_may_what_it_is_for() {
    let api = Api::new().await;
    let id = &*api.create().await;
    let one = [DIRECTORY, ("CredentialId", id)];
    let to = |status| [DIRECTORY, ("CredentialId", id), ("NewStatus", status)];
    for (action, parameters, reader, responder) in [
        ("ListSCIMServerCredentials", &[DIRECTORY][..], 200, 200),
        ("GetSCIMSynchronizationStatus", &[DIRECTORY], 200, 200),
        ("UpdateSCIMServerCredentialStatus", &to("Disabled"), 403, 200),
        ("UpdateSCIMServerCredentialStatus", &to("Enabled"), 403, 403),
        ("CreateSCIMServerCredential", &[DIRECTORY], 403, 403),
        ("DeleteSCIMServerCredential", &one, 403, 403),
        (
            "SetSCIMSynchronizationStatus",
            &[DIRECTORY, ("SCIMSynchronizationStatus", "Disabled")],
            403,
            403,
        ),
    ] {
        for (who, status) in [("reader", reader), ("responder", responder)] {
            let answer = api.ask(who, action, parameters).await;
            assert_eq!(answer.status, status, "{who} {action}");
            assert_eq!(answer.code == "Forbidden.RAM", status == 403, "{}", answer.code);
        }
    }
    let other = [("DirectoryId", "z-2")];
    let answer = api.ask("operator-1", "CreateSCIMServerCredential", &other).await;
    assert_eq!(answer.code, "EntityNotExists.Directory", "as good as none");
}

#[tokio::test]
async fn who_signs_wrongly_is_told_what_is_wrong() {
    let api = Api::new().await;
    let (now, secret) = (api.world.now(), secret("operator"));
    let operator = key("operator", &secret);
    let create = |key: &Key<'_>, now| acs3(key, "CreateSCIMServerCredential", &[DIRECTORY], now);
    let at = |seconds: i64| Timestamp::from_millis(now.as_millis() + seconds * 1000);
    let with = |name: &'static str, value: &'static str| {
        let mut request = create(&operator, now);
        request.headers_mut().insert(name, value.parse().expect("valid"));
        request
    };
    let without = |name| {
        let mut request = create(&operator, now);
        request.headers_mut().remove(name);
        request
    };
    let mut put = create(&operator, now);
    *put.method_mut() = Method::PUT;
    let mut body = create(&operator, now);
    body.body_mut().push(b'{');
    let mut large = create(&operator, now);
    large.body_mut().resize((64 << 10) + 1, b' ');
    let with_token = Key { token: Some("a-session"), ..operator };
    for (request, status, code) in [
        (create(&key("nobody", &secret), now), 404, "InvalidAccessKeyId.NotFound"),
        (create(&key("operator", "another secret"), now), 400, "SignatureDoesNotMatch"),
        (create(&operator, at(-901)), 400, "InvalidTimeStamp.Expired"),
        (create(&operator, at(901)), 400, "InvalidTimeStamp.Expired"),
        (create(&with_token, now), 400, "InvalidSecurityToken.MismatchWithAccessKey"),
        (body, 400, "SignatureDoesNotMatch"),
        (large, 413, "RequestTooLarge"),
        (with("x-acs-date", "2027-01-15 08:00:00"), 400, "InvalidTimeStamp.Format"),
        (with("x-acs-date", "2027-01-15T08:00:00.5Z"), 400, "InvalidTimeStamp.Format"),
        (with("x-acs-version", "2021-05-16"), 400, "SignatureDoesNotMatch"),
        (with("x-acs-action", "ListSCIMServerCredentials"), 400, "SignatureDoesNotMatch"),
        (with("accept", "application/json, text/xml"), 400, "SignatureDoesNotMatch"),
        (with("authorization", "ACS3-HMAC-SM3 Credential=a"), 400, "InvalidSignatureMethod"),
        (with("authorization", "ACS3-HMAC-SHA256 Credential=a"), 400, "IncompleteSignature"),
        (without("authorization"), 400, "IncompleteSignature"),
        (without("x-acs-date"), 400, "MissingTimestamp"),
        (without("x-acs-signature-nonce"), 400, "MissingSignatureNonce"),
        (without("x-acs-action"), 400, "MissingAction"),
        (put, 400, "UnsupportedHTTPMethod"),
    ] {
        let answer = api.send(request).await;
        assert_eq!((answer.status, &*answer.code), (status, code), "{}", answer.fields);
    }
    let rows = api.done("ListSCIMServerCredentials", &[DIRECTORY]).await;
    assert_eq!(rows["TotalCounts"], 0, "nothing happens before the signature is verified");
    assert_eq!(api.send(create(&operator, at(-900))).await.status, 200);
    assert_eq!(api.send(create(&operator, at(900))).await.status, 200);
}

#[tokio::test]
async fn the_string_to_sign_is_told_in_full() {
    let api = Api::new().await;
    let (query, now) =
        ([("Action", "ListSCIMServerCredentials"), DIRECTORY, JSON], api.world.now());
    let mut request = rpc("operator", &query, 0, now);
    let text = request.uri().to_string().replace("z-1", "z-2");
    *request.uri_mut() = text.parse().expect("valid");
    let told = api.send(request).await.fields["Message"].clone();
    let start = "Specified signature is not matched with our calculation. server string to sign \
                 is:POST&%2F&AccessKeyId%3Doperator%26Action%3DListSCIMServerCredentials%26\
                 DirectoryId%3Dz-2%26Format%3DJSON%26SignatureMethod%3DHMAC-SHA1%26";
    assert!(told.as_str().is_some_and(|told| told.starts_with(start)), "{told}");
}

const JSON: Pair<'static> = ("Format", "JSON");

#[tokio::test]
async fn a_request_that_comes_again_does_nothing() {
    let api = Api::new().await;
    let secret = secret("operator");
    let operator = key("operator", &secret);
    let create = |now, nonce: &str| {
        let action = "CreateSCIMServerCredential";
        acs3_with(&operator, action, &[DIRECTORY], "", now, nonce)
    };
    let start = api.world.now();
    assert_eq!(api.send(create(start, "one")).await.status, 200);
    let again = api.send(create(start, "one")).await;
    assert_eq!((again.status, &*again.code), (400, "SignatureNonceUsed"));
    assert_eq!(api.world.audited("login.fail").await.len(), 1);
    assert_eq!(api.world.audited("credential.create").await.len(), 1);

    // Another process on the same store, and a tidy one.
    api.world.clock.advance(Duration::from_secs(900));
    api.world.service.tidy().await.expect("in memory");
    let other = Api { alibaba: Alibaba::new(api.world.desk()), ..api };
    assert_eq!(other.send(create(start, "one")).await.code, "SignatureNonceUsed");
    assert_eq!(other.send(create(start, "two")).await.status, 200);
    other.world.clock.advance(Duration::from_secs(1));
    assert_eq!(other.send(create(start, "one")).await.code, "InvalidTimeStamp.Expired");
}

#[tokio::test]
async fn a_clock_that_jumps_for_a_moment_brings_no_request_back() {
    let api = Api::new().await;
    let secret = secret("operator");
    let start = api.world.now();
    let create = || {
        let action = "CreateSCIMServerCredential";
        acs3_with(&key("operator", &secret), action, &[DIRECTORY], "", start, "one")
    };
    assert_eq!(api.send(create()).await.status, 200);
    api.world.clock.set_wall(start.plus(Duration::from_secs(86_400)));
    api.world.service.tidy().await.expect("in memory");
    api.world.clock.set_wall(start);
    assert_eq!(api.send(create()).await.code, "SignatureNonceUsed");
    api.world.clock.advance(Duration::from_secs(3600));
    api.world.service.tidy().await.expect("in memory");
    api.world.clock.set_wall(start);
    assert_eq!(api.send(create()).await.status, 200, "they are not kept for ever");
}

#[tokio::test]
async fn parameters_may_stand_in_the_query_in_a_form_or_in_both() {
    let api = Api::new().await;
    let (now, secret) = (api.world.now(), secret("operator"));
    let id = &*api.create().await;
    let action = "UpdateSCIMServerCredentialStatus";
    let (first, rest) = ([DIRECTORY], [("CredentialId", id), ("NewStatus", "Disabled")]);
    for (query, form) in [(&first[..], &rest[..]), (&[], &[&first[..], &rest[..]].concat())] {
        let nonce = format!("{:x}", fastrand::u128(..));
        let (key, form) = (key("operator", &secret), encode(form.iter().copied()));
        let request = acs3_with(&key, action, query, &form, now, &nonce);
        assert_eq!(api.send(request).await.fields["SCIMServerCredential"]["Status"], "Disabled");
    }
    let all = [&first[..], &rest, &[("Action", action), JSON]].concat();
    for in_form in 0..8 {
        let answer = api.send(rpc("operator", &all, in_form, now)).await;
        assert_eq!(answer.status, 200, "{in_form}: {}", answer.fields);
    }
    let region = [&all[..], &[("RegionId", "cn-shanghai"), ("SignatureType", "")]].concat();
    assert_eq!(api.send(rpc("operator", &region, 3, now)).await.status, 200);
    let action = [("Action", "Nothing"), JSON];
    assert_eq!(api.send(rpc("operator", &action, 0, now)).await.code, "InvalidAction.NotFound");
    assert_eq!(api.send(rpc("operator", &[JSON], 0, now)).await.code, "MissingAction");
}

#[tokio::test]
async fn xml_says_what_json_says() {
    let api = Api::new().await;
    let id = api.create().await;
    let list = [("Action", "ListSCIMServerCredentials"), DIRECTORY];
    let (status, kind, body) = api.raw(rpc("operator", &list, 0, api.world.now())).await;
    assert_eq!((status, &*kind), (200, "text/xml;charset=utf-8"));
    let start = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListSCIMServerCredentialsResponse>";
    assert!(body.starts_with(start), "{body}");
    let row = format!(
        "<SCIMServerCredential><CreateTime>2027-01-15T08:00:00Z</CreateTime><CredentialId>{id}</CredentialId>"
    );
    assert!(body.contains(&format!("<SCIMServerCredentials>{row}")), "{body}");
    assert!(body.contains("<TotalCounts>1</TotalCounts>"), "{body}");

    let unknown =
        [("Action", "ListSCIMServerCredentials"), ("DirectoryId", "z-3"), ("Format", "XML")];
    let (status, kind, body) = api.raw(rpc("operator", &unknown, 2, api.world.now())).await;
    assert_eq!((status, &*kind), (404, "text/xml;charset=utf-8"));
    assert!(body.contains("?><Error><Code>EntityNotExists.Directory</Code>"), "{body}");
    assert!(body.contains("cloudsso&amp;requestId="), "{body}");

    let mut refused = acs3(&key("nobody", "s"), "ListSCIMServerCredentials", &[], api.world.now());
    refused.headers_mut().insert("accept", "application/xml".parse().expect("valid"));
    let (status, _, body) = api.raw(refused).await;
    assert!(status == 404 && body.contains("<Code>InvalidAccessKeyId.NotFound</Code>"), "{body}");
}

#[tokio::test]
async fn requests_of_one_second_have_a_limit_for_each_action() {
    let api = Api::new().await;
    let list = async || api.ask("reader", "ListSCIMServerCredentials", &[DIRECTORY]).await;
    for _ in 0..100 {
        assert_eq!(list().await.status, 200);
    }
    let refused = list().await;
    assert_eq!((refused.status, &*refused.code), (400, "Throttling"));
    api.done("ListSCIMServerCredentials", &[DIRECTORY]).await;
    api.world.clock.advance(Duration::from_secs(1));
    assert_eq!(list().await.status, 200);
}

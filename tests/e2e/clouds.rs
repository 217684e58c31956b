//! The official SDKs of Tencent Cloud and Alibaba Cloud against the embedded admin API: each way in
//! which they sign and send goes through the whole life of a credential, and is refused as at the
//! cloud.

use jiff::civil::DateTime;
use jiff::{SpanRound, Unit};
use serde_json::{Value, json};

use crate::admin::{Admin, OPERATOR, READER};
use crate::process::until;
use crate::sdk::{ALIBABA, Asker, Refused, Sdk, TENCENT, ordinary};

/// Each with a tenant of its own.
fn lives(admin: &Admin, sdks: &[Sdk], life: impl Fn(&Sdk, &mut Asker, &str)) {
    for (number, sdk) in sdks.iter().enumerate() {
        let mut asker = sdk.start(admin, OPERATOR);
        life(sdk, &mut asker, &format!("z-{number}"));
    }
    let written = admin.written();
    assert!(!written.contains("panicked"), "{written}");
    for secret in [OPERATOR.1, "Signature=", "scimg_"] {
        assert!(!written.contains(secret), "{secret} in {written}");
    }
}

#[test]
fn tencent_sdks_manage_credentials() {
    let admin = Admin::start(false, TENCENT.len(), RATES);
    lives(&admin, &TENCENT, tencent_life);
}

#[test]
fn tencent_sdks_manage_credentials_over_tls() {
    let sdks = ordinary(&TENCENT);
    let admin = Admin::start(true, sdks.len(), RATES);
    lives(&admin, &sdks, tencent_life);
}

#[test]
fn alibaba_sdks_manage_credentials() {
    let admin = Admin::start(false, ALIBABA.len(), RATES);
    lives(&admin, &ALIBABA, alibaba_life);
}

#[test]
fn alibaba_sdks_manage_credentials_over_tls() {
    let sdks = ordinary(&ALIBABA);
    let admin = Admin::start(true, sdks.len(), RATES);
    lives(&admin, &sdks, alibaba_life);
}

/// Journeys are made faster than people go.
const RATES: &str = "tencent_requests_per_second: 1000, alibaba_requests_per_second: 1000";

fn tencent_life(sdk: &Sdk, asker: &mut Asker, zone: &str) {
    let only = json!({ "ZoneId": zone });
    let with = |name: &str, value: Value| json!({ "ZoneId": zone, name: value });
    let listed = |asker: &mut Asker, wanted: Value| {
        let found = asker.done("ListSCIMCredentials", wanted);
        let rows = found["SCIMCredentials"].as_array().expect("never null").clone();
        assert_eq!(found["TotalCounts"], rows.len(), "{sdk}");
        rows
    };
    assert_eq!(listed(asker, only.clone()), [] as [Value; 0], "{sdk}");

    let made = asker.done("CreateSCIMCredential", only.clone());
    assert_eq!(made["CredentialStatus"], "Enabled", "{sdk}: {made}");
    assert_eq!(made["CredentialType"], "BearerToken");
    assert!(made["CredentialSecret"].as_str().is_some_and(|it| it.starts_with("scimg_")));
    assert_eq!(seconds_of(&made), 365 * 86_400);
    let longest = 99 * 365 * 86_400_i64;
    let second = asker.done("CreateSCIMCredential", with("ExpireDuration", longest.into()));
    assert_eq!(seconds_of(&second), longest, "{sdk}");
    let id = &made["CredentialId"];
    let one = with("CredentialId", id.clone());
    let row = &listed(asker, one.clone())[0];
    for (name, value) in row.as_object().expect("a row") {
        let of_create = if name == "Status" { "CredentialStatus" } else { name };
        assert_eq!(&made[of_create], value, "{sdk}: {name}");
    }
    assert_eq!(row.as_object().map(serde_json::Map::len), Some(6), "no secret: {row}");
    assert_eq!(listed(asker, only.clone()).len(), 2);
    assert!(listed(asker, with("CredentialId", "scimcred-unknown0000".into())).is_empty());

    let to = |status: &str| json!({ "ZoneId": zone, "CredentialId": id, "NewStatus": status });
    for status in ["Disabled", "Disabled", "Enabled"] {
        asker.done("UpdateSCIMCredentialStatus", to(status));
        assert_eq!(listed(asker, one.clone())[0]["Status"], status);
    }
    let unknown = |status: &str| json!({ "ZoneId": zone, "CredentialId": "scimcred-unknown0000", "NewStatus": status });
    let elsewhere = json!({ "ZoneId": "z-99" });
    for (action, parameters, code) in [
        ("CreateSCIMCredential", only.clone(), "LimitExceeded.ScimCredentialLimitExceeded"),
        ("CreateSCIMCredential", elsewhere.clone(), "FailedOperation.ZoneIdNotExist"),
        (
            "CreateSCIMCredential",
            with("ExpireDuration", 3599.into()),
            "InvalidParameter.ParamError",
        ),
        (
            "CreateSCIMCredential",
            with("ExpireDuration", (-1).into()),
            "InvalidParameter.ParamError",
        ),
        ("CreateSCIMCredential", json!({}), "MissingParameter"),
        ("ListSCIMCredentials", elsewhere.clone(), "FailedOperation.ZoneIdNotExist"),
        (
            "ListSCIMCredentials",
            json!({ "ZoneId": "z b+c/~*\u{e9}&" }),
            "FailedOperation.ZoneIdNotExist",
        ),
        (
            "UpdateSCIMCredentialStatus",
            to("Gone"),
            "InvalidParameter.UserScimCredentialStatusError",
        ),
        (
            "UpdateSCIMCredentialStatus",
            unknown("Enabled"),
            "InvalidParameter.ScimCredentialNotFound",
        ),
        ("GetSCIMSynchronizationStatus", elsewhere, "FailedOperation.ZoneIdNotExist"),
        (
            "UpdateSCIMSynchronizationStatus",
            with("SCIMSynchronizationStatus", "On".into()),
            "InvalidParameter.ScimSyncStatusError",
        ),
    ] {
        assert_eq!(asker.ask(action, parameters), refused(code, 200), "{sdk}: {action}");
    }
    if sdk.sends_raw() {
        let extra = json!({ "ZoneId": zone, "DryRun": "true" });
        assert_eq!(asker.ask_raw("ListSCIMCredentials", extra), refused("UnknownParameter", 200));
        assert_eq!(asker.ask_raw("Nothing", json!({})), refused("InvalidAction", 200));
    }
    asker.done("DeleteSCIMCredential", one.clone());
    let code = "InvalidParameter.ScimCredentialNotFound";
    assert_eq!(asker.ask("DeleteSCIMCredential", one), refused(code, 200), "{sdk}");
    assert_eq!(listed(asker, only.clone()).len(), 1);
    for status in ["Disabled", "Enabled"] {
        let switch = with("SCIMSynchronizationStatus", status.into());
        asker.done("UpdateSCIMSynchronizationStatus", switch);
        let told = asker.done("GetSCIMSynchronizationStatus", only.clone());
        assert_eq!(told["SCIMSynchronizationStatus"], status, "{sdk}");
    }
}

fn alibaba_life(sdk: &Sdk, asker: &mut Asker, directory: &str) {
    let only = json!({ "DirectoryId": directory });
    let with = |name: &str, value: Value| json!({ "DirectoryId": directory, name: value });
    let listed = |asker: &mut Asker| {
        let found = asker.done("ListSCIMServerCredentials", json!({ "DirectoryId": directory }));
        let rows = found["SCIMServerCredentials"].as_array().expect("never null").clone();
        assert_eq!(found["TotalCounts"], rows.len(), "{sdk}");
        rows
    };
    assert_eq!(listed(asker), [] as [Value; 0], "{sdk}");
    let made = asker.done("CreateSCIMServerCredential", only.clone());
    let mut made = made["SCIMServerCredential"].clone();
    let secret = made.as_object_mut().expect("one").remove("CredentialSecret");
    assert!(secret.is_some_and(|it| it.as_str().is_some_and(|it| it.starts_with("scimg_"))));
    assert_eq!(
        (&made["Status"], &made["CredentialType"]),
        (&json!("Enabled"), &json!("BearerToken"))
    );
    assert_eq!(seconds_of(&made), 365 * 86_400, "{sdk}");
    assert_eq!(listed(asker), std::slice::from_ref(&made), "{sdk}");

    let id = &made["CredentialId"];
    let one = with("CredentialId", id.clone());
    let to =
        |status: &str| json!({ "DirectoryId": directory, "CredentialId": id, "NewStatus": status });
    for status in ["Disabled", "Disabled", "Enabled"] {
        let told = asker.done("UpdateSCIMServerCredentialStatus", to(status));
        assert_eq!(told["SCIMServerCredential"]["Status"], status, "{sdk}");
        assert_eq!(listed(asker)[0]["Status"], status, "{sdk}");
    }
    let told = asker.done("UpdateSCIMServerCredentialStatus", one.clone());
    assert_eq!(told["SCIMServerCredential"], made, "{sdk}");

    asker.done("CreateSCIMServerCredential", only.clone());
    let elsewhere = json!({ "DirectoryId": "z-99" });
    let unknown = with("CredentialId", "scimcred-unknown0000".into());
    for (action, parameters, code, status) in [
        ("CreateSCIMServerCredential", only.clone(), "LimitExceeded.SCIMCredential", 409),
        ("CreateSCIMServerCredential", elsewhere.clone(), "EntityNotExists.Directory", 404),
        ("ListSCIMServerCredentials", elsewhere.clone(), "EntityNotExists.Directory", 404),
        (
            "ListSCIMServerCredentials",
            json!({ "DirectoryId": "z b+c/~*\u{e9}&(1)!'" }),
            "EntityNotExists.Directory",
            404,
        ),
        ("ListSCIMServerCredentials", json!({}), "MissingDirectoryId", 400),
        ("DeleteSCIMServerCredential", unknown, "EntityNotExists.SCIMCredential", 404),
        ("DeleteSCIMServerCredential", only.clone(), "MissingCredentialId", 400),
        ("UpdateSCIMServerCredentialStatus", to("Gone"), "InvalidParameter.NewStatus", 400),
        ("GetSCIMSynchronizationStatus", elsewhere, "EntityNotExists.Directory", 404),
        (
            "SetSCIMSynchronizationStatus",
            with("SCIMSynchronizationStatus", "On".into()),
            "InvalidParameter.SCIMSynchronizationStatus",
            400,
        ),
    ] {
        let told = asker.ask(action, parameters);
        assert_eq!(told, refused(code, status), "{sdk}: {action}");
    }
    asker.done("DeleteSCIMServerCredential", one.clone());
    let told = asker.ask("DeleteSCIMServerCredential", one);
    assert_eq!(told, refused("EntityNotExists.SCIMCredential", 404), "{sdk}");
    assert_eq!(listed(asker).len(), 1);
    for status in ["Disabled", "Enabled"] {
        let switch = with("SCIMSynchronizationStatus", status.into());
        asker.done("SetSCIMSynchronizationStatus", switch);
        let told = asker.done("GetSCIMSynchronizationStatus", only.clone());
        assert_eq!(told["SCIMSynchronizationStatus"], status, "{sdk}");
    }
}

fn refused(code: &str, status: u64) -> Result<Value, Refused> {
    Err(Refused { code: code.to_owned(), status })
}

/// How long a credential lives, by whichever form its times have.
fn seconds_of(credential: &Value) -> i64 {
    let time = |name: &str| -> DateTime {
        let text = credential[name].as_str().expect("a time").trim_end_matches('Z');
        text.parse().expect("a time")
    };
    let span = time("CreateTime").until(time("ExpireTime")).expect("within bounds");
    let seconds = span.round(SpanRound::new().largest(Unit::Second).days_are_24_hours());
    seconds.expect("within bounds").get_seconds()
}

/// A signature that does not match is told with the server's string to sign: an SDK that compares it
/// to its own finds that the secret is wrong, and not the way of signing.
#[test]
fn sdks_are_told_why_a_key_opens_nothing() {
    // Each cloud's SDKs have a server of their own: failed logins of one address have a limit.
    let admin = Admin::start(false, 1, "");
    let zone = json!({ "ZoneId": "z-0" });
    for sdk in ordinary(&TENCENT) {
        for (key, code) in [
            ((OPERATOR.0, "another-secret-of-it"), "AuthFailure.SignatureFailure"),
            (("AKIDnobody", OPERATOR.1), "AuthFailure.SecretIdNotFound"),
            (READER, "AuthFailure.UnauthorizedOperation"),
        ] {
            let told = sdk.start(&admin, key).ask("CreateSCIMCredential", zone.clone());
            assert_eq!(told, refused(code, 200), "{sdk}");
        }
    }
    let admin = Admin::start(false, 1, "");
    let directory = json!({ "DirectoryId": "z-0" });
    for sdk in ordinary(&ALIBABA) {
        let compares = sdk.to_string().starts_with("alibaba-core");
        let mismatch = if compares { "InvalidAccessKeySecret" } else { "SignatureDoesNotMatch" };
        for (key, code, status) in [
            ((OPERATOR.0, "another-secret-of-it"), mismatch, 400),
            (("AKIDnobody", OPERATOR.1), "InvalidAccessKeyId.NotFound", 404),
            (READER, "Forbidden.RAM", 403),
        ] {
            let told = sdk.start(&admin, key).ask("CreateSCIMServerCredential", directory.clone());
            assert_eq!(told, refused(code, status), "{sdk}");
        }
    }
}

#[test]
fn sdks_are_told_to_slow_down() {
    let limits = "tencent_requests_per_second: 1, alibaba_requests_per_second: 1";
    let admin = Admin::start(false, 1, limits);
    let check = |sdk: Sdk, action: &str, parameters: Value, expected: (&str, u64)| {
        let mut asker = sdk.start(&admin, OPERATOR);
        until(&format!("limit for {sdk}"), || {
            let told = asker.ask(action, parameters.clone()).err()?;
            assert_eq!((&*told.code, told.status), expected, "{sdk}");
            Some(())
        });
    };
    for sdk in ordinary(&TENCENT) {
        let parameters = json!({ "ZoneId": "z-0" });
        check(sdk, "ListSCIMCredentials", parameters, ("RequestLimitExceeded", 200));
    }
    for sdk in ordinary(&ALIBABA) {
        let parameters = json!({ "DirectoryId": "z-0" });
        check(sdk, "ListSCIMServerCredentials", parameters, ("Throttling", 400));
    }
}

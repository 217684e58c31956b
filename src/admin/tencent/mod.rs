//! The dialect of Tencent Cloud Organization, version 2021-03-31. It answers 200 in any case, in an
//! envelope, and with a content type that has no parameter: its SDKs overlook errors otherwise. A
//! request of the older scheme counts once, also across a restart.

mod actions;
mod login;
mod parameters;
mod problem;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::json;

use super::Caller;
use super::signed::{Desk, Fields, Received, response, uuid};
use crate::config::value::TimeOffset;
use login::Login;
use problem::Fault;

pub struct Tencent {
    desk: Desk,
    /// Its times name no zone.
    offset: TimeOffset,
}

impl Tencent {
    pub fn new(desk: Desk, offset: TimeOffset) -> Self {
        Self { desk, offset }
    }

    pub async fn answer(&self, received: &Received) -> Response {
        let request_id = uuid();
        let mut action = "none";
        let done = self.serve(received, &request_id, &mut action).await;
        let (mut fields, class) = match done {
            Ok(fields) => (fields, "2xx"),
            Err(fault) => {
                if let Some(cause) = &fault.cause {
                    tracing::error!(request_id, action, "the admin API failed: {cause}");
                }
                let class = if fault.cause.is_some() { "5xx" } else { "4xx" };
                let error = json!({ "Code": fault.code, "Message": fault.message });
                (Fields::from_iter([("Error".to_owned(), error)]), class)
            }
        };
        self.desk.count(action, class);
        fields.insert("RequestId".to_owned(), request_id.into());
        let body = json!({ "Response": fields }).to_string();
        response(StatusCode::OK, "application/json", body)
    }

    async fn serve(
        &self,
        received: &Received,
        request_id: &str,
        named: &mut &'static str,
    ) -> Result<Fields, Fault> {
        if received.method != Method::GET && received.method != Method::POST {
            return Err(Fault::new("UnsupportedProtocol", "Send GET or POST."));
        }
        let login = Login::read(received.request()?)?;
        let caller = self.admit(&login, received, request_id).await?;
        let (action, name) = login.action()?;
        *named = name;
        let most = self.desk.service.limits().tencent_requests_per_second;
        self.desk.pace(login.key_id(), name, most).map_err(|count| {
            let told = format!("{count} requests came within a second; the limit is {most}.");
            Fault::new("RequestLimitExceeded", told)
        })?;
        if let Some(nonce) = login.nonce() {
            let restricts = login.restricts(action);
            if !self.desk.service.is_fresh(&caller, &nonce, login.time(), restricts).await? {
                let told = "The request came before. Sign it anew, with another Nonce.";
                let fault = Fault::new("AuthFailure.SignatureExpire", told);
                return Err(self.desk.failed(received, request_id, "replayed", fault).await);
            }
        }
        self.run(action, &caller, login.parameters()?).await
    }

    /// Who has signed it. In the order in which a client learns most of what is wrong.
    async fn admit(
        &self,
        login: &Login<'_>,
        received: &Received,
        request_id: &str,
    ) -> Result<Caller, Fault> {
        let failed = async |reason, fault: Fault| {
            Err(self.desk.failed(received, request_id, reason, fault).await)
        };
        let Some(key) = self.desk.service.keys().find(login.key_id()) else {
            let fault = Fault::new("AuthFailure.SecretIdNotFound", "The SecretId is not found.");
            return failed("unknown", fault).await;
        };
        if !self.desk.is_near(login.time(), WINDOW) {
            let told = "The timestamp differs from the server's time by more than five minutes.";
            return failed("expired", Fault::new("AuthFailure.SignatureExpire", told)).await;
        }
        if login.token().is_some() {
            let told = "There are no temporary keys here: the key takes no token.";
            return failed("token", Fault::new("AuthFailure.TokenFailure", told)).await;
        }
        if let Err(fault) = login.verify(key.secret()) {
            return failed("signature", fault).await;
        }
        Ok(Caller::new(key.holder.clone(), received.peer, request_id.to_owned()))
    }
}

/// How far a request's time may be from ours. TC3 has no nonce: for so long a request that was
/// overheard can be sent again, which TLS must prevent.
const WINDOW: Duration = Duration::from_secs(300);

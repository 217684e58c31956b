//! The dialect of Alibaba Cloud CloudSSO, version 2021-05-15. It answers in JSON or XML, with the
//! status that fits. Each signed request counts once: its nonce is kept, also across a restart.

mod actions;
mod answer;
mod login;
mod problem;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::response::Response;
use http::Method;

use super::Caller;
use super::signed::{Desk, Fields, Received, uuid};
use answer::Format;
use login::Login;
use problem::Fault;

pub struct Alibaba {
    desk: Desk,
}

impl Alibaba {
    pub fn new(desk: Desk) -> Self {
        Self { desk }
    }

    pub async fn answer(&self, received: &Received) -> Response {
        let request_id = uuid().to_uppercase();
        let format = Format::wanted(received);
        let mut action = "none";
        match self.serve(received, &request_id, &mut action).await {
            Ok(fields) => {
                self.desk.count(action, "2xx");
                format.success(action, fields, &request_id)
            }
            Err(fault) => {
                if let Some(cause) = &fault.cause {
                    tracing::error!(request_id, action, "the admin API failed: {cause}");
                }
                self.desk.count(action, if fault.status < 500 { "4xx" } else { "5xx" });
                format.failure(&fault, received.header("host"), &request_id)
            }
        }
    }

    async fn serve(
        &self,
        received: &Received,
        request_id: &str,
        named: &mut &'static str,
    ) -> Result<Fields, Fault> {
        if received.method != Method::GET && received.method != Method::POST {
            return Err(Fault::new(400, "UnsupportedHTTPMethod", "Send GET or POST."));
        }
        let login = Login::read(received.request()?)?;
        let caller = self.admit(&login, received, request_id).await?;
        let action = login.action();
        if let Ok((_, name)) = action {
            *named = name;
        }
        let most = self.desk.service.limits().alibaba_requests_per_second;
        self.desk.pace(login.key_id(), named, most).map_err(|_| {
            let told = "Request was denied due to request throttling.";
            Fault::new(400, "Throttling", told)
        })?;
        // Whatever it is about, it has been asked once from here on.
        let restricts =
            action.as_ref().is_ok_and(|(it, _)| it.restricts(|name| login.parameter(name)));
        let (nonce, time) = (login.nonce(), login.time());
        if !self.desk.service.is_fresh(&caller, nonce, time, restricts).await? {
            let told = "Specified signature nonce was used already.";
            let fault = Fault::new(400, "SignatureNonceUsed", told);
            return Err(self.desk.failed(received, request_id, "replayed", fault).await);
        }
        self.run(action?.0, &caller, &login).await
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
            let told = "Specified access key is not found.";
            return failed("unknown", Fault::new(404, "InvalidAccessKeyId.NotFound", told)).await;
        };
        if !self.desk.is_near(login.time(), WINDOW) {
            let told = "Specified time stamp or date value is expired.";
            return failed("expired", Fault::new(400, "InvalidTimeStamp.Expired", told)).await;
        }
        if login.token().is_some() {
            let told = "There are no temporary keys here: the key takes no token.";
            let fault = Fault::new(400, "InvalidSecurityToken.MismatchWithAccessKey", told);
            return failed("token", fault).await;
        }
        if let Err(fault) = login.verify(key.secret()) {
            return failed("signature", fault).await;
        }
        Ok(Caller::new(key.holder.clone(), received.peer, request_id.to_owned()))
    }
}

/// How far a request's time may be from ours.
const WINDOW: Duration = Duration::from_secs(900);

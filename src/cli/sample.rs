//! The demo's sample backend: users and groups in memory, and as much of RFC 7644 as a first try
//! with curl needs. It is no SCIM server, checks no token and forgets all at its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::server::{Connection, HeadFault, Service};

/// The path below which the sample answers.
pub const BASE: &str = "/scim/v2";

#[derive(Clone, Default)]
pub struct Sample {
    resources: Arc<Mutex<Resources>>,
}

#[derive(Default)]
struct Resources {
    /// By collection and id.
    all: BTreeMap<(String, String), Map<String, Value>>,
    made: u64,
}

type Reply = (StatusCode, Value);

impl Sample {
    /// With two users, so that the first list shows something.
    pub fn new() -> Self {
        let sample = Self::default();
        for name in ["ada", "grace"] {
            let user = json!({ "userName": format!("{name}@example.com"), "active": true });
            sample.lock().create("Users", user, BASE);
        }
        sample
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Resources> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, parts: &Parts, body: &[u8]) -> Reply {
        let path = parts.uri.path().strip_prefix(BASE).unwrap_or_default();
        let mut segments = path.trim_matches('/').split('/');
        let (collection, id) = (segments.next().unwrap_or_default(), segments.next());
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let base = format!("http://{host}{BASE}");
        let mut resources = self.lock();
        let resource = || serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
        match (collection, id, parts.method.as_str()) {
            ("ServiceProviderConfig", None, "GET") => (StatusCode::OK, service_provider_config()),
            ("Users" | "Groups", None, "GET") => {
                resources.list(collection, parts.uri.query().unwrap_or_default())
            }
            ("Users" | "Groups", None, "POST") => match resource() {
                Some(resource) => resources.create(collection, resource, &base),
                None => error(StatusCode::BAD_REQUEST, "the body must be a JSON object"),
            },
            ("Users" | "Groups", Some(id), method) => {
                let key = (collection.to_owned(), id.to_owned());
                match method {
                    "GET" => resources.show(&key),
                    "DELETE" => resources.delete(&key),
                    "PUT" | "PATCH" => match resource() {
                        Some(resource) => resources.change(&key, &resource, &parts.method),
                        None => error(StatusCode::BAD_REQUEST, "the body must be a JSON object"),
                    },
                    _ => error(StatusCode::NOT_IMPLEMENTED, "the sample cannot do that"),
                }
            }
            _ => error(StatusCode::NOT_FOUND, "the sample has only Users and Groups"),
        }
    }
}

impl Resources {
    /// Knows one filter: `userName eq "x"` or `displayName eq "x"`, as connection tests send it.
    fn list(&self, collection: &str, query: &str) -> Reply {
        let query = query.replace("%20", " ").replace('+', " ").replace("%22", "\"");
        let wanted = query.split_once(" eq \"").and_then(|(_, rest)| rest.split('"').next());
        let matches = |resource: &Map<String, Value>| {
            let names = ["userName", "displayName"].map(|key| resource.get(key));
            wanted.is_none_or(|wanted| names.contains(&Some(&json!(wanted))))
        };
        let rows = self.all.iter().filter(|((of, _), _)| of == collection);
        let found: Vec<_> = rows.map(|(_, resource)| resource).filter(|it| matches(it)).collect();
        let list = json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
            "totalResults": found.len(),
            "startIndex": 1,
            "itemsPerPage": found.len(),
            "Resources": found,
        });
        (StatusCode::OK, list)
    }

    fn create(&mut self, collection: &str, resource: Value, base: &str) -> Reply {
        let Value::Object(mut resource) = resource else {
            return error(StatusCode::BAD_REQUEST, "the body must be a JSON object");
        };
        self.made += 1;
        let id = format!("{:04}", self.made);
        let kind = collection.trim_end_matches('s');
        let schema = format!("urn:ietf:params:scim:schemas:core:2.0:{kind}");
        resource.entry("schemas").or_insert(json!([schema]));
        resource.insert("id".into(), json!(id));
        let location = format!("{base}/{collection}/{id}");
        resource.insert("meta".into(), json!({ "resourceType": kind, "location": location }));
        self.all.insert((collection.to_owned(), id), resource.clone());
        (StatusCode::CREATED, Value::Object(resource))
    }

    fn show(&self, key: &(String, String)) -> Reply {
        match self.all.get(key) {
            Some(resource) => (StatusCode::OK, Value::Object(resource.clone())),
            None => error(StatusCode::NOT_FOUND, "there is no such resource"),
        }
    }

    fn delete(&mut self, key: &(String, String)) -> Reply {
        match self.all.remove(key) {
            Some(_) => (StatusCode::NO_CONTENT, Value::Null),
            None => error(StatusCode::NOT_FOUND, "there is no such resource"),
        }
    }

    /// PUT replaces; PATCH sets what `path` or the keys of `value` name, at the top level.
    fn change(&mut self, key: &(String, String), change: &Value, method: &Method) -> Reply {
        let Some(resource) = self.all.get_mut(key) else {
            return error(StatusCode::NOT_FOUND, "there is no such resource");
        };
        if *method == Method::PUT {
            resource.retain(|name, _| name == "id" || name == "meta" || name == "schemas");
            merge(resource, change);
        }
        for operation in change["Operations"].as_array().into_iter().flatten() {
            match operation["path"].as_str() {
                Some(path) => drop(resource.insert(path.to_owned(), operation["value"].clone())),
                None => merge(resource, &operation["value"]),
            }
        }
        (StatusCode::OK, Value::Object(resource.clone()))
    }
}

fn merge(resource: &mut Map<String, Value>, change: &Value) {
    for (name, value) in change.as_object().into_iter().flatten() {
        if name != "id" && name != "meta" {
            resource.insert(name.clone(), value.clone());
        }
    }
}

fn service_provider_config() -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": { "supported": false, "maxOperations": 0, "maxPayloadSize": 0 },
        "filter": { "supported": true, "maxResults": 200 },
        "changePassword": { "supported": false },
        "sort": { "supported": false },
        "etag": { "supported": false },
        "authenticationSchemes": [{ "type": "oauthbearertoken", "name": "Bearer token" }],
    })
}

fn error(status: StatusCode, detail: &str) -> Reply {
    let body = json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": status.as_str(),
        "detail": detail,
    });
    (status, body)
}

impl Service for Sample {
    type Body = Full<Bytes>;
    type BodyError = Infallible;

    async fn call(&self, request: Request<Incoming>, _: &Connection) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (status, value) = self.answer(&parts, &body);
        response(status, &value)
    }

    fn refuse(
        &self,
        fault: HeadFault,
        _: Request<Incoming>,
        _: &Connection,
    ) -> Response<Full<Bytes>> {
        let (status, value) = error(fault.status(), fault.detail());
        response(status, &value)
    }
}

fn response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let bytes = if value.is_null() { Vec::new() } else { value.to_string().into_bytes() };
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/scim+json"));
    if status == StatusCode::CREATED
        && let Some(location) = value["meta"]["location"].as_str()
        && let Ok(location) = HeaderValue::from_str(location)
    {
        headers.insert(LOCATION, location);
    }
    response
}

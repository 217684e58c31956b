//! Locations tell the truth: what a backend says about where a resource is leads through the
//! proxy, because the backend gets to see the `Host` the client sent.

use serde_json::json;

use crate::backend::Backend;
use crate::client::{Answer, Client, Request};
use crate::guard::{Authorization, Guard, Row};

#[test]
fn a_location_names_the_address_the_client_used() {
    for backend in Backend::ALL {
        let server = backend.start();
        let guard = Guard::start(&server, Authorization::Remove, &[ROW]);
        let created = create(&guard, &guard.address.to_string());
        assert_leads_there(backend, &guard, &created);
        let location = location(backend, &create(&guard, "scim.example.com"));
        let wanted = format!("http://scim.example.com{}/Users/", guard.path);
        assert!(location.starts_with(&wanted), "{backend}: {location}");
    }
}

fn assert_leads_there(backend: Backend, guard: &Guard, created: &Answer) {
    let location = location(backend, created);
    let rest = location.strip_prefix(&guard.url()).unwrap_or_else(|| {
        panic!("{backend}: {location} is not below {}", guard.url());
    });
    let request = Request::new("GET", format!("{}{rest}", guard.path)).bearer(ROW.token);
    let found = Client::new(guard.address).send(&request).expect("an answer");
    assert_eq!(found.status, 200, "{backend}: {location} gives {found}");
    assert_eq!(found.json()["id"], created.json()["id"], "{backend}: {location}");
}

fn create(guard: &Guard, host: &str) -> Answer {
    let user = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": format!("somebody@{host}"),
    });
    let request = Request::new("POST", format!("{}/Users", guard.path));
    let request = request.header("Host", host).bearer(ROW.token).scim(&user);
    let created = Client::new(guard.address).send(&request).expect("an answer");
    assert_eq!(created.status, 201, "{created}");
    created
}

/// `meta.location`, and the header too from the backends that send one.
fn location(backend: Backend, created: &Answer) -> String {
    let body = created.json();
    let location = body["meta"]["location"].as_str().expect("RFC 7643 section 3.1 wants one");
    let header = created.header("Location");
    match backend {
        Backend::Express => assert_eq!(header, None, "scimmy-routers has begun to send one"),
        Backend::Scim2Server | Backend::Uvicorn => assert_eq!(header, Some(location)),
    }
    location.to_owned()
}

const ROW: Row = Row::enabled("scimcred-demo00000001", "location-0123456789-abcdefghijklmnopqrst");

//! The description of the native API, made from its handlers and types.

use std::collections::HashMap;

use http::Method;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response};
use utoipa::{Modify, OpenApi as _};

use super::operations;
use super::problem::{PROBLEM_TYPE, ProblemJson};
use crate::source::wire::ChangeJson;

/// The description, as `/v1/openapi.json` tells it.
pub fn openapi() -> String {
    let mut description = operations().into_openapi();
    for item in description.paths.paths.values_mut() {
        each(item).into_iter().flatten().for_each(|(_, operation)| refusals(operation));
    }
    description.to_pretty_json().expect("plain values") + "\n"
}

/// What stands around the operations.
pub fn frame() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(
        info(
            title = "scim-guard admin API",
            version = "1",
            description = "Times are RFC 3339 in UTC. Every write answers with \
                `Scim-Guard-Revision`, for `/v1/revisions/{n}/receipt`. Refusals are problem \
                details (RFC 9457).",
            license(name = "Apache-2.0", identifier = "Apache-2.0"),
        ),
        components(schemas(ProblemJson, ChangeJson)),
        security(("bearer" = [])),
        modifiers(&Bearer),
    )]
    struct Frame;
    Frame::openapi()
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An admin token. Its role says what it may be used for."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The id of each operation by method and path.
pub fn actions(description: &OpenApi) -> HashMap<(Method, String), String> {
    let mut actions = HashMap::new();
    for (path, item) in &description.paths.paths {
        for (method, operation) in each(&mut item.clone()).into_iter().flatten() {
            let id = operation.operation_id.clone().expect("each handler has a name");
            actions.insert((method, path.clone()), id);
        }
    }
    actions
}

fn each(item: &mut PathItem) -> [Option<(Method, &mut Operation)>; 5] {
    [
        item.get.as_mut().map(|it| (Method::GET, it)),
        item.put.as_mut().map(|it| (Method::PUT, it)),
        item.post.as_mut().map(|it| (Method::POST, it)),
        item.patch.as_mut().map(|it| (Method::PATCH, it)),
        item.delete.as_mut().map(|it| (Method::DELETE, it)),
    ]
}

/// Adds the refusals that any operation can answer with, and the schema that all of them have.
fn refusals(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    // Only what nobody needs a token for names its security.
    if operation.security.is_none() {
        for (status, description) in EVERYWHERE {
            let response = || RefOr::T(Response::new(description));
            responses.entry(status.to_owned()).or_insert_with(response);
        }
    }
    let schema = || RefOr::T(Content::new(Some(Ref::from_schema_name("Problem"))));
    for (_, response) in responses.iter_mut().filter(|(status, _)| status.as_str() >= "400") {
        if let RefOr::T(response) = response {
            response.content.insert(PROBLEM_TYPE.to_owned(), schema());
        }
    }
}

const EVERYWHERE: [(&str, &str); 5] = [
    ("400", "`invalid`, with `field`; `authorization_malformed`, `framing_invalid`"),
    ("401", "`token_missing`, `invalid_token`"),
    ("403", "`role_insufficient`, with `role` and `needed`"),
    ("429", "`logins_limited`, with `Retry-After`"),
    ("503", "`store_full`, `store_failed`, with `Retry-After`"),
];

/// A length of time, as a text or in seconds.
pub fn span_schema() -> Schema {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[0-9]+(ms|s|m|h|d|y)$"))
        .build();
    let about = "A text such as `90d`, or a whole number of seconds.";
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
    Schema::AnyOf(AnyOfBuilder::new().item(text).item(seconds).description(Some(about)).build())
}

//! scim-guard checks the bearer tokens of a SCIM 2.0 endpoint and forwards what may pass.
//!
//! Two journeys cross the crate, and each can be followed by file names alone:
//!
//! - a request: `server` → `proxy` → `route` → `credential::token` → `gate` → `proxy::forward` →
//!   `telemetry::access`
//! - a credential: `source` → `authority::follow` → `authority::table` → `authority::cache` →
//!   its verdict → `gate`
//!
//! A module imports only what stands below it, and no sibling (`tests/layering.rs`). From top to
//! bottom: `cli`; `app`; `proxy`, `decision`, `admin`, `ops`; `record`,
//! `identity`; `gate`; `refusal`, `route`; `authority`; `source`;
//! `server`, `store`; `signature`; `telemetry`; `config`; `credential`; `clock`; `guards`. The tests
//! of the whole are in `simulation` and `fuzzing`.

pub mod admin;
pub mod app;
pub mod authority;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod decision;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gate;
pub mod guards;
pub mod identity;
pub mod ops;
pub mod proxy;
pub mod record;
pub mod refusal;
pub mod route;
pub mod server;
pub mod signature;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod store;
pub mod telemetry;

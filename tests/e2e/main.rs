//! The end-to-end tests: the shipped binary between real SCIM servers and real SCIM clients.
//!
//! `scripts/install-e2e` installs those servers and clients under `target/e2e`. The binary is
//! `target/static/scim-guard`, or the one named by `SCIM_GUARD_BINARY`. Every port comes from
//! the kernel, so the tests run side by side.

mod admin;
mod answers;
mod backend;
mod client;
mod clouds;
mod conformance;
mod edges;
mod first_hour;
mod followed;
mod guard;
mod location;
mod port;
mod process;
mod sdk;
mod suite;
mod traces;
mod traffic;

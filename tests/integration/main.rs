//! Journeys through the shipped program: a real process, real sockets, a backend that records
//! every byte. No sleeps: conditions are waited for, with a deadline.

mod admin;
mod admin_certificates;
mod admin_commands;
mod admin_hygiene;
mod backend;
mod backups;
mod bodies;
mod cloud_commands;
mod cluster;
mod commands;
mod credentials;
mod decision;
mod durability;
mod forwarding;
#[cfg(feature = "e2e")]
mod full_disk;
mod guard;
mod http;
mod http2;
mod hygiene;
mod ledger;
mod lifecycle;
mod load;
mod mirror;
#[path = "../e2e/port.rs"]
mod port;
mod races;
mod refusals;
mod secrecy;
mod signed;
mod supervised;
mod takeover;
mod tls;
#[cfg(feature = "e2e")]
mod tls_scanners;
mod traces;
mod traffic;
mod upstream_faults;
mod upstream_restart;
mod upstream_tls;
mod upstreams;

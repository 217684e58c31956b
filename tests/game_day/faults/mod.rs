//! The faults, by where they strike.

mod admin;
mod backend;
mod cloud;
mod config;
mod process;
mod store;
mod tls;
mod tokens;

use crate::Fault;

pub const ALL: [&[Fault]; 8] = [
    &admin::FAULTS,
    &store::FAULTS,
    &cloud::FAULTS,
    &tokens::FAULTS,
    &config::FAULTS,
    &tls::FAULTS,
    &backend::FAULTS,
    &process::FAULTS,
];

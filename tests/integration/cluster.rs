//! An admin instance and proxies that follow it, each a process of its own, with a relay between
//! them that loses and holds back what a test says.

mod access;
mod bed;
mod life;
mod lineage;
mod outage;
pub mod relay;
mod revocation;

pub mod authority;
pub mod clock;
pub mod config;
pub mod credential;
pub mod source;
pub mod telemetry;

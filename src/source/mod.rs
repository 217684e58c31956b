//! Where credentials come from. A source reads and understands; it never decides and never
//! changes the table.

pub mod file;
pub mod watch;
pub mod wire;

use crate::credential::Credential;

/// All the credentials that a source knows.
pub type Listing = Vec<Credential>;

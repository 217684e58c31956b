//! The headers that tell a backend whose request it is, and every spelling of them.

use std::borrow::Cow;

pub const CREDENTIAL_ID: &str = "x-scim-credential-id";
pub const TENANT: &str = "x-scim-tenant";

/// A header's name, in lower case, as the most lenient backend may read it: many frameworks fold
/// `-`, `_` and `.` into one, and CGI programs may be given all that is no letter or digit as `_`,
/// so all spellings are the same name.
pub fn folded(name: &str) -> Cow<'_, str> {
    let odd = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
    if name.contains(odd) { name.replace(odd, "-").into() } else { name.into() }
}

/// Whether this is one of the two, however it is spelled.
pub fn is_identity(name: &str) -> bool {
    matches!(&*folded(name), CREDENTIAL_ID | TENANT)
}

//! The enrolment file of a proxy that follows a cloud by itself: whose token is whose. It says
//! nothing about who is let in: the listing does.

use std::path::Path;

use crate::credential::{Credential, TenantId};
use crate::source::file::{CredentialReader, Format};
use crate::source::watch::{Step, Tracked};

pub struct Enrolments {
    file: Tracked<Vec<Credential>>,
    reader: CredentialReader,
    tenant: TenantId,
    rows: Vec<Credential>,
    read: bool,
    /// Whether the rows are to be taken up once more.
    again: bool,
}

impl Enrolments {
    pub fn new(path: &Path, tenant: &TenantId) -> Self {
        Self {
            file: Tracked::new("enrolment", path),
            reader: CredentialReader::new(Format::of(path)),
            tenant: tenant.clone(),
            rows: Vec::new(),
            read: false,
            again: false,
        }
    }

    /// Looks at the file; whether its rows are to be taken up.
    pub fn look(&mut self) -> bool {
        let (reader, tenant) = (&mut self.reader, &self.tenant);
        let read = |content: &[u8]| {
            let rows = reader.read(content).map_err(|faults| faults.to_string())?;
            match rows.iter().find(|row| row.tenant != *tenant) {
                Some(row) => {
                    Err(format!("{} is of tenant {}, not of {tenant}", row.id, row.tenant))
                }
                None => Ok(rows),
            }
        };
        if let Step::Apply(rows) = self.file.step(read) {
            self.reader.applied(&rows);
            (self.rows, self.read, self.again) = (rows, true, true);
        }
        std::mem::take(&mut self.again)
    }

    /// Has the rows taken up at the next look.
    pub fn again(&mut self) {
        self.again = true;
    }

    pub fn rows(&self) -> &[Credential] {
        &self.rows
    }

    pub fn are_read(&self) -> bool {
        self.read
    }
}

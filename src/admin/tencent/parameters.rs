//! The parameters of an action: a JSON object, or the pairs of a query or a form, where a number is
//! a text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::problem::Fault;
use crate::admin::signed::shown;
use crate::credential::{CredentialId, Status, TenantId};
use crate::signature::Pairs;

pub struct Parameters {
    values: BTreeMap<String, Value>,
    are_texts: bool,
}

impl Parameters {
    pub fn of_pairs(pairs: Pairs) -> Result<Self, Fault> {
        let mut values = BTreeMap::new();
        for (name, value) in pairs {
            if values.insert(name, value.into()).is_some() {
                return Err(Fault::new("InvalidParameter", "A parameter is given twice."));
            }
        }
        Ok(Self { values, are_texts: true })
    }

    /// A member that is `null` is none.
    pub fn of_json(members: Map<String, Value>) -> Self {
        let values = members.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Self { values, are_texts: false }
    }

    fn text(&mut self, name: &'static str) -> Result<Option<String>, Fault> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err(Fault::new("InvalidParameter", format!("{name} must be a string."))),
        }
    }

    fn needed(&mut self, name: &'static str) -> Result<String, Fault> {
        self.text(name)?.ok_or_else(|| Fault::missing(name))
    }

    /// The zone, or that there is none by that name.
    pub fn zone(&mut self) -> Result<TenantId, Fault> {
        let text = self.needed("ZoneId")?;
        TenantId::parse(&text).map_err(|_| Fault::zone_unknown())
    }

    /// A credential's id as it came.
    pub fn credential(&mut self) -> Result<Option<String>, Fault> {
        self.text("CredentialId")
    }

    pub fn needed_credential(&mut self) -> Result<CredentialId, Fault> {
        let text = self.needed("CredentialId")?;
        CredentialId::parse(&text).map_err(|_| Fault::credential_unknown())
    }

    /// `Enabled` or `Disabled`; anything else is the action's own fault.
    pub fn status(&mut self, name: &'static str, code: &'static str) -> Result<Status, Fault> {
        let text = self.needed(name)?;
        let invalid = |_| Fault::new(code, format!("{name} must be Enabled or Disabled."));
        text.parse().map_err(invalid)
    }

    pub fn seconds(&mut self, name: &'static str) -> Result<Option<u64>, Fault> {
        let invalid = || {
            let told = format!("{name} must be a whole number of seconds.");
            Fault::new("InvalidParameter.ParamError", told)
        };
        let number = match self.values.remove(name) {
            None => return Ok(None),
            Some(Value::String(digits)) if self.are_texts => {
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse().ok().filter(|_| plain)
            }
            Some(value) => value.as_u64(),
        };
        number.map(Some).ok_or_else(invalid)
    }

    /// Refuses what nobody has asked for.
    pub fn end(self) -> Result<(), Fault> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => {
                let told = format!("The parameter {} is not known.", shown(name));
                Err(Fault::new("UnknownParameter", told))
            }
        }
    }
}

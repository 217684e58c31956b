//! Who may sign requests: access keys, by their ids. A signature is made anew to be compared, so
//! their secrets are kept as they are, unlike tokens; nothing here prints one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::Member;
use crate::config::value::SecretRef;
use crate::config::{self, read_secret};
use crate::source::watch::{Step, Tracked};

/// One key. Its holder is known by the key's id.
pub struct AccessKey {
    pub holder: Arc<Member>,
    secret: Box<str>,
}

impl AccessKey {
    fn new(config: &config::AccessKey, secret: &str) -> Self {
        Self { holder: Arc::new(Member::of_key(config, secret)), secret: secret.into() }
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }
}

#[derive(Default)]
pub struct AccessKeys {
    configured: Mutex<Vec<Configured>>,
    live: ArcSwap<HashMap<String, Arc<AccessKey>>>,
}

/// A key of the config, and its secret's file if it has one.
struct Configured {
    config: config::AccessKey,
    key: Arc<AccessKey>,
    file: Option<Tracked<Box<str>>>,
}

/// A configured key that was read.
pub struct Loaded(config::AccessKey, Arc<AccessKey>);

impl AccessKeys {
    /// Reads the secrets of a config; each fault names its key.
    pub fn load(config: &[config::AccessKey]) -> Result<Vec<Loaded>, Vec<String>> {
        let (mut loaded, mut faults) = (Vec::new(), Vec::new());
        for (index, config) in config.iter().enumerate() {
            let secret = read_secret(&config.secret);
            match secret.and_then(|secret| checked(secret.as_bytes())) {
                Ok(secret) => {
                    loaded.push(Loaded(config.clone(), Arc::new(AccessKey::new(config, &secret))));
                }
                Err(what) => faults.push(format!("admin.access_keys[{index}].secret: {what}")),
            }
        }
        if faults.is_empty() { Ok(loaded) } else { Err(faults) }
    }

    /// Puts other keys in the place of those that there are.
    pub fn configure(&self, loaded: Vec<Loaded>) {
        let configured = loaded.into_iter().map(|Loaded(config, key)| {
            let file = match &config.secret {
                SecretRef::File(path) => Some(Tracked::new("access key", path)),
                SecretRef::Env(_) => None,
            };
            Configured { config, key, file }
        });
        let mut known = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        *known = configured.collect();
        self.publish(&known);
    }

    /// Looks whether files of secrets have changed. To be called about once a second.
    pub fn refresh(&self) {
        let mut known = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for Configured { config, key, file } in known.iter_mut() {
            let Some(file) = file else { continue };
            let step = file.step(|content| checked(content.trim_ascii()));
            if let Step::Apply(secret) = step
                && secret != key.secret
            {
                tracing::info!(key = config.id, "access key replaced");
                *key = Arc::new(AccessKey::new(config, &secret));
                changed = true;
            }
        }
        if changed {
            self.publish(&known);
        }
    }

    fn publish(&self, configured: &[Configured]) {
        let live = configured.iter().map(|it| (it.config.id.clone(), Arc::clone(&it.key)));
        self.live.store(Arc::new(live.collect()));
    }

    pub fn find(&self, id: &str) -> Option<Arc<AccessKey>> {
        self.live.load().get(id).cloned()
    }
}

fn checked(secret: &[u8]) -> Result<Box<str>, String> {
    let text = std::str::from_utf8(secret).map_err(|_| "is no text".to_owned())?;
    if text.len() < SECRET_BYTES_MIN {
        return Err("is too short: a secret has 16 characters at least".to_owned());
    }
    Ok(text.into())
}

const SECRET_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn config(path: &std::path::Path) -> config::AccessKey {
        config::AccessKey {
            id: "AKID1".to_owned(),
            secret: SecretRef::File(path.to_owned()),
            role: Role::Reader,
            tenants: Vec::new(),
        }
    }

    #[test]
    fn a_changed_file_is_another_secret_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "a-secret-of-many-characters\n").expect("written");
        let keys = AccessKeys::default();
        keys.configure(AccessKeys::load(&[config(&path)]).unwrap_or_default());
        let secret = || keys.find("AKID1").expect("known").secret().to_owned();
        assert_eq!(secret(), "a-secret-of-many-characters");
        for content in ["short", "another-secret-of-many-characters"] {
            assert_eq!(secret(), "a-secret-of-many-characters");
            std::fs::write(&path, content).expect("written");
            (0..3).for_each(|_| keys.refresh());
        }
        assert_eq!(secret(), "another-secret-of-many-characters");
        assert!(keys.find("AKID2").is_none());
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_told_by_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "short").expect("written");
        let faults = AccessKeys::load(&[config(&path)]).err().expect("refused");
        let told = "admin.access_keys[0].secret: is too short";
        assert!(faults[0].starts_with(told) && !faults[0].contains("`"), "{faults:?}");
    }
}

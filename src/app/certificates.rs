//! The certificates of all listeners: looked at once a second, and told in the metrics.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::config;
use crate::server::Tls;
use crate::source::watch::WatchedFiles;
use crate::telemetry::metrics::Metrics;

pub struct Certificates {
    clock: Clock,
    metrics: Arc<Metrics>,
    watched: Mutex<Vec<Watched>>,
}

/// A listener's TLS and the files behind it.
pub struct Watched {
    pub tls: Arc<Tls>,
    /// The listener's address in the config.
    listener: String,
    files: WatchedFiles,
}

impl Watched {
    /// Fails with all that is wrong with the files; `place` is the config's path of this TLS.
    pub fn load(
        config: &config::tls::Tls,
        place: &str,
        listener: String,
    ) -> Result<Self, Vec<String>> {
        // Looked at first: what changes while we read is a change.
        let files = WatchedFiles::new(config.files());
        let tls = Arc::new(Tls::load(config, place)?);
        Ok(Self { tls, listener, files })
    }
}

impl Certificates {
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { clock, metrics, watched: Mutex::default() }
    }

    /// Looks after these from now on, and after no others.
    pub fn replace(&self, watched: Vec<Watched>) {
        let mut current = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.tls_certificate_expiry.reset();
        self.metrics.tls_last_renewal_successful.reset();
        for it in &watched {
            self.renewed(it, true);
            self.tell(it);
        }
        *current = watched;
    }

    /// One look at the files.
    pub fn poll(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for it in watched.iter_mut() {
            if it.files.have_changed() {
                let good = it.tls.renew();
                self.renewed(it, good);
                if good {
                    self.tell(it);
                }
            }
        }
    }

    fn renewed(&self, watched: &Watched, good: bool) {
        let gauge = &self.metrics.tls_last_renewal_successful;
        gauge.with_label_values(&[&watched.listener]).set(i64::from(good));
    }

    fn tell(&self, watched: &Watched) {
        if let Some(expiry) = watched.tls.expiry() {
            let gauge = &self.metrics.tls_certificate_expiry;
            gauge.with_label_values(&[&watched.listener]).set(expiry.as_seconds());
        }
        for expired in watched.tls.expired(self.clock.now().wall) {
            tracing::warn!("{expired}");
        }
    }
}

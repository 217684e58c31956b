//! What is counted of one fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::client::Answer;

#[derive(Default)]
pub struct Ledger {
    pub requests: Count,
    /// Answered with 401 or 403, also to those who deserve it.
    pub refused: Count,
    /// Answered with 503 because we could not know.
    pub undecided: Count,
    pub quarantines: Count,
    /// Tasks that a person had to start again.
    pub by_hand: Count,
    pub left_active: Count,
    pub resurrected: Count,
    broken: Mutex<Vec<String>>,
}

#[derive(Default)]
pub struct Count(AtomicUsize);

impl Count {
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Ledger {
    pub fn note(&self, answer: &Answer) {
        match answer.status {
            401 | 403 => self.refused.add(1),
            503 if !failed_behind_us(answer) => self.undecided.add(1),
            _ => {}
        }
    }

    /// Notes what should not have happened.
    pub fn broken(&self, what: impl Into<String>) {
        self.broken.lock().expect("sound").push(what.into());
    }

    pub fn all_broken(&self) -> Vec<String> {
        self.broken.lock().expect("sound").clone()
    }
}

/// Whether it was the backend that could not be had.
fn failed_behind_us(answer: &Answer) -> bool {
    answer.json()["detail"].as_str().is_some_and(|detail| detail.starts_with("the SCIM server"))
}

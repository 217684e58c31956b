//! The promises between admin API and proxies, under everything that can go wrong between them: a
//! world of the real follower, applier, gate and replicas over a network, clocks and a store that
//! misbehave by chance, and a judge that knows the truth.
//!
//! A seed is a world. `SEED=7 cargo test --lib simulation` runs one and tells what happens in it;
//! `SEEDS=100000` runs so many. Without either a few thousand run.

mod proxy;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::guards::{Guard, switch_off};
use world::{Scene, World};

/// What a store in memory does, which never has to wait.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory does not wait"),
    }
}

fn run(scene: &Scene, seed: u64, trace: bool) -> Result<(), String> {
    let lived = catch_unwind(AssertUnwindSafe(|| World::new(scene, seed, trace).run()));
    lived.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Runs seeds on all cores until one breaks a promise, and what is told of that has these words.
fn first_broken(
    seeds: std::ops::Range<u64>,
    off: Option<Guard>,
    words: &str,
) -> Option<(u64, String)> {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || {
        switch_off(off);
        let scene = Scene::new();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return None;
            }
            if let Err(broken) = run(&scene, seed, false)
                && broken.contains(words)
            {
                stop.store(true, Ordering::Relaxed);
                return Some((seed, broken));
            }
        }
        None
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|it| it.join().expect("seeds are caught")).min()
    })
}

/// Worlds of a usual run: some 20 seconds on two cores.
const SEEDS: u64 = 5000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_promise_is_broken() {
    if let Some(seed) = number("SEED") {
        assert_eq!(run(&Scene::new(), seed, true), Ok(()));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    if let Some((seed, broken)) = first_broken(0..seeds, None, "") {
        panic!("SEED={seed}: {broken}");
    }
}

/// Without a rule some world breaks a promise.
fn check_needed(guard: Guard, words: &str) {
    assert!(first_broken(0..4 * SEEDS, Some(guard), words).is_some(), "nobody missed {guard:?}");
}

#[test]
fn without_epochs_a_permit_outlives_the_revocation() {
    check_needed(Guard::Epochs, "in, which");
}

#[test]
fn without_versions_a_late_listing_takes_a_row_back() {
    check_needed(Guard::Versions, "");
}

#[test]
fn without_graves_a_late_listing_brings_a_row_back() {
    check_needed(Guard::Graves, "");
}

#[test]
fn without_the_floor_a_late_listing_removes_a_new_row() {
    check_needed(Guard::Floor, "");
}

#[test]
fn without_lineage_a_rewound_store_is_followed() {
    check_needed(Guard::Lineage, "let c");
}

#[test]
fn without_leases_a_silent_replica_accepts_after_the_receipt() {
    check_needed(Guard::Leases, "after the receipt");
}

#[test]
fn without_heads_a_table_that_lags_counts_as_fresh() {
    check_needed(Guard::Heads, "too old");
}

#[test]
fn without_comparisons_a_dispute_is_told_before_all_is_known() {
    check_needed(Guard::Comparisons, "back to life");
}

//! One of the targets, named by `TARGET`, under libFuzzer.

#![no_main]

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use libfuzzer_sys::fuzz_target;
use scim_guard::fuzzing::{Trial, target};

thread_local! {
    // The process ends without it.
    static TRIAL: RefCell<ManuallyDrop<Trial>> = {
        let name = std::env::var("TARGET").expect("TARGET names what to run");
        RefCell::new(ManuallyDrop::new(target(&name)))
    };
}

fuzz_target!(|input: &[u8]| TRIAL.with_borrow_mut(|trial| trial(input)));

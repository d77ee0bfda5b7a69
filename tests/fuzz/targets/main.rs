//! Every fuzz target: the one whose name this binary has.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tempo_harvest_fuzz::run(env!("CARGO_BIN_NAME"), data));

//! Arbitrary configurations, as a backend in Triton receives them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weldpool_config::fuzzing::backend_config(bytes));

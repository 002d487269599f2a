//! Arbitrary trace files.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weldpool_testkit::trace_readers::run(bytes));

//! Arbitrary operations on an allocator.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weldpool_testkit::alloc_ops::run(bytes));

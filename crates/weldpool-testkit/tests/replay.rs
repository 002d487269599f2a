//! What the fuzzer runs, without the fuzzer: the corpus, then random inputs.

use std::path::Path;
use std::time::{Duration, Instant};

use weldpool_testkit::{alloc_ops, trace_readers};

/// Seconds of random programs, unless `WELDPOOL_ALLOC_OPS_SECONDS` says otherwise.
const SECONDS: u64 = 10;
/// The first of the random programs.
const SEED: u64 = 1;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

#[test]
fn the_corpus_runs() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/alloc_ops");
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        eprintln!("{}", file.display());
        alloc_ops::run(&std::fs::read(file).unwrap());
    }
}

#[test]
fn random_programs_run() {
    let end = Instant::now() + Duration::from_secs(number("WELDPOOL_ALLOC_OPS_SECONDS", SECONDS));
    let mut seed = number("WELDPOOL_ALLOC_OPS_SEED", SEED);
    while Instant::now() < end {
        // Shown when the test fails.
        println!("WELDPOOL_ALLOC_OPS_SEED={seed}");
        alloc_ops::run(&alloc_ops::random_program(seed));
        seed += 1;
    }
    println!("{seed} programs");
}

#[test]
fn arbitrary_trace_files_end_in_events_or_an_error() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/trace_readers");
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        trace_readers::run(&bytes);
        // Each cut short, and with a byte changed.
        let mut random = alloc_ops::random_program(SEED).into_iter().cycle();
        let mut next = || usize::from_le_bytes(std::array::from_fn(|_| random.next().unwrap()));
        for _ in 0..200 {
            let at = next() % bytes.len();
            trace_readers::run(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (next() % 8);
            trace_readers::run(&changed);
        }
    }
}

//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer with AddressSanitizer.

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::nightly;
use crate::paths::{self, Paths};
use crate::progress::Steps;

const TARGETS: [&str; 3] = ["alloc_ops", "trace_readers", "triton_config"];
const SECONDS: u32 = 60;
/// Longest input in bytes.
const INPUT_BYTES_MAX: u32 = 4096;

/// What libFuzzer needs of the compiler: counters of edges, and the operands of comparisons.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let only = arguments.positional();
    let seconds = match arguments.value("--seconds")? {
        None => SECONDS,
        Some(text) => text
            .parse()
            .map_err(|_| Failure::new(format!("--seconds {text} is no number of seconds")))?,
    };
    arguments.finish_all()?;
    if let Some(name) = &only
        && !TARGETS.contains(&name.as_str())
    {
        return Err(Failure::new(format!("there is no fuzz target {name}"))
            .hint(format!("there are {}", TARGETS.join(", "))));
    }
    let mut steps = Steps::new(paths.logs());
    let fuzz = paths.root().join("fuzz");
    for target in TARGETS {
        if only.as_deref().is_some_and(|name| name != target) {
            continue;
        }
        // What is found goes to the first folder, which is not part of the repository.
        let found = paths.variant("fuzz").join("found").join(target);
        let corpus = fuzz.join("corpus").join(target);
        paths::create_directory(&found)?;
        let run = nightly::cargo("run", FLAGS)?
            .args(["--release", "--bin", target, "--target-dir"])
            .arg(paths.variant("fuzz"))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            // Allocations of the program under test are limited by itself.
            .args(["-rss_limit_mb=4096", "-timeout=60"])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(&found)
            .arg(&corpus)
            .directory(&fuzz);
        steps.show(&format!("fuzz {target} for {seconds} s"), run)?;
    }
    steps.done("fuzz");
    Ok(())
}

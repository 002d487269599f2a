//! `cargo xtask sanitize`: the tests of the memory manager under a sanitizer.

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::nightly;
use crate::paths::{self, Paths};
use crate::process::Run;
use crate::progress::Steps;

/// Correct use of a lock and a map of the standard library, which is not compiled with the sanitizer. Reports on
/// it are false, and so may be those on anything that passes through the standard library.
const CONTROL: &str = r#"
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

fn main() {
    let map = Arc::new(Mutex::new(BTreeMap::new()));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let map = Arc::clone(&map);
            std::thread::spawn(move || {
                for key in 0..1000_u64 {
                    map.lock().unwrap().insert(key * 4 + thread, key);
                    map.lock().unwrap().remove(&(key * 2));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
"#;

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let which = arguments.positional().unwrap_or_else(|| "address".into());
    let tests = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    match which.as_str() {
        "address" => {
            let run = suite(paths, "address")?
                .arg("--")
                .args(tests)
                // Records of blocks live as long as the process, on purpose, and are reachable.
                .env("ASAN_OPTIONS", "detect_leaks=1");
            steps.show("the tests under AddressSanitizer", run)?;
        }
        "thread" => thread(paths, &mut steps, &tests)?,
        other => {
            return Err(Failure::new(format!("there is no sanitizer {other}"))
                .hint("`address` and `thread` are what there is"));
        }
    }
    steps.done("sanitize");
    Ok(())
}

fn suite(paths: &Paths, sanitizer: &str) -> Result<Run> {
    let mut flags = format!("-Zsanitizer={sanitizer}");
    if sanitizer == "thread" {
        // The standard library comes compiled without it.
        flags.push_str(" -Cunsafe-allow-abi-mismatch=sanitizer");
    }
    let run = nightly::cargo("test", &flags)?
        .args(["--package", "weldpool", "--package", "weldpool-testkit"])
        .args(["--no-fail-fast", "--lib", "--tests", "--target-dir"])
        .arg(paths.variant(sanitizer))
        .directory(paths.root());
    Ok(run)
}

/// The control first: only where it is silent do reports on the tests mean anything.
fn thread(paths: &Paths, steps: &mut Steps, tests: &[String]) -> Result<()> {
    let directory = paths.variant("thread").join("control");
    paths::create_directory(&directory.join("src"))?;
    paths::write(&directory.join("src/main.rs"), CONTROL)?;
    let manifest =
        "[workspace]\n[package]\nname = \"control\"\nversion = \"0.0.0\"\nedition = \"2024\"\n";
    paths::write(&directory.join("Cargo.toml"), manifest)?;
    let flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";
    let control = nightly::cargo("run", flags)?
        .arg("--target-dir")
        .arg(directory.join("target"))
        .directory(&directory);
    let trusted = steps
        .log("the control under ThreadSanitizer", control)
        .is_ok();
    if !trusted {
        eprintln!(
            "The control, which has no race, is reported: this standard library is not compiled with ThreadSanitizer,\n\
             so it does not see what its locks order. Reports on the tests below prove nothing, and are not counted."
        );
    }
    let run = suite(paths, "thread")?.arg("--").args(tests);
    let run = run.env(
        "TSAN_OPTIONS",
        if trusted { "exitcode=66" } else { "exitcode=0" },
    );
    steps.log("the tests under ThreadSanitizer", run)
}

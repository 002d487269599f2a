//! `cargo xtask sanitize`: the tests of the memory manager under a sanitizer.

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::nightly;
use crate::paths::{self, Paths};
use crate::process::Run;
use crate::progress::Steps;
use crate::toolchain::Toolchain;

/// Correct use of a lock and a map of the standard library: must not be reported.
const ORDERED: &str = r#"
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

/// Two threads that write to one place: must be reported.
const RACE: &str = r#"
struct Shared(std::cell::UnsafeCell<u64>);

unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(std::cell::UnsafeCell::new(0));

fn add() {
    for _ in 0..1000 {
        unsafe { *SHARED.0.get() += 1 };
    }
}

fn main() {
    let other = std::thread::spawn(add);
    add();
    other.join().unwrap();
}
"#;

const MANIFEST: &str =
    "[workspace]\n[package]\nname = \"control\"\nversion = \"0.0.0\"\nedition = \"2024\"\n";

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let which = arguments.positional().unwrap_or_else(|| "address".into());
    let tests = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    match which.as_str() {
        "address" => {
            let run = nightly::cargo("test", "-Zsanitizer=address")?;
            let run = suite(run, paths, "address")
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

/// Which tests, the same for every sanitizer: all but `locks`, which looks at instructions, and would find the
/// sanitizer's.
fn suite(run: Run, paths: &Paths, sanitizer: &str) -> Run {
    let tests = ["it", "heap", "replay"].map(|name| ["--test", name]);
    run.args(["--package", "weldpool", "--package", "weldpool-testkit"])
        .args(["--no-fail-fast", "--lib"])
        .args(tests.concat())
        .arg("--target-dir")
        .arg(paths.variant(sanitizer))
        .directory(paths.root())
}

/// Without a standard library that is compiled with it, ThreadSanitizer does not see what its locks order. The
/// nightly toolchain has no source of one, Debian's compiler has; the sanitizer's runtime is that of the former.
/// Two controls show that the combination tells right from wrong.
fn thread(paths: &Paths, steps: &mut Steps, tests: &[String]) -> Result<()> {
    let toolchain = Toolchain::debian(steps)?;
    let runtime = nightly::library("librustc-nightly_rt.tsan.a")?;
    let flags = [
        "-Zsanitizer=thread",
        // rustix then unmaps through the C library, where the sanitizer sees that addresses are free: else it
        // takes the next test that is given them for one that shares memory with the last.
        "--cfg=rustix_use_libc",
        // What the compiler would link itself if it had it.
        "-Zexternal-clangrt",
        "-Clink-arg=-Wl,--whole-archive",
        &format!("-Clink-arg={}", runtime.display()),
        "-Clink-arg=-Wl,--no-whole-archive",
        "-Clink-arg=-Wl,--export-dynamic",
        "-Clink-arg=-lm",
        "-Clink-arg=-lpthread",
        "-Clink-arg=-ldl",
        "-Clink-arg=-lrt",
        "-Clink-arg=-lc",
        "-Clink-arg=-l:libc_nonshared.a",
        // Functions of the C library that nobody may call any more, and that it intercepts.
        "-Clink-arg=-Wl,--warn-unresolved-symbols",
    ]
    .join(" ");
    let cargo = |subcommand| {
        toolchain
            .cargo(subcommand, nightly::TARGET)
            .env("RUSTFLAGS", &flags)
            .env("TSAN_OPTIONS", "exitcode=66")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
    };
    let directory = paths.variant("thread").join("control");
    paths::create_directory(&directory.join("src/bin"))?;
    paths::write(&directory.join("src/bin/ordered.rs"), ORDERED)?;
    paths::write(&directory.join("src/bin/race.rs"), RACE)?;
    paths::write(&directory.join("Cargo.toml"), MANIFEST)?;
    let control = |name| {
        cargo("run")
            .args(["--bin", name, "--target-dir"])
            .arg(paths.variant("thread"))
            .directory(&directory)
    };
    steps.log(
        "the control without a race under ThreadSanitizer",
        control("ordered"),
    )?;
    if steps
        .log("the control with a race", control("race"))
        .is_ok()
    {
        return Err(Failure::new("ThreadSanitizer does not see a race")
            .hint("the sanitizer's runtime and the compiler do not fit together"));
    }
    let run = suite(cargo("test"), paths, "thread").arg("--").args(tests);
    steps.show("the tests under ThreadSanitizer", run)
}

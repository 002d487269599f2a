//! Spans around slow paths, as profilers see them.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::pressure::Level;
use weldpool::profiling::{Profiling, SlowPath, SpanEvent, SpanHandler, SpanPhase};
use weldpool::{Allocator, Config, Device, Request, StorageMode};

const MIB: usize = 1 << 20;

type Seen = Arc<Mutex<Vec<(ThreadId, SpanEvent)>>>;

/// An allocator whose spans are noted.
fn noted(device: Arc<dyn Device>, config: Config) -> (Allocator, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let note = move |event| {
        let thread = std::thread::current().id();
        noted.lock().unwrap().push((thread, event));
    };
    let config = Config {
        profiling: Profiling::Handler(SpanHandler::new(note)),
        ..config
    };
    let allocator = Allocator::builder(device).config(config).build().unwrap();
    (allocator, seen)
}

fn host() -> Arc<dyn Device> {
    Arc::new(HostDevice::new().unwrap())
}

/// What was begun, with the bytes of begin and end, those inside of others by their depth; and that the spans of each
/// thread are nested and over.
fn spans(seen: &Seen) -> Vec<(SlowPath, usize, u64, u64)> {
    let mut under_way: HashMap<ThreadId, Vec<usize>> = HashMap::new();
    let mut spans = Vec::new();
    for &(thread, event) in &*seen.lock().unwrap() {
        let open = under_way.entry(thread).or_default();
        match event.phase {
            SpanPhase::Begin => {
                spans.push((event.path, open.len(), event.bytes, u64::MAX));
                open.push(spans.len() - 1);
            }
            SpanPhase::End => {
                let span: &mut (SlowPath, usize, u64, u64) = &mut spans[open.pop().unwrap()];
                assert_eq!(span.0, event.path);
                span.3 = event.bytes;
            }
        }
    }
    assert!(under_way.values().all(Vec::is_empty), "{under_way:?}");
    spans
}

fn of(seen: &Seen, path: SlowPath) -> Vec<(u64, u64)> {
    let spans = spans(seen).into_iter().filter(|span| span.0 == path);
    spans.map(|(_, _, begin, end)| (begin, end)).collect()
}

#[test]
fn memory_that_comes_and_goes_is_seen_and_warm_requests_are_not() {
    for device in [host(), Arc::new(FakeApple::new().unwrap())] {
        let (allocator, seen) = noted(device, Config::default());
        let buffer = allocator.allocate(4 * MIB).unwrap();
        assert_eq!(of(&seen, SlowPath::Growth), [(4 << 20, 4 << 20)]);
        drop(buffer);
        let before = seen.lock().unwrap().len();
        for _ in 0..1000 {
            drop(allocator.allocate(4 * MIB).unwrap());
        }
        assert_eq!(seen.lock().unwrap().len(), before, "caches serve these");
        let reserved = allocator.stats().reserved.value;
        let _bytes = allocator.clear();
        let returned: u64 = of(&seen, SlowPath::Trim).iter().map(|&(_, end)| end).sum();
        assert_eq!(returned, reserved - allocator.stats().reserved.value);
        assert!(returned >= 4 << 20);
    }
}

#[test]
fn holes_that_are_mapped_together_are_seen_within_the_growth() {
    let config = Config {
        reserved_bytes_max: Some(16 << 20),
        ..Config::default()
    };
    let (allocator, seen) = noted(Arc::new(FakeDiscrete::builder().build().unwrap()), config);
    let request = Request::new(2 * MIB).storage(StorageMode::Private);
    let mut buffers: Vec<_> = (0..8)
        .map(|_| allocator.allocate_with(&request).unwrap())
        .collect();
    let mut number = 0;
    buffers.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    let large = Request::new(8 * MIB).storage(StorageMode::Private);
    let whole = allocator.allocate_with(&large).unwrap();
    let remaps: Vec<_> = spans(&seen)
        .into_iter()
        .filter(|span| span.0 == SlowPath::Remap)
        .collect();
    assert!(!remaps.is_empty(), "{:?}", spans(&seen));
    for (_, depth, bytes, _) in remaps {
        assert!(depth >= 1, "within a growth");
        assert_eq!(bytes, whole.len() as u64);
    }
}

#[test]
fn recovery_is_seen_around_what_it_tries() {
    let config = Config {
        reserved_bytes_max: Some(8 << 20),
        wait_max: Duration::from_millis(1),
        ..Config::default()
    };
    let (allocator, seen) = noted(host(), config);
    let _held = allocator.allocate(6 * MIB).unwrap();
    allocator.allocate(5 * MIB).unwrap_err();
    assert_eq!(of(&seen, SlowPath::Recovery), [(5 << 20, 5 << 20)]);
    let inside = spans(&seen)
        .into_iter()
        .filter(|&(path, depth, ..)| path == SlowPath::Growth && depth == 1);
    assert!(inside.count() >= 1, "each step tries again");
}

#[test]
fn answers_to_pressure_and_waits_are_seen() {
    let (allocator, seen) = noted(host(), Config::default());
    let queue = allocator.create_queue().unwrap();
    drop(allocator.allocate(8 * MIB).unwrap());
    let mut used = allocator.allocate(MIB).unwrap();
    queue
        .call(|| std::thread::sleep(Duration::from_millis(20)))
        .unwrap();
    queue.fill(&mut used, 1).unwrap();
    drop(used);
    let monitor = allocator.pressure().unwrap();
    monitor.signal(Level::Emergency);
    monitor.check();
    let answers = of(&seen, SlowPath::Pressure);
    let stats = allocator.stats();
    assert_eq!(answers, [(0, stats.pressure_returned_bytes)]);
    let waits = of(&seen, SlowPath::Wait);
    assert!(
        waits.iter().any(|&(begin, _)| begin >= 1 << 20),
        "{waits:?}"
    );
}

#[test]
fn a_collection_is_seen_on_its_own_thread() {
    let config = Config {
        reserved_bytes_max: Some(16 << 20),
        gc: GcConfig {
            interval: Duration::from_secs(3600),
            policy: GcPolicy::default(),
            ..GcConfig::default()
        },
        ..Config::default()
    };
    let (allocator, seen) = noted(host(), config);
    let buffers: Vec<_> = (0..15).map(|_| allocator.allocate(MIB).unwrap()).collect();
    drop(buffers);
    assert!(allocator.collect_soon());
    let start = Instant::now();
    while allocator.stats().gc.collections == 0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(allocator);
    let collections = of(&seen, SlowPath::Collection);
    assert_eq!(collections.len(), 1);
    let own = std::thread::current().id();
    let seen = seen.lock().unwrap();
    let mut threads = seen
        .iter()
        .filter(|(_, event)| event.path == SlowPath::Collection);
    assert!(threads.all(|&(thread, _)| thread != own));
}

#[test]
fn staged_copies_are_seen_with_their_length() {
    let device = Arc::new(FakeDiscrete::builder().build().unwrap());
    let (allocator, seen) = noted(device, Config::default());
    let queue = allocator.create_queue().unwrap();
    let request = Request::new(3 * MIB).storage(StorageMode::Private);
    let mut there = allocator.allocate_with(&request).unwrap();
    queue.write(&vec![7_u8; 3 * MIB], &mut there).unwrap();
    let mut back = vec![0_u8; 3 * MIB];
    queue.read(&there, &mut back).unwrap();
    assert!(back.iter().all(|&byte| byte == 7));
    let both = [(3 << 20, 3 << 20); 2];
    assert_eq!(of(&seen, SlowPath::StagedCopy), both);
    let copier = weldpool::transfer::Copier::new().unwrap();
    copier.copy(&vec![8_u8; 3 * MIB], &mut there).unwrap();
    let copies = of(&seen, SlowPath::StagedCopy);
    assert!(copies.len() > 2, "one on each thread that took part");
    assert!(copies.iter().all(|&bytes| bytes == both[0]));
}

#[test]
fn spans_are_switched_while_an_allocator_runs() {
    let (allocator, seen) = noted(host(), Config::default());
    assert!(allocator.set_profiling(false).unwrap());
    let first = allocator.allocate(4 * MIB).unwrap();
    assert_eq!(spans(&seen), []);
    assert!(!allocator.set_profiling(true).unwrap());
    let second = allocator.allocate(4 * MIB).unwrap();
    assert_eq!(of(&seen, SlowPath::Growth), [(4 << 20, 4 << 20)]);
    drop((first, second));
}

/// Tools that this process loads stay for its life, so each case is a process: this test binary once more.
#[cfg(all(target_os = "linux", feature = "cuda"))]
mod nvtx {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use weldpool::ErrorKind;
    use weldpool::profiling::platform_tool;

    use super::*;

    /// Tells the second process what to expect.
    const CHILD: &str = "WELDPOOL_TEST_NVTX";
    const NAME: &str = "profiling::nvtx::a_tool_gets_the_ranges_of_the_allocator";

    fn compile(directory: &Path) -> PathBuf {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nvtx/tool.c");
        let library = directory.join("libtool.so");
        let status = Command::new("cc")
            .args([
                "-std=c99",
                "-D_GNU_SOURCE",
                "-Wall",
                "-Werror",
                "-shared",
                "-fPIC",
            ])
            .arg("-o")
            .args([&library, Path::new(source)])
            .status()
            .unwrap();
        assert!(status.success());
        library
    }

    fn run(expect: &str, set: impl FnOnce(&mut Command)) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD, expect)
            .env("METAL_ALLOCATOR_PROFILE", "1")
            .env_remove("NVTX_INJECTION64_PATH");
        set(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{expect}: {output:?}");
        output
    }

    fn child(expect: &str) {
        let device = Arc::new(HostDevice::new().unwrap());
        let config = Config::from_env().unwrap();
        let allocator = Allocator::builder(device).config(config).build().unwrap();
        drop(allocator.allocate(4 * MIB).unwrap());
        let _bytes = allocator.clear();
        match expect {
            "ranges" => {
                assert_eq!(platform_tool().unwrap(), "NVTX");
                assert!(allocator.set_profiling(false).unwrap());
                drop(allocator.allocate(4 * MIB).unwrap());
            }
            "nobody" => {
                let error = allocator.set_profiling(true).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(
                    error.to_string().contains("NVTX_INJECTION64_PATH"),
                    "{error}"
                );
            }
            _ => {
                assert_eq!(platform_tool().unwrap_err().kind(), ErrorKind::System);
                assert_eq!(
                    allocator.set_profiling(true).unwrap_err().kind(),
                    ErrorKind::System
                );
            }
        }
    }

    #[test]
    fn a_tool_gets_the_ranges_of_the_allocator() {
        if let Ok(expect) = std::env::var(CHILD) {
            return child(&expect);
        }
        let directory = tempfile::tempdir().unwrap();
        let (library, log) = (compile(directory.path()), directory.path().join("log"));
        let with = |command: &mut Command| {
            command
                .env("NVTX_INJECTION64_PATH", &library)
                .env("TOOL_LOG", &log);
        };
        run("ranges", with);
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "domain weldpool 0");
        for (number, path) in SlowPath::ALL.into_iter().enumerate() {
            assert_eq!(
                lines[1 + number],
                format!("register {} {number}", path.name())
            );
        }
        let ranges = &lines[1 + SlowPath::ALL.len()..];
        assert_eq!(ranges[..2], ["push growth 4194304", "pop weldpool 0"]);
        let pushed = ranges.iter().filter(|line| line.starts_with("push"));
        assert_eq!(2 * pushed.count(), ranges.len(), "{text}");
        assert!(ranges.contains(&"push trim 18446744073709551615"), "{text}");
        let growths = ranges.iter().filter(|line| line.contains("growth"));
        assert_eq!(growths.count(), 1, "switched off it gets none");

        run("nobody", |_| ());
        run("refused", |command| {
            with(command);
            command.env("TOOL_REFUSES", "1");
        });
        run("not a library", |command| {
            command.env("NVTX_INJECTION64_PATH", "/dev/null");
        });
    }
}

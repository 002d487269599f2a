//! What an allocator logs, and at which level.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;
use weldpool::device::fake::{Call, FakeApple, Fault, When};
use weldpool::device::host::HostDevice;
use weldpool::pressure::Level as Pressure;
use weldpool::{Allocator, Config, ErrorKind, Recourse, Request, StorageMode};

use super::log;

const MIB: usize = 1 << 20;

fn limited(bytes: u64) -> Allocator {
    let config = Config {
        reserved_bytes_max: Some(bytes),
        ..Config::default()
    };
    let device = Arc::new(HostDevice::new().unwrap());
    let builder = Allocator::builder(device).config(config).name("logged");
    builder.build().unwrap()
}

/// The levels and messages of lines.
fn heads(lines: &[log::Line]) -> Vec<(Level, &str)> {
    lines
        .iter()
        .map(|line| (line.level, line.message()))
        .collect()
}

#[test]
fn a_leak_is_a_warning_that_names_pool_and_buffers() {
    let allocator = limited(64 << 20);
    let leaked = allocator
        .allocate_with(&Request::new(MIB).name("kv cache"))
        .unwrap();
    let lines = log::lines(|| drop(allocator));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].level, Level::WARN);
    assert_eq!(lines[0].field("pool"), "logged");
    assert!(lines[0].message().contains("kv cache"), "{lines:?}");
    assert!(lines[0].message().contains("1048576"), "{lines:?}");
    drop(leaked);
    // And without one there is nothing to say.
    let allocator = limited(64 << 20);
    drop(allocator.allocate(MIB).unwrap());
    assert_eq!(heads(&log::lines(|| drop(allocator))), []);
}

#[test]
fn steps_of_recovery_are_for_debugging_and_a_failure_is_a_warning() {
    let allocator = limited(16 << 20);
    let live = allocator.allocate(8 * MIB).unwrap();
    let (lines, error) = log::watch(|_| (), || allocator.allocate(12 * MIB).unwrap_err());
    let (failed, steps) = lines.split_last().unwrap();
    assert_eq!(
        (failed.level, failed.message()),
        (Level::WARN, "memory is out and nothing helped")
    );
    assert_eq!(failed.field("pool"), "logged");
    assert_eq!(failed.field("bytes"), (12 * MIB).to_string());
    assert!(
        failed.field("error").contains("limit"),
        "{error}: {failed:?}"
    );
    assert_eq!(steps[0].message(), "memory is out");
    assert!(steps.len() > 1);
    for step in &steps[1..] {
        assert_eq!(step.message(), "memory is still out");
    }
    assert!(steps.iter().all(|line| line.level == Level::DEBUG));
    drop(live);

    // What helped is for debugging too.
    let private = Request::new(12 * MIB).storage(StorageMode::Private);
    drop(allocator.allocate_with(&private).unwrap());
    let (lines, served) = log::watch(|_| (), || allocator.allocate(12 * MIB).unwrap());
    let found = lines
        .iter()
        .find(|line| line.message() == "memory was found")
        .unwrap();
    assert_eq!(found.field("step_name"), "return-idle");
    assert!(
        lines.iter().all(|line| line.level == Level::DEBUG),
        "{lines:?}"
    );
    drop(served);
}

#[test]
fn a_panic_of_a_callback_is_an_error() {
    let allocator = limited(4 << 20);
    let _registered = allocator
        .on_out_of_memory(|_| -> Recourse { panic!("on purpose") })
        .unwrap();
    let lines = log::lines(|| drop(allocator.allocate(8 * MIB).unwrap_err()));
    let errors = lines.iter().filter(|line| line.level == Level::ERROR);
    let errors: Vec<_> = errors.map(log::Line::message).collect();
    assert_eq!(errors, ["a callback for when memory is out panicked"]);
}

#[test]
fn pressure_is_information_up_to_moderate_and_a_warning_above() {
    let allocator = limited(64 << 20);
    let monitor = allocator.pressure().unwrap();
    let levels = [
        (Pressure::Moderate, Level::INFO),
        (Pressure::Warning, Level::WARN),
        (Pressure::Critical, Level::WARN),
        (Pressure::Emergency, Level::WARN),
    ];
    let mut before = Pressure::Normal;
    for (pressure, level) in levels {
        let lines = log::lines(|| {
            let _was = monitor.signal(pressure);
            assert_eq!(monitor.check(), pressure);
        });
        assert_eq!(heads(&lines), [(level, "memory pressure")], "{pressure}");
        assert_eq!(lines[0].field("from"), before.to_string());
        assert_eq!(lines[0].field("to"), pressure.to_string());
        assert!(lines[0].fields.contains_key("given_back_bytes"));
        before = pressure;
    }
    let lines = log::lines(|| {
        let _was = monitor.clear();
        let start = Instant::now();
        while monitor.check() != Pressure::Normal {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    });
    assert!(!lines.is_empty());
    let fallen = lines.last().unwrap();
    assert_eq!((fallen.level, fallen.field("to")), (Level::INFO, "normal"));
    // An unchanged level is not worth a line.
    let lines = log::lines(|| assert_eq!(monitor.check(), Pressure::Normal));
    assert_eq!(heads(&lines), []);
}

#[test]
fn what_the_driver_refuses_to_take_back_is_a_warning() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let lines = log::lines(|| drop(allocator.allocate(8 * MIB).unwrap()));
    assert_eq!(heads(&lines), [(Level::DEBUG, "segment obtained")]);
    assert_eq!(lines[0].field("bytes"), (8 * MIB).to_string());
    device.control().inject(Fault {
        call: Call::ReleaseSegment,
        when: When::From(1),
        error: ErrorKind::System,
    });
    let lines = log::lines(|| assert_eq!(allocator.clear(), 0));
    let refused = "a segment could not be returned; it is kept";
    assert_eq!(heads(&lines), [(Level::WARN, refused)]);
    device.control().clear_faults();
    assert_eq!(allocator.clear(), 8 * MIB);
}

#[test]
fn the_warm_path_logs_nothing() {
    let allocator = limited(64 << 20);
    drop(allocator.allocate(4096).unwrap());
    let lines = log::lines(|| {
        for _ in 0..10_000 {
            drop(allocator.allocate(4096).unwrap());
        }
    });
    assert_eq!(heads(&lines), []);
}

/// In a process of its own, where nobody takes log lines.
#[test]
fn without_a_subscriber_the_leak_report_goes_to_standard_error() {
    const CHILD: &str = "WELDPOOL_TEST_LEAK_REPORT";
    const NAME: &str = "logging::without_a_subscriber_the_leak_report_goes_to_standard_error";
    if let Ok(debug) = std::env::var(CHILD) {
        let config = Config {
            debug_checks: debug == "1",
            ..Config::default()
        };
        let device = Arc::new(HostDevice::new().unwrap());
        let allocator = Allocator::builder(device).config(config).build().unwrap();
        let request = Request::new(1000).name("forgotten");
        let leaked = allocator.allocate_with(&request).unwrap();
        drop(allocator);
        drop(leaked);
        return;
    }
    for debug in [false, true] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD, if debug { "1" } else { "0" })
            .output()
            .unwrap();
        assert!(output.status.success());
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(printed.contains("forgotten"), debug, "{printed}");
    }
}

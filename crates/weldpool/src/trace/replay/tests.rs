use super::*;
use crate::config::Config;
use crate::sync::{AtomicU64, Ordering};
use crate::trace::event::Op;

const MIB: u64 = 1 << 20;

fn event(op: Op, id: u64, bytes: u64, stream: u64, time_us: u64) -> Event {
    Event {
        op,
        id,
        bytes,
        stream,
        time_us,
        thread: stream,
    }
}

fn host() -> crate::Result<Target> {
    Ok(Target::new(Allocator::host()?))
}

fn limited(bytes: u64) -> crate::Result<Target> {
    let device = Arc::new(crate::device::host::HostDevice::new()?);
    let config = Config {
        reserved_bytes_max: Some(bytes),
        segment_bytes_max: 8 << 20,
        ..Config::default()
    };
    let allocator = Allocator::builder(device).config(config).build()?;
    Ok(Target::new(allocator).limit(Some(bytes)))
}

fn options() -> ReplayOptions {
    ReplayOptions::default()
}

/// Frees 8 MiB on one stream and asks for as much on another, `after_us` later.
fn handed_over(after_us: u64) -> [Event; 3] {
    [
        event(Op::Allocate, 0, 8 * MIB, 1, 0),
        event(Op::Free, 0, 8 * MIB, 1, 10),
        event(Op::Allocate, 1, 8 * MIB, 2, 10 + after_us),
    ]
}

#[test]
fn figures_are_those_of_the_trace() {
    let events = [
        event(Op::Allocate, 7, 3 * MIB, 0, 0),
        event(Op::Allocate, 8, MIB + 1, 0, 1),
        event(Op::Free, 7, 3 * MIB, 0, 2),
        event(Op::Free, 99, 1, 0, 3),
        event(Op::Allocate, 9, 3 * MIB, 0, 4),
    ];
    let report = Replay::new(options()).run(&events, host).unwrap();
    assert_eq!((report.events, report.allocs), (5, 3));
    assert_eq!(report.peak_live_bytes, 4 * MIB + 1);
    assert_eq!((report.failures, report.skipped_frees), (0, 1));
    assert!(report.peak_reserved_bytes >= report.peak_live_bytes);
    let parts = 1.0 + report.internal_waste + report.external_waste;
    assert!((report.reserved_over_live - parts).abs() < 1e-9);
    assert!(report.internal_waste > 0.0, "one byte beyond a block");
    assert!(report.growths > 0 && report.driver_calls >= report.growths);
    assert!((report.hit_rate - (3.0 - report.growths as f64) / 3.0).abs() < 1e-9);
    assert!(report.mean_ns > 0.0 && report.p50_ns <= report.p99_ns);
}

#[test]
fn memory_freed_on_a_stream_is_reused_there_at_once() {
    let mut events = Vec::new();
    for id in 0..50 {
        events.push(event(Op::Allocate, id, 8 * MIB, 1, id));
        events.push(event(Op::Free, id, 8 * MIB, 1, id));
    }
    let report = Replay::new(options()).run(&events, host).unwrap();
    assert_eq!((report.growths, report.stalls), (1, 0));
}

#[test]
fn memory_freed_on_a_stream_is_reused_on_another_only_after_the_latency() {
    let reserved = |events: &[Event], stream_latency_us| {
        let replay = Replay::new(ReplayOptions {
            stream_latency_us,
            ..options()
        });
        replay.run(events, host).unwrap().peak_reserved_bytes
    };
    assert!(
        reserved(&handed_over(999), 1000) >= 16 * MIB,
        "work may still use it"
    );
    // When an allocator marks the point is its own affair, so the other stream asks often.
    let mut events = handed_over(5000).to_vec();
    for id in 2..=10 {
        events.push(event(Op::Allocate, id, 8 * MIB, 2, id * 5000));
    }
    assert!(
        reserved(&events, 1_000_000) >= 11 * 8 * MIB,
        "it is not done"
    );
    assert!(
        reserved(&events, 1000) < 11 * 8 * MIB,
        "it was done long ago"
    );
}

#[test]
fn under_a_limit_an_allocation_waits_for_the_stream_and_then_fails() {
    let report = Replay::new(options())
        .run(&handed_over(10), || limited(12 * MIB))
        .unwrap();
    assert_eq!(report.failures, 0);
    assert!(report.stalls > 0, "the memory was still in use");
    assert_eq!(report.limit, Some(12 * MIB));

    let both = [
        event(Op::Allocate, 0, 8 * MIB, 1, 0),
        event(Op::Allocate, 1, 8 * MIB, 1, 1),
        event(Op::Free, 1, 8 * MIB, 1, 2),
        event(Op::Free, 0, 8 * MIB, 1, 3),
    ];
    let report = Replay::new(options())
        .run(&both, || limited(12 * MIB))
        .unwrap();
    assert_eq!(report.failures, 1);
    let first = report.first_failure.unwrap();
    assert!(
        first.starts_with("at ") && first.contains(" us of the trace: "),
        "{first}"
    );
    assert_eq!(report.peak_live_bytes, 8 * MIB, "what failed was not live");
}

#[test]
fn what_the_device_charges_is_part_of_a_call() {
    let report = Replay::new(options())
        .run(&handed_over(2000), || {
            let clock = AtomicU64::new(0);
            // Each look at the device's clock finds it a second further.
            let charged = move || clock.fetch_add(1_000_000_000, Ordering::Relaxed);
            Ok(host()?.charged_ns(charged))
        })
        .unwrap();
    assert!(
        report.p50_ns >= 9e8 && report.p50_ns < 2e9,
        "{}",
        report.p50_ns
    );
    assert!(report.mean_ns >= 3e8, "one second over three calls");
}

#[test]
fn threads_do_the_same_and_wait_where_a_free_follows_anothers_allocation() {
    let mut events = Vec::new();
    for id in 0..4000_u64 {
        events.push(event(Op::Allocate, id, 256 + id, id % 4, id));
        if id >= 64 {
            // Freed by another stream than allocated it.
            events.push(event(Op::Free, id - 64, 0, (id + 1) % 4, id));
        }
    }
    let one = Replay::new(options()).run(&events, host).unwrap();
    let four = Replay::new(ReplayOptions {
        threads: 4,
        ..options()
    });
    let four = four.run(&events, host).unwrap();
    assert_eq!((one.threads, four.threads), (1, 4));
    assert_eq!((four.allocs, four.failures), (4000, 0));
    assert!(four.peak_live_bytes > 0);
    assert!(four.mean_ns > 0.0);
}

#[test]
fn samples_follow_the_trace() {
    let mut events = Vec::new();
    for id in 0..100 {
        events.push(event(Op::Allocate, id, MIB, 0, id));
    }
    for id in 0..100 {
        events.push(event(Op::Free, id, MIB, 0, 100 + id));
    }
    let samples = Replay::new(options())
        .samples(&events, host, 20, &|_, _| {})
        .unwrap();
    assert!((20..=24).contains(&samples.len()), "{}", samples.len());
    assert!(samples.is_sorted_by_key(|sample| sample.time_us));
    let peak = samples.iter().map(|sample| sample.live_bytes).max();
    assert_eq!(peak, Some(100 * MIB));
    assert_eq!(samples.last().unwrap().live_bytes, 0);
    assert!(
        samples
            .iter()
            .all(|sample| sample.reserved_bytes >= sample.live_bytes)
    );
}

#[test]
fn options_out_of_range_and_a_target_that_fails_are_errors() {
    for threads in [0, 1025] {
        let replay = Replay::new(ReplayOptions {
            threads,
            ..options()
        });
        let error = replay.run(&[], host).unwrap_err();
        assert_eq!(error.kind(), TraceErrorKind::Limit);
    }
    let error = Replay::new(options())
        .run(&[], || {
            Err(crate::Error::new(
                crate::ErrorKind::DeviceLost,
                "it is gone",
            ))
        })
        .unwrap_err();
    assert_eq!(error.kind(), TraceErrorKind::Allocator);
    assert!(error.to_string().contains("cannot be built: it is gone"));
}

#[test]
fn an_empty_trace_has_a_report_and_json_is_escaped() {
    let report = Replay::new(options())
        .run(&[], || Ok(host()?.named("a\"b", "c\\d\n")))
        .unwrap();
    assert_eq!((report.events, report.reserved_over_live), (0, 1.0));
    let json = report.to_json();
    for part in [
        r#""device": "a\"b""#,
        r#""preset": "c\\d\u000a""#,
        r#""first_failure": null"#,
        r#""limit": null"#,
        r#""hit_rate": 1.000000"#,
    ] {
        assert!(json.contains(part), "{part} is missing in {json}");
    }
}

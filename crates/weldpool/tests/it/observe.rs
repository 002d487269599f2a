//! What an allocator shows of itself, on the host.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::host::HostDevice;
use weldpool::env::StatsOnExit;
use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::pressure::Level;
use weldpool::trace::{Op, Recorder, Replay, ReplayOptions, Target, compact};
use weldpool::{
    Allocator, ClassStats, Config, DashboardOptions, HealthStatus, LeakHandler, LeakReport,
    Request, SizeClasses,
};

fn allocator(config: Config) -> Allocator {
    let device = Arc::new(HostDevice::new().unwrap());
    Allocator::builder(device).config(config).build().unwrap()
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn classes_tell_waste_hits_and_score() {
    let allocator = allocator(Config {
        classes: SizeClasses::seed(),
        ..Config::default()
    });
    let first = allocator.allocate(3000).unwrap();
    let second = allocator.allocate(4096).unwrap();
    drop(second);
    let class_of = |bytes: usize| {
        let stats = allocator.stats();
        let mut classes = stats.classes.into_iter();
        classes.find(|class| class.bytes == bytes).unwrap()
    };
    let class = class_of(4096);
    assert_eq!((class.allocations, class.frees), (2, 1));
    assert_eq!((class.live_buffers(), class.live_bytes), (1, 3000));
    assert_eq!(class.internal_waste(), 1096);
    assert_eq!(class.external_waste(), class.held_bytes - 4096);
    assert_eq!(class.live_bytes_peak, 7096);
    let held = class.held_bytes_peak as f64;
    let score = 100.0 * class.hit_rate() * (7096.0 / held);
    assert!((class.efficiency() - score).abs() < 1e-9);
    drop(first);
    assert_eq!(class_of(4096).internal_waste(), 0);
    // Where nothing else was asked for, the classes' waste is all of the internal waste.
    let _odd: Vec<_> = [300, 70_000, 5000]
        .map(|bytes| allocator.allocate(bytes))
        .into();
    let stats = allocator.stats();
    let waste: u64 = stats
        .classes
        .iter()
        .map(|class| class.internal_waste())
        .sum();
    assert_eq!(waste, stats.internal_waste());
}

/// A block that is cut from memory already held is a hit of its class.
#[test]
fn hits_of_the_classes_are_those_of_the_whole() {
    let allocator = allocator(Config::default());
    drop(allocator.allocate(200 << 20).unwrap());
    let mut held = Vec::new();
    for number in 1..400 {
        held.push(allocator.allocate(number * 700).unwrap());
        drop(allocator.allocate(number * 1000).unwrap());
    }
    let stats = allocator.stats();
    assert!(stats.hit_rate() > 0.9, "{stats}");
    let sum = |figure: fn(&ClassStats) -> u64| stats.classes.iter().map(figure).sum::<u64>();
    assert_eq!(sum(|class| class.allocations), stats.allocations);
    assert_eq!(sum(|class| class.misses), stats.misses);
    assert_eq!(sum(|class| class.hits), stats.hits);
    let used = stats.classes.iter().filter(|class| class.allocations > 0);
    let (all, missed) = used.fold((0, 0), |(all, missed), class| {
        (all + 1, missed + u32::from(class.hit_rate() < 0.5))
    });
    assert!(
        missed < all / 10,
        "{missed} of {all} classes have a low hit rate"
    );
}

/// The line of statistics in the README is that of `Stats`, whatever its figures are.
#[test]
fn the_readme_shows_the_line_that_is_printed() {
    let words = |text: &str| {
        let word =
            |word: &str| word.replace(|letter: char| letter.is_ascii_digit() || letter == '.', "");
        text.split_whitespace()
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let line = words(&allocator(Config::default()).stats().to_string());
    let readme = words(include_str!("../../../../README.md"));
    assert!(line.contains("cached , deferred ,"), "{line}");
    assert!(readme.contains(&line), "{line}");
}

#[test]
fn samples_estimate_what_was_allocated() {
    let allocator = allocator(Config {
        sample_interval_bytes: 64 << 10,
        ..Config::default()
    });
    let count = 200_000;
    let mut numbers = Numbers(7);
    let mut large = 0.0;
    for _ in 0..count {
        let bytes = 1 + numbers.below(8192) as usize;
        large += if bytes > 4096 { 1.0 } else { 0.0 };
        drop(allocator.allocate(bytes).unwrap());
    }
    let samples = allocator.samples();
    assert_eq!(samples.interval_bytes, 64 << 10);
    assert_eq!(samples.live, 0, "every sampled buffer was seen to be freed");
    assert_eq!(samples.taken, samples.lifetime_ns.samples());
    assert_eq!(samples.taken, samples.latency_ns.samples());
    assert!(samples.taken > 100, "{}", samples.taken);
    let ratio = samples.size.count() / f64::from(count);
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
    let estimate = samples.size.count() - samples.size.count_up_to(4096);
    assert!(
        (0.7..1.4).contains(&(estimate / large)),
        "{estimate} of {large}"
    );
    assert!(samples.latency_ns.quantile(0.5).unwrap() > 0);
}

/// What goes past the caches and what they serve counts alike.
#[test]
fn samples_stand_for_as_many_whichever_path_serves() {
    for warm in [false, true] {
        let allocator = allocator(Config {
            sample_interval_bytes: 32 << 10,
            ..Config::default()
        });
        let mut held = Vec::new();
        for _ in 0..40_000 {
            let buffer = allocator.allocate(500).unwrap();
            if !warm {
                held.push(buffer);
            }
        }
        // Some 600 samples.
        let ratio = allocator.samples().size.count() / 40_000.0;
        assert!((0.8..1.25).contains(&ratio), "warm {warm}: {ratio}");
    }
}

#[test]
fn lifetimes_are_known_of_blocks_that_threads_cache() {
    let allocator = allocator(Config {
        sample_interval_bytes: 4 << 10,
        ..Config::default()
    });
    // Held long enough that the cold path serves most.
    let held: Vec<_> = (0..5000)
        .map(|_| allocator.allocate(1000).unwrap())
        .collect();
    let live = allocator.samples().live;
    assert!(live > 0);
    std::thread::sleep(Duration::from_millis(2));
    drop(held);
    let samples = allocator.samples();
    assert_eq!((samples.live, samples.untracked), (0, 0));
    assert!(samples.lifetime_ns.min().unwrap() >= 2_000_000);
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0));
    // A block that was a sample is an ordinary one again.
    for _ in 0..1000 {
        drop(allocator.allocate(1000).unwrap());
    }
    assert_eq!(allocator.stats().live.value, 0);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
}

#[test]
fn sampled_buffers_freed_in_the_order_of_queues_are_seen() {
    let allocator = allocator(Config {
        sample_interval_bytes: 4 << 10,
        ..Config::default()
    });
    let queue = allocator.create_queue().unwrap();
    for round in 0..300_usize {
        let request = Request::new(50_000 + round).queue(&queue);
        let buffers = [0; 8].map(|_| allocator.allocate_with(&request).unwrap());
        for (number, mut buffer) in buffers.into_iter().enumerate() {
            match number % 3 {
                0 => buffer.free_on(&queue),
                1 => drop(queue.fill(&mut buffer, 1).unwrap()),
                _ => drop(buffer),
            }
        }
    }
    let samples = allocator.samples();
    assert!(samples.taken > 0);
    assert_eq!(
        (samples.live, samples.taken),
        (0, samples.lifetime_ns.samples())
    );
}

#[inline(never)]
fn allocate_what_leaks(allocator: &Allocator) -> weldpool::Buffer {
    let request = Request::new(1 << 20).name("leaked weights");
    allocator.allocate_with(&request).unwrap()
}

#[test]
fn leak_reports_have_names_and_backtraces() {
    let seen: Arc<Mutex<Option<LeakReport>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let allocator = allocator(Config {
        sample_interval_bytes: 4 << 10,
        backtraces: true,
        debug_checks: true,
        on_leak: Some(LeakHandler::new(move |report| {
            *kept.lock().unwrap() = Some(report.clone());
        })),
        ..Config::default()
    });
    // One in 64 at least is a sample.
    let leaked: Vec<_> = (0..3000).map(|_| allocate_what_leaks(&allocator)).collect();
    let live = allocator.live_report();
    assert_eq!((live.count(), live.buffers.len()), (3000, 1));
    assert!(!live.samples.is_empty() && live.samples.len() <= 64);
    let stands_for: u64 = live.samples.iter().map(|sample| sample.stands_for).sum();
    assert!(stands_for > 0);
    drop(allocator);
    let report = seen.lock().unwrap().take().unwrap();
    let backtrace = report.backtrace_of(report.buffers[0].name).unwrap();
    assert!(backtrace.contains("allocate_what_leaks"), "{backtrace}");
    assert!(!backtrace.contains("force_capture"), "{backtrace}");
    let text = report.to_string();
    assert!(
        text.contains("leaked weights") && text.contains("allocate_what_leaks"),
        "{text}"
    );
    drop(leaked);
}

#[test]
fn report_and_dashboard_show_a_real_allocator() {
    let allocator = allocator(Config::default());
    let request = Request::new(20 << 20).name("activations");
    let _held = allocator.allocate_with(&request).unwrap();
    for bytes in [100, 1000, 100_000, 1 << 20] {
        drop(allocator.allocate(bytes).unwrap());
    }
    let report = allocator.report();
    assert_eq!(
        report.health.status,
        HealthStatus::Healthy,
        "{}",
        report.health
    );
    assert_eq!(report.live.count(), 1);
    assert!(
        report
            .arenas
            .iter()
            .any(|arena| arena.segments > 0 && !arena.small)
    );
    let text = report.to_string();
    for part in [
        "Health: healthy",
        "activations",
        "shared",
        "one per 512.00 KiB allocated, at most one in 512 allocations",
        "of 0 samples",
        "20.00 MiB",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["stats"]["allocations"], 5);
    assert_eq!(json["live"]["buffers"][0]["name"], "activations");
    let options = DashboardOptions {
        unicode: true,
        ..DashboardOptions::default()
    };
    let screen = allocator.dashboard().text(&options);
    assert!(
        screen.contains("HEALTHY") && screen.contains('█'),
        "{screen}"
    );
    assert!(
        screen.contains("Samples: 0, one per 512.00 KiB"),
        "{screen}"
    );
    assert!(allocator.dashboard().line().ends_with("healthy"));
}

#[test]
fn a_failed_allocation_is_counted_and_shows_in_the_health() {
    let allocator = allocator(Config {
        reserved_bytes_max: Some(8 << 20),
        wait_max: Duration::ZERO,
        ..Config::default()
    });
    assert!(allocator.allocate(0).is_err());
    assert_eq!(allocator.stats().memory_failures, 0);
    assert!(allocator.allocate(64 << 20).is_err());
    let stats = allocator.stats();
    assert_eq!((stats.failures, stats.memory_failures), (2, 1));
    assert_eq!(stats.limit, Some(8 << 20));
    assert!(allocator.health().has("out_of_memory"));
}

/// With a recorder too, a miss fills the thread's cache.
#[test]
fn recording_changes_nothing_about_what_is_held() {
    let run = |record: bool| {
        let allocator = allocator(Config {
            sample_interval_bytes: 0,
            ..Config::default()
        });
        if record {
            let recorder = Recorder::new(std::io::sink(), Default::default()).unwrap();
            allocator.record(Some(Arc::new(recorder)));
        }
        let mut numbers = Numbers(11);
        let mut held = Vec::new();
        for _ in 0..20_000 {
            if held.len() < 100 || numbers.below(2) == 0 {
                let bits = 4 + numbers.below(16);
                let bytes = 1 + numbers.below(1 << bits) as usize;
                held.push(allocator.allocate(bytes).unwrap());
            } else {
                held.swap_remove(numbers.below(held.len() as u64) as usize);
            }
        }
        let stats = allocator.stats();
        let cut: Vec<_> = stats.classes.iter().map(|one| one.held_bytes).collect();
        let driver = (stats.driver_calls, stats.growths, stats.remaps);
        (driver, stats.reserved, stats.free_bytes, cut)
    };
    assert_eq!(run(true), run(false));
}

/// Memory that is free among small blocks counts too.
#[test]
fn the_largest_free_range_is_that_of_all_arenas() {
    let allocator = allocator(Config::default());
    let _small = allocator.allocate(1000).unwrap();
    let stats = allocator.stats();
    let arenas = allocator.report().arenas;
    let largest = arenas.iter().map(|arena| arena.largest_free).max();
    assert_eq!(Some(stats.largest_free as u64), largest);
    assert!(stats.free_bytes > 0 && stats.largest_free > 0, "{stats}");
    assert!(stats.external_fragmentation() < 1.0);
}

/// They are printed when the monitor and the collecting thread have ended.
#[test]
fn statistics_on_exit_tell_of_pressure_and_collection() {
    const CHILD: &str = "WELDPOOL_TEST_STATISTICS_ON_EXIT";
    const NAME: &str = "observe::statistics_on_exit_tell_of_pressure_and_collection";
    let how = match std::env::var(CHILD) {
        Ok(how) if how == "json" => StatsOnExit::Json,
        Ok(_) => StatsOnExit::Summary,
        Err(_) => {
            for (how, wanted) in [
                (
                    "summary",
                    &["critical (1 changes, 8388608 returned), 1 collections"][..],
                ),
                ("json", &["\"critical\"", "\"collections\":1,"]),
            ] {
                let program = std::env::current_exe().unwrap();
                let output = Command::new(program)
                    .args([NAME, "--exact", "--nocapture"])
                    .env(CHILD, how)
                    .output()
                    .unwrap();
                let printed = String::from_utf8(output.stderr).unwrap();
                for wanted in wanted {
                    assert!(printed.contains(wanted), "{wanted}: {printed}");
                }
            }
            return;
        }
    };
    let allocator = allocator(Config {
        stats_on_exit: Some(how),
        gc: GcConfig {
            interval: Duration::from_secs(3600),
            policy: GcPolicy {
                idle_max: Some(Duration::from_millis(1)),
                ..GcPolicy::default()
            },
            ..GcConfig::default()
        },
        ..Config::default()
    });
    drop(allocator.allocate(8 << 20).unwrap());
    let monitor = allocator.pressure().unwrap();
    let _normal = monitor.signal(Level::Critical);
    monitor.check();
    drop(allocator.allocate(8 << 20).unwrap());
    while allocator.stats().gc.collections == 0 {
        allocator.collect_soon();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Four threads allocate and free what they and others allocated; the trace of it, replayed, has the
/// same numbers.
#[test]
fn a_recorded_program_replays_with_the_same_peak() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorded.wpt");
    let allocator = allocator(Config::default());
    // Caches that are full already must not hide anything.
    drop([0; 100].map(|_| allocator.allocate(700).unwrap()));
    let before = allocator.stats();
    let recorder = Arc::new(Recorder::create(&path).unwrap());
    assert!(allocator.record(Some(recorder)).is_none());
    let exchange: Mutex<Vec<weldpool::Buffer>> = Mutex::default();
    let kept_most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (allocator, exchange, kept_most) = (allocator.clone(), &exchange, &kept_most);
            scope.spawn(move || {
                let queue = allocator.create_queue().unwrap();
                let mut numbers = Numbers(thread + 1);
                let mut mine = Vec::new();
                for _ in 0..2000 {
                    let bytes = 1 + (numbers.below(1 << 20) >> numbers.below(20)) as usize;
                    match numbers.below(6) {
                        0 | 1 => mine.push(allocator.allocate(bytes).unwrap()),
                        2 => {
                            let request = Request::new(bytes).queue(&queue);
                            let buffer = allocator.allocate_with(&request).unwrap();
                            buffer.free_on(&queue);
                        }
                        3 => exchange.lock().unwrap().extend(mine.pop()),
                        4 => drop(exchange.lock().unwrap().pop()),
                        _ => drop(mine.pop()),
                    }
                    let stats = allocator.stats();
                    // In caches rather than in arenas.
                    let idle = stats.cached_bytes.saturating_sub(stats.free_bytes);
                    kept_most.fetch_max(stats.live.value + idle, Ordering::Relaxed);
                }
            });
        }
    });
    drop(exchange.into_inner().unwrap());
    let recorder = allocator.record(None).unwrap();
    let recording = recorder.finish().unwrap();
    let after = allocator.stats();
    let allocations = after.allocations - before.allocations;
    assert_eq!(recording.dropped, 0);
    assert_eq!(
        recording.events,
        2 * allocations,
        "each is allocated and freed"
    );
    // Without a recorder nothing is recorded, and the caches are in use again.
    drop(allocator.allocate(700).unwrap());

    let events: Vec<_> = compact::Reader::open(&path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let classes = SizeClasses::fine();
    let block_bytes = |bytes: u64| {
        let class = classes.index_of(bytes as usize).unwrap();
        classes.as_slice()[class].bytes as u64
    };
    let (mut live, mut peak, mut total) = (0_u64, 0_u64, 0_u64);
    for event in &events {
        match event.op {
            Op::Allocate => {
                live += event.bytes;
                total += block_bytes(event.bytes);
            }
            Op::Free => live -= event.bytes,
        }
        peak = peak.max(live);
    }
    assert_eq!((live, total), (0, after.live.total - before.live.total));
    let report = Replay::new(ReplayOptions::default())
        .run(&events, || Ok(Target::new(Allocator::host()?)))
        .unwrap();
    assert_eq!(report.allocs, allocations);
    assert_eq!((report.peak_live_bytes, report.skipped_frees), (peak, 0));
    let live_peak = after.live.peak;
    // What was live and in caches at one time, and the largest request for a call that no look fell behind.
    let kept = kept_most.into_inner() + (1 << 20);
    let kept = kept.min(after.reserved.peak);
    assert!(
        (peak..=kept).contains(&live_peak),
        "{peak}, {live_peak}: too high by what caches keep at that time, at most, which makes {kept} bytes"
    );
}

#[test]
fn on_one_thread_the_recorded_peak_is_the_counted_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorded.wpt");
    let allocator = allocator(Config::default());
    allocator.record(Some(Arc::new(Recorder::create(&path).unwrap())));
    let mut numbers = Numbers(99);
    let mut mine = std::collections::VecDeque::new();
    for _ in 0..5000 {
        mine.push_back(
            allocator
                .allocate(1 + numbers.below(100_000) as usize)
                .unwrap(),
        );
        while mine.len() as u64 > numbers.below(60) {
            mine.pop_front();
        }
    }
    drop(mine);
    allocator.record(None).unwrap().finish().unwrap();
    let events: Vec<_> = compact::Reader::open(&path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let report = Replay::new(ReplayOptions::default())
        .run(&events, || Ok(Target::new(Allocator::host()?)))
        .unwrap();
    let stats = allocator.stats();
    assert_eq!(report.allocs, stats.allocations);
    assert_eq!(report.peak_live_bytes, stats.live.peak);
}

#[test]
fn recorders_follow_each_other_and_pooling_may_change_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let allocator = allocator(Config::default());
    let recorder = |name: &str| Arc::new(Recorder::create(folder.path().join(name)).unwrap());
    let first = recorder("first");
    assert!(allocator.record(Some(Arc::clone(&first))).is_none());
    assert!(allocator.set_pooling(false));
    let across = allocator.allocate(5000).unwrap();
    assert!(!allocator.set_pooling(true));
    drop(allocator.allocate(100).unwrap());
    let returned = allocator.record(Some(recorder("second"))).unwrap();
    assert!(Arc::ptr_eq(&returned, &first));
    drop(across);
    assert_eq!(first.finish().unwrap().events, 3);
    let second = allocator.record(None).unwrap();
    assert_eq!(second.finish().unwrap().events, 1);
    drop(allocator.allocate(100).unwrap());
    assert_eq!(allocator.stats().live.value, 0);
}

/// Allocations that never leave the cache are sampled too, one per so many bytes.
#[test]
fn warm_allocations_are_sampled_by_bytes() {
    let allocator = allocator(Config {
        sample_interval_bytes: 1 << 20,
        ..Config::default()
    });
    let rounds = 1_000_000_u32;
    for _ in 0..rounds {
        drop(allocator.allocate(1000).unwrap());
    }
    let samples = allocator.samples();
    let expected = f64::from(rounds) * 1024.0 / f64::from(1 << 20);
    let taken = samples.taken as f64;
    // A Poisson count: five standard deviations.
    assert!(
        (taken - expected).abs() < 5.0 * expected.sqrt(),
        "{taken} of {expected}"
    );
    let stands_for = samples.size.count() / f64::from(rounds);
    assert!((stands_for - 1.0).abs() < 0.15, "{stands_for}");
    assert_eq!(samples.live, 0, "their ends are seen as well");
    let misses = allocator.stats().misses;
    assert!(misses < 5, "{misses}: samples come from the caches too");
}

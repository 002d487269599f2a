//! Workloads like the recorded ones, but of other sizes, and made up ones: what is held beyond what is live
//! must not depend on luck.

use std::path::Path;

use weldpool::trace::{Event, Op, Replay, ReplayOptions, ReplayReport, Target};
use weldpool::{Allocator, Runtime};

#[cfg(target_os = "linux")]
use super::RECORDED;
use super::read;

/// A generator of numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// A recorded trace as a model of another width would make it: each size is another one, within a
/// hundredth part of `percent` by up to `jitter` hundredths.
fn resized(name: &str, percent: u64, jitter: u64) -> Vec<Event> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces");
    let (mut events, ..) = read(&folder.join(format!("{name}.csv.gz")));
    for event in &mut events {
        let mut random = Random(event.bytes | 1);
        random.below(7);
        let percent = percent - jitter + random.below(2 * jitter + 1);
        event.bytes = (event.bytes * percent / 100).max(1);
    }
    events
}

/// Makes the events of a program.
#[derive(Default)]
struct Program {
    events: Vec<Event>,
    allocated: u64,
    time_us: u64,
}

impl Program {
    fn event(&mut self, op: Op, id: u64, bytes: u64) {
        self.time_us += 20;
        let time_us = self.time_us;
        let (stream, thread) = (0, 0);
        self.events.push(Event {
            op,
            id,
            bytes,
            stream,
            time_us,
            thread,
        });
    }

    fn allocate(&mut self, bytes: u64) -> (u64, u64) {
        let id = self.allocated;
        self.allocated += 1;
        self.event(Op::Allocate, id, bytes);
        (id, bytes)
    }

    fn free(&mut self, (id, bytes): (u64, u64)) {
        self.event(Op::Free, id, bytes);
    }
}

/// Training on sequences of any length.
fn variable_lengths() -> Vec<Event> {
    let (mut program, mut random) = (Program::default(), Random(8));
    for _ in 0..60 {
        program.allocate(1 << (20 + random.below(5)));
    }
    for _ in 0..40 {
        let length = 64 + random.below(2000);
        let mut kept = Vec::new();
        for _ in 0..24 {
            kept.push(program.allocate(length * 8192));
            kept.push(program.allocate(length * 8200));
            let scratch = program.allocate(length * 32_768);
            kept.push(program.allocate(length * 2048));
            program.free(scratch);
        }
        for _ in 0..24 {
            let gradient = program.allocate(length * 8192);
            for _ in 0..3 {
                let last = kept.pop();
                last.into_iter().for_each(|last| program.free(last));
            }
            program.free(gradient);
        }
    }
    program.events
}

/// Many blocks of all sizes at once, freed in any order.
fn bursts() -> Vec<Event> {
    let (mut program, mut random) = (Program::default(), Random(9));
    for _ in 0..40 {
        let count = 50 + random.below(800);
        let mut live: Vec<_> = (0..count)
            .map(|_| {
                let power = 5 + random.below(17);
                program.allocate((1 << power) + random.below(1 << power))
            })
            .collect();
        while !live.is_empty() {
            let which = usize::try_from(random.below(live.len() as u64)).unwrap();
            program.free(live.swap_remove(which));
        }
    }
    program.events
}

#[test]
fn little_is_held_where_handles_are_indivisible() {
    // Greatest peak reserved / peak live, and greatest driver time per event in nanoseconds. Of the graph
    // network a few blocks are most of its memory; the queues of the serving trace hold each other's up, and how
    // much waiting for them gains depends on the machine.
    let cases = [
        ("gnn_train", 100, 1.035, 3300),
        ("gpt_train", 100, 1.021, 1000),
        ("llama_generate", 93, 1.03, 1000),
        ("llama_generate", 100, 1.03, 1000),
        ("llama_generate", 107, 1.03, 1000),
        ("maskrcnn_train", 93, 1.025, 1000),
        ("maskrcnn_train", 100, 1.025, 1000),
        ("mixed_serving", 100, 1.13, 1000),
        ("resnet_train", 93, 1.025, 1000),
        ("resnet_train", 100, 1.025, 1000),
        ("resnet_train", 107, 1.025, 1000),
    ];
    for (name, percent, most, most_ns) in cases {
        let report = replay(&resized(name, percent, 0), "fake:discrete");
        let ratio = report.reserved_over_live;
        assert_eq!(report.failures, 0, "{name} {percent} %");
        assert!(ratio <= most, "{name} {percent} %: {ratio}");
        let driver_ns = report.driver_ns / report.events;
        assert!(driver_ns <= most_ns, "{name} {percent} %: {driver_ns} ns");
    }
}

fn replay(events: &[Event], device: &str) -> ReplayReport {
    let once = ReplayOptions {
        mean_pass: false,
        ..ReplayOptions::default()
    };
    let target = || {
        let device = Runtime::open_device(device)?;
        Ok(Target::new(Allocator::builder(device).build()?))
    };
    Replay::new(once).run(events, target).unwrap()
}

#[test]
fn little_is_held_beyond_what_is_live_whatever_the_sizes() {
    // Greatest peak reserved / peak live on the host and where nothing can be remapped. There requests wait
    // a while for work rather than exceed what is needed, and on a busy machine in vain: what is held on a
    // quiet one is 1.01 or less, but for the bursts (1.03) and the graph network, of whose memory a few
    // blocks are the most (1.5).
    let cases = [
        ("resnet 103 %", resized("resnet_train", 103, 0), 1.02, 1.06),
        (
            "resnet, each size another",
            resized("resnet_train", 100, 5),
            1.02,
            1.06,
        ),
        (
            "maskrcnn 97 %",
            resized("maskrcnn_train", 97, 2),
            1.02,
            1.06,
        ),
        ("gnn 93 %", resized("gnn_train", 93, 0), 1.02, 1.55),
        ("variable lengths", variable_lengths(), 1.02, 1.06),
        ("bursts", bursts(), 1.02, 1.08),
    ];
    for (name, events, host, apple) in cases {
        for (device, most) in [("host", host), ("fake:apple", apple)] {
            let report = replay(&events, device);
            assert_eq!(report.failures, 0, "{name} on {device}");
            let ratio = report.reserved_over_live;
            assert!(ratio <= most, "{name} on {device}: {ratio}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_the_host_the_default_holds_at_most_two_percent_more_than_is_live() {
    // Several queues, which hold each other's memory up, and a model of which much is allocated one by one.
    let resized_too = [
        ("mixed_serving", 93, 0),
        ("mixed_serving", 107, 0),
        ("mixed_serving", 100, 10),
        ("llama_generate", 93, 0),
    ];
    let cases = RECORDED.map(|name| (name, 100, 0));
    for (name, percent, jitter) in cases.into_iter().chain(resized_too) {
        let report = replay(&resized(name, percent, jitter), "host");
        let ratio = report.reserved_over_live;
        assert_eq!(report.failures, 0, "{name} {percent} %");
        assert!(ratio <= 1.02, "{name} {percent} % {jitter}: {ratio}");
        // At three microseconds a call, a third of what an operation may take.
        let calls = report.driver_calls as f64 / report.events as f64;
        assert!(calls <= 0.11, "{name} {percent} % {jitter}: {calls}");
    }
}

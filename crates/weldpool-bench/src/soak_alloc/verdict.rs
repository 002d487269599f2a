//! Holds the end of the soak against its start.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use weldpool::pressure::Level;

use super::features::Called;
use super::recording::FILE_BYTES_MAX;
use super::{Options, Outcome, Shared, Window};
use crate::machine::{self, Machine};
use crate::report::{Better, Report, Row, Verdict};
use crate::statistics::median;

/// By how much the end may be worse than the start: what a quiet machine scatters.
const STEADY: f64 = 1.25;
/// Latency scatters more, when other programs run too.
const STEADY_LATENCY: f64 = 2.0;

/// The report: rows and bars of the end beside the start.
pub(super) fn report(options: &Options, outcome: &Outcome, shared: &Shared) -> Report {
    let windows = &outcome.windows;
    let part = windows.len() / 4;
    // The first window is warm-up.
    let start = &windows[1.min(part)..=part.max(1)];
    let end = &windows[windows.len() - part.max(1)..];
    let figure = |of: fn(&Window) -> f64, windows: &[Window]| {
        median(&windows.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
    };
    type Of = fn(&Window) -> f64;
    let figures: [(&str, &str, Better, f64, Of); 5] = [
        ("latency p50", "ns", Better::Lower, STEADY_LATENCY, |one| {
            one.p50_ns
        }),
        ("latency p99", "ns", Better::Lower, STEADY_LATENCY, |one| {
            one.p99_ns
        }),
        (
            "utilisation",
            "live / reserved",
            Better::Higher,
            STEADY,
            |one| one.utilisation,
        ),
        ("reserved", "bytes", Better::Lower, STEADY, |one| {
            one.reserved
        }),
        (
            "resident besides the pool",
            "bytes",
            Better::Lower,
            STEADY,
            |one| one.own,
        ),
    ];
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for (name, unit, better, steady, of) in figures {
        let (first, last) = (figure(of, start), figure(of, end));
        let peers = [("start".to_owned(), first)].into();
        rows.push(Row::new(name, unit, better, Some(last), peers));
        let limit = match better {
            Better::Lower => first * steady,
            Better::Higher => first / steady,
        };
        bars.push(Verdict::new(
            "soak",
            format!("{name} at the end"),
            unit,
            better,
            last,
            limit,
        ));
    }
    // It rises until each byte held was touched once.
    let (first, last) = (
        figure(|one| one.resident, start),
        figure(|one| one.resident, end),
    );
    let peers = [("start".to_owned(), first)].into();
    let name = "resident memory of the pool";
    rows.push(Row::new(name, "bytes", Better::Lower, Some(last), peers));
    bars.push(Verdict::new(
        "soak",
        format!("{name} at the end, against what it holds"),
        "bytes",
        Better::Lower,
        last,
        figure(|one| one.reserved, end) * STEADY,
    ));
    let called = &shared.called;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let nothing = [
        ("bytes held after the end", "bytes", outcome.left),
        (
            "live bytes after the end",
            "bytes",
            outcome.ended.live.value,
        ),
        ("leaks reported", "reports", count(&called.leaks)),
        ("errors logged", "lines", outcome.errors),
        (
            "recorded events missing in their files",
            "events",
            outcome.recorded.missing,
        ),
    ];
    for (name, unit, value) in nothing {
        let value = value as f64;
        bars.push(Verdict::new("soak", name, unit, Better::Lower, value, 0.0));
    }
    let sample = |one: &Window| {
        json!({
            "recorded": one.recorded, "operations": one.operations, "p50_ns": one.p50_ns, "p99_ns": one.p99_ns,
            "utilisation": one.utilisation, "reserved": one.reserved, "own": one.own,
            "resident": one.resident,
        })
    };
    Report {
        suite: "soak-alloc",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions: [("weldpool".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        config: json!({
            "seconds": options.duration.as_secs_f64(), "threads": options.threads, "seed": options.seed,
            "weldpool": outcome.config.0,
            "on": outcome.config.1,
            "recorded": format!(
                "every other window, by Allocator::record, to files of {} MiB that are read back and deleted",
                FILE_BYTES_MAX >> 20
            ),
        }),
        rows,
        bars,
        missing: Vec::new(),
        samples: json!({
            "windows": windows.iter().map(sample).collect::<Vec<_>>(),
            "operations": count(&shared.operations),
            "refused_at_a_lowered_limit": count(&shared.failures),
            "recorded": outcome.recorded,
            "did": did(outcome, called),
            "driver_calls": outcome.ended.driver_calls,
            "remaps": outcome.ended.remaps,
            "hit_rate": outcome.ended.hit_rate(),
        }),
    }
}

/// How often each feature did something.
fn did(outcome: &Outcome, called: &Called) -> Value {
    let stats = &outcome.ended;
    let levels = Level::ALL.iter().zip(&outcome.pressure.levels);
    json!({
        "seconds_at_level": levels
            .map(|(level, at)| (level.name().to_owned(), at.time.as_secs_f64().into()))
            .collect::<Map<_, _>>(),
        "collections": stats.gc.collections,
        "collected_bytes": stats.gc.given_back_bytes,
        "pressure_changes": stats.pressure_events,
        "pressure_changes_told": called.levels.load(Ordering::Relaxed),
        "pressure_returned_bytes": stats.pressure_returned_bytes,
        "out_of_memory": stats.out_of_memory.events,
        "out_of_memory_callbacks": called.out_of_memory.load(Ordering::Relaxed),
        "backtraces_shown": outcome.backtraces,
        "requests_by_node": stats.nodes.iter().map(|node| node.local_allocations).collect::<Vec<_>>(),
        "blocks_returned_to_their_node": stats.nodes.iter().map(|node| node.returned_blocks).sum::<u64>(),
    })
}

//! The replay suite: recorded traces of real models on our allocator, beside what PyTorch held for them.
//!
//! Every trace runs on the host and on both devices made of software, with the default configuration and
//! with the other presets. The peers' figures are PyTorch's own for the recorded runs, on an H200.

mod peers;
mod reuse;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use weldpool::trace::{self, Event, Reader, Replay, ReplayOptions, ReplayReport, Target};
use weldpool::{Allocator, Config, Preset, Runtime};

use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::report::{Better, Report, Row, Verdict};

use self::peers::Peers;

/// Devices that every machine has.
const DEVICES: [&str; 3] = ["host", "fake:discrete", "fake:apple"];
/// One more configuration on the discrete device, which spends little driver time, and what it may spend on each operation.
const FRUGAL: &str = "frugal";
const FRUGAL_NS: u32 = 100;
/// Greatest ratio that the bar allows with virtual memory.
const RATIO_MAX: f64 = 1.02;

/// What to replay.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// One short trace only, and no second pass.
    pub quick: bool,
    /// Only cases whose name contains this.
    pub filter: String,
}

/// Runs the suite.
///
/// # Errors
/// `Environment` when a trace or the peers' file is missing or no case has a name with the filter in it.
pub fn run(options: &Options) -> Result<Report> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weldpool/tests/data/traces");
    let peers = Peers::read(&folder.join("peers-pytorch.jsonl"))?;
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for (name, file) in traces(&folder, options.quick)? {
        let events = read(&file)?;
        for device in DEVICES {
            let discrete = device == "fake:discrete";
            let presets = Preset::ALL.into_iter().map(Preset::name);
            for preset in presets.chain(discrete.then_some(FRUGAL)) {
                let case = format!("{device} {preset} {name}");
                if !case.contains(&options.filter) {
                    continue;
                }
                let report = replay(&events, device, preset, options.quick)?;
                rows.push(Row::new(
                    format!("{case}: peak reserved / peak live"),
                    "",
                    Better::Lower,
                    Some(report.reserved_over_live),
                    peers.ratios(&name),
                ));
                rows.push(Row::new(
                    format!("{case}: mean of an operation"),
                    "ns",
                    Better::Lower,
                    Some(report.mean_ns),
                    BTreeMap::new(),
                ));
                rows.push(Row::new(
                    format!("{case}: driver calls"),
                    "calls",
                    Better::Lower,
                    Some(report.driver_calls as f64),
                    BTreeMap::new(),
                ));
                if preset == Preset::default().name() {
                    bars.extend(verdicts(device, &name, &report, &peers));
                }
                if preset == FRUGAL {
                    rows.push(Row::new(
                        format!("{case}: time in the driver"),
                        "ns",
                        Better::Lower,
                        Some(report.driver_ns as f64),
                        peers.driver_ns(&name),
                    ));
                    bars.extend(frugal_verdicts(&name, &report, &peers));
                }
            }
        }
    }
    if options.filter.is_empty() {
        let (reuse_rows, reuse_bars) = reuse::run(options.quick)?;
        rows.extend(reuse_rows);
        bars.extend(reuse_bars);
    }
    if rows.is_empty() {
        let message = format!("no case has {:?} in its name", options.filter);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    Ok(Report {
        suite: "replay",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions: BTreeMap::from([
            ("weldpool".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            (
                "pytorch".to_owned(),
                "2.11, recorded with the traces".to_owned(),
            ),
        ]),
        config: json!({
            "stream_latency_us": ReplayOptions::default().stream_latency_us,
            "threads": 1,
            "fine": "Config::default()",
            "seed, pooling, adaptive": "Preset::config()",
            "frugal": format!("driver_ns_per_operation: {FRUGAL_NS}"),
        }),
        rows,
        bars,
        missing: vec![
            "speed of the peers on the same machine: their traces were recorded on a GPU"
                .to_owned(),
        ],
        samples: json!([]),
    })
}

/// The traces by name; the shortest alone if `quick`.
fn traces(folder: &Path, quick: bool) -> Result<Vec<(String, PathBuf)>> {
    let listing = std::fs::read_dir(folder)
        .map_err(|error| Error::io(format!("reading {}", folder.display()), error))?;
    let mut found = Vec::new();
    for entry in listing {
        let path = entry
            .map_err(|error| Error::io(format!("reading {}", folder.display()), error))?
            .path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.and_then(|name| name.strip_suffix(".csv.gz")) {
            found.push((name.to_owned(), path));
        }
    }
    found.sort();
    if quick {
        found.truncate(1);
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<Event>> {
    let failed = |error| {
        Error::caused(
            ErrorKind::Environment,
            format!("reading {}", file.display()),
            error,
        )
    };
    let reader = Reader::open(file).map_err(failed)?;
    let (events, _) = trace::read_all(reader).map_err(failed)?;
    Ok(events)
}

fn config(preset: &str) -> weldpool::Result<Config> {
    if preset == FRUGAL {
        return Ok(Config {
            driver_ns_per_operation: FRUGAL_NS,
            ..Config::default()
        });
    }
    Ok(preset.parse::<Preset>()?.config())
}

fn replay(events: &[Event], device: &str, preset: &str, quick: bool) -> Result<ReplayReport> {
    let options = ReplayOptions {
        mean_pass: !quick,
        ..ReplayOptions::default()
    };
    let target = || {
        let allocator = Allocator::builder(Runtime::open_device(device)?)
            .config(config(preset)?)
            .build()?;
        Ok(Target::new(allocator))
    };
    let done = Replay::new(options).run(events, target);
    done.map_err(|error| {
        Error::caused(
            ErrorKind::Environment,
            format!("replaying on {device} with {preset}"),
            error,
        )
    })
}

fn verdicts(device: &str, name: &str, report: &ReplayReport, peers: &Peers) -> Vec<Verdict> {
    let ratio = |limit| {
        let case = format!("{device} {name}: peak reserved / peak live");
        Verdict::new(
            "P4",
            case,
            "",
            Better::Lower,
            report.reserved_over_live,
            limit,
        )
    };
    let mean = |limit| {
        let case = format!("{device} {name}: mean of an operation");
        Verdict::new("P4", case, "ns", Better::Lower, report.mean_ns, limit)
    };
    let failures = Verdict::new(
        "P4",
        format!("{device} {name}: failures"),
        "",
        Better::Lower,
        report.failures as f64,
        0.0,
    );
    let mut bars = vec![failures];
    match device {
        "host" => bars.extend([ratio(RATIO_MAX), mean(1000.0)]),
        "fake:discrete" => bars.extend([ratio(RATIO_MAX), mean(2000.0)]),
        _ => bars.extend(peers.expandable(name).map(ratio)),
    }
    bars
}

/// The second CUDA figure of the bar: no more time than PyTorch's expandable segments, and no higher a ratio.
/// Their time on these traces is not known but for the least that their handles cost, so time in the driver is
/// compared with that.
fn frugal_verdicts(name: &str, report: &ReplayReport, peers: &Peers) -> Vec<Verdict> {
    let bar = |what: &str, unit, value, limit| {
        let case = format!("fake:discrete {name}, {FRUGAL}: {what}");
        Verdict::new("P4", case, unit, Better::Lower, value, limit)
    };
    let ratio = report.reserved_over_live;
    let limit = peers.expandable(name);
    let ratio = limit.map(|limit| bar("peak reserved / peak live", "", ratio, limit));
    let spent = report.driver_ns as f64;
    let limit = peers.expandable_driver_ns(name);
    let time = limit.map(|limit| bar("time in the driver", "ns", spent, limit));
    ratio.into_iter().chain(time).collect()
}

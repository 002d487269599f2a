//! Fills memory up to a limit of the system, with the pressure monitor and without it.
//!
//! A process fills the pool, frees most of it, so that the pool holds idle memory, and then needs as much
//! memory outside of the pool, while it goes on using the pool. The idle memory and what is needed do not fit
//! below the limit together, and the kernel cannot take idle memory from a pool. Each case has a control group
//! of its own: with a hard limit alone, beyond which processes are killed, and, in version 2, also with the
//! softer one, beyond which they are slowed down; filled step by step, and as fast as the machine can.

mod filling;
mod limit;
mod line;
mod trial;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use crate::error::Result;
use crate::machine::{Machine, now};
use crate::report::{Better, Report, Row};

use self::limit::{Limits, has_version_2};
use self::line::{Outcome, mib};
use self::trial::{End, Trial, attempt};

pub use self::filling::child;

/// Part of the hard limit at which processes are slowed down, where that is part of the case.
const HIGH_PART: f64 = 0.9;

/// Settings of the suite.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command, for the report.
    pub command: String,
    /// The hard limit in bytes.
    pub limit_bytes: u64,
    /// The control group to make the limited ones in.
    pub group: PathBuf,
    /// Short steps and intervals.
    pub quick: bool,
}

/// How memory outside of the pool grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// By 2 % of the limit in 0.4 s.
    Slow,
    /// As fast as the machine can.
    Fast,
}

/// Settings of the process that fills its memory.
#[derive(Debug, Clone)]
pub struct Child {
    /// The control group to enter.
    pub group: PathBuf,
    /// How memory grows.
    pub pace: Pace,
    /// Whether the monitor is on.
    pub monitor: bool,
    /// Short steps and intervals.
    pub quick: bool,
}

/// What one pair of processes is to show.
#[derive(Debug, Clone, Copy, Serialize)]
struct Case {
    pace: Pace,
    /// Whether there is also the limit that slows down.
    high: bool,
}

impl Case {
    fn name(self) -> String {
        let pace = match self.pace {
            Pace::Slow => "slow",
            Pace::Fast => "fast",
        };
        let limits = if self.high { "high and max" } else { "max" };
        format!("{pace}, {limits}")
    }

    fn limits(self, max: u64) -> Limits {
        Limits {
            max,
            high: self.high.then_some((max as f64 * HIGH_PART) as u64),
        }
    }
}

/// Runs the suite.
///
/// # Errors
/// `Environment` when a group cannot be made, `Process` when a process fails otherwise than by the limit.
pub fn run(options: &Options) -> Result<Report> {
    let mut rows = Vec::new();
    let mut samples = Vec::new();
    let highs: &[bool] = if has_version_2(&options.group) {
        &[true, false]
    } else {
        &[false]
    };
    for pace in [Pace::Slow, Pace::Fast] {
        for &high in highs {
            let case = Case { pace, high };
            let with = attempt(options, case, true)?;
            let without = attempt(options, case, false)?;
            rows.extend(compare(case, options.limit_bytes, &with, &without));
            samples.extend([with, without]);
        }
    }
    Ok(report(options, rows, &samples))
}

fn compare(case: Case, limit_bytes: u64, with: &Trial, without: &Trial) -> Vec<Row> {
    let row = |what: &str, unit, better, value: &dyn Fn(&Trial) -> Option<f64>| {
        let peers = value(without).map(|value| ("no monitor".to_owned(), value));
        let case = format!("{}: {what}", case.name());
        Row::new(case, unit, better, value(with), peers.into_iter().collect())
    };
    let ours = |trial: &Trial, value: &dyn Fn(&Outcome) -> f64| {
        let outcome = trial.outcome.as_ref().filter(|_| trial.monitor);
        outcome.map(value)
    };
    let mut rows = vec![
        row("came to its end", "times", Better::Higher, &|trial| {
            Some(f64::from(u8::from(trial.end == End::Itself)))
        }),
        row(
            "killed for want of memory",
            "times",
            Better::Lower,
            &|trial| Some(trial.counted.oom_kill as f64),
        ),
        row(
            "most charged, of the hard limit",
            "ratio",
            Better::Lower,
            &|trial| {
                (trial.counted.peak_bytes > 0)
                    .then(|| trial.counted.peak_bytes as f64 / limit_bytes as f64)
            },
        ),
        row("changes of level", "times", Better::Lower, &|trial| {
            ours(trial, &|end| end.changes as f64)
        }),
        row("calls back", "times", Better::Lower, &|trial| {
            ours(trial, &|end| end.callbacks as f64)
        }),
        row("back at normal, mean", "s", Better::Lower, &|trial| {
            ours(trial, &|end| end.resolution_mean_s)
        }),
        row("given back", "MiB", Better::Higher, &|trial| {
            ours(trial, &|end| mib(end.given_back_bytes))
        }),
    ];
    let levels = with.outcome.iter().flat_map(|end| &end.levels);
    rows.extend(levels.filter(|at| at.level != "normal").map(|at| {
        let what = format!("given back at {}", at.level);
        row(&what, "MiB", Better::Higher, &|trial| {
            ours(trial, &|_| mib(at.given_back_bytes))
        })
    }));
    rows
}

fn report(options: &Options, rows: Vec<Row>, trials: &[Trial]) -> Report {
    let version = if has_version_2(&options.group) { 2 } else { 1 };
    Report {
        suite: "pressure",
        command: options.command.clone(),
        date: now(),
        machine: Machine::this(),
        versions: BTreeMap::from([("weldpool".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        config: json!({
            "control_group_version": version,
            "max_bytes": options.limit_bytes,
            "high_part": HIGH_PART,
            "quick": options.quick,
            "monitor": format!("{:?}", filling::config(options.quick)),
        }),
        rows,
        bars: Vec::new(),
        missing: Vec::new(),
        samples: json!(trials),
    }
}

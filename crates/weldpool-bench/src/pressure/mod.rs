//! Fills memory up to a limit of the system, once with the pressure monitor and once without it.
//!
//! A process fills the pool, frees everything, so that the pool holds idle memory, and then needs as much
//! memory outside of the pool. Without the monitor the two do not fit below the limit together: the kernel
//! cannot take idle memory from a pool. Under a control group the process is killed then; under a limit on
//! address space it is refused memory.

mod filling;
mod limit;
mod line;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use serde::Serialize;
use serde_json::json;
use weldpool::pressure::PressureConfig;

use crate::error::{Error, ErrorKind, Result};
use crate::machine::{Machine, now};
use crate::report::{Better, Report, Row};

use self::limit::Group;
use self::line::{Line, Outcome};

pub use self::filling::child;

/// Bytes of output of one process that are read: some thousand lines.
const OUTPUT_BYTES_MAX: u64 = 8 << 20;

/// Settings of the suite.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command, for the report.
    pub command: String,
    /// The limit in bytes.
    pub limit_bytes: u64,
    /// The control group to make the limited one in; none for a limit on address space.
    pub group: Option<PathBuf>,
    /// Short steps and intervals.
    pub quick: bool,
}

/// Settings of the process that fills its memory.
#[derive(Debug, Clone)]
pub struct Child {
    /// The limit in bytes.
    pub limit_bytes: u64,
    /// The control group to enter; none for a limit on address space.
    pub group: Option<PathBuf>,
    /// Whether the monitor is on.
    pub monitor: bool,
    /// Short steps and intervals.
    pub quick: bool,
}

/// What one process did.
#[derive(Debug, Clone, Serialize)]
struct Trial {
    monitor: bool,
    /// What it ended with, if it came to its end.
    outcome: Option<Outcome>,
    /// The signal it was killed by.
    signal: Option<i32>,
    lines: Vec<Line>,
}

/// Runs the suite.
///
/// # Errors
/// `Environment` when the group cannot be made, `Process` when a process fails otherwise than by the limit.
pub fn run(options: &Options) -> Result<Report> {
    let with = trial(options, true)?;
    let without = trial(options, false)?;
    Ok(report(options, &[with, without]))
}

fn trial(options: &Options, monitor: bool) -> Result<Trial> {
    let group = match &options.group {
        Some(parent) => Some(Group::create(parent, options.limit_bytes)?),
        None => None,
    };
    let failed = |error| Error::caused(ErrorKind::Process, "the filling process", error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .arg("pressure-child")
        .arg("--limit-bytes")
        .arg(options.limit_bytes.to_string());
    if let Some(group) = &group {
        command.arg("--group").arg(group.directory());
    }
    if monitor {
        command.arg("--monitor");
    }
    if options.quick {
        command.arg("--quick");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    println!("# monitor {}", if monitor { "on" } else { "off" });
    let mut lines = Vec::new();
    let mut outcome = None;
    if let Some(output) = child.stdout.take() {
        // It ends by itself, and its output with it.
        for text in BufReader::new(output.take(OUTPUT_BYTES_MAX)).lines() {
            let text = text.map_err(failed)?;
            let line = serde_json::from_str(&text).map_err(|error| {
                Error::caused(ErrorKind::Protocol, format!("line {text:?}"), error)
            })?;
            println!("{line}");
            if let Line::End(end) = &line {
                outcome = Some(end.clone());
            }
            lines.push(line);
        }
    }
    let status = child.wait().map_err(failed)?;
    println!("# {}", verdict(status));
    if outcome.is_none() && status.signal().is_none() {
        return Err(Error::new(
            ErrorKind::Process,
            format!("the filling process ended early: {status}"),
        ));
    }
    Ok(Trial {
        monitor,
        outcome,
        signal: status.signal(),
        lines,
    })
}

fn verdict(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => "not killed".to_owned(),
    }
}

fn report(options: &Options, trials: &[Trial; 2]) -> Report {
    let [with, without] = trials;
    let row = |case: &str, unit, better, value: &dyn Fn(&Trial) -> Option<f64>| {
        let peers = value(without).map(|value| ("no monitor".to_owned(), value));
        Row::new(case, unit, better, value(with), peers.into_iter().collect())
    };
    let of = |trial: &Trial, value: fn(&Outcome) -> f64| trial.outcome.as_ref().map(value);
    let rows = vec![
        row("killed", "times", Better::Lower, &|trial| {
            Some(f64::from(u8::from(trial.signal.is_some())))
        }),
        row("refused memory", "times", Better::Lower, &|trial| {
            of(trial, |end| end.refused as f64)
        }),
        row("given back", "MiB", Better::Higher, &|trial| {
            of(trial, |end| line::mib(end.given_back_bytes))
        }),
        row("changes of level", "times", Better::Lower, &|trial| {
            of(trial, |end| end.events as f64)
        }),
        row("back at normal, mean", "s", Better::Lower, &|trial| {
            trial
                .outcome
                .as_ref()
                .filter(|end| end.resolutions > 0)
                .map(|end| end.resolution_mean_s)
        }),
    ];
    let config = filling::config(options.quick);
    Report {
        suite: "pressure",
        command: options.command.clone(),
        date: now(),
        machine: Machine::this(),
        versions: BTreeMap::from([("weldpool".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        config: settings(options, &config),
        rows,
        bars: Vec::new(),
        missing: Vec::new(),
        samples: json!(trials),
    }
}

fn settings(options: &Options, config: &PressureConfig) -> serde_json::Value {
    let kind = match options.group {
        Some(_) => "control group",
        None => "address space",
    };
    json!({
        "limit_bytes": options.limit_bytes,
        "limit": kind,
        "quick": options.quick,
        "monitor": format!("{config:?}"),
    })
}

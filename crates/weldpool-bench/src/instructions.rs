//! The instructions of a warm allocate and free pair, counted by callgrind.
//!
//! A count does not depend on what else the machine does, so it shows the smallest change of the hot path. The
//! program runs twice, with N and with 2 N pairs; the difference has no start and no first use in it. Work of the
//! kernel is not counted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::alloc::{self, Case, Contender, Field, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::report::{Better, Report, Row};

const VALGRIND: &str = "valgrind";
const SIZES: [usize; 4] = [256, 64 << 10, 1 << 20, 64 << 20];

/// What to count.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Pairs of the shorter run.
    pub pairs: u64,
}

/// Runs the suite.
///
/// # Errors
/// `Environment` when valgrind is missing, saying how to get it, or no case has a name with the filter in it;
/// `Process` when a run fails.
pub fn run(options: &Options) -> Result<Report> {
    let valgrind = valgrind_version()?;
    let mut rows = Vec::new();
    for bytes in SIZES {
        let case = Case {
            field: Field::Host,
            workload: Workload::Pair(bytes),
        };
        if !case.to_string().contains(&options.filter) {
            continue;
        }
        eprintln!("{case}");
        let ours = count(Contender::Ours, bytes, options.pairs)?;
        let mut peers = BTreeMap::new();
        if cfg!(target_os = "linux") {
            let theirs = count(Contender::Mimalloc, bytes, options.pairs)?;
            peers.insert(Contender::Mimalloc.name().to_owned(), theirs);
        }
        let unit = "instructions/pair";
        rows.push(Row::new(
            case.to_string(),
            unit,
            Better::Lower,
            Some(ours),
            peers,
        ));
    }
    if rows.is_empty() {
        let message = format!("no case has {:?} in its name", options.filter);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    let mut versions = alloc::versions();
    versions.retain(|name, _| {
        [Contender::Ours, Contender::Mimalloc]
            .map(Contender::name)
            .contains(&name.as_str())
    });
    versions.insert(VALGRIND.to_owned(), valgrind);
    Ok(Report {
        suite: "instructions",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions,
        config: json!({
            "weldpool": format!("{:?}", weldpool::Config::default()),
            "pairs": options.pairs,
            "figure": "instructions of 2 N pairs less those of N, over N; the kernel's are not counted",
        }),
        rows,
        bars: Vec::new(),
        missing: Vec::new(),
        samples: json!({}),
    })
}

/// Instructions of one warm pair.
fn count(contender: Contender, bytes: usize, pairs: u64) -> Result<f64> {
    let once = total(contender, bytes, pairs)?;
    let twice = total(contender, bytes, 2 * pairs)?;
    Ok(twice.saturating_sub(once) as f64 / pairs as f64)
}

/// Instructions of a whole run of `pairs` pairs.
fn total(contender: Contender, bytes: usize, pairs: u64) -> Result<u64> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("locating this program", error))?;
    let directory = tempfile::tempdir().map_err(|error| Error::io("making a directory", error))?;
    let file = directory.path().join("callgrind.out");
    // The option takes its value behind an equals sign only.
    let mut option = OsString::from("--callgrind-out-file=");
    option.push(&file);
    let mut command = Command::new(VALGRIND);
    contender.set_up(&mut command);
    let output = command
        .arg("--tool=callgrind")
        .arg(option)
        .arg(program)
        .args(["pairs", "--contender", contender.name()])
        .args(["--bytes", &bytes.to_string(), "--pairs", &pairs.to_string()])
        .stdout(Stdio::null())
        .output()
        .map_err(|error| Error::caused(ErrorKind::Process, "running valgrind", error))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        let message = format!("valgrind ended with {}: {last}", output.status);
        return Err(Error::new(ErrorKind::Process, message));
    }
    let text = fs::read_to_string(&file)
        .map_err(|error| Error::io("reading callgrind's counts", error))?;
    parse(&text)
        .ok_or_else(|| Error::new(ErrorKind::Process, "callgrind's file has no line of totals"))
}

/// The total of a callgrind file, which ends with it.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().rev();
    let total = lines.find_map(|line| line.strip_prefix("totals:"))?;
    total.split_ascii_whitespace().next()?.parse().ok()
}

/// The version of valgrind, such as `3.24.0`.
fn valgrind_version() -> Result<String> {
    let output = Command::new(VALGRIND).arg("--version").output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorKind::Environment,
            "this suite needs valgrind; install it, for instance with `apt-get install valgrind`",
        ),
        _ => Error::caused(ErrorKind::Environment, "running valgrind", error),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().trim_start_matches("valgrind-").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_stands_at_the_end() {
        let text = "version: 1\nevents: Ir\n\nfn=(1) main\n1 17\n\ntotals: 123456\n";
        assert_eq!(parse(text), Some(123_456));
        assert_eq!(parse("events: Ir\n"), None);
        assert_eq!(parse("totals: many\n"), None);
    }
}

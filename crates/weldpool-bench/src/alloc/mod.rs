//! The allocation suite: our allocator beside the best allocators of host memory, and beside allocators of ranges.
//!
//! Ours is the public interface with the default configuration, `Allocator::host()`, `allocate`, drop; the peers
//! are called through their own functions. Every measurement is a process of its own, all contenders of a case
//! take turns, and a figure is the median over the rounds of criterion's median.

mod bars;
mod cases;
mod contender;
pub(crate) mod heap;
pub(crate) mod heaps;
mod mappings;
mod meter;
mod rounds;
mod seeing;
mod sequence;
mod worker;
pub(crate) mod workloads;

use std::fs;

use serde_json::{Value, json};

#[cfg(target_os = "linux")]
pub(crate) use cases::{BATCH, MIX};
pub use cases::{Case, Field, Workload};
pub use contender::Contender;
pub(crate) use contender::versions;
pub use meter::Effort;

use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::report::Report;
pub use rounds::MAPPINGS;
use rounds::Measured;

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// One or two cases of each kind only.
    pub quick: bool,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Measurements of each contender in each case.
    pub rounds: usize,
    /// Time of one measurement.
    pub effort: Effort,
    /// Measure the C library also at settings with which it never gives memory back.
    pub keeping_c_library: bool,
}

/// Runs the suite.
///
/// # Errors
/// `Environment` when no case has a name with the filter in it, `Io` when this program does not find itself. A
/// contender that fails in a case is not an error: the report says that it is missing.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::this();
    let mut cases = Case::all(machine.cores, options.quick);
    cases.retain(|case| case.to_string().contains(&options.filter));
    if cases.is_empty() {
        let message = format!("no case has {:?} in its name", options.filter);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    let measured = Measured::take(
        &cases,
        options.rounds,
        options.effort,
        options.keeping_c_library,
    )?;
    let mut missing = measured.missing().to_vec();
    if !cfg!(feature = "suballocators") {
        missing.push("VMA and CubeCL, which the feature `suballocators` builds".to_owned());
    }
    Ok(Report {
        suite: "alloc",
        command: options.command.clone(),
        date: machine::now(),
        versions: versions(),
        config: config(options, &machine),
        machine,
        rows: measured.rows(),
        bars: bars::verdicts(&measured),
        missing,
        samples: measured.samples(),
    })
}

/// Measures one contender in one case and prints the result for the process that asked.
///
/// # Errors
/// `Environment` when there is no such contender or case, or an allocation failed.
pub fn work(contender: &str, case: &str, effort: Effort) -> Result<()> {
    let contender = Contender::named(contender).ok_or_else(|| unknown("contender", contender))?;
    let found = Case::named(case, Machine::this().cores).ok_or_else(|| unknown("case", case))?;
    worker::work(contender, &found, effort)
}

/// Makes pairs of allocations and frees and nothing else, for a run that counts instructions.
///
/// # Errors
/// `Environment` when there is no such allocator of host memory, or an allocation failed.
pub fn make_pairs(contender: &str, bytes: usize, pairs: u64) -> Result<()> {
    let contender = Contender::named(contender).ok_or_else(|| unknown("contender", contender))?;
    worker::pairs(contender, bytes, pairs)
}

fn unknown(what: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::Environment,
        format!("there is no {what} {name:?}"),
    )
}

/// All settings that shape the result.
fn config(options: &Options, machine: &Machine) -> Value {
    let cases = Case::all(machine.cores, options.quick);
    let of = |bar| {
        let names = cases.iter().filter(|case| bars::of(case) == Some(bar));
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    json!({
        "weldpool": format!("{:?}", weldpool::Config::default()),
        "alignment": "weldpool 256 B; malloc 16 B; allocators of ranges 256 B unless the case says otherwise",
        "process": "one per measurement, contenders in turn, order rotated from round to round",
        "warm_up_s": options.effort.warm_up.as_secs_f64(),
        "samples_s": options.effort.samples.as_secs_f64(),
        "rounds": options.rounds,
        "figure": "median over the rounds of the median of criterion's samples",
        "random_live_bytes_max": sequence::live_bytes_max(machine.memory_bytes),
        "transparent_huge_pages": setting("/sys/kernel/mm/transparent_hugepage/enabled"),
        "transparent_huge_pages_shared": setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "mappings_max_of_a_process": mappings::limit(),
        "rows_of_bars": {"P1": of("P1"), "P3": of("P3")},
    })
}

/// The value in brackets of a kernel setting.
fn setting(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text
        .split_once('[')
        .and_then(|(_, rest)| Some(rest.split_once(']')?.0));
    value.unwrap_or("unknown").to_owned()
}

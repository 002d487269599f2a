//! The GPU suite: our allocator and our copies on a real NVIDIA GPU, beside the allocators of CUDA, RMM and PyTorch,
//! and the driver's copies.
//!
//! Each allocator is measured in a process of its own, in the same loops, ours through the public interface and
//! the default configuration, the peers through plain functions of a shared library that is compiled on the
//! machine from `gpu/peers`. Copies are measured last, when no allocator holds memory.

mod allocators;
mod build;
mod cases;
mod contender;
mod copies;
mod ours;
mod peer;
mod traces;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use weldpool::Config;

use crate::alloc::Effort;
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::report::Report;

pub use worker::{Work, work};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// Measure shortly.
    pub quick: bool,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Where `librmm`, `rapids_logger` and `nvidia` of the wheels are; RMM is left out without it.
    pub wheels: Option<PathBuf>,
    /// Try numbers of threads and sizes of chunks of copies too.
    pub sweep: bool,
}

impl Options {
    fn wants(&self, case: &str) -> bool {
        case.contains(&self.filter)
    }
}

/// Runs the suite.
///
/// # Errors
/// `Environment` without a GPU, `Io` when this program does not find itself. A peer that cannot be built or fails, and
/// copies that the driver refuses, are no error: the report says that they are missing.
pub fn run(options: &Options) -> Result<Report> {
    let (warm_up, samples) = if options.quick { (5, 20) } else { (50, 150) };
    let effort = Effort {
        warm_up: Duration::from_millis(warm_up),
        samples: Duration::from_millis(samples),
    };
    let mut report = Report {
        suite: "gpu",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions: BTreeMap::from([("weldpool".into(), env!("CARGO_PKG_VERSION").into())]),
        config: json!({
            "weldpool": format!("{:?}", Config::default()),
            "warm_up_ms": effort.warm_up.as_millis() as u64,
            "samples_ms": effort.samples.as_millis() as u64,
        }),
        rows: Vec::new(),
        bars: Vec::new(),
        missing: Vec::new(),
        samples: json!([]),
    };
    allocators::measure(options, effort, &mut report)?;
    eprintln!("copies");
    if let Err(error) = copies::measure(options, &mut report) {
        report.missing.push(format!("copies: {error}"));
    }
    if report.rows.iter().all(|row| row.ours.is_none()) {
        let missing = report.missing.join("; ");
        let message = match missing.as_str() {
            "" => format!("no case has {:?} in its name", options.filter),
            _ => format!("nothing was measured: {missing}"),
        };
        return Err(Error::new(ErrorKind::Environment, message));
    }
    Ok(report)
}

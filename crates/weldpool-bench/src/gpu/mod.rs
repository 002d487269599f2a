//! The GPU suite: our allocator on a real NVIDIA GPU beside CUDA's allocators, RMM's and PyTorch's.
//!
//! Each contender is measured in a process of its own, in the same loops, ours through the public interface and
//! the default configuration, the peers through plain functions of a shared library that is compiled on the
//! machine from `gpu/peers`.

mod build;
mod cases;
mod contender;
mod ours;
mod peer;
mod traces;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;
use weldpool::Config;

use self::cases::Case;
use self::contender::Contender;
use crate::alloc::Effort;
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::report::{Report, Row, Verdict};

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
}

/// Runs the suite.
///
/// # Errors
/// `Environment` without a GPU, `Io` when this program does not find itself. A peer that cannot be built or fails
/// is not an error: the report says that it is missing.
pub fn run(options: &Options) -> Result<Report> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("making a directory", error))?;
    let effort = match options.quick {
        true => Effort {
            warm_up: std::time::Duration::from_millis(5),
            samples: std::time::Duration::from_millis(20),
        },
        false => Effort {
            warm_up: std::time::Duration::from_millis(50),
            samples: std::time::Duration::from_millis(150),
        },
    };
    let mut missing = Vec::new();
    let mut versions = BTreeMap::new();
    let mut values: BTreeMap<Contender, BTreeMap<String, f64>> = BTreeMap::new();
    for contender in Contender::ALL {
        eprintln!("{}", contender.name());
        let library = match contender.library() {
            None => None,
            Some(library) => {
                match build::library(library, folder.path(), options.wheels.as_deref()) {
                    Ok(path) => Some(path),
                    Err(error) => {
                        missing.push(format!("{}: {error}", contender.name()));
                        continue;
                    }
                }
            }
        };
        match worker::run(contender, library.as_deref(), options, effort) {
            Ok(answers) => {
                missing.extend(
                    answers
                        .failed
                        .iter()
                        .map(|failed| format!("{}: {failed}", contender.name())),
                );
                if let Some(version) = answers.version {
                    versions.insert(contender.name().to_owned(), version);
                }
                values.insert(contender, answers.values);
            }
            Err(error) if contender == Contender::Ours => return Err(error),
            Err(error) => missing.push(format!("{}: {error}", contender.name())),
        }
    }
    let (rows, bars) = rows(&values, options);
    if rows.is_empty() {
        let message = format!("no case has {:?} in its name", options.filter);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    versions.insert("weldpool".into(), env!("CARGO_PKG_VERSION").into());
    Ok(Report {
        suite: "gpu",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions,
        config: json!({
            "weldpool": format!("{:?}", Config::default()),
            "warm_up_ms": effort.warm_up.as_millis() as u64,
            "samples_ms": effort.samples.as_millis() as u64,
        }),
        rows,
        bars,
        missing,
        samples: json!([]),
    })
}

/// The rows in the order of the cases, and the bars that they are held against.
fn rows(
    values: &BTreeMap<Contender, BTreeMap<String, f64>>,
    options: &Options,
) -> (Vec<Row>, Vec<Verdict>) {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for case in Case::all(Machine::this().cores) {
        let name = case.to_string();
        if !name.contains(&options.filter) {
            continue;
        }
        for figure in case.figures() {
            let key = figure.key(&name);
            let of = |contender: &Contender| values.get(contender)?.get(&key).copied();
            let peers = values
                .keys()
                .filter(|contender| contender.is_peer())
                .filter_map(|contender| Some((contender.name().to_owned(), of(contender)?)))
                .collect::<BTreeMap<_, _>>();
            let ours = of(&Contender::Ours);
            let row = Row::new(key.clone(), figure.unit, figure.better, ours, peers.clone());
            bars.extend(case.verdict(figure, &row, values));
            rows.push(row);
            for (contender, name) in [
                (Contender::Adopted, "adopted stream"),
                (Contender::Frugal, "frugal"),
            ] {
                if let Some(value) = of(&contender) {
                    let name = format!("{name}: {key}");
                    let peers = peers.clone();
                    rows.push(Row::new(
                        name,
                        figure.unit,
                        figure.better,
                        Some(value),
                        peers,
                    ));
                }
            }
        }
    }
    (rows, bars)
}

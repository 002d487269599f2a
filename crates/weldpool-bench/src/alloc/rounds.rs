//! All contenders in all cases, in turn, each measurement in a process of its own.
//!
//! Settings belong to a process, and so do the traces that one workload leaves in an allocator. The machine's
//! noise comes and goes over seconds, so within a round the contenders of a case follow each other directly, and
//! from round to round the order rotates.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::cases::Case;
use super::contender::Contender;
use super::meter::{Effort, Sample};
use super::worker;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Better, Row};
use crate::statistics::median;

/// The row about mappings.
pub const MAPPINGS: &str = "most mappings of the process, any case";

/// Everything measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    samples: Vec<(Case, BTreeMap<Contender, Vec<Sample>>)>,
    missing: Vec<String>,
}

impl Measured {
    /// Measures `cases` in `rounds` rounds. A contender that fails in a case is left out of it and reported.
    ///
    /// # Errors
    /// `Io` when this program does not find itself.
    pub(super) fn take(
        cases: &[Case],
        rounds: usize,
        effort: Effort,
        keeping_c_library: bool,
    ) -> Result<Self> {
        let mut measured = Self::default();
        for (index, case) in cases.iter().enumerate() {
            eprintln!("{}/{} {case}", index + 1, cases.len());
            let mut contenders = Contender::of(case, keeping_c_library);
            let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for _ in 0..rounds {
                let mut failed = Vec::new();
                for contender in &contenders {
                    match run(*contender, case, effort) {
                        Ok(sample) => samples.entry(*contender).or_default().push(sample),
                        Err(error) if error.kind() == ErrorKind::Process => {
                            failed.push(*contender);
                            measured.missing.push(error.to_string());
                        }
                        Err(error) => return Err(error),
                    }
                }
                contenders.retain(|contender| !failed.contains(contender));
                samples.retain(|contender, _| !failed.contains(contender));
                // Stays when every contender failed.
                if !contenders.is_empty() {
                    contenders.rotate_left(1);
                }
            }
            measured.samples.push((*case, samples));
        }
        Ok(measured)
    }

    /// The figure of a contender: the median over the rounds.
    pub(super) fn figure(&self, case: &Case, contender: Contender) -> Option<f64> {
        let (_, samples) = self.samples.iter().find(|(other, _)| other == case)?;
        figure(case, samples.get(&contender)?)
    }

    /// The cases measured.
    pub(super) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.samples.iter().map(|(case, _)| case)
    }

    /// A row per case.
    pub(super) fn rows(&self) -> Vec<Row> {
        let rows = self.samples.iter().map(|(case, samples)| {
            let peers = samples
                .iter()
                .filter(|(contender, _)| contender.is_peer())
                .filter_map(|(contender, samples)| {
                    Some((contender.name().to_owned(), figure(case, samples)?))
                });
            let ours = self.figure(case, Contender::Ours);
            Row::new(
                case.to_string(),
                case.unit(),
                case.better(),
                ours,
                peers.collect(),
            )
        });
        rows.chain(self.mappings()).collect()
    }

    /// The most mappings that a contender's process had, and in which case.
    pub(super) fn mappings_max(&self, contender: Contender) -> Option<(u64, &Case)> {
        let cases = self.samples.iter().filter_map(|(case, all)| {
            let samples = all.get(&contender)?.iter();
            Some((samples.filter_map(|sample| sample.mappings).max()?, case))
        });
        cases.max_by_key(|(most, _)| *most)
    }

    /// The same as a row, of all whose heaps map memory of their own.
    fn mappings(&self) -> Option<Row> {
        let (ours, _) = self.mappings_max(Contender::Ours)?;
        let peers = Contender::host().filter_map(|contender| {
            let (most, _) = self.mappings_max(contender)?;
            Some((contender.name().to_owned(), most as f64))
        });
        Some(Row::new(
            MAPPINGS,
            "mappings",
            Better::Lower,
            Some(ours as f64),
            peers.collect(),
        ))
    }

    /// What could not be measured, and why.
    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Every measurement: per case and contender `[low, median, high]` of each round, in the case's unit.
    pub(super) fn samples(&self) -> Value {
        let mut cases = Map::new();
        for (case, samples) in &self.samples {
            let contenders = samples.iter().map(|(contender, samples)| {
                let rounds = samples.iter().map(|sample| {
                    let mut values = [sample.low, sample.nanoseconds, sample.high]
                        .map(|nanoseconds| case.figure(nanoseconds, sample.operations));
                    values.sort_by(f64::total_cmp);
                    json!(values)
                });
                (contender.name().to_owned(), rounds.collect())
            });
            cases.insert(case.to_string(), Value::Object(contenders.collect()));
        }
        Value::Object(cases)
    }

    #[cfg(test)]
    pub(super) fn set_mappings(&mut self, mappings: Option<u64>) {
        let samples = self
            .samples
            .iter_mut()
            .flat_map(|(_, all)| all.values_mut());
        samples
            .flatten()
            .for_each(|sample| sample.mappings = mappings);
    }

    #[cfg(test)]
    pub(super) fn with(mut self, case: Case, contender: Contender, nanoseconds: f64) -> Self {
        let sample = Sample {
            nanoseconds,
            low: nanoseconds,
            high: nanoseconds,
            operations: 1.0,
            mappings: None,
        };
        let samples = match self.samples.iter_mut().find(|(other, _)| *other == case) {
            Some((_, samples)) => samples,
            None => {
                self.samples.push((case, BTreeMap::new()));
                &mut self.samples.last_mut().expect("just pushed").1
            }
        };
        samples.insert(contender, vec![sample]);
        self
    }
}

fn figure(case: &Case, samples: &[Sample]) -> Option<f64> {
    let figures = samples
        .iter()
        .map(|sample| case.figure(sample.nanoseconds, sample.operations));
    median(&figures.collect::<Vec<_>>())
}

/// One measurement in a child process of this program.
fn run(contender: Contender, case: &Case, effort: Effort) -> Result<Sample> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("locating this program", error))?;
    let mut command = Command::new(program);
    contender.set_up(&mut command);
    command
        .args(["alloc-worker", "--contender", contender.name(), "--case"])
        .arg(case.to_string());
    for (name, time) in [("--warm-up", effort.warm_up), ("--samples", effort.samples)] {
        command.arg(name).arg(time.as_secs_f64().to_string());
    }
    let fail = |what: &str| {
        let message = format!("{case}: {}: {what}", contender.name());
        Error::new(ErrorKind::Process, message)
    };
    let output = command.output().map_err(|error| fail(&error.to_string()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        return Err(fail(&format!("{}: {last}", output.status)));
    }
    worker::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| fail("no result"))
}

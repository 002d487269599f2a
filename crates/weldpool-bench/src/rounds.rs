//! Servers measured in rounds: each case several times, shortly, the servers' order rotated from round to round.
//!
//! The machine is shared, so a long run of one server would be charged with whatever else happened then. The
//! figure of a server is the median over its rounds.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::load::{Load, Sample};
use crate::report::{Better, Row};
use crate::statistics::median;

/// Processors' worth of foreign work up to which a measurement counts as undisturbed.
const QUIET_PROCESSORS: f64 = 0.1;
/// Time before a disturbed measurement is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// A figure taken from samples.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name in results.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The good direction.
    pub better: Better,
    of: fn(&Sample) -> f64,
}

/// Answers per second.
pub const THROUGHPUT: Figure = Figure {
    name: "throughput",
    unit: "1/s",
    better: Better::Higher,
    of: |s| s.throughput,
};
/// Median latency.
pub const P50: Figure = Figure {
    name: "p50",
    unit: "us",
    better: Better::Lower,
    of: |s| s.p50_us,
};
/// 99th percentile of the latency.
pub const P99: Figure = Figure {
    name: "p99",
    unit: "us",
    better: Better::Lower,
    of: |s| s.p99_us,
};
/// Processor time of a server's processes, shared out over its answers.
pub const CPU: Figure = Figure {
    name: "server CPU per request",
    unit: "us",
    better: Better::Lower,
    of: |s| s.cpu_us,
};
const FOREIGN: Figure = Figure {
    name: "foreign work",
    unit: "processors",
    better: Better::Lower,
    of: |s| s.foreign,
};

/// Time before each window.
pub fn warm_up(window: Duration) -> Duration {
    (window / 4).clamp(Duration::from_millis(100), Duration::from_millis(500))
}

/// How often to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Measurements of each server in each case.
    pub rounds: usize,
    /// Times a measurement is made, at most, until nothing else uses the machine meanwhile.
    pub attempts: usize,
}

/// What is measured of several servers alike.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name in results.
    pub name: String,
    /// The servers by their names, and the load of each.
    pub loads: Vec<(String, Load)>,
}

/// All samples of a run, by case and server.
#[derive(Debug, Default)]
pub struct Measured {
    cases: Vec<(String, BTreeMap<String, Vec<Sample>>)>,
}

impl Measured {
    /// Measures all cases.
    ///
    /// # Errors
    /// Those of [`Load::run`], naming case and server.
    pub fn of(cases: &[Case], schedule: Schedule) -> Result<Self> {
        let mut measured = Self::default();
        for case in cases {
            for round in 0..schedule.rounds {
                for turn in 0..case.loads.len() {
                    let (server, load) = &case.loads[(round + turn) % case.loads.len()];
                    let sample = measure_quietly(load, schedule.attempts).map_err(|error| {
                        Error::caused(error.kind(), format!("{}, {server}", case.name), error)
                    })?;
                    eprintln!(
                        "{}, round {} of {}, {server}: {:.0}/s, p50 {:.1} us, p99 {:.1} us, CPU {:.1} us; \
                         others took {:.2} processors",
                        case.name,
                        round + 1,
                        schedule.rounds,
                        sample.throughput,
                        sample.p50_us,
                        sample.p99_us,
                        sample.cpu_us,
                        sample.foreign
                    );
                    measured.add(&case.name, server, sample);
                }
            }
        }
        Ok(measured)
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, case: &str, server: &str, sample: Sample) {
        let place = match self.cases.iter().position(|(name, _)| name == case) {
            Some(place) => place,
            None => {
                self.cases.push((case.to_owned(), BTreeMap::new()));
                self.cases.len() - 1
            }
        };
        let servers = &mut self.cases[place].1;
        servers.entry(server.to_owned()).or_default().push(sample);
    }

    /// The median of `figure` over the rounds of `server` in `case`; none when it was not measured there.
    pub fn figure(&self, case: &str, server: &str, figure: Figure) -> Option<f64> {
        let (_, servers) = self.cases.iter().find(|(name, _)| name == case)?;
        let values: Vec<f64> = servers.get(server)?.iter().map(figure.of).collect();
        median(&values)
    }

    /// The servers of the first case, in the order of their names.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        let first = self.cases.first();
        first
            .into_iter()
            .flat_map(|(_, servers)| servers.keys().map(String::as_str))
    }

    /// A row per case, figure and peer with `ours` beside it; `peers` are names with what the row's name gets
    /// behind it. A peer that was not measured in a case has no rows of it.
    pub fn rows(&self, ours: &str, peers: &[(&str, &str)]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (case, _) in &self.cases {
            for figure in [THROUGHPUT, P50, P99, CPU] {
                for (peer, suffix) in peers {
                    let Some(theirs) = self.figure(case, peer, figure) else {
                        continue;
                    };
                    rows.push(Row::new(
                        format!("{case}: {}{suffix}", figure.name),
                        figure.unit,
                        figure.better,
                        self.figure(case, ours, figure),
                        BTreeMap::from([((*peer).to_owned(), theirs)]),
                    ));
                }
            }
        }
        rows
    }

    /// A warning when other work on the machine has blurred the figures.
    pub fn disturbance(&self) -> Option<String> {
        let samples = self
            .cases
            .iter()
            .flat_map(|(_, servers)| servers.values().flatten());
        let (disturbed, all): (Vec<_>, Vec<_>) = (
            samples
                .clone()
                .filter(|s| s.foreign > QUIET_PROCESSORS)
                .collect(),
            samples.collect(),
        );
        let most = disturbed
            .iter()
            .map(|sample| sample.foreign)
            .reduce(f64::max)?;
        Some(format!(
            "an undisturbed machine: in {} of {} measurements other work took more than {QUIET_PROCESSORS} \
             processors, up to {most:.2}",
            disturbed.len(),
            all.len()
        ))
    }

    /// Every sample, for those who want to judge the spread.
    pub fn samples(&self) -> Value {
        let list = |samples: &[Sample], figure: Figure| -> Vec<f64> {
            samples.iter().map(figure.of).collect()
        };
        let cases = self.cases.iter().flat_map(|(case, servers)| {
            servers.iter().map(move |(server, samples)| {
                json!({
                    "case": case,
                    "server": server,
                    "requests": samples.iter().map(|sample| sample.requests).collect::<Vec<_>>(),
                    "throughput": list(samples, THROUGHPUT),
                    "p50_us": list(samples, P50),
                    "p99_us": list(samples, P99),
                    "cpu_us": list(samples, CPU),
                    "foreign_processors": list(samples, FOREIGN),
                })
            })
        });
        cases.collect()
    }
}

/// Measures once, again if something else used the machine meanwhile, and takes the least disturbed result.
fn measure_quietly(load: &Load, attempts: usize) -> Result<Sample> {
    let mut best = load.run()?;
    for _ in 1..attempts {
        if best.foreign <= QUIET_PROCESSORS {
            break;
        }
        thread::sleep(PAUSE);
        let next = load.run()?;
        if next.foreign < best.foreign {
            best = next;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(throughput: f64, foreign: f64) -> Sample {
        Sample {
            requests: 1,
            throughput,
            p50_us: 1e6 / throughput,
            p99_us: 2e6 / throughput,
            cpu_us: 5.0,
            foreign,
        }
    }

    fn measured() -> Measured {
        let mut measured = Measured::default();
        for rate in [10.0, 90.0, 40.0] {
            measured.add("one", "us", sample(rate, 0.0));
        }
        measured.add("one", "them", sample(20.0, 0.3));
        measured.add("two", "us", sample(8.0, 0.0));
        measured
    }

    #[test]
    fn a_figure_is_the_median_over_the_rounds() {
        let measured = measured();
        assert_eq!(measured.figure("one", "us", THROUGHPUT), Some(40.0));
        assert_eq!(measured.figure("two", "them", THROUGHPUT), None);
        assert_eq!(measured.servers().collect::<Vec<_>>(), ["them", "us"]);
    }

    #[test]
    fn a_row_has_the_ratio_to_its_peer() {
        let rows = measured().rows("us", &[("them", ", against them"), ("nobody", "")]);
        let cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
        assert_eq!(
            cases,
            [
                "one: throughput, against them",
                "one: p50, against them",
                "one: p99, against them",
                "one: server CPU per request, against them"
            ]
        );
        assert_eq!(rows[0].ratio, Some(2.0));
        assert_eq!(rows[1].ratio, Some(2.0));
        assert_eq!(rows[3].ratio, Some(1.0));
    }

    #[test]
    fn disturbance_is_told() {
        let text = measured().disturbance().unwrap();
        assert!(text.contains("in 1 of 5 measurements"), "{text}");
        assert!(Measured::default().disturbance().is_none());
    }
}

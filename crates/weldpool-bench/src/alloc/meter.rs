//! One measurement, by criterion.
//!
//! Criterion is used as a library: it warms up, chooses the iterations per sample, takes the samples and finds
//! the median with its confidence interval. Its own harness cannot do what this suite needs, which is a process
//! per contender, because an allocator's settings belong to a process, and all contenders within one row. Its
//! results are in files, so it is given a directory of its own, and they are read from there.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mappings;
use crate::error::{Error, ErrorKind, Result};

/// The samples of one measurement; criterion accepts no fewer.
const SAMPLES: usize = 10;
/// Resamples of criterion's bootstrap. With ten samples more of them change nothing.
const RESAMPLES: usize = 1_001;
const GROUP: &str = "group";
const CASE: &str = "case";

/// How long one measurement takes, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Time before the first sample.
    pub warm_up: Duration,
    /// Time of all samples together.
    pub samples: Duration,
}

/// The result of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Nanoseconds of one iteration: the median over criterion's samples.
    pub(crate) nanoseconds: f64,
    /// Lower end of the median's 95 % confidence interval.
    pub(crate) low: f64,
    /// Upper end of the interval.
    pub(crate) high: f64,
    /// Operations, or pairs, of one iteration.
    pub(crate) operations: f64,
    /// Mappings of the process at the end, with all that the allocator keeps; none where unknown.
    pub(crate) mappings: Option<u64>,
}

/// Measures `routine`, which makes as many iterations as it is told and says how long they took, or `None` when
/// an allocation failed. An iteration makes `operations` operations.
///
/// # Errors
/// `Environment` when an allocation failed, `Io` when criterion's files cannot be read.
pub(crate) fn measure(
    effort: Effort,
    operations: usize,
    mut routine: impl FnMut(u64) -> Option<Duration>,
) -> Result<Sample> {
    let directory = tempfile::tempdir().map_err(|error| Error::io("making a directory", error))?;
    let mut criterion = Criterion::default()
        .output_directory(directory.path())
        .without_plots()
        .with_output_color(false)
        .sample_size(SAMPLES)
        .nresamples(RESAMPLES)
        .warm_up_time(effort.warm_up)
        .measurement_time(effort.samples);
    let mut failed = false;
    let mut group = criterion.benchmark_group(GROUP);
    // Every sample makes as many iterations: iterations take from nanoseconds to a second here.
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(CASE, |bencher| {
        bencher.iter_custom(|iterations| {
            let time = if failed { None } else { routine(iterations) };
            if time.is_none() && !failed {
                failed = true;
                // Ends the warm-up, which would count ever more of the iterations that take no time.
                thread::sleep(effort.warm_up);
            }
            // Criterion stops the program on a time of zero.
            time.unwrap_or_default()
                .max(Duration::from_nanos(iterations.max(1)) / 1000)
        });
    });
    group.finish();
    if failed {
        return Err(Error::new(ErrorKind::Environment, "an allocation failed"));
    }
    read(directory.path(), operations)
}

/// Reads the median that criterion wrote below `directory`.
fn read(directory: &Path, operations: usize) -> Result<Sample> {
    let file = directory.join(GROUP).join(CASE).join("new/estimates.json");
    let text = fs::read_to_string(file)
        .map_err(|error| Error::io("reading criterion's estimates", error))?;
    let estimates: Value = serde_json::from_str(&text)
        .map_err(|error| Error::caused(ErrorKind::Io, "reading criterion's estimates", error))?;
    let median = &estimates["median"];
    let number = |value: &Value| {
        value
            .as_f64()
            .ok_or_else(|| Error::new(ErrorKind::Io, "criterion's estimates have an unknown form"))
    };
    Ok(Sample {
        nanoseconds: number(&median["point_estimate"])?,
        low: number(&median["confidence_interval"]["lower_bound"])?,
        high: number(&median["confidence_interval"]["upper_bound"])?,
        operations: operations as f64,
        mappings: mappings::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort {
        warm_up: Duration::from_millis(1),
        samples: Duration::from_millis(5),
    };

    #[test]
    fn the_time_given_is_the_time_found() {
        let sample = measure(EFFORT, 4, |iterations| {
            thread::sleep(Duration::from_micros(50));
            Some(Duration::from_nanos(200 * iterations))
        })
        .unwrap();
        assert_eq!(sample.nanoseconds, 200.0);
        assert_eq!((sample.low, sample.high), (200.0, 200.0));
        assert_eq!(sample.operations, 4.0);
    }

    #[test]
    fn a_failed_allocation_is_an_error() {
        let error = measure(EFFORT, 1, |_| None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Environment);
    }
}

//! Triton's own load generator, as a second client beside ours.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::peers::fetch::{Wheel, file_starting, make_executable};
use crate::peers::triton;
use crate::process::Process;
use crate::request::INPUT;

/// The last client wheel whose program runs on glibc 2.36.
pub const WHEEL: Wheel = Wheel {
    name: "tritonclient",
    version: "2.50.0",
    platform: "manylinux1_x86_64",
    sha256: "421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889",
};

/// It reports the mean of its last three windows. It keeps the records of all requests, answers included, and the
/// work it does between windows grows with them, so it gets exactly three and its own notion of a stable
/// measurement is set aside: medians over rounds take its place.
const WINDOWS: &[&str] = &["--max-trials", "3", "--stability-percentage", "1000"];
/// Longest it may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The program and the folder of libraries it needs.
#[derive(Debug, Clone)]
pub struct PerfAnalyzer {
    program: PathBuf,
    libraries: PathBuf,
}

/// What it reports for one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Inferences per second.
    pub throughput: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
}

impl PerfAnalyzer {
    /// Makes the program ready in the folder `peers`, fetching with `python` what is missing.
    ///
    /// It needs two libraries that its wheel lacks; Triton's wheel brings both under other names.
    ///
    /// # Errors
    /// `Download` when a wheel cannot be had or is not as expected, `Io` when a file cannot be written.
    pub fn ready(python: &Path, peers: &Path) -> Result<Self> {
        let wheel = WHEEL.unpacked(python, peers)?;
        let program = wheel.join(format!(
            "{}-{}.data/data/bin/perf_analyzer",
            WHEEL.name, WHEEL.version
        ));
        make_executable(&program)?;
        let bundled = triton::WHEEL
            .unpacked(python, peers)?
            .join(triton::LIBRARIES);
        let libraries = peers.join("perf_analyzer-libraries");
        fs::create_dir_all(&libraries)
            .map_err(|error| Error::io(format!("creating {}", libraries.display()), error))?;
        for (start, name) in [
            ("libb64-", "libb64.so.0d"),
            ("libcudart-", "libcudart.so.12"),
        ] {
            let link = libraries.join(name);
            if !link.exists() {
                symlink(file_starting(&bundled, start)?, &link)
                    .map_err(|error| Error::io(format!("linking {name}"), error))?;
            }
        }
        Ok(Self { program, libraries })
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What to set `LD_LIBRARY_PATH` to for it.
    #[must_use]
    pub fn libraries(&self) -> &Path {
        &self.libraries
    }

    /// Measures version 1 of `model` at `address` with one input of `bytes` bytes of FP32, in three windows.
    ///
    /// # Errors
    /// `Process` when it cannot run or takes longer than 30 s, `Protocol` when it gives no figures.
    pub fn run(
        &self,
        address: SocketAddr,
        model: &str,
        bytes: usize,
        concurrency: usize,
        window: Duration,
    ) -> Result<Figures> {
        let scratch = TempDir::new().map_err(|error| Error::io("creating a folder", error))?;
        let report = scratch.path().join("report.csv");
        let mut command = Command::new(&self.program);
        command
            .env("LD_LIBRARY_PATH", &self.libraries)
            .args([
                "-m",
                model,
                "-x",
                "1",
                "-i",
                "http",
                "-u",
                &address.to_string(),
            ])
            .args(["--shape", &format!("{INPUT}:{}", bytes / 4)])
            .args(["--concurrency-range", &concurrency.to_string()])
            .args(["--measurement-interval", &window.as_millis().to_string()])
            .args(WINDOWS)
            .arg("-f")
            .arg(&report);
        let log = scratch.path().join("log");
        Process::start("perf_analyzer", &mut command, &log)?.finish(TIMEOUT)?;
        let text = fs::read_to_string(&report).unwrap_or_default();
        figures(&text).ok_or_else(|| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let reason = said
                .trim()
                .lines()
                .last()
                .unwrap_or("no figures")
                .to_owned();
            Error::protocol(format!("perf_analyzer gives no figures: {reason}"))
        })
    }
}

/// The figures of the only row of its report, a CSV table with a head.
fn figures(report: &str) -> Option<Figures> {
    let mut lines = report.lines();
    let names: Vec<&str> = lines.next()?.split(',').collect();
    let values: Vec<&str> = lines.next()?.split(',').collect();
    let column = |name: &str| -> Option<f64> {
        let index = names.iter().position(|own| *own == name)?;
        values.get(index)?.parse().ok()
    };
    Some(Figures {
        throughput: column("Inferences/Second")?,
        p50_us: column("p50 latency")?,
        p99_us: column("p99 latency")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name() {
        let report = "Concurrency,Inferences/Second,Client Send,p50 latency,p99 latency\n8,23967.7,25,285,947\n";
        let expected = Figures {
            throughput: 23967.7,
            p50_us: 285.0,
            p99_us: 947.0,
        };
        assert_eq!(figures(report), Some(expected));
        assert_eq!(figures(""), None);
        assert_eq!(figures("Concurrency,Inferences/Second\n"), None);
    }
}

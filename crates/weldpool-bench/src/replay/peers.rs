//! What PyTorch held for the recorded runs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use weldpool::device::fake::Costs;

use crate::error::{Error, ErrorKind, Result};

/// PyTorch's setting that the bar compares with.
const EXPANDABLE: &str = "expandable_segments:True";

/// One line of the peers' file.
#[derive(Debug, Deserialize)]
struct Line {
    workload: String,
    conf: String,
    peak_reserved: f64,
    trace_peak_live: Option<f64>,
}

/// The handles of expandable segments for large blocks, in bytes (PyTorch, `CUDACachingAllocator.cpp`).
const HANDLE_BYTES: u64 = 20 << 20;

/// What PyTorch held, by trace.
#[derive(Debug)]
pub(super) struct Peers {
    /// Peak reserved / peak live by setting.
    ratios: BTreeMap<String, BTreeMap<String, f64>>,
    /// The least that expandable segments cost in the driver, in nanoseconds: each of their handles obtained,
    /// mapped and made accessible once, at the costs of the discrete device.
    driver_ns: BTreeMap<String, f64>,
}

impl Peers {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::io(format!("reading {}", file.display()), error))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let lines: serde_json::Result<Vec<Line>> = text.lines().map(serde_json::from_str).collect();
        let lines = lines.map_err(|error| {
            Error::caused(ErrorKind::Environment, "reading the peers' figures", error)
        })?;
        let live: BTreeMap<&str, f64> = lines
            .iter()
            .filter_map(|line| Some((line.workload.as_str(), line.trace_peak_live?)))
            .collect();
        let mut ratios = BTreeMap::<String, BTreeMap<String, f64>>::new();
        let mut driver_ns = BTreeMap::new();
        let costs = Costs::h200();
        let handle_ns =
            [&costs.create, &costs.map, &costs.access].map(|curve| curve.ns(HANDLE_BYTES));
        let handle_ns = handle_ns.iter().sum::<u64>() as f64;
        for line in &lines {
            let Some(live) = live.get(line.workload.as_str()) else {
                continue;
            };
            let setting = match line.conf.as_str() {
                "" => "pytorch",
                EXPANDABLE => "pytorch expandable",
                other => other,
            };
            let of_trace = ratios.entry(line.workload.clone()).or_default();
            of_trace.insert(setting.to_owned(), line.peak_reserved / live);
            if line.conf == EXPANDABLE {
                let handles = (line.peak_reserved / HANDLE_BYTES as f64).ceil();
                driver_ns.insert(line.workload.clone(), handles * handle_ns);
            }
        }
        Ok(Self { ratios, driver_ns })
    }

    /// By setting.
    pub(super) fn ratios(&self, trace: &str) -> BTreeMap<String, f64> {
        self.ratios.get(trace).cloned().unwrap_or_default()
    }

    /// With expandable segments.
    pub(super) fn expandable(&self, trace: &str) -> Option<f64> {
        self.ratios.get(trace)?.get("pytorch expandable").copied()
    }

    /// The least time in the driver with expandable segments.
    pub(super) fn expandable_driver_ns(&self, trace: &str) -> Option<f64> {
        self.driver_ns.get(trace).copied()
    }

    /// The same as a peer of a row.
    pub(super) fn driver_ns(&self, trace: &str) -> BTreeMap<String, f64> {
        let least = self.expandable_driver_ns(trace);
        let named = |ns| ("pytorch expandable, at least".to_owned(), ns);
        least.map(named).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_against_the_peak_of_the_trace() {
        let text = r#"{"workload": "a", "conf": "", "peak_reserved": 300, "trace_peak_live": 200}
{"workload": "a", "conf": "expandable_segments:True", "peak_reserved": 220}"#;
        let peers = Peers::parse(text).unwrap();
        assert_eq!(peers.expandable("a"), Some(1.1));
        assert_eq!(peers.ratios("a")["pytorch"], 1.5);
        assert_eq!(peers.expandable("b"), None);
        // One handle: 6.2 us to obtain, 0.4 to map, 20.6 to make accessible.
        assert_eq!(peers.expandable_driver_ns("a"), Some(27_200.0));
        assert_eq!(peers.expandable_driver_ns("b"), None);
        assert!(Peers::parse("{").is_err());
    }
}

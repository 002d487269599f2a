//! What PyTorch held for the recorded runs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

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

/// Peak reserved / peak live by trace and setting.
#[derive(Debug)]
pub(super) struct Peers(BTreeMap<String, BTreeMap<String, f64>>);

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
        }
        Ok(Self(ratios))
    }

    /// By setting.
    pub(super) fn ratios(&self, trace: &str) -> BTreeMap<String, f64> {
        self.0.get(trace).cloned().unwrap_or_default()
    }

    /// With expandable segments.
    pub(super) fn expandable(&self, trace: &str) -> Option<f64> {
        self.0.get(trace)?.get("pytorch expandable").copied()
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
        assert!(Peers::parse("{").is_err());
    }
}

//! The report: what `docs/doctor.md` describes.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::environment::Environment;
use super::event::{Absent, Measure};

/// Name and version of the form of the report.
const SCHEMA: &str = "weldpool-doctor/1";

/// All that an examination found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    pub(super) verdict: Verdict,
    pub(super) interrupted: bool,
    unix_time_seconds: u64,
    pub(super) seconds: f64,
    pub(super) environment: Environment,
    pub(super) absent: Vec<Absent>,
    pub(super) devices: Vec<DeviceReport>,
    pub(super) findings: Vec<Finding>,
}

/// What it comes to: the worst of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Healthy,
    Attention,
    Broken,
}

/// One device.
#[derive(Debug, Default, Serialize)]
pub(super) struct DeviceReport {
    /// As `--device` takes it.
    pub(super) device: String,
    /// Kind, maker's name and class; empty for a device that could not be opened.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) class: String,
    /// Why its figures are held against no bar, if they are not.
    pub(super) bars_unjudged: Option<String>,
    pub(super) facts: Option<Value>,
    pub(super) steps: Vec<StepReport>,
    pub(super) measures: Vec<Measured>,
}

/// One step on a device.
#[derive(Debug, Serialize)]
pub(super) struct StepReport {
    pub(super) step: String,
    pub(super) outcome: Outcome,
    pub(super) seconds: f64,
    /// What went wrong, or what there is to know.
    pub(super) message: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Passed,
    NotApplicable,
    /// It went wrong, as is known of such devices.
    Expected,
    /// The device had not enough memory.
    ShortOfMemory,
    Failed,
    /// Its process ended.
    Died,
    TimedOut,
    /// Time was up, or somebody wanted it to stop.
    NotRun,
}

/// A figure, and what became of its bar.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) measure: Measure,
    pub(super) bar_verdict: BarVerdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BarVerdict {
    Met,
    Missed,
    NotJudged,
}

/// Something to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) device: Option<String>,
    pub(super) what: String,
    #[serde(rename = "where")]
    pub(super) place: String,
    #[serde(rename = "do")]
    pub(super) advice: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Known of such devices.
    Expected,
    Attention,
    Broken,
}

impl Report {
    /// One in which nothing was found yet.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            schema: SCHEMA,
            verdict: Verdict::Healthy,
            interrupted: false,
            unix_time_seconds: now.map_or(0, |since| since.as_secs()),
            seconds: 0.0,
            environment: Environment::this(),
            absent: Vec::new(),
            devices: Vec::new(),
            findings: Vec::new(),
        }
    }
}

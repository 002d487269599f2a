//! What the process of a step tells the one that examines: a line of JSON per event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output::{self, OutputError};

/// What a step found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The devices of this machine.
    Devices {
        devices: Vec<String>,
        absent: Vec<Absent>,
        processor: String,
        processors: usize,
        memory_bytes: u64,
        free_share: f64,
    },
    /// The device cannot be opened.
    Refused { wrong_name: bool, message: String },
    /// What the device is.
    Facts {
        kind: String,
        name: String,
        facts: Value,
    },
    /// There is nothing to check on this device.
    NotApplicable,
    /// A figure.
    Measure(Measure),
    /// Something that is no fault.
    Note { message: String },
    /// The step went wrong.
    Failed {
        short_of_memory: bool,
        message: String,
    },
    /// The step came to its end; the last event.
    Done,
}

/// A device that is not here, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Absent {
    pub(super) device: String,
    pub(super) reason: String,
}

/// One figure, ours beside others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Measure {
    /// `P1`, `P6`, `P7` or `patterns`.
    pub(super) bench: String,
    pub(super) case: String,
    pub(super) unit: String,
    pub(super) better: Better,
    pub(super) ours: f64,
    pub(super) peers: BTreeMap<String, f64>,
    pub(super) bar: Option<Bar>,
}

/// Which figures are the better ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Better {
    Lower,
    Higher,
}

/// What a figure is held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Bar {
    /// What the value is.
    pub(super) what: String,
    pub(super) better: Better,
    pub(super) value: f64,
    pub(super) limit: f64,
}

impl Bar {
    pub(super) fn is_met(&self) -> bool {
        match self.better {
            Better::Lower => self.value <= self.limit,
            Better::Higher => self.value >= self.limit,
        }
    }
}

impl Event {
    /// Writes it to standard output.
    pub(super) fn tell(&self) -> Result<(), OutputError> {
        output::line(serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a line; none for what others print.
    pub(super) fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_print_is_no_event() {
        for line in ["", "{}", "driver: hello", "{\"event\":\"none\"}", "\u{0}"] {
            assert!(Event::read(line).is_none(), "{line}");
        }
        let written = serde_json::to_string(&Event::Done).unwrap();
        assert!(matches!(Event::read(&written), Some(Event::Done)));
    }

    #[test]
    fn bars_have_a_side() {
        let bar = |better, value| Bar {
            what: String::new(),
            better,
            value,
            limit: 2.0,
        };
        assert!(bar(Better::Lower, 2.0).is_met() && !bar(Better::Lower, 2.1).is_met());
        assert!(bar(Better::Higher, 2.0).is_met() && !bar(Better::Higher, 1.9).is_met());
        assert!(!bar(Better::Higher, f64::NAN).is_met());
    }
}

//! The steps of an examination, each of which a process of its own runs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use weldpool_testkit::device_suite::Case;

use super::injected::Injected;

/// One step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Which devices there are.
    Devices,
    /// What a device says of itself.
    Facts,
    /// A case of the device suite.
    Case(Case),
    /// A case that goes wrong on purpose.
    Injected(Injected),
    /// Random programs on several threads.
    Stress,
    /// A benchmark.
    Bench(Bench),
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bench {
    /// Allocations and frees.
    Allocate,
    /// Copies of pageable memory.
    Copy,
    /// Views and registered memory in place of copies.
    View,
    /// What other allocators found hard.
    Patterns,
}

impl Bench {
    pub(super) const ALL: [Self; 4] = [Self::Allocate, Self::Copy, Self::View, Self::Patterns];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Allocate => "P1",
            Self::Copy => "P6",
            Self::View => "P7",
            Self::Patterns => "patterns",
        }
    }
}

/// How long all cases of the suite of one device may take; those that have not begun then are not run.
pub(super) const SUITE_MAX: Duration = Duration::from_secs(300);

impl Step {
    /// How long it may take. Each is some twenty times what it takes on an idle machine.
    pub(super) const fn limit(self) -> Duration {
        match self {
            Self::Injected(_) => Duration::from_secs(3),
            _ => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Devices => f.write_str("devices"),
            Self::Facts => f.write_str("facts"),
            Self::Case(case) => write!(f, "suite:{case}"),
            Self::Injected(injected) => write!(f, "suite:injected::{}", injected.name()),
            Self::Stress => f.write_str("stress"),
            Self::Bench(bench) => write!(f, "bench:{}", bench.name()),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bench = || {
            let name = text.strip_prefix("bench:")?;
            Bench::ALL.into_iter().find(|bench| bench.name() == name)
        };
        let case = || Case::named(text.strip_prefix("suite:")?).map(Self::Case);
        let injected = || Injected::named(text.strip_prefix("suite:injected::")?);
        let found = match text {
            "devices" => Some(Self::Devices),
            "facts" => Some(Self::Facts),
            "stress" => Some(Self::Stress),
            _ => bench().map(Self::Bench).or_else(case),
        };
        found
            .or_else(|| injected().map(Self::Injected))
            .ok_or_else(|| "there is no such step".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_are_written() {
        let mut steps = vec![Step::Devices, Step::Facts, Step::Stress];
        steps.extend(Bench::ALL.map(Step::Bench));
        steps.extend(Case::all().iter().copied().map(Step::Case));
        steps.extend(Injected::ALL.map(Step::Injected));
        for step in steps {
            let text = step.to_string();
            assert_eq!(text.parse::<Step>().unwrap().to_string(), text);
        }
        for wrong in ["", "suite:", "bench:P5", "suite:memory::none", "Facts"] {
            assert!(wrong.parse::<Step>().is_err(), "{wrong}");
        }
    }
}

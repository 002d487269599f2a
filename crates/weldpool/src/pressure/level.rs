//! The five levels, and the thresholds at which they begin.

#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// How short memory is. Levels are ordered: a later one is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Enough memory; nothing is asked of anybody.
    #[default]
    Normal,
    /// Memory is filling up.
    Moderate,
    /// Caches should stop growing and give back what is whole.
    Warning,
    /// Allocations may soon fail, or the system stalls.
    Critical,
    /// Allocations fail or processes are about to be killed.
    Emergency,
}

impl Level {
    /// All levels, from the best to the worst.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::Moderate,
        Self::Warning,
        Self::Critical,
        Self::Emergency,
    ];

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Moderate => "moderate",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }

    /// Position in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn from_index(index: usize) -> Self {
        Self::ALL.get(index).copied().unwrap_or(Self::Emergency)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The pressures, from 0 to 1, at which levels are entered, and how far below that they are left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Start of [`Level::Moderate`]. Default: 0.70.
    pub moderate: f64,
    /// Start of [`Level::Warning`]. Default: 0.80.
    pub warning: f64,
    /// Start of [`Level::Critical`]. Default: 0.90.
    pub critical: f64,
    /// Start of [`Level::Emergency`]. Default: 0.97.
    pub emergency: f64,
    /// A level is left when the pressure is this much below its start. Default: 0.05.
    pub hysteresis: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            moderate: 0.70,
            warning: 0.80,
            critical: 0.90,
            emergency: 0.97,
            hysteresis: 0.05,
        }
    }
}

impl Thresholds {
    /// Checks that the starts ascend strictly within 0 to 1 and that the first level can be left.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) with the values.
    pub fn validate(&self) -> Result<()> {
        let starts = self.starts();
        // Written so that a value that is not a number fails each of them.
        let ascending = starts.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = starts.iter().all(|start| (0.0..=1.0).contains(start));
        let left = self.hysteresis >= 0.0 && self.hysteresis < self.moderate;
        if ascending && in_range && left {
            return Ok(());
        }
        Err(Error::with_message(
            ErrorKind::InvalidConfig,
            format!(
                "pressure thresholds {starts:?} with hysteresis {}; they must ascend from above the \
                 hysteresis to at most 1, and the hysteresis must not be negative",
                self.hysteresis
            ),
        ))
    }

    pub(super) fn starts(&self) -> [f64; 4] {
        [self.moderate, self.warning, self.critical, self.emergency]
    }

    /// The worst level whose start, lowered by `lowered`, the pressure has reached.
    pub(super) fn reached(&self, pressure: f64, lowered: f64) -> Level {
        let count = self
            .starts()
            .iter()
            .filter(|&&start| pressure >= start - lowered)
            .count();
        Level::from_index(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_defined_values() {
        let thresholds = Thresholds::default();
        thresholds.validate().unwrap();
        for (pressure, level) in [
            (0.0, Level::Normal),
            (0.699, Level::Normal),
            (0.70, Level::Moderate),
            (0.80, Level::Warning),
            (0.90, Level::Critical),
            (0.969, Level::Critical),
            (0.97, Level::Emergency),
            (1.0, Level::Emergency),
        ] {
            assert_eq!(thresholds.reached(pressure, 0.0), level, "{pressure}");
        }
    }

    #[test]
    fn wrong_thresholds_are_refused() {
        let good = Thresholds::default();
        let wrong = [
            Thresholds {
                warning: 0.70,
                ..good
            },
            Thresholds {
                emergency: 1.01,
                ..good
            },
            Thresholds {
                critical: f64::NAN,
                ..good
            },
            Thresholds {
                hysteresis: 0.70,
                ..good
            },
            Thresholds {
                hysteresis: -0.01,
                ..good
            },
            Thresholds {
                hysteresis: f64::NAN,
                ..good
            },
        ];
        for thresholds in wrong {
            let error = thresholds.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{thresholds:?}");
        }
    }

    #[test]
    fn levels_know_their_order() {
        for (index, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(level.index(), index);
            assert_eq!(Level::from_index(index), level);
        }
        assert!(Level::ALL.is_sorted());
    }
}

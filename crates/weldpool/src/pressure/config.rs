//! Configuration of a monitor, validated once.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::action::ActionTable;
use super::level::Thresholds;
use crate::error::{Error, ErrorKind, Result};

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);

/// Configuration of a [`PressureMonitor`](super::PressureMonitor).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PressureConfig {
    /// Whether a thread watches. Off, there is none, and a level rises only by
    /// [`check`](super::PressureMonitor::check), or in an allocator when memory is out; it falls by itself
    /// there, see [`Allocator::pressure`](crate::Allocator::pressure). Default: on.
    pub enabled: bool,
    /// How often sources are read when none of them wakes the monitor, from 10 ms to an hour. While
    /// the pressure rises they are read sooner: after half of the time in which memory would be used
    /// up, but not before 20 ms. Default: one second.
    pub interval: Duration,
    /// How often the responder is called again while the level stays above normal, from 10 ms to an
    /// hour. Default: one second.
    pub repeat: Duration,
    /// How long an event of the system keeps the level up, from 10 ms to an hour. The kernel reports
    /// going on stalls once in two seconds at least. Default: three seconds.
    pub signal_hold: Duration,
    /// Where levels begin.
    pub thresholds: Thresholds,
    /// What is done at which level.
    pub actions: ActionTable,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(1),
            repeat: Duration::from_secs(1),
            signal_hold: Duration::from_secs(3),
            thresholds: Thresholds::default(),
            actions: ActionTable::default(),
        }
    }
}

impl PressureConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field.
    pub fn validate(&self) -> Result<()> {
        self.thresholds.validate()?;
        for (name, value) in [
            ("interval", self.interval),
            ("repeat", self.repeat),
            ("signal_hold", self.signal_hold),
        ] {
            if !(SHORTEST..=LONGEST).contains(&value) {
                return Err(Error::with_message(
                    ErrorKind::InvalidConfig,
                    format!(
                        "PressureConfig::{name} is {value:?}; it must be from 10 ms to an hour"
                    ),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named() {
        let good = PressureConfig::default();
        good.validate().unwrap();
        let cases = [
            (
                "interval",
                PressureConfig {
                    interval: Duration::ZERO,
                    ..good
                },
            ),
            (
                "repeat",
                PressureConfig {
                    repeat: Duration::MAX,
                    ..good
                },
            ),
            (
                "signal_hold",
                PressureConfig {
                    signal_hold: Duration::from_millis(9),
                    ..good
                },
            ),
            (
                "thresholds",
                PressureConfig {
                    thresholds: Thresholds {
                        moderate: 2.0,
                        ..good.thresholds
                    },
                    ..good
                },
            ),
        ];
        for (name, config) in cases {
            let error = config.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

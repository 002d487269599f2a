//! From a pressure and a signal to a level, without flapping.

#![forbid(unsafe_code)]

use super::level::{Level, Thresholds};
use crate::error::Result;

/// The level as a state: entered at a threshold, left below it, and never below a signal.
///
/// ```
/// use weldpool::pressure::{Hysteresis, Level, Thresholds};
///
/// # fn main() -> weldpool::Result<()> {
/// let mut level = Hysteresis::new(Thresholds::default())?;
/// assert_eq!(level.update(0.81, Level::Normal), Level::Warning);
/// assert_eq!(level.update(0.76, Level::Normal), Level::Warning); // left at 0.75
/// assert_eq!(level.update(0.74, Level::Normal), Level::Moderate);
/// assert_eq!(level.update(0.10, Level::Critical), Level::Critical); // a signal raises it at once
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Hysteresis {
    thresholds: Thresholds,
    level: Level,
    /// What the level would be by the pressure alone.
    by_pressure: Level,
}

impl Hysteresis {
    /// Starts at [`Level::Normal`].
    ///
    /// # Errors
    ///
    /// As [`Thresholds::validate`].
    pub fn new(thresholds: Thresholds) -> Result<Self> {
        thresholds.validate()?;
        Ok(Self {
            thresholds,
            level: Level::Normal,
            by_pressure: Level::Normal,
        })
    }

    /// The level of the last update.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The thresholds in force.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    /// Sets other thresholds from the next update on; returns the old ones.
    ///
    /// # Errors
    ///
    /// As [`Thresholds::validate`]; the old ones stay in force.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<Thresholds> {
        thresholds.validate()?;
        Ok(std::mem::replace(&mut self.thresholds, thresholds))
    }

    /// Takes a pressure, from 0 to 1, and the worst level that anybody signals now, and returns the
    /// new level. A pressure that is not a number counts as 0.
    pub fn update(&mut self, pressure: f64, signal: Level) -> Level {
        self.update_lasting(pressure, signal, Level::Normal)
    }

    /// As [`update`](Self::update), with a level besides that the operating system says lasts, of normal, warning
    /// and critical. The five are made of these three and the pressure: the worse of both counts, and where both are
    /// critical it is an emergency.
    pub fn update_lasting(&mut self, pressure: f64, signal: Level, lasting: Level) -> Level {
        let entered = self.thresholds.reached(pressure, 0.0);
        let band = self
            .thresholds
            .reached(pressure, self.thresholds.hysteresis);
        self.by_pressure = entered.max(band.min(self.by_pressure));
        let agreed = if self.by_pressure.min(lasting) >= Level::Critical {
            Level::Emergency
        } else {
            lasting
        };
        self.level = entered.max(band.min(self.level)).max(signal).max(agreed);
        self.level
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Hysteresis {
        Hysteresis::new(Thresholds::default()).unwrap()
    }

    #[test]
    fn each_level_is_left_lower_than_it_was_entered() {
        let mut state = start();
        for (pressure, level) in [
            (0.69, Level::Normal),
            (0.70, Level::Moderate),
            (0.66, Level::Moderate),
            (0.64, Level::Normal),
            (0.98, Level::Emergency),
            (0.93, Level::Emergency),
            (0.91, Level::Critical),
            (0.86, Level::Critical),
            (0.84, Level::Warning),
            (0.76, Level::Warning),
            (0.10, Level::Normal),
        ] {
            assert_eq!(state.update(pressure, Level::Normal), level, "{pressure}");
        }
    }

    #[test]
    fn a_signal_raises_at_once_and_releases_at_once() {
        let mut state = start();
        assert_eq!(state.update(0.1, Level::Emergency), Level::Emergency);
        assert_eq!(state.update(0.1, Level::Moderate), Level::Moderate);
        assert_eq!(state.update(0.1, Level::Normal), Level::Normal);
        // What a signal raised is kept by the band like any other level.
        assert_eq!(state.update(0.77, Level::Warning), Level::Warning);
        assert_eq!(state.update(0.77, Level::Normal), Level::Warning);
    }

    /// The system's three levels and the pressure, as docs/policies.md has them.
    #[test]
    fn three_levels_of_the_system_and_the_pressure_make_five() {
        use Level::{Critical, Emergency, Moderate, Normal, Warning};
        for (lasting, expected) in [
            (Normal, [Normal, Moderate, Warning, Critical, Emergency]),
            (Warning, [Warning, Warning, Warning, Critical, Emergency]),
            (
                Critical,
                [Critical, Critical, Critical, Emergency, Emergency],
            ),
        ] {
            for (pressure, expected) in [0.1, 0.75, 0.85, 0.92, 0.98].into_iter().zip(expected) {
                let level = start().update_lasting(pressure, Normal, lasting);
                assert_eq!(level, expected, "{lasting} at {pressure}");
            }
        }
    }

    #[test]
    fn an_emergency_that_both_make_is_left_below_the_band() {
        let mut state = start();
        for (pressure, lasting, level) in [
            (0.91, Level::Critical, Level::Emergency),
            (0.89, Level::Critical, Level::Emergency),
            (0.86, Level::Critical, Level::Emergency),
            (0.84, Level::Critical, Level::Critical),
            (0.86, Level::Critical, Level::Critical),
            (0.84, Level::Warning, Level::Warning),
            (0.10, Level::Normal, Level::Normal),
        ] {
            let seen = state.update_lasting(pressure, Level::Normal, lasting);
            assert_eq!(seen, level, "{pressure} with {lasting}");
        }
    }

    #[test]
    fn no_number_is_no_pressure() {
        let mut state = start();
        assert_eq!(state.update(f64::NAN, Level::Normal), Level::Normal);
    }

    fn levels() -> impl Strategy<Value = Level> {
        (0..5usize).prop_map(Level::from_index)
    }

    proptest! {
        #[test]
        fn more_pressure_never_lowers_the_level(
            before in levels(),
            signal in levels(),
            low in 0.0..=1.0f64,
            more in 0.0..=1.0f64,
        ) {
            let mut first = Hysteresis { level: before, ..start() };
            let mut second = first.clone();
            let high = (low + more).min(1.0);
            prop_assert!(first.update(low, signal) <= second.update(high, signal));
        }

        #[test]
        fn a_worse_start_or_signal_never_lowers_the_level(
            one in levels(),
            other in levels(),
            signals in (levels(), levels()),
            pressure in 0.0..=1.0f64,
        ) {
            let mut better = Hysteresis { level: one.min(other), ..start() };
            let mut worse = Hysteresis { level: one.max(other), ..start() };
            let low = better.update(pressure, signals.0.min(signals.1));
            let high = worse.update(pressure, signals.0.max(signals.1));
            prop_assert!(low <= high);
        }

        #[test]
        fn inside_a_band_the_level_changes_once_at_most(
            band in 0..4usize,
            before in levels(),
            places in prop::collection::vec(0.0..1.0f64, 2..50),
        ) {
            let thresholds = Thresholds::default();
            let top = thresholds.starts()[band];
            let mut state = Hysteresis { level: before, ..start() };
            let mut settled = None;
            for place in places {
                // Strictly below the start, so that nothing in the band enters the level.
                let pressure = top - thresholds.hysteresis * (0.001 + 0.998 * place);
                let level = state.update(pressure, Level::Normal);
                prop_assert_eq!(*settled.get_or_insert(level), level);
            }
        }

        #[test]
        fn the_same_input_twice_changes_nothing(
            before in levels(),
            signal in levels(),
            pressure in 0.0..=1.0f64,
        ) {
            let mut state = Hysteresis { level: before, ..start() };
            let level = state.update(pressure, signal);
            prop_assert_eq!(state.update(pressure, signal), level);
            prop_assert!(level >= signal);
        }
    }
}

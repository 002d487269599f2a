//! When to look again: sooner while memory fills fast.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Readings closer together than this say nothing about a rate.
const APART_MIN: Duration = Duration::from_millis(10);

/// How fast the pressure rises, by the last two readings.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    last: Option<(Instant, f64)>,
    /// Time until all memory is used, if it goes on like that; none while it does not rise.
    left: Option<Duration>,
}

impl Outlook {
    /// Takes note of a pressure, from 0 to 1.
    pub(super) fn read(&mut self, pressure: f64, now: Instant) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, pressure));
            return;
        };
        let between = now.saturating_duration_since(then);
        if between < APART_MIN {
            return;
        }
        let rate = (pressure - before) / between.as_secs_f64();
        // Not a number, negative and beyond all clocks are none.
        self.left = Duration::try_from_secs_f64((1.0 - pressure) / rate)
            .ok()
            .filter(|_| rate > 0.0);
        self.last = Some((now, pressure));
    }

    /// Half the time that is left, so that each look comes closer; at least `least`.
    pub(super) fn next(&self, least: Duration) -> Option<Duration> {
        self.left.map(|left| (left / 2).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(20);

    fn after(readings: &[(u64, f64)]) -> Option<Duration> {
        let start = Instant::now();
        let mut outlook = Outlook::default();
        for &(ms, pressure) in readings {
            outlook.read(pressure, start + Duration::from_millis(ms));
        }
        outlook.next(LEAST)
    }

    #[test]
    fn a_fast_rise_brings_the_next_look_closer() {
        let ms = |ms| Some(Duration::from_millis(ms));
        // Half a second is left.
        assert_eq!(after(&[(0, 0.0), (1000, 0.5), (1500, 0.75)]), ms(250));
        assert_eq!(after(&[(0, 0.25), (1000, 0.5)]), ms(1000));
        // Never sooner than the least.
        assert_eq!(after(&[(0, 0.5), (100, 0.99)]), ms(20));
        assert_eq!(after(&[(0, 0.5), (100, 1.0)]), ms(20));
    }

    #[test]
    fn what_does_not_rise_leaves_the_interval() {
        for readings in [
            &[][..],
            &[(0, 0.5)],
            &[(0, 0.5), (1000, 0.5)],
            &[(0, 0.5), (1000, 0.4)],
            &[(0, 1.0), (1000, 1.0)],
            &[(0, 0.5), (1000, f64::NAN)],
            &[(0, 0.1), (1000, 0.5), (2000, 0.2)],
        ] {
            assert_eq!(after(readings), None, "{readings:?}");
        }
    }

    #[test]
    fn readings_at_the_same_moment_keep_the_rate() {
        let left = after(&[(0, 0.0), (1000, 0.5)]);
        assert_eq!(after(&[(0, 0.0), (1000, 0.5), (1005, 0.5)]), left);
        assert_eq!(after(&[(0, 0.5), (0, 0.9)]), None);
    }
}

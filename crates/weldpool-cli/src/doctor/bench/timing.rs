//! Times of short calls that take turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::{Device, Result};

/// A sample is at least this long, of as many calls as that takes.
const SAMPLE: Duration = Duration::from_micros(200);
const CALLS_MAX: u32 = 4096;
const SAMPLES_MAX: usize = 101;

/// Real time, and what a device made of software charges.
#[derive(Debug)]
pub(super) struct Clock {
    device: Arc<dyn Device>,
    samples_min: usize,
    /// How long one contender is measured.
    duration: Duration,
}

impl Clock {
    pub(super) fn new(device: &Arc<dyn Device>, quick: bool) -> Self {
        let (samples_min, duration) = if quick {
            (2, Duration::from_millis(2))
        } else {
            (5, Duration::from_millis(120))
        };
        Self {
            device: Arc::clone(device),
            samples_min,
            duration,
        }
    }

    /// Nanoseconds of a call.
    pub(super) fn once(&self, call: impl FnOnce() -> Result<()>) -> Result<f64> {
        let charged = self.device.charged_ns();
        let start = Instant::now();
        call()?;
        let real = start.elapsed().as_nanos() as f64;
        Ok(real + (self.device.charged_ns() - charged) as f64)
    }

    /// Median nanoseconds of a call of each contender. They take turns, so that what else the machine does is for all.
    pub(super) fn contest<const N: usize>(
        &self,
        mut contenders: [&mut dyn FnMut() -> Result<()>; N],
    ) -> Result<[f64; N]> {
        let mut calls = [1_u32; N];
        for (calls, contender) in calls.iter_mut().zip(&mut contenders) {
            contender()?;
            let start = Instant::now();
            contender()?;
            let one = start.elapsed().max(Duration::from_nanos(1));
            let fit = SAMPLE.as_nanos() / one.as_nanos();
            *calls = u32::try_from(fit).unwrap_or(CALLS_MAX).clamp(1, CALLS_MAX);
        }
        let mut samples = [const { Vec::new() }; N];
        let end = Instant::now() + self.duration * u32::try_from(N).unwrap_or(1);
        for round in 0..SAMPLES_MAX {
            if round >= self.samples_min && Instant::now() >= end {
                break;
            }
            for ((samples, contender), calls) in samples.iter_mut().zip(&mut contenders).zip(calls)
            {
                let all = self.once(|| (0..calls).try_for_each(|_| contender()))?;
                samples.push(all / f64::from(calls));
            }
        }
        Ok(samples.map(median))
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use weldpool::Runtime;

    use super::*;

    #[test]
    fn contenders_take_turns_and_charges_count() {
        let device = Runtime::open_device("fake:discrete").unwrap();
        let clock = Clock::new(&device, true);
        let mut nothing = || Ok(());
        let mut queue = || device.create_queue().map(drop);
        let [nothing, queue] = clock.contest([&mut nothing, &mut queue]).unwrap();
        assert!(nothing < queue, "{nothing} {queue}");
        let mut fails = || Err(weldpool::Error::new(weldpool::ErrorKind::Busy, "no"));
        assert!(clock.contest([&mut fails]).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}

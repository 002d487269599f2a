//! When something happened last.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering};

/// When something happened last, if ever; threads share it.
#[derive(Debug)]
pub(crate) struct LastMoment {
    start: Instant,
    /// Nanoseconds from the start to then, or [`NEVER`].
    at: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Default for LastMoment {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            at: AtomicU64::new(NEVER),
        }
    }
}

impl LastMoment {
    /// It happens now.
    pub(crate) fn note(&self) {
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER);
        self.at.store(at, Ordering::Relaxed);
    }

    /// How long ago it was.
    pub(crate) fn age(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed);
        let now = self.start.elapsed();
        (at != NEVER).then(|| now.saturating_sub(Duration::from_nanos(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_last_has_an_age() {
        let last = LastMoment::default();
        assert_eq!(last.age(), None);
        last.note();
        std::thread::sleep(Duration::from_millis(5));
        let age = last.age().unwrap();
        assert!(age >= Duration::from_millis(5));
        last.note();
        assert!(last.age().unwrap() < age + Duration::from_secs(60));
    }
}

//! The clock that Triton's statistics are kept by.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`), as Triton counts them itself.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// When the phases of an execution began and ended. Triton subtracts them from each other without
/// looking, so they are in order whatever happened: a phase that was not reached lasts no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    exec_start: u64,
    compute_start: Option<u64>,
    compute_end: Option<u64>,
}

/// The four timestamps that Triton wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) exec_start: u64,
    pub(crate) compute_start: u64,
    pub(crate) compute_end: u64,
    pub(crate) exec_end: u64,
}

impl Times {
    /// The execution begins now.
    pub(crate) fn start() -> Times {
        Times {
            exec_start: now_ns(),
            compute_start: None,
            compute_end: None,
        }
    }

    /// Inputs are in place: the model begins.
    pub(crate) fn computing(&mut self) {
        self.compute_start = Some(now_ns());
    }

    /// The model has ended.
    pub(crate) fn computed(&mut self) {
        self.compute_end = Some(now_ns());
    }

    /// All four, for an execution that ended then.
    pub(crate) fn ending(&self, exec_end: u64) -> Ordered {
        let exec_end = exec_end.max(self.exec_start);
        let compute_start = self
            .compute_start
            .unwrap_or(exec_end)
            .clamp(self.exec_start, exec_end);
        let compute_end = self
            .compute_end
            .unwrap_or(exec_end)
            .clamp(compute_start, exec_end);
        Ordered {
            exec_start: self.exec_start,
            compute_start,
            compute_end,
            exec_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_in_order_whatever_was_reached() {
        let at = |compute_start, compute_end| Times {
            exec_start: 10,
            compute_start,
            compute_end,
        };
        for times in [
            at(None, None),
            at(Some(20), None),
            at(Some(20), Some(30)),
            at(Some(50), Some(5)),
            at(None, Some(15)),
        ] {
            for end in [0, 10, 25, 40] {
                let all = times.ending(end);
                assert!(all.exec_start <= all.compute_start, "{all:?}");
                assert!(all.compute_start <= all.compute_end, "{all:?}");
                assert!(all.compute_end <= all.exec_end, "{all:?}");
            }
        }
        let all = at(Some(20), Some(30)).ending(40);
        assert_eq!((all.compute_start, all.compute_end), (20, 30));
    }

    #[test]
    fn the_clock_goes_on() {
        let before = now_ns();
        assert!(before > 0);
        assert!(now_ns() >= before);
    }
}

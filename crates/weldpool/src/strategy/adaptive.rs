//! Thread caches that follow the workload.

#![forbid(unsafe_code)]

use super::{Asked, Choice, Driven, Strategy, Surroundings, Tuning};
use crate::sync::Mutex;

/// While the driver is called, larger blocks than this are not kept.
const LEAST: usize = 512 << 10;
/// Beyond this there is no class.
const MOST: usize = 256 << 20;
/// Requests without a driver call after which blocks of twice the size are kept.
const QUIET_REQUESTS: u64 = 4096;

/// Sizes the threads' caches, and what they retain, by what the workload costs.
///
/// A large block that waits in a cache for a request of its very size makes the next request of another
/// size a driver call. So while the driver is called, blocks above 512 KiB return to their arena, where
/// they join their neighbours; each 4096 requests without a driver call, blocks of twice the size are
/// kept again, so that a workload in its steady state runs out of the caches. Where several queues
/// allocate, memory that one of them still uses could not be joined with that of another, and every block
/// is kept as configured.
///
/// It is not asked about single requests, so that those from a cache cost what they cost without it.
#[derive(Debug, Default)]
pub struct Adaptive {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    driver_calls: u64,
    /// Requests by the last change.
    requests: u64,
    /// None until the driver was called.
    cached: Option<usize>,
}

impl Strategy for Adaptive {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice::of(asked)
    }

    fn chooses(&self) -> bool {
        false
    }

    fn tune(&self, driven: &Driven) -> Option<Tuning> {
        let cached = self.state.lock().next(driven);
        Some(Tuning {
            cached_block_bytes_max: cached,
        })
    }
}

impl State {
    /// The largest block to keep from now on.
    fn next(&mut self, driven: &Driven) -> Option<usize> {
        let called = driven.driver_calls != self.driver_calls;
        self.driver_calls = driven.driver_calls;
        if called {
            self.cached = Some(LEAST);
            self.requests = driven.requests;
        } else if driven.requests.saturating_sub(self.requests) >= QUIET_REQUESTS {
            self.cached = self
                .cached
                .map(|bytes| bytes * 2)
                .filter(|&bytes| bytes < MOST);
            self.requests = driven.requests;
        }
        self.cached.filter(|_| !driven.contended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_shrink_while_the_driver_is_called_and_grow_back() {
        let strategy = Adaptive::default();
        let mut driven = Driven::default();
        let mut next = |requests: u64, calls: u64| {
            driven.requests += requests;
            driven.driver_calls += calls;
            strategy.tune(&driven).unwrap().cached_block_bytes_max
        };
        assert_eq!(next(1, 0), None);
        assert_eq!(next(1, 3), Some(1 << 19));
        assert_eq!(next(4000, 0), Some(1 << 19));
        assert_eq!(next(96, 0), Some(1 << 20));
        assert_eq!(next(4096, 0), Some(2 << 20));
        assert_eq!(next(100, 1), Some(1 << 19));
        for _ in 0..8 {
            assert!(next(4096, 0).is_some());
        }
        assert_eq!(next(4096, 0), None, "as configured again");
        assert_eq!(next(4096, 0), None);
    }

    #[test]
    fn where_queues_compete_caches_stay_as_configured() {
        let driven = Driven {
            requests: 5,
            driver_calls: 5,
            contended: true,
            ..Driven::default()
        };
        let tuning = Adaptive::default().tune(&driven).unwrap();
        assert_eq!(tuning, Tuning::default());
    }
}

//! Classes, caches, minimums and retention that follow the workload.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::{Asked, Choice, Demand, Driven, Shape, Strategy, Surroundings, Tuning};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Largest block whose class always serves, from spans that it shares with others.
const SMALL_BYTES: usize = 64 << 10;
/// Requests past the caches from which a small class keeps blocks of its own, and how many in blocks and
/// bytes at most.
const RECURRING_REQUESTS: u64 = 16;
const KEPT_BLOCKS: usize = 4;
const KEPT_BYTES: usize = 32 << 10;
/// Requests over which a rise of the live peak is looked at, and the part of it that is expected next.
const RISE_REQUESTS: u64 = 64;
const RISE_DIVISOR: u64 = 8;
/// Slack, in 1024ths, before anything is known, and remaps at one live peak that are worth one more.
const SLACK_FIRST: u32 = 5;
const SLACK_REMAPS: u64 = 64;
/// Ranges whose memory was mapped elsewhere that may stay mapped, to be unmapped together: few, because the
/// gaps that they leave are of use too.
const MOVED_RANGES_MAX: usize = 16;
/// Times that holes may be mapped together before it counts as a habit.
const RARE_REMAPS: u64 = 4;
/// Requests past the caches over which the greatest sum of requested bytes is remembered, once more.
const RETENTION_REQUESTS: u64 = 1 << 14;

/// Sizes classes, caches, minimums and retention by what the workload does.
///
/// - *Classes.* Above 64 KiB a request is an exact range of its arena until blocks of its class came back:
///   what is allocated once, as a model's weights are, wastes nothing. A size that recurs has a class.
/// - *Caches.* A thread keeps one block of such a class, and twice as many after each 1024 requests past
///   the caches without a driver call, up to what is configured; a call makes it one again.
/// - *Minimums.* A small class that is asked for again and again keeps a few blocks when caches are emptied.
/// - *Retention.* Memory grows by an eighth of what the live peak rose lately, within a slack. As much
///   stays as was live lately, unless a limit on idle memory was set. Once holes are mapped together often,
///   it is done out of few pieces, and the addresses they left are unmapped several at once.
///
/// The slack is 0.5 % at first. With a greater [`ratio_max`](Self::new) it rises toward that while holes
/// are mapped together at an unchanged live peak.
///
/// Each allocator learns for itself, also where several are built with one configuration.
///
/// Where the device cannot divide its memory everything stays as configured. It is not asked about
/// requests that caches serve, so that these cost what they cost without it.
#[derive(Debug)]
pub struct Adaptive {
    slack_max: u32,
    wait_max: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slack: u32,
    /// Most blocks of a large class that a thread keeps.
    cached: u8,
    driver_calls: u64,
    rise: Rise,
    /// The live peak and the remaps by the last change of the slack.
    settled: (u64, u64),
    recent: Recent,
}

/// How much the live peak rose in the last one to two times [`RISE_REQUESTS`].
#[derive(Debug, Default)]
struct Rise {
    before: u64,
    /// Requests and peak where the present part began.
    since: (u64, u64),
}

impl Rise {
    fn next(&mut self, requests: u64, peak: u64) -> u64 {
        if requests.saturating_sub(self.since.0) >= RISE_REQUESTS {
            self.before = self.since.1;
            self.since = (requests, peak);
        }
        peak.saturating_sub(self.before)
    }
}

/// The most that was live in the last one to two times [`RETENTION_REQUESTS`].
#[derive(Debug, Default)]
struct Recent {
    before: u64,
    now: u64,
    since: u64,
}

impl Recent {
    fn next(&mut self, requests: u64, live: u64) -> u64 {
        if requests.saturating_sub(self.since) >= RETENTION_REQUESTS {
            self.before = std::mem::take(&mut self.now);
            self.since = requests;
        }
        self.now = self.now.max(live);
        self.now.max(self.before)
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::with(SLACK_FIRST, Duration::from_millis(2))
    }
}

impl Adaptive {
    /// Holds at most `ratio_max` times the greatest sum of requested bytes (from 1 to 2; 1.005 by default),
    /// where the workload allows it, and waits for up to `wait_max` (2 ms by default, as without a strategy;
    /// zero for not at all) for memory that work on other queues still uses rather than exceed it, as far as
    /// `Config::driver_ns_per_operation` pays for that. Neither counts where the device cannot divide its
    /// memory: there the wait is 2 ms whatever was chosen.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for a ratio out of range.
    pub fn new(ratio_max: f64, wait_max: Duration) -> Result<Self> {
        if !(1.0..=2.0).contains(&ratio_max) {
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!("Adaptive: ratio_max is {ratio_max}; it must be from 1 to 2"),
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 1024"
        )]
        let slack = ((ratio_max - 1.0) * 1024.0) as u32;
        Ok(Self::with(slack, wait_max))
    }

    fn with(slack_max: u32, wait_max: Duration) -> Self {
        Self {
            slack_max,
            wait_max,
            state: Mutex::new(State {
                slack: slack_max.min(SLACK_FIRST),
                cached: 1,
                driver_calls: 0,
                rise: Rise::default(),
                settled: (0, 0),
                recent: Recent::default(),
            }),
        }
    }
}

impl Strategy for Adaptive {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice::of(asked)
    }

    fn chooses(&self) -> bool {
        false
    }

    fn for_allocator(&self) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(Self::with(self.slack_max, self.wait_max)))
    }

    fn shape(&self, demand: &Demand) -> Shape {
        let class = &demand.class;
        let configured = Shape::of(class);
        if !demand.divisible {
            return configured;
        }
        if class.bytes > SMALL_BYTES {
            return Shape {
                exact: demand.returned == 0,
                thread_max: class.thread_max.min(self.state.lock().cached),
                ..configured
            };
        }
        let kept = if demand.requests >= RECURRING_REQUESTS {
            KEPT_BLOCKS.min(KEPT_BYTES / class.bytes)
        } else {
            0
        };
        Shape {
            kept: class.kept.max(kept),
            ..configured
        }
    }

    fn tune(&self, driven: &Driven) -> Option<Tuning> {
        if !driven.divisible {
            return None;
        }
        let mut state = self.state.lock();
        state.settle(driven, self.slack_max);
        let called = driven.driver_calls != state.driver_calls;
        state.driver_calls = driven.driver_calls;
        state.cached = if called {
            1
        } else {
            state.cached.saturating_mul(2)
        };
        let rise = state.rise.next(driven.requests, driven.live_bytes_peak);
        Some(Tuning {
            slack_per_1024: Some(state.slack),
            // Not zero, which would leave it to the arena.
            growth_bytes: usize::try_from(rise / RISE_DIVISOR)
                .unwrap_or(usize::MAX)
                .max(1),
            moved_ranges_max: MOVED_RANGES_MAX,
            few_pieces: driven.remaps > RARE_REMAPS,
            cached_bytes: state.recent.next(driven.requests, driven.live_bytes),
            wait_max: Some(self.wait_max),
        })
    }
}

impl State {
    /// Raises the slack while holes are mapped together though no more is live than ever.
    fn settle(&mut self, driven: &Driven, slack_max: u32) {
        let (peak, remaps) = self.settled;
        if driven.live_bytes_peak != peak {
            self.settled = (driven.live_bytes_peak, driven.remaps);
        } else if driven.remaps.saturating_sub(remaps) >= SLACK_REMAPS {
            self.slack = slack_max.min(self.slack + 1);
            self.settled.1 = driven.remaps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::SizeClass;

    fn demand(bytes: usize, requests: u64, returned: u64) -> Demand {
        let class = SizeClass {
            bytes,
            initial: 0,
            kept: 0,
            cached_max: 0,
            thread_max: 64,
        };
        Demand {
            class,
            requests,
            returned,
            divisible: true,
        }
    }

    fn driven(requests: u64, driver_calls: u64) -> Driven {
        Driven {
            requests,
            driver_calls,
            divisible: true,
            ..Driven::default()
        }
    }

    #[test]
    fn large_sizes_have_a_class_once_they_recur() {
        let strategy = Adaptive::default();
        assert!(strategy.shape(&demand(1 << 20, 1000, 0)).exact);
        assert!(!strategy.shape(&demand(1 << 20, 2, 1)).exact);
        assert!(!strategy.shape(&demand(64 << 10, 1, 0)).exact);
    }

    #[test]
    fn caches_grow_while_no_driver_is_called() {
        let strategy = Adaptive::default();
        let thread_max = || strategy.shape(&demand(1 << 20, 9, 9)).thread_max;
        assert_eq!(thread_max(), 1);
        for (requests, expected) in [(1024, 2), (2048, 4), (3072, 8)] {
            strategy.tune(&driven(requests, 0)).unwrap();
            assert_eq!(thread_max(), expected);
        }
        for requests in 4..20 {
            strategy.tune(&driven(requests * 1024, 0)).unwrap();
        }
        assert_eq!(thread_max(), 64, "as configured");
        strategy.tune(&driven(30_000, 1)).unwrap();
        assert_eq!(thread_max(), 1);
    }

    #[test]
    fn small_classes_that_recur_keep_a_few_blocks() {
        let strategy = Adaptive::default();
        let kept = |bytes, requests| strategy.shape(&demand(bytes, requests, 0)).kept;
        assert_eq!((kept(4096, 15), kept(4096, 16)), (0, 4));
        assert_eq!((kept(16 << 10, 16), kept(64 << 10, 16)), (2, 0));
    }

    #[test]
    fn growth_follows_the_rise_of_the_peak() {
        let strategy = Adaptive::default();
        let growth = |requests: u64, peak: u64| {
            let driven = Driven {
                live_bytes_peak: peak,
                ..driven(requests, requests)
            };
            strategy.tune(&driven).unwrap().growth_bytes
        };
        assert_eq!(growth(1, 800), 100);
        assert_eq!(growth(64, 8000), 1000);
        assert_eq!(growth(128, 8000), 1, "it rose before the last 64 requests");
    }

    #[test]
    fn as_much_is_kept_as_was_live_lately() {
        let strategy = Adaptive::default();
        let kept = |requests: u64, live: u64| {
            let driven = Driven {
                live_bytes: live,
                ..driven(requests, requests)
            };
            strategy.tune(&driven).unwrap().cached_bytes
        };
        assert_eq!(kept(1, 1000), 1000);
        assert_eq!(kept(2, 10), 1000);
        assert_eq!(kept(RETENTION_REQUESTS, 10), 1000);
        assert_eq!(kept(2 * RETENTION_REQUESTS, 10), 10);
    }

    #[test]
    fn slack_is_learned_within_the_ratio() {
        let strategy = Adaptive::new(1.007, Duration::ZERO).unwrap();
        let slack = |remaps: u64| {
            let driven = Driven {
                remaps,
                live_bytes_peak: 1 << 30,
                ..driven(remaps, remaps)
            };
            strategy.tune(&driven).unwrap().slack_per_1024
        };
        assert_eq!(slack(0), Some(5));
        assert_eq!([slack(63), slack(64)], [Some(5), Some(6)]);
        assert_eq!([slack(128), slack(500)], [Some(7); 2]);
        for wrong in [0.99, 2.1, f64::NAN] {
            let error = Adaptive::new(wrong, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
        let tight = Adaptive::new(1.0, Duration::ZERO).unwrap();
        assert_eq!(tight.tune(&driven(1, 1)).unwrap().slack_per_1024, Some(0));
    }

    #[test]
    fn where_memory_cannot_be_divided_all_stays_as_configured() {
        let strategy = Adaptive::default();
        let mut demand = demand(1 << 20, 1, 0);
        demand.divisible = false;
        assert_eq!(strategy.shape(&demand), Shape::of(&demand.class));
        assert_eq!(strategy.tune(&Driven::default()), None);
    }
}

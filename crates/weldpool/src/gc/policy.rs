//! The policy: numbers in, a plan out.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What an allocator knows of itself at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observation {
    /// Bytes requested by users.
    pub live_bytes: u64,
    /// Bytes held from the driver.
    pub reserved_bytes: u64,
    /// The most it may hold, where there is a limit.
    pub limit_bytes: Option<u64>,
    /// 1 - largest free range / all free bytes.
    pub external_fragmentation: f64,
    /// How long the memory that is idle longest has been so; none when nothing is idle.
    pub oldest_idle: Option<Duration>,
}

impl Observation {
    fn idle_bytes(&self) -> u64 {
        self.reserved_bytes.saturating_sub(self.live_bytes)
    }
}

/// What is to be done. Whole segments go back; no step touches the pages of idle memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcPlan {
    /// Give back empty segments until no more than this is reserved, or none is left.
    pub trim_to_bytes: Option<u64>,
    /// First return the blocks in thread caches to their pools, and join free neighbours.
    pub drain_caches: bool,
    /// Give back what has been idle for at least this long.
    pub older_than: Option<Duration>,
}

impl GcPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The thresholds of garbage collection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcPolicy {
    /// External fragmentation, from 0 to 1, above which caches are drained, so that neighbours can
    /// join, and idle memory is kept only up to this part of what is reserved. Default: 0.3.
    pub fragmentation_max: f64,
    /// Part of the limit above which memory is given back. Default: 0.9.
    pub watermark_high: f64,
    /// Part of the limit down to which it is. Default: 0.7.
    pub watermark_low: f64,
    /// Memory idle for longer goes back; none keeps it however old. Default: two minutes.
    pub idle_max: Option<Duration>,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self {
            fragmentation_max: 0.3,
            watermark_high: 0.9,
            watermark_low: 0.7,
            idle_max: Some(Duration::from_secs(120)),
        }
    }
}

impl GcPolicy {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::with_message(ErrorKind::InvalidConfig, message));
        if !(0.0..=1.0).contains(&self.fragmentation_max) {
            return fail(format!(
                "GcPolicy::fragmentation_max is {}; it must be from 0 to 1",
                self.fragmentation_max
            ));
        }
        // Written so that a value that is not a number fails.
        let ordered = 0.0 <= self.watermark_low
            && self.watermark_low <= self.watermark_high
            && self.watermark_high <= 1.0;
        if !ordered {
            return fail(format!(
                "GcPolicy::watermark_low is {} and watermark_high {}; they must ascend within 0 to 1",
                self.watermark_low, self.watermark_high
            ));
        }
        Ok(())
    }

    /// Decides what to do.
    #[must_use]
    pub fn decide(&self, observation: &Observation) -> GcPlan {
        if observation.idle_bytes() == 0 {
            return GcPlan::default();
        }
        let over_limit = observation.limit_bytes.and_then(|limit| {
            let high = part(limit, self.watermark_high);
            (observation.reserved_bytes > high).then(|| part(limit, self.watermark_low))
        });
        let fragmented = observation.external_fragmentation > self.fragmentation_max;
        let over_share = fragmented
            .then(|| share_kept(observation.live_bytes, self.fragmentation_max))
            .filter(|&kept| kept < observation.reserved_bytes);
        let trim_to = over_limit.into_iter().chain(over_share).min();
        GcPlan {
            // Less than what is live cannot be reached.
            trim_to_bytes: trim_to.map(|bytes| bytes.max(observation.live_bytes)),
            drain_caches: fragmented || over_limit.is_some(),
            older_than: self
                .idle_max
                .filter(|&max| observation.oldest_idle.is_some_and(|oldest| oldest >= max)),
        }
    }
}

fn part(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}

/// What may be reserved for `live` bytes if `idle` of it may be idle.
fn share_kept(live: u64, idle: f64) -> u64 {
    (live as f64 / (1.0 - idle)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(live: u64, reserved: u64) -> Observation {
        Observation {
            live_bytes: live,
            reserved_bytes: reserved,
            ..Observation::default()
        }
    }

    #[test]
    fn each_reason_has_its_plan() {
        let policy = GcPolicy::default();
        let limit = Some(1000);
        let old = Some(Duration::from_secs(121));
        let cases = [
            (observed(500, 900), GcPlan::default()),
            (
                Observation {
                    limit_bytes: limit,
                    ..observed(500, 900)
                },
                GcPlan::default(),
            ),
            (
                Observation {
                    limit_bytes: limit,
                    ..observed(500, 901)
                },
                GcPlan {
                    trim_to_bytes: Some(700),
                    drain_caches: true,
                    older_than: None,
                },
            ),
            (
                Observation {
                    limit_bytes: limit,
                    ..observed(800, 950)
                },
                GcPlan {
                    trim_to_bytes: Some(800),
                    drain_caches: true,
                    older_than: None,
                },
            ),
            (
                Observation {
                    external_fragmentation: 0.31,
                    ..observed(700, 2000)
                },
                GcPlan {
                    trim_to_bytes: Some(1000),
                    drain_caches: true,
                    older_than: None,
                },
            ),
            (
                Observation {
                    external_fragmentation: 0.31,
                    ..observed(900, 1000)
                },
                GcPlan {
                    trim_to_bytes: None,
                    drain_caches: true,
                    older_than: None,
                },
            ),
            (
                Observation {
                    external_fragmentation: 0.3,
                    ..observed(700, 2000)
                },
                GcPlan::default(),
            ),
            (
                Observation {
                    oldest_idle: old,
                    ..observed(500, 900)
                },
                GcPlan {
                    older_than: Some(Duration::from_secs(120)),
                    ..GcPlan::default()
                },
            ),
            // Nothing is idle, so nothing can be done about anything.
            (
                Observation {
                    limit_bytes: limit,
                    external_fragmentation: 1.0,
                    oldest_idle: old,
                    ..observed(1000, 1000)
                },
                GcPlan::default(),
            ),
        ];
        for (observation, plan) in cases {
            assert_eq!(policy.decide(&observation), plan, "{observation:?}");
        }
        assert!(GcPlan::default().is_empty());
    }

    #[test]
    fn ages_can_be_left_out() {
        let policy = GcPolicy {
            idle_max: None,
            ..GcPolicy::default()
        };
        let plan = policy.decide(&Observation {
            oldest_idle: Some(Duration::MAX),
            ..observed(1, 2)
        });
        assert!(plan.is_empty());
    }

    #[test]
    fn wrong_fields_are_named() {
        let good = GcPolicy::default();
        good.validate().unwrap();
        let cases = [
            (
                "fragmentation_max",
                GcPolicy {
                    fragmentation_max: 1.1,
                    ..good
                },
            ),
            (
                "fragmentation_max",
                GcPolicy {
                    fragmentation_max: f64::NAN,
                    ..good
                },
            ),
            (
                "watermark_low",
                GcPolicy {
                    watermark_low: 0.95,
                    ..good
                },
            ),
            (
                "watermark_high",
                GcPolicy {
                    watermark_high: 1.1,
                    ..good
                },
            ),
            (
                "watermark_high",
                GcPolicy {
                    watermark_high: f64::NAN,
                    ..good
                },
            ),
        ];
        for (name, policy) in cases {
            let error = policy.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_plan_is_never_beyond_reach(
            live in any::<u64>(),
            reserved in any::<u64>(),
            limit in any::<Option<u64>>(),
            fragmentation in any::<f64>(),
            thresholds in (0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64),
        ) {
            let (fragmentation_max, one, other) = thresholds;
            let policy = GcPolicy {
                fragmentation_max,
                watermark_low: one.min(other),
                watermark_high: one.max(other),
                ..GcPolicy::default()
            };
            policy.validate().unwrap();
            let plan = policy.decide(&Observation {
                limit_bytes: limit,
                external_fragmentation: fragmentation,
                ..observed(live, reserved)
            });
            if let Some(bytes) = plan.trim_to_bytes {
                prop_assert!(bytes >= live);
                prop_assert!(bytes <= reserved);
                prop_assert!(plan.drain_caches);
            }
        }
    }
}

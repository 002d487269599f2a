//! Whether an allocator is well, and what to change if not.
//!
//! Each rule is a pure function of statistics, with its thresholds beside it. A rule that applies
//! says what it saw in figures and names the setting that changes it.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::pressure::Level;
use crate::stats::Stats;
use crate::text;

/// How an allocator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum HealthStatus {
    /// No rule applies.
    #[default]
    Healthy,
    /// Something costs time or memory that a setting could save.
    Attention,
    /// Allocations fail, or soon will.
    Critical,
}

impl HealthStatus {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Attention => "attention",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One rule that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// Name of the rule, which does not change.
    pub rule: &'static str,
    /// How bad it is.
    pub status: HealthStatus,
    /// What was seen, in figures.
    pub seen: String,
    /// What to change.
    pub advice: &'static str,
}

/// The health of an allocator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Health {
    /// The worst of the findings.
    pub status: HealthStatus,
    /// The rules that apply, the worst first.
    pub findings: Vec<Finding>,
}

/// A rule: its status and what it saw, if it applies.
type Check = fn(&Stats) -> Option<(HealthStatus, String)>;

/// Name, check and advice of every rule.
const RULES: [(&str, Check, &str); 12] = [
    (
        "hit_rate",
        hit_rate,
        "keep more idle memory (raise Config::cached_bytes_max, or see that Config::pooling is on), or \
         call Allocator::pre_allocate before the work starts",
    ),
    (
        "internal_fragmentation",
        internal_fragmentation,
        "use finer classes: SizeClasses::fine() for Config::classes, or a SizeClasses::new() with the \
         sizes that are asked for",
    ),
    (
        "external_waste",
        external_waste,
        "lower Config::cached_bytes_max, or call Allocator::clear when the peak is over",
    ),
    (
        "external_fragmentation",
        external_fragmentation,
        "lower Config::slack_per_1024, so that holes are mapped together where the device has virtual \
         memory; elsewhere raise Config::segment_bytes_min",
    ),
    (
        "near_limit",
        near_limit,
        "raise Config::reserved_bytes_max (Allocator::set_reserved_bytes_max while it runs), or free \
         buffers",
    ),
    (
        "out_of_memory",
        out_of_limit,
        "raise Config::reserved_bytes_max (Allocator::set_reserved_bytes_max while it runs), or use a \
         smaller model or batch",
    ),
    (
        "out_of_memory",
        out_of_device,
        "use a smaller model or batch, or a longer Config::wait_max if memory in flight is what lacks",
    ),
    (
        "driver_failures",
        driver_failures,
        "set Config::reserved_bytes_max below what the driver gives, and see the log for its errors",
    ),
    (
        "thrash",
        thrash,
        "raise Config::cached_bytes_max, so that memory is kept between the peaks; call \
         Allocator::clear less often",
    ),
    (
        "remapping",
        remapping,
        "raise Config::slack_per_1024, so that a little more is held instead, or use \
         strategy::Adaptive; lower Config::driver_ns_per_operation to bound what it costs",
    ),
    (
        "deferred",
        deferred,
        "submit less before waiting for a Fence, or free with Buffer::free_on the queue that used the \
         memory; see that every queue still runs",
    ),
    (
        "pressure",
        under_pressure,
        "free memory in this or other processes, or lower Config::reserved_bytes_max and \
         Config::cached_bytes_max so that others are not pushed out",
    ),
];

impl Health {
    /// Applies every rule.
    #[must_use]
    pub fn of(stats: &Stats) -> Self {
        let mut findings: Vec<Finding> = RULES
            .iter()
            .filter_map(|(rule, check, advice)| {
                let (status, seen) = check(stats)?;
                Some(Finding {
                    rule,
                    status,
                    seen,
                    advice,
                })
            })
            .collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.status));
        let worst = findings.first().map(|finding| finding.status);
        Self {
            status: worst.unwrap_or_default(),
            findings,
        }
    }

    /// The same without what rules of this name found.
    #[must_use]
    pub fn without(mut self, rule: &str) -> Self {
        self.findings.retain(|finding| finding.rule != rule);
        let worst = self.findings.first().map(|finding| finding.status);
        self.status = worst.unwrap_or_default();
        self
    }

    /// Whether a rule of this name applies.
    #[must_use]
    pub fn has(&self, rule: &str) -> bool {
        self.findings.iter().any(|finding| finding.rule == rule)
    }
}

impl fmt::Display for Health {
    /// The status and the rules, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        for (number, finding) in self.findings.iter().enumerate() {
            let separator = if number == 0 { ": " } else { ", " };
            write!(f, "{separator}{}", finding.rule)?;
        }
        Ok(())
    }
}

/// Below this nothing is worth advice.
const BYTES_MIN: u64 = 16 << 20;

/// For so long it counts that memory was out.
const RECENT: Duration = Duration::from_secs(60);

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Under 90 % of at least 1,000 allocations came from memory already held.
fn hit_rate(stats: &Stats) -> Option<(HealthStatus, String)> {
    let requests = stats.hits + stats.misses;
    (requests >= 1000 && stats.hit_rate() < 0.9).then(|| {
        let seen = format!(
            "{} of {requests} allocations were served from memory already held",
            text::percent(stats.hit_rate())
        );
        (HealthStatus::Attention, seen)
    })
}

/// More than a tenth of the blocks in use is rounding.
fn internal_fragmentation(stats: &Stats) -> Option<(HealthStatus, String)> {
    (stats.block_bytes >= BYTES_MIN && stats.internal_fragmentation() > 0.1).then(|| {
        let seen = format!(
            "{} of the {} in use are rounding up to a size class",
            text::bytes(stats.internal_waste()),
            text::bytes(stats.block_bytes)
        );
        (HealthStatus::Attention, seen)
    })
}

/// More than half of what is held is in nobody's buffer, and waits for no fence.
fn external_waste(stats: &Stats) -> Option<(HealthStatus, String)> {
    let idle = stats.cached_bytes;
    (idle >= BYTES_MIN && share(idle, stats.reserved.value) > 0.5).then(|| {
        let seen = format!(
            "{} of the {} held are idle",
            text::bytes(idle),
            text::bytes(stats.reserved.value)
        );
        (HealthStatus::Attention, seen)
    })
}

/// Much is free, in pieces a quarter of it at most, while allocations still need the driver.
fn external_fragmentation(stats: &Stats) -> Option<(HealthStatus, String)> {
    let missing = share(stats.misses, stats.hits + stats.misses) > 0.01;
    (stats.free_bytes >= BYTES_MIN && stats.external_fragmentation() > 0.75 && missing).then(|| {
        let seen = format!(
            "{} are free but the largest range is {}",
            text::bytes(stats.free_bytes),
            text::bytes(stats.largest_free as u64)
        );
        (HealthStatus::Attention, seen)
    })
}

/// At least 90 % of the limit is in use or waits for a fence, so giving back idle memory cannot help.
fn near_limit(stats: &Stats) -> Option<(HealthStatus, String)> {
    let limit = stats.limit?;
    let used = stats.block_bytes + stats.deferred_bytes;
    let status = match share(used, limit) {
        used if used >= 0.97 => HealthStatus::Critical,
        used if used >= 0.9 => HealthStatus::Attention,
        _ => return None,
    };
    let seen = format!(
        "{} of the limit of {} are in use",
        text::bytes(used),
        text::bytes(limit)
    );
    Some((status, seen))
}

/// Memory was out while there was a limit, or so it is now.
fn out_of_limit(stats: &Stats) -> Option<(HealthStatus, String)> {
    stats.limit.and_then(|_| out_of_memory(stats))
}

/// Likewise without a limit.
fn out_of_device(stats: &Stats) -> Option<(HealthStatus, String)> {
    stats.limit.is_none().then(|| out_of_memory(stats))?
}

/// Memory was out in the last minute; that allocations failed for it is critical.
fn out_of_memory(stats: &Stats) -> Option<(HealthStatus, String)> {
    let last = |age: Duration| format!("the last one {} s ago", age.as_secs());
    if let Some(age) = recent(stats.memory_failure_age) {
        let failed = stats.memory_failures;
        let seen = format!(
            "{failed} allocations failed for lack of memory, {}",
            last(age)
        );
        return Some((HealthStatus::Critical, seen));
    }
    recent(stats.out_of_memory_age).map(|age| {
        let events = stats.out_of_memory.events;
        let last = last(age);
        let seen =
            format!("memory was out {events} times, {last}, and something was freed to go on");
        (HealthStatus::Attention, seen)
    })
}

/// The age, if it is under [`RECENT`].
fn recent(age: Option<Duration>) -> Option<Duration> {
    age.filter(|&age| age < RECENT)
}

/// At least one driver call in a hundred failed; one in two, of ten or more, is critical.
fn driver_failures(stats: &Stats) -> Option<(HealthStatus, String)> {
    let failed = share(stats.driver_failures, stats.driver_calls);
    let status = if failed >= 0.5 && stats.driver_calls >= 10 {
        HealthStatus::Critical
    } else if failed >= 0.01 {
        HealthStatus::Attention
    } else {
        return None;
    };
    let seen = format!(
        "{} of {} driver calls for memory failed",
        stats.driver_failures, stats.driver_calls
    );
    Some((status, seen))
}

/// Memory was obtained and given back again and again: eight times the most that was ever held.
fn thrash(stats: &Stats) -> Option<(HealthStatus, String)> {
    let obtained = stats.reserved.total;
    let peak = stats.reserved.peak;
    (stats.growths >= 64 && peak >= BYTES_MIN && obtained / 8 >= peak).then(|| {
        let seen = format!(
            "{} were obtained from the driver in {} steps, though never more than {} were held",
            text::bytes(obtained),
            stats.growths,
            text::bytes(peak)
        );
        (HealthStatus::Attention, seen)
    })
}

/// Holes were mapped together for more than one allocation in twenty, of at least 1,000.
fn remapping(stats: &Stats) -> Option<(HealthStatus, String)> {
    let requests = stats.hits + stats.misses;
    (requests >= 1000 && share(stats.remaps, requests) > 0.05).then(|| {
        let seen = format!(
            "for {} of {requests} allocations holes were mapped together",
            stats.remaps
        );
        (HealthStatus::Attention, seen)
    })
}

/// More than half of what is held was freed on queues that are not known to be done with it, while
/// allocations needed new memory or found none.
fn deferred(stats: &Stats) -> Option<(HealthStatus, String)> {
    let waiting = share(stats.deferred_bytes, stats.reserved.value);
    let missing = share(stats.misses, stats.hits + stats.misses) > 0.01;
    let starved = recent(stats.memory_failure_age).is_some();
    if stats.deferred_bytes < BYTES_MIN || waiting <= 0.5 || !(missing || starved) {
        return None;
    }
    let status = if starved {
        HealthStatus::Critical
    } else {
        HealthStatus::Attention
    };
    let seen = format!(
        "{} of the {} held are freed but wait for a fence",
        text::bytes(stats.deferred_bytes),
        text::bytes(stats.reserved.value)
    );
    Some((status, seen))
}

/// The monitor is at the level warning or above.
fn under_pressure(stats: &Stats) -> Option<(HealthStatus, String)> {
    let status = match stats.pressure_level {
        Level::Normal | Level::Moderate => return None,
        Level::Warning => HealthStatus::Attention,
        Level::Critical | Level::Emergency => HealthStatus::Critical,
    };
    let seen = format!(
        "the memory pressure is {:.2}, level {}",
        stats.pressure, stats.pressure_level
    );
    Some((status, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    const MIB: u64 = 1 << 20;

    fn level(value: u64) -> Counter {
        Counter {
            value,
            peak: value,
            total: value,
        }
    }

    /// An allocator that is well, with a little of everything.
    fn well() -> Stats {
        Stats {
            live: level(95 * MIB),
            reserved: level(110 * MIB),
            limit: Some(200 * MIB),
            block_bytes: 96 * MIB,
            cached_bytes: 10 * MIB,
            deferred_bytes: 4 * MIB,
            allocations: 100_000,
            frees: 99_000,
            hits: 99_900,
            misses: 100,
            growths: 100,
            driver_calls: 400,
            driver_failures: 1,
            free_bytes: 10 * MIB,
            largest_free: 4 << 20,
            ..Stats::default()
        }
    }

    #[test]
    fn nothing_applies_to_an_allocator_that_is_well_or_new() {
        for stats in [well(), Stats::default()] {
            let health = Health::of(&stats);
            assert_eq!(health, Health::default(), "{health}");
        }
    }

    /// For each rule a change of the healthy statistics that triggers it, and one just short of it.
    #[test]
    fn each_rule_applies_alone_and_only_beyond_its_threshold() {
        use HealthStatus::{Attention, Critical};
        type Change = fn(&mut Stats);
        let cases: [(&str, HealthStatus, Change, Change); 15] = [
            (
                "hit_rate",
                Attention,
                |stats| (stats.hits, stats.misses) = (89_000, 11_000),
                |stats| (stats.hits, stats.misses) = (91_000, 9_000),
            ),
            (
                "internal_fragmentation",
                Attention,
                |stats| stats.live.value = 86 * MIB,
                |stats| stats.live.value = 87 * MIB,
            ),
            (
                "external_waste",
                Attention,
                |stats| (stats.reserved, stats.cached_bytes) = (level(210 * MIB), 110 * MIB),
                |stats| (stats.reserved, stats.cached_bytes) = (level(210 * MIB), 100 * MIB),
            ),
            (
                "external_fragmentation",
                Attention,
                |stats| {
                    (stats.free_bytes, stats.largest_free) = (40 * MIB, 4 << 20);
                    (stats.hits, stats.misses) = (98_000, 2_000);
                },
                |stats| (stats.free_bytes, stats.largest_free) = (40 * MIB, 4 << 20),
            ),
            (
                "near_limit",
                Attention,
                |stats| stats.limit = Some(110 * MIB),
                |stats| stats.limit = Some(112 * MIB),
            ),
            (
                "near_limit",
                Critical,
                |stats| stats.limit = Some(102 * MIB),
                |stats| stats.limit = None,
            ),
            (
                "out_of_memory",
                Critical,
                |stats| {
                    stats.memory_failures = 1;
                    stats.memory_failure_age = Some(Duration::from_secs(59));
                },
                |stats| {
                    stats.memory_failures = 1;
                    stats.memory_failure_age = Some(Duration::from_secs(60));
                },
            ),
            (
                "driver_failures",
                Attention,
                |stats| stats.driver_failures = 4,
                |stats| stats.driver_failures = 3,
            ),
            (
                "driver_failures",
                Critical,
                |stats| stats.driver_failures = 200,
                |stats| stats.driver_calls = 1000,
            ),
            (
                "thrash",
                Attention,
                |stats| stats.reserved.total = 880 * MIB,
                |stats| (stats.reserved.total, stats.growths) = (880 * MIB, 63),
            ),
            (
                "remapping",
                Attention,
                |stats| stats.remaps = 5_001,
                |stats| stats.remaps = 5_000,
            ),
            (
                "deferred",
                Attention,
                |stats| {
                    (stats.reserved, stats.deferred_bytes) = (level(40 * MIB), 21 * MIB);
                    (stats.live.value, stats.block_bytes) = (MIB, MIB);
                    (stats.hits, stats.misses) = (98_000, 2_000);
                },
                // Nothing needs the memory, so nobody has asked the queues yet.
                |stats| (stats.reserved, stats.deferred_bytes) = (level(40 * MIB), 39 * MIB),
            ),
            (
                "out_of_memory",
                Attention,
                |stats| {
                    stats.out_of_memory.events = 1;
                    stats.out_of_memory_age = Some(Duration::ZERO);
                },
                |stats| {
                    stats.out_of_memory.events = 1;
                    stats.out_of_memory_age = Some(Duration::from_secs(3600));
                },
            ),
            (
                "pressure",
                Attention,
                |stats| (stats.pressure, stats.pressure_level) = (0.85, Level::Warning),
                |stats| (stats.pressure, stats.pressure_level) = (0.75, Level::Moderate),
            ),
            (
                "pressure",
                Critical,
                |stats| (stats.pressure, stats.pressure_level) = (0.92, Level::Critical),
                |stats| stats.pressure = 0.79,
            ),
        ];
        for (rule, status, beyond, short) in cases {
            let mut stats = well();
            beyond(&mut stats);
            let health = Health::of(&stats);
            let rules: Vec<_> = health.findings.iter().map(|one| one.rule).collect();
            assert_eq!(
                (rules.as_slice(), health.status),
                ([rule].as_slice(), status)
            );
            let finding = &health.findings[0];
            assert!(!finding.seen.is_empty() && finding.advice.len() > 20);
            let mut stats = well();
            short(&mut stats);
            assert!(!Health::of(&stats).has(rule), "{rule} just short");
        }
    }

    #[test]
    fn waiting_memory_is_critical_when_allocations_fail() {
        let stats = Stats {
            reserved: level(40 * MIB),
            deferred_bytes: 21 * MIB,
            memory_failures: 1,
            memory_failure_age: Some(Duration::ZERO),
            ..Stats::default()
        };
        let health = Health::of(&stats);
        let rules: Vec<_> = health
            .findings
            .iter()
            .map(|one| (one.rule, one.status))
            .collect();
        let critical = HealthStatus::Critical;
        assert_eq!(rules, [("out_of_memory", critical), ("deferred", critical)]);
    }

    #[test]
    fn the_worst_comes_first_and_the_line_names_all() {
        let stats = Stats {
            hits: 0,
            misses: 1000,
            memory_failures: 1,
            memory_failure_age: Some(Duration::ZERO),
            ..well()
        };
        let health = Health::of(&stats);
        assert_eq!(health.to_string(), "critical: out_of_memory, hit_rate");
        let health = health.without("out_of_memory");
        assert_eq!(health.to_string(), "attention: hit_rate");
        assert_eq!(health.without("hit_rate"), Health::default());
    }

    #[test]
    fn a_limit_is_named_where_there_is_one() {
        let advice = |limit| {
            let stats = Stats {
                limit,
                memory_failures: 1,
                memory_failure_age: Some(Duration::ZERO),
                ..Stats::default()
            };
            let health = Health::of(&stats);
            assert_eq!(health.findings.len(), 1);
            health.findings[0].advice
        };
        assert!(advice(Some(1 << 30)).contains("Config::reserved_bytes_max"));
        assert!(!advice(None).contains("reserved_bytes_max"));
    }

    /// A real allocator shows each rule, and that its advice helps.
    #[test]
    fn every_rule_has_a_program_that_triggers_it() {
        let programs = include_str!("../tests/it/health.rs");
        for (rule, _, _) in RULES {
            assert!(programs.contains(&format!("\"{rule}\"")), "{rule}");
        }
    }

    #[test]
    fn advice_names_settings_that_exist() {
        let known = [
            "Config::cached_bytes_max",
            "Config::pooling",
            "Config::classes",
            "Config::slack_per_1024",
            "Config::driver_ns_per_operation",
            "Config::segment_bytes_min",
            "Config::reserved_bytes_max",
            "Config::wait_max",
        ];
        for (rule, _, advice) in RULES {
            for word in advice.split_whitespace() {
                if let Some(start) = word.find("Config::") {
                    let name = word[start..].trim_end_matches([',', ';', '.', ')', ':']);
                    assert!(known.contains(&name), "{rule}: {name}");
                }
            }
        }
    }
}

//! An allocator on a screen: bars, health and advice.

#![forbid(unsafe_code)]

use std::fmt;

use crate::health::Health;
use crate::histogram::Histogram;
use crate::sampler::Samples;
use crate::stats::{ClassStats, Stats};
use crate::text;

/// Widest and narrowest line; outside of this a width is changed to the nearer one.
const WIDTH: std::ops::RangeInclusive<usize> = 40..=240;
/// How many times what was ever held a limit may be for bars to be parts of it.
const LIMIT_FAR: u64 = 4;
/// Bars of a histogram.
const STEPS_MAX: usize = 8;

/// How a [`Dashboard`] is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DashboardOptions {
    /// Characters of a line, from 40 to 240. Default: 80.
    pub width: usize,
    /// Whether bars are drawn with block characters; off, everything is ASCII, for files and
    /// terminals that know nothing else. Default: off.
    pub unicode: bool,
    /// Size classes shown, those that hold most. Default: 8.
    pub classes: usize,
}

impl Default for DashboardOptions {
    fn default() -> Self {
        Self {
            width: 80,
            unicode: false,
            classes: 8,
        }
    }
}

/// The state of an allocator, to be drawn. Making one costs as much as [`Stats`].
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Dashboard {
    /// Name of the allocator.
    pub allocator: String,
    /// Its counters.
    pub stats: Stats,
    /// Its samples.
    pub samples: Samples,
    /// Whether its work is over, as after a replay: what is idle then is no finding. Default: no.
    pub finished: bool,
}

impl Dashboard {
    /// The health of the allocator.
    #[must_use]
    pub fn health(&self) -> Health {
        let health = Health::of(&self.stats);
        if self.finished {
            health.without("external_waste")
        } else {
            health
        }
    }

    /// One line, for logs.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{}: {}, {}",
            text::clean(&self.allocator, 80, true),
            self.stats,
            self.health()
        )
    }

    /// The whole picture.
    #[must_use]
    pub fn text(&self, options: &DashboardOptions) -> String {
        let health = self.health();
        let mut screen = Screen {
            text: String::new(),
            width: options.width.clamp(*WIDTH.start(), *WIDTH.end()),
            unicode: options.unicode,
        };
        let name = text::clean(&self.allocator, 40, options.unicode);
        screen.title(&name, &health.status.to_string().to_uppercase());
        self.memory(&mut screen);
        self.classes(&mut screen, options.classes);
        let bytes: &dyn Fn(u64) -> String = &text::bytes;
        let time: &dyn Fn(u64) -> String = &|ns| text::time(ns as f64);
        let samples = &self.samples;
        screen.heading(&samples.summary());
        screen.histogram("Size of allocations", &samples.size, bytes);
        screen.histogram("Lifetime", &samples.lifetime_ns, time);
        screen.histogram("Latency of allocation", &samples.latency_ns, time);
        if !health.findings.is_empty() {
            screen.heading("Recommendations");
            for finding in &health.findings {
                let words = format!("- {}: {}.", finding.seen, finding.advice);
                let words = text::clean(&words, words.len() * 8, options.unicode);
                text::paragraph(&mut screen.text, screen.width, 2, &words);
            }
        }
        screen.text
    }

    fn memory(&self, screen: &mut Screen) {
        let stats = &self.stats;
        // Of a limit far above what is held bars would be empty.
        let near = |limit: &u64| limit / LIMIT_FAR <= stats.reserved.peak;
        let whole = match stats.limit.filter(near) {
            Some(limit) => limit.max(stats.reserved.peak),
            None => stats.reserved.peak,
        };
        screen.heading(&match stats.limit {
            Some(limit) if near(&limit) => {
                format!("Memory, of the limit of {}", text::bytes(limit))
            }
            Some(limit) => format!(
                "Memory, of the {} held at most; the limit is {}",
                text::bytes(whole),
                text::bytes(limit)
            ),
            None => format!("Memory, of the {} held at most", text::bytes(whole)),
        });
        for (name, bytes) in [
            ("reserved", stats.reserved.value),
            ("in blocks", stats.block_bytes),
            ("live", stats.live.value),
            ("live, peak", stats.live.peak),
            ("cached", stats.cached_bytes),
            ("deferred", stats.deferred_bytes),
        ] {
            screen.bar(name, share(bytes, whole), &text::bytes(bytes));
        }
        for (name, bytes) in stats.besides() {
            screen.line(&format!("besides, {name}: {bytes}"));
        }
        screen.heading("Use");
        screen.bar(
            "utilisation",
            stats.utilisation(),
            &text::percent(stats.utilisation()),
        );
        let hits = text::percent(stats.hit_rate());
        screen.bar("hit rate", stats.hit_rate(), &hits);
        let saved = stats.allocation_reduction();
        screen.bar("driver saved", saved, &text::percent(saved));
        let level = format!("{:.2} {}", stats.pressure, stats.pressure_level);
        screen.bar("pressure", stats.pressure, &level);
        screen.line(&format!(
            "{} allocations, {} failed; {} driver calls in {}",
            text::count(stats.allocations),
            text::count(stats.failures),
            text::count(stats.driver_calls),
            text::time(stats.driver_ns as f64)
        ));
    }

    fn classes(&self, screen: &mut Screen, most: usize) {
        let used = |class: &&ClassStats| class.allocations > 0;
        let mut classes: Vec<&ClassStats> = self.stats.classes.iter().filter(used).collect();
        if classes.is_empty() || most == 0 {
            return;
        }
        classes.sort_by_key(|class| std::cmp::Reverse((class.held_bytes_peak, class.allocations)));
        let all = classes.len();
        classes.truncate(most);
        classes.sort_by_key(|class| class.bytes);
        let whole = classes.iter().map(|class| class.held_bytes_peak).max();
        screen.heading(&format!(
            "Size classes: peak bytes held, hit rate, score ({} of {all})",
            classes.len()
        ));
        for class in classes {
            let value = format!(
                "{:>11} {:>8} {:>5.1}",
                text::bytes(class.held_bytes_peak),
                text::percent(class.hit_rate()),
                class.efficiency()
            );
            let part = share(class.held_bytes_peak, whole.unwrap_or(0));
            screen.bar(&text::bytes(class.bytes as u64), part, &value);
        }
    }
}

impl fmt::Display for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&DashboardOptions::default()))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Text under way.
struct Screen {
    text: String,
    width: usize,
    unicode: bool,
}

impl Screen {
    fn line(&mut self, line: &str) {
        text::line(&mut self.text, self.width, line);
    }

    fn title(&mut self, left: &str, right: &str) {
        let rest = self.width.saturating_sub(right.chars().count() + 1);
        let left = text::cut(left, rest);
        self.line(&format!("{left:<rest$} {right}"));
        let rule = if self.unicode { "─" } else { "-" };
        self.line(&rule.repeat(self.width));
    }

    fn heading(&mut self, heading: &str) {
        self.text.push('\n');
        self.line(heading);
    }

    /// A name, a bar and a value, which all lines of a section align.
    fn bar(&mut self, name: &str, share: f64, value: &str) {
        let room = self.width.saturating_sub(14 + 1 + 2);
        // The value gets what it needs; a bar of less than four characters says nothing.
        let value_width = value.chars().count().max(14);
        let width = room.saturating_sub(value_width);
        let bar = if width >= 4 {
            text::bar(share, width, self.unicode)
        } else {
            String::new()
        };
        self.line(&format!("{name:>14} {bar}  {value:>value_width$}"));
    }

    /// The part of all values in each of a few steps, on a scale of doublings.
    fn histogram(&mut self, name: &str, histogram: &Histogram, show: &dyn Fn(u64) -> String) {
        let (Some(min), Some(max)) = (histogram.min(), histogram.max()) else {
            return;
        };
        let at = |part| histogram.quantile(part).map_or(String::new(), show);
        self.heading(&format!(
            "{name}, {}: p50 {}, p99 {}, max {}",
            text::samples(histogram.samples()),
            at(0.5),
            at(0.99),
            show(max)
        ));
        let (first, last) = (doubling(min), doubling(max));
        let step = (last - first + 1).div_ceil(STEPS_MAX);
        let mut before = 0.0;
        for end in (first + step - 1..last + step).step_by(step) {
            let end = end.min(63);
            let bound = if end >= last { max } else { 1 << end };
            let upto = if end >= last {
                histogram.count()
            } else {
                histogram.count_up_to(bound)
            };
            let part = (upto - before).max(0.0) / histogram.count();
            before = upto;
            self.bar(&format!("<= {}", show(bound)), part, &text::percent(part));
        }
    }
}

/// The doubling that a value lies in: the exponent of the power of two that is not below it.
fn doubling(value: u64) -> usize {
    let power = value.max(1).checked_next_power_of_two();
    power.map_or(63, |power| power.ilog2() as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::Counter;

    fn dashboard() -> Dashboard {
        let mut samples = Samples::default();
        for value in [1, 200, 256, 4096, 5000, 1 << 20, 3 << 30, u64::MAX] {
            samples.size.record(value, 2.5);
            samples.latency_ns.record(value, 2.5);
        }
        samples.lifetime_ns.record(100, 1.0);
        let counter = |value| Counter {
            value,
            peak: value * 2,
            total: value * 3,
        };
        let class = |bytes: usize| ClassStats {
            bytes,
            allocations: 10,
            held_bytes_peak: bytes as u64 * 3,
            ..ClassStats::default()
        };
        Dashboard {
            allocator: "größe\u{1b}[31m".to_owned(),
            stats: Stats {
                live: counter(50 << 20),
                reserved: counter(100 << 20),
                block_bytes: 60 << 20,
                cached_bytes: 40 << 20,
                memory_failures: 3,
                memory_failure_age: Some(Duration::ZERO),
                hits: 10,
                misses: 2000,
                classes: (1..30).map(|one| class(one * 256)).collect(),
                ..Stats::default()
            },
            samples,
            finished: false,
        }
    }

    #[test]
    fn every_line_keeps_the_width_and_plain_text_is_ascii() {
        for width in [0, 40, 57, 80, 120, 1000] {
            for unicode in [false, true] {
                let options = DashboardOptions {
                    width,
                    unicode,
                    ..DashboardOptions::default()
                };
                let text = dashboard().text(&options);
                let most = width.clamp(40, 240);
                for line in text.lines() {
                    assert!(line.chars().count() <= most, "{width}: {line:?}");
                }
                assert!(unicode || text.is_ascii(), "{text}");
                assert!(!text.contains('\u{1b}'));
            }
        }
    }

    #[test]
    fn bars_show_their_shares() {
        let text = dashboard().to_string();
        let bar_of = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
            let full = line.matches('#').count() as f64;
            full / (full
                + line
                    .split_whitespace()
                    .nth(1)
                    .map_or(0, |bar| bar.matches('.').count()) as f64)
        };
        // Of the peak of 200 MiB.
        assert!((bar_of("reserved") - 0.5).abs() < 0.03, "{text}");
        assert!((bar_of("cached") - 0.2).abs() < 0.03, "{text}");
    }

    #[test]
    fn a_limit_far_above_what_is_held_is_named_beside_the_bars() {
        let mut dashboard = dashboard();
        for (mib, heading) in [
            (400, "Memory, of the limit of 400.00 MiB"),
            (800, "Memory, of the limit of 800.00 MiB"),
            (
                2000,
                "Memory, of the 200.00 MiB held at most; the limit is 1.95 GiB",
            ),
        ] {
            dashboard.stats.limit = Some(mib << 20);
            let text = dashboard.to_string();
            assert!(text.contains(heading), "{heading}: {text}");
        }
    }

    #[test]
    fn idle_memory_is_no_finding_when_the_work_is_over() {
        let mut dashboard = Dashboard::default();
        dashboard.stats.reserved.value = 100 << 20;
        dashboard.stats.cached_bytes = 100 << 20;
        assert!(dashboard.health().has("external_waste"));
        dashboard.finished = true;
        assert_eq!(dashboard.health(), Health::default());
        assert!(!dashboard.to_string().contains("Recommendations"));
    }

    #[test]
    fn health_and_advice_are_on_the_screen() {
        let text = dashboard().to_string();
        assert!(text.lines().next().unwrap().ends_with("CRITICAL"), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains(
                "3 allocations failed for lack of memory, the last one 0 s ago: use a smaller model"
            ),
            "{text}"
        );
        assert!(text.contains("(8 of 29)"), "{text}");
        for part in [
            "Size of allocations, 8 samples: p50",
            "Lifetime, 1 sample: p50",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let line = dashboard().line();
        assert!(line.contains("critical: out_of_memory, hit_rate") && !line.contains('\n'));
        let quiet = Dashboard::default();
        assert!(!quiet.to_string().contains("Recommendations"), "{quiet}");
    }

    #[test]
    fn pressure_has_a_bar() {
        let mut dashboard = dashboard();
        dashboard.stats.pressure = 0.5;
        let text = dashboard.to_string();
        assert!(text.contains("0.50 normal"), "{text}");
    }
}

//! All that is known of an allocator at one moment, as text in sorted sections.

use std::fmt;

use super::LeakReport;
use super::page::Page;
use crate::device::StorageMode;
use crate::health::Health;
use crate::sampler::Samples;
use crate::stats::Stats;
use crate::text;

/// Free memory of one arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ArenaReport {
    /// Its storage mode.
    pub storage: StorageMode,
    /// The system's number of its node (NUMA), where memory is kept apart by nodes.
    pub node: Option<u32>,
    /// Whether it cuts small blocks from spans of the other arena of its storage mode.
    pub small: bool,
    /// Segments, or pieces of physical memory; 0 for small blocks, which have none of their own.
    pub segments: usize,
    /// Bytes free for everybody.
    pub free_bytes: u64,
    /// Largest range of those.
    pub largest_free: u64,
    /// Bytes that wait for a fence.
    pub pending_bytes: u64,
}

/// How long and wide the text of a [`Report`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportOptions {
    /// Lines of each section; what is left out is counted. Default: 10.
    pub top: usize,
    /// Characters of a line, at least 40. Default: 100.
    pub width: usize,
    /// Lines of each backtrace. Default: 16.
    pub backtrace_lines: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            top: 10,
            width: 100,
            backtrace_lines: 16,
        }
    }
}

/// An allocator in detail. Making one walks all live buffers; see [`Stats`] for what is cheap.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// Name of the allocator.
    pub allocator: String,
    /// Its counters.
    pub stats: Stats,
    /// How it is doing.
    pub health: Health,
    /// The live buffers.
    pub live: LeakReport,
    /// Arenas that hold or held something.
    pub arenas: Vec<ArenaReport>,
    /// Histograms of samples.
    pub samples: Samples,
}

impl Report {
    /// The report as text: sections in a fixed order, each sorted, largest first, and cut at
    /// [`top`](ReportOptions::top) lines.
    #[must_use]
    pub fn text(&self, options: &ReportOptions) -> String {
        let mut page = Page::new(options.width, options.top);
        self.memory(&mut page);
        self.health(&mut page);
        self.classes(&mut page);
        self.nodes(&mut page);
        self.live(&mut page, options.backtrace_lines);
        self.arenas(&mut page);
        self.samples(&mut page);
        page.into_text()
    }

    fn memory(&self, page: &mut Page) {
        let stats = &self.stats;
        page.line(&format!(
            "Allocator {}",
            text::clean(&self.allocator, 80, true)
        ));
        page.heading("Memory");
        let mut row = |name: &str, value: String| page.line(&format!("  {name:<24} {value}"));
        let bytes = text::bytes;
        row(
            "live",
            format!(
                "{} (peak {})",
                bytes(stats.live.value),
                bytes(stats.live.peak)
            ),
        );
        row(
            "reserved",
            format!(
                "{} (peak {}, limit {})",
                bytes(stats.reserved.value),
                bytes(stats.reserved.peak),
                stats.limit.map_or("none".to_owned(), bytes)
            ),
        );
        for (name, bytes) in stats.besides() {
            row(name, format!("{bytes}, besides"));
        }
        row("utilisation", text::percent(stats.utilisation()));
        row(
            "internal waste",
            format!(
                "{} ({})",
                bytes(stats.internal_waste()),
                text::percent(stats.internal_fragmentation())
            ),
        );
        row(
            "external waste",
            format!(
                "{} (cached {}, waiting for fences {})",
                bytes(stats.external_waste()),
                bytes(stats.cached_bytes),
                bytes(stats.deferred_bytes)
            ),
        );
        row(
            "external fragmentation",
            format!(
                "{} (free {}, largest range {})",
                text::percent(stats.external_fragmentation()),
                bytes(stats.free_bytes),
                bytes(stats.largest_free as u64)
            ),
        );
        row(
            "allocations",
            format!(
                "{} ({} freed, {} failed, {} of them for lack of memory)",
                stats.allocations, stats.frees, stats.failures, stats.memory_failures
            ),
        );
        row(
            "hit rate",
            format!(
                "{} ({} misses, {} growths, {} remaps)",
                text::percent(stats.hit_rate()),
                stats.misses,
                stats.growths,
                stats.remaps
            ),
        );
        row(
            "driver calls",
            format!(
                "{} ({} failed) in {}",
                stats.driver_calls,
                stats.driver_failures,
                text::time(stats.driver_ns as f64)
            ),
        );
    }

    fn health(&self, page: &mut Page) {
        page.heading(&format!("Health: {}", self.health.status));
        for finding in &self.health.findings {
            let words = format!(
                "  {} ({}): {}; {}.",
                finding.rule, finding.status, finding.seen, finding.advice
            );
            page.paragraph(&words);
        }
    }

    fn classes(&self, page: &mut Page) {
        let used = |class: &&crate::ClassStats| class.allocations > 0 || class.held_bytes > 0;
        let mut classes: Vec<_> = self.stats.classes.iter().filter(used).collect();
        classes.sort_by_key(|class| std::cmp::Reverse((class.held_bytes, class.allocations)));
        page.heading(&format!(
            "Size classes by bytes held ({} of {} in use)",
            classes.len(),
            self.stats.classes.len()
        ));
        if classes.is_empty() {
            return;
        }
        let columns = [
            ("CLASS", 11),
            ("ALLOCS", 7),
            ("HITS", 7),
            ("SCORE", 5),
            ("LIVE", 11),
            ("HELD", 11),
            ("PEAK", 11),
            ("INTERNAL", 11),
            ("EXTERNAL", 11),
        ];
        page.table(columns, &classes, |class| {
            [
                text::bytes(class.bytes as u64),
                text::count(class.allocations),
                text::percent(class.hit_rate()),
                format!("{:.1}", class.efficiency()),
                text::bytes(class.live_bytes),
                text::bytes(class.held_bytes),
                text::bytes(class.held_bytes_peak),
                text::bytes(class.internal_waste()),
                text::bytes(class.external_waste()),
            ]
        });
    }

    fn nodes(&self, page: &mut Page) {
        let nodes = &self.stats.nodes;
        if nodes.is_empty() {
            return;
        }
        page.heading("Nodes of memory");
        let columns = [
            ("NODE", 4),
            ("RESERVED", 11),
            ("BLOCKS", 11),
            ("FREE", 11),
            ("LOCAL", 7),
            ("REMOTE", 7),
            ("LOCALITY", 8),
            ("RETURNED", 8),
        ];
        page.table(columns, nodes, |node| {
            [
                node.number.to_string(),
                text::bytes(node.reserved.value),
                text::bytes(node.block_bytes),
                text::bytes(node.free_bytes),
                text::count(node.local_allocations),
                text::count(node.remote_allocations),
                text::percent(node.locality()),
                text::count(node.returned_blocks),
            ]
        });
    }

    fn live(&self, page: &mut Page, backtrace_lines: usize) {
        page.heading(&format!(
            "Live buffers by name: {} of {}",
            self.live.count(),
            text::bytes(self.live.bytes() as u64)
        ));
        let width = page.width().saturating_sub(28);
        for one in self.live.buffers.iter().take(page.top()) {
            page.line(&format!(
                "  {:>12} {:>9}  {}",
                text::bytes(one.bytes as u64),
                text::count(one.count as u64),
                text::clean(one.name.as_str(), width, true)
            ));
            let backtrace = self.live.backtrace_of(one.name).unwrap_or_default();
            for frame in backtrace.lines().take(backtrace_lines) {
                page.line(&format!("      {frame}"));
            }
        }
        page.rest(self.live.buffers.len());
    }

    fn arenas(&self, page: &mut Page) {
        page.heading("Arenas by free bytes");
        if self.arenas.is_empty() {
            return;
        }
        let mut arenas: Vec<_> = self.arenas.iter().collect();
        arenas.sort_by_key(|arena| std::cmp::Reverse((arena.free_bytes, arena.segments)));
        let columns = [
            ("ARENA", 16),
            ("SEGMENTS", 8),
            ("FREE", 11),
            ("LARGEST", 11),
            ("WAITING", 11),
        ];
        page.table(columns, &arenas, |arena| {
            let node = arena
                .node
                .map(|node| format!(" {node}"))
                .unwrap_or_default();
            let kind = if arena.small { ", small" } else { "" };
            [
                format!("{}{node}{kind}", arena.storage.name()),
                arena.segments.to_string(),
                text::bytes(arena.free_bytes),
                text::bytes(arena.largest_free),
                text::bytes(arena.pending_bytes),
            ]
        });
    }

    fn samples(&self, page: &mut Page) {
        let samples = &self.samples;
        page.heading(&samples.summary());
        if samples.interval_bytes == 0 {
            return;
        }
        let bytes = |value| text::bytes(value);
        let time = |value| text::time(value as f64);
        page.quantiles("size", &samples.size, &bytes);
        page.quantiles("lifetime", &samples.lifetime_ns, &time);
        page.quantiles("latency", &samples.latency_ns, &time);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&ReportOptions::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::stats::ClassStats;

    fn report() -> Report {
        let class = |bytes: usize, held_bytes| ClassStats {
            bytes,
            allocations: 1,
            held_bytes,
            ..ClassStats::default()
        };
        let mut live = LeakReport::new("pool");
        for number in 0..30_usize {
            let name = Name::intern(&format!("report-test-{number:02}\n{}", "x".repeat(200)));
            live.add(name, 100 * (number + 1));
        }
        Report {
            allocator: "pool".to_owned(),
            stats: Stats {
                classes: (1..=20)
                    .map(|one| class(256 * one, (one as u64 % 7) << 20))
                    .collect(),
                ..Stats::default()
            },
            live: live.sorted(&[]),
            ..Report::default()
        }
    }

    #[test]
    fn sections_are_sorted_and_cut() {
        let options = ReportOptions {
            top: 3,
            ..ReportOptions::default()
        };
        let text = report().text(&options);
        let lines: Vec<_> = text.lines().collect();
        let after = |heading: &str| {
            let at = lines.iter().position(|line| line.starts_with(heading));
            at.unwrap_or_else(|| panic!("{heading} is missing in {text}")) + 1
        };
        let classes = after("Size classes by bytes held (20 of 20");
        // 13 x 256 and 6 x 256 hold 6 MiB; equal ones keep the order of sizes.
        let sizes: Vec<_> = (1..=3)
            .map(|line| lines[classes + line].split_whitespace().next().unwrap())
            .collect();
        assert_eq!(sizes, ["1.50", "3.25", "5.00"].map(|size| size), "{text}");
        assert_eq!(lines[classes + 4], "  and 17 more");
        let live = after("Live buffers by name: 30");
        assert!(lines[live].contains("report-test-29\\n"), "{text}");
        assert!(lines[live + 1].contains("report-test-28"), "{text}");
        assert_eq!(lines[live + 3], "  and 27 more");
    }

    #[test]
    fn columns_are_whole_and_those_left_out_are_named() {
        let line = |text: &str, start: &str| {
            let mut lines = text.lines();
            let found = lines.find(|line| line.trim_start().starts_with(start));
            found
                .unwrap_or_else(|| panic!("{start} is missing in {text}"))
                .to_owned()
        };
        let text = report().text(&ReportOptions::default());
        let heading = line(&text, "CLASS");
        assert!(heading.ends_with("EXTERNAL"), "{text}");
        // 20 x 256 bytes hold 6 MiB, of which one block is live.
        assert!(line(&text, "5.00 KiB").ends_with("6.00 MiB"), "{text}");
        assert!(!text.contains("not shown"), "{text}");
        let narrow = ReportOptions {
            width: 80,
            ..ReportOptions::default()
        };
        let text = report().text(&narrow);
        assert!(line(&text, "CLASS").ends_with("PEAK"), "{text}");
        let left_out = line(&text, "not shown");
        assert!(left_out.contains("INTERNAL, EXTERNAL"), "{text}");
        let widest = ReportOptions {
            width: 95,
            ..narrow
        };
        assert!(left_out.contains("95") && !report().text(&widest).contains("not shown"));
    }

    #[test]
    fn lines_keep_the_width() {
        for width in [0, 40, 60, 100, 200] {
            let options = ReportOptions {
                width,
                ..ReportOptions::default()
            };
            let text = report().text(&options);
            for line in text.lines() {
                assert!(line.chars().count() <= width.max(40), "{line:?}");
            }
        }
    }
}

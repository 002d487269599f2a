//! Where a pool tells its watchers what happens, and what it can tell by walking.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::time::Instant;

use super::Pool;
use crate::arena::Home;
use crate::block::{Block, ListId};
use crate::dashboard::Dashboard;
use crate::env::StatsOnExit;
use crate::error::ErrorKind;
use crate::health::Health;
use crate::name::Name;
use crate::report::{ArenaReport, LeakReport, Report};
use crate::sampler::Samples;
use crate::sync::{Arc, Ordering};
use crate::trace::{Op, Recorder};

/// A number that no other live block has: where its record is.
fn id_of(block: &Block) -> usize {
    std::ptr::from_ref(block.as_record()).addr()
}

/// Writes to standard error; where that fails, there is nobody to tell.
fn print(text: fmt::Arguments<'_>) {
    let _lost = writeln!(io::stderr(), "{text}");
}

impl Pool {
    /// Writes a leak report to standard error, where debugging is asked for and nobody takes log lines.
    pub(crate) fn show_leaks(&self, report: &LeakReport) {
        if self.observer.debug_checks && !tracing::dispatcher::has_been_set() {
            print(format_args!("{}: {report}", self.name));
        }
    }

    /// Takes note of a block that is about to be handed out, and is counted. A sampled one leaves its list,
    /// so that no thread keeps it and its free is seen.
    pub(super) fn observe_allocation(
        &self,
        block: &Block,
        (requested, name): (usize, Name),
        stream: u64,
        sampled: Option<Instant>,
    ) {
        if let Some(start) = sampled {
            let latency = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if block.list().is_some() {
                block.set_list(ListId::SAMPLED);
            }
            let sampler = &self.observer.sampler;
            sampler.allocated(id_of(block), requested, block.bytes(), name, latency);
        }
        if self.observer.recording() {
            self.observer
                .record(Op::Allocate, id_of(block), requested, stream);
        }
    }

    /// Takes note of a block that was given back, is not counted and not yet anybody else's. A sample
    /// returns to its list.
    pub(super) fn observe_free(&self, block: &Block, stream: Option<u64>) {
        if self.observer.recording() {
            let stream = stream.unwrap_or_else(|| {
                let point = block.point();
                point.map_or(0, |point| u64::from(point.queue) + 1)
            });
            self.observer
                .record(Op::Free, id_of(block), block.requested(), stream);
        }
        if !block.list().is_some() {
            self.observer.sampler.freed(id_of(block));
        }
        if block.list() == ListId::SAMPLED {
            block.set_list(self.classes.list_of(block));
        }
        // What a strategy kept from the threads' caches it may not any more.
        if !block.is_kept() {
            block.set_thread_max(self.thread_max(block.list()));
        }
    }

    /// Counts a failed allocation.
    pub(super) fn observe_failure(&self, kind: ErrorKind) {
        if matches!(kind, ErrorKind::OutOfMemory | ErrorKind::LimitExceeded) {
            let failures = &self.observer.memory_failures;
            failures.fetch_add(1, Ordering::Relaxed);
            self.observer.memory_failed.note();
        }
    }

    pub(crate) fn set_recorder(&self, recorder: Option<Arc<Recorder>>) -> Option<Arc<Recorder>> {
        let before = self.observer.set_recorder(recorder);
        self.update_bypass();
        before
    }

    pub(crate) fn samples(&self) -> Samples {
        self.observer.sampler.read()
    }

    pub(crate) fn dashboard(&self) -> Dashboard {
        Dashboard {
            allocator: self.name.clone(),
            stats: self.stats(),
            samples: self.samples(),
            finished: false,
        }
    }

    pub(crate) fn report(&self) -> Report {
        let stats = self.stats();
        Report {
            allocator: self.name.clone(),
            health: Health::of(&stats),
            stats,
            live: self.live_report(),
            arenas: self.arena_reports(),
            samples: self.samples(),
        }
    }

    fn arena_reports(&self) -> Vec<ArenaReport> {
        let mut reports = Vec::new();
        for (arena, small) in self.arenas.iter() {
            let Home { storage, node, .. } = arena.home();
            let node = self.arenas.number_of(storage, node);
            let report = |free: crate::arena::FreeBytes, segments, small| ArenaReport {
                storage,
                node,
                small,
                segments,
                free_bytes: free.bytes as u64,
                largest_free: free.largest as u64,
                pending_bytes: free.pending as u64,
            };
            reports.push(report(arena.free(), arena.pieces(), false));
            reports.push(report(small.free(), 0, true));
        }
        reports.retain(|one| one.segments > 0 || one.free_bytes + one.pending_bytes > 0);
        reports
    }

    /// What was asked to be done when the last handle goes.
    pub(crate) fn finish_watching(&self) {
        if self.observer.debug_checks {
            self.check();
        }
        match self.observer.stats_on_exit {
            None => {}
            Some(StatsOnExit::Summary) => print(format_args!("{}", self.dashboard().line())),
            #[cfg(feature = "serde")]
            Some(StatsOnExit::Json) => print(format_args!("{}", self.report().to_json())),
            // Refused when the configuration was validated.
            #[cfg(not(feature = "serde"))]
            Some(StatsOnExit::Json) => {}
            Some(StatsOnExit::Full) => {
                print(format_args!("{}\n{}", self.dashboard(), self.report()));
            }
        }
    }

    /// Compares the counters with a walk, if nobody allocates or frees meanwhile.
    fn check(&self) {
        let before = self.stats();
        let walked = self.live_report();
        let after = self.stats();
        let quiet = (before.allocations, before.frees) == (after.allocations, after.frees);
        let buffers = before.allocations.wrapping_sub(before.frees);
        let same = (walked.bytes() as u64, walked.count() as u64) == (before.live.value, buffers);
        if quiet && !same {
            tracing::error!(
                pool = %self.name,
                counted_bytes = before.live.value,
                counted_buffers = buffers,
                walked_bytes = walked.bytes(),
                walked_buffers = walked.count(),
                "counters and live buffers differ"
            );
        }
    }
}

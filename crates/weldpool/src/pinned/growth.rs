//! The thread that obtains pinned memory, a step at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;

use super::PINNED;
use super::config::PinnedConfig;
use super::demand::Task;
use super::ledger::{Ledger, Work};
use crate::allocator::Allocator;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// What the thread needs.
#[derive(Debug)]
pub(super) struct Growth {
    allocator: Allocator,
    ledger: Arc<Ledger>,
    step_bytes: usize,
    ahead_bytes: u64,
    /// Whether memory of several steps is one piece.
    joins: bool,
}

impl Growth {
    pub(super) fn new(allocator: &Allocator, config: &PinnedConfig, ledger: &Arc<Ledger>) -> Self {
        Self {
            allocator: allocator.clone(),
            ledger: Arc::clone(ledger),
            step_bytes: config.growth_bytes,
            ahead_bytes: config.reserve_bytes,
            joins: allocator.device().virtual_memory(PINNED).is_some(),
        }
    }

    pub(super) fn start(self) -> Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("weldpool-pinned".into())
            .spawn(move || self.run())
            .map_err(|error| {
                Error::system(
                    ErrorKind::System,
                    "spawn of the thread that pins memory",
                    &error,
                )
            })
    }

    fn run(self) {
        loop {
            match self.ledger.work() {
                Work::Serve(task) => self.serve(task),
                Work::GetAhead => self.get_ahead(),
                Work::Stop => return,
            }
        }
    }

    /// A step for a demand.
    fn serve(&self, task: Task) {
        let free = self.allocator.pool().free_of(PINNED);
        if !task.insists && free.largest >= task.need {
            self.ledger.suffices(task.id);
            return;
        }
        let missing = task.need.saturating_sub(task.grown);
        let bytes = match self.joins {
            true if task.grown > 0 => missing.min(self.step_bytes),
            true => self.step_bytes,
            false => task.need.max(self.step_bytes),
        };
        let start = Instant::now();
        match self.obtain(bytes) {
            Ok(bytes) => self.ledger.grew(Some(task.id), bytes, start.elapsed()),
            Err(error) => self.failed(task.need, &error),
        }
    }

    /// Steps until enough is free, or somebody wants something else, which comes first.
    fn get_ahead(&self) {
        loop {
            // Read before: what is handed out meanwhile is missing twice rather than not at all.
            let out = self.ledger.live_bytes();
            let free = self.allocator.pool().free_of(PINNED).bytes as u64;
            if let Some(more) = free.checked_sub(self.ahead_bytes) {
                self.ledger.ahead_for(out, more);
                return;
            }
            if self.ledger.interrupts() {
                return;
            }
            let start = Instant::now();
            match self.obtain(self.step_bytes) {
                Ok(bytes) => self.ledger.grew(None, bytes, start.elapsed()),
                Err(error) => {
                    // Whoever waits has a try of its own.
                    self.failed(usize::MAX, &error);
                    // Not again before the program has changed.
                    self.ledger.ahead_for(out, self.step_bytes as u64);
                    return;
                }
            }
        }
    }

    fn obtain(&self, bytes: usize) -> Result<usize> {
        let reserve = || self.allocator.reserve(bytes, PINNED);
        // Of a device that is not ours: nobody must wait for a thread that is gone.
        catch_unwind(AssertUnwindSafe(reserve)).unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::System,
                "the device panicked while memory was being pinned",
            ))
        })
    }

    fn failed(&self, need: usize, error: &Error) {
        tracing::warn!(%error, pool = self.allocator.name(), "memory could not be pinned");
        self.ledger.growth_failed(need, error);
    }
}

//! What is done when neither the device nor the limit allows more memory: step after step, each counted,
//! and the request tried again behind each that did something.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Pool;
use super::place::{Party, Place};
use crate::arena::Source;
use crate::block::{Block, CacheKey};
use crate::error::{Error, ErrorKind, Result};
use crate::out_of_memory::{OutOfMemory, Recourse, RecoveryStep};
use crate::profiling::SlowPath;
use crate::request::Request;
use crate::sync::Arc;

/// Times that callbacks are asked for one request.
const ROUNDS_MAX: u32 = 4;

/// A request that found no memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shortage<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) place: Place,
    pub(super) key: CacheKey,
    /// Number of its queue.
    pub(super) queue: Option<u32>,
    /// Whether it bypasses the pools.
    pub(super) direct: bool,
}

/// Whether returning or waiting may help against an error.
pub(super) fn is_shortage(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::OutOfMemory | ErrorKind::LimitExceeded
    )
}

thread_local! {
    /// Whether this thread is inside a callback, for whose requests nobody is asked.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as asking until it is dropped.
struct Asking;

impl Asking {
    fn begin() -> Option<Self> {
        (!ASKING.replace(true)).then_some(Self)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.set(false);
    }
}

impl Pool {
    /// Whether what is idle could make place for a request: it is no larger than the limit, or what is held
    /// beyond that, and no larger than all the device has.
    pub(super) fn may_hold(&self, place: &Place) -> bool {
        let bytes = place.bytes as u64;
        let held = |limit: u64| limit.max(self.reserve.committed());
        let limit = self.reserve.limit().map(held);
        limit.is_none_or(|limit| bytes <= limit) && self.device.may_have(place.bytes, place.storage)
    }

    /// Takes the steps of recovery until one lets the request succeed; else returns `first`, which is
    /// what was said before any of them.
    pub(super) fn recover(
        self: &Arc<Self>,
        shortage: &Shortage<'_>,
        first: Error,
    ) -> Result<(Block, Source)> {
        let bytes = shortage.request.bytes;
        let _span = self.device.span(SlowPath::Recovery, bytes);
        self.out_of_memory.begun();
        tracing::debug!(pool = %self.name, bytes, error = %first, "memory is out");
        for round in 1..=ROUNDS_MAX {
            let mut retry = false;
            // What is larger than all there may be is served only if somebody raises the limit.
            let hopeless = !self.may_hold(&shortage.place);
            for step in RecoveryStep::ALL {
                let helps = step == RecoveryStep::AskCallbacks || !hopeless;
                if !helps || !self.take_step(step, shortage, round, &first) {
                    continue;
                }
                self.out_of_memory.taken(step);
                let step_name = step.name();
                match self.attempt(shortage, step) {
                    Ok(served) => {
                        self.out_of_memory.resolved(step);
                        tracing::debug!(pool = %self.name, bytes, step_name, round, "memory was found");
                        return Ok(served);
                    }
                    Err(error) if is_shortage(&error) => {
                        tracing::debug!(pool = %self.name, bytes, step_name, round, "memory is still out");
                    }
                    Err(error) => {
                        self.out_of_memory.failed();
                        return Err(error);
                    }
                }
                retry = step == RecoveryStep::AskCallbacks;
            }
            // Unless somebody freed something, another round would find what this one found.
            if !retry {
                break;
            }
        }
        self.out_of_memory.failed();
        tracing::warn!(pool = %self.name, bytes, error = %first, "memory is out and nothing helped");
        Err(first)
    }

    /// The request once more. What other nodes hold is looked at when it did not go back to the device to be
    /// had on the request's own.
    fn attempt(
        self: &Arc<Self>,
        shortage: &Shortage<'_>,
        step: RecoveryStep,
    ) -> Result<(Block, Source)> {
        let place = shortage.place;
        if shortage.direct {
            return self.obtain_direct(place);
        }
        let party = Party {
            key: shortage.key,
            queue: shortage.queue,
            contended: true,
            live: self.live_with(place),
            recorded: self.is_recording(shortage.queue),
        };
        let served = self.obtain_again(place, party, step)?;
        self.reserve.note_live(party.live);
        Ok(served)
    }

    fn obtain_again(
        self: &Arc<Self>,
        place: Place,
        party: Party,
        step: RecoveryStep,
    ) -> Result<(Block, Source)> {
        if let Some(block) = self.obtain_held(place, party) {
            return Ok((block, Source::Held));
        }
        let grown = self.grow(place, party);
        let early = matches!(
            step,
            RecoveryStep::FlushCaches | RecoveryStep::CollectFences
        );
        if early || !grown.as_ref().is_err_and(is_shortage) {
            return grown;
        }
        let held = |place| self.obtain_held(place, party);
        match self.elsewhere(place).find_map(held) {
            Some(block) => Ok((block, Source::Held)),
            None => grown,
        }
    }

    /// Takes a step; false when there was nothing to do.
    fn take_step(
        &self,
        step: RecoveryStep,
        shortage: &Shortage<'_>,
        round: u32,
        first: &Error,
    ) -> bool {
        match step {
            RecoveryStep::FlushCaches => {
                self.drain_caches(true);
                true
            }
            RecoveryStep::CollectFences => self.collect(true),
            // What could not go back may serve from another node.
            RecoveryStep::ReturnIdle => {
                self.trim(usize::MAX) > 0 || self.arenas.are_spread(shortage.place.storage)
            }
            RecoveryStep::AssessPressure => {
                let assessed = self
                    .supervisor()
                    .is_some_and(|supervisor| supervisor.assess());
                if assessed {
                    let _bytes = self.clear();
                }
                assessed
            }
            RecoveryStep::AwaitWork => {
                if self.deferred_bytes() == 0 {
                    return false;
                }
                self.wait(self.wait_max);
                // What was waited for may have to take another form.
                self.drain_caches(true);
                self.trim(usize::MAX);
                true
            }
            RecoveryStep::AskCallbacks => {
                let retry = self.ask(shortage, round, first);
                if retry && self.may_hold(&shortage.place) {
                    // What was freed lies in caches.
                    let _bytes = self.clear();
                }
                retry
            }
        }
    }

    /// Asks all callbacks; whether one of them wants the request tried again.
    fn ask(&self, shortage: &Shortage<'_>, round: u32, first: &Error) -> bool {
        let callbacks = self.callbacks.all();
        if callbacks.is_empty() {
            return false;
        }
        let Some(_asking) = Asking::begin() else {
            return false;
        };
        let state = self.state();
        let request = shortage.request;
        let event = OutOfMemory {
            requested_bytes: request.bytes,
            alignment: shortage.place.alignment,
            storage: request.storage,
            name: request.name.as_str(),
            round,
            error: first,
            live_bytes: state.live_bytes,
            cached_bytes: state.cached_bytes,
            reserved_bytes: state.reserved_bytes,
            limit_bytes: state.limit_bytes,
            largest_free_bytes: state.largest_free_bytes,
        };
        let mut retry = false;
        for callback in callbacks {
            match catch_unwind(AssertUnwindSafe(|| callback.call(&event))) {
                Ok(Recourse::Retry) => retry = true,
                Ok(Recourse::GiveUp) => {}
                Err(_) => {
                    self.out_of_memory.panicked();
                    tracing::error!(pool = %self.name, "a callback for when memory is out panicked");
                }
            }
        }
        retry
    }
}

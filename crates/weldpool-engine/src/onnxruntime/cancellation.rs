//! Stopping a run from another thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::raw::RunOptions;
use crate::{Canceller, Error, ErrorKind};

/// The options of an instance's runs, through which the library is told to end one.
#[derive(Clone, Debug)]
pub(super) struct Cancellation(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: RunOptions,
    run: Mutex<Run>,
}

/// What the instance does. The library's flag is set if, and only if, this is `Cancelled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Idle,
    Running,
    Cancelled,
}

impl Cancellation {
    pub(super) fn new(options: RunOptions) -> Cancellation {
        Cancellation(Arc::new(Shared {
            options,
            run: Mutex::new(Run::Idle),
        }))
    }

    pub(super) fn options(&self) -> &RunOptions {
        &self.0.options
    }

    pub(super) fn canceller(&self) -> Canceller {
        let shared = Arc::clone(&self.0);
        Canceller::new(move || shared.cancel())
    }

    /// Lets the run be cancelled that goes on until the returned value is dropped.
    pub(super) fn begin(&self) -> Cancellable {
        *self.0.run() = Run::Running;
        Cancellable(Arc::clone(&self.0))
    }
}

/// A run that may be cancelled.
#[derive(Debug)]
pub(super) struct Cancellable(Arc<Shared>);

impl Cancellable {
    /// Tells the library's failure at the flag from failures of its own.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Execution && *self.0.run() == Run::Cancelled {
            return Error::new(ErrorKind::Cancelled, "the run was cancelled");
        }
        error
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let mut run = self.0.run();
        if *run == Run::Cancelled {
            self.0.set(false);
        }
        *run = Run::Idle;
    }
}

impl Shared {
    fn cancel(&self) {
        let mut run = self.run();
        if *run == Run::Running {
            *run = Run::Cancelled;
            self.set(true);
        }
    }

    fn set(&self, terminate: bool) {
        if let Err(status) = self.options.set_terminate(terminate) {
            tracing::error!("onnxruntime cannot end a run: {}", status.message);
        }
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        // One whole value is stored, so what a panicking thread left behind is good.
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

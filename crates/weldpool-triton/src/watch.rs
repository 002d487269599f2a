//! Watches the requests that are running, and stops runs that nobody waits for any more.
//!
//! Triton tells of a cancelled request only who asks. A thread asks for runs that have lasted some time already, so
//! short ones pay for a place on its list alone.
#![allow(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weldpool_engine::Canceller;

use crate::error::{Error, Result};
use crate::few::Few;
use crate::handles::{Request, Watched};

/// How long a run lasts before its requests are looked at, and how often that happens.
const INTERVAL: Duration = Duration::from_millis(20);

/// The thread, and the runs it watches. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    runs: Vec<Run>,
    begun: u64,
    /// Whether the thread sleeps until it is told of a run.
    idle: bool,
    ended: bool,
}

#[derive(Debug)]
struct Run {
    number: u64,
    since: Instant,
    requests: Few<Watched>,
    canceller: Canceller,
}

impl Watcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Internal` where there is no thread.
    pub(crate) fn start() -> Result<Watcher> {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new()
            .name("weldpool-watch".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.serve()
            })
            .map_err(|error| Error::internal(format!("no thread to watch requests: {error}")))?;
        Ok(Watcher {
            shared,
            thread: Some(thread),
        })
    }

    /// Runs `run`, which the canceller stops once all of the requests were given up.
    pub(crate) fn during<T>(
        &self,
        requests: &[&Request],
        canceller: &Canceller,
        run: impl FnOnce() -> T,
    ) -> T {
        let mut state = self.shared.state();
        state.begun += 1;
        let number = state.begun;
        state.runs.push(Run {
            number,
            since: Instant::now(),
            requests: requests
                .iter()
                // SAFETY: the run is taken off the list before this function returns, and the requests are
                // borrowed until then.
                .map(|request| unsafe { request.watched() })
                .collect(),
            canceller: canceller.clone(),
        });
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.shared.changed.notify_one();
        }
        // Takes the run off the list also when it panics: the requests are not the thread's afterwards.
        let _listed = Listed {
            shared: &self.shared,
            number,
        };
        run()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            drop(thread.join());
        }
    }
}

struct Listed<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let runs = &mut self.shared.state().runs;
        if let Some(place) = runs.iter().position(|run| run.number == self.number) {
            runs.swap_remove(place);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The list is whole between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.state();
        let mut seen = 0;
        while !state.ended {
            // A thread that sleeps without a time limit costs nothing, one that must be woken for each run much.
            state = if state.runs.is_empty() && state.begun == seen {
                state.idle = true;
                self.changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                seen = state.begun;
                self.changed
                    .wait_timeout(state, INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            };
            for run in &state.runs {
                if run.since.elapsed() >= INTERVAL && run.requests.iter().all(Watched::is_cancelled)
                {
                    // Under the lock: it is still this run, and no later one of the instance.
                    run.canceller.cancel();
                }
            }
        }
    }
}

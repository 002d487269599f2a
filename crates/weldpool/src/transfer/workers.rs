//! Threads that help with work, started when there is some, ended when there was none for a while.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex};

/// How long a thread waits for work that is not ready, once for all that there is.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a thread can be given.
pub(super) trait Work: Send + Sync {
    fn work(self: Arc<Self>, group: &Arc<Group>);
}

/// A group of threads. Dropping it does what is waiting and ends them.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Group>,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Group {
    name: &'static str,
    threads_max: usize,
    idle_max: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<dyn Work>>,
    /// How often work was put back since a thread was last to wait for some.
    put_back: usize,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    ending: bool,
    handles: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Workers {
    pub(super) fn new(name: &'static str, threads_max: usize, idle_max: Duration) -> Self {
        Self {
            shared: Arc::new(Group {
                name,
                threads_max,
                idle_max,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    pub(super) fn threads(&self) -> usize {
        self.shared.state.lock().threads
    }

    /// Has `count` threads do the work, as soon as they are free.
    ///
    /// # Errors
    ///
    /// [`System`](ErrorKind::System) when there is no thread and none can be made; nothing will be done then.
    pub(super) fn give(&self, work: &Arc<dyn Work>, count: usize) -> Result<()> {
        self.shared.give(work, count)
    }
}

impl Group {
    /// As [`Workers::give`].
    pub(super) fn give(self: &Arc<Self>, work: &Arc<dyn Work>, count: usize) -> Result<()> {
        let mut state = self.state.lock();
        for _ in 0..count {
            state.waiting.push_back(Arc::clone(work));
        }
        let free = self.threads_max - state.threads;
        let missing = state.waiting.len().saturating_sub(state.idle).min(free);
        for _ in 0..missing {
            if let Err(error) = self.start(&mut state) {
                if state.threads == 0 {
                    state.waiting.clear();
                    return Err(error);
                }
                tracing::warn!(%error, "copies go on with fewer threads");
                break;
            }
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// For how long work may wait before it is [put back](Self::put_back): not at all while there is other work that no
    /// thread has looked at since the last wait.
    pub(super) fn patience(&self) -> Duration {
        let mut state = self.state.lock();
        if state.waiting.len() > state.put_back {
            return Duration::ZERO;
        }
        state.put_back = 0;
        PATIENCE
    }

    /// Has a thread look at the work again when it comes to it.
    pub(super) fn put_back(&self, work: Arc<dyn Work>) {
        let mut state = self.state.lock();
        state.put_back += 1;
        state.waiting.push_back(work);
        drop(state);
        self.changed.notify_one();
    }

    fn start(self: &Arc<Self>, state: &mut State) -> Result<()> {
        // Of threads that have ended nothing is needed any more.
        state.handles.retain(|handle| !handle.is_finished());
        let shared = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name(self.name.into())
            .spawn(move || shared.run())
            .map_err(|error| Error::system(ErrorKind::System, "spawn of a thread", &error))?;
        state.handles.push(handle);
        state.threads += 1;
        Ok(())
    }

    fn run(self: &Arc<Self>) {
        while let Some(work) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| work.work(self))).is_err() {
                tracing::error!("work of {} panicked", self.name);
            }
        }
    }

    /// The next work; none when the thread is to end.
    fn next(&self) -> Option<Arc<dyn Work>> {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            if state.ending {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let woken = self.changed.wait_timeout(state, self.idle_max);
            let (guard, timeout) = woken.unwrap_or_else(|poison| poison.into_inner());
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.lock().ending = true;
        self.shared.changed.notify_all();
        let this = std::thread::current().id();
        // Again, since work may start threads that help with it.
        loop {
            let handles = std::mem::take(&mut self.shared.state.lock().handles);
            // A callback that owned the last handle may be what ends the group; others may be waiting for it.
            if handles.is_empty() || handles.iter().any(|handle| handle.thread().id() == this) {
                return;
            }
            for handle in handles {
                let _panicked = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sync::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Work for Count {
        fn work(self: Arc<Self>, _group: &Arc<Group>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Panics;

    impl Work for Panics {
        fn work(self: Arc<Self>, _group: &Arc<Group>) {
            panic!("on purpose");
        }
    }

    #[test]
    fn what_waits_is_done_before_the_end_and_a_panic_ends_no_thread() {
        let workers = Workers::new("test", 2, Duration::from_secs(60));
        assert_eq!(workers.threads(), 0);
        let count = Arc::new(Count::default());
        let work: Arc<dyn Work> = count.clone();
        workers
            .give(&(Arc::new(Panics) as Arc<dyn Work>), 2)
            .unwrap();
        workers.give(&work, 100).unwrap();
        assert!((1..=2).contains(&workers.threads()));
        drop(workers);
        assert_eq!(count.0.load(Ordering::SeqCst), 100);
    }

    /// Work that has another thread do the rest, and that rest.
    #[derive(Default)]
    struct Shared {
        begun: AtomicUsize,
        done: AtomicUsize,
    }

    impl Work for Shared {
        fn work(self: Arc<Self>, group: &Arc<Group>) {
            let pause = || std::thread::sleep(Duration::from_millis(100));
            if self.begun.fetch_add(1, Ordering::SeqCst) == 0 {
                // Until the group is being dropped.
                pause();
                let rest: Arc<dyn Work> = self.clone();
                group.give(&rest, 1).unwrap();
                while self.begun.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            } else {
                pause();
                self.done.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    #[test]
    fn the_end_waits_for_threads_that_work_starts_meanwhile() {
        let workers = Workers::new("test", 2, Duration::from_secs(60));
        let shared = Arc::new(Shared::default());
        let work: Arc<dyn Work> = shared.clone();
        workers.give(&work, 1).unwrap();
        while shared.begun.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(workers);
        assert_eq!(shared.done.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thread_waits_once_for_all_that_there_is() {
        let workers = Workers::new("test", 1, Duration::from_secs(60));
        let group = &workers.shared;
        let work: Arc<dyn Work> = Arc::new(Count::default());
        let next = || drop(group.state.lock().waiting.pop_front());
        // No thread is started, so this one goes round.
        group
            .state
            .lock()
            .waiting
            .extend([(); 3].map(|()| Arc::clone(&work)));
        // Whatever was waited for needs no second look at once.
        for others_wait in [true, true, false, true, false, true, false] {
            next();
            assert_eq!(group.patience().is_zero(), others_wait);
            group.put_back(Arc::clone(&work));
        }
        group.state.lock().waiting.clear();
    }

    #[test]
    fn idle_threads_end_and_new_ones_begin() {
        let workers = Workers::new("test", 4, Duration::from_millis(1));
        let count = Arc::new(Count::default());
        let work: Arc<dyn Work> = count.clone();
        for round in 1..=3 {
            workers.give(&work, 4).unwrap();
            let start = Instant::now();
            while workers.threads() > 0 || count.0.load(Ordering::SeqCst) < round * 4 {
                assert!(start.elapsed() < Duration::from_secs(20));
                std::thread::yield_now();
            }
        }
    }
}

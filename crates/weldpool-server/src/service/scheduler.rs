//! The way of a request to an instance: a bounded queue per model, one thread per instance, and a
//! short cut for models that answer faster than a thread can be woken.
//!
//! An instance is used by one thread at a time, which its lock holds by type. A request that finds
//! an instance idle and nothing waiting runs on the caller's thread when such runs are short: two
//! switches between threads cost some 20 us, more than many a run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weldpool_engine::{Instance, OutputRequest, Tensor};

use crate::error::{Error, ErrorKind, Result};

/// A run that takes no longer than this many nanoseconds is short.
const SHORT_NS_MAX: u64 = 200_000;
/// Weight of the latest run in the usual run: one part in so many.
const SMOOTHING: u64 = 8;

/// One run of the engine.
#[derive(Debug)]
pub(crate) struct Run {
    /// Inputs by their names in the model.
    pub(crate) inputs: Vec<(Arc<str>, Tensor)>,
    /// Names of the wanted outputs in the model.
    pub(crate) outputs: Vec<Arc<str>>,
    /// When to give up waiting.
    pub(crate) deadline: Option<Instant>,
}

impl Run {
    fn input_bytes(&self) -> usize {
        self.inputs
            .iter()
            .map(|(_, tensor)| tensor.byte_len())
            .sum()
    }
}

/// What a run gave, and how long it waited and took.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

struct Job {
    run: Run,
    queued: Instant,
    reply: oneshot::Sender<Result<Done>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    model: String,
    queue: Mutex<Queue>,
    arrived: Condvar,
    instances: Vec<Mutex<Box<dyn Instance>>>,
    queue_length_max: usize,
    /// Smoothed duration of a run that succeeded; zero before the first.
    usual_ns: AtomicU64,
    /// Largest inputs of a run that was short, in bytes.
    short_bytes: AtomicUsize,
}

/// The queue of one model and the threads of its instances. Dropping it answers what waits with an
/// error; runs under way end, and the threads with them.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("model", &self.shared.model)
            .field("instances", &self.shared.instances.len())
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Starts a thread for each instance.
    pub(crate) fn start(
        model: &str,
        instances: Vec<Box<dyn Instance>>,
        queue_length_max: usize,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            model: model.to_owned(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            instances: instances.into_iter().map(Mutex::new).collect(),
            queue_length_max,
            usual_ns: AtomicU64::new(0),
            short_bytes: AtomicUsize::new(0),
        });
        let mut scheduler = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for index in 0..shared.instances.len() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("{model}_{index}"))
                .spawn(move || shared.serve(index))
                .map_err(|error| {
                    Error::internal(format!("no thread for an instance of '{model}': {error}"))
                })?;
            scheduler.threads.push(thread);
        }
        Ok(scheduler)
    }

    /// Runs the model. Dropping the future before the run has begun cancels it.
    pub(crate) async fn run(&self, run: Run) -> Result<Done> {
        let queued = Instant::now();
        if self.shared.is_short(&run)
            && let Some(mut instance) = self.shared.idle_instance()
        {
            return self.shared.execute(instance.as_mut(), &run, queued);
        }
        let (reply, answer) = oneshot::channel();
        self.shared.submit(Job { run, queued, reply })?;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(Error::unavailable(format!(
                "model '{}' was unloaded while the request waited",
                self.shared.model
            ))),
        }
    }

    /// Ends the threads and waits for them, so that the memory of the instances is free afterwards.
    /// Blocks while a run is under way.
    pub(crate) fn stop(mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // Panics of a run are caught; there is nothing to tell here.
            let _panic = thread.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    /// Answers what waits with an error and lets the threads end.
    fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(waiting);
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance nobody uses, unless others wait already.
    fn idle_instance(&self) -> Option<MutexGuard<'_, Box<dyn Instance>>> {
        if !self.lock().jobs.is_empty() {
            return None;
        }
        self.instances
            .iter()
            .find_map(|instance| match instance.try_lock() {
                Ok(instance) => Some(instance),
                Err(std::sync::TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
                Err(std::sync::TryLockError::WouldBlock) => None,
            })
    }

    fn submit(&self, job: Job) -> Result<()> {
        let mut queue = self.lock();
        if queue.jobs.len() >= self.queue_length_max {
            // Requests whose clients have gone make room first.
            queue.jobs.retain(|job| !job.reply.is_closed());
        }
        if queue.jobs.len() >= self.queue_length_max {
            return Err(Error::unavailable(format!(
                "exceeds maximum queue size of {} for model '{}'",
                self.queue_length_max, self.model
            )));
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self
                .arrived
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn serve(&self, index: usize) {
        while let Some(Job { run, queued, reply }) = self.next() {
            if reply.is_closed() {
                continue;
            }
            let mut instance = self.instances[index]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let result = self.execute(instance.as_mut(), &run, queued);
            drop(instance);
            // Before the answer, so that whoever gets it finds the memory free.
            drop(run);
            // The client may have gone meanwhile; then there is nobody to tell.
            let _gone = reply.send(result);
        }
    }

    fn execute(&self, instance: &mut dyn Instance, run: &Run, queued: Instant) -> Result<Done> {
        let start = Instant::now();
        if run.deadline.is_some_and(|deadline| start >= deadline) {
            return Err(Error::unavailable(format!(
                "request timeout expired in the queue of model '{}'",
                self.model
            )));
        }
        let inputs: Vec<(&str, &Tensor)> = run
            .inputs
            .iter()
            .map(|(name, tensor)| (&**name, tensor))
            .collect();
        let outputs: Vec<OutputRequest<'_>> = run
            .outputs
            .iter()
            .map(|name| OutputRequest::new(name))
            .collect();
        let result = catch_unwind(AssertUnwindSafe(|| instance.run(&inputs, &outputs)));
        let compute = start.elapsed();
        match result {
            Ok(result) => Ok(Done {
                outputs: result.inspect(|_| self.learn(run, compute))?,
                queue: start - queued,
                compute,
            }),
            Err(_) => Err(Error::new(
                ErrorKind::Internal,
                format!("the engine panicked while it ran model '{}'", self.model),
            )),
        }
    }

    /// Whether a run can be expected to end sooner than a thread is woken: runs of this model usually
    /// do, and one with inputs as large has.
    fn is_short(&self, run: &Run) -> bool {
        let usual_ns = self.usual_ns.load(Ordering::Relaxed);
        (1..=SHORT_NS_MAX).contains(&usual_ns)
            && run.input_bytes() <= self.short_bytes.load(Ordering::Relaxed)
    }

    /// Learns from a run that succeeded. Concurrent updates may lose one, which does no harm.
    fn learn(&self, run: &Run, compute: Duration) {
        let ns = u64::try_from(compute.as_nanos())
            .unwrap_or(u64::MAX / SMOOTHING)
            .max(1);
        let before = self.usual_ns.load(Ordering::Relaxed);
        let now = if before == 0 {
            ns
        } else {
            before - before / SMOOTHING + ns / SMOOTHING
        };
        self.usual_ns.store(now, Ordering::Relaxed);
        if ns <= SHORT_NS_MAX {
            self.short_bytes
                .fetch_max(run.input_bytes(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use weldpool_engine::{Input, Output};

    use super::*;

    /// An instance that does what a closure says.
    struct Scripted<F>(F);

    impl<F> std::fmt::Debug for Scripted<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Scripted")
        }
    }

    impl<F: FnMut() + Send> Instance for Scripted<F> {
        fn run_with(
            &mut self,
            _inputs: &[Input<'_>],
            _outputs: &mut [Output<'_>],
        ) -> weldpool_engine::Result<Vec<Option<Tensor>>> {
            (self.0)();
            Ok(Vec::new())
        }
    }

    fn run() -> Run {
        Run {
            inputs: Vec::new(),
            outputs: Vec::new(),
            deadline: None,
        }
    }

    fn scheduler(
        count: usize,
        room: usize,
        work: impl FnMut() + Send + Clone + 'static,
    ) -> Scheduler {
        let instances = (0..count)
            .map(|_| Box::new(Scripted(work.clone())) as Box<dyn Instance>)
            .collect();
        Scheduler::start("m", instances, room).unwrap()
    }

    #[tokio::test]
    async fn a_fast_model_moves_to_the_callers_thread() {
        let (sender, threads) = mpsc::channel();
        let scheduler = scheduler(1, 8, move || {
            sender.send(std::thread::current().id()).unwrap()
        });
        for _ in 0..20 {
            scheduler.run(run()).await.unwrap();
        }
        let threads: Vec<_> = threads.try_iter().collect();
        let here = std::thread::current().id();
        assert_ne!(threads[0], here, "nothing is known of the model at first");
        assert_eq!(threads[19], here);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_turns_requests_away_and_a_drop_answers_those_that_wait() {
        let open = Arc::new(AtomicBool::new(false));
        let gate = Arc::clone(&open);
        let work = move || {
            while !gate.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        };
        let scheduler = Arc::new(scheduler(1, 1, work));
        let spawn = || {
            let scheduler = Arc::clone(&scheduler);
            tokio::spawn(async move { scheduler.run(run()).await })
        };
        let running = spawn();
        while scheduler.shared.instances[0].try_lock().is_ok() {
            std::thread::yield_now();
        }
        let waiting = spawn();
        while scheduler.shared.lock().jobs.is_empty() {
            std::thread::yield_now();
        }
        let error = scheduler.run(run()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.message().contains("maximum queue size of 1"),
            "{error}"
        );
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        let replaces = spawn();
        while scheduler
            .shared
            .lock()
            .jobs
            .front()
            .is_none_or(|job| job.reply.is_closed())
        {
            std::thread::yield_now();
        }
        open.store(true, Ordering::Release);
        running.await.unwrap().unwrap();
        replaces.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_expired_request_is_not_run_and_a_panic_is_an_error() {
        let scheduler = scheduler(1, 8, || panic!("on purpose"));
        let late = Run {
            deadline: Some(Instant::now()),
            ..run()
        };
        assert!(
            scheduler
                .run(late)
                .await
                .unwrap_err()
                .message()
                .contains("timeout")
        );
        let error = scheduler.run(run()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(
            scheduler.run(run()).await.unwrap_err(),
            error,
            "the instance goes on"
        );
    }
}

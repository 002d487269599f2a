//! The way of a request to an instance: a bounded queue per model, one thread per instance, and a
//! short cut for models that answer faster than a thread can be woken.
//!
//! An instance is used by one thread at a time, which its lock holds by type. A request that finds
//! an instance idle and nothing waiting runs on the caller's thread when the model's usual run is
//! short; two switches between threads cost some 20 us here, more than such a run takes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weldpool_engine::{Instance, OutputRequest, Tensor};

use crate::error::{Error, ErrorKind, Result};

/// A model whose usual run is shorter than this many nanoseconds runs on the caller's thread.
const INLINE_NS_MAX: u64 = 200_000;
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
    /// Smoothed duration of a run; zero before the first.
    usual_ns: AtomicU64,
    inline: AtomicBool,
}

/// The queue of one model and the threads of its instances. Dropping it answers what waits with an
/// error, lets runs under way end, and joins the threads, so that the instances' memory is free when
/// the drop returns.
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
            inline: AtomicBool::new(false),
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
        if self.shared.inline.load(Ordering::Relaxed)
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
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of a run are caught; there is nothing to tell here.
            let _panic = thread.join();
        }
    }
}

impl Shared {
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
        while let Some(job) = self.next() {
            if job.reply.is_closed() {
                continue;
            }
            let mut instance = self.instances[index]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let result = self.execute(instance.as_mut(), &job.run, job.queued);
            drop(instance);
            // The client may have gone meanwhile; then there is nobody to tell.
            let _gone = job.reply.send(result);
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
        self.learn(compute);
        match result {
            Ok(result) => Ok(Done {
                outputs: result?,
                queue: start - queued,
                compute,
            }),
            Err(_) => Err(Error::new(
                ErrorKind::Internal,
                format!("the engine panicked while it ran model '{}'", self.model),
            )),
        }
    }

    /// Updates the usual duration of a run. Concurrent updates may lose one, which does no harm.
    fn learn(&self, compute: Duration) {
        let ns = u64::try_from(compute.as_nanos()).unwrap_or(u64::MAX / SMOOTHING);
        let before = self.usual_ns.load(Ordering::Relaxed);
        let now = if before == 0 {
            ns
        } else {
            before - before / SMOOTHING + ns / SMOOTHING
        };
        self.usual_ns.store(now, Ordering::Relaxed);
        self.inline.store(now <= INLINE_NS_MAX, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An instance that does what a closure says.
    struct Scripted<F>(F);

    impl<F> std::fmt::Debug for Scripted<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Scripted")
        }
    }

    impl<F: FnMut() + Send> Instance for Scripted<F> {
        fn run(
            &mut self,
            inputs: &[(&str, &Tensor)],
            _outputs: &[OutputRequest<'_>],
        ) -> weldpool_engine::Result<Vec<Tensor>> {
            (self.0)();
            Ok(inputs.iter().map(|(_, tensor)| (*tensor).clone()).collect())
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

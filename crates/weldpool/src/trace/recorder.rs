//! Recording a trace while a program runs.
//!
//! A thread appends its events to a buffer of its own, its lane, under a lock that only the writer
//! thread ever contends for. The writer swaps the lanes' buffers for empty ones, merges them in time
//! and writes them. Memory is bounded by the lanes; an event that finds its lane full is counted and
//! dropped, and the count is written into the trace.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::compact;
use super::error::{TraceError, TraceErrorKind, TraceResult};
use super::event::{Event, Op};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// How often the writer collects what was recorded, unless a lane is half full before.
const COLLECT_EVERY: Duration = Duration::from_millis(10);

/// Options of a [`Recorder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecorderOptions {
    /// Events a thread may have recorded that are not yet collected; further ones are dropped and
    /// counted. Each takes 40 bytes. From 64 to 16,777,216. Default: 32,768.
    pub events_per_thread: usize,
    /// Threads that may record at the same time; events of further ones are dropped and counted.
    /// Default: 1,024.
    pub threads_max: usize,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self {
            events_per_thread: 1 << 15,
            threads_max: 1024,
        }
    }
}

/// What a [`Recorder`] has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recording {
    /// Events in the trace.
    pub events: u64,
    /// Events there was no room for.
    pub dropped: u64,
}

/// Records allocations and frees to a file in the [compact](super::compact) format, a binary one, whatever the file
/// is called; by custom its name ends in `.wpt`. `weldpool trace convert FILE.wpt FILE.csv` makes text of it.
///
/// Record a free before the memory is given back and an allocation after it was obtained; events
/// of one address are then in their true order, whichever threads they come from. Times are of a
/// monotonic clock. Dropping the recorder finishes the trace, and logs an error in doing so.
pub struct Recorder {
    shared: Arc<Shared>,
    writer: Thread,
    path: Option<Box<Path>>,
    worker: Mutex<Option<JoinHandle<TraceResult<Recording>>>>,
}

struct Shared {
    /// Unique in the process and not 0, so that a thread finds its lane of this recorder.
    number: u64,
    started: Instant,
    options: RecorderOptions,
    lanes: Mutex<Vec<Arc<Lane>>>,
    closed: AtomicBool,
    threads: AtomicU64,
    /// Events of threads that got no lane.
    dropped: AtomicU64,
}

struct Lane {
    thread: u64,
    started: Instant,
    writer: Thread,
    records: Mutex<Records>,
}

struct Records {
    stamped: Vec<Stamped>,
    dropped: u64,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Stamped {
    time_ns: u64,
    id: u64,
    /// The highest bit says that it is a free; no request is that large.
    bytes: u64,
    stream: u64,
}

const FREE: u64 = 1 << 63;

thread_local! {
    /// The lanes of this thread, by the number of their recorder.
    static LANES: RefCell<Vec<(u64, Arc<Lane>)>> = const { RefCell::new(Vec::new()) };
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(Recorder::NO_NUMBER + 1);

impl Recorder {
    /// No recorder has this number.
    pub(crate) const NO_NUMBER: u64 = 0;

    /// Makes the file, or empties it, and starts the writer thread.
    ///
    /// # Errors
    ///
    /// [`Io`](TraceErrorKind::Io).
    pub fn create(path: impl AsRef<Path>) -> TraceResult<Self> {
        let path = path.as_ref();
        let file = File::create(path)
            .map_err(|error| TraceError::io("the trace cannot be created", error).in_file(path))?;
        let mut recorder = Self::new(file, RecorderOptions::default())?;
        recorder.path = Some(path.into());
        Ok(recorder)
    }

    /// Records to `out`, which is written in large pieces by the writer thread alone.
    ///
    /// # Errors
    ///
    /// [`Limit`](TraceErrorKind::Limit) for options out of range, [`Io`](TraceErrorKind::Io).
    pub fn new(out: impl Write + Send + 'static, options: RecorderOptions) -> TraceResult<Self> {
        if !(64..=1 << 24).contains(&options.events_per_thread) || options.threads_max == 0 {
            return Err(TraceError::new(
                TraceErrorKind::Limit,
                "RecorderOptions: events_per_thread must be from 64 to 16777216 and threads_max \
                 above 0",
            ));
        }
        let out = compact::Writer::new(BufWriter::with_capacity(1 << 18, out))?;
        let shared = Arc::new(Shared {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            options,
            lanes: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            threads: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let mut collector = Collector::new(Arc::clone(&shared), out);
        let worker = std::thread::Builder::new()
            .name("weldpool-trace".into())
            .spawn(move || {
                while !collector.shared.closed.load(Ordering::Acquire) {
                    std::thread::park_timeout(COLLECT_EVERY);
                    collector.collect(false);
                }
                collector.collect(true);
                collector.finish()
            })
            .map_err(|error| TraceError::io("the writer thread cannot be started", error))?;
        Ok(Self {
            shared,
            writer: worker.thread().clone(),
            path: None,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Records one event of the calling thread, now. It never waits for the file. After
    /// [`finish`](Self::finish) it does nothing.
    pub fn record(&self, op: Op, id: u64, bytes: u64, stream: u64) {
        if Self::record_in_lane(self.shared.number, op, id, bytes, stream) {
            return;
        }
        match self.new_lane() {
            Some(lane) => lane.append(op, id, bytes, stream),
            // No more threads may record, or this one is ending and its lanes are gone.
            None => self.drop_one(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.shared.number
    }

    /// Records an event where the calling thread has a lane of the recorder with this number; false where it
    /// has none. Takes nothing that threads share.
    pub(crate) fn record_in_lane(number: u64, op: Op, id: u64, bytes: u64, stream: u64) -> bool {
        let recorded = LANES.try_with(|lanes| {
            let lanes = lanes.borrow();
            let lane = lanes.iter().find(|(of, _)| *of == number);
            lane.map(|(_, lane)| lane.append(op, id, bytes, stream))
        });
        matches!(recorded, Ok(Some(())))
    }

    fn drop_one(&self) {
        if !self.shared.closed.load(Ordering::Relaxed) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cold]
    fn new_lane(&self) -> Option<Arc<Lane>> {
        let shared = &self.shared;
        let mut lanes = shared.lanes.lock();
        if shared.closed.load(Ordering::Acquire) || lanes.len() >= shared.options.threads_max {
            return None;
        }
        let lane = Arc::new(Lane {
            thread: shared.threads.fetch_add(1, Ordering::Relaxed),
            started: shared.started,
            writer: self.writer.clone(),
            records: Mutex::new(Records {
                stamped: Vec::with_capacity(shared.options.events_per_thread),
                dropped: 0,
                closed: false,
            }),
        });
        let kept = LANES.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            mine.retain(|(_, lane)| !lane.records.lock().closed);
            mine.push((shared.number, Arc::clone(&lane)));
        });
        kept.ok()?;
        lanes.push(Arc::clone(&lane));
        Some(lane)
    }

    /// Writes everything recorded so far and the end mark. A second call says that it was done.
    ///
    /// # Errors
    ///
    /// The first error of writing, [`Io`](TraceErrorKind::Io); what was recorded after it is lost.
    pub fn finish(&self) -> TraceResult<Recording> {
        let worker = self.worker.lock().take();
        let Some(worker) = worker else {
            return Err(TraceError::new(
                TraceErrorKind::Unsupported,
                "the recording was finished before",
            ));
        };
        self.shared.closed.store(true, Ordering::Release);
        self.writer.unpark();
        let written = worker.join().unwrap_or_else(|_| {
            Err(TraceError::new(
                TraceErrorKind::Io,
                "the writer thread of the trace panicked",
            ))
        });
        written.map_err(|error| error.in_some_file(self.path.as_deref()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.worker.lock().is_some()
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, "a trace was not written to its end");
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

fn ns_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Lane {
    fn append(&self, op: Op, id: u64, bytes: u64, stream: u64) {
        let mut records = self.records.lock();
        if records.closed {
            return;
        }
        if records.stamped.len() == records.stamped.capacity() {
            records.dropped += 1;
            return;
        }
        // Under the lock: what a collection leaves behind is later than the collection.
        let time_ns = ns_since(self.started);
        let free = if op == Op::Free { FREE } else { 0 };
        records.stamped.push(Stamped {
            time_ns,
            id,
            bytes: bytes & !FREE | free,
            stream,
        });
        let half_full = records.stamped.len() == records.stamped.capacity() / 2;
        drop(records);
        if half_full {
            self.writer.unpark();
        }
    }
}

/// The writer thread's state.
struct Collector<W: Write> {
    shared: Arc<Shared>,
    out: compact::Writer<BufWriter<W>>,
    /// Buffers handed in exchange for a lane's; all have the same capacity.
    spare: Vec<Stamped>,
    /// Collected and not yet written, with the thread.
    pending: Vec<(Stamped, u64)>,
    lanes: Vec<Arc<Lane>>,
    written: Recording,
    unflushed: bool,
    failure: Option<TraceError>,
}

impl<W: Write> Collector<W> {
    fn new(shared: Arc<Shared>, out: compact::Writer<BufWriter<W>>) -> Self {
        Self {
            spare: Vec::with_capacity(shared.options.events_per_thread),
            shared,
            out,
            pending: Vec::new(),
            lanes: Vec::new(),
            written: Recording::default(),
            unflushed: true,
            failure: None,
        }
    }

    /// Takes what the lanes hold and writes what nothing recorded later can precede.
    fn collect(&mut self, last: bool) {
        let complete_ns = if last {
            u64::MAX
        } else {
            ns_since(self.shared.started)
        };
        let mut dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        self.lanes.clear();
        self.lanes.extend(self.shared.lanes.lock().iter().cloned());
        let mut ended = false;
        for lane in &self.lanes {
            // Ours, the list's, and no thread's any more: nobody appends.
            ended |= Arc::strong_count(lane) == 2;
            let mut records = lane.records.lock();
            records.closed |= last;
            dropped += std::mem::take(&mut records.dropped);
            std::mem::swap(&mut records.stamped, &mut self.spare);
            drop(records);
            let collected = self.spare.drain(..);
            self.pending
                .extend(collected.map(|stamped| (stamped, lane.thread)));
        }
        self.lanes.clear();
        if ended {
            self.shared.lanes.lock().retain(|lane| {
                Arc::strong_count(lane) > 1 || !lane.records.lock().stamped.is_empty()
            });
        }
        // Stable, so events of one thread keep their order; made of few ascending runs.
        self.pending.sort_by_key(|(stamped, _)| stamped.time_ns);
        let complete = self
            .pending
            .partition_point(|(stamped, _)| stamped.time_ns < complete_ns || last);
        if self.failure.is_none()
            && let Err(error) = self.write(complete, dropped)
        {
            self.failure = Some(error);
        }
        self.pending.drain(..complete);
    }

    fn write(&mut self, complete: usize, dropped: u64) -> TraceResult<()> {
        for (stamped, thread) in &self.pending[..complete] {
            self.out.write(&Event {
                op: if stamped.bytes & FREE == 0 {
                    Op::Allocate
                } else {
                    Op::Free
                },
                id: stamped.id,
                bytes: stamped.bytes & !FREE,
                stream: stamped.stream,
                time_us: stamped.time_ns / 1000,
                thread: *thread,
            })?;
            self.written.events += 1;
        }
        if dropped > 0 {
            self.out.dropped(dropped)?;
            self.written.dropped += dropped;
        }
        if complete == 0 && self.unflushed {
            // Idle: what a killed program leaves behind is then complete up to here.
            self.out.flush()?;
        }
        self.unflushed = complete > 0;
        Ok(())
    }

    fn finish(self) -> TraceResult<Recording> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        self.out.finish()?;
        Ok(self.written)
    }
}

#[cfg(test)]
mod tests;

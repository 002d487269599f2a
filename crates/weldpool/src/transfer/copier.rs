//! The public face: copies that block, copies to wait for, and what they did.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use super::extent::Extent;
use super::future::{AllocateFuture, CopyFuture};
use super::job::{Copied, Job, Plan};
use super::options::{CopierConfig, CopyOptions};
use super::path::CopyPath;
use super::place::{Destination, Owned, Source};
use super::short::{self, SHORT_BYTES_MAX};
use super::side::{Reach, Side};
use super::stats::{CopyStats, Counters, Ending};
use super::workers::{Work, Workers};
use crate::allocator::Allocator;
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::Access;
use crate::queue::{Fence, Part, refuse_overlap, uses_before};
use crate::request::Request;
use crate::sync::Arc;

/// Chunks of copies that a device does alone: so many bytes pass before a copy looks whether it was cancelled.
const DEVICE_CHUNK_BYTES: usize = 32 << 20;
/// A staged copy has more chunks than this, those at its shorter end included.
const CHUNKS_MIN: usize = 4;
/// How long a caller waits for other work at a time.
const WAIT: Duration = Duration::from_secs(1);
/// Threads that allocate for callers who do not wait.
const ALLOCATING_THREADS: usize = 4;

/// Copies bytes between any two places: buffers and views of any pools, and slices of the host.
///
/// Which way the bytes take is decided for each copy, see [`CopyPath`]. Host memory that a device does not know is
/// copied in chunks, by several threads, through pinned memory that the pool keeps for it: the processors
/// fill one chunk while the device takes another. Threads are started by the first copy that is worth more than
/// one, and end when there was nothing to do for a while.
///
/// Dropping a copier waits for the copies and allocations that its threads were given.
///
/// A copy waits for submitted work that uses either side, and is done when the call returns, or the future is
/// ready. To order copies with other work of a queue without waiting, use [`Queue::copy`](crate::Queue::copy).
///
/// ```
/// use weldpool::transfer::Copier;
/// use weldpool::{Allocator, Request, Runtime, StorageMode};
///
/// # fn main() -> weldpool::Result<()> {
/// let copier = Copier::new()?;
/// let allocator = Allocator::builder(Runtime::open_device("fake:discrete")?).build()?;
/// let private = Request::new(1 << 20).storage(StorageMode::Private);
/// let mut weights = allocator.allocate_with(&private)?;
/// let data = vec![0.5_f32; 1 << 18];
/// copier.copy(&data, &mut weights)?;
/// let mut back = vec![0.0_f32; 1 << 18];
/// let copied = copier.copy(&weights, &mut back)?;
/// assert_eq!(copied.bytes, 1 << 20);
/// assert_eq!(back, data);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Copier {
    config: CopierConfig,
    counters: Arc<Counters>,
    copying: Workers,
    allocating: Workers,
}

impl Copier {
    /// A copier with default settings.
    ///
    /// # Errors
    ///
    /// None as yet.
    pub fn new() -> Result<Self> {
        Self::with_config(CopierConfig::default())
    }

    /// A copier.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field.
    pub fn with_config(config: CopierConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            copying: Workers::new("weldpool-copy", config.threads_max, config.idle_max),
            allocating: Workers::new("weldpool-allocate", ALLOCATING_THREADS, config.idle_max),
            counters: Arc::default(),
            config,
        })
    }

    /// Copies all of the source to the start of the destination, and returns when it is there.
    ///
    /// # Errors
    ///
    /// As for [`copy_with`](Self::copy_with).
    pub fn copy<'a>(
        &self,
        source: impl Into<Source<'a>>,
        destination: impl Into<Destination<'a>>,
    ) -> Result<Copied> {
        self.copy_with(source, destination, &CopyOptions::new())
    }

    /// Copies as told, and returns when it is there.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when what is to be copied does not fit or overlaps, or the
    /// options contradict each other;
    /// [`Busy`](ErrorKind::Busy) while a guard is held on a view, and in a function that a queue calls, where the driver
    /// must not be called from there (CUDA): nothing was submitted then; otherwise what the driver says. After an
    /// error of a driver the source is as it was and the destination's part undefined.
    pub fn copy_with<'a>(
        &self,
        source: impl Into<Source<'a>>,
        destination: impl Into<Destination<'a>>,
        options: &CopyOptions,
    ) -> Result<Copied> {
        let start = Instant::now();
        let (source, destination) = (source.into(), destination.into());
        let (from, to) = (source.part(), destination.part());
        let one_buffer = refuse_overlap_of(from.as_ref(), to.as_ref(), options)?;
        let _writing = destination.borrow()?;
        let _reading = if one_buffer { None } else { source.borrow()? };
        let plan = self.plan(source.side(), destination.side(), (from, to), options)?;
        let short = match plan.path {
            CopyPath::Direct | CopyPath::Peer | CopyPath::Pageable => DEVICE_CHUNK_BYTES,
            CopyPath::Host | CopyPath::Staged => SHORT_BYTES_MAX,
        };
        if plan.extent.bytes() <= short && options.progress.is_none() {
            return self.copy_short(&plan, start);
        }
        // SAFETY: the operands are borrowed for this call, views besides at run time, and the call returns only
        // after the schedule has ended.
        let job = Arc::new(unsafe { Job::new(plan, &self.counters, start) });
        let waiting = Waiting(&job);
        while !job.is_ready(WAIT) {}
        let helpers = self.threads(&job, options) - 1;
        // Not for a caller who will be refused.
        if helpers > 0 && job.may_help() {
            let work: Arc<dyn Work> = job.clone();
            // Without them this thread does it all.
            let _none = self.copying.give(&work, helpers);
        }
        job.help();
        drop(waiting);
        job.outcome()
    }

    /// Begins a copy whose end is a future, which any executor can wait for; see [`CopyFuture`] for how it is
    /// cancelled. Both sides are owned by the copy and come back with its result.
    pub fn copy_async<S: Owned, D: Owned>(
        &self,
        source: S,
        destination: D,
        options: CopyOptions,
    ) -> CopyFuture<S, D> {
        let start = Instant::now();
        // Boxed before their addresses are taken, so that moving the future moves neither.
        let mut sides = Box::new((source, destination));
        let (source, destination) = &mut *sides;
        match self.begin(source, destination, &options, start) {
            Ok(job) => {
                let job = Arc::new(job);
                let threads = self.threads(&job, &options);
                let future = CopyFuture::new(&job, sides);
                let work: Arc<dyn Work> = job.clone();
                job.set_helpers(threads - 1);
                if let Err(error) = self.copying.give(&work, 1) {
                    job.schedule().stop(error);
                    job.help();
                }
                future
            }
            Err(error) => CopyFuture::failed(error, sides),
        }
    }

    /// A buffer as requested, had by a thread of the copier where it is not at hand, so that the caller waits neither
    /// for a driver nor for memory. Dropping the future gives the buffer back.
    pub fn allocate_async(
        &self,
        allocator: &Allocator,
        request: Request<'static>,
    ) -> AllocateFuture {
        AllocateFuture::begin(allocator, request, &self.allocating)
    }

    /// What was copied so far.
    #[must_use]
    pub fn stats(&self) -> CopyStats {
        self.counters.read(self.copying.threads())
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &CopierConfig {
        &self.config
    }

    /// Copies what is not worth a further thread. The sides are borrowed by the caller.
    fn copy_short(&self, plan: &Plan, start: Instant) -> Result<Copied> {
        for fence in &plan.before {
            match fence.wait(None) {
                // It will not run any more.
                Err(error) if error.kind() != ErrorKind::DeviceLost => return Err(error),
                _ => {}
            }
        }
        let began = Instant::now();
        let bytes = plan.extent.bytes();
        let result = match bytes {
            0 => Ok(()),
            // SAFETY: the operands are borrowed for the call that this is a part of, views besides at run time, and
            // what used them before is over.
            _ => unsafe { short::copy(plan) },
        };
        let (arrived, ending) = match &result {
            Ok(()) => (bytes, Ending::Complete),
            Err(_) => (0, Ending::Failed),
        };
        self.counters
            .count(plan.path, arrived, began.elapsed(), ending);
        result.map(|()| Copied {
            bytes,
            path: plan.path,
            elapsed: start.elapsed(),
        })
    }

    fn begin<S: Owned, D: Owned>(
        &self,
        source: &mut S,
        destination: &mut D,
        options: &CopyOptions,
        start: Instant,
    ) -> Result<Job> {
        let sides = (source.side(), destination.side());
        let (from, to) = (source.part(), destination.part());
        let one_buffer = refuse_overlap_of(from.as_ref(), to.as_ref(), options)?;
        // Held until the use is noted, which keeps guards away from then on.
        let _writing = destination.borrow(true)?;
        let _reading = if one_buffer {
            None
        } else {
            source.borrow(false)?
        };
        let plan = self.plan(sides.0, sides.1, (from, to), options)?;
        // SAFETY: the future, and after it the job's keeper, owns both sides until the schedule has ended; the uses
        // noted below keep away whoever shares them.
        let job = unsafe { Job::new(plan, &self.counters, start) };
        let fence = Fence::of(Arc::clone(job.timeline()) as _, 1);
        for (part, access) in [(from, Access::Read), (to, Access::Write)] {
            if let Some(part) = part {
                part.note(fence.clone(), access);
            }
        }
        Ok(job)
    }

    /// What is to be done, checked.
    fn plan(
        &self,
        source: Side,
        destination: Side,
        parts: (Option<Part<'_>>, Option<Part<'_>>),
        options: &CopyOptions,
    ) -> Result<Plan> {
        options.validate()?;
        let extent = Extent::new(
            (options.source_offset, source.bytes),
            (options.destination_offset, destination.bytes),
            options.bytes,
            options.rows,
        )?;
        let most = self.config.pageable_bytes_max;
        let path = CopyPath::choose(&source, &destination, extent.bytes(), most);
        let device = if source.reach == Reach::Device {
            &source
        } else {
            &destination
        };
        let staging = device.staging();
        let part_bytes = staging.part_bytes;
        let (extent, chunk_bytes) = match (path, self.config.chunk_bytes) {
            (CopyPath::Host, chunk) => {
                let chunk = chunk.unwrap_or(part_bytes);
                (extent.in_chunks_of(chunk), chunk)
            }
            (CopyPath::Staged, Some(chunk)) => (extent.in_chunks_of(chunk), chunk),
            (CopyPath::Staged, None) => {
                let (least, most) = (staging.chunk_bytes_min, staging.chunk_bytes);
                // There are to be some for the device to be at while processors are at others.
                let most = most.min((extent.bytes() / CHUNKS_MIN).next_power_of_two());
                // Processors begin with a copy to a device, and end one from it.
                let extent = match destination.reach {
                    Reach::Device => extent.in_growing_chunks(least, most),
                    _ => extent.in_shrinking_chunks(least, most),
                };
                (extent, most.min(extent.bytes().next_power_of_two()))
            }
            _ => (extent.in_chunks_of(DEVICE_CHUNK_BYTES), DEVICE_CHUNK_BYTES),
        };
        let mut before = Vec::new();
        for (part, access) in [(parts.0, Access::Read), (parts.1, Access::Write)] {
            if let Some(part) = part {
                before.extend(uses_before(&part, access)?);
            }
        }
        let (source, destination) = match path {
            // To this device another's pinned memory is like any of the host's.
            CopyPath::Pageable => (source.unknown(), destination.unknown()),
            _ => (source, destination),
        };
        Ok(Plan {
            source,
            destination,
            extent,
            path,
            chunk_bytes,
            part_bytes,
            before,
            options: options.clone(),
        })
    }

    /// Threads that a copy is worth.
    fn threads(&self, job: &Job, options: &CopyOptions) -> usize {
        let most = options.threads_max.unwrap_or(usize::MAX);
        let most = most.min(self.config.threads_max).min(job.threads_max());
        most.min(job.pieces()).max(1)
    }
}

/// Whether both are parts of one buffer, which may not overlap.
fn refuse_overlap_of(
    from: Option<&Part<'_>>,
    to: Option<&Part<'_>>,
    options: &CopyOptions,
) -> Result<bool> {
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(false);
    };
    if !from.is_of_buffer(to) {
        return Ok(false);
    }
    let apart = options.source_offset != 0
        || options.destination_offset != 0
        || options.bytes.is_some()
        || options.rows.is_some();
    if apart {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "a copy between parts of one buffer takes the parts as views (BufferView::slice), and no offsets, bytes or \
             rows; rows that interleave go through a second buffer",
        ));
    }
    refuse_overlap(from, to)?;
    Ok(true)
}

/// Waits until nobody works on a job any more, however the call that began it ends.
struct Waiting<'a>(&'a Job);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.schedule().cancel();
        }
        // An empty copy, or one that nobody took up, ends here.
        self.0.help();
        self.0.schedule().wait();
    }
}

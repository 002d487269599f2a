//! The work of one copy, which several threads do together.

#![allow(unsafe_code)]

use std::any::Any;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::extent::{Extent, Piece, Rows};
use super::lane::{Lane, SLOTS};
use super::options::{CopyOptions, CopyProgress, report};
use super::path::CopyPath;
use super::schedule::Schedule;
use super::side::{Reach, Side};
use super::stats::{Counters, Ending};
use super::workers::Work;
use crate::device::{Location, SoftwareTimeline, Staging};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::queue::Fence;
use crate::sync::{Arc, Mutex, OnceLock};

/// Work that a device is given before the first of it is waited for.
const AHEAD: usize = 2;
/// How often a copy that waits for other work looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// One copy.
#[derive(Debug)]
pub(super) struct Job {
    source: Side,
    destination: Side,
    extent: Extent,
    path: CopyPath,
    chunk_bytes: usize,
    options: CopyOptions,
    /// Work that uses either side and has to be over first.
    before: Vec<Fence>,
    ready: OnceLock<Result<()>>,
    schedule: Schedule,
    /// Reaches 1 at the end.
    timeline: Arc<SoftwareTimeline>,
    counters: Arc<Counters>,
    start: Instant,
    /// One call of the progress function at a time.
    reporting: Mutex<()>,
    /// Owners of the sides that nobody else holds any more.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Bytes that were copied.
    pub bytes: usize,
    /// The way they took.
    pub path: CopyPath,
    /// From the call to the end.
    pub elapsed: Duration,
}

/// What a copy is made of.
pub(super) struct Plan {
    pub(super) source: Side,
    pub(super) destination: Side,
    pub(super) extent: Extent,
    pub(super) path: CopyPath,
    pub(super) chunk_bytes: usize,
    pub(super) before: Vec<Fence>,
    pub(super) options: CopyOptions,
}

impl Job {
    /// # Safety
    ///
    /// Both sides are valid for the extent and apart, and until the job's schedule has ended nobody frees either,
    /// writes the source, or touches the destination, but for work before the fences of the plan.
    pub(super) unsafe fn new(plan: Plan, counters: &Arc<Counters>) -> Self {
        let extent = plan.extent.in_chunks_of(plan.chunk_bytes);
        Self {
            source: plan.source,
            destination: plan.destination,
            extent,
            path: plan.path,
            chunk_bytes: plan.chunk_bytes,
            options: plan.options,
            before: plan.before,
            ready: OnceLock::new(),
            schedule: Schedule::new(extent.chunks()),
            timeline: Arc::default(),
            counters: Arc::clone(counters),
            start: Instant::now(),
            reporting: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub(super) fn timeline(&self) -> &Arc<SoftwareTimeline> {
        &self.timeline
    }

    pub(super) fn chunks(&self) -> usize {
        self.extent.chunks()
    }

    pub(super) fn progress(&self) -> CopyProgress {
        CopyProgress {
            done_bytes: self.schedule.done_bytes(),
            total_bytes: self.extent.bytes(),
        }
    }

    /// Threads that it can use.
    pub(super) fn threads_max(&self) -> usize {
        match self.path {
            CopyPath::Host => Staging::HOST.threads_max,
            CopyPath::Direct | CopyPath::Peer | CopyPath::Pageable => 1,
            CopyPath::Staged => [&self.source, &self.destination]
                .into_iter()
                .filter(|side| side.reach == Reach::Device)
                .map(|side| side.staging().threads_max)
                .fold(1, usize::max),
        }
    }

    /// Keeps the owners of the sides alive for as long as a thread may work on them.
    pub(super) fn keep(&self, sides: impl Any + Send) {
        *self.kept.lock() = Some(Box::new(sides));
    }

    /// Works on the copy until there is nothing left to take.
    pub(super) fn help(&self) {
        if !self.schedule.enter() {
            return;
        }
        let _leaving = Leaving(self);
        let ready = self.ready.get_or_init(|| self.await_others());
        if let Err(error) = ready.clone().and_then(|()| self.copy()) {
            self.schedule.stop(error);
        }
    }

    /// What became of it, once the schedule has ended.
    pub(super) fn outcome(&self, elapsed: Duration) -> Result<Copied> {
        let bytes = self.schedule.done_bytes();
        match self.schedule.failure() {
            // All of it was there before the reason came.
            Some(error) if bytes < self.extent.bytes() => Err(error),
            _ => Ok(Copied {
                bytes,
                path: self.path,
                elapsed,
            }),
        }
    }

    /// Waits for work that uses either side.
    fn await_others(&self) -> Result<()> {
        for fence in &self.before {
            loop {
                match fence.wait(Some(LOOK)) {
                    Ok(()) => break,
                    // It will not run any more.
                    Err(error) if error.kind() == ErrorKind::DeviceLost => break,
                    Err(error) if error.kind() != ErrorKind::Timeout => return Err(error),
                    Err(_) if self.schedule.is_stopped() => return Ok(()),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn copy(&self) -> Result<()> {
        match self.path {
            CopyPath::Host => {
                while let Some(piece) = self.claim() {
                    self.by_processor(
                        self.source.location.at(piece.source),
                        self.destination.location.at(piece.destination),
                        piece.rows,
                    )?;
                    self.complete(piece.rows);
                }
                Ok(())
            }
            CopyPath::Direct | CopyPath::Peer | CopyPath::Pageable => self.by_device(),
            CopyPath::Staged => self.staged(),
        }
    }

    fn claim(&self) -> Option<Piece> {
        let number = self.schedule.claim()?;
        Some(self.extent.chunk(number))
    }

    fn complete(&self, rows: Rows) {
        let Some(callback) = &self.options.progress else {
            self.schedule.complete(rows.total());
            return;
        };
        let _one = self.reporting.lock();
        let done_bytes = self.schedule.complete(rows.total());
        let total_bytes = self.extent.bytes();
        report(
            callback,
            CopyProgress {
                done_bytes,
                total_bytes,
            },
        );
    }

    fn by_processor(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        let (Some(source), Some(destination)) = (source.host, destination.host) else {
            return Err(no_address());
        };
        // SAFETY: both are parts of what `new` was promised, or a slot that is this thread's alone and long
        // enough for a chunk.
        unsafe { copy_rows(source, destination, rows) };
        Ok(())
    }

    /// The pool whose device copies.
    fn device_pool(&self) -> Result<&Arc<Pool>> {
        let device = |side: &&Side| side.reach == Reach::Device;
        let side = [&self.source, &self.destination].into_iter().find(device);
        side.and_then(|side| side.pool.as_ref())
            .ok_or_else(no_address)
    }

    /// A lane with room for chunks, for a side that only a device reaches.
    fn lane_of<'a>(&self, side: &'a Side) -> Result<Option<Taken<'a>>> {
        match &side.pool {
            Some(pool) if side.reach == Reach::Device => {
                Taken::new(pool, self.chunk_bytes).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn by_device(&self) -> Result<()> {
        let mut lane = Taken::new(self.device_pool()?, 0)?;
        let mut under_way = VecDeque::with_capacity(AHEAD);
        loop {
            let piece = self.claim();
            if let Some(piece) = &piece {
                let (from, to) = (
                    self.source.location.at(piece.source),
                    self.destination.location.at(piece.destination),
                );
                // SAFETY: both are parts of what `new` was promised, and this thread stays in the schedule until
                // the lane is drained.
                let value = unsafe { lane.copy(from, to, piece.rows) }?;
                under_way.push_back((value, piece.rows));
            }
            let full = under_way.len() == AHEAD || piece.is_none();
            if full && let Some((value, rows)) = under_way.pop_front() {
                lane.wait(value)?;
                self.complete(rows);
            } else if piece.is_none() {
                lane.note_idle();
                return Ok(());
            }
        }
    }

    /// Chunk by chunk: from a device into a slot, from there by a processor, into a slot, to a device. Either
    /// device may be missing.
    fn staged(&self) -> Result<()> {
        let mut down = self.lane_of(&self.source)?;
        let mut up = self.lane_of(&self.destination)?;
        // Rows that a slot of `up` is yet to deliver.
        let mut delivering = [None; SLOTS];
        let mut fetched: Option<(Piece, usize)> = None;
        let mut slot = 0;
        loop {
            let mut piece = self.claim();
            if let (Some(piece), Some(down)) = (&piece, &mut down) {
                let into = down.slot(slot).ok_or_else(no_address)?;
                let packed = piece.rows.with_packed_destination();
                let from = self.source.location.at(piece.source);
                // SAFETY: the source is part of what `new` was promised; the slot is this thread's alone, not in
                // use, and long enough for a chunk.
                let value = unsafe { down.copy(from, into, packed) }?;
                down.occupy(slot, value);
            }
            // While the device fetches one chunk, the one before is passed on.
            let now = match (&down, fetched.take()) {
                (Some(_), before) => {
                    fetched = piece.take().map(|piece| (piece, slot));
                    before
                }
                (None, _) => piece.take().map(|piece| (piece, slot)),
            };
            if let Some((piece, of)) = now {
                self.pass_on(&piece, of, down.as_mut(), up.as_mut(), &mut delivering)?;
            } else if fetched.is_none() {
                break;
            }
            slot = (slot + 1) % SLOTS;
        }
        if let Some(up) = &mut up {
            for (slot, delivering) in delivering.iter_mut().enumerate() {
                up.await_slot(slot)?;
                if let Some(rows) = delivering.take() {
                    self.complete(rows);
                }
            }
            up.note_idle();
        }
        if let Some(down) = &mut down {
            down.note_idle();
        }
        Ok(())
    }

    /// Moves a chunk from the source, or the slot that it was fetched into, to the destination, or a slot whose
    /// delivery it starts.
    fn pass_on(
        &self,
        piece: &Piece,
        slot: usize,
        down: Option<&mut Taken>,
        up: Option<&mut Taken>,
        delivering: &mut [Option<Rows>; SLOTS],
    ) -> Result<()> {
        let mut rows = piece.rows;
        let from = match down {
            None => self.source.location.at(piece.source),
            Some(down) => {
                down.await_slot(slot)?;
                rows = rows.with_packed_source();
                down.slot(slot).ok_or_else(no_address)?
            }
        };
        let to = self.destination.location.at(piece.destination);
        let Some(up) = up else {
            self.by_processor(from, to, rows)?;
            self.complete(piece.rows);
            return Ok(());
        };
        up.await_slot(slot)?;
        if let Some(rows) = delivering[slot].take() {
            self.complete(rows);
        }
        let through = up.slot(slot).ok_or_else(no_address)?;
        self.by_processor(from, through, rows.with_packed_destination())?;
        // SAFETY: the destination is part of what `new` was promised; the slot is this thread's alone until the
        // lane says that it is not in use.
        let value = unsafe { up.copy(through, to, piece.rows.with_packed_source()) }?;
        up.occupy(slot, value);
        delivering[slot] = Some(piece.rows);
        Ok(())
    }
}

impl Work for Job {
    fn work(&self) {
        self.help();
    }
}

/// Leaves the schedule when dropped.
struct Leaving<'a>(&'a Job);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Self(job) = self;
        if !job.schedule.leave() {
            return;
        }
        let (bytes, total) = (job.schedule.done_bytes(), job.extent.bytes());
        let ending = match job.schedule.failure() {
            Some(_) if bytes == total => Ending::Complete,
            Some(error) if error.kind() == ErrorKind::Cancelled => Ending::Cancelled,
            Some(_) => Ending::Failed,
            None => Ending::Complete,
        };
        job.counters
            .count(job.path, bytes, job.start.elapsed(), ending);
        job.timeline.reach(1);
        job.schedule.end();
    }
}

/// A lane on loan from its pool, which gets it back with its work over.
struct Taken<'a> {
    pool: &'a Pool,
    /// None only while it is given back.
    lane: Option<Lane>,
}

impl<'a> Taken<'a> {
    fn new(pool: &'a Pool, chunk_bytes: usize) -> Result<Self> {
        let mut lane = pool.take_lane(chunk_bytes)?;
        for slot in 0..SLOTS {
            // Queues of others may have used them last.
            if let Err(error) = lane.await_slot(slot) {
                pool.put_lane(lane);
                return Err(error);
            }
        }
        Ok(Self {
            pool,
            lane: Some(lane),
        })
    }
}

impl std::ops::Deref for Taken<'_> {
    type Target = Lane;

    #[expect(clippy::expect_used, reason = "taken out in drop alone")]
    fn deref(&self) -> &Lane {
        self.lane.as_ref().expect("a lane")
    }
}

impl std::ops::DerefMut for Taken<'_> {
    #[expect(clippy::expect_used, reason = "taken out in drop alone")]
    fn deref_mut(&mut self) -> &mut Lane {
        self.lane.as_mut().expect("a lane")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.pool.put_lane(lane);
        }
    }
}

/// # Safety
///
/// Both are valid for the rows, and apart; nothing else touches what is written nor writes what is read.
unsafe fn copy_rows(source: NonNull<u8>, destination: NonNull<u8>, rows: Rows) {
    for row in 0..rows.count {
        // SAFETY: the caller's promise, row by row.
        unsafe {
            let from = source.add(row * rows.source_pitch);
            let to = destination.add(row * rows.destination_pitch);
            from.copy_to_nonoverlapping(to, rows.bytes);
        }
    }
}

fn no_address() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a place of a copy is reached neither by the host nor by a device of ours",
    )
}

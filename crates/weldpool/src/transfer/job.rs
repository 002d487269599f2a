//! The work of one copy, which several threads do together.

#![allow(unsafe_code)]

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::extent::{Extent, Piece, Rows};
use super::line::{Line, Way};
use super::memory::{Next, copy_rows};
use super::options::{CopyOptions, CopyProgress, report};
use super::path::CopyPath;
use super::room::{SLOTS, is_of_memory};
use super::schedule::Schedule;
use super::short::{Passage, device_of, no_address};
use super::side::{Reach, Side};
use super::stats::{Counters, Ending};
use super::workers::{Group, Work};
use crate::device::{Location, SoftwareTimeline, Staging};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::calls_are_forbidden;
use crate::profiling::SlowPath;
use crate::queue::Fence;
use crate::sync::{Arc, AtomicUsize, Mutex, OnceLock, Ordering};

/// Work that a device is given before the first of it is waited for.
const AHEAD: usize = 2;
/// Up to this length chunks for a device are written past the caches, of which they leave by themselves in longer
/// copies; beyond it, what comes from a device is, since it is too much for the caches and reading what it replaces
/// takes bandwidth that the device needs.
const STREAMED_BYTES: usize = 64 << 20;
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
    helpers: AtomicUsize,
    schedule: Schedule,
    /// Reaches 1 at the end.
    timeline: Arc<SoftwareTimeline>,
    counters: Arc<Counters>,
    start: Instant,
    /// When nothing had to be waited for any more.
    began: OnceLock<Instant>,
    /// From the start to the end.
    elapsed: OnceLock<Duration>,
    /// Whether the progress function is still called; one call at a time.
    reporting: Mutex<bool>,
    /// Whether a slot stands for the source, and for the destination, in which rows lie close together.
    packed: [bool; 2],
    /// Parts that a chunk is cut into at the most, and how long they are.
    parts_max: usize,
    part_bytes: usize,
    lines: Mutex<Opened>,
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
    pub(super) part_bytes: usize,
    pub(super) before: Vec<Fence>,
    pub(super) options: CopyOptions,
}

impl Job {
    /// # Safety
    ///
    /// Both sides are valid for the extent and apart, and until the job's schedule has ended nobody frees either,
    /// writes the source, or touches the destination, but for work before the fences of the plan.
    pub(super) unsafe fn new(plan: Plan, counters: &Arc<Counters>, start: Instant) -> Self {
        let extent = plan.extent;
        let packed = [&plan.source, &plan.destination].map(|side| side.reach == Reach::Device);
        let parts_max = match plan.path {
            CopyPath::Staged if extent.chunks() > 0 => {
                parts_of(extent.longest_chunk(), packed, plan.part_bytes).chunks()
            }
            _ => 1,
        };
        Self {
            packed,
            parts_max,
            part_bytes: plan.part_bytes,
            lines: Mutex::default(),
            source: plan.source,
            destination: plan.destination,
            extent,
            path: plan.path,
            chunk_bytes: plan.chunk_bytes,
            options: plan.options,
            before: plan.before,
            ready: OnceLock::new(),
            helpers: AtomicUsize::new(0),
            schedule: Schedule::new(extent.chunks() * parts_max),
            timeline: Arc::default(),
            counters: Arc::clone(counters),
            start,
            began: OnceLock::new(),
            elapsed: OnceLock::new(),
            reporting: Mutex::new(true),
            kept: Mutex::default(),
        }
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub(super) fn timeline(&self) -> &Arc<SoftwareTimeline> {
        &self.timeline
    }

    fn chunks(&self) -> usize {
        self.extent.chunks()
    }

    /// What threads can take one by one.
    pub(super) fn pieces(&self) -> usize {
        self.extent.chunks() * self.parts_max
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
        while !self.is_ready(LOOK) {}
        let ready = self.ready.get().cloned().unwrap_or(Ok(()));
        if let Err(error) = ready.and_then(|()| self.copy()) {
            self.schedule.stop(error);
        }
    }

    /// Lets nobody begin a further chunk. The calling thread may be one that must not call the driver, so it leaves the
    /// end to those who are at the copy, and ends one that nobody has taken up: of that no device has anything.
    pub(super) fn cancel(&self) {
        self.schedule.cancel();
        if self.schedule.close_unattended() {
            self.conclude();
        }
    }

    /// Whether the calling thread may call drivers, to wait for what comes before the copy, of whichever pool, and help.
    pub(super) fn may_help(&self) -> bool {
        !calls_are_forbidden()
    }

    /// Whether other work that uses either side is over, or the copy was stopped, waiting so long for one of it.
    pub(super) fn is_ready(&self, timeout: Duration) -> bool {
        if self.ready.get().is_some() || self.schedule.is_stopped() {
            return true;
        }
        let mut ready = Ok(());
        for fence in &self.before {
            match fence.wait(Some(timeout)) {
                Ok(()) => {}
                // It will not run any more.
                Err(error) if error.kind() == ErrorKind::DeviceLost => {}
                Err(error) if error.kind() == ErrorKind::Timeout => return false,
                Err(error) => ready = Err(error),
            }
        }
        self.began.get_or_init(Instant::now);
        self.ready.get_or_init(|| ready);
        true
    }

    /// Threads that are to come to help once the copy is ready.
    pub(super) fn set_helpers(&self, helpers: usize) {
        self.helpers.store(helpers, Ordering::Relaxed);
    }

    /// What became of it, once the schedule has ended.
    pub(super) fn outcome(&self) -> Result<Copied> {
        let bytes = self.schedule.done_bytes();
        match self.schedule.failure() {
            // All of it was there before the reason came.
            Some(error) if bytes < self.extent.bytes() => Err(error),
            _ => Ok(Copied {
                bytes,
                path: self.path,
                elapsed: *self.elapsed.get_or_init(|| self.start.elapsed()),
            }),
        }
    }

    fn copy(&self) -> Result<()> {
        match self.path {
            CopyPath::Host => {
                while let Some(number) = self.schedule.claim() {
                    let piece = self.extent.chunk(number);
                    let from = self.source.location.at(piece.source);
                    let to = self.destination.location.at(piece.destination);
                    self.by_processor(from, to, piece.rows, Next::Used)?;
                    self.complete(piece.rows);
                }
                Ok(())
            }
            CopyPath::Direct | CopyPath::Peer | CopyPath::Pageable => self.by_device(),
            CopyPath::Staged => self.staged(),
        }
    }

    fn complete(&self, rows: Rows) {
        let Some(callback) = &self.options.progress else {
            self.schedule.complete(rows.total());
            return;
        };
        let mut listens = self.reporting.lock();
        let progress = CopyProgress {
            done_bytes: self.schedule.complete(rows.total()),
            total_bytes: self.extent.bytes(),
        };
        *listens = *listens && report(callback, progress);
    }

    fn by_processor(
        &self,
        source: Location,
        destination: Location,
        rows: Rows,
        next: Next,
    ) -> Result<()> {
        let (Some(source), Some(destination)) = (source.host, destination.host) else {
            return Err(no_address());
        };
        // SAFETY: both are parts of what `new` was promised, or of a slot that is long enough for a chunk, whose
        // part is this thread's alone.
        unsafe { copy_rows(source, destination, rows, next) };
        Ok(())
    }

    /// All by one thread, which keeps the device busy and sees when to stop.
    fn by_device(&self) -> Result<()> {
        let claim = || {
            let number = self.schedule.claim()?;
            Some(self.extent.chunk(number))
        };
        let mut next = claim();
        if next.is_none() {
            return Ok(());
        }
        let pool = self.source.copying_pool(&self.destination);
        let line = Line::new(pool.ok_or_else(no_address)?, Way::Up, 0)?;
        let mut under_way = VecDeque::with_capacity(AHEAD);
        loop {
            if let Some(piece) = &next {
                let from = self.source.location.at(piece.source);
                let to = self.destination.location.at(piece.destination);
                // SAFETY: both are parts of what `new` was promised, and this thread stays in the schedule until the
                // line is dropped.
                let value = unsafe { line.copy(from, to, piece.rows) }?;
                under_way.push_back((value, piece.rows));
            }
            let full = under_way.len() == AHEAD || next.is_none();
            if full && let Some((value, rows)) = under_way.pop_front() {
                line.wait(value)?;
                self.complete(rows);
            } else if next.is_none() {
                line.note_idle();
                return Ok(());
            }
            next = next.and_then(|_| claim());
        }
    }

    /// Chunk by chunk through a slot: from a device that fills it, or from memory by several threads, each a part;
    /// and to a device, or to memory likewise. Either device may be missing.
    fn staged(&self) -> Result<()> {
        let Some(lines) = self.open_once()? else {
            return Ok(());
        };
        let pool = device_of(&self.source).or_else(|| device_of(&self.destination));
        let _span = pool.map(|pool| pool.span(SlowPath::StagedCopy, self.extent.bytes()));
        while let Some(number) = self.schedule.claim() {
            let chunk = number / self.parts_max;
            let whole = self.extent.chunk(chunk);
            let parts = parts_of(whole, self.packed, self.part_bytes);
            let part = number % self.parts_max;
            if part < parts.chunks()
                && !self.part(&lines, (chunk, &whole), parts.chunk(part), parts.chunks())?
            {
                break;
            }
        }
        Ok(())
    }

    /// Moves a part of a chunk from where it comes from to where it goes; false if the copy has failed.
    fn part(
        &self,
        lines: &Lines,
        (chunk, whole): (usize, &Piece),
        part: Piece,
        parts: usize,
    ) -> Result<bool> {
        let failed = || self.schedule.has_failed();
        let delivered = |chunk| self.complete(self.extent.chunk(chunk).rows);
        let from = match &lines.down {
            Some(down) => {
                if !down.await_turn(Way::Down, chunk, failed, delivered)? {
                    return Ok(false);
                }
                down.slot(chunk)
            }
            None => self.source.location,
        };
        let to = match &lines.up {
            Some(up) => {
                if !up.await_turn(Way::Up, chunk, failed, delivered)? {
                    return Ok(false);
                }
                up.slot(chunk)
            }
            None => self.destination.location,
        };
        let short = self.extent.bytes() <= STREAMED_BYTES;
        let next = if lines.up.is_some() == short {
            Next::Elsewhere
        } else {
            Next::Used
        };
        self.by_processor(
            from.at(part.source),
            to.at(part.destination),
            part.rows,
            next,
        )?;
        if lines.up.is_none() {
            self.complete(part.rows);
        }
        if let Some(down) = &lines.down
            && down.note_part(chunk, parts)
            && chunk + SLOTS < self.chunks()
            && !failed()
        {
            self.fetch(down, chunk + SLOTS)?;
        }
        if let Some(up) = &lines.up
            && up.note_part(chunk, parts)
        {
            let to = self.destination.location.at(whole.destination);
            let rows = whole.rows.with_packed_source();
            // SAFETY: the destination is a part of what `new` was promised, whose schedule has not ended before the
            // lines are dropped; the slot is nobody's until the value passed.
            let value = unsafe { up.copy(up.slot(chunk), to, rows) }?;
            up.note_submitted(chunk, value);
        }
        Ok(true)
    }

    /// Has the device fill the slot of a chunk.
    fn fetch(&self, down: &Line, chunk: usize) -> Result<()> {
        let whole = self.extent.chunk(chunk);
        let from = self.source.location.at(whole.source);
        let rows = whole.rows.with_packed_destination();
        // SAFETY: as for the destination in `part`; the slot is nobody's until the value passed.
        let value = unsafe { down.copy(from, down.slot(chunk), rows) }?;
        down.note_submitted(chunk, value);
        Ok(())
    }

    /// The lines, which the first thread opens; none once the copy was stopped, or where there is no room for them and
    /// that thread does it all.
    fn open_once(&self) -> Result<Option<Arc<Lines>>> {
        // Looked at before too: whoever cancels does not wait for lines that are being opened.
        if self.schedule.is_stopped() {
            return Ok(None);
        }
        let mut opened = self.lines.lock();
        if self.schedule.is_stopped() {
            return Ok(None);
        }
        if let Opened::Not = *opened {
            *opened = match self.open_lines() {
                Ok(lines) => Opened::Open(Arc::new(lines)),
                Err(error) if is_of_memory(&error) => {
                    tracing::debug!(%error, "one thread does a copy that there is no room for");
                    *opened = Opened::Closed;
                    drop(opened);
                    return self.narrow().map(|()| None);
                }
                Err(error) => return Err(error),
            };
        }
        Ok(match &*opened {
            Opened::Open(lines) => Some(Arc::clone(lines)),
            Opened::Not | Opened::Closed => None,
        })
    }

    /// All by this thread, through as much memory as there is.
    fn narrow(&self) -> Result<()> {
        let passage = Passage::new(&self.source, &self.destination, self.chunk_bytes)?;
        while let Some(number) = self.schedule.claim() {
            // The first part stands for the chunk.
            if !number.is_multiple_of(self.parts_max) {
                continue;
            }
            for piece in passage.pieces(self.extent.chunk(number / self.parts_max)) {
                // SAFETY: the piece is a part of what `new` was promised, and the call returns when it is there.
                unsafe { passage.copy(piece) }?;
                self.complete(piece.rows);
            }
        }
        Ok(())
    }

    fn open_lines(&self) -> Result<Lines> {
        let line = |side: &Side, way| match &side.pool {
            Some(pool) if side.reach == Reach::Device => {
                Line::new(pool, way, self.chunk_bytes).map(Some)
            }
            _ => Ok(None),
        };
        let lines = Lines {
            down: line(&self.source, Way::Down)?,
            up: line(&self.destination, Way::Up)?,
        };
        if let Some(down) = &lines.down {
            for chunk in 0..self.chunks().min(SLOTS) {
                self.fetch(down, chunk)?;
            }
        }
        Ok(lines)
    }

    /// The part of whoever closed the schedule: nobody touches either side any more, and everybody hears of it.
    fn conclude(&self) {
        self.await_devices();
        let (bytes, total) = (self.schedule.done_bytes(), self.extent.bytes());
        let ending = match self.schedule.failure() {
            Some(_) if bytes == total => Ending::Complete,
            Some(error) if error.kind() == ErrorKind::Cancelled => Ending::Cancelled,
            Some(_) => Ending::Failed,
            None => Ending::Complete,
        };
        // Nothing was written before it was this copy's turn.
        if self.began.get().is_some() {
            self.destination
                .note_written(self.path, self.extent.whole());
        }
        self.elapsed.get_or_init(|| self.start.elapsed());
        let copied = self.began.get().map(Instant::elapsed);
        self.counters
            .count(self.path, bytes, copied.unwrap_or_default(), ending);
        self.timeline.reach(1);
        self.schedule.end();
    }

    /// What the devices still have arrives, and they touch neither side any more.
    fn await_devices(&self) {
        let opened = std::mem::replace(&mut *self.lines.lock(), Opened::Closed);
        let Opened::Open(lines) = opened else {
            return;
        };
        if let Some(up) = &lines.up {
            let delivered = |chunk| self.complete(self.extent.chunk(chunk).rows);
            if let Err(error) = up.deliver_all(delivered) {
                self.schedule.stop(error);
            }
        }
        if !self.schedule.is_stopped() {
            // Every chunk was waited for. Otherwise dropping the lines does that.
            for line in [&lines.down, &lines.up].into_iter().flatten() {
                line.note_idle();
            }
        }
    }
}

/// The lines of a copy, kept as long as a thread may work on it.
#[derive(Debug, Default)]
enum Opened {
    #[default]
    Not,
    Open(Arc<Lines>),
    Closed,
}

/// The devices that copy: that of the source, and that of the destination.
#[derive(Debug)]
struct Lines {
    down: Option<Line>,
    up: Option<Line>,
}

/// The parts of a chunk, as processors see it.
fn parts_of(whole: Piece, packed: [bool; 2], part_bytes: usize) -> Extent {
    let mut piece = whole;
    if packed[0] {
        piece.source = 0;
        piece.rows = piece.rows.with_packed_source();
    }
    if packed[1] {
        piece.destination = 0;
        piece.rows = piece.rows.with_packed_destination();
    }
    Extent::of(piece).in_chunks_of(part_bytes)
}

impl Work for Job {
    fn work(self: Arc<Self>, group: &Arc<Group>) {
        // A thread is not to wait for long here: what is waited for may be a copy that needs it, and others may be
        // ready.
        if !self.is_ready(group.patience()) {
            group.put_back(self);
            return;
        }
        let helpers = self.helpers.swap(0, Ordering::Relaxed);
        if helpers > 0 {
            let work: Arc<dyn Work> = self.clone();
            // Without them this thread does it all.
            let _none = group.give(&work, helpers);
        }
        self.help();
    }
}

/// Leaves the schedule when dropped.
struct Leaving<'a>(&'a Job);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Self(job) = self;
        if std::thread::panicking() {
            // What this thread had taken is never finished.
            job.schedule
                .stop(Error::new(ErrorKind::System, "a thread of a copy panicked"));
        }
        if !job.schedule.leave() {
            return;
        }
        job.conclude();
    }
}

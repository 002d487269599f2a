//! The space of an arena: which intervals of its numbering are free, since when, and for whom.
//!
//! Intervals in use and free ones are kept by position, free ones also by size, so taking, releasing
//! and joining are O(log n). A free interval is *clean*, free for everybody, or *pending*: work on one
//! queue may still use it, so only that queue may have it before the [`Point`] has passed. Nothing here
//! knows a device or touches memory; positions are numbers.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::block::Point;

/// Free intervals tried at their exact size before the search asks for room to align.
const ALIGNED_CANDIDATES: usize = 16;
/// Pending intervals from which a longer run is looked for.
const RUN_CANDIDATES: usize = 64;

/// A part of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

impl Range {
    pub(crate) const fn end(self) -> usize {
        self.start + self.bytes
    }

    #[cfg(test)]
    pub(crate) const fn between(start: usize, end: usize) -> Self {
        let bytes = end - start;
        Self { start, bytes }
    }
}

/// A free interval and the point before which it belongs to one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) range: Range,
    pub(crate) point: Option<Point>,
}

#[derive(Debug, Clone, Copy)]
struct Interval<T> {
    bytes: usize,
    state: State<T>,
}

#[derive(Debug, Clone, Copy)]
enum State<T> {
    Used(T),
    Free(Option<Point>),
}

#[derive(Debug, Default)]
struct Index {
    by_size: BTreeSet<(usize, usize)>,
    /// Pending intervals by the value that frees them.
    by_value: BTreeSet<(u64, usize)>,
    bytes: usize,
}

/// The intervals of one arena; `T` is what the owner wants to know of an interval in use.
#[derive(Debug)]
pub(crate) struct Space<T> {
    intervals: BTreeMap<usize, Interval<T>>,
    /// Positions across which nothing is joined: the starts of regions.
    borders: BTreeSet<usize>,
    clean: Index,
    pending: BTreeMap<u32, Index>,
    pending_bytes: usize,
}

impl<T> Default for Space<T> {
    fn default() -> Self {
        Self {
            intervals: BTreeMap::new(),
            borders: BTreeSet::new(),
            clean: Index::default(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
        }
    }
}

impl<T: Copy> Space<T> {
    /// Declares a position that no interval spans.
    pub(crate) fn add_border(&mut self, position: usize) {
        self.borders.insert(position);
    }

    pub(crate) fn remove_border(&mut self, position: usize) {
        self.borders.remove(&position);
    }

    /// Adds free space, joined with clean neighbours; returns the free interval it is part of.
    pub(crate) fn add(&mut self, range: Range) -> Range {
        self.insert_free(range, None, true)
    }

    /// Adds free space that only one queue may use before `point`; without one it is clean. Returns the
    /// free interval it is part of.
    pub(crate) fn add_pending(&mut self, range: Range, point: Option<Point>) -> Range {
        self.insert_free(range, point, point.is_none())
    }

    /// Adds free space joined with its neighbours, as when a pending interval is released while nobody
    /// else waits.
    pub(crate) fn add_joined(&mut self, range: Range, point: Option<Point>) -> Range {
        self.insert_free(range, point, true)
    }

    /// The best clean interval for `bytes` at `alignment`, a power of two: the smallest, the lowest
    /// among equals. Returns it with the aligned position inside.
    pub(crate) fn find_clean(&self, bytes: usize, alignment: usize) -> Option<(Range, usize)> {
        find(&self.clean.by_size, bytes, alignment)
    }

    /// The best interval that is pending on `queue`.
    pub(crate) fn find_pending(
        &self,
        queue: u32,
        bytes: usize,
        alignment: usize,
    ) -> Option<(Range, usize)> {
        find(&self.pending.get(&queue)?.by_size, bytes, alignment)
    }

    /// Intervals of at least `bytes` bytes that are pending on `queue`, or clean, the smallest first.
    pub(crate) fn fitting(&self, queue: Option<u32>, bytes: usize) -> impl Iterator<Item = Range> {
        let index = match queue {
            Some(queue) => self.pending.get(&queue),
            None => Some(&self.clean),
        };
        let range = |&(bytes, start): &(usize, usize)| Range { start, bytes };
        let fitting = index.map(|index| index.by_size.range((bytes, 0)..).map(range));
        fitting.into_iter().flatten()
    }

    /// Joins neighbouring intervals that `queue` may use, its own pending ones with each other and,
    /// if asked, with clean ones, until one holds `bytes` at `alignment`.
    pub(crate) fn join_for(
        &mut self,
        queue: u32,
        bytes: usize,
        alignment: usize,
        with_clean: bool,
    ) -> Option<(Range, usize)> {
        let candidates: Vec<usize> = self
            .pending
            .get(&queue)?
            .by_size
            .iter()
            .rev()
            .take(RUN_CANDIDATES)
            .map(|&(_, start)| start)
            .collect();
        let fits = |point: Option<Point>| match point {
            Some(point) => point.queue == queue,
            None => with_clean,
        };
        for start in candidates {
            let run = self.run_around(start, fits);
            let aligned = run.start.checked_next_multiple_of(alignment)?;
            if run.bytes < bytes || aligned + bytes > run.end() {
                continue;
            }
            let mut value = 0;
            let mut position = run.start;
            while position < run.end() {
                let part = self.remove_free(position);
                value = value.max(part.point.map_or(0, |point| point.value));
                position = part.range.end();
            }
            self.insert_exact(run, Some(Point { queue, value }));
            return Some((run, aligned));
        }
        None
    }

    /// Marks `bytes` from `position` inside the free interval at `free` as used. Returns the point
    /// before which only its queue may use them.
    pub(crate) fn take(
        &mut self,
        free: usize,
        position: usize,
        bytes: usize,
        owner: T,
    ) -> Option<Point> {
        let point = self.cut(
            free,
            Range {
                start: position,
                bytes,
            },
        );
        let state = State::Used(owner);
        self.intervals.insert(position, Interval { bytes, state });
        point
    }

    /// Removes a part of the free interval at `free` from the space; the rest stays.
    pub(crate) fn cut(&mut self, free: usize, part: Range) -> Option<Point> {
        let Free { range, point } = self.remove_free(free);
        debug_assert!(part.start >= range.start && part.end() <= range.end());
        if part.start > range.start {
            let before = Range {
                start: range.start,
                bytes: part.start - range.start,
            };
            self.insert_exact(before, point);
        }
        if part.end() < range.end() {
            let after = Range {
                start: part.end(),
                bytes: range.end() - part.end(),
            };
            self.insert_exact(after, point);
        }
        point
    }

    /// Removes a part of a free interval, wherever that begins; the rest stays.
    pub(crate) fn cut_within(&mut self, part: Range) -> Option<Point> {
        let (&free, _) = self.intervals.range(..=part.start).next_back()?;
        self.cut(free, part)
    }

    /// Frees the interval in use at `position`; returns the free interval it is part of now. Pending
    /// intervals of one queue are joined only if `join_pending`, because the whole then waits for the
    /// latest of their points.
    pub(crate) fn release(
        &mut self,
        position: usize,
        point: Option<Point>,
        join_pending: bool,
    ) -> Option<Range> {
        let interval = self.intervals.remove(&position)?;
        debug_assert!(matches!(interval.state, State::Used(_)), "{position:#x}");
        let range = Range {
            start: position,
            bytes: interval.bytes,
        };
        Some(self.insert_free(range, point, point.is_none() || join_pending))
    }

    /// Makes everything clean whose point on `queue` has passed; true if there was anything.
    pub(crate) fn pass(&mut self, queue: u32, completed: u64) -> bool {
        let mut any = false;
        while let Some(start) = self
            .pending
            .get(&queue)
            .and_then(|index| index.by_value.first())
            .filter(|&&(value, _)| value <= completed)
            .map(|&(_, start)| start)
        {
            let free = self.remove_free(start);
            self.insert_free(free.range, None, true);
            any = true;
        }
        any
    }

    /// Queues with pending intervals, and the greatest value each waits for.
    pub(crate) fn pending_queues(&self) -> impl Iterator<Item = (u32, u64)> {
        let values = |index: &Index| index.by_value.last().map_or(0, |&(value, _)| value);
        self.pending
            .iter()
            .map(move |(&queue, index)| (queue, values(index)))
    }

    /// The least value of a queue after which `bytes` bytes that wait for it are clean, or all.
    pub(crate) fn value_that_frees(&self, queue: u32, bytes: usize) -> Option<u64> {
        let by_value = &self.pending.get(&queue)?.by_value;
        let mut freed = 0;
        let sufficient = by_value.iter().find(|(_, start)| {
            freed += self.intervals.get(start).map_or(0, |one| one.bytes);
            freed >= bytes
        });
        sufficient
            .or_else(|| by_value.last())
            .map(|&(value, _)| value)
    }

    /// A value of a queue after which `bytes` bytes are clean in one piece that are not now, the least that is
    /// found among what lies around its largest pending intervals.
    pub(crate) fn value_that_joins(&self, queue: u32, bytes: usize) -> Option<u64> {
        let largest = self.pending.get(&queue)?.by_size.iter().rev();
        let suits = |point: Option<Point>| point.is_none_or(|point| point.queue == queue);
        let runs = largest
            .take(RUN_CANDIDATES)
            .map(|&(_, start)| self.run_around(start, suits))
            .filter(|run| run.bytes >= bytes);
        let value = |run: Range| {
            let points = self.awaited(run).unwrap_or_default();
            points.iter().map(|point| point.value).max()
        };
        runs.filter_map(value).min()
    }

    /// Free intervals that `queue` (or nobody in particular) may use, largest first: its own pending
    /// ones, then clean ones.
    pub(crate) fn largest_free_for(&self, queue: Option<u32>) -> impl Iterator<Item = Free> {
        let own = queue.and_then(|queue| self.pending.get(&queue));
        let free = |&(bytes, start): &(usize, usize)| self.free_at(Range { start, bytes });
        own.into_iter()
            .chain([&self.clean])
            .flat_map(move |index| index.by_size.iter().rev().map(free))
    }

    /// The clean intervals by position.
    pub(crate) fn clean_intervals(&self) -> impl Iterator<Item = Range> {
        self.intervals.iter().filter_map(|(&start, interval)| {
            let bytes = interval.bytes;
            matches!(interval.state, State::Free(None)).then_some(Range { start, bytes })
        })
    }

    /// The free intervals by position, whatever they wait for.
    pub(crate) fn free_intervals(&self) -> impl Iterator<Item = Range> {
        self.intervals.iter().filter_map(|(&start, interval)| {
            let bytes = interval.bytes;
            matches!(interval.state, State::Free(_)).then_some(Range { start, bytes })
        })
    }

    /// The free interval that ends at `end`, if there is one.
    pub(crate) fn free_before(&self, end: usize) -> Option<Free> {
        let (&start, interval) = self.intervals.range(..end).next_back()?;
        let range = Range {
            start,
            bytes: interval.bytes,
        };
        match interval.state {
            State::Free(point) if range.end() == end => Some(Free { range, point }),
            _ => None,
        }
    }

    /// The free interval that starts at `start`, if there is one.
    pub(crate) fn free_after(&self, start: usize) -> Option<Free> {
        let interval = self.intervals.get(&start)?;
        let range = Range {
            start,
            bytes: interval.bytes,
        };
        match interval.state {
            State::Free(point) => Some(Free { range, point }),
            State::Used(_) => None,
        }
    }

    /// The points that a range waits for which is free throughout; none if any of it is in use.
    pub(crate) fn awaited(&self, range: Range) -> Option<Vec<Point>> {
        let mut points = Vec::new();
        for interval in self.intervals.range(range.start..range.end()) {
            match interval.1.state {
                State::Free(point) => points.extend(point),
                State::Used(_) => return None,
            }
        }
        Some(points)
    }

    /// Bytes free for everybody.
    pub(crate) fn clean_bytes(&self) -> usize {
        self.clean.bytes
    }

    /// Bytes that wait for points.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Bytes pending on `queue`.
    pub(crate) fn pending_bytes_of(&self, queue: u32) -> usize {
        self.pending.get(&queue).map_or(0, |index| index.bytes)
    }

    /// The largest clean interval in bytes.
    pub(crate) fn largest_clean(&self) -> usize {
        self.clean.by_size.last().map_or(0, |&(bytes, _)| bytes)
    }

    fn free_at(&self, range: Range) -> Free {
        let point = match self.intervals.get(&range.start).map(|one| one.state) {
            Some(State::Free(point)) => point,
            _ => None,
        };
        Free { range, point }
    }

    /// The longest run of neighbouring free intervals around the one at `start` that all suit.
    fn run_around(&self, start: usize, suits: impl Fn(Option<Point>) -> bool) -> Range {
        let free = |interval: &Interval<T>| match interval.state {
            State::Free(point) => suits(point),
            State::Used(_) => false,
        };
        let mut first = start;
        while !self.borders.contains(&first)
            && let Some((&before, interval)) = self.intervals.range(..first).next_back()
            && before + interval.bytes == first
            && free(interval)
        {
            first = before;
        }
        let mut end = start;
        while let Some(interval) = self.intervals.get(&end).filter(|interval| free(interval)) {
            end += interval.bytes;
            if self.borders.contains(&end) {
                break;
            }
        }
        Range {
            start: first,
            bytes: end - first,
        }
    }

    fn insert_free(&mut self, mut range: Range, point: Option<Point>, join: bool) -> Range {
        let mut point = point;
        if join {
            // Where pending memory may be joined at all, clean memory next to it may wait with it.
            let alike = |other: Option<Point>| match (point, other) {
                (Some(point), Some(other)) => point.queue == other.queue,
                (Some(_), None) | (None, None) => true,
                (None, Some(_)) => false,
            };
            let mut joined = [None; 2];
            if !self.borders.contains(&range.start)
                && let Some(before) = self.free_before(range.start)
                && alike(before.point)
            {
                joined[0] = Some(before);
            }
            if !self.borders.contains(&range.end())
                && let Some(after) = self.free_after(range.end())
                && alike(after.point)
            {
                joined[1] = Some(after);
            }
            for other in joined.into_iter().flatten() {
                self.remove_free(other.range.start);
                range.start = range.start.min(other.range.start);
                range.bytes += other.range.bytes;
                point = match (point, other.point) {
                    (Some(point), Some(other)) => Some(point.later(other)),
                    _ => point,
                };
            }
        }
        self.insert_exact(range, point);
        range
    }

    fn insert_exact(&mut self, range: Range, point: Option<Point>) {
        let Range { start, bytes } = range;
        let state = State::Free(point);
        let replaced = self.intervals.insert(start, Interval { bytes, state });
        debug_assert!(replaced.is_none(), "{start:#x} was known already");
        let index = match point {
            Some(point) => {
                self.pending_bytes += bytes;
                let index = self.pending.entry(point.queue).or_default();
                index.by_value.insert((point.value, start));
                index
            }
            None => &mut self.clean,
        };
        index.by_size.insert((bytes, start));
        index.bytes += bytes;
    }

    fn remove_free(&mut self, start: usize) -> Free {
        let interval = self.intervals.remove(&start);
        let Some(Interval {
            bytes,
            state: State::Free(point),
        }) = interval
        else {
            unreachable!("{start:#x} is not the start of a free interval");
        };
        let index = match point {
            Some(point) => {
                self.pending_bytes -= bytes;
                let index = self.pending.entry(point.queue).or_default();
                index.by_value.remove(&(point.value, start));
                index
            }
            None => &mut self.clean,
        };
        index.by_size.remove(&(bytes, start));
        index.bytes -= bytes;
        let empty = index.bytes == 0;
        if let Some(point) = point.filter(|_| empty) {
            // Queues come and go; all that wait are walked through.
            self.pending.remove(&point.queue);
        }
        Free {
            range: Range { start, bytes },
            point,
        }
    }
}

fn find(
    by_size: &BTreeSet<(usize, usize)>,
    bytes: usize,
    alignment: usize,
) -> Option<(Range, usize)> {
    let fits = |&(length, start): &(usize, usize)| {
        let aligned = start.checked_next_multiple_of(alignment)?;
        let end = aligned.checked_add(bytes)?;
        (end <= start + length).then_some((
            Range {
                start,
                bytes: length,
            },
            aligned,
        ))
    };
    let mut candidates = by_size.range((bytes, 0)..);
    if let Some(found) = candidates.by_ref().take(ALIGNED_CANDIDATES).find_map(fits) {
        return Some(found);
    }
    // An interval this long holds an aligned start wherever it begins.
    let sure = bytes.checked_add(alignment - 1)?;
    by_size.range((sure, 0)..).next().and_then(fits)
}

#[cfg(test)]
mod tests;

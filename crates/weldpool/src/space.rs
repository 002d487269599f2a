//! The space of an arena: which intervals of its numbering are free, since when, and for whom.
//!
//! Intervals in use and free ones are kept by position, free ones also by size, so taking, releasing
//! and joining are those of a [`SortedMap`]: O(log n) to search, and some cache lines to move. A free interval is *clean*, free for everybody, or *pending*: work on one
//! queue may still use it, so only that queue may have it before the [`Point`] has passed. Nothing here
//! knows a device or touches memory; positions are numbers.

#![forbid(unsafe_code)]

use crate::block::Point;
use crate::sorted::{SortedMap, SortedSet, Spot};

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

/// A number and a position, in the order of the first and then of the second; as one integer, which is compared
/// without a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u128);

impl Ranked {
    const fn new(rank: u64, start: usize) -> Self {
        Self((rank as u128) << 64 | start as u128)
    }

    const fn rank(self) -> u64 {
        (self.0 >> 64) as u64
    }

    const fn start(self) -> usize {
        self.0 as usize
    }

    /// Of an interval, by its length.
    const fn by_size(range: Range) -> Self {
        Self::new(range.bytes as u64, range.start)
    }

    /// The interval that this is of, if it was ranked by its length.
    const fn range(self) -> Range {
        Range {
            start: self.start(),
            bytes: self.rank() as usize,
        }
    }
}

#[derive(Debug, Default)]
struct Index {
    by_size: SortedSet<Ranked>,
    /// Pending intervals by the value that frees them.
    by_value: SortedSet<Ranked>,
    bytes: usize,
}

/// The intervals of one arena; `T` is what the owner wants to know of an interval in use.
#[derive(Debug)]
pub(crate) struct Space<T> {
    intervals: SortedMap<usize, Interval<T>>,
    /// Positions across which nothing is joined: the starts of regions.
    borders: SortedSet<usize>,
    clean: Index,
    pending: SortedMap<u32, Index>,
    /// Of a queue that nothing waits for now: queues come and go, and all that wait are walked through.
    spare: Index,
    pending_bytes: usize,
}

impl<T> Default for Space<T> {
    fn default() -> Self {
        Self {
            intervals: SortedMap::default(),
            borders: SortedSet::default(),
            clean: Index::default(),
            pending: SortedMap::default(),
            spare: Index::default(),
            pending_bytes: 0,
        }
    }
}

impl Index {
    /// The intervals of at least `bytes` bytes, the smallest first, the lowest among equals.
    fn fitting(&self, bytes: usize) -> impl Iterator<Item = Range> {
        let first = self.by_size.lower_bound(&Ranked::new(bytes as u64, 0));
        self.by_size
            .iter_from(first)
            .map(|(ranked, ())| ranked.range())
    }

    /// The intervals, the largest first.
    fn largest(&self) -> impl Iterator<Item = Range> {
        self.by_size.iter_down().map(|(ranked, ())| ranked.range())
    }

    /// The best interval for `bytes` at `alignment`, and the aligned position inside.
    fn find(&self, bytes: usize, alignment: usize) -> Option<(Range, usize)> {
        let fits = |range: Range| {
            let aligned = range.start.checked_next_multiple_of(alignment)?;
            let end = aligned.checked_add(bytes)?;
            (end <= range.end()).then_some((range, aligned))
        };
        let mut candidates = self.fitting(bytes).take(ALIGNED_CANDIDATES);
        if let Some(found) = candidates.find_map(fits) {
            return Some(found);
        }
        // An interval this long holds an aligned start wherever it begins.
        let sure = bytes.checked_add(alignment - 1)?;
        self.fitting(sure).next().and_then(fits)
    }
}

impl<T: Copy> Space<T> {
    /// Declares a position that no interval spans.
    pub(crate) fn add_border(&mut self, position: usize) {
        self.borders.insert(position, ());
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
        self.clean.find(bytes, alignment)
    }

    /// The best interval that is pending on `queue`.
    pub(crate) fn find_pending(
        &self,
        queue: u32,
        bytes: usize,
        alignment: usize,
    ) -> Option<(Range, usize)> {
        self.pending.get(&queue)?.find(bytes, alignment)
    }

    /// Intervals of at least `bytes` bytes that are pending on `queue`, or clean, the smallest first.
    pub(crate) fn fitting(&self, queue: Option<u32>, bytes: usize) -> impl Iterator<Item = Range> {
        let index = match queue {
            Some(queue) => self.pending.get(&queue),
            None => Some(&self.clean),
        };
        let fitting = index.map(|index| index.fitting(bytes));
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
            .largest()
            .take(RUN_CANDIDATES)
            .map(|range| range.start)
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
        let part = Range {
            start: position,
            bytes,
        };
        self.split(free, part, Some(State::Used(owner)))
    }

    /// Removes a part of the free interval at `free` from the space; the rest stays.
    pub(crate) fn cut(&mut self, free: usize, part: Range) -> Option<Point> {
        self.split(free, part, None)
    }

    /// Removes a part of a free interval, wherever that begins; the rest stays.
    pub(crate) fn cut_within(&mut self, part: Range) -> Option<Point> {
        let free = self.intervals.last_up_to(&part.start)?;
        self.cut(self.intervals.key_at(free), part)
    }

    /// Replaces a part of the free interval at `free` by one in that state, or by none; what is before and behind
    /// it stays free. Returns the point that it waited for.
    fn split(&mut self, free: usize, part: Range, state: Option<State<T>>) -> Option<Point> {
        let spot = self.find_free(free);
        let Free { range, point } = self.unlist(spot);
        debug_assert!(part.start >= range.start && part.end() <= range.end());
        let before = Range {
            start: range.start,
            bytes: part.start - range.start,
        };
        let after = Range {
            start: part.end(),
            bytes: range.end() - part.end(),
        };
        let part = state.map(|state| Interval {
            bytes: part.bytes,
            state,
        });
        if before.bytes > 0 {
            self.intervals.value_at_mut(spot).bytes = before.bytes;
            self.list(before, point);
            if let Some(part) = part {
                self.intervals.insert(before.end(), part);
            }
        } else if let Some(part) = part {
            *self.intervals.value_at_mut(spot) = part;
        } else {
            self.intervals.remove_at(spot);
        }
        if after.bytes > 0 {
            self.insert_exact(after, point);
        }
        point
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
        let spot = self.intervals.find(&position)?;
        debug_assert!(
            matches!(self.intervals.value_at(spot).state, State::Used(_)),
            "{position:#x}"
        );
        Some(self.settle(spot, point, point.is_none() || join_pending))
    }

    /// Makes everything clean whose point on `queue` has passed; true if there was anything.
    pub(crate) fn pass(&mut self, queue: u32, completed: u64) -> bool {
        let mut any = false;
        while let Some(start) = self
            .pending
            .get(&queue)
            .and_then(|index| index.by_value.first_key())
            .filter(|first| first.rank() <= completed)
            .map(Ranked::start)
        {
            let spot = self.find_free(start);
            self.unlist(spot);
            self.settle(spot, None, true);
            any = true;
        }
        any
    }

    /// Queues with pending intervals, and the greatest value each waits for.
    pub(crate) fn pending_queues(&self) -> impl Iterator<Item = (u32, u64)> {
        let value = |index: &Index| index.by_value.last_key().map_or(0, Ranked::rank);
        self.pending
            .iter()
            .map(move |(queue, index)| (queue, value(index)))
    }

    /// The least value of a queue after which `bytes` bytes that wait for it are clean, or all.
    pub(crate) fn value_that_frees(&self, queue: u32, bytes: usize) -> Option<u64> {
        let by_value = &self.pending.get(&queue)?.by_value;
        let mut freed = 0;
        let mut all = by_value.iter().map(|(ranked, ())| ranked);
        let sufficient = all.find(|ranked| {
            let one = self.intervals.get(&ranked.start());
            freed += one.map_or(0, |one| one.bytes);
            freed >= bytes
        });
        sufficient.or_else(|| by_value.last_key()).map(Ranked::rank)
    }

    /// A value of a queue after which `bytes` bytes are clean in one piece that are not now, the least that is
    /// found among what lies around its largest pending intervals.
    pub(crate) fn value_that_joins(&self, queue: u32, bytes: usize) -> Option<u64> {
        let largest = self.pending.get(&queue)?.largest();
        let suits = |point: Option<Point>| point.is_none_or(|point| point.queue == queue);
        let runs = largest
            .take(RUN_CANDIDATES)
            .map(|range| self.run_around(range.start, suits))
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
        own.into_iter()
            .chain([&self.clean])
            .flat_map(Index::largest)
            .map(|range| self.free_at(range))
    }

    /// The clean intervals by position.
    pub(crate) fn clean_intervals(&self) -> impl Iterator<Item = Range> {
        self.intervals.iter().filter_map(|(start, interval)| {
            let bytes = interval.bytes;
            matches!(interval.state, State::Free(None)).then_some(Range { start, bytes })
        })
    }

    /// The free intervals by position, whatever they wait for.
    pub(crate) fn free_intervals(&self) -> impl Iterator<Item = Range> {
        self.intervals.iter().filter_map(|(start, interval)| {
            let bytes = interval.bytes;
            matches!(interval.state, State::Free(_)).then_some(Range { start, bytes })
        })
    }

    /// The free interval that ends at `end`, if there is one.
    pub(crate) fn free_before(&self, end: usize) -> Option<Free> {
        let before = self.intervals.last_below(&end)?;
        self.free_in(before).filter(|free| free.range.end() == end)
    }

    /// The free interval that starts at `start`, if there is one.
    pub(crate) fn free_after(&self, start: usize) -> Option<Free> {
        self.free_in(self.intervals.find(&start)?)
    }

    /// The points that a range waits for which is free throughout; none if any of it is in use.
    pub(crate) fn awaited(&self, range: Range) -> Option<Vec<Point>> {
        let mut points = Vec::new();
        let from = self.intervals.lower_bound(&range.start);
        for (start, interval) in self.intervals.iter_from(from) {
            match interval.state {
                _ if start >= range.end() => break,
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
        self.clean.largest().next().map_or(0, |range| range.bytes)
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
        let here = self.find_free(start);
        let suiting = |spot| self.free_in(spot).filter(|free| suits(free.point));
        let (mut first, mut end) = (start, start + self.intervals.value_at(here).bytes);
        let before = std::iter::successors(Some(here), |&spot| self.intervals.before(spot));
        for free in before.skip(1).map_while(suiting) {
            if free.range.end() != first || self.borders.contains(&first) {
                break;
            }
            first = free.range.start;
        }
        let after = std::iter::successors(Some(here), |&spot| self.intervals.after(spot));
        for free in after.skip(1).map_while(suiting) {
            if free.range.start != end || self.borders.contains(&end) {
                break;
            }
            end = free.range.end();
        }
        Range::between(first, end)
    }

    fn insert_free(&mut self, range: Range, point: Option<Point>, join: bool) -> Range {
        let Range { start, bytes } = range;
        let state = State::Free(point);
        let replaced = self.intervals.insert(start, Interval { bytes, state });
        debug_assert!(replaced.is_none(), "{start:#x} was known already");
        match self.intervals.find(&start) {
            Some(spot) => self.settle(spot, point, join),
            None => range,
        }
    }

    /// Makes an interval free that no index knows, joined with its neighbours if asked; returns the free interval
    /// it is part of.
    fn settle(&mut self, spot: Spot, point: Option<Point>, join: bool) -> Range {
        let mut range = self.range_in(spot);
        let mut point = point;
        let mut first = spot;
        let mut behind = None;
        if join {
            // Where pending memory may be joined at all, clean memory next to it may wait with it.
            let alike = |other: &Free| match (point, other.point) {
                (Some(point), Some(other)) => point.queue == other.queue,
                (Some(_), None) | (None, None) => true,
                (None, Some(_)) => false,
            };
            let neighbour = |spot: Option<Spot>| {
                let free = self.free_in(spot?).filter(alike)?;
                Some((spot?, free))
            };
            let before = neighbour(self.intervals.before(spot))
                .filter(|(_, free)| free.range.end() == range.start)
                .filter(|_| !self.borders.contains(&range.start));
            let after = neighbour(self.intervals.after(spot))
                .filter(|(_, free)| free.range.start == range.end())
                .filter(|_| !self.borders.contains(&range.end()));
            for (spot, other) in [before, after].into_iter().flatten() {
                self.unlist(spot);
                range.start = range.start.min(other.range.start);
                range.bytes += other.range.bytes;
                point = match (point, other.point) {
                    (Some(point), Some(other)) => Some(point.later(other)),
                    _ => point,
                };
            }
            first = before.map_or(spot, |(before, _)| before);
            behind = after.map(|(after, _)| after);
        }
        let bytes = range.bytes;
        let state = State::Free(point);
        *self.intervals.value_at_mut(first) = Interval { bytes, state };
        // The later ones first: what is removed moves what is behind it.
        if let Some(behind) = behind {
            let start = self.intervals.key_at(spot);
            self.intervals.remove_at(behind);
            if first != spot {
                self.intervals.remove(&start);
            }
        } else if first != spot {
            self.intervals.remove_at(spot);
        }
        self.list(range, point);
        range
    }

    fn insert_exact(&mut self, range: Range, point: Option<Point>) {
        let Range { start, bytes } = range;
        let state = State::Free(point);
        let replaced = self.intervals.insert(start, Interval { bytes, state });
        debug_assert!(replaced.is_none(), "{start:#x} was known already");
        self.list(range, point);
    }

    fn remove_free(&mut self, start: usize) -> Free {
        let spot = self.find_free(start);
        let free = self.unlist(spot);
        self.intervals.remove_at(spot);
        free
    }

    fn find_free(&self, start: usize) -> Spot {
        match self.intervals.find(&start) {
            Some(spot) => spot,
            None => unreachable!("{start:#x} is not the start of an interval"),
        }
    }

    fn range_in(&self, spot: Spot) -> Range {
        Range {
            start: self.intervals.key_at(spot),
            bytes: self.intervals.value_at(spot).bytes,
        }
    }

    fn free_in(&self, spot: Spot) -> Option<Free> {
        match self.intervals.value_at(spot).state {
            State::Free(point) => Some(Free {
                range: self.range_in(spot),
                point,
            }),
            State::Used(_) => None,
        }
    }

    /// Makes a free interval known to the index of its kind.
    fn list(&mut self, range: Range, point: Option<Point>) {
        let index = match point {
            Some(point) => {
                self.pending_bytes += range.bytes;
                let spare = || std::mem::take(&mut self.spare);
                let index = self.pending.get_or_insert_with(point.queue, spare);
                index
                    .by_value
                    .insert(Ranked::new(point.value, range.start), ());
                index
            }
            None => &mut self.clean,
        };
        index.by_size.insert(Ranked::by_size(range), ());
        index.bytes += range.bytes;
    }

    /// Takes the free interval there out of its index. It stays among the intervals.
    fn unlist(&mut self, spot: Spot) -> Free {
        let Some(free) = self.free_in(spot) else {
            unreachable!("{:?} is in use", self.range_in(spot));
        };
        let Free { range, point } = free;
        let index = match point {
            Some(point) => {
                self.pending_bytes -= range.bytes;
                let Some(index) = self.pending.get_mut(&point.queue) else {
                    unreachable!("{range:?} is pending on no queue");
                };
                index
                    .by_value
                    .remove(&Ranked::new(point.value, range.start));
                index
            }
            None => &mut self.clean,
        };
        index.by_size.remove(&Ranked::by_size(range));
        index.bytes -= range.bytes;
        if let Some(point) = point
            && index.bytes == 0
            && let Some(empty) = self.pending.remove(&point.queue)
        {
            self.spare = empty;
        }
        free
    }
}

#[cfg(test)]
mod tests;

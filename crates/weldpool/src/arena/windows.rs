//! Handles that can only be mapped whole, the windows they are mapped at, and which of their free
//! parts make one piece.
//!
//! A handle may be mapped at several windows at once. Each of its bytes is held, free or in use, in
//! exactly one of them; free bytes change windows without a driver call. So the free end of one
//! handle, whole free handles and the free start of another become one piece of memory when windows
//! of them lie side by side.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::mappings::Piece;
use crate::block::Point;
use crate::device::Physical;
use crate::space::Range;
use crate::wait::{Wait, left_out};

/// Whole handles looked at for the middle of a chain.
const MIDDLE_MAX: usize = 512;
/// A chain's waste counts in parts of the request this large, each as much as two thirds of a handle.
const WASTE_DIVISOR: usize = 64;

/// All handles of an arena and their windows.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    handles: BTreeMap<Physical, Handle>,
    /// By position.
    windows: BTreeMap<usize, Window>,
    /// Counts windows, so that the oldest idle ones are known.
    made: u64,
}

#[derive(Debug)]
struct Handle {
    bytes: usize,
    windows: Vec<usize>,
}

#[derive(Debug)]
struct Window {
    handle: Physical,
    bytes: usize,
    /// Bytes of the handle that are free or in use here rather than in another window.
    held: usize,
    /// Work that may still use the addresses of bytes that left.
    points: Vec<Point>,
    number: u64,
}

/// The weight and waste of a chain, how many whole handles it has, its free end and its free start.
type Chain = ((usize, usize), usize, Option<Part>, Option<Part>);

/// A part of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) handle: Physical,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl Windows {
    /// Adds a window, which holds nothing yet.
    pub(crate) fn add(&mut self, position: usize, piece: Piece) {
        let handle = self.handles.entry(piece.physical).or_insert(Handle {
            bytes: piece.bytes,
            windows: Vec::new(),
        });
        handle.windows.push(position);
        self.made += 1;
        let window = Window {
            handle: piece.physical,
            bytes: piece.bytes,
            held: 0,
            points: Vec::new(),
            number: self.made,
        };
        self.windows.insert(position, window);
    }

    pub(crate) fn handle_count(&self) -> usize {
        self.handles.len()
    }

    pub(crate) fn window_count(&self) -> usize {
        self.windows.len()
    }

    /// Length of a handle.
    pub(crate) fn bytes_of(&self, handle: Physical) -> usize {
        self.handles.get(&handle).map_or(0, |handle| handle.bytes)
    }

    /// The windows of a handle.
    pub(crate) fn windows_of(&self, handle: Physical) -> &[usize] {
        self.handles
            .get(&handle)
            .map_or(&[], |handle| &handle.windows)
    }

    /// Bytes of a range of positions, all of them mapped, are held there from now on.
    pub(crate) fn enter(&mut self, range: Range) {
        self.each(range, |window, bytes| window.held += bytes);
    }

    /// Bytes of a range are held there no longer; work before `point` may still use the addresses.
    pub(crate) fn leave(&mut self, range: Range, point: Option<Point>) {
        self.each(range, |window, bytes| {
            window.held -= bytes;
            let Some(point) = point else {
                return;
            };
            let known = window
                .points
                .iter_mut()
                .find(|one| one.queue == point.queue);
            match known {
                Some(known) => *known = known.later(point),
                None => window.points.push(point),
            }
        });
    }

    fn each(&mut self, range: Range, mut visit: impl FnMut(&mut Window, usize)) {
        let first = self.windows.range(..=range.start).next_back();
        let from = first.map_or(range.start, |(&start, _)| start);
        for (&start, window) in self.windows.range_mut(from..range.end()) {
            let inside = range
                .end()
                .min(start + window.bytes)
                .saturating_sub(range.start.max(start));
            if inside > 0 {
                visit(window, inside);
            }
        }
    }

    /// What lies behind a range of positions, with where each part is.
    pub(crate) fn parts(&self, range: Range) -> impl Iterator<Item = (usize, Part)> {
        let first = self.windows.range(..=range.start).next_back();
        let from = first.map_or(range.start, |(&start, _)| start);
        let windows = self.windows.range(from..range.end());
        windows.filter_map(move |(&start, window)| {
            let begin = range.start.max(start);
            let end = range.end().min(start + window.bytes);
            (begin < end).then(|| {
                let part = Part {
                    handle: window.handle,
                    offset: begin - start,
                    bytes: end - begin,
                };
                (begin, part)
            })
        })
    }

    /// Where windows of these handles lie side by side in this order.
    pub(crate) fn find_run(
        &self,
        handles: impl Iterator<Item = Physical> + Clone,
    ) -> Option<usize> {
        let first = handles.clone().next()?;
        self.windows_of(first).iter().copied().find(|&start| {
            let mut position = start;
            handles.clone().all(|handle| {
                let window = self.windows.get(&position);
                window.is_some_and(|window| {
                    position += window.bytes;
                    window.handle == handle
                })
            })
        })
    }

    /// Windows that hold nothing and that no work can use any more, oldest first.
    pub(crate) fn idle(&self, passed: &dyn Fn(Point) -> bool) -> Vec<Range> {
        let over = |&point: &Point| passed(point) || left_out(Wait::UnmapWindow);
        let mut idle: Vec<(u64, Range)> = self
            .windows
            .iter()
            .filter(|(_, window)| window.held == 0 && window.points.iter().all(over))
            .map(|(&start, window)| {
                let bytes = window.bytes;
                (window.number, Range { start, bytes })
            })
            .collect();
        idle.sort_unstable_by_key(|&(number, _)| number);
        idle.into_iter().map(|(_, range)| range).collect()
    }

    /// Forgets a window; its handle is forgotten with the last one and returned.
    pub(crate) fn remove(&mut self, position: usize) -> Option<Piece> {
        let window = self.windows.remove(&position)?;
        let handle = self.handles.get_mut(&window.handle)?;
        handle.windows.retain(|&one| one != position);
        if !handle.windows.is_empty() {
            return None;
        }
        self.handles.remove(&window.handle);
        Some(Piece {
            physical: window.handle,
            bytes: window.bytes,
        })
    }

    /// Forgets everything; returns the handles.
    pub(crate) fn take_all(&mut self) -> Vec<Piece> {
        self.windows.clear();
        let handles = std::mem::take(&mut self.handles);
        let piece = |(physical, handle): (Physical, Handle)| Piece {
            physical,
            bytes: handle.bytes,
        };
        handles.into_iter().map(piece).collect()
    }
}

/// The free memory that one request may use, by handle.
#[derive(Debug)]
pub(crate) struct FreeParts<'a> {
    windows: &'a Windows,
    /// Of each handle: offset, length and position of its free parts, ascending.
    parts: BTreeMap<Physical, Vec<(usize, usize, usize)>>,
    granularity: usize,
}

impl<'a> FreeParts<'a> {
    pub(crate) fn new(
        windows: &'a Windows,
        granularity: usize,
        free: impl Iterator<Item = Range>,
    ) -> Self {
        let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for range in free {
            for (position, part) in windows.parts(range) {
                let list = parts.entry(part.handle).or_default();
                list.push((part.offset, part.bytes, position));
            }
        }
        for list in parts.values_mut() {
            list.sort_unstable();
        }
        Self {
            windows,
            parts,
            granularity,
        }
    }

    /// Where the bytes of a part lie now, as ranges of positions in order.
    pub(crate) fn ranges(&self, part: Part) -> Vec<Range> {
        let end = part.offset + part.bytes;
        let of_handle = self.parts.get(&part.handle);
        let overlap = |&(offset, bytes, position): &(usize, usize, usize)| {
            let from = part.offset.max(offset);
            let to = end.min(offset + bytes);
            (from < to).then(|| Range {
                start: position + (from - offset),
                bytes: to - from,
            })
        };
        of_handle
            .into_iter()
            .flatten()
            .filter_map(overlap)
            .collect()
    }

    /// For each free part that lies in another window than most of its handle: where it is, and where
    /// it would be.
    pub(crate) fn gathered(&self) -> Vec<(Range, usize)> {
        let mut moves = Vec::new();
        for (&handle, parts) in &self.parts {
            let held = |&window: &usize| {
                let window = self.windows.windows.get(&window);
                window.map_or(0, |window| window.held)
            };
            let windows = self.windows.windows_of(handle).iter().copied();
            let Some(home) = windows.max_by_key(held) else {
                continue;
            };
            for &(offset, bytes, position) in parts {
                if position != home + offset {
                    let start = position;
                    moves.push((Range { start, bytes }, home + offset));
                }
            }
        }
        moves
    }

    /// Free runs of a handle: offset and length, ascending, not adjacent.
    fn runs(&self, handle: Physical) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &(offset, bytes, _) in self.parts.get(&handle).into_iter().flatten() {
            match runs.last_mut() {
                Some((start, length)) if *start + *length == offset => *length += bytes,
                _ => runs.push((offset, bytes)),
            }
        }
        runs
    }

    /// Bytes that parts leave of handles that are free altogether.
    pub(crate) fn broken(&self, parts: &[Part]) -> usize {
        let left = |part: &Part| {
            let bytes = self.windows.bytes_of(part.handle);
            let free = self.runs(part.handle) == [(0, bytes)];
            if free { bytes - part.bytes } else { 0 }
        };
        parts.iter().map(left).sum()
    }

    /// Handles that are free altogether, with their lengths.
    pub(crate) fn whole(&self) -> Vec<Part> {
        let whole = |(&handle, _): (&Physical, _)| {
            let bytes = self.windows.bytes_of(handle);
            let free = self.runs(handle) == [(0, bytes)];
            free.then_some(Part {
                handle,
                offset: 0,
                bytes,
            })
        };
        self.parts.iter().filter_map(whole).collect()
    }

    /// The best place for `bytes` in windows that exist: the shortest run that holds them. Needs no
    /// driver call. `border` tells positions that no block spans.
    pub(crate) fn find_mapped(
        &self,
        bytes: usize,
        alignment: usize,
        border: impl Fn(usize) -> bool,
    ) -> Option<(usize, Vec<Part>)> {
        struct Run {
            start: usize,
            end: usize,
            handles: Vec<Physical>,
        }
        let mut best: Option<(usize, usize, usize)> = None;
        let mut offer = |run: &Run| {
            let aligned = run.start.checked_next_multiple_of(alignment)?;
            let length = run.end - run.start;
            let fits = aligned.checked_add(bytes)? <= run.end;
            if fits && best.is_none_or(|(shortest, ..)| length < shortest) {
                best = Some((length, aligned, run.start));
            }
            Some(())
        };
        let mut runs: BTreeMap<Physical, Vec<(usize, usize)>> = BTreeMap::new();
        for &handle in self.parts.keys() {
            runs.insert(handle, self.runs(handle));
        }
        let mut run: Option<Run> = None;
        for (&start, window) in &self.windows.windows {
            let handle = window.handle;
            for &(offset, length) in runs.get(&handle).into_iter().flatten() {
                let from = start + offset;
                let to = from + length;
                match &mut run {
                    // A handle mapped twice in a row is free once only.
                    Some(run)
                        if run.end == from && !border(from) && !run.handles.contains(&handle) =>
                    {
                        run.end = to;
                        run.handles.push(handle);
                    }
                    _ => {
                        if let Some(run) = run.take() {
                            offer(&run);
                        }
                        run = Some(Run {
                            start: from,
                            end: to,
                            handles: vec![handle],
                        });
                    }
                }
            }
        }
        if let Some(run) = run {
            offer(&run);
        }
        let (_, position, _) = best?;
        let range = Range {
            start: position,
            bytes,
        };
        let parts = self.windows.parts(range).map(|(_, part)| part).collect();
        Some((position, parts))
    }

    /// Free ends of handles that are not free altogether, and free starts, by length.
    fn edges(&self, alignment: usize) -> (Vec<Part>, Vec<Part>) {
        let (mut ends, mut starts) = (Vec::new(), Vec::new());
        for &handle in self.parts.keys() {
            let whole = self.windows.bytes_of(handle);
            let runs = self.runs(handle);
            if runs == [(0, whole)] {
                continue;
            }
            if let Some(&(offset, bytes)) = runs.last()
                && offset + bytes == whole
                && alignment <= self.granularity
            {
                let bytes = bytes & !(alignment - 1);
                let offset = whole - bytes;
                ends.push(Part {
                    handle,
                    offset,
                    bytes,
                });
            }
            if let Some(&(0, bytes)) = runs.first() {
                starts.push(Part {
                    handle,
                    offset: 0,
                    bytes,
                });
            }
        }
        ends.retain(|part| part.bytes > 0);
        ends.sort_unstable_by_key(|part| part.bytes);
        starts.sort_unstable_by_key(|part| part.bytes);
        (ends, starts)
    }

    /// Parts that make `bytes` once their handles are mapped side by side: the free end of one, whole
    /// ones, the free start of another; few handles and little left over.
    pub(crate) fn find_chain(&self, bytes: usize, alignment: usize) -> Option<Vec<Part>> {
        let mut parts = self.find_chain_of(bytes, alignment)?;
        if let Some(last) = parts.last().copied()
            && last.offset == 0
            && self.broken(&[last]) > 0
        {
            let smaller = self.whole().into_iter().filter(|one| {
                one.bytes >= last.bytes && parts.iter().all(|part| part.handle != one.handle)
            });
            let smallest = smaller.min_by_key(|one| one.bytes);
            if let Some(one) = smallest.filter(|one| one.bytes < self.windows.bytes_of(last.handle))
            {
                parts.pop();
                parts.push(Part {
                    bytes: last.bytes,
                    ..one
                });
            }
        }
        Some(parts)
    }

    fn find_chain_of(&self, bytes: usize, alignment: usize) -> Option<Vec<Part>> {
        let (ends, starts) = self.edges(alignment);
        let mut whole = self.whole();
        whole.sort_unstable_by_key(|part| std::cmp::Reverse(part.bytes));
        let longest = |parts: &[Part]| parts.last().map_or(0, |part| part.bytes);
        let most = longest(&ends) + longest(&starts);
        let mut best: Option<Chain> = None;
        let mut middle = 0;
        for count in 0..=whole.len().min(MIDDLE_MAX) {
            if count > 0 {
                middle += whole[count - 1].bytes;
            }
            let missing = bytes.saturating_sub(middle);
            let mut offer = |end: Option<Part>, start: Option<Part>| {
                let sum = end.map_or(0, |part| part.bytes) + start.map_or(0, |part| part.bytes);
                if sum < missing || end.zip(start).is_some_and(|(a, b)| a.handle == b.handle) {
                    return;
                }
                // What is left of a whole handle stays a free end.
                let left = if count > 0 && start.is_none() {
                    0
                } else {
                    sum - missing
                };
                let handles = count + usize::from(end.is_some()) + usize::from(start.is_some());
                let weight = left / (bytes / WASTE_DIVISOR + 1) * 2 + handles * 3;
                if best.is_none_or(|(known, ..)| (weight, left) < known) {
                    best = Some(((weight, left), count, end, start));
                }
            };
            if missing == 0 {
                offer(None, None);
                break;
            }
            if most < missing {
                continue;
            }
            let holds = |part: &Part| part.bytes < missing;
            offer(ends.get(ends.partition_point(holds)).copied(), None);
            offer(None, starts.get(starts.partition_point(holds)).copied());
            let mut from = starts.len();
            for &end in &ends {
                while from > 0 && end.bytes + starts[from - 1].bytes >= missing {
                    from -= 1;
                }
                for &start in starts[from..].iter().take(2) {
                    offer(Some(end), Some(start));
                }
            }
        }
        let (_, count, end, start) = best?;
        let parts = end
            .into_iter()
            .chain(whole[..count].iter().copied())
            .chain(start);
        Some(fill(bytes, parts))
    }

    /// What there is for the front and the back of a block that needs new memory between, none of which
    /// suffices: whole handles if asked for, and the free end and the free start that leave the fewest
    /// granules to be new, the shortest such.
    pub(crate) fn around_new(
        &self,
        bytes: usize,
        alignment: usize,
        with_whole: bool,
    ) -> (Vec<Part>, Option<Part>) {
        let (ends, starts) = self.edges(alignment);
        let mut missing = bytes;
        let mut whole = if with_whole { self.whole() } else { Vec::new() };
        whole.sort_unstable_by_key(|part| std::cmp::Reverse(part.bytes));
        let middle: Vec<Part> = whole
            .into_iter()
            .take(MIDDLE_MAX)
            .filter(|part| {
                let fits = part.bytes < missing;
                missing -= if fits { part.bytes } else { 0 };
                fits
            })
            .collect();
        // New granules and bytes used, of which fewest are best; then the end and the start.
        let mut best: Option<(Cost, Option<Part>, Option<Part>)> = None;
        let fitting = starts.partition_point(|part| part.bytes < missing);
        for start in std::iter::once(None).chain(starts[..fitting].iter().copied().map(Some)) {
            let missing = missing - start.map_or(0, |part| part.bytes);
            let fitting = &ends[..ends.partition_point(|part| part.bytes < missing)];
            let longest = fitting.last().map_or(0, |part| part.bytes);
            let granules = (missing - longest).div_ceil(self.granularity);
            let least = missing.saturating_sub(granules * self.granularity);
            let enough = &fitting[fitting.partition_point(|part| part.bytes < least)..];
            let other = |end: &&Part| start.is_none_or(|start| start.handle != end.handle);
            let end = enough.iter().find(other).copied().filter(|_| least > 0);
            let held = end.map_or(0, |part| part.bytes);
            let key = (
                (missing - held).div_ceil(self.granularity),
                held + start.map_or(0, |part| part.bytes),
            );
            if best.is_none_or(|(known, ..)| key < known) {
                best = Some((key, end, start));
            }
        }
        let (end, start) = best.map_or((None, None), |(_, end, start)| (end, start));
        (end.into_iter().chain(middle).collect(), start)
    }
}

/// New granules that a chain needs, and bytes of free parts that it uses.
type Cost = (usize, usize);

/// The leading parts that `bytes` take, the first one used to its end, the last as far as needed.
fn fill(bytes: usize, parts: impl Iterator<Item = Part>) -> Vec<Part> {
    let mut missing = bytes;
    let mut filled: Vec<Part> = Vec::new();
    let mut parts = parts.peekable();
    while let Some(mut part) = parts.next() {
        if missing == 0 {
            break;
        }
        let last = parts.peek().is_none() || part.bytes >= missing;
        if last && filled.is_empty() && part.offset > 0 {
            // Alone, a free end is used from its end.
            part.offset += part.bytes - part.bytes.min(missing);
        }
        part.bytes = part.bytes.min(missing);
        missing -= part.bytes;
        filled.push(part);
    }
    filled
}

#[cfg(test)]
mod tests;

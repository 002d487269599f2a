//! The arena of small blocks: spans of the large one, cut further.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{FreeBytes, Home, Room, Sparing, Want};
use crate::address_map::AddressMap;
use crate::binding::Base;
use crate::block::{ArenaKind, Block, Point, Record};
use crate::space::Range;
use crate::sync::{Arc, Mutex};

/// Largest block that is small.
pub(crate) const SMALL_BYTES_MAX: usize = 64 << 10;
/// Smallest and largest span. Spans grow with what small blocks take, by a 64th.
const SPAN_BYTES: (usize, usize) = (SMALL_BYTES_MAX, 1 << 20);
const SPAN_DIVISOR: usize = 64;

/// Small blocks of one storage mode and node.
#[derive(Debug)]
pub(crate) struct SmallArena {
    spans: Mutex<Spans>,
    index: Arc<AddressMap>,
}

#[derive(Debug)]
struct Spans {
    room: Room,
    /// The blocks of the large arena that the spans are, by position.
    spans: BTreeMap<usize, Block>,
    bytes: usize,
}

impl Drop for Spans {
    fn drop(&mut self) {
        // Of a pool that was closed late; their memory went back with the large arena's.
        for span in std::mem::take(&mut self.spans).into_values() {
            span.retire();
        }
    }
}

impl SmallArena {
    pub(crate) fn new(home: Home) -> Self {
        let room = Room::new(home, ArenaKind::Small);
        Self {
            index: Arc::clone(room.index()),
            spans: Mutex::new(Spans {
                room,
                spans: BTreeMap::new(),
                bytes: 0,
            }),
        }
    }

    /// Up to `count` blocks from the spans there are; the first is returned, the others are pushed.
    pub(crate) fn allocate(
        &self,
        want: &Want,
        count: usize,
        more: &mut Vec<Block>,
    ) -> Option<Block> {
        let mut spans = self.spans.lock();
        let first = spans.room.allocate(want, Sparing::None)?;
        while more.len() + 1 < count
            && let Some(block) = spans.room.allocate(want, Sparing::None)
        {
            more.push(block);
        }
        Some(first)
    }

    /// Size of the next span.
    pub(crate) fn next_span_bytes(&self) -> usize {
        let bytes = self.spans.lock().bytes / SPAN_DIVISOR;
        bytes
            .clamp(SPAN_BYTES.0, SPAN_BYTES.1)
            .next_multiple_of(SMALL_BYTES_MAX)
    }

    /// Adds a span to cut from.
    pub(crate) fn add_span(&self, span: Block) {
        let range = Range {
            start: span.position(),
            bytes: span.bytes(),
        };
        let mut spans = self.spans.lock();
        let base = Base::of_place(&span.place());
        spans.room.add_region(range, base);
        // What pends on the span pends on every block of it.
        spans.room.space.add_pending(range, span.point());
        spans.bytes += range.bytes;
        spans.spans.insert(range.start, span);
    }

    /// Takes a block back; returns its span, if that is empty and not the only such.
    pub(crate) fn release(
        &self,
        block: Block,
        point: Option<Point>,
        contended: bool,
    ) -> Option<Block> {
        let mut spans = self.spans.lock();
        let free = spans.room.release(block, point, contended)?;
        let whole = spans.spans.get(&free.start);
        whole.filter(|span| span.bytes() == free.bytes)?;
        if spans.room.space.clean_bytes() < 2 * free.bytes {
            return None;
        }
        spans.take_span(free)
    }

    /// Takes out the spans that are empty.
    pub(crate) fn take_empty(&self) -> Vec<Block> {
        let mut spans = self.spans.lock();
        let empty: Vec<Range> = spans
            .room
            .space
            .clean_intervals()
            .filter(|free| {
                let span = spans.spans.get(&free.start);
                span.is_some_and(|span| span.bytes() == free.bytes)
            })
            .collect();
        let taken = empty.into_iter().filter_map(|free| spans.take_span(free));
        taken.collect()
    }

    pub(crate) fn pass(&self, queue: u32, completed: u64) -> bool {
        self.spans.lock().room.space.pass(queue, completed)
    }

    pub(crate) fn pending_queues(&self, queues: &mut Vec<(u32, u64)>) {
        queues.extend(self.spans.lock().room.space.pending_queues());
    }

    /// As [`Arena::find`](super::Arena::find).
    pub(crate) fn find(&self, address: usize) -> Option<&'static Record> {
        self.index.find(address)
    }

    pub(crate) fn free(&self) -> FreeBytes {
        self.spans.lock().room.free()
    }
}

impl Spans {
    fn take_span(&mut self, free: Range) -> Option<Block> {
        self.room.space.cut(free.start, free);
        self.room.remove_region(free);
        self.bytes -= free.bytes;
        let span = self.spans.remove(&free.start)?;
        // The interval is clean, so whatever pended on the span has passed.
        span.set_point(None);
        Some(span)
    }
}

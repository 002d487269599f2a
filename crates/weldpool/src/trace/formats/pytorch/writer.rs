//! From events to a snapshot that PyTorch's viewers open.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use super::layout::{Layout, rounded};
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::{Event, Op};
use crate::trace::formats::file::{EVENTS_MAX, Encode};
use crate::trace::formats::pickle::Pickler;

/// Where the first segment begins; the viewer's numbers are exact up to 2^53.
const FIRST_ADDRESS: u64 = 1 << 40;
const ADDRESS_MAX: u64 = 1 << 53;
const SEGMENT_ALIGNMENT: u64 = 2 << 20;

/// Gathers the events and writes them at the end, when it is known how large the segments are.
///
/// Each stream gets one segment with the blocks that are live at the end.
#[derive(Default)]
pub(in crate::trace::formats) struct Encoder {
    /// Each event, with the offset of its block in a stream's segment, and that stream.
    events: Vec<(Event, u64, u64)>,
    live: HashMap<u64, Live>,
    layouts: BTreeMap<u64, Layout>,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    offset: u64,
    bytes: u64,
    stream: u64,
}

impl Encode for Encoder {
    fn write(&mut self, event: &Event, _: &mut dyn Write) -> TraceResult<()> {
        if self.events.len() == EVENTS_MAX {
            return Err(limit(format!(
                "a snapshot holds at most {EVENTS_MAX} events"
            )));
        }
        match event.op {
            Op::Allocate => self.allocate(event),
            Op::Free => {
                if let Some(live) = self.live.remove(&event.id) {
                    self.free(event, live);
                }
                Ok(())
            }
        }
    }

    fn finish(&mut self, out: &mut dyn Write) -> TraceResult<()> {
        let segments = self.segments()?;
        let mut pickler = Pickler::new(out)?;
        pickler.dict(|pickler| {
            pickler.text("segments")?;
            pickler.list(&segments, write_segment)?;
            pickler.text("device_traces")?;
            pickler.list([()], |pickler, ()| self.write_trace(&segments, pickler))?;
            pickler.text("allocator_settings")?;
            write_settings(pickler)
        })?;
        pickler.finish()
    }
}

impl Encoder {
    fn allocate(&mut self, event: &Event) -> TraceResult<()> {
        let layout = self.layouts.entry(event.stream).or_default();
        let length = rounded(event.bytes);
        let offset = layout.take(length).filter(|_| layout.end() < ADDRESS_MAX);
        let offset = offset.ok_or_else(|| limit("the trace allocates more than 8 PiB".into()))?;
        let live = Live {
            offset,
            bytes: event.bytes,
            stream: event.stream,
        };
        if let Some(before) = self.live.insert(event.id, live) {
            // The trace lacks a free; the viewer would lose track without it.
            self.free(
                &Event {
                    op: Op::Free,
                    ..*event
                },
                before,
            );
        }
        self.events.push((*event, offset, event.stream));
        Ok(())
    }

    fn free(&mut self, event: &Event, live: Live) {
        if let Some(layout) = self.layouts.get_mut(&live.stream) {
            layout.give(live.offset, rounded(live.bytes));
        }
        let event = Event {
            bytes: live.bytes,
            ..*event
        };
        self.events.push((event, live.offset, live.stream));
    }

    fn segments(&self) -> TraceResult<Vec<Segment>> {
        let mut blocks: BTreeMap<u64, Vec<Live>> = BTreeMap::new();
        for live in self.live.values() {
            blocks.entry(live.stream).or_default().push(*live);
        }
        let mut address = FIRST_ADDRESS;
        let mut segments = Vec::new();
        for (stream, layout) in &self.layouts {
            let bytes = layout.end().next_multiple_of(SEGMENT_ALIGNMENT);
            let mut blocks = blocks.remove(stream).unwrap_or_default();
            blocks.sort_by_key(|live| live.offset);
            segments.push(Segment {
                address,
                bytes,
                stream: *stream,
                blocks,
            });
            address += bytes;
            if address > ADDRESS_MAX {
                return Err(limit("the trace allocates more than 8 PiB".into()));
            }
        }
        Ok(segments)
    }

    fn write_trace(&self, segments: &[Segment], pickler: &mut Pickler<'_>) -> TraceResult<()> {
        let begin_us = self.events.first().map_or(0, |(event, ..)| event.time_us);
        let addresses: HashMap<_, _> = segments
            .iter()
            .map(|segment| (segment.stream, segment.address))
            .collect();
        let made = segments.iter().map(|segment| Entry {
            action: "segment_alloc",
            address: segment.address,
            bytes: segment.bytes,
            stream: segment.stream,
            time_us: begin_us,
        });
        let happened = self.events.iter().flat_map(|(event, offset, home)| {
            let address = addresses.get(home).map_or(0, |base| base + offset);
            let entry = move |action| Entry {
                action,
                address,
                bytes: event.bytes,
                stream: event.stream,
                time_us: event.time_us,
            };
            let actions: &[&str] = match event.op {
                Op::Allocate => &["alloc"],
                Op::Free => &["free_requested", "free_completed"],
            };
            actions.iter().map(move |action| entry(*action))
        });
        pickler.list(made.chain(happened), |pickler, entry| entry.write(pickler))
    }
}

struct Segment {
    address: u64,
    bytes: u64,
    stream: u64,
    blocks: Vec<Live>,
}

struct Entry {
    action: &'static str,
    address: u64,
    bytes: u64,
    stream: u64,
    time_us: u64,
}

impl Entry {
    fn write(&self, pickler: &mut Pickler<'_>) -> TraceResult<()> {
        pickler.dict(|pickler| {
            pickler.text("action")?;
            pickler.text(self.action)?;
            for (key, number) in [
                ("addr", self.address),
                ("size", self.bytes),
                ("stream", self.stream),
                ("time_us", self.time_us),
            ] {
                pickler.text(key)?;
                pickler.number(number)?;
            }
            pickler.text("frames")?;
            pickler.empty_list()
        })
    }
}

fn write_segment(pickler: &mut Pickler<'_>, segment: &Segment) -> TraceResult<()> {
    let requested: u64 = segment.blocks.iter().map(|live| live.bytes).sum();
    let active: u64 = segment.blocks.iter().map(|live| rounded(live.bytes)).sum();
    pickler.dict(|pickler| {
        for (key, number) in [
            ("device", 0),
            ("address", segment.address),
            ("total_size", segment.bytes),
            ("allocated_size", active),
            ("active_size", active),
            ("requested_size", requested),
            ("stream", segment.stream),
        ] {
            pickler.text(key)?;
            pickler.number(number)?;
        }
        pickler.text("segment_type")?;
        pickler.text("large")?;
        pickler.text("segment_pool_id")?;
        pickler.pair(0, 0)?;
        pickler.text("is_expandable")?;
        pickler.bool(false)?;
        pickler.text("frames")?;
        pickler.empty_list()?;
        pickler.text("blocks")?;
        pickler.list(segment.pieces(), |pickler, piece| piece.write(pickler))
    })
}

/// A block or a gap: the pieces of a segment follow each other without holes.
struct Piece {
    address: u64,
    bytes: u64,
    requested: u64,
    state: &'static str,
}

impl Segment {
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        let gap = |from: u64, to: u64| Piece {
            address: self.address + from,
            bytes: to - from,
            requested: 0,
            state: "inactive",
        };
        for live in &self.blocks {
            if live.offset > at {
                pieces.push(gap(at, live.offset));
            }
            let bytes = rounded(live.bytes);
            pieces.push(Piece {
                address: self.address + live.offset,
                bytes,
                requested: live.bytes,
                state: "active_allocated",
            });
            at = live.offset + bytes;
        }
        if at < self.bytes {
            pieces.push(gap(at, self.bytes));
        }
        pieces
    }
}

impl Piece {
    fn write(&self, pickler: &mut Pickler<'_>) -> TraceResult<()> {
        pickler.dict(|pickler| {
            for (key, number) in [
                ("address", self.address),
                ("size", self.bytes),
                ("requested_size", self.requested),
            ] {
                pickler.text(key)?;
                pickler.number(number)?;
            }
            pickler.text("state")?;
            pickler.text(self.state)?;
            pickler.text("frames")?;
            pickler.empty_list()
        })
    }
}

/// The settings a stock allocator reports.
fn write_settings(pickler: &mut Pickler<'_>) -> TraceResult<()> {
    pickler.dict(|pickler| {
        pickler.text("PYTORCH_CUDA_ALLOC_CONF")?;
        pickler.text("")?;
        pickler.text("max_split_size")?;
        pickler.int(-1)?;
        pickler.text("garbage_collection_threshold")?;
        pickler.float(0.0)?;
        pickler.text("expandable_segments")?;
        pickler.bool(false)
    })
}

fn limit(message: String) -> TraceError {
    TraceError::new(TraceErrorKind::Limit, message)
}

//! From a snapshot to events.

use std::collections::HashSet;
use std::io::BufRead;
use std::vec::IntoIter;

use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::{Event, Op, Skipped};
use crate::trace::formats::file::Decode;
use crate::trace::formats::pickle::{Limits, NodeId, Tree};

/// The events of one device of a snapshot. The whole file is read first: what was live before
/// the recording began stands at its end.
pub(in crate::trace::formats) struct Decoder {
    events: IntoIter<Event>,
}

impl Decoder {
    pub(in crate::trace::formats) fn new(
        input: impl BufRead,
        device: Option<usize>,
        skipped: &mut Skipped,
    ) -> TraceResult<Self> {
        let tree = Tree::read(input, Limits::default())?;
        let snapshot = Snapshot::of(&tree)?;
        let device = snapshot.choose(device, skipped)?;
        let events = snapshot.events(device, skipped)?;
        Ok(Self {
            events: events.into_iter(),
        })
    }
}

impl Decode for Decoder {
    fn next(&mut self, _: &mut Skipped) -> TraceResult<Option<Event>> {
        Ok(self.events.next())
    }
}

struct Snapshot<'a> {
    tree: &'a Tree,
    traces: Vec<&'a [NodeId]>,
    segments: &'a [NodeId],
}

impl<'a> Snapshot<'a> {
    fn of(tree: &'a Tree) -> TraceResult<Self> {
        let root = tree.root();
        // The first releases wrote the list of segments alone.
        let segments = tree.get(root, "segments").unwrap_or(root);
        let segments = tree.list(segments).ok_or_else(|| {
            wrong("the pickle is no memory snapshot: it has no list \"segments\"")
        })?;
        let traces = match tree.get(root, "device_traces") {
            None => &[],
            Some(traces) => tree
                .list(traces)
                .ok_or_else(|| wrong("\"device_traces\" is no list"))?,
        };
        let traces = traces.iter().map(|trace| {
            tree.list(*trace)
                .ok_or_else(|| wrong("an item of \"device_traces\" is no list"))
        });
        Ok(Self {
            tree,
            traces: traces.collect::<TraceResult<_>>()?,
            segments,
        })
    }

    fn device_of(&self, segment: NodeId) -> usize {
        let device = self.number(segment, "device").unwrap_or(0);
        usize::try_from(device).unwrap_or(usize::MAX)
    }

    /// The device asked for, or that with the most events, or segments when there are no events.
    fn choose(&self, device: Option<usize>, skipped: &mut Skipped) -> TraceResult<usize> {
        let has = |device: usize| {
            self.traces
                .get(device)
                .is_some_and(|trace| !trace.is_empty())
                || self
                    .segments
                    .iter()
                    .any(|one| self.device_of(*one) == device)
        };
        let chosen = match device {
            Some(device) if has(device) => device,
            Some(device) => {
                return Err(TraceError::new(
                    TraceErrorKind::Unsupported,
                    format!("the snapshot has nothing of device {device}"),
                ));
            }
            None => {
                let busiest = self.traces.iter().enumerate().rev();
                let busiest = busiest.max_by_key(|(_, trace)| trace.len());
                match busiest {
                    Some((device, trace)) if !trace.is_empty() => device,
                    _ => self.segments.first().map_or(0, |one| self.device_of(*one)),
                }
            }
        };
        let others = self.traces.iter().enumerate();
        let others = others.filter(|(device, _)| *device != chosen);
        skipped.other_devices = others.map(|(_, trace)| trace.len() as u64).sum();
        Ok(chosen)
    }

    fn events(&self, device: usize, skipped: &mut Skipped) -> TraceResult<Vec<Event>> {
        let entries = self.traces.get(device).copied().unwrap_or_default();
        let first_us = entries
            .iter()
            .find_map(|entry| self.number(*entry, "time_us"))
            .unwrap_or(0);
        let mut history = History::default();
        for (index, entry) in entries.iter().enumerate() {
            let time_us = match self.number(*entry, "time_us") {
                Some(time_us) => time_us.saturating_sub(first_us),
                // Old releases have no times; as in other formats an event then counts as 1 us.
                None => index as u64,
            };
            self.entry(*entry, time_us, &mut history, skipped)
                .map_err(|message| {
                    wrong(format!("entry {index} of device {device} has {message}"))
                })?;
        }
        let mut events = self.live_before(device, &history.live)?;
        skipped.live_before += events.len() as u64;
        events.append(&mut history.events);
        Ok(events)
    }

    fn entry(
        &self,
        entry: NodeId,
        time_us: u64,
        history: &mut History,
        skipped: &mut Skipped,
    ) -> Result<(), String> {
        let action = self.tree.get(entry, "action");
        let action = action.and_then(|action| self.tree.text(action));
        let action = action.ok_or("no \"action\"")?;
        let op = match action {
            "alloc" => Op::Allocate,
            "free_requested" | "free_completed" | "free" => Op::Free,
            "oom" => {
                skipped.failures += 1;
                return Ok(());
            }
            // What the caching allocator did with segments, "snapshot", and what may come.
            _ => {
                skipped.markers += 1;
                return Ok(());
            }
        };
        let number = |key| {
            self.number(entry, key)
                .ok_or_else(|| format!("no number {key:?}"))
        };
        let event = Event {
            op,
            id: number("addr")?,
            bytes: number("size")?,
            stream: self.number(entry, "stream").unwrap_or(0),
            time_us,
            thread: 0,
        };
        match action {
            "alloc" => {
                history.live.insert(event.id);
            }
            "free_requested" => {
                history.live.remove(&event.id);
                history.requested.insert(event.id);
            }
            // The second half of a free that was seen; only the first is the program's doing.
            "free_completed" if history.requested.remove(&event.id) => return Ok(()),
            _ => {
                history.live.remove(&event.id);
            }
        }
        history.events.push(event);
        Ok(())
    }

    /// Blocks that were live at the end and that no event allocated.
    fn live_before(&self, device: usize, live: &HashSet<u64>) -> TraceResult<Vec<Event>> {
        let mut events = Vec::new();
        let segments = self.segments.iter();
        for segment in segments.filter(|one| self.device_of(**one) == device) {
            let mut address = self.number(*segment, "address").unwrap_or(0);
            let stream = self.number(*segment, "stream").unwrap_or(0);
            let blocks = self.tree.get(*segment, "blocks");
            let blocks = blocks.and_then(|blocks| self.tree.list(blocks));
            for block in blocks.unwrap_or_default() {
                let bytes = self.number(*block, "size");
                let bytes = bytes.ok_or_else(|| wrong("a block has no number \"size\""))?;
                let id = self.number(*block, "address").unwrap_or(address);
                address = id.saturating_add(bytes);
                let state = self.tree.get(*block, "state");
                let state = state.and_then(|state| self.tree.text(state));
                if state == Some("active_allocated") && !live.contains(&id) {
                    events.push(Event {
                        op: Op::Allocate,
                        id,
                        bytes: self.number(*block, "requested_size").unwrap_or(bytes),
                        stream,
                        time_us: 0,
                        thread: 0,
                    });
                }
            }
        }
        Ok(events)
    }

    fn number(&self, dict: NodeId, key: &str) -> Option<u64> {
        self.tree.number(self.tree.get(dict, key)?)
    }
}

#[derive(Default)]
struct History {
    events: Vec<Event>,
    live: HashSet<u64>,
    /// Addresses whose free was asked for and is not yet complete.
    requested: HashSet<u64>,
}

fn wrong(message: impl Into<String>) -> TraceError {
    TraceError::new(TraceErrorKind::Format, message)
}

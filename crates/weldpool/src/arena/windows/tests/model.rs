//! Windows against a model that knows every unit of every handle.

use proptest::prelude::*;

use super::*;

/// All lengths are multiples of this.
const UNIT: usize = 256 << 10;
const GRANULE: usize = 2 << 20;
const QUEUES: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A new handle of so many granules.
    Handle(usize),
    /// A block of so many units, from windows that exist or from a chain.
    Take {
        units: usize,
        chain: bool,
        queue: u32,
    },
    Release(usize),
    Gather(u32),
    /// Work on a queue is over as far as it was submitted.
    Pass(u32),
    /// Windows that hold nothing, and that no work can use, go.
    Unmap,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1usize..5).prop_map(Step::Handle),
        8 => (1usize..60, any::<bool>(), 0..QUEUES)
            .prop_map(|(units, chain, queue)| Step::Take { units, chain, queue }),
        6 => any::<usize>().prop_map(Step::Release),
        1 => (0..QUEUES).prop_map(Step::Gather),
        1 => (0..QUEUES).prop_map(Step::Pass),
        1 => Just(Step::Unmap),
    ]
}

/// One unit of a handle: the window that holds it, and whether a block has it.
#[derive(Debug, Clone, Copy)]
struct Unit {
    window: usize,
    used: bool,
}

#[derive(Debug, Default)]
struct Model {
    handles: BTreeMap<Physical, Vec<Unit>>,
    windows: BTreeMap<usize, (Physical, BTreeMap<u32, u64>)>,
    blocks: Vec<Vec<(Physical, usize)>>,
    /// By queue: submitted, and over.
    queues: [(u64, u64); QUEUES as usize],
    next: usize,
}

impl Model {
    fn add_window(&mut self, windows: &mut Windows, physical: Physical, position: usize) -> usize {
        let bytes = self.handles[&physical].len() * UNIT;
        windows.add(position, Piece { physical, bytes });
        self.windows.insert(position, (physical, BTreeMap::new()));
        self.next = self.next.max(position + bytes + GRANULE);
        position + bytes
    }

    /// Free memory as the space of an arena would have it: by window, joined.
    fn free(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for units in self.handles.values() {
            for (index, unit) in units.iter().enumerate().filter(|(_, unit)| !unit.used) {
                let start = unit.window + index * UNIT;
                match ranges.last_mut() {
                    Some(last) if last.end() == start => last.bytes += UNIT,
                    _ => ranges.push(range(start, UNIT)),
                }
            }
        }
        ranges
    }

    /// Moves units of a handle to another of its windows, as seen by both.
    fn carry(&mut self, windows: &mut Windows, from: Range, to: usize, point: Point) {
        windows.leave(from, Some(point));
        windows.enter(range(to, from.bytes));
        for step in 0..from.bytes / UNIT {
            let (old, new) = (from.start + step * UNIT, to + step * UNIT);
            let (&source, (handle, points)) = self.windows.range_mut(..=old).next_back().unwrap();
            points.insert(point.queue, point.value);
            let handle = *handle;
            let (&target, &(other, _)) = self.windows.range(..=new).next_back().unwrap();
            assert_eq!(
                (handle, old - source),
                (other, new - target),
                "the same byte"
            );
            let unit = &mut self.handles.get_mut(&handle).unwrap()[(old - source) / UNIT];
            assert!(!unit.used && unit.window == source, "only free bytes move");
            unit.window = target;
        }
    }

    fn point(&mut self, queue: u32) -> Point {
        let (submitted, _) = &mut self.queues[queue as usize];
        *submitted += 1;
        let value = *submitted;
        Point { queue, value }
    }

    fn passed(&self) -> impl Fn(Point) -> bool + use<> {
        let queues = self.queues;
        move |point| queues[point.queue as usize].1 >= point.value
    }

    /// Takes the parts for a block whose first byte is to be at `position`.
    fn take(
        &mut self,
        windows: &mut Windows,
        parts: &[Part],
        moves: &[Vec<Range>],
        at: usize,
        queue: u32,
    ) {
        let point = self.point(queue);
        let mut position = at;
        let mut block = Vec::new();
        for (part, ranges) in parts.iter().zip(moves) {
            let all: usize = ranges.iter().map(|range| range.bytes).sum();
            assert_eq!(
                all, part.bytes,
                "every byte of a part is free somewhere, once"
            );
            for &from in ranges {
                self.carry(windows, from, position, point);
                position += from.bytes;
            }
            for index in part.offset / UNIT..(part.offset + part.bytes) / UNIT {
                self.handles.get_mut(&part.handle).unwrap()[index].used = true;
                block.push((part.handle, index));
            }
        }
        self.blocks.push(block);
    }

    fn check(&self, windows: &Windows) {
        assert_eq!(windows.handle_count(), self.handles.len());
        assert_eq!(windows.window_count(), self.windows.len());
        let passed = self.passed();
        let mut idle = Vec::new();
        for (&position, (handle, points)) in &self.windows {
            let units = &self.handles[handle];
            let held = units.iter().filter(|unit| unit.window == position).count() * UNIT;
            assert_eq!(windows.windows[&position].held, held);
            assert!(windows.windows_of(*handle).contains(&position));
            let over = points
                .iter()
                .all(|(&queue, &value)| passed(Point { queue, value }));
            if held == 0 && over {
                idle.push(position);
            }
        }
        let mut found: Vec<usize> = windows.idle(&passed).iter().map(|one| one.start).collect();
        found.sort_unstable();
        assert_eq!(found, idle);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every byte of a handle is held in one window, blocks overlap nowhere, a window goes only when it
    /// holds nothing and no queue can still use it, and in the end every handle is whole again.
    #[test]
    fn every_byte_is_held_once(steps in proptest::collection::vec(step(), 1..80)) {
        let mut windows = Windows::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Handle(granules) => {
                    let physical = Physical::new(model.handles.len() as u64);
                    let position = model.next;
                    let units = vec![Unit { window: position, used: false }; granules * GRANULE / UNIT];
                    model.handles.insert(physical, units);
                    let end = model.add_window(&mut windows, physical, position);
                    windows.enter(range(position, end - position));
                }
                Step::Take { units, chain, queue } => {
                    let bytes = units * UNIT;
                    let free = FreeParts::new(&windows, GRANULE, model.free().into_iter());
                    let ranges = |parts: &[Part]| -> Vec<Vec<Range>> {
                        parts.iter().map(|&part| free.ranges(part)).collect()
                    };
                    if chain {
                        let Some(parts) = free.find_chain(bytes, 256) else { continue };
                        let moves = ranges(&parts);
                        prop_assert_eq!(parts.iter().map(|part| part.bytes).sum::<usize>(), bytes);
                        let last = parts.len() - 1;
                        for (index, part) in parts.iter().enumerate() {
                            let whole = model.handles[&part.handle].len() * UNIT;
                            prop_assert!(index == 0 || part.offset == 0);
                            prop_assert!(index == last || part.offset + part.bytes == whole);
                        }
                        let start = model.next;
                        let mut position = start;
                        for part in &parts {
                            position = model.add_window(&mut windows, part.handle, position);
                        }
                        model.take(&mut windows, &parts, &moves, start + parts[0].offset, queue);
                    } else {
                        let Some((at, parts)) = free.find_mapped(bytes, 256, |_| false) else { continue };
                        let moves = ranges(&parts);
                        prop_assert_eq!(parts.iter().map(|part| part.bytes).sum::<usize>(), bytes);
                        model.take(&mut windows, &parts, &moves, at, queue);
                    }
                }
                Step::Release(which) if !model.blocks.is_empty() => {
                    let block = model.blocks.swap_remove(which % model.blocks.len());
                    for (handle, index) in block {
                        let unit = &mut model.handles.get_mut(&handle).unwrap()[index];
                        prop_assert!(std::mem::replace(&mut unit.used, false));
                    }
                }
                Step::Release(_) => {}
                Step::Gather(queue) => {
                    let moves = FreeParts::new(&windows, GRANULE, model.free().into_iter()).gathered();
                    let point = model.point(queue);
                    for (from, to) in moves {
                        model.carry(&mut windows, from, to, point);
                    }
                }
                Step::Pass(queue) => {
                    let (submitted, over) = &mut model.queues[queue as usize];
                    *over = *submitted;
                }
                Step::Unmap => {
                    for idle in windows.idle(&model.passed()) {
                        prop_assert_eq!(windows.remove(idle.start), None, "its bytes are elsewhere");
                        model.windows.remove(&idle.start);
                    }
                }
            }
            model.check(&windows);
        }
        for unit in model.handles.values_mut().flatten() {
            unit.used = false;
        }
        let free = FreeParts::new(&windows, GRANULE, model.free().into_iter());
        let whole: usize = free.whole().iter().map(|part| part.bytes).sum();
        let all: usize = model.handles.values().map(|units| units.len() * UNIT).sum();
        prop_assert_eq!(whole, all);
        prop_assert_eq!(windows.take_all().len(), model.handles.len());
    }
}

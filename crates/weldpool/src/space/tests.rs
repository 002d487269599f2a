use super::*;
use proptest::prelude::*;

const fn range(start: usize, bytes: usize) -> Range {
    Range { start, bytes }
}

const fn at(queue: u32, value: u64) -> Option<Point> {
    Some(Point { queue, value })
}

fn allocate(space: &mut Space<u32>, bytes: usize, alignment: usize) -> Option<usize> {
    let (free, position) = space.find_clean(bytes, alignment)?;
    space.take(free.start, position, bytes, 0);
    Some(position)
}

#[test]
fn takes_the_smallest_interval_that_fits_and_joins_neighbours() {
    let mut space = Space::default();
    space.add(range(0, 4096));
    let a = allocate(&mut space, 1024, 256).unwrap();
    let b = allocate(&mut space, 512, 256).unwrap();
    let c = allocate(&mut space, 256, 256).unwrap();
    assert_eq!((a, b, c), (0, 1024, 1536));
    assert_eq!(space.release(b, None, false), Some(range(1024, 512)));
    assert_eq!(allocate(&mut space, 300, 4), Some(b), "the hole fits best");
    space.release(b, None, false);
    space.release(a, None, false);
    assert_eq!(space.largest_clean(), 4096 - 1792);
    assert_eq!(space.release(c, None, false), Some(range(0, 4096)));
    assert_eq!(space.free_before(4096).unwrap().range, range(0, 4096));
}

#[test]
fn alignment_is_kept_and_the_gap_stays_free() {
    let mut space = Space::<u32>::default();
    space.add(range(0x3000, 1 << 16));
    assert_eq!(allocate(&mut space, 256, 256), Some(0x3000));
    assert_eq!(allocate(&mut space, 256, 0x4000), Some(0x4000));
    assert_eq!(allocate(&mut space, 0xf00, 256), Some(0x3100));
    assert_eq!(allocate(&mut space, usize::MAX, 256), None);
    assert_eq!(allocate(&mut space, usize::MAX - 255, 1 << 30), None);
}

#[test]
fn nothing_is_joined_across_a_border() {
    let mut space = Space::<u32>::default();
    space.add_border(0);
    space.add_border(1024);
    space.add(range(1024, 1024));
    assert_eq!(space.add(range(0, 1024)), range(0, 1024));
    assert_eq!(allocate(&mut space, 1025, 1), None);
}

/// A space of 1024 bytes, all of it in use, and its two halves.
fn two_halves() -> (Space<u32>, usize, usize) {
    let mut space = Space::default();
    space.add(range(0, 1024));
    let a = allocate(&mut space, 512, 256).unwrap();
    let b = allocate(&mut space, 512, 256).unwrap();
    (space, a, b)
}

#[test]
fn pending_memory_is_its_queues_alone_until_the_point_has_passed() {
    let (mut space, a, b) = two_halves();
    space.release(a, at(1, 5), false);
    space.release(b, at(1, 7), false);
    assert_eq!(space.find_clean(256, 256), None);
    assert_eq!(space.find_pending(2, 256, 256), None);
    assert_eq!(space.find_pending(1, 512, 256), Some((range(0, 512), 0)));
    assert_eq!(space.find_pending(1, 1024, 256), None, "not joined yet");
    assert!(space.pass(1, 5));
    assert_eq!(space.find_clean(512, 256), Some((range(0, 512), 0)));
    assert_eq!(space.pending_bytes(), 512);
    assert_eq!(space.join_for(1, 1024, 256, false), None);
    let (run, position) = space.join_for(1, 1024, 256, true).unwrap();
    assert_eq!((run, position), (range(0, 1024), 0));
    assert_eq!(space.take(run.start, 0, 1000, 0), at(1, 7));
    assert!(space.pass(1, 7));
    assert_eq!(space.largest_clean(), 24);
}

#[test]
fn joined_pending_memory_waits_for_the_latest_point() {
    let (mut space, a, b) = two_halves();
    space.release(a, at(1, 5), true);
    assert_eq!(space.release(b, at(1, 3), true), Some(range(0, 1024)));
    assert!(!space.pass(1, 4));
    assert!(space.pass(1, 5));
    assert_eq!(space.largest_clean(), 1024);
}

/// An interval of each length, which waits for a value of queue 1, with memory in use between.
fn waiting(intervals: &[(usize, u64)]) -> Space<u32> {
    let mut space = Space::default();
    space.add(range(0, 1 << 20));
    let blocks: Vec<usize> = intervals
        .iter()
        .map(|&(bytes, _)| {
            let block = allocate(&mut space, bytes, 1).unwrap();
            allocate(&mut space, 1, 1).unwrap();
            block
        })
        .collect();
    for (block, &(_, value)) in blocks.into_iter().zip(intervals) {
        space.release(block, at(1, value), false);
    }
    space
}

#[test]
fn the_least_value_that_frees_so_much_is_told() {
    let space = waiting(&[(512, 5), (256, 9), (1024, 7)]);
    let value = |bytes| space.value_that_frees(1, bytes);
    assert_eq!([value(1), value(512)], [Some(5); 2]);
    assert_eq!([value(513), value(1536)], [Some(7); 2]);
    assert_eq!([value(1537), value(1 << 30)], [Some(9); 2], "or all");
    assert_eq!(space.value_that_frees(2, 1), None);
}

#[test]
fn fitting_intervals_are_told_the_smallest_first() {
    let space = waiting(&[(512, 5), (256, 9), (1024, 7)]);
    let fitting = |queue, bytes| -> Vec<usize> {
        let fitting = space.fitting(queue, bytes);
        fitting.map(|range| range.bytes).collect()
    };
    assert_eq!(fitting(Some(1), 257), [512, 1024]);
    assert_eq!(fitting(Some(1), 256), [256, 512, 1024]);
    assert!(fitting(Some(2), 1).is_empty());
    assert_eq!(fitting(None, 1), [space.clean_bytes()]);
}

#[test]
fn neighbours_are_one_piece_once_all_have_passed() {
    let mut space = Space::<u32>::default();
    space.add(range(0, 4096));
    let blocks = [0; 4].map(|_| allocate(&mut space, 1024, 1).unwrap());
    space.release(blocks[0], at(1, 5), false);
    space.release(blocks[1], None, false);
    assert_eq!(space.value_that_joins(1, 2048), Some(5));
    space.release(blocks[2], at(1, 3), false);
    assert_eq!(space.value_that_joins(1, 1024), Some(5), "of the whole run");
    assert_eq!(space.value_that_joins(1, 3072), Some(5));
    assert_eq!(space.value_that_joins(1, 3073), None, "the last is in use");
    space.release(blocks[3], at(2, 1), false);
    assert_eq!(space.value_that_joins(1, 3073), None, "or another queue's");
    space.pass(1, 5);
    assert_eq!(space.value_that_joins(2, 4096), Some(1), "with the others");
}

#[derive(Debug, Clone)]
enum Step {
    Take {
        bytes: usize,
        power: u32,
        queue: Option<u32>,
    },
    Release {
        which: usize,
        point: Option<(u32, u64)>,
        join: bool,
    },
    Join {
        queue: u32,
        bytes: usize,
    },
    Pass {
        queue: u32,
        completed: u64,
    },
    Await {
        queue: u32,
        bytes: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || proptest::option::of(0u32..3);
    prop_oneof![
        4 => (1usize..5000, 0u32..13, queue())
            .prop_map(|(bytes, power, queue)| Step::Take { bytes, power, queue }),
        4 => (any::<usize>(), proptest::option::of((0u32..3, 1u64..50)), any::<bool>())
            .prop_map(|(which, point, join)| Step::Release { which, point, join }),
        1 => (0u32..3, 1usize..20_000).prop_map(|(queue, bytes)| Step::Join { queue, bytes }),
        1 => (0u32..3, 0u64..50).prop_map(|(queue, completed)| Step::Pass { queue, completed }),
        1 => (0u32..3, 1usize..20_000).prop_map(|(queue, bytes)| Step::Await { queue, bytes }),
    ]
}

proptest! {
    /// Against a plain list of intervals: nothing overlaps, all is aligned, pending memory goes only
    /// to its queue, and everything comes back.
    #[test]
    fn agrees_with_a_list_of_intervals(steps in proptest::collection::vec(step(), 1..200)) {
        let mut space = Space::<usize>::default();
        let regions = [range(0, 1 << 15), range(1 << 15, 1 << 14)];
        for region in regions {
            space.add_border(region.start);
            space.add(region);
        }
        let total: usize = regions.iter().map(|region| region.bytes).sum();
        let mut live: Vec<Range> = Vec::new();
        for step in steps {
            match step {
                Step::Take { bytes, power, queue } => {
                    let alignment = 1usize << power;
                    let own = queue.and_then(|queue| space.find_pending(queue, bytes, alignment));
                    let Some((free, position)) = own.or_else(|| space.find_clean(bytes, alignment))
                    else {
                        continue;
                    };
                    let point = space.take(free.start, position, bytes, live.len());
                    prop_assert!(point.is_none_or(|point| Some(point.queue) == queue));
                    prop_assert_eq!(position % alignment, 0);
                    let taken = range(position, bytes);
                    for other in &live {
                        prop_assert!(other.end() <= taken.start || taken.end() <= other.start);
                    }
                    let inside = |region: &Range| {
                        region.start <= taken.start && taken.end() <= region.end()
                    };
                    prop_assert!(regions.iter().any(inside));
                    live.push(taken);
                }
                Step::Release { which, point, join } if !live.is_empty() => {
                    let taken = live.swap_remove(which % live.len());
                    let point = point.map(|(queue, value)| Point { queue, value });
                    let free = space.release(taken.start, point, join).unwrap();
                    prop_assert!(free.start <= taken.start && taken.end() <= free.end());
                }
                Step::Release { .. } => {}
                Step::Join { queue, bytes } => {
                    if let Some((run, _)) = space.join_for(queue, bytes, 256, true) {
                        prop_assert!(run.bytes >= bytes);
                    }
                }
                Step::Pass { queue, completed } => {
                    space.pass(queue, completed);
                    prop_assert!(space
                        .pending_queues()
                        .all(|(other, value)| other != queue || value > completed));
                }
                Step::Await { queue, bytes } => {
                    let pending = space.pending_bytes_of(queue);
                    let freed = |value| {
                        let free = space.fitting(Some(queue), 0).map(|range| space.free_at(range));
                        let freed = free.filter(|free| free.point.unwrap().value <= value);
                        freed.map(|free| free.range.bytes).sum::<usize>()
                    };
                    match space.value_that_frees(queue, bytes) {
                        Some(value) => {
                            prop_assert!(freed(value) >= bytes.min(pending));
                            prop_assert!(freed(value - 1) < bytes);
                        }
                        None => prop_assert_eq!(pending, 0),
                    }
                    if let Some(value) = space.value_that_joins(queue, bytes) {
                        space.pass(queue, value);
                        prop_assert!(space.largest_clean() >= bytes);
                    }
                }
            }
            let used: usize = live.iter().map(|taken| taken.bytes).sum();
            prop_assert_eq!(space.clean_bytes() + space.pending_bytes() + used, total);
        }
        for taken in live {
            space.release(taken.start, None, false);
        }
        for queue in 0..3 {
            space.pass(queue, 50);
        }
        prop_assert_eq!(space.clean_intervals().collect::<Vec<_>>(), regions);
        prop_assert!(space.pending.first().is_none(), "nothing is kept of queues");
    }
}

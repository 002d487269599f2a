mod model;

use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

const fn range(start: usize, bytes: usize) -> Range {
    Range { start, bytes }
}

const fn part(handle: u64, offset: usize, bytes: usize) -> Part {
    Part {
        handle: Physical::new(handle),
        offset,
        bytes,
    }
}

/// A handle of each length, 16 MiB apart, all of it held there.
fn of_lengths(lengths: &[usize]) -> Windows {
    let mut windows = Windows::default();
    for (number, &bytes) in (0..).zip(lengths) {
        let position = usize::try_from(number).unwrap() * 16 * MIB;
        let physical = Physical::new(number);
        windows.add(position, Piece { physical, bytes });
        windows.enter(range(position, bytes));
    }
    windows
}

/// Handles of 8 MiB, 16 MiB apart.
fn handles(count: usize) -> Windows {
    of_lengths(&vec![8 * MIB; count])
}

/// Of three handles, the end of the first, the second, and the start of the third.
const END_WHOLE_START: [Range; 3] = [
    range(5 * MIB, 3 * MIB),
    range(16 * MIB, 8 * MIB),
    range(32 * MIB, 2 * MIB),
];

#[test]
fn a_chain_is_a_free_end_whole_handles_and_a_free_start() {
    let windows = handles(3);
    let parts = FreeParts::new(&windows, 2 * MIB, END_WHOLE_START.into_iter());
    assert_eq!(parts.find_mapped(9 * MIB, 256, |_| false), None);
    assert_eq!(
        parts.find_chain(12 * MIB, 256).unwrap(),
        [
            part(0, 5 * MIB, 3 * MIB),
            part(1, 0, 8 * MIB),
            part(2, 0, MIB)
        ]
    );
    assert_eq!(parts.find_chain(13 * MIB + 1, 256), None);
    let (front, back) = parts.around_new(20 * MIB, 256, true);
    assert_eq!(front, [part(0, 5 * MIB, 3 * MIB), part(1, 0, 8 * MIB)]);
    assert_eq!(back, Some(part(2, 0, 2 * MIB)));
}

#[test]
fn the_last_handle_of_a_chain_is_the_smallest_that_holds_the_rest() {
    let windows = of_lengths(&[8 * MIB, 8 * MIB, 4 * MIB, 2 * MIB]);
    let free = |count: usize| {
        let all = [8, 8, 4, 2].into_iter().enumerate().take(count);
        let all = all.map(|(number, length)| range(number * 16 * MIB, length * MIB));
        FreeParts::new(&windows, 2 * MIB, all)
    };
    let whole = part(0, 0, 8 * MIB);
    let last = |count, bytes| {
        let parts = free(count).find_chain(bytes, 256).unwrap();
        assert_eq!(parts[..parts.len() - 1], [whole]);
        parts[parts.len() - 1]
    };
    assert_eq!(last(2, 9 * MIB), part(1, 0, MIB), "there is no other");
    assert_eq!(last(3, 9 * MIB), part(2, 0, MIB));
    assert_eq!(last(4, 9 * MIB), part(3, 0, MIB));
    assert_eq!(last(4, 11 * MIB), part(2, 0, 3 * MIB));
    assert_eq!(last(4, 13 * MIB), part(1, 0, 5 * MIB));
}

#[test]
fn new_memory_goes_between_an_end_and_a_start_and_whole_handles_are_left_alone() {
    let windows = handles(3);
    let parts = FreeParts::new(&windows, 2 * MIB, END_WHOLE_START.into_iter());
    let (front, back) = parts.around_new(20 * MIB, 256, false);
    assert_eq!(front, [part(0, 5 * MIB, 3 * MIB)]);
    assert_eq!(back, Some(part(2, 0, 2 * MIB)));
    // Whole granules need nothing beside them; what would not save one stays where it is.
    let (front, back) = parts.around_new(MIB, 256, false);
    assert_eq!((front, back), (Vec::new(), None));
}

proptest! {
    /// Against all pairs of an end and a start: as few new granules, and of those pairs as few bytes.
    #[test]
    fn around_new_memory_is_what_saves_the_most_of_it(
        ends in proptest::collection::vec(1usize..8, 0..4),
        starts in proptest::collection::vec(1usize..8, 0..4),
        bytes in 1usize..40,
    ) {
        const GRANULE: usize = 2;
        let windows = of_lengths(&vec![8; ends.len() + starts.len()]);
        let end = |(number, &bytes): (usize, &usize)| range(number * 16 * MIB + 8 - bytes, bytes);
        let start = |(number, &bytes): (usize, &usize)| {
            range((ends.len() + number) * 16 * MIB, bytes)
        };
        let free = ends.iter().enumerate().map(end);
        let free = free.chain(starts.iter().enumerate().map(start));
        let parts = FreeParts::new(&windows, GRANULE, free);
        let (front, back) = parts.around_new(bytes, 1, false);
        let held: usize = front.iter().chain(&back).map(|part| part.bytes).sum();
        prop_assert!(held < bytes);
        let cost = |held: usize| ((bytes - held).div_ceil(GRANULE), held);
        let with_none = |lengths: &[usize]| [&[0][..], lengths].concat();
        let pairs = with_none(&ends).into_iter().flat_map(|end| {
            let starts = with_none(&starts).into_iter();
            starts.map(move |start| end + start)
        });
        let least = pairs.filter(|&held| held < bytes).map(cost).min();
        prop_assert_eq!(Some(cost(held)), least);
    }
}

#[test]
fn free_bytes_change_windows_without_being_mapped_again() {
    let mut windows = handles(2);
    for (position, number) in [(64 * MIB, 0), (72 * MIB, 1)] {
        let physical = Physical::new(number);
        let bytes = 8 * MIB;
        windows.add(position, Piece { physical, bytes });
    }
    let order = [0, 1].map(Physical::new);
    assert_eq!(windows.find_run(order.into_iter()), Some(64 * MIB));
    let free = [range(4 * MIB, 4 * MIB), range(16 * MIB, 2 * MIB)];
    let parts = FreeParts::new(&windows, 2 * MIB, free.into_iter());
    let (position, found) = parts.find_mapped(6 * MIB, 256, |_| false).unwrap();
    assert_eq!(position, 68 * MIB);
    assert_eq!(found, [part(0, 4 * MIB, 4 * MIB), part(1, 0, 2 * MIB)]);
    assert_eq!(parts.find_mapped(6 * MIB, 256, |at| at == 72 * MIB), None);
    let point = Point { queue: 3, value: 9 };
    windows.leave(range(0, 8 * MIB), Some(point));
    windows.enter(range(64 * MIB, 8 * MIB));
    assert!(
        windows
            .idle(&|point| point.value < 9)
            .iter()
            .all(|idle| idle.start != 0)
    );
    assert_eq!(windows.idle(&|_| true)[0], range(0, 8 * MIB));
    assert_eq!(windows.remove(0), None, "it is mapped elsewhere too");
    assert_eq!(windows.handle_count(), 2);
}

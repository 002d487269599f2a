mod model;

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

/// Handles of 8 MiB, 16 MiB apart.
fn handles(count: u64) -> Windows {
    let mut windows = Windows::default();
    for number in 0..count {
        let position = usize::try_from(number).unwrap() * 16 * MIB;
        let physical = Physical::new(number);
        let bytes = 8 * MIB;
        windows.add(position, Piece { physical, bytes });
        windows.enter(range(position, bytes));
    }
    windows
}

#[test]
fn a_chain_is_a_free_end_whole_handles_and_a_free_start() {
    let windows = handles(3);
    let free = [
        range(5 * MIB, 3 * MIB),
        range(16 * MIB, 8 * MIB),
        range(32 * MIB, 2 * MIB),
    ];
    let parts = FreeParts::new(&windows, 2 * MIB, free.into_iter());
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

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::time::{Duration, Instant};

use super::*;
use crate::device::Device as _;
use crate::device::fake::{Call, FakeApple, FakeDiscrete, Fault, When};
use crate::error::ErrorKind;
use crate::profiling::Profiling;

const MIB: usize = 1 << 20;
const NS_PER_OPERATION: u64 = 1000;
#[cfg(target_os = "linux")]
const QUEUE: u32 = 7;

/// An arena without slack, whose queues have done nothing yet.
fn arena(device: Arc<dyn crate::device::Device>, storage: StorageMode) -> Arena {
    let home = Home {
        key: CacheKey::new(),
        storage,
        node: Node::at(0),
    };
    let segment_bytes = (2 * MIB, 64 * MIB);
    let reserve = Reserve::new(None, 0, NS_PER_OPERATION, segment_bytes);
    Arena::new(
        home,
        Arc::new(Metered::new(device, &Profiling::Off)),
        Arc::new(reserve),
    )
}

fn want(bytes: usize) -> Want {
    Want {
        bytes,
        alignment: 256,
        list: ListId::NONE,
        thread_max: 0,
        queue: None,
        contended: true,
        live: 0,
        recorded: false,
    }
}

fn block(arena: &Arena, bytes: usize) -> Block {
    let (block, _) = arena.grow(&want(bytes), &|_| false).unwrap();
    block
}

#[cfg(target_os = "linux")]
fn free_on(arena: &Arena, block: Block, value: u64) {
    let point = Point {
        queue: QUEUE,
        value,
    };
    arena.release(block, Some(point), true);
}

fn earn(arena: &Arena, ns: u64) {
    arena.reserve.note_operations(ns.div_ceil(NS_PER_OPERATION));
}

#[cfg(target_os = "linux")]
mod on_the_host {
    use super::*;
    use crate::device::host::HostDevice;

    pub(super) fn host() -> Arena {
        arena(Arc::new(HostDevice::new().unwrap()), StorageMode::Shared)
    }

    #[test]
    fn while_holes_are_not_mapped_together_one_range_is_waited_for_or_none() {
        let arena = host();
        let [one, between, other, end] = [0; 4].map(|_| block(&arena, 2 * MIB));
        arena.reserve.note_live(8 * MIB as u64);
        earn(&arena, 20_000_000);
        free_on(&arena, one, 3);
        free_on(&arena, other, 5);
        let awaited = || arena.others_after(&want(4 * MIB));
        let value = || awaited().map(|point| point.value);
        assert_eq!(value(), Some(5), "both, mapped together");
        arena.reserve.pause_remapping();
        assert_eq!(value(), None, "they would stay two");
        free_on(&arena, between, 4);
        assert_eq!(value(), Some(5), "they will be one range");
        arena.release(end, None, true);
    }

    #[test]
    fn no_holes_are_mapped_together_beyond_the_mappings_that_memory_may_have() {
        for mappings_max in [None, Some(1)] {
            let mut arena = host();
            arena.virtual_memory.as_mut().unwrap().mappings_max = mappings_max;
            let blocks = [0; 4].map(|_| block(&arena, 2 * MIB));
            arena.reserve.note_live(8 * MIB as u64);
            earn(&arena, 20_000_000);
            let [one, between, other, end] = blocks;
            for hole in [one, other] {
                arena.release(hole, None, true);
            }
            let large = block(&arena, 4 * MIB);
            let remaps = u64::from(mappings_max.is_none());
            assert_eq!(arena.reserve.remaps(), remaps, "{mappings_max:?}");
            for block in [between, end, large] {
                arena.release(block, None, true);
            }
        }
    }
}

fn handles() -> (Arc<FakeDiscrete>, Arena) {
    let device = Arc::new(FakeDiscrete::builder().manual(true).build().unwrap());
    (Arc::clone(&device), arena(device, StorageMode::Private))
}

/// The nth such call is refused.
fn fault(call: Call, nth: u64) -> Fault {
    Fault {
        call,
        when: When::Nth(nth),
        error: ErrorKind::System,
    }
}

#[test]
fn waits_for_an_exchange_of_handles_are_paid_from_the_account_of_the_driver() {
    let (_device, arena) = handles();
    let one = block(&arena, 4 * MIB);
    let spent = arena.device.spent_ns();
    assert!(spent > 0 && spent == arena.spent_ns());
    earn(&arena, 12 * (spent + 5_000_000));
    let properties = arena.virtual_memory.unwrap();
    assert_ne!(arena.sparing_handles(properties, 0), Sparing::None);
    let start = Instant::now().checked_sub(Duration::from_millis(50));
    arena.reserve.note_waited(start.unwrap());
    assert!(arena.spent_ns() >= spent + 50_000_000);
    assert_eq!(arena.sparing_handles(properties, 0), Sparing::None);
    arena.release(one, None, true);
}

#[test]
fn a_refused_request_leaves_nothing_mapped() {
    let (device, arena) = handles();
    // New handles are small while little was spent, so one request takes several; the second is refused.
    arena.reserve.note_live(512 * MIB as u64);
    earn(&arena, u64::from(u32::MAX));
    device.control().inject(fault(Call::Map, 2));
    let refused = arena.grow(&want(64 * MIB), &|_| false);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::System);
    assert_eq!(device.control().calls(Call::Unmap), 1);
    assert_eq!(arena.growth.lock().stale.len(), 0);
    // The device has it again only when it is mapped nowhere.
    let budget = device.budget().unwrap();
    assert_eq!(budget.available, Some(budget.total));
}

#[test]
fn what_the_driver_refused_was_not_returned() {
    let apple = Arc::new(FakeApple::new().unwrap());
    apple.control().inject(fault(Call::CreateSegment, 1));
    let (discrete, handles) = handles();
    discrete.control().inject(fault(Call::CreatePhysical, 1));
    for arena in [arena(apple, StorageMode::Shared), handles] {
        let refused = arena.grow(&want(4 * MIB), &|_| false);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::System);
        let count = || (arena.reserve.committed(), arena.reserve.returned_bytes());
        assert_eq!(count(), (0, 0));
        let block = block(&arena, 4 * MIB);
        arena.release(block, None, true);
        assert_eq!(arena.trim(usize::MAX, &|_| false), 4 * MIB);
        assert_eq!(count(), (0, 4 * MIB as u64));
    }
}

#[test]
fn the_smallest_handles_and_segments_that_suffice_go_back() {
    let apple = arena(Arc::new(FakeApple::new().unwrap()), StorageMode::Shared);
    for arena in [handles().1, apple] {
        for bytes in [64 * MIB, 2 * MIB, 8 * MIB] {
            let block = arena.direct(&want(bytes), &|_| false).unwrap();
            arena.release(block, None, true);
        }
        let trim = |bytes| arena.trim(bytes, &|_| false);
        assert_eq!(trim(2 * MIB), 2 * MIB);
        assert_eq!(trim(65 * MIB), 72 * MIB, "the largest, and one more");
        assert_eq!(trim(1), 0);
    }
}

/// Asks for more than all addresses that an arena reserves at once; says how many regions it has then.
fn regions_after_what_fits_nowhere(mut arena: Arena) -> usize {
    arena.virtual_memory.as_mut().unwrap().address_bytes_max = 8 * MIB;
    for _ in 0..3 {
        let grown = arena.grow(&want(8 * MIB), &|_| false);
        assert_eq!(grown.unwrap_err().kind(), ErrorKind::OutOfMemory);
        let direct = arena.direct(&want(8 * MIB), &|_| false);
        assert_eq!(direct.unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
    arena.trim(usize::MAX, &|_| false);
    assert_eq!(arena.reserve.committed(), 0);
    arena.growth.lock().regions.len()
}

#[test]
fn a_request_that_fits_nowhere_takes_no_addresses() {
    assert_eq!(regions_after_what_fits_nowhere(handles().1), 0);
    #[cfg(target_os = "linux")]
    assert_eq!(regions_after_what_fits_nowhere(on_the_host::host()), 0);
}

/// Maps one piece and then one that there is none of; says how many mappings are counted as left.
fn counted_after_a_failed_call(arena: &Arena) -> usize {
    let properties = arena.virtual_memory.unwrap();
    let mut growth = arena.growth.lock();
    let pieces = arena.create_pieces(&mut growth, properties, 2 * MIB, usize::MAX);
    let good = pieces.unwrap()[0];
    let bad = Piece {
        // Neither a page nor a handle begins at an odd byte.
        physical: good.physical.offset(1),
        bytes: 2 * MIB,
    };
    let placement = arena.place(&mut growth, &want(4 * MIB)).unwrap();
    let at = Range {
        start: placement.position,
        bytes: 4 * MIB,
    };
    let mapped = arena.map_pieces(&mut growth, properties, at, &[good, bad]);
    mapped.unwrap_err();
    let counts: Vec<_> = growth.stale.iter().map(|one| one.mapped.count()).collect();
    growth.unmapped.push(good);
    drop(growth);
    assert_eq!(arena.trim(usize::MAX, &|_| false), 2 * MIB);
    assert_eq!(arena.growth.lock().stale.len(), 0);
    counts.into_iter().sum()
}

#[test]
fn what_a_failed_call_mapped_counts_where_memory_can_be_divided_alone() {
    assert_eq!(counted_after_a_failed_call(&handles().1), 0);
    #[cfg(target_os = "linux")]
    assert_eq!(counted_after_a_failed_call(&on_the_host::host()), 1);
}

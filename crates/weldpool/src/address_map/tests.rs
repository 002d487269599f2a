use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::binding::Place;
use crate::block::{ArenaKind, Block, CacheKey, Cut, ListId, Node as MemoryNode};
use crate::device::StorageMode;
use crate::kept;

const GRANULE: usize = 1 << GRANULE_BITS;

/// The record of a block at an address that nothing is at.
fn record(start: usize, bytes: usize) -> &'static Record {
    let cut = Cut {
        pool: CacheKey { slot: 0, id: 0 },
        storage: StorageMode::Shared,
        arena: ArenaKind::Large,
        node: MemoryNode::FIRST,
        list: ListId::NONE,
        thread_max: 0,
        position: start,
        bytes,
    };
    let place = Place {
        host: std::ptr::without_provenance_mut(start),
        device: 0,
        resource: std::ptr::null_mut(),
        resource_offset: 0,
    };
    Block::new(cut, &place).as_record()
}

fn start_of(map: &AddressMap, address: usize) -> Option<usize> {
    map.find(address).map(Record::start)
}

/// Nodes in use, but for the root.
fn nodes(node: &Node) -> usize {
    let parts = (0..SLOTS).filter_map(|slot| node.part(slot));
    parts.map(|part| 1 + nodes(part)).sum()
}

/// A map whose nodes stay listed, as those of arenas do: they live as long as the process.
struct Kept(Option<Writer>);

impl Kept {
    fn new() -> Self {
        Self(Some(Writer::new(SpareNodes::default())))
    }
}

impl Deref for Kept {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        self.0.as_ref().expect("taken only at the end")
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Writer {
        self.0.as_mut().expect("taken only at the end")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        kept::keep(self.0.take());
    }
}

#[test]
fn addresses_inside_find_their_block() {
    let mut writer = Kept::new();
    let map = Arc::clone(writer.map());
    assert_eq!(start_of(&map, 0x1000), None);
    // One granule, one leaf, many nodes, and the greatest there can be.
    let top = 1 << bits_below(LEVELS);
    let blocks = [
        (0, GRANULE),
        (GRANULE, 3 * GRANULE),
        (1 << 20, 1 << 14),
        ((1 << 20) + (1 << 14), (1 << 34) + GRANULE),
        (1 << 47, 1 << 46),
        (top - GRANULE, GRANULE),
    ];
    for (start, bytes) in blocks {
        writer.insert(start, record(start, bytes));
    }
    for (start, bytes) in blocks {
        for inside in [0, 1, bytes / 3, bytes / 2, bytes - 1] {
            assert_eq!(
                start_of(&map, start + inside),
                Some(start),
                "{start:#x} + {inside:#x}"
            );
        }
    }
    writer.remove(1 << 47);
    assert_ne!(start_of(&map, (1 << 47) + 5), Some(1 << 47));
    writer.remove(1 << 47);
    writer.remove(7 << 40);
    assert_eq!(start_of(&map, top - 1), Some(top - GRANULE));
}

/// As the documents say.
#[test]
fn a_node_takes_528_bytes() {
    assert_eq!(size_of::<Node>(), 528);
}

#[test]
fn what_the_map_does_not_cover_is_left_out() {
    let mut writer = Kept::new();
    let beyond = 1 << bits_below(LEVELS);
    for start in [beyond, usize::MAX & !(GRANULE - 1)] {
        writer.insert(start, record(start, GRANULE));
        assert_eq!(start_of(writer.map(), start), None);
        writer.remove(start);
    }
    assert_eq!(nodes(&writer.map().root), 0);
}

/// Agrees with an ordered map over many insertions and removals, near and far.
#[test]
fn agrees_with_an_ordered_map() {
    let mut writer = Kept::new();
    let mut model: BTreeMap<usize, usize> = BTreeMap::new();
    let mut seed = 7_u64;
    let random = RefCell::new(move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    });
    let random = |below| {
        let mut random = random.borrow_mut();
        (*random)(below)
    };
    let regions = [
        0x7f00_0000_0000,
        0x7f00_0400_0000,
        0x5500_1230_0000,
        0x10_0000,
    ];
    for step in 0..20_000 {
        if random(5) < 3 {
            let (spread, length) = ([4, 8, 14][random(3)], [1, 6, 12][random(3)]);
            let start = regions[random(4)] + GRANULE * random(1 << spread);
            let bytes = GRANULE * (1 + random(1 << length));
            let before = model.range(..start + bytes).next_back();
            if before.is_none_or(|(&other, &length)| other + length <= start) {
                writer.insert(start, record(start, bytes));
                model.insert(start, bytes);
            }
        } else if let Some(&start) = model.keys().nth(random(model.len().max(1))) {
            writer.remove(start);
            model.remove(&start);
        }
        let address = regions[random(4)] + random(1 << 22);
        let found = writer
            .map()
            .find(address)
            .filter(|one| one.contains(address));
        let wanted = model.range(..=address).next_back();
        let wanted = wanted.filter(|&(&start, &bytes)| address < start + bytes);
        assert_eq!(
            found.map(Record::start),
            wanted.map(|(&start, _)| start),
            "step {step}"
        );
    }
    let used = nodes(&writer.map().root);
    assert!(used <= model.len() * LEVELS);
    for &start in model.keys() {
        writer.remove(start);
    }
    assert_eq!(nodes(&writer.map().root), 0, "nothing is left behind");
    let spare = writer.take_spare();
    assert!(spare.count() >= used, "and all of it is used again");
    kept::keep(spare);
}

/// Blocks come and go all around one that stays, in the same nodes, and those are used again elsewhere:
/// each look-up finds the one that stays.
#[test]
fn what_stays_is_found_while_all_around_changes() {
    const START: usize = 0x7f12_3456_7000 + 5 * GRANULE;
    const BYTES: usize = 3 << 20;
    let mut writer = Kept::new();
    let map = Arc::clone(writer.map());
    writer.insert(START, record(START, BYTES));
    let around: Vec<_> = (0..200)
        .map(|number| {
            let after = START + BYTES + number * 7 * GRANULE;
            let before = START - (number + 1) * 9 * GRANULE;
            let far = 0x6000_0000_0000 + (number << 30);
            let start = [after, before, far][number % 3];
            (start, record(start, GRANULE))
        })
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for part in 0..2 {
            let (map, stop) = (&map, &stop);
            scope.spawn(move || {
                let mut address = START + part;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(start_of(map, address), Some(START), "{address:#x}");
                    address = START + (address - START + 4099) % BYTES;
                    // Whatever is found elsewhere, looking is safe.
                    let _any = map.find(START.wrapping_add(address % 512 * 4096));
                }
            });
        }
        for round in 0..2000 {
            for (number, (start, record)) in around.iter().enumerate() {
                if (number + round) % 3 < 2 {
                    writer.insert(*start, record);
                }
            }
            for (start, _) in &around {
                writer.remove(*start);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(nodes(&map.root), LEVELS - 1);
}

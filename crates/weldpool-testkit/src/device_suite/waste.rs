//! Memory held from the driver that is of no use to anybody, told apart.

use weldpool::{Buffer, ClassStats};

use super::{MakeDevice, allocator};

/// After each step, for the whole and per class: what blocks have beyond the requests is internal waste,
/// what is in nobody's block is external.
pub fn waste_is_told_apart_at_every_step(make: MakeDevice) {
    let allocator = allocator(make);
    let mut live: Vec<Buffer> = Vec::new();
    for step in 0..600_usize {
        let number = step * 7919 % 1009;
        if live.len() > 40 || (number % 3 == 0 && !live.is_empty()) {
            drop(live.swap_remove(number % live.len()));
        } else {
            let bytes = 1 + number * 331 % (1 << (6 + number % 16));
            live.push(allocator.allocate(bytes).unwrap());
        }
        let stats = allocator.stats();
        let requested: usize = live.iter().map(Buffer::len).sum();
        let blocks: usize = live.iter().map(Buffer::block_bytes).sum();
        assert_eq!(stats.internal_waste(), (blocks - requested) as u64);
        assert_eq!(stats.external_waste(), stats.reserved.value - blocks as u64);
        // No work is in flight.
        assert_eq!(stats.external_waste(), stats.cached_bytes);
        // Internal waste, and bytes of the blocks in use.
        let mut of_class = vec![(0, 0); stats.classes.len()];
        for buffer in &live {
            let at = stats
                .classes
                .partition_point(|class| class.bytes < buffer.len());
            let bytes = stats.classes[at].bytes;
            of_class[at].0 += (bytes - buffer.len()) as u64;
            of_class[at].1 += bytes as u64;
        }
        for (class, (waste, used)) in stats.classes.iter().zip(of_class) {
            assert_eq!(class.internal_waste(), waste, "{class:?}");
            assert_eq!(class.external_waste(), class.held_bytes - used, "{class:?}");
        }
        let of_classes: u64 = stats.classes.iter().map(ClassStats::external_waste).sum();
        assert!(of_classes <= stats.external_waste(), "{stats}");
    }
    drop(live);
    let stats = allocator.stats();
    assert_eq!(stats.internal_waste(), 0);
    assert_eq!(stats.external_waste(), stats.reserved.value);
    let _bytes = allocator.clear();
    let stats = allocator.stats();
    assert_eq!(stats.external_waste(), 0);
    let held = |class: &ClassStats| class.external_waste() > 0;
    assert!(!stats.classes.iter().any(held), "{:?}", stats.classes);
}

//! How much of the pool the load of a model took.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use weldpool::Allocator;

/// The loads that are under way, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    under_way: AtomicUsize,
    begun: AtomicU64,
}

/// One load, until it ends.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    loads: &'a Loads,
    allocator: &'a Allocator,
    alone: bool,
    number: u64,
    live_before: u64,
}

impl Loads {
    /// Notes that a load begins.
    pub(crate) fn begin<'a>(&'a self, allocator: &'a Allocator) -> Load<'a> {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Load {
            loads: self,
            allocator,
            alone: others == 0,
            number,
            live_before: allocator.stats().live.value,
        }
    }
}

impl Load<'_> {
    /// The bytes that the pool's live buffers grew by; none if another model was loaded meanwhile,
    /// since nobody could tell whose they are. Requests that run meanwhile may be counted too.
    pub(crate) fn end(self) -> Option<u64> {
        let alone = self.alone && self.loads.begun.load(Ordering::Relaxed) == self.number;
        let live = self.allocator.stats().live.value;
        alone.then(|| live.saturating_sub(self.live_before))
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.loads.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_counts_what_it_took_unless_another_overlaps() {
        let allocator = Allocator::host().unwrap();
        let loads = Loads::default();
        let load = loads.begin(&allocator);
        let kept = allocator.allocate(5000).unwrap();
        assert_eq!(load.end(), Some(5000));

        let first = loads.begin(&allocator);
        let second = loads.begin(&allocator);
        assert_eq!(first.end(), None);
        assert_eq!(second.end(), None);
        drop(kept);
        assert_eq!(loads.begin(&allocator).end(), Some(0));
    }
}

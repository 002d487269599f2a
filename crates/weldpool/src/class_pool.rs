//! Central pools of idle blocks, one per size class and storage mode.

use crate::block::Block;
use crate::device::StorageMode;
use crate::size_class::SizeClasses;
use crate::stats::ClassStats;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The pools of one allocator.
#[derive(Debug)]
pub(crate) struct ClassPools {
    classes: SizeClasses,
    pools: [Box<[ClassPool]>; StorageMode::ALL.len()],
    /// Bytes idle in all pools.
    cached: AtomicU64,
}

#[derive(Debug, Default)]
struct ClassPool {
    idle: Mutex<Vec<Block>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl ClassPools {
    pub(crate) fn new(classes: SizeClasses) -> Self {
        let count = classes.as_slice().len();
        let pools = StorageMode::ALL.map(|_| (0..count).map(|_| ClassPool::default()).collect());
        Self {
            classes,
            pools,
            cached: AtomicU64::new(0),
        }
    }

    pub(crate) fn classes(&self) -> &SizeClasses {
        &self.classes
    }

    /// The most recently freed idle block of a class, which is the likeliest to be in a cache.
    pub(crate) fn take(&self, storage: StorageMode, class: usize) -> Option<Block> {
        let pool = &self.pools[storage.index()][class];
        let block = pool.idle.lock().pop();
        match &block {
            Some(block) => {
                pool.hits.fetch_add(1, Ordering::Relaxed);
                self.cached.fetch_sub(block.bytes as u64, Ordering::Relaxed);
            }
            None => {
                pool.misses.fetch_add(1, Ordering::Relaxed);
            }
        }
        block
    }

    /// Keeps a block, or gives it back when the class has enough.
    pub(crate) fn put(&self, storage: StorageMode, class: usize, block: Block) -> Option<Block> {
        let mut idle = self.pools[storage.index()][class].idle.lock();
        if idle.len() >= self.classes.as_slice()[class].cached_max {
            return Some(block);
        }
        self.cached.fetch_add(block.bytes as u64, Ordering::Relaxed);
        idle.push(block);
        None
    }

    /// Takes every idle block out.
    pub(crate) fn drain(&self) -> Vec<Block> {
        let mut drained = Vec::new();
        for pool in self.pools.iter().flatten() {
            drained.append(&mut pool.idle.lock());
        }
        let bytes: u64 = drained.iter().map(|block| block.bytes as u64).sum();
        self.cached.fetch_sub(bytes, Ordering::Relaxed);
        drained
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> Vec<ClassStats> {
        let sum = |class: usize, value: fn(&ClassPool) -> u64| {
            self.pools
                .iter()
                .map(|pools| value(&pools[class]))
                .sum::<u64>()
        };
        let classes = self.classes.as_slice().iter().enumerate();
        classes
            .map(|(class, size)| ClassStats {
                bytes: size.bytes,
                hits: sum(class, |pool| pool.hits.load(Ordering::Relaxed)),
                misses: sum(class, |pool| pool.misses.load(Ordering::Relaxed)),
                cached_blocks: self
                    .pools
                    .iter()
                    .map(|pools| pools[class].idle.lock().len())
                    .sum(),
            })
            .collect()
    }
}

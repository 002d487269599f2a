//! The arenas of a pool: for each storage mode and node of memory, one that is cut into large blocks and
//! spans, and one that is the spans.

#![forbid(unsafe_code)]

use crate::arena::{Arena, Home, Reserve, SmallArena};
use crate::block::{Block, CacheKey, Node};
use crate::device::{Metered, StorageMode};
use crate::sync::Arc;

/// The arenas of one storage mode on one node.
pub(super) type Pair = (Arena, SmallArena);

/// All arenas. There is one pair for a storage mode whose memory is all alike.
#[derive(Debug)]
pub(super) struct Arenas {
    pairs: [Box<[Pair]>; StorageMode::ALL.len()],
}

impl Arenas {
    pub(super) fn new(key: CacheKey, device: &Arc<Metered>, reserve: &Arc<Reserve>) -> Self {
        let pairs = StorageMode::ALL.map(|storage| {
            let pair = |node| {
                let home = Home { key, storage, node };
                let arena = Arena::new(home, Arc::clone(device), Arc::clone(reserve));
                (arena, SmallArena::new(home))
            };
            Node::first(1).map(pair).collect()
        });
        Self { pairs }
    }

    /// The arenas of a storage mode on a node, which is one of its nodes.
    pub(super) fn at(&self, storage: StorageMode, node: Node) -> &Pair {
        &self.pairs[storage.index()][node.index()]
    }

    /// The arenas that a block comes from.
    pub(super) fn of(&self, block: &Block) -> &Pair {
        self.at(block.storage(), block.node())
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().flatten()
    }
}

//! The arenas of a pool: for each storage mode and node of memory, one that is cut into large blocks and
//! spans, and one that is the spans.

#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::arena::{Arena, Home, Reserve, SmallArena};
use crate::block::{Block, CacheKey, Node};
use crate::device::{Metered, StorageMode, Topology};
use crate::stats::NodeStats;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Requests past the caches for which a thread is taken to run where it did before.
const LOOK_EVERY: u32 = 16;

thread_local! {
    static HERE: Cell<Here> = const { Cell::new(Here { pool: 0, node: Node::FIRST, left: 0 }) };
}

/// Where a thread was last seen.
#[derive(Debug, Clone, Copy)]
struct Here {
    /// Id of the pool that looked: its device may count nodes otherwise than another's.
    pool: u64,
    node: Node,
    /// Requests before the next look.
    left: u32,
}

/// The arenas of one storage mode on one node.
pub(super) type Pair = (Arena, SmallArena);

/// All arenas. There is one pair for a storage mode whose memory is all alike.
#[derive(Debug)]
pub(super) struct Arenas {
    pairs: [Box<[Pair]>; StorageMode::ALL.len()],
    /// Where the memory of any storage mode is kept apart by nodes.
    nodes: Option<Nodes>,
    pool: u64,
}

#[derive(Debug)]
struct Nodes {
    topology: Topology,
    counters: Box<[Counters]>,
}

/// What is counted of a node.
#[derive(Debug, Default)]
struct Counters {
    local: AtomicU64,
    remote: AtomicU64,
    returned: AtomicU64,
}

impl Arenas {
    pub(super) fn new(key: CacheKey, device: &Arc<Metered>, reserve: &Arc<Reserve>) -> Self {
        let pairs = StorageMode::ALL.map(|storage| {
            let pair = |node| {
                let home = Home { key, storage, node };
                let arena = Arena::new(home, Arc::clone(device), Arc::clone(reserve));
                (arena, SmallArena::new(home))
            };
            let topology = device.topology(storage);
            Node::first(topology.map_or(1, |one| one.nodes().len().max(1)))
                .map(pair)
                .collect()
        });
        let topologies = StorageMode::ALL.map(|storage| device.topology(storage));
        let nodes = topologies.into_iter().flatten().next().map(|topology| {
            let counters = topology.nodes().iter().map(|_| Counters::default());
            Nodes {
                counters: counters.collect(),
                topology: topology.clone(),
            }
        });
        Self {
            pairs,
            nodes,
            pool: key.id,
        }
    }

    /// The arenas of a storage mode on a node, which is one of its nodes.
    pub(super) fn at(&self, storage: StorageMode, node: Node) -> &Pair {
        &self.pairs[storage.index()][node.index()]
    }

    /// The arenas that a block comes from.
    pub(super) fn of(&self, block: &Block) -> &Pair {
        self.at(block.storage(), block.node())
    }

    /// Those of a storage mode, one for each of its nodes.
    pub(super) fn of_storage(&self, storage: StorageMode) -> impl Iterator<Item = &Pair> {
        self.pairs[storage.index()].iter()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().flatten()
    }

    /// Nodes that memory is kept apart by; one where it is all alike.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.as_ref().map_or(1, |nodes| nodes.counters.len())
    }

    /// Whether the memory of a storage mode is kept apart by nodes.
    pub(super) fn are_spread(&self, storage: StorageMode) -> bool {
        self.pairs[storage.index()].len() > 1
    }

    /// The node that serves this thread, and whether the thread has moved since it was last seen on
    /// another. The system is asked now and then only.
    pub(super) fn here(&self, storage: StorageMode) -> (Node, bool) {
        let Some(nodes) = &self.nodes else {
            return (Node::FIRST, false);
        };
        if !self.are_spread(storage) {
            return (Node::FIRST, false);
        }
        let before = HERE.get();
        let known = before.pool == self.pool;
        if known && before.left > 0 {
            let left = before.left - 1;
            HERE.set(Here { left, ..before });
            return (before.node, false);
        }
        let node = Node::at(nodes.topology.current());
        HERE.set(Here {
            pool: self.pool,
            node,
            left: LOOK_EVERY - 1,
        });
        (node, known && node != before.node)
    }

    /// The nodes that may serve where one of them, which is first, is to; nearest first.
    pub(super) fn nearest(&self, storage: StorageMode, node: Node) -> impl Iterator<Item = Node> {
        let nodes = self.nodes.as_ref().filter(|_| self.are_spread(storage));
        let all = nodes.map_or(&[][..], |nodes| nodes.topology.nearest(node.index()));
        let others = all.iter().map(|&position| Node::at(position));
        std::iter::once(node).chain(others.filter(move |&other| other != node))
    }

    /// Counts a request of a thread on node `here` that was served past the caches.
    pub(super) fn count_served(&self, here: Node, block: &Block) {
        if self.are_spread(block.storage())
            && let Some(counters) = self.counters(here)
        {
            let counter = if block.node() == here {
                &counters.local
            } else {
                &counters.remote
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a block that goes back to its node because it was freed on another.
    pub(super) fn count_returned(&self, block: &Block) {
        if let Some(counters) = self.counters(block.node()) {
            counters.returned.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counters(&self, node: Node) -> Option<&Counters> {
        self.nodes.as_ref()?.counters.get(node.index())
    }

    /// The system's number of the node of a block, where its memory is kept apart by nodes.
    pub(super) fn number_of(&self, storage: StorageMode, node: Node) -> Option<u32> {
        let nodes = self.nodes.as_ref().filter(|_| self.are_spread(storage))?;
        Some(nodes.topology.nodes().get(node.index())?.number)
    }

    /// Statistics of the nodes; none where memory is all alike.
    pub(super) fn stats(&self, device: &Metered) -> Vec<NodeStats> {
        let Some(nodes) = &self.nodes else {
            return Vec::new();
        };
        let counted = nodes.topology.nodes().iter().zip(&nodes.counters);
        let stats = Node::first(counted.len())
            .zip(counted)
            .map(|(node, (numa, counters))| {
                let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let reserved = device.reserved_on(node.index());
                let (mut free, mut pending) = (0, 0);
                for pairs in self.pairs.iter().filter(|pairs| pairs.len() > 1) {
                    let (arena, small) = &pairs[node.index()];
                    for one in [arena.free(), small.free()] {
                        free += one.bytes as u64;
                        pending += one.pending as u64;
                    }
                }
                NodeStats {
                    number: numa.number,
                    reserved,
                    block_bytes: reserved.value.saturating_sub(free + pending),
                    free_bytes: free,
                    local_allocations: load(&counters.local),
                    remote_allocations: load(&counters.remote),
                    returned_blocks: load(&counters.returned),
                }
            });
        stats.collect()
    }
}

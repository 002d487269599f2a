//! The nodes of memory of a machine (NUMA), and on which of them a thread runs.

#![forbid(unsafe_code)]

use std::fmt;

use crate::sync::Arc;

/// Nodes a kernel can number (Linux: `MAX_NUMNODES`).
const NUMBER_MAX: u32 = 1023;
/// Nodes that memory can be kept apart by.
const NODES_MAX: usize = 128;
/// Distance of a node to itself, and to others where nothing is said (ACPI 6.5, 5.2.17).
const DISTANCE_HERE: u32 = 10;
const DISTANCE_THERE: u32 = 20;
/// Stands for a processor of no node.
const NOWHERE: u8 = u8::MAX;

/// A node that has memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumaNode {
    /// Its number.
    pub number: u32,
    /// The processors for which its memory is the nearest.
    pub processors: Vec<u32>,
    /// How far each node of the topology is, in the order of the nodes: 10 for itself, more for those
    /// that are slower to reach. 20 where nothing is said.
    pub distances: Vec<u32>,
    /// Bytes of memory that may be obtained there, if there is such a bound.
    pub memory_bytes: Option<u64>,
}

/// The nodes of a machine that have memory, and who tells on which of them a thread runs. A plain value: a
/// topology of one's own stands in for a machine that is not there.
#[derive(Debug, Clone)]
pub struct Topology {
    nodes: Vec<NumaNode>,
    /// For each node the positions of all, nearest first.
    nearest: Vec<Vec<usize>>,
    /// Positions of nodes by the number of a processor.
    by_processor: Vec<u8>,
    whereabouts: Whereabouts,
}

/// Who tells where a thread runs.
#[derive(Clone)]
enum Whereabouts {
    /// The system (getcpu(2)).
    System,
    /// A function, which gives the number of a node.
    Told(Arc<dyn Fn() -> u32 + Send + Sync>),
}

impl Topology {
    /// The nodes of this machine as described.
    pub(super) fn of(nodes: Vec<NumaNode>) -> Self {
        Self::new(nodes, Whereabouts::System)
    }

    /// The nodes of this machine; the system tells of one.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(vec![NumaNode::default()])
    }

    /// A topology that is made up, for tests. `current` is asked for the number of the node on which the
    /// calling thread is to be taken to run; a number that no node has stands for the first one. Memory is
    /// kept apart by these nodes but bound to none. Nodes beyond the 128th, and numbers beyond 1023, are
    /// left out.
    #[must_use]
    pub fn fake(nodes: Vec<NumaNode>, current: impl Fn() -> u32 + Send + Sync + 'static) -> Self {
        Self::new(nodes, Whereabouts::Told(Arc::new(current)))
    }

    fn new(mut nodes: Vec<NumaNode>, whereabouts: Whereabouts) -> Self {
        nodes.retain(|node| node.number <= NUMBER_MAX);
        nodes.truncate(NODES_MAX);
        let nearest = (0..nodes.len()).map(|here| order_from(&nodes, here));
        let mut by_processor = Vec::new();
        for (position, node) in (0_u8..).zip(&nodes) {
            for &processor in &node.processors {
                let processor = processor as usize;
                if processor >= by_processor.len() {
                    by_processor.resize(processor + 1, NOWHERE);
                }
                by_processor[processor] = position;
            }
        }
        Self {
            nearest: nearest.collect(),
            nodes,
            by_processor,
            whereabouts,
        }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// The number of the node whose memory is the nearest to a processor. O(1).
    #[must_use]
    pub fn node_of(&self, processor: u32) -> Option<u32> {
        let position = *self.by_processor.get(processor as usize)?;
        Some(self.nodes.get(usize::from(position))?.number)
    }

    /// The position, among [`nodes`](Self::nodes), of the one on which the calling thread runs now; the
    /// first where the system does not tell. A system call that most systems serve without entering the
    /// kernel; the thread may move at any time.
    #[must_use]
    pub fn current(&self) -> usize {
        match &self.whereabouts {
            Whereabouts::System => {
                let position = processor().and_then(|one| self.by_processor.get(one as usize));
                position
                    .filter(|&&position| position != NOWHERE)
                    .map_or(0, |&position| usize::from(position))
            }
            Whereabouts::Told(current) => self.position(current()).unwrap_or(0),
        }
    }

    /// The positions of all nodes as seen from the one at `here`, itself first, then the nearest.
    #[must_use]
    pub fn nearest(&self, here: usize) -> &[usize] {
        self.nearest.get(here).map_or(&[], Vec::as_slice)
    }

    /// Whether it is made up.
    #[must_use]
    pub fn is_fake(&self) -> bool {
        matches!(self.whereabouts, Whereabouts::Told(_))
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.number == number)
    }
}

impl fmt::Debug for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Told(_) => "Told(..)",
        })
    }
}

/// Positions by distance from one of them, itself first.
fn order_from(nodes: &[NumaNode], here: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    let distance = |there: &usize| {
        if *there == here {
            return 0;
        }
        let said = nodes[here].distances.get(*there).copied();
        said.unwrap_or(DISTANCE_THERE).max(DISTANCE_HERE)
    };
    order.sort_by_key(distance);
    order
}

/// The processor that the calling thread runs on.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "other systems do not tell")]
fn processor() -> Option<u32> {
    Some(rustix::thread::sched_getcpu() as u32)
}

#[cfg(not(target_os = "linux"))]
fn processor() -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32, processors: impl IntoIterator<Item = u32>, distances: &[u32]) -> NumaNode {
        NumaNode {
            number,
            processors: processors.into_iter().collect(),
            distances: distances.to_vec(),
            memory_bytes: None,
        }
    }

    #[test]
    fn nodes_are_ordered_by_distance() {
        let topology = Topology::of(vec![
            node(0, 0..2, &[10, 31, 21]),
            node(4, 2..4, &[]),
            node(9, [7], &[12, 11, 10]),
        ]);
        assert_eq!(topology.nearest(0), [0, 2, 1]);
        assert_eq!(
            topology.nearest(1),
            [1, 0, 2],
            "as listed where nothing is said"
        );
        assert_eq!(topology.nearest(2), [2, 1, 0]);
        assert_eq!(topology.nearest(3), [0_usize; 0]);
        assert_eq!(topology.node_of(3), Some(4));
        assert_eq!(topology.node_of(5), None, "of no node");
        assert_eq!(topology.node_of(7), Some(9));
        assert_eq!(topology.node_of(u32::MAX), None);
        assert!(topology.current() < 3);
    }

    #[test]
    fn a_fake_says_where_threads_run() {
        let nodes = vec![node(3, [], &[]), node(5, [], &[])];
        assert_eq!(Topology::fake(nodes.clone(), || 5).current(), 1);
        assert_eq!(
            Topology::fake(nodes.clone(), || 4).current(),
            0,
            "no such node"
        );
        assert!(Topology::fake(nodes, || 3).is_fake());
    }

    #[test]
    fn only_so_many_nodes_are_told_apart() {
        let nodes = (0..2000)
            .map(|number| node(number, [number], &[]))
            .collect();
        let topology = Topology::of(nodes);
        assert_eq!(topology.nodes().len(), NODES_MAX);
        assert_eq!(topology.node_of(127), Some(127));
        assert_eq!(topology.node_of(128), None);
    }
}

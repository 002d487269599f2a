//! On which of the machine's nodes memory lies.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::system::{list, node_memory};
use crate::device::{NumaNode, Topology};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Ordering};

/// Where sysfs tells of nodes.
const NODES: &str = "/sys/devices/system/node";

/// Where the pages of host memory are to be when they are first touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NumaPolicy {
    /// As the system decides: on the node of the thread that touches them, unless that was told
    /// otherwise, by numactl(8) for example.
    #[default]
    System,
    /// On the node of the thread whose request they serve: an allocator keeps the memory of each node
    /// apart, obtains more of it there, and goes to another node only when there is no more. The system
    /// may do the latter by itself.
    Local,
    /// On this node alone.
    Node(u32),
    /// Page by page on all nodes in turn.
    Interleave,
}

impl Topology {
    /// The nodes of this machine; one node, 0, where the system tells of none.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::read(Path::new(NODES)).unwrap_or_else(|| Self::of(vec![NumaNode::default()]))
    }

    /// The nodes that a directory like `/sys/devices/system/node` tells of, which is laid out as
    /// Documentation/ABI/stable/sysfs-devices-node says; none if there is no such thing. Processors of a
    /// node without memory belong to the nearest with some.
    fn read(directory: &Path) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let listed = |name: &str| list(read(name)?.trim());
        let online = listed("online").unwrap_or_default();
        let with_memory = match read("has_memory") {
            Some(text) => list(text.trim())?,
            None => online.clone(),
        };
        if with_memory.is_empty() {
            return None;
        }
        // A row of distances has all nodes that are online, in order.
        let distances = |number: u32| -> BTreeMap<u32, u32> {
            let text = read(&format!("node{number}/distance")).unwrap_or_default();
            let row = text.split_whitespace().filter_map(|one| one.parse().ok());
            online.iter().copied().zip(row).collect()
        };
        let mut nodes: Vec<NumaNode> = with_memory
            .iter()
            .map(|&number| {
                let row = distances(number);
                let far = |other: &u32| row.get(other).copied().unwrap_or(u32::MAX);
                NumaNode {
                    number,
                    processors: listed(&format!("node{number}/cpulist")).unwrap_or_default(),
                    distances: if row.is_empty() {
                        Vec::new()
                    } else {
                        with_memory.iter().map(far).collect()
                    },
                    memory_bytes: read(&format!("node{number}/meminfo"))
                        .and_then(|text| node_memory(&text, "MemTotal")),
                }
            })
            .collect();
        for number in online.iter().filter(|one| !with_memory.contains(one)) {
            let row = distances(*number);
            let far = |node: &&mut NumaNode| row.get(&node.number).copied().unwrap_or(u32::MAX);
            let processors = listed(&format!("node{number}/cpulist"));
            if let Some(nearest) = nodes.iter_mut().min_by_key(far) {
                nearest.processors.extend(processors.unwrap_or_default());
            }
        }
        Some(Self::of(nodes))
    }
}

/// How pages are bound (mbind(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Preferred,
    Bind,
    Interleave,
}

impl Mode {
    pub(super) const fn number(self) -> libc::c_int {
        match self {
            Self::Preferred => libc::MPOL_PREFERRED,
            Self::Bind => libc::MPOL_BIND,
            Self::Interleave => libc::MPOL_INTERLEAVE,
        }
    }
}

/// To which nodes pages are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) mode: Mode,
    nodes: Vec<u32>,
}

impl Binding {
    /// A bit for each node.
    pub(super) fn mask(&self) -> Vec<u64> {
        let last = self.nodes.iter().max().map_or(0, |&node| node as usize);
        let mut mask = vec![0; last / 64 + 1];
        for &node in &self.nodes {
            mask[node as usize / 64] |= 1 << (node % 64);
        }
        mask
    }
}

/// A policy on a topology.
#[derive(Debug)]
pub(super) struct Numa {
    policy: NumaPolicy,
    topology: Topology,
    refused: AtomicBool,
}

impl Default for Numa {
    fn default() -> Self {
        Self {
            policy: NumaPolicy::System,
            topology: Topology::of(Vec::new()),
            refused: AtomicBool::new(false),
        }
    }
}

impl Numa {
    pub(super) fn new(policy: NumaPolicy, topology: Topology) -> Result<Self> {
        let nodes = topology.nodes();
        if let NumaPolicy::Node(number) = policy
            && nodes.iter().all(|node| node.number != number)
        {
            let nodes: Vec<String> = nodes.iter().map(|node| node.number.to_string()).collect();
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!(
                    "NumaPolicy::Node is {number}; nodes with memory are {}",
                    nodes.join(", ")
                ),
            ));
        }
        Ok(Self {
            policy,
            topology,
            refused: AtomicBool::new(false),
        })
    }

    /// The nodes that memory is kept apart by, if it is.
    pub(super) fn divided(&self) -> Option<&Topology> {
        let divided = self.policy == NumaPolicy::Local && self.topology.nodes().len() > 1;
        divided.then_some(&self.topology)
    }

    /// What memory is bound to that is obtained on the node at a position, which only counts where memory
    /// is [kept apart](Self::divided); none where the system decides or there is nothing to decide.
    pub(super) fn binding(&self, position: usize) -> Option<Binding> {
        let nodes = self.topology.nodes();
        if nodes.len() < 2 || self.topology.is_fake() {
            return None;
        }
        let (mode, nodes) = match self.policy {
            NumaPolicy::System => return None,
            NumaPolicy::Local => (Mode::Preferred, vec![nodes.get(position)?.number]),
            NumaPolicy::Node(node) => (Mode::Bind, vec![node]),
            NumaPolicy::Interleave => {
                let all = nodes.iter().map(|node| node.number);
                (Mode::Interleave, all.collect())
            }
        };
        Some(Binding { mode, nodes })
    }

    /// Whether the system would not bind memory.
    #[cfg(test)]
    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes note of what the system said to a binding. Memory that it would not bind, as in a container
    /// that may not, is as good as any; it is said once.
    pub(super) fn note(&self, bound: std::io::Result<()>) {
        if let Err(error) = bound
            && !self.refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %error,
                policy = ?self.policy,
                "memory cannot be bound to nodes; it lies where the system puts it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32, processors: impl IntoIterator<Item = u32>) -> NumaNode {
        NumaNode {
            number,
            processors: processors.into_iter().collect(),
            ..NumaNode::default()
        }
    }

    /// Two nodes with processors, and one, far away, of memory alone.
    fn some_nodes() -> Topology {
        Topology::of(vec![node(0, 0..4), node(1, 4..8), node(70, [])])
    }

    #[test]
    fn each_policy_binds_as_it_says() {
        let binding = |policy, position| {
            let numa = Numa::new(policy, some_nodes()).unwrap();
            let binding = numa.binding(position);
            binding.map(|binding| (binding.mode, binding.mask()))
        };
        assert_eq!(binding(NumaPolicy::System, 0), None);
        let local = |mask| Some((Mode::Preferred, mask));
        assert_eq!(binding(NumaPolicy::Local, 0), local(vec![1]));
        assert_eq!(binding(NumaPolicy::Local, 1), local(vec![2]));
        assert_eq!(binding(NumaPolicy::Local, 2), local(vec![0, 1 << 6]));
        assert_eq!(binding(NumaPolicy::Local, 3), None, "of no node");
        let far = Some((Mode::Bind, vec![0, 1 << 6]));
        assert_eq!(binding(NumaPolicy::Node(70), 0), far);
        let all = Some((Mode::Interleave, vec![3, 1 << 6]));
        assert_eq!(binding(NumaPolicy::Interleave, 0), all);
    }

    #[test]
    fn only_local_memory_is_kept_apart() {
        for policy in [
            NumaPolicy::System,
            NumaPolicy::Node(1),
            NumaPolicy::Interleave,
        ] {
            let numa = Numa::new(policy, some_nodes()).unwrap();
            assert!(numa.divided().is_none(), "{policy:?}");
        }
        let local = Numa::new(NumaPolicy::Local, some_nodes()).unwrap();
        assert_eq!(local.divided().unwrap().nodes().len(), 3);
    }

    #[test]
    fn a_node_that_there_is_not_is_named() {
        let error = Numa::new(NumaPolicy::Node(2), some_nodes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        assert!(text.contains("is 2") && text.contains("0, 1, 70"), "{text}");
    }

    #[test]
    fn one_node_needs_no_binding() {
        let one = Topology::of(vec![node(0, 0..4)]);
        for policy in [
            NumaPolicy::Local,
            NumaPolicy::Node(0),
            NumaPolicy::Interleave,
        ] {
            let numa = Numa::new(policy, one.clone()).unwrap();
            assert_eq!(numa.binding(0), None);
            assert!(numa.divided().is_none());
        }
    }

    #[test]
    fn topologies_are_read_from_directories() {
        let directory = tempfile::tempdir().unwrap();
        let read = || Topology::read(directory.path());
        assert!(read().is_none());
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("online", "0-2\n");
        write("node0/cpulist", "0-1,4\n");
        write("node1/cpulist", "2-3\n");
        // A node of memory alone has no processors.
        write("node2/cpulist", "\n");
        let all = [node(0, [0, 1, 4]), node(1, [2, 3]), node(2, [])];
        assert_eq!(read().unwrap().nodes(), all);
        // A node of processors alone has no memory; its processors use the nearest there is.
        write("has_memory", "1-2\n");
        write("node0/distance", "10 21 16\n");
        write("node1/distance", "21 10 20\n");
        write(
            "node2/meminfo",
            "Node 2 MemTotal:       1024 kB\nNode 2 MemFree: 7 kB\n",
        );
        let some = read().unwrap();
        assert_eq!(
            some.nodes(),
            [
                NumaNode {
                    distances: vec![10, 20],
                    ..node(1, [2, 3])
                },
                NumaNode {
                    memory_bytes: Some(1 << 20),
                    ..node(2, [0, 1, 4])
                },
            ]
        );
        assert_eq!(some.node_of(2), Some(1));
        assert_eq!(some.node_of(0), Some(2));
        assert_eq!(some.node_of(9), None);
        write("has_memory", "nonsense");
        assert!(read().is_none());
    }

    #[test]
    fn this_machine_has_a_node() {
        let topology = Topology::of_this_machine();
        assert!(topology.current() < topology.nodes().len());
    }
}

//! On which of the machine's nodes memory lies.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use super::system::list;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Ordering};

/// Where sysfs tells of nodes.
const NODES: &str = "/sys/devices/system/node";
/// Nodes a kernel can have.
const NODES_MAX: u32 = 1024;

/// Where the pages of host memory are to be when they are first touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NumaPolicy {
    /// As the system decides: on the node of the thread that touches them, unless that was told
    /// otherwise, by numactl(8) for example.
    #[default]
    System,
    /// On the node of the thread whose request obtained the memory, else on any other.
    Local,
    /// On this node alone.
    Node(u32),
    /// Page by page on all nodes in turn.
    Interleave,
}

/// A node of the machine that has memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub number: u32,
    /// Its processors; none for memory without any.
    pub processors: Vec<u32>,
}

/// The nodes of a machine that have memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<NumaNode>,
}

impl Topology {
    /// The nodes of this machine; one node, 0, where the system tells of none.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::read(Path::new(NODES)).unwrap_or_else(|| Self {
            nodes: vec![NumaNode {
                number: 0,
                processors: Vec::new(),
            }],
        })
    }

    /// A topology as described; nodes beyond number 1023 are left out.
    #[must_use]
    pub fn of(nodes: Vec<NumaNode>) -> Self {
        let nodes = nodes.into_iter().filter(|node| node.number < NODES_MAX);
        Self {
            nodes: nodes.collect(),
        }
    }

    /// The nodes that a directory like `/sys/devices/system/node` tells of, which is laid out as
    /// Documentation/ABI/stable/sysfs-devices-node says; none if there is no such thing.
    fn read(directory: &Path) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let numbers = read("has_memory").or_else(|| read("online"))?;
        let nodes = list(numbers.trim())?.into_iter().map(|number| {
            let processors = read(&format!("node{number}/cpulist"));
            NumaNode {
                number,
                processors: processors
                    .and_then(|text| list(text.trim()))
                    .unwrap_or_default(),
            }
        });
        Some(Self::of(nodes.collect()))
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// The node of a processor.
    #[must_use]
    pub fn node_of(&self, processor: u32) -> Option<u32> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|node| node.processors.contains(&processor))?;
        Some(node.number)
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
        if let NumaPolicy::Node(number) = policy
            && topology.nodes.iter().all(|node| node.number != number)
        {
            let nodes: Vec<String> = topology
                .nodes
                .iter()
                .map(|node| node.number.to_string())
                .collect();
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

    /// What memory obtained now, by this thread, is bound to; none where the system decides or there is
    /// nothing to decide.
    pub(super) fn binding(&self) -> Option<Binding> {
        if self.policy == NumaPolicy::System {
            return None;
        }
        let processor = rustix::thread::sched_getcpu();
        self.binding_on(u32::try_from(processor).ok()?)
    }

    fn binding_on(&self, processor: u32) -> Option<Binding> {
        let nodes = &self.topology.nodes;
        if nodes.len() < 2 {
            return None;
        }
        let (mode, nodes) = match self.policy {
            NumaPolicy::System => return None,
            NumaPolicy::Local => (Mode::Preferred, vec![self.topology.node_of(processor)?]),
            NumaPolicy::Node(node) => (Mode::Bind, vec![node]),
            NumaPolicy::Interleave => {
                let all = nodes.iter().map(|node| node.number);
                (Mode::Interleave, all.collect())
            }
        };
        Some(Binding { mode, nodes })
    }

    /// Takes note of what the system said to a binding. Memory that it would not bind, as in a container
    /// that may not, is as good as any; it is said once.
    pub(super) fn note(&self, bound: std::io::Result<()>) {
        if let Err(error) = bound
            && !self.refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, policy = ?self.policy, "memory cannot be bound to nodes; it lies where the system puts it");
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
        }
    }

    /// Two nodes with processors, and one, far away, of memory alone.
    fn fake() -> Topology {
        Topology::of(vec![node(0, 0..4), node(1, 4..8), node(70, [])])
    }

    #[test]
    fn each_policy_binds_as_it_says() {
        let binding = |policy, processor| {
            let numa = Numa::new(policy, fake()).unwrap();
            let binding = numa.binding_on(processor);
            binding.map(|binding| (binding.mode, binding.mask()))
        };
        assert_eq!(binding(NumaPolicy::System, 0), None);
        let local = |mask| Some((Mode::Preferred, vec![mask]));
        assert_eq!(binding(NumaPolicy::Local, 3), local(1));
        assert_eq!(binding(NumaPolicy::Local, 4), local(2));
        assert_eq!(binding(NumaPolicy::Local, 99), None, "of no node");
        let far = Some((Mode::Bind, vec![0, 1 << 6]));
        assert_eq!(binding(NumaPolicy::Node(70), 0), far);
        let all = Some((Mode::Interleave, vec![3, 1 << 6]));
        assert_eq!(binding(NumaPolicy::Interleave, 0), all);
    }

    #[test]
    fn a_node_that_there_is_not_is_named() {
        let error = Numa::new(NumaPolicy::Node(2), fake()).unwrap_err();
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
            assert_eq!(numa.binding_on(0), None);
        }
    }

    #[test]
    fn topologies_are_read_from_directories() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Topology::read(directory.path()), None);
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
        let all = vec![node(0, [0, 1, 4]), node(1, [2, 3]), node(2, [])];
        assert_eq!(Topology::read(directory.path()), Some(Topology::of(all)));
        // A node of processors alone has no memory.
        write("has_memory", "1-2\n");
        let some = Topology::read(directory.path()).unwrap();
        assert_eq!(some.nodes(), [node(1, [2, 3]), node(2, [])]);
        assert_eq!(some.node_of(2), Some(1));
        assert_eq!(some.node_of(0), None);
        write("has_memory", "nonsense");
        assert_eq!(Topology::read(directory.path()), None);
    }

    #[test]
    fn this_machine_has_a_node() {
        assert!(!Topology::of_this_machine().nodes().is_empty());
    }
}

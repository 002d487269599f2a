//! The memory of the host by node: a memory file for each, or one where memory is all alike.

#![forbid(unsafe_code)]

use std::io;

use super::numa::Numa;
use crate::device::Topology;
use crate::device::mapping::Mapper;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// The memory files, and to which nodes their pages are bound.
#[derive(Debug)]
pub(super) struct Nodes {
    numa: Numa,
    mappers: Vec<Arc<Mapper>>,
}

impl Nodes {
    pub(super) fn new(numa: Numa) -> Result<Self> {
        let mappers: Result<Vec<_>> = match numa.divided() {
            None => Ok(vec![Arc::new(Mapper::new()?)]),
            Some(topology) => {
                let limits = topology.nodes().iter().map(|node| node.memory_bytes);
                let mapper = |limit| Ok(Arc::new(Mapper::with_limit(limit)?));
                limits.map(mapper).collect()
            }
        };
        Ok(Self {
            mappers: mappers?,
            numa,
        })
    }

    /// The nodes that memory is kept apart by, if it is.
    pub(super) fn divided(&self) -> Option<&Topology> {
        self.numa.divided()
    }

    /// The position of the node that the calling thread runs on; zero where memory is all alike.
    pub(super) fn current(&self) -> usize {
        self.divided().map_or(0, Topology::current)
    }

    /// The memory file of a node.
    pub(super) fn mapper(&self, node: usize) -> Result<&Arc<Mapper>> {
        self.mappers.get(node).ok_or_else(|| {
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!("there is no node at position {node} of the topology"),
            )
        })
    }

    /// Binds memory of a node by `bind`, which is given the mode and a bit for each node, if there is
    /// anything to bind.
    pub(super) fn bind(
        &self,
        node: usize,
        bind: impl FnOnce(libc::c_int, &[u64]) -> io::Result<()>,
    ) {
        if let Some(binding) = self.numa.binding(node) {
            self.numa.note(bind(binding.mode.number(), &binding.mask()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostDevice, NumaPolicy};
    use super::*;
    use crate::Allocator;
    use crate::device::{Device, Exposure, NumaNode, StorageMode};
    use crate::export::Export;

    /// This machine's first node with all processors, and one that it may not have.
    fn numa(policy: NumaPolicy, memory_bytes: Option<u64>) -> Numa {
        let first = Topology::of_this_machine().nodes()[0].number;
        let node = |number| NumaNode {
            number,
            processors: if number == first {
                (0..1024).collect()
            } else {
                Vec::new()
            },
            memory_bytes,
            ..NumaNode::default()
        };
        Numa::new(policy, Topology::of(vec![node(first), node(first + 1)])).unwrap()
    }

    /// The line of /proc/self/numa_maps on the mapping around an address.
    fn numa_map(address: usize) -> Option<String> {
        let text = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
        let start = |line: &str| usize::from_str_radix(line.split_once(' ')?.0, 16).ok();
        let before = text
            .lines()
            .filter(|line| start(line).is_some_and(|one| one <= address));
        Some(before.max_by_key(|line| start(line))?.to_owned())
    }

    #[test]
    fn the_system_binds_memory_as_the_policy_says() {
        let first = Topology::of_this_machine().nodes()[0].number;
        for (policy, mode) in [
            (NumaPolicy::Local, "prefer"),
            (NumaPolicy::Node(first), "bind"),
        ] {
            let device = Arc::new(HostDevice::with(numa(policy, None)).unwrap());
            let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>)
                .build()
                .unwrap();
            let mut buffer = allocator.allocate(1 << 20).unwrap();
            buffer.write::<u8>().unwrap().fill(7);
            let address = buffer.binding().host.unwrap().as_ptr().addr();
            if device.nodes.numa.was_refused() {
                // As in a container that may not bind memory: it is served all the same.
                continue;
            }
            let Some(line) = numa_map(address) else {
                continue;
            };
            let wanted = format!("{mode}:{first}");
            assert!(
                line.contains(&wanted) || line.contains("prefer (many):"),
                "{line}"
            );
            assert!(line.contains(&format!("N{first}=")), "{line}");
        }
    }

    #[test]
    fn each_node_has_as_much_as_it_says() {
        let device = HostDevice::with(numa(NumaPolicy::Local, Some(4 << 20))).unwrap();
        let memory = device.virtual_memory(StorageMode::Shared).unwrap();
        let kept: Vec<_> = (0..2)
            .map(|node| {
                let physical = memory
                    .create_on(3 << 20, StorageMode::Shared, node)
                    .unwrap();
                let error = memory
                    .create_on(2 << 20, StorageMode::Shared, node)
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                let segment = device.create_segment_on(1 << 20, StorageMode::Shared, node);
                segment.unwrap();
                // Memory in files of their own counts too.
                let exposure = Exposure {
                    export: Some(Export::FileDescriptor),
                    peers: false,
                };
                let expose =
                    |bytes| device.create_exposed(bytes, StorageMode::Shared, node, exposure);
                let exposed = expose(1 << 20).unwrap();
                assert_eq!(expose(4096).unwrap_err().kind(), ErrorKind::OutOfMemory);
                drop(exposed);
                drop(expose(1 << 20).unwrap());
                physical
            })
            .collect();
        assert_ne!(kept[0], kept[1]);
        assert_eq!(device.nodes.mapper(1).unwrap().mapped_bytes(), 3 << 20);
        let error = memory.create_on(4096, StorageMode::Shared, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}

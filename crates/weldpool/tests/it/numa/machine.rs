//! The nodes that this machine has, and what the system says of where pages lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weldpool::Allocator;
use weldpool::device::Topology;
use weldpool::device::host::{HostDevice, NumaPolicy};

/// Pages of the mapping around an address, by node (proc_pid_numa_maps(5)); none where the system does not
/// tell.
fn pages_by_node(address: usize) -> Option<BTreeMap<u32, usize>> {
    let text = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
    let start = |line: &str| usize::from_str_radix(line.split_once(' ')?.0, 16).ok();
    let lines = text
        .lines()
        .filter(|line| start(line).is_some_and(|start| start <= address));
    let line = lines.max_by_key(|line| start(line))?;
    let pages = line.split(' ').filter_map(|word| {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((node.parse().ok()?, pages.parse().ok()?))
    });
    Some(pages.collect())
}

/// On each node of this machine that this process may run on, memory lies where its thread runs.
#[test]
fn pages_lie_where_their_thread_runs() {
    let topology = Topology::of_this_machine();
    let device = Arc::new(HostDevice::with_numa(NumaPolicy::Local).unwrap());
    let allocator = Allocator::builder(device).build().unwrap();
    let divided = topology.nodes().len() > 1;
    let allowed = sched_getaffinity(None).unwrap();
    for (position, node) in topology.nodes().iter().enumerate() {
        let mut processors = CpuSet::new();
        for &processor in &node.processors {
            let processor = processor as usize;
            if processor < CpuSet::MAX_CPU && allowed.is_set(processor) {
                processors.set(processor);
            }
        }
        if processors.count() == 0 {
            continue;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sched_setaffinity(None, &processors).unwrap();
                assert_eq!(topology.current(), position);
                let mut buffer = allocator.allocate(8 << 20).unwrap();
                buffer.write::<u8>().unwrap().fill(1);
                let address = buffer.binding().host.unwrap().as_ptr();
                let wanted = divided.then_some(node.number);
                assert_eq!(allocator.find(address).unwrap().node, wanted);
                let Some(pages) = pages_by_node(address.addr()) else {
                    return;
                };
                let all: usize = pages.values().sum();
                let here = pages.get(&node.number).copied().unwrap_or_default();
                assert!(all > 0, "the pages were touched");
                // The system may put some elsewhere where the node is nearly full.
                assert!(here * 10 >= all * 9, "{pages:?}, not on {node:?}");
            });
        });
    }
    assert_eq!(
        allocator.stats().nodes.len(),
        if divided { topology.nodes().len() } else { 0 }
    );
}

//! Memory that is kept apart by nodes, on topologies that are made up: the thread says where it runs.

mod imported;
mod machine;
mod placement;
mod seeing;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::{HostDevice, NumaPolicy};
use weldpool::device::{NumaNode, Topology};
use weldpool::{Allocator, Buffer, Config, Device, NodeStats};

/// Requests past the caches after which the allocator is sure to have seen where a thread runs.
const LOOKED: usize = 16;

thread_local! {
    static NODE: Cell<u32> = const { Cell::new(0) };
}

/// Says on which node this thread runs from now on.
fn run_on(node: u32) {
    NODE.set(node);
}

/// Runs `work` on a thread of its own on a node.
fn on<T: Send>(node: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            run_on(node);
            work()
        });
        thread.join().expect("a test's thread")
    })
}

/// Nodes 0 to `count` - 1, each of as much memory; nodes of an even distance are the nearer ones.
fn nodes(count: u32, memory_bytes: Option<u64>) -> Topology {
    let distance = |here: u32, there: u32| match here.abs_diff(there) {
        0 => 10,
        far if far.is_multiple_of(2) => 12,
        _ => 21,
    };
    let node = |number| NumaNode {
        number,
        distances: (0..count).map(|there| distance(number, there)).collect(),
        memory_bytes,
        ..NumaNode::default()
    };
    Topology::fake((0..count).map(node).collect(), || NODE.get())
}

fn host(topology: Topology) -> Arc<dyn Device> {
    Arc::new(HostDevice::with_topology(NumaPolicy::Local, topology).expect("a host"))
}

/// A host of two nodes that threads run on in turn.
pub(crate) fn host_of_threads() -> Arc<dyn Device> {
    static THREADS: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: u32 = THREADS.fetch_add(1, Ordering::Relaxed) % 2;
    }
    let node = |number| NumaNode {
        number,
        ..NumaNode::default()
    };
    host(Topology::fake(vec![node(0), node(1)], || {
        NUMBER.with(|number| *number)
    }))
}

/// The devices that keep memory apart by such nodes.
fn devices(topology: &Topology) -> [Arc<dyn Device>; 2] {
    let discrete = FakeDiscrete::builder().topology(topology.clone());
    [
        host(topology.clone()),
        Arc::new(discrete.build().expect("a discrete fake")),
    ]
}

fn allocator(device: &Arc<dyn Device>, config: Config) -> Allocator {
    let builder = Allocator::builder(Arc::clone(device));
    builder.config(config).build().expect("an allocator")
}

/// The node that a buffer's memory was obtained on.
fn node_of(allocator: &Allocator, buffer: &Buffer) -> u32 {
    let address = buffer.binding().host.expect("a host address");
    let info = allocator.find(address.as_ptr()).expect("a live buffer");
    info.node.expect("a node")
}

fn sum(allocator: &Allocator, value: impl Fn(&NodeStats) -> u64) -> u64 {
    allocator.stats().nodes.iter().map(value).sum()
}

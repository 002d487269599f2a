//! Metrics of the nodes (NUMA) that a pool keeps memory apart by.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::{Family, Kind, Metric, Pool, Value};
use crate::stats::NodeStats;

const NODES: &[Metric<NodeStats>] = metrics! { "weldpool_pool_":
    "node_reserved_bytes", Gauge, "Bytes held of the node's memory", |node| node.reserved.value;
    "node_reserved_peak_bytes", Gauge, "Highest reserved bytes of the node",
        |node| node.reserved.peak;
    "node_block_bytes", Gauge, "Bytes of the node's memory in blocks, handed out or in caches",
        |node| node.block_bytes;
    "node_free_bytes", Gauge, "Bytes of the node's memory that are free in arenas",
        |node| node.free_bytes;
    "node_local_allocations_total", Counter,
        "Requests past the caches of threads on the node that its own memory served",
        |node| node.local_allocations;
    "node_remote_allocations_total", Counter,
        "Requests past the caches of threads on the node that another node's memory served",
        |node| node.remote_allocations;
    "node_returned_blocks_total", Counter,
        "Blocks of the node's memory that caches of threads on other nodes gave up",
        |node| node.returned_blocks;
};

/// Writes nothing where no pool keeps memory apart.
pub(super) fn nodes(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    if pools.iter().all(|pool| pool.stats.nodes.is_empty()) {
        return Ok(());
    }
    for metric in NODES {
        let mut family = Family::begin(out, metric.name, metric.kind, metric.help)?;
        for pool in pools {
            for node in &pool.stats.nodes {
                let number = node.number.to_string();
                let labels = [("pool", pool.name), ("node", number.as_str())];
                family.sample(&labels, (metric.read)(node))?;
            }
        }
    }
    Ok(())
}

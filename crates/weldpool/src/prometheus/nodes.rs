//! Metrics of the nodes (NUMA) that a pool keeps memory apart by.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::Value::Count;
use super::{Metric, Pool, family, sample};
use crate::stats::NodeStats;

const NODES: [Metric<NodeStats>; 7] = [
    (
        "weldpool_pool_node_reserved_bytes",
        "gauge",
        "Bytes held of the node's memory",
        |node| Count(node.reserved.value),
    ),
    (
        "weldpool_pool_node_reserved_peak_bytes",
        "gauge",
        "Highest reserved bytes of the node",
        |node| Count(node.reserved.peak),
    ),
    (
        "weldpool_pool_node_block_bytes",
        "gauge",
        "Bytes of the node's memory in blocks, handed out or in caches",
        |node| Count(node.block_bytes),
    ),
    (
        "weldpool_pool_node_free_bytes",
        "gauge",
        "Bytes of the node's memory that are free in arenas",
        |node| Count(node.free_bytes),
    ),
    (
        "weldpool_pool_node_local_allocations_total",
        "counter",
        "Requests past the caches of threads on the node that its own memory served",
        |node| Count(node.local_allocations),
    ),
    (
        "weldpool_pool_node_remote_allocations_total",
        "counter",
        "Requests past the caches of threads on the node that another node's memory served",
        |node| Count(node.remote_allocations),
    ),
    (
        "weldpool_pool_node_returned_blocks_total",
        "counter",
        "Blocks of the node's memory that caches of threads on other nodes gave up",
        |node| Count(node.returned_blocks),
    ),
];

/// Writes nothing where no pool keeps memory apart.
pub(super) fn nodes(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    if pools.iter().all(|pool| pool.stats.nodes.is_empty()) {
        return Ok(());
    }
    for (name, kind, help, read) in NODES {
        family(out, name, kind, help)?;
        for pool in pools {
            for node in &pool.stats.nodes {
                let number = node.number.to_string();
                let labels = [("pool", pool.name), ("node", number.as_str())];
                sample(out, name, "", &labels, read(node))?;
            }
        }
    }
    Ok(())
}

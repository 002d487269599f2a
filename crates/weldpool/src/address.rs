//! What is known of an address.

use crate::block::Sight;
use crate::device::StorageMode;
use crate::name::Name;

/// A live buffer, found by an address inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// Address of the buffer's first byte.
    pub address: usize,
    /// Bytes that were requested.
    pub bytes: usize,
    /// Bytes of the block behind them.
    pub block_bytes: usize,
    /// Name of the buffer.
    pub name: Name,
    /// Its storage mode.
    pub storage: StorageMode,
    /// The system's number of the node (NUMA) that its memory was obtained on, where the device keeps
    /// memory apart by nodes. Imported memory counts as obtained where the thread was that imported it; on which
    /// node its pages are was decided by who made it.
    pub node: Option<u32>,
}

impl BlockInfo {
    pub(crate) fn of(sight: Sight, node: Option<u32>) -> Self {
        Self {
            address: sight.address,
            bytes: sight.requested,
            block_bytes: sight.bytes,
            name: sight.name,
            storage: sight.storage,
            node,
        }
    }
}

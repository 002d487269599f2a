//! The memory pools of CubeCL's runtime, over its storage in host memory.

use std::sync::Arc;

use cubecl_ir::MemoryDeviceProperties;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{
    ManagedMemoryHandle, MemoryConfiguration, MemoryManagement, MemoryManagementOptions,
};
use cubecl_runtime::storage::BytesStorage;

use crate::alloc::heap::Heap;

/// Largest page, as in the runtime's own benchmark.
const PAGE_BYTES_MAX: u64 = 2048 << 20;

/// The pools in their default configuration.
pub(in crate::alloc) struct Cubecl(MemoryManagement<BytesStorage>);

impl Cubecl {
    /// Pools whose blocks are aligned to `alignment`.
    pub(in crate::alloc) fn new(alignment: usize) -> Self {
        let properties = MemoryDeviceProperties {
            max_page_size: PAGE_BYTES_MAX,
            alignment: alignment as u64,
        };
        Self(MemoryManagement::from_configuration(
            BytesStorage::default(),
            &properties,
            MemoryConfiguration::default(),
            Arc::new(ServerLogger::default()),
            MemoryManagementOptions::new("bench"),
        ))
    }
}

impl Heap for Cubecl {
    type Block = ManagedMemoryHandle;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Self::Block> {
        self.0.reserve(bytes as u64).ok()
    }

    #[inline]
    fn free(&mut self, block: Self::Block) {
        // The pools find out that nobody holds the handle any more when they look for memory next.
        drop(block);
    }

    fn start(&mut self, block: &Self::Block) -> usize {
        let resource = self.0.get_resource(block.clone().binding(), None, None);
        resource.map_or(0, |resource| resource.get_write_ptr_and_length().0.addr())
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut Self::Block, _value: u8) {}

    fn touch(&mut self, _block: &mut Self::Block, _value: u8) -> bool {
        true
    }
}

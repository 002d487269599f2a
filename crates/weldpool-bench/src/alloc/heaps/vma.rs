//! The virtual block of the Vulkan Memory Allocator: its algorithm without a device.

#![allow(unsafe_code)]

use vk_mem::{
    VirtualAllocation, VirtualAllocationCreateFlags, VirtualAllocationCreateInfo, VirtualBlock,
    VirtualBlockCreateInfo,
};

use crate::alloc::heap::Heap;
use crate::error::{Error, ErrorKind, Result};

/// What the algorithm is told to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::alloc) enum Strategy {
    Time,
    Memory,
}

/// One virtual block.
pub(in crate::alloc) struct Vma {
    block: VirtualBlock,
    alignment: u64,
    flags: VirtualAllocationCreateFlags,
}

impl Vma {
    /// A block of `capacity` bytes whose ranges are aligned to `alignment`.
    pub(in crate::alloc) fn new(
        capacity: usize,
        alignment: usize,
        strategy: Strategy,
    ) -> Result<Self> {
        let block = VirtualBlock::new(VirtualBlockCreateInfo {
            size: capacity as u64,
            ..VirtualBlockCreateInfo::default()
        })
        .map_err(|code| Error::caused(ErrorKind::Environment, "making a virtual block", code))?;
        use VirtualAllocationCreateFlags as Flags;
        Ok(Self {
            block,
            alignment: alignment as u64,
            flags: match strategy {
                Strategy::Time => Flags::VMA_VIRTUAL_ALLOCATION_CREATE_STRATEGY_MIN_TIME_BIT,
                Strategy::Memory => Flags::VMA_VIRTUAL_ALLOCATION_CREATE_STRATEGY_MIN_MEMORY_BIT,
            },
        })
    }
}

impl Heap for Vma {
    type Block = (VirtualAllocation, u64);

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Self::Block> {
        let request = VirtualAllocationCreateInfo {
            size: bytes as u64,
            alignment: self.alignment,
            user_data: 0,
            flags: self.flags,
        };
        // SAFETY: the size is not 0 and the alignment a power of two, which is all the function asks.
        unsafe { self.block.allocate(request) }.ok()
    }

    #[inline]
    fn free(&mut self, mut block: Self::Block) {
        // SAFETY: `allocate` of this block returned it, and it is used up here.
        unsafe { self.block.free(&mut block.0) }
    }

    fn start(&mut self, block: &Self::Block) -> usize {
        block.1 as usize
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut Self::Block, _value: u8) {}

    fn touch(&mut self, _block: &mut Self::Block, _value: u8) -> bool {
        true
    }
}

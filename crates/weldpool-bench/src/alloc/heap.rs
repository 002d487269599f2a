//! What a contender must do to be measured.

/// An allocator as the workloads see it. The calls are generic, never virtual, so that nothing but the
/// allocator's own work lies between two of them.
pub(crate) trait Heap {
    /// What an allocation returns and a free takes.
    type Block;

    /// Memory for `bytes` bytes; `None` when there is none.
    fn allocate(&mut self, bytes: usize) -> Option<Self::Block>;

    /// Takes a block back.
    fn free(&mut self, block: Self::Block);

    /// The block's address, or its offset where the heap hands out offsets only.
    fn start(&mut self, block: &Self::Block) -> usize;

    /// Whether blocks have memory behind them.
    fn has_memory(&self) -> bool;

    /// Writes every byte of the block, by the way its users have to write.
    fn fill(&mut self, block: &mut Self::Block, value: u8);

    /// Writes the first and the last byte and says whether both can be read back.
    fn touch(&mut self, block: &mut Self::Block, value: u8) -> bool;
}

/// A heap that several threads use at once; each gets a clone.
pub(crate) trait SharedHeap: Heap<Block: Send> + Clone + Send {}

impl<H: Heap<Block: Send> + Clone + Send> SharedHeap for H {}

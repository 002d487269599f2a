//! How an allocator chooses.
#![forbid(unsafe_code)]

/// In which order sources are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// Nearest to the memory that Triton asks for first, as the list has them where that is the same;
    /// plain memory last. For a GPU pinned memory is nearer than other memory of the host, and that
    /// nearer than another GPU's.
    #[default]
    Nearest,
    /// As the list has them, whatever Triton asks for.
    Listed,
}

/// Options of a [`ResponseAllocator`](crate::ResponseAllocator).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// In which order sources are asked. Default: the nearest first.
    pub order: Order,
    /// Name of the buffers in statistics and leak reports of pools. Default: `triton response`.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            order: Order::default(),
            name: "triton response".to_owned(),
        }
    }
}

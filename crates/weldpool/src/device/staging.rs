//! How a device and the host's processors share the work of a copy.

#![forbid(unsafe_code)]

/// How memory of this process that a device does not know is copied to and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staging {
    /// The largest copy in bytes that the driver is given as it is, because its own means are faster then; none if
    /// the device's queues do not take memory that it does not know at all.
    pub pageable_bytes_max: Option<usize>,
    /// Bytes of a chunk of other copies. Each thread has room for two.
    pub chunk_bytes: usize,
    /// Threads that keep the device busy; more gain nothing.
    pub threads_max: usize,
}

impl Staging {
    /// Of copies by processors alone.
    pub(crate) const HOST: Self = Self {
        pageable_bytes_max: None,
        chunk_bytes: 1 << 20,
        threads_max: 8,
    };
}

impl Default for Staging {
    fn default() -> Self {
        Self {
            threads_max: 4,
            ..Self::HOST
        }
    }
}

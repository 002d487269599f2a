//! How a device and the host's processors share the work of a copy.

#![forbid(unsafe_code)]

/// How memory of this process that a device does not know is copied to and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staging {
    /// The largest copy in bytes that the driver is given as it is, because its own means are faster then; none if
    /// the device's queues do not take memory that it does not know at all.
    pub pageable_bytes_max: Option<usize>,
    /// Bytes of a chunk of large copies, which the device copies at once. A copy has room for three.
    pub chunk_bytes: usize,
    /// Bytes of the first chunk of a copy to the device, and of the last of one from it: while processors are at it the
    /// device has nothing to do. The next are twice as long each, up to `chunk_bytes`.
    pub chunk_bytes_min: usize,
    /// Bytes of a part of a chunk, which one thread copies at once.
    pub part_bytes: usize,
    /// Threads that keep the device busy; more gain nothing.
    pub threads_max: usize,
}

impl Staging {
    /// Of copies by processors alone.
    pub(crate) const HOST: Self = Self {
        pageable_bytes_max: None,
        chunk_bytes: 2 << 20,
        chunk_bytes_min: 1 << 20,
        part_bytes: 512 << 10,
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

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
    /// Bytes of a chunk of small copies, which are to have several all the same.
    pub chunk_bytes_min: usize,
    /// Bytes of a part of a chunk, which one thread copies at once.
    pub part_bytes: usize,
    /// Threads that keep the device busy; more gain nothing.
    pub threads_max: usize,
}

/// A copy has so many chunks at least, as far as they are not too small.
const CHUNKS_MIN: usize = 8;

impl Staging {
    /// Bytes of a chunk of a copy of so many bytes.
    #[must_use]
    pub fn chunk_for(&self, bytes: usize) -> usize {
        let share = bytes.div_ceil(CHUNKS_MIN).next_power_of_two();
        share.clamp(self.chunk_bytes_min.min(self.chunk_bytes), self.chunk_bytes)
    }

    /// Of copies by processors alone.
    pub(crate) const HOST: Self = Self {
        pageable_bytes_max: None,
        chunk_bytes: 2 << 20,
        chunk_bytes_min: 256 << 10,
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

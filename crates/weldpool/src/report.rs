//! Reports that walk the live buffers; kept apart from the counters, which do not.

use std::fmt;

use crate::name::Name;

/// Lines that [`LeakReport`]'s text has at most; the rest is summed up in one.
const LINES_MAX: usize = 20;

/// Buffers of one name that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakedBuffer {
    /// Their name.
    pub name: Name,
    /// How many there are.
    pub count: usize,
    /// Bytes requested for them.
    pub bytes: usize,
}

/// Buffers that were alive when an allocator's last handle was dropped, or when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LeakReport {
    /// Name of the allocator.
    pub allocator: String,
    /// By name, largest bytes first.
    pub buffers: Vec<LeakedBuffer>,
}

impl LeakReport {
    pub(crate) fn new(allocator: &str) -> Self {
        Self {
            allocator: allocator.to_owned(),
            buffers: Vec::new(),
        }
    }

    /// Adds a live buffer.
    pub(crate) fn add(&mut self, name: Name, bytes: usize) {
        let known = self.buffers.binary_search_by_key(&name, |one| one.name);
        match known {
            Ok(index) => {
                self.buffers[index].count += 1;
                self.buffers[index].bytes += bytes;
            }
            Err(index) => self.buffers.insert(
                index,
                LeakedBuffer {
                    name,
                    count: 1,
                    bytes,
                },
            ),
        }
    }

    /// Sorted by bytes, largest first.
    pub(crate) fn sorted(mut self) -> Self {
        self.buffers.sort_by_key(|one| std::cmp::Reverse(one.bytes));
        self
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|one| one.bytes).sum()
    }

    /// Number of all of them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.buffers.iter().map(|one| one.count).sum()
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} buffers of {} bytes are alive",
            self.allocator,
            self.count(),
            self.bytes()
        )?;
        for one in self.buffers.iter().take(LINES_MAX) {
            write!(
                f,
                "\n  {:?}: {} of {} bytes",
                one.name, one.count, one.bytes
            )?;
        }
        if let Some(rest) = self
            .buffers
            .get(LINES_MAX..)
            .filter(|rest| !rest.is_empty())
        {
            let bytes: usize = rest.iter().map(|one| one.bytes).sum();
            write!(f, "\n  and {} more names of {bytes} bytes", rest.len())?;
        }
        Ok(())
    }
}

//! A table whose entries are made in groups when first needed.

#![forbid(unsafe_code)]

use crate::sync::OnceLock;

/// Entries per group.
const GROUP: usize = 64;

/// Up to a fixed number of entries, most of which are never used. Reading an entry takes two loads.
#[derive(Debug)]
pub(crate) struct Grouped<T> {
    groups: Box<[OnceLock<Box<[T]>>]>,
}

impl<T: Default> Grouped<T> {
    pub(crate) fn new(entries: usize) -> Self {
        let groups = (0..entries.div_ceil(GROUP)).map(|_| OnceLock::new());
        Self {
            groups: groups.collect(),
        }
    }

    /// The entry, if its group exists; none beyond the table's end.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.groups.get(index / GROUP)?.get()?.get(index % GROUP)
    }

    /// The entry, with its group made if need be; none beyond the table's end.
    pub(crate) fn make(&self, index: usize) -> Option<&T> {
        let group = self.groups.get(index / GROUP)?;
        let group = group.get_or_init(|| (0..GROUP).map(|_| T::default()).collect());
        group.get(index % GROUP)
    }

    /// All entries that exist, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.groups.iter().enumerate().flat_map(|(group, entries)| {
            let entries = entries.get().into_iter().flatten().enumerate();
            entries.map(move |(index, entry)| (group * GROUP + index, entry))
        })
    }
}

//! How many mappings (mmap(2)) this crate makes, of those that the system allows a process: half of them in all.

#![forbid(unsafe_code)]

use crate::sync::{AtomicUsize, OnceLock, Ordering};

/// Of the system's limit, what memory takes, and what tables of threads take, in eighths.
#[cfg(any(target_os = "linux", test))]
const MEMORY_EIGHTHS: usize = 3;
const TABLES_EIGHTHS: usize = 1;

/// Mappings a process may have (vm.max_map_count, proc_sys_vm(5)), where there is a limit.
fn system_max() -> Option<usize> {
    static MOST: OnceLock<Option<usize>> = OnceLock::new();
    *MOST.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
        text.trim().parse().ok()
    })
}

/// Mappings of memory that can be divided, of all arenas of the process.
static MEMORY: Count = Count::new();

/// Some of them; they are counted until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Mapped(usize);

impl Mapped {
    pub(crate) fn new(count: usize) -> Self {
        let mut mapped = Self::default();
        mapped.set(count);
        mapped
    }

    /// Counts so many from now on.
    pub(crate) fn set(&mut self, count: usize) {
        MEMORY.0.fetch_add(count, Ordering::Relaxed);
        MEMORY.0.fetch_sub(self.0, Ordering::Relaxed);
        self.0 = count;
    }

    /// Takes over what another counts.
    pub(crate) fn add(&mut self, other: &mut Self) {
        self.0 += std::mem::take(&mut other.0);
    }

    /// All there are in the process.
    pub(crate) fn in_process() -> usize {
        MEMORY.0.load(Ordering::Relaxed)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Most mappings of memory; only on Linux is any mapped in parts.
#[cfg(any(target_os = "linux", test))]
pub(super) fn memory_max() -> Option<usize> {
    system_max().map(|most| most / 8 * MEMORY_EIGHTHS)
}

/// Most mappings of tables, each of which is one.
pub(super) fn tables_max() -> usize {
    system_max().map_or(usize::MAX, |most| most / 8 * TABLES_EIGHTHS)
}

/// Mappings there are of one kind.
#[derive(Debug)]
pub(super) struct Count(AtomicUsize);

impl Count {
    pub(super) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Counts one more, unless there are so many.
    pub(super) fn add(&self, most: usize) -> bool {
        let more = |count: usize| (count < most).then_some(count + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(super) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

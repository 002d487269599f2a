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
#[derive(Debug)]
pub(crate) struct Mapped {
    count: usize,
    /// What it is a part of.
    all: &'static Count,
}

impl Mapped {
    pub(crate) fn new(count: usize) -> Self {
        Self::among(&MEMORY, count)
    }

    fn among(all: &'static Count, count: usize) -> Self {
        all.change(0, count);
        Self { count, all }
    }

    /// Counts so many from now on.
    pub(crate) fn set(&mut self, count: usize) {
        self.all
            .change(std::mem::replace(&mut self.count, count), count);
    }

    /// Takes over what another counts.
    pub(crate) fn add(&mut self, other: &mut Self) {
        self.count += std::mem::take(&mut other.count);
    }

    /// How many these are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// All there are in the process.
    pub(crate) fn in_process() -> usize {
        MEMORY.0.load(Ordering::Relaxed)
    }
}

impl Default for Mapped {
    fn default() -> Self {
        Self::new(0)
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

    /// Counts `after` of one owner where it had `before`. No one sees a sum of both.
    fn change(&self, before: usize, after: usize) {
        if after > before {
            self.0.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.0.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicBool;

    /// Whoever looks in between must not take a process for full that is not.
    #[test]
    fn nobody_sees_the_old_and_the_new_count_together() {
        const LOOKS: usize = 500_000;
        let (count, over) = (Count::new(), AtomicBool::new(false));
        count.change(0, 1000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    count.change(1000, 1001);
                    count.change(1001, 1000);
                }
            });
            let (mut looks, mut changed, mut wrong) = (0, false, None);
            // Until it was seen to change.
            while wrong.is_none() && (looks < LOOKS || !changed) {
                let seen = count.0.load(Ordering::Relaxed);
                wrong = (!(1000..=1001).contains(&seen)).then_some(seen);
                changed |= seen == 1001;
                looks += 1;
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }

    #[test]
    fn what_is_taken_over_is_counted_once() {
        static ALL: Count = Count::new();
        let all = || ALL.0.load(Ordering::Relaxed);
        let (mut one, mut other) = (Mapped::among(&ALL, 3), Mapped::among(&ALL, 4));
        one.add(&mut other);
        assert_eq!((one.count(), other.count(), all()), (7, 0, 7));
        drop(other);
        one.set(5);
        assert_eq!((one.count(), all()), (5, 5));
        drop(one);
        assert_eq!(all(), 0);
    }
}

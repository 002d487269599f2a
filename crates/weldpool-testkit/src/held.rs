//! What a device has given out: bytes, and the addresses behind which there is memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The account of a device's memory, kept outside the allocator.
#[derive(Debug, Default)]
pub struct Held(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    bytes: u64,
    /// Start and end of stretches with memory behind them, by start; neighbours are not joined.
    mapped: BTreeMap<u64, u64>,
}

impl Held {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn obtained(&self, bytes: usize) {
        self.account().bytes += bytes as u64;
    }

    pub(crate) fn returned(&self, bytes: usize) {
        let mut account = self.account();
        account.bytes = account.bytes.saturating_sub(bytes as u64);
    }

    pub(crate) fn mapped(&self, start: u64, bytes: usize) {
        self.account().mapped.insert(start, start + bytes as u64);
    }

    pub(crate) fn unmapped(&self, start: u64, bytes: usize) {
        let end = start + bytes as u64;
        let mut account = self.account();
        account.split(start);
        account.split(end);
        let inside: Vec<u64> = account.mapped.range(start..end).map(|one| *one.0).collect();
        for start in inside {
            account.mapped.remove(&start);
        }
    }

    /// Bytes of memory given out.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.account().bytes
    }

    /// Whether there is memory behind every address from `start` on.
    #[must_use]
    pub fn contains(&self, start: u64, bytes: usize) -> bool {
        let end = start + bytes as u64;
        let account = self.account();
        let mut reached = start;
        while reached < end {
            match account.mapped.range(..=reached).next_back() {
                Some((_, &stretch_end)) if stretch_end > reached => reached = stretch_end,
                _ => return false,
            }
        }
        true
    }
}

impl Account {
    fn split(&mut self, position: u64) {
        if let Some((_, end)) = self.mapped.range_mut(..position).next_back()
            && *end > position
        {
            let tail = std::mem::replace(end, position);
            self.mapped.insert(position, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_to_the_byte() {
        let held = Held::default();
        held.mapped(100, 50);
        held.mapped(150, 50);
        assert!(held.contains(100, 100) && !held.contains(99, 2) && !held.contains(199, 2));
        held.unmapped(140, 20);
        assert!(held.contains(100, 40) && held.contains(160, 40));
        assert!(!held.contains(139, 2) && !held.contains(159, 1));
    }
}

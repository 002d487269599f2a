//! A lock for data that one thread uses nearly always.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::{AtomicBool, Ordering, raise, spin_while};

/// A lock that costs its usual owner one exchange on a line of its own to take and a plain store to
/// give back. Others wait by spinning, so critical sections are a few dozen instructions and never call
/// anything that could block.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct PrivateLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, and there is one guard at a time.
unsafe impl<T: Send> Sync for PrivateLock<T> {}

impl<T> PrivateLock<T> {
    #[inline]
    pub(crate) fn lock(&self) -> PrivateGuard<'_, T> {
        while raise(&self.held) {
            spin_while(&self.held);
        }
        PrivateGuard { lock: self }
    }
}

impl<T> fmt::Debug for PrivateLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateLock(..)")
    }
}

/// Access to the value until dropped.
pub(crate) struct PrivateGuard<'a, T> {
    lock: &'a PrivateLock<T>,
}

impl<T> Deref for PrivateGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for PrivateGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists, so this thread holds the lock, and `self` is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for PrivateGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_holds_it() {
        let lock = PrivateLock::<(u64, u64)>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut pair = lock.lock();
                        pair.0 += 1;
                        assert_eq!(pair.0, pair.1 + 1);
                        pair.1 += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), (40_000, 40_000));
    }
}

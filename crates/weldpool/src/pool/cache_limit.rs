//! How much idle memory is kept: what was configured, and what pressure makes of it.

#![forbid(unsafe_code)]

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Nothing is held down.
const UNHELD: u64 = u64::MAX;

/// The limit on idle bytes.
#[derive(Debug)]
pub(crate) struct CacheLimit {
    configured: AtomicU64,
    /// Whether somebody chose it; else a strategy may keep more.
    chosen: AtomicBool,
    /// What a strategy keeps.
    kept: AtomicU64,
    /// Half of it holds for as long as pressure lasts.
    halved: AtomicBool,
    /// What was idle when growth of caches was refused.
    frozen_at: AtomicU64,
}

impl CacheLimit {
    pub(crate) fn new(bytes: u64, chosen: bool) -> Self {
        Self {
            configured: AtomicU64::new(bytes),
            chosen: AtomicBool::new(chosen),
            kept: AtomicU64::new(0),
            halved: AtomicBool::new(false),
            frozen_at: AtomicU64::new(UNHELD),
        }
    }

    /// Sets what is configured; returns what it was.
    pub(crate) fn set(&self, bytes: u64) -> u64 {
        self.chosen.store(true, Ordering::Relaxed);
        self.configured.swap(bytes, Ordering::Relaxed)
    }

    /// Keeps so many bytes, if nobody chose a limit; true if that changes it.
    pub(crate) fn keep(&self, bytes: u64) -> bool {
        let before = self.bytes();
        self.kept.store(bytes, Ordering::Relaxed);
        self.bytes() != before
    }

    /// Holds the limit down, or lifts what was held before. Caches that may not grow keep at most the
    /// `idle` bytes they have now, or had when that began.
    pub(crate) fn hold(&self, halved: bool, frozen: bool, idle: u64) {
        self.halved.store(halved, Ordering::Relaxed);
        if frozen {
            self.frozen_at.fetch_min(idle, Ordering::Relaxed);
        } else {
            self.frozen_at.store(UNHELD, Ordering::Relaxed);
        }
    }

    /// Whether somebody set the limit, or pressure holds it down.
    pub(crate) fn is_meant(&self) -> bool {
        self.chosen.load(Ordering::Relaxed)
            || self.halved.load(Ordering::Relaxed)
            || self.frozen_at.load(Ordering::Relaxed) != UNHELD
    }

    /// Idle bytes that may be kept now.
    pub(crate) fn bytes(&self) -> u64 {
        let mut configured = self.configured.load(Ordering::Relaxed);
        if !self.chosen.load(Ordering::Relaxed) {
            configured = configured.max(self.kept.load(Ordering::Relaxed));
        }
        let halves = u32::from(self.halved.load(Ordering::Relaxed));
        (configured >> halves).min(self.frozen_at.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_holds_the_limit_down_and_lets_it_go() {
        let limit = CacheLimit::new(1000, false);
        assert_eq!(limit.bytes(), 1000);
        assert!(!limit.is_meant());
        assert!(limit.keep(1500) && !limit.keep(1500));
        assert_eq!(limit.bytes(), 1500, "nobody chose the limit");
        assert!(limit.keep(500));
        limit.hold(true, false, 900);
        assert_eq!(limit.bytes(), 500);
        assert!(limit.is_meant());
        limit.hold(true, true, 300);
        assert_eq!(limit.bytes(), 300);
        limit.hold(false, true, 400);
        assert!(limit.is_meant());
        assert_eq!(
            limit.bytes(),
            300,
            "it does not rise while growth is refused"
        );
        limit.hold(false, false, 0);
        assert!(!limit.is_meant(), "nobody chose it");
        limit.hold(false, true, 300);
        assert_eq!(limit.set(200), 1000);
        assert!(!limit.keep(1500));
        assert_eq!(limit.bytes(), 200);
        limit.hold(false, false, 0);
        assert!(limit.is_meant());
        assert_eq!((limit.bytes(), limit.set(5)), (200, 200));
    }
}

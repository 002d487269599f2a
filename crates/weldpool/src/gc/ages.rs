//! How long memory has been idle, without a time stamp on any block.
//!
//! Each collection notes how much is idle and which lists were used. What was idle at every look of a
//! stretch of time, while nothing had to be asked of the driver, was not needed in that time; a list
//! that served nothing between two looks was not used between them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Looks that are kept; older ones are joined in pairs beyond.
const LOOKS_MAX: usize = 128;

/// What was seen at past looks.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    looks: VecDeque<Look>,
    /// Times the driver was asked for memory, by the last look.
    growths: u64,
    lists: Vec<ListUse>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// The least that was idle from here to the next look, as far as looks tell.
    idle: u64,
}

#[derive(Debug, Clone, Copy)]
struct ListUse {
    allocations: u64,
    /// The last look before which the list was used.
    used: Instant,
}

impl Ages {
    /// Takes a look: idle bytes, growths so far, and allocations per list so far.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        idle: u64,
        growths: u64,
        allocations: impl Iterator<Item = u64>,
    ) {
        if growths != self.growths {
            // What was idle did not serve, so all of it may be needed.
            self.looks.clear();
            self.growths = growths;
        }
        self.looks.push_back(Look { at: now, idle });
        if self.looks.len() > LOOKS_MAX {
            self.join_pairs();
        }
        for (index, allocations) in allocations.enumerate() {
            let seen = ListUse {
                allocations,
                used: now,
            };
            match self.lists.get_mut(index) {
                Some(list) if list.allocations == allocations => {}
                Some(list) => *list = seen,
                None => self.lists.push(seen),
            }
        }
    }

    fn join_pairs(&mut self) {
        let joined = self.looks.make_contiguous().chunks(2).map(|pair| Look {
            at: pair[0].at,
            idle: pair.iter().map(|look| look.idle).min().unwrap_or(0),
        });
        self.looks = joined.collect();
    }

    /// How long some memory has been idle without a break.
    pub(crate) fn oldest(&self, now: Instant) -> Option<Duration> {
        let idle = self.looks.iter().rev().take_while(|look| look.idle > 0);
        let first = idle.last()?;
        Some(now.saturating_duration_since(first.at))
    }

    /// Bytes that were idle all through the last `age`.
    pub(crate) fn surplus(&self, now: Instant, age: Duration) -> u64 {
        let old = |look: &&Look| now.saturating_duration_since(look.at) >= age;
        let before = self.looks.iter().take_while(old).count();
        if before == 0 {
            return 0;
        }
        let since = self.looks.iter().skip(before - 1);
        since.map(|look| look.idle).min().unwrap_or(0)
    }

    /// Whether a list has served nothing for `age`.
    pub(crate) fn is_unused(&self, list: usize, now: Instant, age: Duration) -> bool {
        let list = self.lists.get(list);
        list.is_some_and(|list| now.saturating_duration_since(list.used) >= age)
    }

    /// Takes note of idle bytes that went back.
    pub(crate) fn returned(&mut self, bytes: u64) {
        for look in &mut self.looks {
            look.idle = look.idle.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn memory_that_nothing_needed_is_surplus() {
        let (start, mut ages) = (Instant::now(), Ages::default());
        for (second, idle) in [(0, 100), (1, 40), (2, 70), (3, 60)] {
            ages.look(start + second * SECOND, idle, 0, std::iter::empty());
        }
        let now = start + 3 * SECOND;
        assert_eq!(ages.oldest(now), Some(3 * SECOND));
        assert_eq!(ages.surplus(now, 3 * SECOND), 40);
        assert_eq!(ages.surplus(now, SECOND), 60);
        assert_eq!(ages.surplus(now, 4 * SECOND), 0, "not known for so long");
        ages.returned(40);
        assert_eq!(ages.surplus(now, 3 * SECOND), 0);
        assert_eq!(ages.oldest(now), Some(SECOND));
    }

    #[test]
    fn growth_begins_anew() {
        let (start, mut ages) = (Instant::now(), Ages::default());
        ages.look(start, 100, 0, std::iter::empty());
        ages.look(start + SECOND, 100, 1, std::iter::empty());
        assert_eq!(ages.oldest(start + SECOND), Some(Duration::ZERO));
        assert_eq!(ages.surplus(start + SECOND, SECOND), 0);
    }

    #[test]
    fn lists_are_unused_since_they_last_served() {
        let (start, mut ages) = (Instant::now(), Ages::default());
        ages.look(start, 0, 0, [5, 5].into_iter());
        ages.look(start + SECOND, 0, 0, [5, 6].into_iter());
        let now = start + SECOND;
        assert!(ages.is_unused(0, now, SECOND));
        assert!(!ages.is_unused(1, now, SECOND));
        assert!(!ages.is_unused(2, now, SECOND), "it is not known");
    }

    #[test]
    fn many_looks_are_joined_and_never_tell_more() {
        let (start, mut ages) = (Instant::now(), Ages::default());
        for number in 0..10 * u32::try_from(LOOKS_MAX).unwrap() {
            let idle = if number == 3 { 7 } else { 1000 };
            ages.look(start + number * SECOND, idle, 0, std::iter::empty());
            assert!(ages.looks.len() <= LOOKS_MAX + 1);
        }
        let now = start + 1280 * SECOND;
        assert_eq!(ages.surplus(now, 1280 * SECOND), 7);
    }
}

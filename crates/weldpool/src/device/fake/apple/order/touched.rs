//! Who touched which memory last.
//!
//! Of each range those are known that later work may run beside: whoever begins behind the last that wrote to it begins
//! behind all before that.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use super::clock::{Chain, Number};

/// That a pass touches memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) chain: Chain,
    pub(super) pass: Number,
    pub(super) writes: bool,
}

/// Ranges that do not overlap, by their first address.
#[derive(Debug, Default)]
pub(super) struct Touched {
    ranges: BTreeMap<u64, Touches>,
    /// Accesses in all of them.
    count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Touches {
    end: u64,
    by: Vec<Access>,
}

impl Touched {
    /// Accesses that are known.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Memory is touched; whether that is beside somebody else, who is then forgotten. `is_before` says of whom it is
    /// behind. O(k log n) for k ranges that it lies over.
    pub(super) fn touch(
        &mut self,
        bytes: Range<u64>,
        access: Access,
        is_before: impl Fn(&Access) -> bool,
    ) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let (mut clash, mut at) = (false, bytes.start);
        let mut touched: Vec<(u64, Touches)> = Vec::new();
        for (start, mut touches) in self.take(&bytes) {
            if at < start {
                let by = Vec::new();
                touched.push((at, Touches { end: start, by }));
            }
            at = touches.end;
            touches.by.retain(|other| {
                let both_read = !(other.writes || access.writes);
                let is_behind = other.pass == access.pass || is_before(other);
                let clashes = !both_read && !is_behind;
                clash |= clashes;
                // Who begins behind this one begins behind what this one does.
                let stands_for = is_behind && (access.writes || !other.writes);
                !(stands_for || clashes && access.writes)
            });
            touched.push((start, touches));
        }
        if at < bytes.end {
            let by = Vec::new();
            touched.push((at, Touches { end: bytes.end, by }));
        }
        for (_, touches) in &mut touched {
            touches.by.push(access);
        }
        // Neighbours that are alike become one.
        let mut merged: Option<(u64, Touches)> = None;
        for (start, touches) in touched {
            match &mut merged {
                Some((_, last)) if last.by == touches.by => last.end = touches.end,
                _ => {
                    if let Some((start, touches)) = merged.replace((start, touches)) {
                        self.put(start, touches);
                    }
                }
            }
        }
        if let Some((start, touches)) = merged {
            self.put(start, touches);
        }
        clash
    }

    /// Whether anybody touches memory there who is not `known`.
    pub(super) fn has(&self, bytes: &Range<u64>, known: impl Fn(&Access) -> bool) -> bool {
        let before = self.ranges.range(..bytes.start).next_back();
        let inside = self.ranges.range(bytes.clone());
        let all = before
            .into_iter()
            .filter(|(_, one)| one.end > bytes.start)
            .chain(inside);
        all.flat_map(|(_, one)| &one.by)
            .any(|access| !known(access))
    }

    fn put(&mut self, start: u64, touches: Touches) {
        if !touches.by.is_empty() {
            self.count += touches.by.len();
            self.ranges.insert(start, touches);
        }
    }

    /// Takes out what lies inside a range, cut at its ends.
    fn take(&mut self, bytes: &Range<u64>) -> Vec<(u64, Touches)> {
        self.cut(bytes.start);
        self.cut(bytes.end);
        let starts: Vec<_> = self
            .ranges
            .range(bytes.clone())
            .map(|(&start, _)| start)
            .collect();
        let mut taken = Vec::with_capacity(starts.len());
        for start in starts {
            if let Some(touches) = self.ranges.remove(&start) {
                self.count -= touches.by.len();
                taken.push((start, touches));
            }
        }
        taken
    }

    fn cut(&mut self, at: u64) {
        let Some((_, touches)) = self.ranges.range_mut(..at).next_back() else {
            return;
        };
        if touches.end > at {
            let rest = touches.clone();
            touches.end = at;
            self.put(at, rest);
        }
    }

    /// The memory is given back.
    pub(super) fn forget(&mut self, bytes: &Range<u64>) {
        drop(self.take(bytes));
    }

    /// Keeps what is to be kept. O(n).
    pub(super) fn retain(&mut self, keeps: impl Fn(&Access) -> bool) {
        let mut count = 0;
        self.ranges.retain(|_, touches| {
            touches.by.retain(&keeps);
            count += touches.by.len();
            !touches.by.is_empty()
        });
        self.count = count;
    }

    /// Forgets the oldest of those that `may` be forgotten, down to `most`. O(n log n).
    pub(super) fn forget_oldest(&mut self, most: usize, may: impl Fn(Number) -> bool) {
        let Some(surplus) = self.count.checked_sub(most).filter(|&more| more > 0) else {
            return;
        };
        let accesses = self.ranges.values().flat_map(|touches| &touches.by);
        let mut oldest: Vec<_> = accesses
            .map(|access| access.pass)
            .filter(|&pass| may(pass))
            .collect();
        oldest.sort_unstable();
        let Some(&last) = oldest.get(surplus.min(oldest.len()).saturating_sub(1)) else {
            return;
        };
        self.retain(|access| access.pass > last || !may(access.pass));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(pass: Number, writes: bool) -> Access {
        Access {
            chain: Chain(pass),
            pass,
            writes,
        }
    }

    /// Touches memory behind the passes up to one.
    fn touch(
        touched: &mut Touched,
        bytes: Range<u64>,
        (pass, writes): (Number, bool),
        behind: Number,
    ) -> bool {
        touched.touch(bytes, access(pass, writes), |other| other.pass <= behind)
    }

    #[test]
    fn who_writes_is_beside_all_and_who_reads_beside_those_who_write() {
        let mut touched = Touched::default();
        assert!(!touch(&mut touched, 10..20, (1, false), 0));
        assert!(!touch(&mut touched, 15..25, (2, false), 0), "both read");
        assert!(!touch(&mut touched, 0..10, (3, true), 0), "elsewhere");
        assert!(!touch(&mut touched, 20..20, (4, true), 0), "nothing");
        assert!(touch(&mut touched, 5..6, (5, false), 2), "beside 3");
        assert!(touch(&mut touched, 17..18, (6, true), 1), "beside 2");
        assert!(!touch(&mut touched, 17..18, (7, true), 6), "6 is behind it");
        assert!(touch(&mut touched, 12..13, (8, true), 0), "1 was cut");
    }

    #[test]
    fn a_pass_is_not_beside_itself() {
        let mut touched = Touched::default();
        assert!(!touch(&mut touched, 0..10, (1, true), 0));
        assert!(!touch(&mut touched, 5..15, (1, true), 0));
        assert!(!touch(&mut touched, 0..15, (1, false), 0));
        assert!(touch(&mut touched, 0..15, (2, false), 0));
    }

    #[test]
    fn who_reads_behind_a_write_leaves_it_to_be_found() {
        let mut touched = Touched::default();
        touch(&mut touched, 0..10, (1, true), 0);
        assert!(!touch(&mut touched, 0..10, (2, false), 1));
        assert!(touch(&mut touched, 0..10, (3, false), 0), "beside 1");
        assert!(touch(&mut touched, 0..10, (4, true), 1), "beside 2 and 3");
    }

    #[test]
    fn ranges_that_are_alike_are_one_again() {
        let mut touched = Touched::default();
        for number in 0..100 {
            touch(
                &mut touched,
                number * 10..number * 10 + 10,
                (number + 1, true),
                0,
            );
        }
        assert_eq!(touched.len(), 100);
        assert!(!touch(&mut touched, 0..1000, (200, true), 100));
        assert_eq!((touched.len(), touched.ranges.len()), (1, 1));
    }

    #[test]
    fn what_is_given_back_was_touched_by_nobody() {
        let mut touched = Touched::default();
        touch(&mut touched, 0..30, (1, true), 0);
        touched.forget(&(10..20));
        assert_eq!(touched.len(), 2);
        assert!(!touched.has(&(10..20), |_| false));
        assert!(touched.has(&(0..11), |_| false));
        assert!(!touched.has(&(0..11), |access| access.pass == 1));
        assert!(!touch(&mut touched, 10..20, (2, true), 0));
        assert!(touch(&mut touched, 20..21, (3, true), 0));
    }

    #[test]
    fn the_oldest_that_may_go_first() {
        let mut touched = Touched::default();
        for number in 1..=10 {
            touch(
                &mut touched,
                number * 10..number * 10 + 10,
                (number, true),
                0,
            );
        }
        touched.forget_oldest(6, |pass| pass != 2);
        assert_eq!(touched.len(), 6);
        let has = |pass: u64| touched.has(&(pass * 10..pass * 10 + 1), |_| false);
        assert_eq!(
            [1, 2, 3, 4, 5, 6].map(has),
            [false, true, false, false, false, true]
        );
    }
}

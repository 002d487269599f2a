//! Sums over threads of what was counted per list, of the lists that were used: few of the thousands there are.

#![forbid(unsafe_code)]

use super::tally::{Tally, TallySum};

/// Sums of some lists, found by the list's number in O(1).
#[derive(Debug, Default)]
pub(crate) struct ListSums {
    /// For each 64 lists: which have a sum, and how many of those before have one.
    words: Vec<(u64, usize)>,
    sums: Vec<TallySum>,
}

impl ListSums {
    /// Sums of nothing, for the lists of which `used` has words of bits, each from the first list on.
    pub(super) fn of(used: impl Iterator<Item = impl Iterator<Item = u64>>, lists: usize) -> Self {
        let mut words = vec![(0, 0); lists.div_ceil(64)];
        for used in used {
            for ((word, _), used) in words.iter_mut().zip(used) {
                *word |= used;
            }
        }
        let mut count = 0;
        for (word, before) in &mut words {
            *before = count;
            count += word.count_ones() as usize;
        }
        Self {
            words,
            sums: vec![TallySum::default(); count],
        }
    }

    /// Adds a tally of a list of which so many blocks are idle. One that was used only now is left out.
    pub(super) fn add(&mut self, list: usize, tally: &Tally, idle: usize) {
        let Some(&(word, before)) = self.words.get(list / 64) else {
            return;
        };
        let bit = 1 << (list % 64);
        if word & bit != 0 {
            let position = before + (word & (bit - 1)).count_ones() as usize;
            self.sums[position].add(tally, idle);
        }
    }

    /// The sums, with the numbers of their lists, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &TallySum)> {
        let lists = self
            .words
            .iter()
            .enumerate()
            .flat_map(|(number, &(word, _))| {
                let bits = (0..64).filter(move |bit| word >> bit & 1 != 0);
                bits.map(move |bit| number * 64 + bit)
            });
        lists.zip(&self.sums)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sums_are_kept_by_list() {
        let used = [vec![1 << 3 | 1 << 63, 0, 1], vec![1 << 3, 1 << 5]];
        let mut sums = ListSums::of(used.into_iter().map(Vec::into_iter), 130);
        let tally = Tally::default();
        tally.count_allocation(10);
        for list in [3, 63, 69, 128, 3, 64, 1000] {
            sums.add(list, &tally, 0);
        }
        let found: Vec<_> = sums.iter().map(|(list, sum)| (list, sum.live)).collect();
        assert_eq!(found, [(3, 2), (63, 1), (69, 1), (128, 1)]);
        assert_eq!(ListSums::default().iter().count(), 0);
    }
}

//! Sets of passes, of which each is in a chain.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// A pass or a mapping update, by the order of the commits on its device, from 1 on.
pub(in super::super) type Number = u64;

/// A command queue, which no other has the number of.
pub(in super::super) type QueueNumber = u64;

/// Passes of one queue of which each begins behind the one before; never given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain(pub(super) u64);

/// A set of passes that has with each one those before it in its chain: for each chain the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock(BTreeMap<Chain, Number>);

impl Clock {
    pub(super) fn has(&self, chain: Chain, pass: Number) -> bool {
        self.0.get(&chain).is_some_and(|&last| pass <= last)
    }

    pub(super) fn add(&mut self, chain: Chain, pass: Number) {
        let last = self.0.entry(chain).or_default();
        *last = pass.max(*last);
    }

    /// Adds what another has.
    pub(super) fn join(&mut self, other: &Self) {
        for (&chain, &pass) in &other.0 {
            self.add(chain, pass);
        }
    }

    /// Keeps what another has too.
    pub(super) fn meet(&mut self, other: &Self) {
        self.0.retain(|chain, pass| match other.0.get(chain) {
            Some(&last) => {
                *pass = last.min(*pass);
                true
            }
            None => false,
        });
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(Chain, Number) -> bool) {
        self.0.retain(|&chain, &mut pass| keeps(chain, pass));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Chain, Number)> {
        self.0.iter().map(|(&chain, &pass)| (chain, pass))
    }
}

/// The chains of passes whose end nobody has seen.
#[derive(Debug, Default)]
pub(super) struct Chains {
    made: u64,
    of_passes: BTreeMap<Chain, Links>,
    /// Chains of mapping updates, which are no passes.
    of_updates: BTreeSet<Chain>,
}

#[derive(Debug)]
struct Links {
    queue: QueueNumber,
    last: Number,
}

impl Chains {
    fn make(&mut self) -> Chain {
        self.made += 1;
        Chain(self.made)
    }

    pub(super) fn len(&self) -> usize {
        self.of_passes.len()
    }

    /// Puts a pass into a chain of its queue whose last pass it begins behind. O(b log n) for b chains in `before`.
    pub(super) fn extend(&mut self, queue: QueueNumber, pass: Number, before: &Clock) -> Chain {
        for (chain, known) in before.iter() {
            if let Some(links) = self.of_passes.get_mut(&chain)
                && links.queue == queue
                && links.last == known
            {
                links.last = pass;
                return chain;
            }
        }
        let chain = self.make();
        let links = Links { queue, last: pass };
        self.of_passes.insert(chain, links);
        chain
    }

    /// A chain for a queue that maps.
    pub(super) fn make_of_updates(&mut self) -> Chain {
        let chain = self.make();
        self.of_updates.insert(chain);
        chain
    }

    pub(super) fn is_of_updates(&self, chain: Chain) -> bool {
        self.of_updates.contains(&chain)
    }

    /// Whether somebody may ask for passes of it.
    pub(super) fn is_open(&self, chain: Chain) -> bool {
        self.of_passes.contains_key(&chain)
    }

    /// The last pass of an open chain.
    pub(super) fn last(&self, chain: Chain) -> Option<Number> {
        Some(self.of_passes.get(&chain)?.last)
    }

    /// All of a chain has ended.
    pub(super) fn close(&mut self, chain: Chain) {
        self.of_passes.remove(&chain);
    }

    /// All that a queue did has ended. O(n).
    pub(super) fn close_queue(&mut self, queue: QueueNumber) {
        self.of_passes.retain(|_, links| links.queue != queue);
    }

    /// Closes the oldest of those that `may` close, down to `most`. O(n log n).
    pub(super) fn close_oldest(&mut self, most: usize, may: impl Fn(Number) -> bool) {
        let surplus = self.len().saturating_sub(most);
        let ended = self.of_passes.iter().filter(|(_, links)| may(links.last));
        let mut oldest: Vec<_> = ended.map(|(&chain, links)| (links.last, chain)).collect();
        oldest.sort_unstable();
        for (_, chain) in oldest.into_iter().take(surplus) {
            self.close(chain);
        }
    }
}

//! Maps in the order of their keys, as arrays of arrays.
//!
//! The keys lie in chunks of up to [`CHUNK`], whose least keys lie in one more array, so a search is two
//! binary ones over memory that lies together, and an insertion moves some cache lines. For the few hundred or
//! thousand entries that an arena has this executes a third of the instructions of a B-tree of pointers, and
//! neighbours are at hand. O(log n) to search; O(`CHUNK` + n / `CHUNK`) to insert and to remove, the second
//! part only where a chunk comes or goes.

#![forbid(unsafe_code)]

/// Most entries of a chunk.
const CHUNK: usize = if cfg!(test) { 8 } else { 64 };
/// Entries below which a chunk is joined with a neighbour, if both fit into half of one.
const CHUNK_LOW: usize = CHUNK / 4;

/// A map in the order of its keys.
#[derive(Debug)]
pub(crate) struct SortedMap<K, V> {
    /// The least key of each chunk.
    firsts: Vec<K>,
    /// None is empty.
    chunks: Vec<Chunk<K, V>>,
    /// For the next chunk, so that a map which is now and then empty allocates nothing.
    spare: Option<Chunk<K, V>>,
}

/// A set in order.
pub(crate) type SortedSet<K> = SortedMap<K, ()>;

#[derive(Debug)]
struct Chunk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

/// Where an entry is, until the next insertion or removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    chunk: usize,
    index: usize,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self {
            firsts: Vec::new(),
            chunks: Vec::new(),
            spare: None,
        }
    }
}

impl<K, V> Chunk<K, V> {
    fn new() -> Self {
        Self {
            keys: Vec::with_capacity(CHUNK),
            values: Vec::with_capacity(CHUNK),
        }
    }
}

impl<K: Ord + Copy, V> SortedMap<K, V> {
    /// Where the key is.
    #[inline]
    pub(crate) fn find(&self, key: &K) -> Option<Spot> {
        let spot = self.lower_bound(key)?;
        (self.key_at(spot) == *key).then_some(spot)
    }

    /// Where the first entry is whose key is not less.
    #[inline]
    pub(crate) fn lower_bound(&self, key: &K) -> Option<Spot> {
        // Every key of the chunks before is less than the first of this one.
        let chunk = self.chunk_of(key);
        let keys = &self.chunks.get(chunk)?.keys;
        let index = keys.partition_point(|other| other < key);
        self.settled(chunk, index)
    }

    /// Where the last entry is whose key is less.
    #[inline]
    pub(crate) fn last_below(&self, key: &K) -> Option<Spot> {
        let chunk = self.chunk_of(key);
        let keys = &self.chunks.get(chunk)?.keys;
        let index = keys.partition_point(|other| other < key);
        self.before(Spot { chunk, index })
    }

    /// Where the last entry is whose key is not greater.
    #[inline]
    pub(crate) fn last_up_to(&self, key: &K) -> Option<Spot> {
        let chunk = self.chunk_of(key);
        let keys = &self.chunks.get(chunk)?.keys;
        let index = keys.partition_point(|other| other <= key);
        self.before(Spot { chunk, index })
    }

    pub(crate) fn first(&self) -> Option<Spot> {
        self.settled(0, 0)
    }

    pub(crate) fn last(&self) -> Option<Spot> {
        let chunk = self.chunks.len().checked_sub(1)?;
        let index = self.chunks[chunk].keys.len() - 1;
        Some(Spot { chunk, index })
    }

    pub(crate) fn first_key(&self) -> Option<K> {
        self.firsts.first().copied()
    }

    pub(crate) fn last_key(&self) -> Option<K> {
        self.last().map(|spot| self.key_at(spot))
    }

    /// The entry before.
    #[inline]
    pub(crate) fn before(&self, spot: Spot) -> Option<Spot> {
        if let Some(index) = spot.index.checked_sub(1) {
            return Some(Spot { index, ..spot });
        }
        let chunk = spot.chunk.checked_sub(1)?;
        let index = self.chunks[chunk].keys.len() - 1;
        Some(Spot { chunk, index })
    }

    /// The entry behind.
    #[inline]
    pub(crate) fn after(&self, spot: Spot) -> Option<Spot> {
        self.settled(spot.chunk, spot.index + 1)
    }

    #[inline]
    pub(crate) fn key_at(&self, spot: Spot) -> K {
        self.chunks[spot.chunk].keys[spot.index]
    }

    #[inline]
    pub(crate) fn value_at(&self, spot: Spot) -> &V {
        &self.chunks[spot.chunk].values[spot.index]
    }

    #[inline]
    pub(crate) fn value_at_mut(&mut self, spot: Spot) -> &mut V {
        &mut self.chunks[spot.chunk].values[spot.index]
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.find(key).is_some()
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|spot| self.value_at(spot))
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).map(|spot| self.value_at_mut(spot))
    }

    /// The entries from `spot` on, upwards.
    pub(crate) fn iter_from(&self, spot: Option<Spot>) -> impl Iterator<Item = (K, &V)> {
        let entry = |spot: Spot| (self.key_at(spot), self.value_at(spot));
        std::iter::successors(spot, |&spot| self.after(spot)).map(entry)
    }

    /// The entries upwards.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.iter_from(self.first())
    }

    /// The entries downwards.
    pub(crate) fn iter_down(&self) -> impl Iterator<Item = (K, &V)> {
        let entry = |spot: Spot| (self.key_at(spot), self.value_at(spot));
        std::iter::successors(self.last(), |&spot| self.before(spot)).map(entry)
    }

    /// The value of the key, which is made if there is none.
    pub(crate) fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let spot = match self.find(&key) {
            Some(spot) => spot,
            None => self.insert_new(key, value()),
        };
        self.value_at_mut(spot)
    }

    /// Adds an entry; returns the value that the key had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(spot) = self.find(&key) {
            return Some(std::mem::replace(self.value_at_mut(spot), value));
        }
        self.insert_new(key, value);
        None
    }

    /// Adds an entry whose key is not there yet.
    pub(crate) fn insert_new(&mut self, key: K, value: V) -> Spot {
        let mut chunk = self.chunk_of(&key);
        if self.chunks.is_empty() {
            let only = self.spare.take().unwrap_or_else(Chunk::new);
            self.chunks.push(only);
            self.firsts.push(key);
        }
        let last = chunk + 1 == self.chunks.len();
        let mut here = &mut self.chunks[chunk];
        let mut index = here.keys.partition_point(|other| *other < key);
        debug_assert!(here.keys.get(index) != Some(&key));
        if here.keys.len() == CHUNK {
            // What only grows upwards leaves full chunks behind.
            let at = if index == CHUNK && last {
                CHUNK - 1
            } else {
                CHUNK / 2
            };
            let mut right = self.spare.take().unwrap_or_else(Chunk::new);
            right.keys.extend(here.keys.drain(at..));
            right.values.extend(here.values.drain(at..));
            self.firsts.insert(chunk + 1, right.keys[0]);
            self.chunks.insert(chunk + 1, right);
            if index > at {
                chunk += 1;
                index -= at;
            }
            here = &mut self.chunks[chunk];
        }
        here.keys.insert(index, key);
        here.values.insert(index, value);
        if index == 0 {
            self.firsts[chunk] = key;
        }
        Spot { chunk, index }
    }

    /// Removes an entry; returns its value.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).map(|spot| self.remove_at(spot))
    }

    /// Removes the entry there; returns its value.
    pub(crate) fn remove_at(&mut self, spot: Spot) -> V {
        let Spot { chunk, index } = spot;
        let here = &mut self.chunks[chunk];
        here.keys.remove(index);
        let value = here.values.remove(index);
        if here.keys.is_empty() {
            self.firsts.remove(chunk);
            self.spare = Some(self.chunks.remove(chunk));
            return value;
        }
        if index == 0 {
            self.firsts[chunk] = here.keys[0];
        }
        if here.keys.len() < CHUNK_LOW {
            self.join_around(chunk);
        }
        value
    }

    /// Joins a chunk with a neighbour, if the two fill no more than half of one.
    fn join_around(&mut self, chunk: usize) {
        let pairs = [chunk.checked_sub(1), Some(chunk)];
        for left in pairs.into_iter().flatten() {
            let Some([one, other]) = self.chunks.get_mut(left..left + 2) else {
                continue;
            };
            if one.keys.len() + other.keys.len() <= CHUNK / 2 {
                one.keys.append(&mut other.keys);
                one.values.append(&mut other.values);
                self.firsts.remove(left + 1);
                self.spare = Some(self.chunks.remove(left + 1));
                return;
            }
        }
    }

    /// The chunk where the key is or would be.
    #[inline]
    fn chunk_of(&self, key: &K) -> usize {
        let behind = self.firsts.partition_point(|first| first <= key);
        behind.saturating_sub(1)
    }

    /// The spot, or the first one of the next chunk where it is behind a chunk's last.
    #[inline]
    fn settled(&self, chunk: usize, index: usize) -> Option<Spot> {
        let length = self.chunks.get(chunk)?.keys.len();
        if index < length {
            return Some(Spot { chunk, index });
        }
        (chunk + 1 < self.chunks.len()).then_some(Spot {
            chunk: chunk + 1,
            index: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(map: &SortedMap<u32, u64>, model: &BTreeMap<u32, u64>) {
        let entries: Vec<_> = map.iter().map(|(key, value)| (key, *value)).collect();
        let expected: Vec<_> = model.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(entries, expected);
        let mut down: Vec<_> = map.iter_down().map(|(key, value)| (key, *value)).collect();
        down.reverse();
        assert_eq!(down, expected);
        for (chunk, first) in map.chunks.iter().zip(&map.firsts) {
            assert_eq!(chunk.keys.first(), Some(first));
            assert!(chunk.keys.len() <= CHUNK && chunk.keys.len() == chunk.values.len());
        }
        assert_eq!(map.chunks.len(), map.firsts.len());
    }

    /// The same as a map that we did not write, for few keys and for many, growing and shrinking.
    #[test]
    fn it_is_a_btree_map() {
        let mut seed = 7_u64;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u32 % below
        };
        for keys in [3, 90, 1000, 100_000] {
            let mut map = SortedMap::default();
            let mut model = BTreeMap::new();
            for step in 0..20_000_u64 {
                let key = random(keys);
                let grows = (step / 5000).is_multiple_of(2);
                if random(3) < if grows { 2 } else { 1 } {
                    assert_eq!(map.insert(key, step), model.insert(key, step));
                } else {
                    assert_eq!(map.remove(&key), model.remove(&key));
                }
                let probe = random(keys);
                let key_of = |spot: Option<Spot>| spot.map(|spot| map.key_at(spot));
                assert_eq!(map.get(&probe), model.get(&probe));
                let above = model.range(probe..).next().map(|(key, _)| *key);
                assert_eq!(key_of(map.lower_bound(&probe)), above);
                let below = model.range(..probe).next_back().map(|(key, _)| *key);
                assert_eq!(key_of(map.last_below(&probe)), below);
                let up_to = model.range(..=probe).next_back().map(|(key, _)| *key);
                assert_eq!(key_of(map.last_up_to(&probe)), up_to);
                if step.is_multiple_of(997) {
                    check(&map, &model);
                }
            }
            check(&map, &model);
            for key in model.keys() {
                map.remove(key);
            }
            assert!(map.chunks.is_empty() && map.first().is_none() && map.last().is_none());
        }
    }

    #[test]
    fn chunks_that_empty_are_joined() {
        let mut map = SortedMap::default();
        for key in 0..10_000 {
            map.insert(key, ());
        }
        assert!(
            map.chunks.len() <= 10_000 / (CHUNK - 1) + 1,
            "ascending keys fill chunks"
        );
        for key in (0..10_000).filter(|key| key % 100 != 0) {
            map.remove(&key);
        }
        assert!(
            map.chunks.len() <= 2 * 100 / CHUNK_LOW,
            "{}",
            map.chunks.len()
        );
        assert_eq!(map.iter().count(), 100);
    }
}

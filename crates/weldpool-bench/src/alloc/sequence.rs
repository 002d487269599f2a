//! Frozen sequences of allocations and frees.

use crate::random::Random;

/// Probability of an allocation, in percent.
const ALLOCATION_PERCENT: usize = 73;
/// Most bytes live at once in RMM's generator, on a machine that has them.
const LIVE_BYTES_MAX: u64 = 16_000 << 20;

/// One step of a sequence. A slot holds one block at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Allocate { slot: usize, bytes: usize },
    Free { slot: usize },
}

/// Steps that start and end with nothing allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) steps: Vec<Step>,
    pub(super) slots: usize,
}

/// The bytes that RMM's generator may have live on a machine with `memory_bytes`: halved until they are at most
/// half of the memory, so that machines of a kind run the same sequence.
pub(super) fn live_bytes_max(memory_bytes: u64) -> u64 {
    let mut limit = LIVE_BYTES_MAX;
    while memory_bytes > 0 && limit > memory_bytes / 2 {
        limit /= 2;
    }
    limit
}

impl Sequence {
    /// RMM's benchmark of random allocations: `allocations` blocks of uniformly 1 to `bytes_max` bytes, each step
    /// an allocation with a probability of 73 % while the live bytes stay below `live_bytes_max`, and else the
    /// free of a random block.
    pub(super) fn random(allocations: usize, bytes_max: u64, live_bytes_max: u64) -> Self {
        let mut random = Random::new(allocations as u64 ^ bytes_max);
        let mut building = Building::default();
        let (mut made, mut live_bytes) = (0, 0);
        for _ in 0..allocations * 2 {
            let bytes = random.below(bytes_max as usize) + 1;
            let allocate = building.live.is_empty()
                || (random.below(100) < ALLOCATION_PERCENT
                    && made < allocations
                    && live_bytes + (bytes as u64) < live_bytes_max);
            if allocate {
                building.allocate(bytes);
                made += 1;
                live_bytes += bytes as u64;
            } else {
                let index = random.below(building.live.len());
                live_bytes -= building.free(index) as u64;
            }
        }
        building.finish()
    }

    /// How many steps lead to where most blocks are live.
    pub(super) fn fullest(&self) -> usize {
        let (mut live, mut most, mut at) = (0_usize, 0, 0);
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Allocate { .. } => live += 1,
                Step::Free { .. } => live -= 1,
            }
            if live > most {
                (most, at) = (live, index + 1);
            }
        }
        at
    }

    /// The workload of VMA's benchmark of virtual blocks: 7,200 blocks of at most 2,056 bytes, 14,400 steps that
    /// free a random one or allocate one again, and the free of all.
    pub(super) fn virtual_block() -> Self {
        const BLOCKS: usize = 7_200;
        const BYTES_MAX: usize = 2_056;
        let mut random = Random::new(20_092_010);
        let mut building = Building::default();
        for _ in 0..BLOCKS {
            building.allocate(random.below(BYTES_MAX) + 1);
        }
        let mut freed = Vec::new();
        for _ in 0..BLOCKS * 2 {
            let free = freed.is_empty() || (random.below(2) == 0 && !building.live.is_empty());
            if free {
                let index = random.below(building.live.len());
                freed.push(building.free(index));
            } else {
                let index = random.below(freed.len());
                building.allocate(freed.swap_remove(index));
            }
        }
        building.finish()
    }
}

/// A sequence in the making.
#[derive(Debug, Default)]
struct Building {
    steps: Vec<Step>,
    /// Slot and size of each live block.
    live: Vec<(usize, usize)>,
    free_slots: Vec<usize>,
    slots: usize,
}

impl Building {
    fn allocate(&mut self, bytes: usize) {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        self.live.push((slot, bytes));
        self.steps.push(Step::Allocate { slot, bytes });
    }

    /// Frees the live block `index` and returns its size.
    fn free(&mut self, index: usize) -> usize {
        let (slot, bytes) = self.live.swap_remove(index);
        self.free_slots.push(slot);
        self.steps.push(Step::Free { slot });
        bytes
    }

    fn finish(mut self) -> Sequence {
        while !self.live.is_empty() {
            self.free(self.live.len() - 1);
        }
        Sequence {
            steps: self.steps,
            slots: self.slots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fowler, Noll and Vo's hash of all steps.
    fn hash(sequence: &Sequence) -> u64 {
        let numbers = sequence.steps.iter().flat_map(|step| match *step {
            Step::Allocate { slot, bytes } => [1, slot as u64, bytes as u64],
            Step::Free { slot } => [2, slot as u64, 0],
        });
        numbers
            .flat_map(u64::to_le_bytes)
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    /// Replays the steps; returns most bytes live at once.
    fn replay(sequence: &Sequence) -> u64 {
        let mut slots = vec![None; sequence.slots];
        let (mut live, mut peak) = (0, 0);
        for step in &sequence.steps {
            match *step {
                Step::Allocate { slot, bytes } => {
                    assert_eq!(slots[slot].replace(bytes), None, "slot {slot} is taken");
                    live += bytes as u64;
                }
                Step::Free { slot } => live -= slots[slot].take().unwrap() as u64,
            }
            peak = peak.max(live);
        }
        assert_eq!(live, 0);
        peak
    }

    #[test]
    fn sequences_never_change() {
        let random = Sequence::random(1_000, 4 << 20, 16_000 << 20);
        assert_eq!(hash(&random), 0x3a9f_3f9f_6a7c_b198);
        let block = Sequence::virtual_block();
        assert_eq!(hash(&block), 0x521c_9550_7c90_df76);
    }

    #[test]
    fn the_fullest_place_is_found() {
        let block = Sequence::virtual_block();
        let at = block.fullest();
        assert!(at >= 7_200);
        assert!(matches!(block.steps[at - 1], Step::Allocate { .. }));
        let live = |steps: &[Step]| {
            let made = steps
                .iter()
                .filter(|step| matches!(step, Step::Allocate { .. }));
            2 * made.count() - steps.len()
        };
        let most = (0..=block.steps.len())
            .map(|end| live(&block.steps[..end]))
            .max();
        assert_eq!(Some(live(&block.steps[..at])), most);
    }

    #[test]
    fn every_block_is_freed_and_the_limit_holds() {
        let random = Sequence::random(10_000, 4 << 20, 1_000 << 20);
        assert_eq!(random.steps.len(), 20_000);
        assert!((900 << 20..1_000 << 20).contains(&replay(&random)));
        let block = Sequence::virtual_block();
        assert!(replay(&block) > 7_000 * 900);
        assert!(block.steps.len() >= 7_200 * 3);
    }

    #[test]
    fn most_steps_allocate_until_all_are_made() {
        let sequence = Sequence::random(1_000, 1 << 20, 16_000 << 20);
        let first = &sequence.steps[..1_000];
        let made = first
            .iter()
            .filter(|step| matches!(step, Step::Allocate { .. }));
        assert!((690..770).contains(&made.count()));
    }

    #[test]
    fn the_limit_fits_the_memory() {
        assert_eq!(live_bytes_max(64 << 30), 16_000 << 20);
        assert_eq!(live_bytes_max(24 << 30), 8_000 << 20);
        assert_eq!(live_bytes_max(0), 16_000 << 20);
    }
}

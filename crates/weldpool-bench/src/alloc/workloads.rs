//! The loops that are timed.
//!
//! Each routine makes the iterations it is told, keeps what is live from one call to the next where the
//! workload says so, and returns `None` once an allocation failed.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::cases::{BATCH, MIX, QUEUE_BYTES, QUEUE_LIVE};
use super::heap::{Heap, SharedHeap};
use super::mappings;
use super::meter::{self, Effort, Sample};
use super::sequence::{Sequence, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;

/// Blocks that may be on their way from producer to consumer.
const CHANNEL_BLOCKS: usize = 64;

/// What is done with a block between its allocation and its free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Nothing,
    WriteAll,
}

/// Allocates blocks of all `sizes` and checks that they are distinct, and writable where there is memory: a
/// contender that hands out one address twice would be fast and measure nothing.
///
/// # Errors
/// `Environment` when an allocation fails or the blocks are not as they should be.
pub(crate) fn verify<H: Heap>(heap: &mut H, sizes: &[usize]) -> Result<()> {
    let fail = |message: &str| Err(Error::new(ErrorKind::Environment, message));
    let mut blocks = Vec::new();
    let mut ranges = Vec::new();
    let mut writable = true;
    for (index, bytes) in sizes.iter().enumerate() {
        let Some(mut block) = heap.allocate(*bytes) else {
            return fail("an allocation failed");
        };
        writable &= !heap.has_memory() || heap.touch(&mut block, index as u8);
        ranges.push((heap.start(&block), *bytes));
        blocks.push(block);
    }
    for block in blocks {
        heap.free(block);
    }
    ranges.sort_unstable();
    let distinct = ranges
        .windows(2)
        .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
    match (distinct, writable) {
        (true, true) => Ok(()),
        (false, _) => fail("live blocks overlap"),
        (true, false) => fail("a block cannot be written"),
    }
}

/// Allocate and free, nothing else live.
pub(crate) fn pair<H: Heap>(
    heap: &mut H,
    bytes: usize,
    each: Use,
    effort: Effort,
) -> Result<Sample> {
    let mut value = 0_u8;
    meter::measure(effort, 1, |iterations| {
        let start = Instant::now();
        for _ in 0..iterations {
            let mut block = heap.allocate(black_box(bytes))?;
            if each == Use::WriteAll {
                value = value.wrapping_add(1);
                heap.fill(&mut block, value);
            }
            black_box(&mut block);
            heap.free(block);
        }
        Some(start.elapsed())
    })
}

/// So many pairs, untimed; `None` when an allocation failed.
pub(crate) fn pairs<H: Heap>(heap: &mut H, bytes: usize, pairs: u64) -> Option<()> {
    for _ in 0..pairs {
        let mut block = heap.allocate(black_box(bytes))?;
        black_box(&mut block);
        heap.free(block);
    }
    Some(())
}

/// Allocate 64, then free them in the same order.
pub(crate) fn batch<H: Heap>(
    heap: &mut H,
    bytes: usize,
    each: Use,
    effort: Effort,
) -> Result<Sample> {
    let mut value = 0_u8;
    let mut blocks = Vec::with_capacity(BATCH);
    meter::measure(effort, BATCH, |iterations| {
        let start = Instant::now();
        for _ in 0..iterations {
            for _ in 0..BATCH {
                let mut block = heap.allocate(black_box(bytes))?;
                if each == Use::WriteAll {
                    value = value.wrapping_add(1);
                    heap.fill(&mut block, value);
                }
                blocks.push(block);
            }
            black_box(&mut blocks);
            for block in blocks.drain(..) {
                heap.free(block);
            }
        }
        Some(start.elapsed())
    })
}

/// The steps of a frozen sequence; an iteration is all of them.
pub(super) fn sequence<H: Heap>(
    heap: &mut H,
    sequence: &Sequence,
    effort: Effort,
) -> Result<Sample> {
    let mut slots: Vec<Option<H::Block>> = Vec::new();
    slots.resize_with(sequence.slots, || None);
    let mut sample = meter::measure(effort, sequence.steps.len(), |iterations| {
        let start = Instant::now();
        for _ in 0..iterations {
            steps(heap, &sequence.steps, &mut slots)?;
            black_box(&mut slots);
        }
        Some(start.elapsed())
    })?;
    // Once more, untimed, for the mappings while most blocks are live.
    let (first, rest) = sequence.steps.split_at(sequence.fullest());
    let again = steps(heap, first, &mut slots).and_then(|()| {
        sample.mappings = sample.mappings.max(mappings::now());
        steps(heap, rest, &mut slots)
    });
    again.ok_or_else(|| Error::new(ErrorKind::Environment, "an allocation failed"))?;
    Ok(sample)
}

fn steps<H: Heap>(heap: &mut H, steps: &[Step], slots: &mut [Option<H::Block>]) -> Option<()> {
    for step in steps {
        match *step {
            Step::Allocate { slot, bytes } => slots[slot] = Some(heap.allocate(bytes)?),
            Step::Free { slot } => heap.free(slots[slot].take()?),
        }
    }
    Some(())
}

/// First in, first out: an iteration frees the oldest of the live blocks and allocates another.
pub(crate) fn queue<H: Heap>(heap: &mut H, effort: Effort) -> Result<Sample> {
    let mut live = VecDeque::with_capacity(QUEUE_LIVE);
    let sample = meter::measure(effort, 1, |iterations| {
        while live.len() < QUEUE_LIVE {
            live.push_back(heap.allocate(QUEUE_BYTES)?);
        }
        let start = Instant::now();
        for _ in 0..iterations {
            heap.free(live.pop_front()?);
            live.push_back(heap.allocate(black_box(QUEUE_BYTES))?);
            black_box(&mut live);
        }
        Some(start.elapsed())
    });
    live.into_iter().for_each(|block| heap.free(block));
    sample
}

/// The mix on `threads` threads that live through the whole measurement. The time is from the first start to the
/// last end.
pub(crate) fn mixed<H: SharedHeap>(heap: &H, threads: usize, effort: Effort) -> Result<Sample> {
    // What the threads are told, and what they answer: start and end, or nothing after a failure.
    let iterations = AtomicU64::new(0);
    let answers = Mutex::new(Vec::new());
    let turn = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (iterations, answers, turn) = (&iterations, &answers, &turn);
            let heap = heap.clone();
            scope.spawn(move || {
                let mut mix = Mix::new(heap, thread as u64);
                loop {
                    turn.wait();
                    let count = iterations.load(Ordering::Relaxed);
                    if count == 0 {
                        break mix.end();
                    }
                    let start = Instant::now();
                    let done = mix.run(count).map(|()| (start, Instant::now()));
                    answers
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(done);
                    turn.wait();
                }
            });
        }
        let sample = meter::measure(effort, 1, |count| {
            iterations.store(count, Ordering::Relaxed);
            turn.wait();
            turn.wait();
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            let spans: Option<Vec<(Instant, Instant)>> = answers.drain(..).collect();
            elapsed(&spans?)
        });
        iterations.store(0, Ordering::Relaxed);
        turn.wait();
        sample
    })
}

/// From the first start to the last end.
fn elapsed(spans: &[(Instant, Instant)]) -> Option<Duration> {
    let start = spans.iter().map(|span| span.0).min()?;
    let end = spans.iter().map(|span| span.1).max()?;
    Some(end - start)
}

/// One thread's blocks of the mix.
struct Mix<H: Heap> {
    heap: H,
    live: [Option<H::Block>; MIX.len()],
    random: Random,
}

impl<H: Heap> Mix<H> {
    fn new(heap: H, seed: u64) -> Self {
        Self {
            heap,
            live: [const { None }; MIX.len()],
            random: Random::new(seed),
        }
    }

    fn run(&mut self, operations: u64) -> Option<()> {
        for _ in 0..operations {
            let index = self.random.below(MIX.len());
            if let Some(block) = self.live[index].take() {
                self.heap.free(block);
            }
            let block = self.heap.allocate(MIX[index])?;
            self.live[index] = Some(block);
            black_box(&mut self.live[index]);
        }
        Some(())
    }

    fn end(&mut self) {
        for block in self.live.iter_mut().filter_map(Option::take) {
            self.heap.free(block);
        }
    }
}

/// Allocated here, freed on another thread. The time ends when the last block is freed.
pub(crate) fn producer_consumer<H: SharedHeap>(
    heap: &H,
    bytes: usize,
    effort: Effort,
) -> Result<Sample> {
    let (blocks, to_free) = mpsc::sync_channel::<Parcel<H>>(CHANNEL_BLOCKS);
    thread::scope(|scope| {
        let mut consumer = heap.clone();
        scope.spawn(move || {
            for parcel in to_free {
                match parcel {
                    Parcel::Block(block) => consumer.free(block),
                    // The producer waits for the answer, so there is somebody to hear it.
                    Parcel::Last(done) => done.send(()).unwrap_or_default(),
                }
            }
        });
        let mut producer = heap.clone();
        // Moved in, so that the channel closes, and the consumer ends, with the measurement.
        let blocks = blocks;
        meter::measure(effort, 1, |iterations| {
            let (done, answer) = mpsc::sync_channel(1);
            let start = Instant::now();
            for _ in 0..iterations {
                let block = producer.allocate(black_box(bytes))?;
                blocks.send(Parcel::Block(block)).ok()?;
            }
            blocks.send(Parcel::Last(done)).ok()?;
            answer.recv().ok()?;
            Some(start.elapsed())
        })
    })
}

/// What goes through the channel.
enum Parcel<H: Heap> {
    Block(H::Block),
    Last(SyncSender<()>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::heaps::reference::Reference;

    const EFFORT: Effort = Effort {
        warm_up: Duration::from_millis(1),
        samples: Duration::from_millis(5),
    };

    /// Counts what is live; hands out one address for everything when told to, and nothing after a number of calls.
    #[derive(Debug, Clone, Default)]
    struct Faulty {
        live: usize,
        same_address: bool,
        read_only: bool,
        left: Option<usize>,
        next: usize,
    }

    impl Heap for Faulty {
        type Block = usize;

        fn allocate(&mut self, bytes: usize) -> Option<usize> {
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(1)?;
            }
            self.live += 1;
            self.next += if self.same_address { 0 } else { bytes };
            Some(self.next)
        }

        fn free(&mut self, _block: usize) {
            // A clone frees what another one allocated.
            self.live = self.live.wrapping_sub(1);
        }

        fn start(&mut self, block: &usize) -> usize {
            *block
        }

        fn has_memory(&self) -> bool {
            true
        }

        fn fill(&mut self, _block: &mut usize, _value: u8) {}

        fn touch(&mut self, _block: &mut usize, _value: u8) -> bool {
            !self.read_only
        }
    }

    #[test]
    fn a_contender_that_does_nothing_is_found_out() {
        let check = |mut heap: Faulty| {
            let result = verify(&mut heap, &[16; 64]);
            result.map_err(|error| error.to_string())
        };
        assert_eq!(check(Faulty::default()), Ok(()));
        let same = Faulty {
            same_address: true,
            ..Faulty::default()
        };
        assert_eq!(check(same), Err("live blocks overlap".to_owned()));
        let read_only = Faulty {
            read_only: true,
            ..Faulty::default()
        };
        assert_eq!(
            check(read_only),
            Err("a block cannot be written".to_owned())
        );
        let empty = Faulty {
            left: Some(3),
            ..Faulty::default()
        };
        assert_eq!(check(empty), Err("an allocation failed".to_owned()));
    }

    #[test]
    fn workloads_give_everything_back() {
        let mut heap = Faulty::default();
        pair(&mut heap, 16, Use::WriteAll, EFFORT).unwrap();
        batch(&mut heap, 16, Use::Nothing, EFFORT).unwrap();
        sequence(&mut heap, &Sequence::virtual_block(), EFFORT).unwrap();
        queue(&mut heap, EFFORT).unwrap();
        assert_eq!(heap.live, 0);
        let mut mix = Mix::new(heap, 1);
        mix.run(1000).unwrap();
        assert_eq!(mix.heap.live, MIX.len());
        mix.end();
        assert_eq!(mix.heap.live, 0);
    }

    #[test]
    fn a_failed_allocation_ends_every_workload() {
        let failing = || Faulty {
            left: Some(5),
            ..Faulty::default()
        };
        assert!(pair(&mut failing(), 16, Use::Nothing, EFFORT).is_err());
        assert!(batch(&mut failing(), 16, Use::Nothing, EFFORT).is_err());
        assert!(sequence(&mut failing(), &Sequence::virtual_block(), EFFORT).is_err());
        assert!(queue(&mut failing(), EFFORT).is_err());
        assert!(mixed(&failing(), 2, EFFORT).is_err());
        assert!(producer_consumer(&failing(), 16, EFFORT).is_err());
    }

    #[test]
    fn threads_are_timed_together() {
        let sample = mixed(&Reference::default(), 2, EFFORT).unwrap();
        assert!(sample.nanoseconds > 0.0);
        let passed = producer_consumer(&Reference::default(), 16, EFFORT).unwrap();
        assert!(passed.nanoseconds > 0.0);
    }
}

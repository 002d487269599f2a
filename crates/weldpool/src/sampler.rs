//! Samples of allocations, on average one per so many bytes: sizes, lifetimes, latencies, backtraces.
//!
//! Which allocations become samples is a Poisson process over the bytes of the blocks that a thread
//! allocates, so a sample stands for a known number of allocations whatever the pattern of the program.
//! Of an allocation at most [`COUNTED_PART`] of the interval counts; otherwise nearly every large one
//! would be a sample, and all of them would leave the fast path.
//!
//! The blocks of one list are of one length, so a thread need only count: [`draw`](Sampler::draw) says
//! how many allocations lie before the next sample. All else is called for samples only. A sampled block
//! is handed out as one that no thread keeps, so that its free comes past the caches and its lifetime is
//! known.

#![forbid(unsafe_code)]

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::time::Instant;

use crate::histogram::Histogram;
use crate::name::Name;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::text;

/// Samples that are followed until they are freed.
const LIVE_MAX: usize = 65_536;
/// Those of them that keep a backtrace, some three KiB each.
const TRACED_MAX: usize = 4_096;
/// Parts of the table of live samples, each under a lock of its own.
const PARTS: usize = 16;
/// Of one allocation, at most this part of the interval counts.
const COUNTED_PART: u64 = 512;
/// Allocations that never come.
const NEVER: u64 = 1 << 62;

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

static SEEDS: AtomicU64 = AtomicU64::new(1);

/// What was sampled of an allocator, and how.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Samples {
    /// Bytes allocated per sample, on average; 0 when nothing is sampled.
    pub interval_bytes: u64,
    /// Bytes that one allocation counts for at most.
    pub counted_bytes_max: u64,
    /// Samples taken.
    pub taken: u64,
    /// Samples that are not freed yet.
    pub live: u64,
    /// Samples whose lifetime is unknown, because too many were live.
    pub untracked: u64,
    /// Requested bytes, weighted by the allocations that each sample stands for.
    pub size: Histogram,
    /// Nanoseconds from allocation to free, weighted likewise.
    pub lifetime_ns: Histogram,
    /// Nanoseconds that an allocation took, weighted likewise.
    pub latency_ns: Histogram,
}

impl Samples {
    /// How many there are, and at which rate they are taken.
    pub(crate) fn summary(&self) -> String {
        if self.interval_bytes == 0 {
            return "Samples: off".to_owned();
        }
        format!(
            "Samples: {}, one per {} allocated, at most one in {} allocations",
            text::count(self.taken),
            text::bytes(self.interval_bytes),
            self.interval_bytes / self.counted_bytes_max.max(1)
        )
    }
}

/// A sampled allocation that is alive.
#[derive(Debug, Clone)]
pub(crate) struct LiveSample {
    pub(crate) name: Name,
    pub(crate) bytes: usize,
    /// Allocations that it stands for.
    pub(crate) weight: f64,
    pub(crate) since: Instant,
    pub(crate) backtrace: Option<Arc<Backtrace>>,
}

/// Takes the samples of one allocator. Memory is bounded.
#[derive(Debug)]
pub(crate) struct Sampler {
    interval: u64,
    backtraces: bool,
    parts: [Mutex<HashMap<usize, LiveSample>>; PARTS],
    live: AtomicUsize,
    traced: AtomicUsize,
    untracked: AtomicU64,
    histograms: Mutex<Histograms>,
}

#[derive(Debug, Default)]
struct Histograms {
    size: Histogram,
    lifetime: Histogram,
    latency: Histogram,
}

impl Sampler {
    /// One sample per `interval` bytes; none for 0.
    pub(crate) fn new(interval: usize, backtraces: bool) -> Self {
        Self {
            interval: interval as u64,
            backtraces,
            parts: std::array::from_fn(|_| Mutex::default()),
            live: AtomicUsize::new(0),
            traced: AtomicUsize::new(0),
            untracked: AtomicU64::new(0),
            histograms: Mutex::default(),
        }
    }

    /// Whether nothing is sampled.
    pub(crate) fn is_off(&self) -> bool {
        self.interval == 0
    }

    /// What an allocation counts for, in intervals.
    fn measure(&self, block_bytes: usize) -> f64 {
        (block_bytes as u64).min(self.counted_bytes_max()) as f64 / self.interval as f64
    }

    /// Most bytes that one allocation counts for.
    pub(crate) fn counted_bytes_max(&self) -> u64 {
        self.interval / COUNTED_PART
    }

    /// Allocations of blocks of this length before the next that is a sample.
    pub(crate) fn draw(&self, block_bytes: usize) -> u64 {
        if self.interval == 0 {
            return NEVER;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and the conversion saturates"
        )]
        let count = (draw() / self.measure(block_bytes)) as u64;
        count.min(NEVER)
    }

    /// Whether an allocation that nobody counts is a sample.
    pub(crate) fn is_due(&self, block_bytes: usize) -> bool {
        self.interval > 0 && draw() < self.measure(block_bytes)
    }

    /// Allocations of such blocks that a sample stands for: 1 / its probability.
    pub(crate) fn weight(&self, block_bytes: usize) -> f64 {
        1.0 / -(-self.measure(block_bytes)).exp_m1()
    }

    /// Takes a sample; `id` is one that no other live block has.
    pub(crate) fn allocated(
        &self,
        id: usize,
        bytes: usize,
        block_bytes: usize,
        name: Name,
        latency_ns: u64,
    ) {
        if self.interval == 0 {
            return;
        }
        let weight = self.weight(block_bytes);
        {
            let mut histograms = self.histograms.lock();
            histograms.size.record(bytes as u64, weight);
            histograms.latency.record(latency_ns, weight);
        }
        if self.live.fetch_add(1, Ordering::Relaxed) >= LIVE_MAX {
            self.live.fetch_sub(1, Ordering::Relaxed);
            self.untracked.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let sample = LiveSample {
            name,
            bytes,
            weight,
            since: Instant::now(),
            backtrace: self.backtrace(),
        };
        let replaced = self.part(id).lock().insert(id, sample);
        if let Some(replaced) = replaced {
            self.forget(&replaced);
        }
    }

    fn backtrace(&self) -> Option<Arc<Backtrace>> {
        if !self.backtraces {
            return None;
        }
        if self.traced.fetch_add(1, Ordering::Relaxed) >= TRACED_MAX {
            self.traced.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // Frames only; names are looked up when somebody prints it.
        Some(Arc::new(Backtrace::force_capture()))
    }

    /// Ends the sample of a block, if it was one.
    pub(crate) fn freed(&self, id: usize) {
        if self.live.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(sample) = self.part(id).lock().remove(&id) else {
            return;
        };
        self.forget(&sample);
        let lived = u64::try_from(sample.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut histograms = self.histograms.lock();
        histograms.lifetime.record(lived, sample.weight);
    }

    fn forget(&self, sample: &LiveSample) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        if sample.backtrace.is_some() {
            self.traced.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn part(&self, id: usize) -> &Mutex<HashMap<usize, LiveSample>> {
        // Records are 64 bytes apart at least.
        &self.parts[(id >> 6 ^ id >> 12) % PARTS]
    }

    /// The samples that are alive, largest first.
    pub(crate) fn live(&self) -> Vec<LiveSample> {
        let mut live = Vec::new();
        for part in &self.parts {
            live.extend(part.lock().values().cloned());
        }
        live.sort_by_key(|sample| std::cmp::Reverse(sample.bytes));
        live
    }

    pub(crate) fn read(&self) -> Samples {
        let histograms = self.histograms.lock();
        Samples {
            interval_bytes: self.interval,
            counted_bytes_max: self.counted_bytes_max(),
            taken: histograms.size.samples(),
            live: self.live.load(Ordering::Relaxed) as u64,
            untracked: self.untracked.load(Ordering::Relaxed),
            size: histograms.size.clone(),
            lifetime_ns: histograms.lifetime.clone(),
            latency_ns: histograms.latency.clone(),
        }
    }
}

/// The distance to the next sample, in intervals: exponential, with the mean 1.
fn draw() -> f64 {
    let number = RANDOM
        .try_with(|state| {
            let mut number = state.get();
            if number == 0 {
                number = SEEDS
                    .fetch_add(1, Ordering::Relaxed)
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            }
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            state.set(number);
            number
        })
        .unwrap_or(u64::MAX / 2);
    // 53 bits above zero, so that the logarithm is finite.
    let uniform = ((number >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: usize = 64 << 10;

    /// Counts blocks of one length, as threads do.
    fn thread(sampler: &Sampler, bytes: usize) -> impl FnMut() -> bool {
        let mut left = sampler.draw(bytes);
        move || {
            let due = left == 0;
            left = left.checked_sub(1).unwrap_or_else(|| sampler.draw(bytes));
            due
        }
    }

    #[test]
    fn weights_are_unbiased_for_every_size() {
        let sampler = Sampler::new(INTERVAL, false);
        for bytes in [256, 1024, 4096, 1 << 20] {
            let count: u32 = 2_000_000;
            let mut counted = thread(&sampler, bytes);
            let ways: [&mut dyn FnMut() -> bool; 2] = [&mut counted, &mut || sampler.is_due(bytes)];
            for due in ways {
                let samples = (0..count).filter(|_| due()).count() as f64;
                let ratio = samples * sampler.weight(bytes) / f64::from(count);
                // Four standard deviations of some 4000 samples.
                assert!((ratio - 1.0).abs() < 0.07, "{bytes}: {ratio}");
            }
        }
    }

    #[test]
    fn large_allocations_are_not_all_samples() {
        let sampler = Sampler::new(INTERVAL, false);
        let mut due = thread(&sampler, 1 << 30);
        let due = (0..512_000).filter(|_| due()).count();
        assert!((700..1300).contains(&due), "{due} of 512000");
    }

    #[test]
    fn off_is_off() {
        let sampler = Sampler::new(0, true);
        let mut due = thread(&sampler, 1 << 30);
        assert!((0..1000).all(|_| !due() && !sampler.is_due(1 << 30)));
        sampler.allocated(1, 10, 256, Name::default(), 1);
        assert_eq!(sampler.read(), Samples::default());
    }

    #[test]
    fn lifetimes_are_known_and_the_table_has_an_end() {
        let sampler = Sampler::new(INTERVAL, false);
        for id in 0..LIVE_MAX + 10 {
            sampler.allocated(id << 6, 4096, 4096, Name::from("block"), 50);
        }
        let samples = sampler.read();
        assert_eq!((samples.live, samples.untracked), (LIVE_MAX as u64, 10));
        assert_eq!(samples.taken, LIVE_MAX as u64 + 10);
        for id in 0..LIVE_MAX + 10 {
            sampler.freed(id << 6);
        }
        let samples = sampler.read();
        assert_eq!(samples.live, 0);
        assert_eq!(samples.lifetime_ns.samples(), LIVE_MAX as u64);
        assert!(sampler.live().is_empty());
    }

    #[test]
    fn backtraces_have_an_end_too() {
        let sampler = Sampler::new(INTERVAL, true);
        for id in 0..TRACED_MAX + 10 {
            sampler.allocated(id << 6, 4096, 4096, Name::default(), 50);
        }
        let traced =
            |live: &[LiveSample]| live.iter().filter(|one| one.backtrace.is_some()).count();
        assert_eq!(traced(&sampler.live()), TRACED_MAX);
        for id in 0..TRACED_MAX {
            sampler.freed(id << 6);
        }
        sampler.allocated(1 << 40, 1, 256, Name::default(), 1);
        assert_eq!(traced(&sampler.live()), 1);
    }

    #[test]
    fn a_block_that_is_sampled_again_replaces_its_old_sample() {
        let sampler = Sampler::new(INTERVAL, false);
        sampler.allocated(64, 10, 256, Name::default(), 1);
        sampler.allocated(64, 20, 256, Name::default(), 1);
        assert_eq!(sampler.read().live, 1);
        assert_eq!(sampler.live()[0].bytes, 20);
    }
}

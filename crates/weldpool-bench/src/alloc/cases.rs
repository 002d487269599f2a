//! What is measured.

use std::fmt;

use crate::report::Better;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The sizes of the cases of one size.
pub(super) const SIZES: [usize; 7] = [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB];
/// Blocks live at once in the batches.
pub(crate) const BATCH: usize = 64;
/// The largest size of a batch; a further one would need more address space than some machines give.
const BATCH_BYTES_MAX: usize = 64 * MIB;
/// The largest size of a batch that is written.
const WRITTEN_BATCH_BYTES_MAX: usize = MIB;
/// The sizes of one thread's blocks in the mix.
pub(crate) const MIX: [usize; 6] = [256, 4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
/// Blocks of 1 MiB that are live in CubeCL's workload.
pub(super) const QUEUE_LIVE: usize = 4_000;
/// Size of the blocks in CubeCL's workload.
pub(super) const QUEUE_BYTES: usize = MIB;

/// Against whom a case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Allocators of host memory.
    Host,
    /// Allocators of ranges inside memory that somebody else owns.
    Ranges,
    /// Nobody: what seeing our allocator at work costs.
    Seeing,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Allocate and free, nothing else live.
    Pair(usize),
    /// Allocate 64, then free them in the same order.
    Batch(usize),
    /// Allocate, write every byte, free.
    Write(usize),
    /// Allocate and write 64, then free them.
    WriteBatch(usize),
    /// On each of so many threads: six live blocks of 256 B to 4 MiB, one replaced per operation.
    Mixed(usize),
    /// Allocated on one thread, freed on another, with a bounded channel between.
    ProducerConsumer(usize),
    /// RMM's random generator: allocations, and MiB of the largest.
    Random(usize, u64),
    /// The workload of VMA's benchmark of virtual blocks, at this alignment.
    VirtualBlock(usize),
    /// CubeCL's workload: 1 MiB blocks, first in, first out.
    Queue,
    /// Reading the statistics of a pool that so many threads use.
    Statistics(usize),
    /// Allocations and frees that are recorded to a file, less those that are not.
    Recorded,
}

/// A workload in its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Against whom.
    pub field: Field,
    /// What is done.
    pub workload: Workload,
}

impl Case {
    /// All cases of a machine with `cores` cores, in the order of the report; with `quick` one or two of each kind.
    pub fn all(cores: usize, quick: bool) -> Vec<Self> {
        let upto = |bytes_max| SIZES.into_iter().filter(move |bytes| *bytes <= bytes_max);
        let all = usize::MAX;
        let mut host: Vec<Workload> = Vec::new();
        host.extend(upto(all).map(Workload::Pair));
        host.extend(upto(BATCH_BYTES_MAX).map(Workload::Batch));
        host.extend(upto(all).map(Workload::Write));
        host.extend(upto(WRITTEN_BATCH_BYTES_MAX).map(Workload::WriteBatch));
        host.extend(threads(cores).into_iter().map(Workload::Mixed));
        host.extend([256, 64 * KIB, MIB].map(Workload::ProducerConsumer));
        for (allocations, largest) in [(1_000, 4096), (10_000, 4096), (100_000, 64)] {
            let sizes = [1, 4, 64, 256, 1024, 4096];
            let sizes = sizes.into_iter().filter(|mib| *mib <= largest);
            host.extend(sizes.map(|mib| Workload::Random(allocations, mib)));
        }
        let ranges = [
            Workload::Pair(4 * KIB),
            Workload::Pair(MIB),
            Workload::Batch(4 * KIB),
            Workload::Batch(MIB),
            Workload::VirtualBlock(1),
            Workload::VirtualBlock(256),
            Workload::Queue,
        ];
        let seeing = [
            Workload::Statistics(1),
            Workload::Statistics(16),
            Workload::Recorded,
        ];
        let of = |field| move |workload| Self { field, workload };
        let host = host.into_iter().map(of(Field::Host));
        let cases = host.chain(ranges.into_iter().map(of(Field::Ranges)));
        let cases = cases.chain(seeing.into_iter().map(of(Field::Seeing)));
        cases.filter(|case| !quick || case.is_quick()).collect()
    }

    /// The case of this name.
    pub fn named(name: &str, cores: usize) -> Option<Self> {
        Self::all(cores, false)
            .into_iter()
            .find(|case| case.to_string() == name)
    }

    fn is_quick(&self) -> bool {
        match self.workload {
            Workload::Pair(bytes) | Workload::Batch(bytes) => [256, 4 * KIB, MIB].contains(&bytes),
            Workload::Write(bytes)
            | Workload::WriteBatch(bytes)
            | Workload::ProducerConsumer(bytes) => bytes == 64 * KIB,
            Workload::Mixed(threads) => threads <= 2,
            Workload::Random(allocations, mib) => allocations == 1_000 && mib == 4,
            Workload::VirtualBlock(alignment) => alignment == 1,
            Workload::Queue => false,
            Workload::Statistics(threads) => threads == 1,
            Workload::Recorded => true,
        }
    }

    /// The unit of the case's figure.
    pub fn unit(&self) -> &'static str {
        match self.workload {
            Workload::Mixed(_) => "million operations/s",
            Workload::Random(..) | Workload::VirtualBlock(_) => "ns/operation",
            Workload::Statistics(_) => "ns/call",
            Workload::Recorded => "ns/event",
            _ => "ns/pair",
        }
    }

    /// The good direction of the figure.
    pub fn better(&self) -> Better {
        match self.workload {
            Workload::Mixed(_) => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// The figure for an iteration that takes `nanoseconds` and makes `operations` (or pairs) on each thread.
    pub(super) fn figure(&self, nanoseconds: f64, operations: f64) -> f64 {
        match self.workload {
            Workload::Mixed(threads) => threads as f64 * operations * 1e3 / nanoseconds,
            _ => nanoseconds / operations,
        }
    }
}

/// One, two and so on in doublings, and all cores; two even where there is one core.
fn threads(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (0..=10)
        .map(|step| 1 << step)
        .filter(|count| *count <= cores.max(2))
        .collect();
    if cores > 2 && !counts.contains(&cores) {
        counts.push(cores);
    }
    counts
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field == Field::Ranges {
            f.write_str("ranges: ")?;
        }
        match self.workload {
            Workload::Pair(bytes) => write!(f, "pair, {}", size(bytes)),
            Workload::Batch(bytes) => write!(f, "64 live, {}", size(bytes)),
            Workload::Write(bytes) => write!(f, "write, {}", size(bytes)),
            Workload::WriteBatch(bytes) => write!(f, "write, 64 live, {}", size(bytes)),
            Workload::Mixed(1) => write!(f, "mixed sizes, 1 thread"),
            Workload::Mixed(threads) => write!(f, "mixed sizes, {threads} threads"),
            Workload::ProducerConsumer(bytes) => {
                write!(f, "producer and consumer, {}", size(bytes))
            }
            Workload::Random(allocations, mib) => {
                let bytes = size(mib as usize * MIB);
                write!(f, "random, {allocations} allocations up to {bytes}")
            }
            Workload::VirtualBlock(alignment) => {
                write!(f, "virtual block, alignment {alignment}")
            }
            Workload::Statistics(1) => f.write_str("statistics, 1 thread"),
            Workload::Statistics(threads) => write!(f, "statistics, {threads} threads"),
            Workload::Recorded => f.write_str("recording to a file, besides the call"),
            Workload::Queue => write!(f, "first in, first out, {QUEUE_LIVE} live, 1 MiB"),
        }
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{} MiB", bytes / MIB),
        KIB.. => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found_again() {
        let cases = Case::all(6, false);
        for (index, case) in cases.iter().enumerate() {
            let name = case.to_string();
            assert_eq!(Case::named(&name, 6), Some(*case), "{name}");
            assert!(!cases[..index].contains(case), "{name} comes twice");
        }
        assert!(cases.len() > Case::all(6, true).len());
    }

    #[test]
    fn threads_go_up_to_the_cores() {
        assert_eq!(threads(1), [1, 2]);
        assert_eq!(threads(2), [1, 2]);
        assert_eq!(threads(6), [1, 2, 4, 6]);
        assert_eq!(threads(16), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn rates_count_all_threads() {
        let mixed = Case {
            field: Field::Host,
            workload: Workload::Mixed(4),
        };
        assert_eq!(mixed.figure(100.0, 1.0), 40.0);
        let batch = Case {
            field: Field::Host,
            workload: Workload::Batch(256),
        };
        assert_eq!(batch.figure(640.0, 64.0), 10.0);
    }
}

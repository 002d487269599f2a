//! One contender in one case: what a child process does.

use serde::{Deserialize, Serialize};

use super::cases::{BATCH, Case, Field, MIX, Workload};
use super::contender::Contender;
use super::heap::{Heap, SharedHeap};
#[cfg(feature = "suballocators")]
use super::heaps::cubecl::Cubecl;
use super::heaps::malloc::{CLibrary, MallocHeap};
#[cfg(all(target_os = "linux", feature = "allocators"))]
use super::heaps::malloc::{Jemalloc, Mimalloc};
use super::heaps::offset_allocator::OffsetAllocator;
use super::heaps::ours::Ours;
use super::heaps::reference::Reference;
use super::heaps::rlsf::Rlsf;
#[cfg(feature = "suballocators")]
use super::heaps::vma::{Strategy, Vma};
use super::meter::{Effort, Sample};
use super::seeing;
use super::sequence::{Sequence, live_bytes_max};
use super::workloads::{self, Use};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::Machine;

/// What the line with the result starts with; criterion writes lines of its own.
const MARK: &str = "sample ";

/// The sub-allocators' alignment where a case does not say: ours.
const ALIGNMENT: usize = 256;
/// The sub-allocators' memory: enough for the 4,000 MiB that CubeCL's workload has live.
const CAPACITY: usize = 8 << 30;
/// The same for VMA's workload: twice what is live, as in its own benchmark.
const VIRTUAL_BLOCK_CAPACITY: usize = 16 << 20;

/// Measures `contender` in `case` and prints the result for [`parse`].
///
/// # Errors
/// `Environment` when the contender is not in this build or an allocation failed.
pub(super) fn work(contender: Contender, case: &Case, effort: Effort) -> Result<()> {
    let sample = measure(contender, case, effort)?;
    let line = serde_json::to_string(&Line { sample })
        .map_err(|error| Error::caused(ErrorKind::Io, "writing the result", error))?;
    println!("{MARK}{line}");
    Ok(())
}

/// The result in what a worker printed.
pub(super) fn parse(output: &str) -> Option<Sample> {
    let line = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(MARK))?;
    let line: Line = serde_json::from_str(line).ok()?;
    Some(line.sample)
}

#[derive(Serialize, Deserialize)]
struct Line {
    sample: Sample,
}

fn measure(contender: Contender, case: &Case, effort: Effort) -> Result<Sample> {
    let (capacity, alignment) = match case.workload {
        Workload::VirtualBlock(alignment) => (VIRTUAL_BLOCK_CAPACITY, alignment),
        _ => (CAPACITY, ALIGNMENT),
    };
    match contender {
        Contender::Ours if case.field == Field::Seeing => seen(case, effort),
        Contender::Ours => shared(Ours::new()?, case, effort),
        Contender::CLibrary | Contender::CLibraryKeeping => {
            shared(MallocHeap::<CLibrary>::new(), case, effort)
        }
        #[cfg(all(target_os = "linux", feature = "allocators"))]
        Contender::Mimalloc | Contender::MimallocKeeping => {
            shared(MallocHeap::<Mimalloc>::new(), case, effort)
        }
        #[cfg(all(target_os = "linux", feature = "allocators"))]
        Contender::Jemalloc | Contender::JemallocKeeping => {
            shared(MallocHeap::<Jemalloc>::new(), case, effort)
        }
        Contender::Reference => shared(Reference::default(), case, effort),
        Contender::OffsetAllocator => {
            single(&mut OffsetAllocator::new(capacity, alignment), case, effort)
        }
        Contender::Rlsf => single(&mut Rlsf::new(capacity, alignment)?, case, effort),
        #[cfg(feature = "suballocators")]
        Contender::VmaTime => single(
            &mut Vma::new(capacity, alignment, Strategy::Time)?,
            case,
            effort,
        ),
        #[cfg(feature = "suballocators")]
        Contender::VmaMemory => single(
            &mut Vma::new(capacity, alignment, Strategy::Memory)?,
            case,
            effort,
        ),
        #[cfg(feature = "suballocators")]
        Contender::Cubecl => single(&mut Cubecl::new(alignment), case, effort),
        // With every feature on Linux all are above.
        #[allow(unreachable_patterns)]
        _ => Err(unavailable(contender)),
    }
}

fn unavailable(contender: Contender) -> Error {
    let message = format!("{} is not in this build", contender.name());
    Error::new(ErrorKind::Environment, message)
}

/// Makes `pairs` pairs and nothing else, for a run that counts instructions.
///
/// # Errors
/// `Environment` when the contender is no allocator of host memory or an allocation failed.
pub(super) fn pairs(contender: Contender, bytes: usize, pairs: u64) -> Result<()> {
    let done = match contender {
        Contender::Ours => workloads::pairs(&mut Ours::new()?, bytes, pairs),
        #[cfg(all(target_os = "linux", feature = "allocators"))]
        Contender::Mimalloc => workloads::pairs(&mut MallocHeap::<Mimalloc>::new(), bytes, pairs),
        _ => return Err(unavailable(contender)),
    };
    done.ok_or_else(|| Error::new(ErrorKind::Environment, "an allocation failed"))
}

/// The cases that need a heap that threads share, and all others.
fn shared<H: SharedHeap>(mut heap: H, case: &Case, effort: Effort) -> Result<Sample> {
    match case.workload {
        Workload::Mixed(threads) => {
            workloads::verify(&mut heap, &MIX.repeat(threads))?;
            workloads::mixed(&heap, threads, effort)
        }
        Workload::ProducerConsumer(bytes) => {
            workloads::verify(&mut heap, &[bytes; BATCH])?;
            workloads::producer_consumer(&heap, bytes, effort)
        }
        _ => single(&mut heap, case, effort),
    }
}

/// The cases of an allocator that is looked at.
fn seen(case: &Case, effort: Effort) -> Result<Sample> {
    match case.workload {
        Workload::Statistics(threads) => seeing::statistics(threads, effort),
        _ => seeing::recorded(effort),
    }
}

/// The cases of one thread.
fn single<H: Heap>(heap: &mut H, case: &Case, effort: Effort) -> Result<Sample> {
    match case.workload {
        Workload::Pair(bytes) => {
            workloads::verify(heap, &[bytes; 2])?;
            workloads::pair(heap, bytes, Use::Nothing, effort)
        }
        Workload::Write(bytes) => {
            workloads::verify(heap, &[bytes; 2])?;
            workloads::pair(heap, bytes, Use::WriteAll, effort)
        }
        Workload::Batch(bytes) => {
            workloads::verify(heap, &[bytes; BATCH])?;
            workloads::batch(heap, bytes, Use::Nothing, effort)
        }
        Workload::WriteBatch(bytes) => {
            workloads::verify(heap, &[bytes; BATCH])?;
            workloads::batch(heap, bytes, Use::WriteAll, effort)
        }
        Workload::Random(allocations, mib) => {
            let live = live_bytes_max(Machine::this().memory_bytes);
            let sequence = Sequence::random(allocations, mib << 20, live);
            workloads::verify(heap, &[1, 4096, 1 << 20])?;
            workloads::sequence(heap, &sequence, effort)
        }
        Workload::VirtualBlock(_) => {
            workloads::verify(heap, &[1, 16, 2056])?;
            workloads::sequence(heap, &Sequence::virtual_block(), effort)
        }
        Workload::Queue => {
            workloads::verify(heap, &[1 << 20; BATCH])?;
            workloads::queue(heap, effort)
        }
        Workload::Mixed(_) | Workload::ProducerConsumer(_) => Err(Error::new(
            ErrorKind::Environment,
            format!("{case} needs an allocator that threads can share"),
        )),
        Workload::Statistics(_) | Workload::Recorded => Err(Error::new(
            ErrorKind::Environment,
            format!("{case}: only our own allocator is looked at"),
        )),
    }
}

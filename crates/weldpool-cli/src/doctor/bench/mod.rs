//! The benchmarks: short, through the library's public interface, beside peers that every machine has.

mod allocate;
mod copy;
mod operations;
mod patterns;
mod rules;
mod timing;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use weldpool::device::DeviceKind;
use weldpool::{Allocator, Buffer, Device, Request, Result, StorageMode};

use self::timing::Clock;
use super::event::{Bar, Better, Event, Measure};
use super::step;

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;

/// "Never behind" in a run this short: less cannot be told from noise.
pub(super) const NEVER_BEHIND: f64 = 0.9;
/// The part of a device's memory that a figure may take.
const MEMORY_PART: u64 = 8;
/// Bytes that a figure may take where the memory is that of a model, and no bar is judged.
const MODEL_BYTES_MAX: u64 = 128 << 20;

/// What the benchmarks of one device share.
struct Bench<'a> {
    name: &'static str,
    device: Arc<dyn Device>,
    allocator: Allocator,
    clock: Clock,
    quick: bool,
    /// The storage that device work is best given: its own where that is not the host's too.
    storage: StorageMode,
    /// Most bytes that a figure may take.
    bytes_max: usize,
    tell: &'a mut dyn FnMut(Event),
}

/// Runs a benchmark and tells its figures.
///
/// # Errors
///
/// What the device or its allocator says.
pub(super) fn run(
    which: step::Bench,
    device: &Arc<dyn Device>,
    quick: bool,
    tell: &mut dyn FnMut(Event),
) -> Result<()> {
    let properties = device.properties();
    let own = !properties.unified && properties.storage_modes.contains(&StorageMode::Private);
    let mut bytes_max = device.budget()?.ceiling() / MEMORY_PART;
    if properties.kind.is_fake() {
        bytes_max = bytes_max.min(MODEL_BYTES_MAX);
    }
    let mut bench = Bench {
        name: which.name(),
        device: Arc::clone(device),
        allocator: Allocator::builder(Arc::clone(device)).build()?,
        clock: Clock::new(device, quick),
        quick,
        storage: if own {
            StorageMode::Private
        } else {
            StorageMode::Shared
        },
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        tell,
    };
    match which {
        step::Bench::Allocate => allocate::run(&mut bench),
        step::Bench::Copy => copy::run(&mut bench),
        step::Bench::View => view::run(&mut bench),
        step::Bench::Patterns => patterns::run(&mut bench),
    }
}

impl Bench<'_> {
    fn is_host(&self) -> bool {
        self.device.properties().kind == DeviceKind::Host
    }

    /// Those of the sizes for which there is memory, with `quick` the first.
    fn sizes<'s>(&self, sizes: &'s [usize], at_once: usize) -> impl Iterator<Item = usize> + 's {
        let most = self.bytes_max / at_once;
        let count = if self.quick { 1 } else { sizes.len() };
        let sizes = sizes.iter().copied().take(count);
        sizes.filter(move |&bytes| bytes <= most)
    }

    fn buffer(&self, bytes: usize, storage: StorageMode) -> Result<Buffer> {
        allocate(&self.allocator, bytes, storage)
    }

    fn measure(
        &mut self,
        case: String,
        (unit, better): (&str, Better),
        ours: f64,
        peers: &[(&str, f64)],
        bar: Option<Bar>,
    ) {
        let peers = peers.iter().map(|&(name, value)| (name.to_owned(), value));
        let measure = Measure {
            bench: self.name.to_owned(),
            case,
            unit: unit.to_owned(),
            better,
            ours,
            peers: peers.collect::<BTreeMap<_, _>>(),
            bar,
        };
        (self.tell)(Event::Measure(measure));
    }

    fn note(&mut self, message: String) {
        (self.tell)(Event::Note { message });
    }
}

/// As programs do that want this storage.
fn allocate(allocator: &Allocator, bytes: usize, storage: StorageMode) -> Result<Buffer> {
    match storage {
        StorageMode::Shared => allocator.allocate(bytes),
        _ => allocator.allocate_with(&Request::new(bytes).storage(storage)),
    }
}

/// Nanoseconds, of which few are better.
const NS: (&str, Better) = ("ns", Better::Lower);
/// Bytes per nanosecond, of which many are better.
const RATE: (&str, Better) = ("GB/s", Better::Higher);

/// A bar on how many times as fast as a peer ours is, by both times.
fn faster(peer: &str, ours: f64, theirs: f64, least: f64) -> Bar {
    Bar {
        what: format!("times the speed of {peer}"),
        better: Better::Higher,
        value: theirs / ours,
        limit: least,
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{} MiB", bytes / MIB),
        KIB.. => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} B"),
    }
}

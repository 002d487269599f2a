//! Metal's memory objects on Apple silicon, in software.
//!
//! [`Metal`], [`Heap`] and [`Buffer`] model the objects by the rules of Apple's documentation;
//! [`FakeApple`] is a [`Device`] over them.

mod builder;
mod costs;
mod heap;
mod metal;
mod no_copy;
mod segment;

use self::metal::Limits;
use self::no_copy::NoCopyBuffer;
use self::segment::AppleSegment;
use super::call::Call;
use super::control::{Control, Step};
use super::costs::thread_ns;
use super::violation::{Rule, Violation};
use crate::device::{
    Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, HostRange, Registration,
    ReleaseError, Segment, StorageMode, UnregisterError,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

pub use self::builder::{AppleModel, FakeAppleBuilder};
pub use self::costs::AppleCosts;
pub use self::heap::{Buffer, Heap, HeapDescriptor, PurgeableState};
pub use self::metal::Metal;

/// Size of a page on Apple silicon, of which heaps are multiples.
const PAGE: usize = 16 << 10;

/// Alignment of a buffer on a heap, as `heapBufferSizeAndAlignWithLength:` gives it on Apple silicon.
const ALIGNMENT: usize = 256;

/// The model of an Apple silicon GPU: one memory for host and device, no virtual memory.
///
/// * A segment is a placement heap with one buffer over all of it; a block is the buffer and an offset.
/// * `Shared` and `Private` storage exist; heaps of managed storage do not (documentation of `MTLHeap`).
/// * Heaps can be volatile, and then be discarded by [`Metal::purge_volatile`]; work that touches one is
///   a broken rule, and discarded contents are poison.
/// * Memory of the program can be [registered](crate::Allocator::register) if it consists of whole pages.
/// * Host functions of queues are called on threads that nobody else knows, one per function.
#[derive(Debug)]
pub struct FakeApple {
    properties: DeviceProperties,
    metal: Metal,
    control: Control,
}

impl FakeApple {
    /// A device with default settings.
    ///
    /// # Errors
    ///
    /// As for [`FakeAppleBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Starts building a device.
    pub fn builder() -> FakeAppleBuilder {
        FakeAppleBuilder::default()
    }

    fn build(builder: FakeAppleBuilder) -> Result<Self> {
        let FakeAppleBuilder { model, settings } = builder;
        let AppleModel {
            memory,
            working_set,
            buffer_bytes_max,
            costs,
        } = model;
        let percent = |share: u64| memory / 100 * share;
        let limits = Limits {
            working_set: working_set.unwrap_or(percent(84)),
            buffer_bytes_max: buffer_bytes_max.unwrap_or(percent(63)),
            poison: settings.poison,
        };
        let ordinal = settings.ordinal;
        let control = Control::new(settings, costs.event_signal_ns, costs.event_query_ns, true);
        let ledger = Arc::clone(control.ledger());
        let segment_bytes_max = usize::try_from(limits.buffer_bytes_max).unwrap_or(usize::MAX);
        Ok(Self {
            properties: DeviceProperties {
                kind: DeviceKind::FakeApple,
                ordinal,
                name: "model of an Apple silicon GPU".into(),
                unified: true,
                page_bytes: PAGE,
                granularity: PAGE,
                alignment_min: ALIGNMENT,
                segment_bytes_max: segment_bytes_max / PAGE * PAGE,
                storage_modes: vec![StorageMode::Shared, StorageMode::Private],
                numa_nodes: vec![0],
                parallelism: 1,
                peers: Vec::new(),
            },
            metal: Metal::new(ordinal, ledger, costs, memory, limits)?,
            control,
        })
    }

    /// The model below the device.
    #[must_use]
    pub fn metal(&self) -> &Metal {
        &self.metal
    }

    /// What the device saw, and what is to go wrong.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The rules broken so far; see [`Control::violations`].
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.control.violations()
    }

    /// Does one item of a queue; see [`Control::step`].
    pub fn step(&self, queue: u64) -> Step {
        self.control.step(queue)
    }

    /// Steps a queue up to a value of its timeline; see [`Control::run_until`].
    pub fn run_until(&self, queue: u64, value: u64) -> bool {
        self.control.run_until(queue, value)
    }
}

impl Device for FakeApple {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn budget(&self) -> Result<Budget> {
        self.control.ledger().enter(Call::Budget)?;
        let (total, used) = (
            self.metal.memory_bytes(),
            self.metal.current_allocated_size(),
        );
        Ok(Budget {
            total,
            available: Some(total - used),
            limit: Some(self.metal.recommended_max_working_set_size()),
        })
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.control.ledger().enter(Call::CreateSegment)?;
        if storage == StorageMode::Managed {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "fake:apple has no managed storage",
            ));
        }
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return Err(self.control.ledger().record(Violation {
                rule: Rule::Granularity,
                text: format!("a segment of {bytes} bytes; granularity is {PAGE}"),
            }));
        }
        let heap = self.metal.new_heap(&HeapDescriptor { bytes, storage })?;
        Ok(Box::new(AppleSegment::new(heap.new_buffer(bytes, 0)?)))
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        if let Err(error) = self.control.ledger().enter(Call::ReleaseSegment) {
            return Err(ReleaseError { segment, error });
        }
        if !segment
            .resource()
            .is_some_and(|object| self.metal.knows(object))
        {
            let error = self.control.ledger().record(Violation {
                rule: Rule::OwnMemory,
                text: format!("{segment:?} is not a segment of this device"),
            });
            return Err(ReleaseError { segment, error });
        }
        drop(segment);
        Ok(())
    }

    #[allow(unsafe_code)]
    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        self.control.ledger().enter(Call::Register)?;
        Ok(Box::new(NoCopyBuffer::new(&self.metal, memory)?))
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        let object = registration.resource();
        let known = object.is_some_and(|object| self.metal.knows(object));
        let entered = self.control.ledger().enter(Call::Unregister);
        match entered.and_then(|()| self.control.check_own(known, "registered memory")) {
            Ok(()) => {
                drop(registration);
                Ok(())
            }
            Err(error) => Err(UnregisterError {
                registration,
                error,
            }),
        }
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        let memory = Arc::new(self.metal.clone());
        self.control.create_queue(memory)
    }

    fn charged_ns(&self) -> u64 {
        self.control.ledger().charged_ns()
    }

    fn charged_to_thread_ns(&self) -> u64 {
        thread_ns()
    }
}

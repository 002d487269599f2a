//! Metal's memory objects on Apple silicon, in software.
//!
//! [`Metal`], [`Heap`] and [`Buffer`] model the objects by the rules of Apple's documentation;
//! [`FakeApple`] is a [`Device`] over them.

mod builder;
mod commands;
mod compute;
mod costs;
mod encoder;
mod event;
mod external;
mod fence;
mod heap;
mod labels;
mod managed;
mod metal;
mod no_copy;
mod order;
mod pools;
mod queue;
mod residency;
mod sparse;
mod virtual_memory;

use self::metal::Limits;
use self::queue::AppleQueue;
use self::virtual_memory::AppleMemory;
use super::call::Call;
use super::control::{Control, Step};
use super::costs::thread_ns;
use super::violation::{Rule, Violation};
use crate::binding::Resource;
use crate::device::metal::peers::peers_of;
use crate::device::metal::{MetalConfig, MetalDevice};
use crate::device::{
    Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, Exposure, HostRange, Location,
    Registration, ReleaseError, Segment, StorageMode, UnregisterError, VirtualMemory,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

pub use self::builder::{AppleGpu, AppleModel, FakeAppleBuilder};
pub use self::costs::AppleCosts;
pub use self::heap::{Buffer, Heap, HeapDescriptor, PurgeableState};
pub use self::labels::LiveObject;
pub use self::metal::Metal;
pub use crate::device::metal::{NoPlacementSparse, PlacementSparse};

/// The model of an Apple silicon GPU: one memory for host and device, and virtual memory only
/// [on demand](FakeAppleBuilder::placement_sparse). Others are [modelled](AppleGpu) too: the discrete GPU of an Intel Mac,
/// and Apple's GPU in a virtual machine.
///
/// * A segment is a placement heap with one buffer over all of it; a block is the buffer and an offset.
/// * `Shared` and `Private` storage exist; heaps of managed storage do not (documentation of `MTLHeap`). A discrete GPU has
///   `Managed` storage: buffers of which host and device have a copy each, so that what was not announced or synchronised
///   is not there.
/// * Discrete GPUs of one [peer group](FakeAppleBuilder::peer_group) read each other's private memory.
/// * Heaps can be volatile, and then be discarded by [`Metal::purge_volatile`]; work that touches one is
///   a broken rule, and discarded contents are poison.
/// * Memory of the program can be [registered](crate::Allocator::register) where the pages of 16 KiB that it lies on are
///   mapped whole, which on a Mac all are.
/// * A buffer on a heap has [an object of its own](crate::Buffer::object).
/// * Host functions of queues are called on threads that nobody else knows, one per function.
#[derive(Debug)]
pub struct FakeApple {
    device: MetalDevice<Metal>,
    memory: Option<AppleMemory>,
    control: Arc<Control>,
    creating: Mutex<()>,
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
            gpu,
            peer_group,
            host_memory,
            memory,
            working_set,
            buffer_bytes_max,
            macos,
            metal4,
            placement_sparse,
            residency,
            sparse_page_max,
            buffers_max,
            empty_no_copy,
            heap_padding,
            heap_alignment,
            event_wait_max,
            costs,
        } = model;
        if !heap_alignment.is_power_of_two() {
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!("an alignment of {heap_alignment} bytes on heaps; it is a power of two"),
            ));
        }
        residency.validate()?;
        let percent = |share: u64| memory / 100 * share;
        let ordinal = settings.ordinal;
        let (group, count) = peer_group.unwrap_or_default();
        if peer_group.is_some() && (group == 0 || ordinal >= u32::from(count)) {
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!(
                    "device {ordinal} joins peer group {group} of {count} devices; groups are numbered from 1 on, and their \
                     devices from 0 on"
                ),
            ));
        }
        let limits = Limits {
            gpu,
            peers: (group, ordinal),
            host_memory,
            working_set: working_set.unwrap_or(match gpu {
                AppleGpu::Discrete => memory,
                AppleGpu::Silicon | AppleGpu::Paravirtual => percent(84),
            }),
            buffer_bytes_max: buffer_bytes_max.unwrap_or(percent(63)),
            buffers_max,
            empty_no_copy,
            heap_padding,
            heap_alignment,
            event_wait_max,
            poison: settings.poison,
            macos,
            metal4,
            sparse_page_max,
        };
        let control = Control::new(settings, costs.event_signal_ns, costs.event_query_ns, true);
        let control = Arc::new(control);
        let metal = Metal::new(ordinal, &control, costs, memory, limits)?;
        let config = MetalConfig {
            placement_sparse,
            residency,
        };
        let groups = vec![group; usize::from(count)];
        let peers = peers_of(&groups, usize::try_from(ordinal).unwrap_or(usize::MAX));
        let device = MetalDevice::new(metal, DeviceKind::FakeApple, ordinal, config);
        let device = device.with_peers(peers);
        let memory = device.mapped_memory();
        Ok(Self {
            memory: memory.map(|memory| {
                let costs = device.metal().costs();
                AppleMemory::new(memory, costs, control.ledger())
            }),
            device,
            control,
            creating: Mutex::default(),
        })
    }

    /// The model below the device.
    #[must_use]
    pub fn metal(&self) -> &Metal {
        self.device.metal()
    }

    /// What became of [`placement_sparse`](FakeAppleBuilder::placement_sparse).
    #[must_use]
    pub fn placement_sparse(&self) -> &PlacementSparse {
        self.device.placement_sparse()
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

impl FakeApple {
    fn check_granularity(&self, bytes: usize) -> Result<()> {
        let granularity = self.properties().granularity;
        if bytes == 0 || !bytes.is_multiple_of(granularity) {
            return Err(self.control.ledger().record(Violation {
                rule: Rule::Granularity,
                text: format!("a segment of {bytes} bytes; granularity is {granularity}"),
            }));
        }
        Ok(())
    }

    /// Records a broken rule unless a driver's object is of this device.
    fn check_own(&self, object: Option<Resource>, what: &str) -> Result<()> {
        let known = object.is_some_and(|object| self.metal().knows(object));
        self.control.check_own(known, what)
    }
}

impl Device for FakeApple {
    fn properties(&self) -> &DeviceProperties {
        self.device.properties()
    }

    fn budget(&self) -> Result<Budget> {
        self.control.ledger().enter(Call::Budget)?;
        self.device.budget()
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.control.ledger().enter(Call::CreateSegment)?;
        self.check_granularity(bytes)?;
        self.device.create_segment(bytes, storage)
    }

    fn note_host_write(&self, start: &Location, bytes: usize) {
        self.device.note_host_write(start, bytes);
    }

    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        self.device.offers(exposure, storage)
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.control.ledger().enter(Call::CreateExposed)?;
        self.check_granularity(bytes)?;
        self.device.create_exposed(bytes, storage, node, exposure)
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        let entered = self.control.ledger().enter(Call::ReleaseSegment);
        let own = || self.check_own(segment.resource(), "a segment");
        if let Err(error) = entered.and_then(|()| own()) {
            return Err(ReleaseError { segment, error });
        }
        self.device.release_segment(segment)
    }

    #[allow(unsafe_code)]
    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        self.control.ledger().enter(Call::Register)?;
        // SAFETY: the caller's promise.
        unsafe { self.device.register(memory) }
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        let entered = self.control.ledger().enter(Call::Unregister);
        // One whose buffer was let go has no object any more.
        let own = self.device.has_registered(registration.as_ref());
        let own = || self.control.check_own(own, "registered memory");
        if let Err(error) = entered.and_then(|()| own()) {
            return Err(UnregisterError {
                registration,
                error,
            });
        }
        self.device.unregister(registration)
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        self.device.virtual_memory(storage)?;
        let memory = self.memory.as_ref()?;
        Some(memory)
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        // One at a time, so that the newest queue is this one.
        let _creating = self.creating.lock();
        let inner = self.device.create_queue()?;
        self.control.set_points(Arc::clone(inner.timeline()));
        Ok(Arc::new(AppleQueue::new(
            inner,
            self.metal(),
            self.control.ledger(),
        )))
    }

    fn charged_ns(&self) -> u64 {
        self.control.ledger().charged_ns()
    }

    fn charged_to_thread_ns(&self) -> u64 {
        thread_ns()
    }
}

#[cfg(test)]
mod tests;

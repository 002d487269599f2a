//! A discrete GPU as CUDA's driver shows it.

mod builder;
mod exposed;
mod link;
mod memory;
mod registration;
mod segment;
mod virtual_memory;

use std::any::Any;

use self::exposed::ExposedSegment;
use self::memory::Memory;
use self::virtual_memory::DiscreteMemory;
use super::call::Call;
use super::capacity::Capacity;
use super::control::{Control, Step};
use super::costs::thread_ns;
use super::violation::{Rule, Violation};
use crate::device::mapping::Mapper;
use crate::device::{
    Addressing, Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, Exposure, HostRange,
    Imported, Registration, ReleaseError, Segment, Staging, StorageMode, Topology, UnregisterError,
    VirtualMemory,
};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Export, Exported};
use crate::sync::Arc;

pub use self::builder::{DiscreteModel, FakeDiscreteBuilder};
pub use self::link::Link;

/// Sizes of handles and positions of mappings on an H200 (`cuMemGetAllocationGranularity`).
const GRANULARITY: usize = 2 << 20;

/// Bound on one segment, which keeps arithmetic on sizes far from overflow; CUDA documents none but the
/// memory there is.
const SEGMENT_BYTES_MAX: usize = if usize::BITS == 64 { 1 << 46 } else { 1 << 30 };

/// The model of a discrete GPU with CUDA's virtual memory (H200, driver 580).
///
/// * `Private` storage is device memory: the host has no address for it, queues reach it. It comes as
///   segments (`cudaMalloc`) and through [`VirtualMemory`]: handles of 2 MiB and multiples, mapped whole
///   from their start (a mapping at another offset is not supported by the driver), at as many addresses
///   as wanted, and inaccessible until [`allow_access`](crate::device::AddressRange::allow_access). New
///   contents are whatever was there before; here up to 4 MiB are poison and the rest zeroes.
/// * `Shared` storage is pinned host memory (`cudaMallocHost`), as segments only; its device address is
///   its host address, as with CUDA's unified addressing. It can be kept apart by the host's
///   [nodes](FakeDiscreteBuilder::topology).
/// * A handle released while it is still mapped holds its memory until the last mapping is gone
///   (documentation of `cuMemUnmap`), but work that touches it is a broken rule, since
///   [`VirtualMemory::release`] forbids it.
/// * Queues copy from and to host memory that the device does not know, as CUDA does. It can be
///   [registered](crate::Allocator::register), at any address, for what pinning costs.
/// * Private storage can be exported: by file descriptor, so that another process with such a device imports
///   it, and by a legacy handle, which is known within this process alone; unlike CUDA's it can be opened by
///   the process that made it. Memory made visible to peers is reached by the queues of [linked](Link) devices;
///   that of others is not, and work that touches it is a broken rule.
///
/// ```
/// use std::sync::Arc;
/// use weldpool::device::fake::FakeDiscrete;
/// use weldpool::{Allocator, Request, StorageMode};
///
/// # fn main() -> weldpool::Result<()> {
/// let device = Arc::new(FakeDiscrete::builder().seed(7).build()?);
/// let allocator = Allocator::builder(device.clone()).build()?;
/// let queue = allocator.create_queue()?;
/// let mut pinned = allocator.allocate(4096)?;
/// pinned.write::<u8>()?.fill(1);
/// let mut private = allocator.allocate_with(&Request::new(4096).storage(StorageMode::Private))?;
/// queue.copy(&pinned, &mut private)?.wait(None)?;
/// drop((pinned, private, queue, allocator));
/// assert!(device.violations().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FakeDiscrete {
    properties: DeviceProperties,
    memory: Arc<Memory>,
    virtual_memory: DiscreteMemory,
    control: Control,
    /// Of two nodes at least.
    topology: Option<Topology>,
}

impl FakeDiscrete {
    /// A device with default settings.
    ///
    /// # Errors
    ///
    /// As for [`FakeDiscreteBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Starts building a device.
    pub fn builder() -> FakeDiscreteBuilder {
        FakeDiscreteBuilder::default()
    }

    fn build(builder: FakeDiscreteBuilder) -> Result<Self> {
        let FakeDiscreteBuilder { model, settings } = builder;
        let DiscreteModel {
            memory,
            pinned,
            topology,
            costs,
            link,
        } = model;
        let ordinal = settings.ordinal;
        let poison = settings.poison;
        let control = Control::new(settings, costs.event_record_ns, costs.event_query_ns, false);
        let topology = topology.filter(|topology| topology.nodes().len() > 1);
        let capacities = match &topology {
            None => vec![pinned],
            Some(topology) => {
                let nodes = topology.nodes().iter();
                nodes
                    .map(|node| node.memory_bytes.unwrap_or(pinned))
                    .collect()
            }
        };
        let capacity = |bytes| Arc::new(Capacity::new(bytes));
        let memory = Memory::new(
            ordinal,
            Arc::clone(control.ledger()),
            Arc::new(Mapper::new()?),
            costs,
            capacity(memory),
            capacities.into_iter().map(capacity).collect(),
            poison,
        );
        let memory = Arc::new(memory.linked(link.clone()));
        let peers = match &link {
            None => Vec::new(),
            Some(link) if ordinal >= u32::from(link.count()) => {
                return Err(Error::with_message(
                    ErrorKind::InvalidConfig,
                    format!("device {ordinal} joins a link of {} devices", link.count()),
                ));
            }
            Some(link) => {
                link.join(&memory);
                (0..u32::from(link.count()))
                    .filter(|&peer| peer != ordinal)
                    .collect()
            }
        };
        Ok(Self {
            properties: DeviceProperties {
                kind: DeviceKind::FakeDiscrete,
                ordinal,
                name: "model of an NVIDIA H200".into(),
                unified: false,
                page_bytes: rustix::param::page_size(),
                granularity: GRANULARITY,
                alignment_min: 256,
                segment_bytes_max: SEGMENT_BYTES_MAX,
                storage_modes: vec![StorageMode::Shared, StorageMode::Private],
                numa_nodes: topology.as_ref().map_or(vec![0], |topology| {
                    topology.nodes().iter().map(|node| node.number).collect()
                }),
                parallelism: 1,
                peers,
                addressing: Addressing::Own,
                managed_copies: false,
                chip: None,
            },
            virtual_memory: DiscreteMemory::new(Arc::clone(&memory)),
            memory,
            control,
            topology,
        })
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

    /// Bytes of host memory that are pinned.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.memory.pinned_bytes().sum()
    }

    /// Bytes of host memory that are pinned on the node at a position of the topology.
    #[must_use]
    pub fn pinned_bytes_on(&self, node: usize) -> u64 {
        self.memory.pinned_bytes().nth(node).unwrap_or_default()
    }
}

/// As the CUDA device has it, but for as many threads as a small machine has.
const STAGING: Staging = Staging {
    pageable_bytes_max: Some(8 << 10),
    chunk_bytes: 2 << 20,
    chunk_bytes_min: 1 << 20,
    part_bytes: 512 << 10,
    threads_max: 4,
};

impl Device for FakeDiscrete {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn budget(&self) -> Result<Budget> {
        self.control.ledger().enter(Call::Budget)?;
        let private = self.memory.private();
        Ok(Budget {
            total: private.total(),
            available: Some(private.total() - private.used()),
            limit: None,
        })
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        let node = self.topology.as_ref().map_or(0, Topology::current);
        self.create_segment_on(bytes, storage, node)
    }

    fn create_segment_on(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
    ) -> Result<Box<dyn Segment>> {
        self.control.ledger().enter(Call::CreateSegment)?;
        self.memory.check_granularity(&[bytes], "a segment")?;
        match storage {
            StorageMode::Shared => Ok(Box::new(segment::Pinned::new(&self.memory, bytes, node)?)),
            StorageMode::Private => Ok(Box::new(segment::Private::new(&self.memory, bytes)?)),
            StorageMode::Managed => Err(Error::new(
                ErrorKind::Unsupported,
                "fake:discrete has no managed storage",
            )),
        }
    }

    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        let exports = match exposure.export {
            None => exposure.peers,
            Some(Export::FileDescriptor) => cfg!(target_os = "linux"),
            Some(Export::LegacyIpc) => true,
        };
        let seen = !exposure.peers || !self.properties.peers.is_empty();
        storage == StorageMode::Private && exports && seen
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        _node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.control.ledger().enter(Call::CreateExposed)?;
        self.memory
            .check_granularity(&[bytes], "an exposed segment")?;
        if !self.offers(exposure, storage) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "fake:discrete exports private storage, and has peers where it is linked",
            ));
        }
        let segment = ExposedSegment::create(&self.memory, bytes, exposure)?;
        Ok(Box::new(segment))
    }

    #[allow(unsafe_code)]
    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        self.control.ledger().enter(Call::Import)?;
        Ok(Imported {
            segment: Box::new(ExposedSegment::import(&self.memory, exported)?),
            storage: StorageMode::Private,
        })
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        if let Err(error) = self.control.ledger().enter(Call::ReleaseSegment) {
            return Err(ReleaseError { segment, error });
        }
        let known = segment.device_address().is_some_and(|address| {
            // Of an imported object less may have been claimed than it has.
            let mapped = self.memory.space().mapped_bytes(address);
            mapped.is_some_and(|mapped| mapped >= segment.bytes())
        });
        if !known {
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
        Ok(Box::new(registration::Registered::new(
            &self.memory,
            memory,
        )?))
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        let any: &dyn Any = registration.as_ref();
        let own = any.downcast_ref::<registration::Registered>();
        let known = own.is_some_and(|own| own.is_of(&self.memory));
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
        let memory = Arc::clone(&self.memory) as Arc<dyn super::queue::Memory>;
        self.control.create_queue(memory)
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        (storage == StorageMode::Private).then_some(&self.virtual_memory)
    }

    fn topology(&self, storage: StorageMode) -> Option<&Topology> {
        self.topology
            .as_ref()
            .filter(|_| storage == StorageMode::Shared)
    }

    fn staging(&self) -> Staging {
        STAGING
    }

    fn charged_ns(&self) -> u64 {
        self.control.ledger().charged_ns()
    }

    fn charged_to_thread_ns(&self) -> u64 {
        thread_ns()
    }
}

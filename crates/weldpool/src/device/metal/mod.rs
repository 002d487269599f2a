//! GPUs through Metal.
//!
//! The code here makes its calls through `raw`, which a Mac's Metal provides and, on any machine, the model under
//! [`FakeApple`](crate::device::fake::FakeApple). docs/metal.md lists the rules it relies on, with their sources.

mod blit;
mod config;
mod family;
mod kernels;
mod known;
mod mapped;
mod object;
pub(in crate::device) mod peers;
mod queue;
pub(in crate::device) mod raw;
mod registration;
mod residency;
mod resident;
mod segment;
mod timeline;
mod updates;
mod virtual_memory;
mod zero_copy;

use std::any::Any;

use self::family::Defaults;
use self::kernels::Kernels;
use self::known::Known;
use self::mapped::Mapped;
use self::queue::MetalQueue;
use self::raw::{Buffer, Family, Metal};
use self::registration::Wrapped;
use self::resident::Resident;
use self::segment::MetalSegment;
use self::virtual_memory::MetalMemory;
use crate::device::{
    Addressing, Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, Exposure, HostRange,
    Location, Registration, ReleaseError, Segment, StorageMode, UnregisterError, VirtualMemory,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Ordering};

pub use self::config::{MetalConfig, NoPlacementSparse, PlacementSparse};
pub use self::family::ChipFamily;
pub(in crate::device) use self::family::PARAVIRTUAL;
pub use self::residency::ResidencyConfig;

/// Above this a segment is a buffer of its own: a heap would hold nothing else.
const HEAP_BYTES_MAX: usize = 1 << 30;

/// What all parts of a device share.
#[derive(Debug)]
struct Shared<M: Metal> {
    metal: M,
    /// Of this opening of the device.
    number: u64,
    /// Whether managed storage is two copies.
    two_copies: bool,
    /// Whether segments lie on heaps.
    heaps: bool,
    /// Whether those of shared storage do too.
    shared_heaps: bool,
    known: Known<M>,
    /// Bytes of heaps that the system may take.
    parked: AtomicU64,
    resident: Resident<M>,
    kernels: Kernels<M>,
    /// What work waits for where memory is mapped.
    mapped: Option<Arc<Mapped<M>>>,
}

/// A GPU, over Metal or over the model of it.
#[derive(Debug)]
pub(in crate::device) struct MetalDevice<M: Metal> {
    properties: DeviceProperties,
    placement_sparse: PlacementSparse,
    memory: Option<Arc<MetalMemory<M>>>,
    shared: Arc<Shared<M>>,
}

impl<M: Metal> MetalDevice<M> {
    /// The device of this number among those of its kind.
    pub(in crate::device) fn new(
        metal: M,
        kind: DeviceKind,
        ordinal: u32,
        config: MetalConfig,
    ) -> Self {
        let (properties, defaults, resident) = M::pooled(|| {
            let properties = properties(&metal, kind, ordinal);
            let metal3 = metal.supports_family(Family::Metal3);
            let defaults = Defaults::of(properties.chip, metal3);
            let residency = ResidencyConfig {
                enabled: config.residency.enabled && defaults.residency_sets,
                ..config.residency
            };
            (properties, defaults, Resident::new(&metal, residency))
        });
        let (placement_sparse, opened) = open_sparse(&metal, &config, defaults.heaps);
        let shared = Arc::new(Shared {
            number: peers::next_number(),
            two_copies: properties.managed_copies,
            heaps: defaults.heaps,
            shared_heaps: defaults.shared_heaps,
            known: Known::new(metal.buffers_max()),
            parked: AtomicU64::new(0),
            resident,
            kernels: Kernels::default(),
            mapped: opened.as_ref().map(|opened| Arc::clone(&opened.mapped)),
            metal,
        });
        Self {
            properties,
            placement_sparse,
            memory: opened.map(|opened| Arc::new(M::pooled(|| MetalMemory::new(&shared, opened)))),
            shared,
        }
    }

    /// The same device, which reads memory of the devices of these numbers; see [`peers::peers_of`].
    pub(in crate::device) fn with_peers(mut self, peers: Vec<u32>) -> Self {
        self.properties.peers = peers;
        self
    }

    /// What became of [`MetalConfig::placement_sparse`].
    pub(in crate::device) fn placement_sparse(&self) -> &PlacementSparse {
        &self.placement_sparse
    }

    /// The memory that is mapped, for private storage, where there is such.
    pub(in crate::device) fn mapped_memory(&self) -> Option<Arc<dyn VirtualMemory>> {
        let memory = self.memory.as_ref()?;
        Some(Arc::clone(memory) as Arc<dyn VirtualMemory>)
    }

    /// What the device makes its calls through.
    pub(in crate::device) fn metal(&self) -> &M {
        &self.shared.metal
    }

    /// Whether registered memory is of this device.
    pub(in crate::device) fn has_registered(&self, registration: &dyn Registration) -> bool {
        let any: &dyn Any = registration;
        let own = any.downcast_ref::<Wrapped<M>>();
        own.is_some_and(|wrapped| wrapped.is_of(&self.shared))
    }

    fn check_length(&self, bytes: usize, storage: StorageMode) -> Result<()> {
        if !self.properties.storage_modes.contains(&storage) {
            return Err(Error::with_message(
                ErrorKind::Unsupported,
                format!("{} has no {storage} storage", self.properties.name),
            ));
        }
        if bytes == 0 || !bytes.is_multiple_of(self.properties.granularity) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "a segment of {bytes} bytes; it has to be a multiple of {}",
                    self.properties.granularity
                ),
            ));
        }
        if bytes > self.properties.segment_bytes_max {
            let text = format!(
                "a segment of {bytes} bytes; maxBufferLength is {}",
                self.properties.segment_bytes_max
            );
            let error = Error::with_message(ErrorKind::LimitExceeded, text);
            return Err(error.with_advice("ask for parts"));
        }
        Ok(())
    }

    /// Whether memory of this mode lies on a heap, which holds no managed storage (documentation of `MTLHeap`).
    fn lies_on_heap(&self, bytes: usize, storage: StorageMode) -> bool {
        let holds = match storage {
            StorageMode::Shared => self.shared.shared_heaps,
            StorageMode::Managed => false,
            StorageMode::Private => self.shared.heaps,
        };
        holds && bytes <= HEAP_BYTES_MAX
    }
}

/// Placement sparse buffers, if they are asked for and can be had; says once if they cannot.
fn open_sparse<M: Metal>(
    metal: &M,
    config: &MetalConfig,
    heaps: bool,
) -> (PlacementSparse, Option<virtual_memory::Opened<M>>) {
    if !config.placement_sparse {
        return (PlacementSparse::Off, None);
    }
    match M::pooled(|| virtual_memory::open(metal, config, heaps)) {
        Ok(opened) => {
            let page_bytes = opened.page.bytes();
            (PlacementSparse::On { page_bytes }, Some(opened))
        }
        Err(why) => {
            tracing::warn!(%why, "private memory comes as segments: placement sparse buffers cannot be had");
            (PlacementSparse::Unavailable(why), None)
        }
    }
}

fn properties<M: Metal>(metal: &M, kind: DeviceKind, ordinal: u32) -> DeviceProperties {
    let unified = metal.has_unified_memory();
    let page = metal.page_bytes();
    let shared = metal.heap_buffer_size_and_align(page, StorageMode::Shared);
    let private = metal.heap_buffer_size_and_align(page, StorageMode::Private);
    let longest = usize::try_from(metal.max_buffer_length()).unwrap_or(usize::MAX);
    let storage_modes = StorageMode::ALL.into_iter();
    // Where there is one memory, a copy of it gains nothing.
    let storage_modes = storage_modes.filter(|&mode| !unified || mode != StorageMode::Managed);
    DeviceProperties {
        kind,
        ordinal,
        name: metal.name(),
        unified,
        page_bytes: page,
        granularity: page,
        alignment_min: shared.align.max(private.align),
        segment_bytes_max: longest / page * page,
        storage_modes: storage_modes.collect(),
        numa_nodes: vec![0],
        parallelism: 1,
        peers: Vec::new(),
        addressing: Addressing::Objects,
        managed_copies: !unified,
        chip: ChipFamily::of(metal),
    }
}

impl<M: Metal> Device for MetalDevice<M> {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn budget(&self) -> Result<Budget> {
        let metal = &self.shared.metal;
        M::pooled(|| {
            let limit = metal.recommended_max_working_set_size();
            if !self.properties.unified {
                // Of memory of its own a GPU tells this alone; what it has allocated counts memory of the host too.
                return Ok(Budget {
                    total: limit,
                    available: None,
                    limit: None,
                });
            }
            let total = metal.memory_bytes();
            let parked = self.shared.parked.load(Ordering::Relaxed);
            let held = metal.current_allocated_size().saturating_sub(parked);
            Ok(Budget {
                total,
                available: Some(total.saturating_sub(held)),
                limit: (limit > 0).then_some(limit),
            })
        })
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.check_length(bytes, storage)?;
        let on_heap = self.lies_on_heap(bytes, storage);
        let segment = M::pooled(|| MetalSegment::new(&self.shared, bytes, storage, on_heap));
        Ok(Box::new(segment?))
    }

    fn note_host_write(&self, start: &Location, bytes: usize) {
        if !self.properties.managed_copies {
            return;
        }
        let Shared { known, metal, .. } = self.shared.as_ref();
        M::pooled(|| match known.find(metal, start, bytes) {
            Ok((buffer, at)) if buffer.storage_mode() == StorageMode::Managed => {
                buffer.did_modify_range(at..at + bytes);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the device was not told of what the host wrote"),
        });
    }

    /// Memory that peers read, and managed memory, which lies alone.
    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        let offered = match storage {
            StorageMode::Private => exposure.peers && !self.properties.peers.is_empty(),
            StorageMode::Managed => !exposure.peers && self.properties.managed_copies,
            StorageMode::Shared => false,
        };
        offered && exposure.export.is_none()
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        _node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.check_length(bytes, storage)?;
        if !self.offers(exposure, storage) {
            return Err(Error::with_message(
                ErrorKind::Unsupported,
                format!(
                    "{} shows private storage to its peers, of which it has {}, and nothing to other processes",
                    self.properties.name,
                    self.properties.peers.len()
                ),
            ));
        }
        let segment = M::pooled(|| {
            let segment = MetalSegment::new(&self.shared, bytes, storage, false)?;
            Ok(match exposure.peers {
                true => segment.shown(),
                false => segment,
            })
        });
        segment.map(|segment| Box::new(segment) as Box<dyn Segment>)
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        let resource = segment.resource();
        if !resource.is_some_and(|resource| self.shared.known.has(resource)) {
            let error = Error::new(
                ErrorKind::InvalidRequest,
                "the segment is not one of this device",
            );
            return Err(ReleaseError { segment, error });
        }
        M::pooled(|| drop(segment));
        Ok(())
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        let memory = self.memory.as_ref()?;
        (storage == StorageMode::Private).then_some(memory.as_ref() as &dyn VirtualMemory)
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        let queue = M::pooled(|| MetalQueue::new(&self.shared));
        Ok(Arc::new(queue?))
    }

    #[allow(unsafe_code)]
    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        let wrapped = M::pooled(|| Wrapped::new(&self.shared, memory));
        Ok(Box::new(wrapped?))
    }

    fn unregister(
        &self,
        mut registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        let own = self.has_registered(registration.as_ref());
        let any: &mut dyn Any = registration.as_mut();
        let ended = match any.downcast_mut::<Wrapped<M>>() {
            Some(wrapped) if own => wrapped.end(),
            _ => Err(Error::new(
                ErrorKind::InvalidRequest,
                "the registered memory is not of this device",
            )),
        };
        ended.map_err(|error| UnregisterError {
            registration,
            error,
        })
    }
}

impl<M: Metal> Drop for Shared<M> {
    fn drop(&mut self) {
        peers::forget(self.number);
    }
}

/// GPUs that this machine has.
#[cfg(target_os = "macos")]
pub(crate) fn count() -> u32 {
    u32::try_from(raw::objc::devices().len()).unwrap_or(u32::MAX)
}

/// Opens one of the GPUs of this Mac, by its number from 0 on, with settings of one's own;
/// [`Runtime::open_device`](crate::Runtime::open_device) takes the defaults. On macOS only.
///
/// # Errors
///
/// [`InvalidRequest`](ErrorKind::InvalidRequest) for a number that no GPU has,
/// [`InvalidConfig`](ErrorKind::InvalidConfig) naming a setting.
#[cfg(target_os = "macos")]
pub fn open(ordinal: u32, config: MetalConfig) -> Result<Arc<dyn Device>> {
    config.residency.validate()?;
    let devices = raw::objc::devices();
    let count = devices.len();
    let groups: Vec<_> =
        raw::objc::Device::pooled(|| devices.iter().map(Metal::peer_group_id).collect());
    let metal = devices.into_iter().nth(ordinal as usize).ok_or_else(|| {
        Error::with_message(
            ErrorKind::InvalidRequest,
            format!("Metal shows {count} devices, of which {ordinal} is none; numbers begin at 0"),
        )
    })?;
    let device = MetalDevice::new(metal, DeviceKind::Metal, ordinal, config);
    let peers = peers::peers_of(&groups, ordinal as usize);
    Ok(Arc::new(device.with_peers(peers)))
}

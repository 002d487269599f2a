//! An NVIDIA GPU, through the driver's library, which is opened when a device is.
//!
//! * `Private` storage is device memory, through virtual memory management: handles of 2 MiB and
//!   multiples, mapped whole, at as many addresses as wanted. Where the device has none, `cuMemAlloc`.
//! * `Shared` storage is host memory with its pages locked, which kernels reach over the bus; its address
//!   is one for host and device.
//! * `Managed` storage is the driver's unified memory. There is never more of it than the device has free.
//!
//! Calls are made in the device's primary context, whichever the calling thread has, and in relaxed capture
//! mode, so that none breaks a capture of CUDA graphs in any thread. After an error that a context does not
//! survive every call says [`DeviceLost`](crate::ErrorKind::DeviceLost), and what is returned counts as
//! returned.

#![allow(unsafe_code)]

mod adopted;
mod attribute;
mod context;
mod exposed;
mod host_functions;
mod queue;
mod raw;
mod registration;
mod segment;
mod status;
mod timeline;
mod virtual_memory;

use std::any::Any;
use std::ffi::c_void;

pub use self::adopted::AdoptedStreams;
use self::attribute::Attribute;
use self::context::{Context, driver};
use self::exposed::{MappedSegment, Sharing};
use self::queue::CudaQueue;
use self::raw::{Driver, Handle};
use self::registration::CudaRegistration;
use self::segment::{CudaSegment, HUGE_PAGE_BYTES};
use self::virtual_memory::CudaMemory;
use super::{
    Addressing, Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, Exposure, HostRange,
    Imported, Registration, ReleaseError, Segment, Staging, StorageMode, UnregisterError,
    VirtualMemory,
};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::sync::{Arc, AtomicU64};

/// Bound on one segment, which keeps arithmetic on sizes far from overflow; CUDA documents none but the
/// memory there is.
const SEGMENT_BYTES_MAX: usize = 1 << 46;

const STAGING: Staging = Staging {
    pageable_bytes_max: Some(8 << 10),
    chunk_bytes: 8 << 20,
    chunk_bytes_min: 1 << 20,
    part_bytes: 512 << 10,
    threads_max: 8,
};

/// The handle `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

/// An NVIDIA GPU.
#[derive(Debug)]
pub struct CudaDevice {
    properties: DeviceProperties,
    context: Arc<Context>,
    private: Option<CudaMemory>,
    pinned: Option<CudaMemory>,
    managed: Arc<AtomicU64>,
    sharing: Sharing,
}

impl CudaDevice {
    /// Number of devices that the driver shows to this process (`CUDA_VISIBLE_DEVICES` may hide some).
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when there is no driver of version 12.0 or later, saying why;
    /// otherwise what the driver says.
    pub fn count() -> Result<u32> {
        let driver = driver()?;
        let count = driver.device_count();
        let count = count.map_err(|status| status.error(driver, "cuDeviceGetCount"))?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Opens a device by its number and retains its primary context.
    ///
    /// # Errors
    ///
    /// As for [`count`](Self::count), and [`InvalidRequest`](ErrorKind::InvalidRequest) when there is no
    /// such device.
    pub fn open(ordinal: u32) -> Result<Self> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("there is no device cuda:{ordinal}; the driver shows {count}"),
            ));
        }
        let context = Context::retain(ordinal)?;
        let device = context.device();
        let attribute = |attribute: Attribute| {
            context.call("cuDeviceGetAttribute", |driver| {
                driver.device_attribute(device, attribute.number())
            })
        };
        let private = match attribute(Attribute::VirtualMemoryManagement)? {
            0 => None,
            _ => Some(CudaMemory::private(&context)?),
        };
        // A driver that does not know the attribute, or a device without it, has pinned segments.
        let pinned = match attribute(Attribute::HostVirtualMemoryManagement) {
            Ok(1..) => {
                let node = attribute(Attribute::HostNode).unwrap_or(0).max(0);
                let memory = CudaMemory::pinned(&context, node);
                memory
                    .inspect_err(|error| tracing::warn!(%error, "pinned memory comes as segments"))
                    .ok()
            }
            _ => None,
        };
        let granularity = [&private, &pinned]
            .into_iter()
            .flatten()
            .map(|memory| memory.properties().granularity)
            .fold(HUGE_PAGE_BYTES, usize::max);
        let mut storage_modes = vec![StorageMode::Shared];
        // Without it the host must not touch managed memory while the device works.
        if attribute(Attribute::ConcurrentManagedAccess)? != 0 {
            storage_modes.push(StorageMode::Managed);
        }
        storage_modes.push(StorageMode::Private);
        let pci = context.call("cuDeviceGetPCIBusId", |driver| {
            driver.device_pci_bus_id(device)
        })?;
        let others = || (0..count).filter(|&other| other != ordinal);
        let reaches = |from: u32, to: u32| can_access(&context, from, to);
        let peers: Vec<u32> = others().filter(|&peer| reaches(ordinal, peer)).collect();
        let reached_by = others().filter(|&peer| reaches(peer, ordinal)).collect();
        // A driver that does not know the attribute has none.
        let descriptors = attribute(Attribute::FileDescriptorHandles).is_ok_and(|has| has != 0);
        let handle_bytes = private
            .as_ref()
            .map(|memory: &CudaMemory| memory.properties().granularity);
        let sharing = Sharing::new(&context, handle_bytes, descriptors, reached_by);
        let properties = DeviceProperties {
            kind: DeviceKind::Cuda,
            ordinal,
            name: context.call("cuDeviceGetName", |driver| driver.device_name(device))?,
            unified: attribute(Attribute::Integrated)? != 0,
            page_bytes: rustix::param::page_size(),
            granularity,
            alignment_min: 256,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            storage_modes,
            numa_nodes: attribute::numa_node(&pci).into_iter().collect(),
            parallelism: 1,
            peers,
            addressing: Addressing::OneSpace,
            managed_copies: false,
            chip: None,
        };
        Ok(Self {
            private,
            pinned,
            properties,
            context,
            managed: Arc::default(),
            sharing,
        })
    }
}

impl CudaDevice {
    /// The id of a stream, which no other stream of this process ever has.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for `CU_STREAM_PER_THREAD`, which is another stream on each
    /// thread, [`Busy`](ErrorKind::Busy) while the stream records a graph, of which the question would be the end
    /// (`CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`, seen with driver 580), [`DeviceLost`](ErrorKind::DeviceLost), or what
    /// the driver says.
    ///
    /// # Safety
    ///
    /// The stream is alive, and of the device's primary context.
    pub unsafe fn stream_id(&self, stream: *mut c_void) -> Result<u64> {
        let id = |driver: &'static Driver| {
            // SAFETY: the caller's promise.
            let capturing = unsafe { driver.is_capturing(Handle(stream)) }?;
            if capturing {
                return Ok(None);
            }
            // SAFETY: as above.
            unsafe { driver.stream_id(Handle(stream)) }.map(Some)
        };
        let id = match stream.addr() {
            PER_THREAD => Err(Error::new(
                ErrorKind::InvalidRequest,
                "the per-thread default stream is another one on each thread and cannot be adopted",
            )),
            // The default streams of the thread's context.
            0 | 1 => self.context.call("cuStreamGetId", id),
            _ => self.context.ask("cuStreamGetId", id),
        };
        id?.ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "the stream records a graph, and which one it is can be asked only after the capture",
            )
        })
    }

    /// Whether a stream records a graph; of `CU_STREAM_PER_THREAD`, the calling thread's.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) in a function that a queue calls, [`DeviceLost`](ErrorKind::DeviceLost), or what the
    /// driver says.
    ///
    /// # Safety
    ///
    /// As for [`stream_id`](Self::stream_id).
    pub unsafe fn is_capturing(&self, stream: *mut c_void) -> Result<bool> {
        // SAFETY: the caller's promise.
        self.context.call("cuStreamIsCapturing", |driver| unsafe {
            driver.is_capturing(Handle(stream))
        })
    }

    /// A queue over somebody's stream, which stays theirs. [`AdoptedStreams`] finds such queues again.
    ///
    /// # Errors
    ///
    /// As for [`stream_id`](Self::stream_id).
    ///
    /// # Safety
    ///
    /// The stream is one of the device's primary context, and alive for as long as memory was freed in its order
    /// that waits for its work.
    pub unsafe fn adopt_stream(&self, stream: *mut c_void) -> Result<Arc<dyn DeviceQueue>> {
        // SAFETY: the caller's promise.
        let queue: Arc<CudaQueue> = unsafe { self.adopt(stream) }?;
        Ok(queue)
    }

    /// # Safety
    ///
    /// As for [`adopt_stream`](Self::adopt_stream).
    unsafe fn adopt(&self, stream: *mut c_void) -> Result<Arc<CudaQueue>> {
        // SAFETY: the caller's promise.
        let _known = unsafe { self.stream_id(stream) }?;
        // SAFETY: the caller's promise.
        Ok(Arc::new(unsafe {
            CudaQueue::adopt(&self.context, Handle(stream))
        }))
    }
}

/// Whether a device reaches the memory of another; no answer is no.
fn can_access(context: &Context, from: u32, to: u32) -> bool {
    let (Ok(from), Ok(to)) = (context.number_of(from), context.number_of(to)) else {
        return false;
    };
    let can = context.call("cuDeviceCanAccessPeer", |driver| {
        driver.can_access_peer(from, to)
    });
    can.unwrap_or(false)
}

impl Device for CudaDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn budget(&self) -> Result<Budget> {
        let (free, total) = self.context.call("cuMemGetInfo", Driver::memory_info)?;
        Ok(Budget {
            total: total as u64,
            available: Some(free as u64),
            limit: None,
        })
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        let segment = match storage {
            StorageMode::Shared => CudaSegment::pinned(&self.context, bytes),
            StorageMode::Private => CudaSegment::private(&self.context, bytes),
            StorageMode::Managed if !self.properties.storage_modes.contains(&storage) => {
                Err(Error::new(
                    ErrorKind::Unsupported,
                    "this device has no managed memory that host and device may use at once",
                ))
            }
            StorageMode::Managed => CudaSegment::managed(&self.context, bytes, &self.managed),
        };
        Ok(Box::new(segment?))
    }

    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        self.sharing.offers(exposure, storage)
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        _node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.sharing.create(bytes, storage, exposure)
    }

    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        self.sharing.import(exported)
    }

    fn release_segment(
        &self,
        mut segment: Box<dyn Segment>,
    ) -> std::result::Result<(), ReleaseError> {
        let any: &mut dyn Any = segment.as_mut();
        let result = if let Some(segment) = any.downcast_mut::<CudaSegment>() {
            segment.give_back()
        } else if let Some(segment) = any.downcast_mut::<MappedSegment>() {
            segment.give_back()
        } else {
            Err(Error::new(
                ErrorKind::InvalidRequest,
                "the segment is of another device",
            ))
        };
        result.map_err(|error| ReleaseError { segment, error })
    }

    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        // SAFETY: the caller's promise.
        let registration = unsafe { CudaRegistration::new(&self.context, memory) }?;
        Ok(Box::new(registration))
    }

    fn unregister(
        &self,
        mut registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        let any: &mut dyn Any = registration.as_mut();
        let result = match any.downcast_mut::<CudaRegistration>() {
            Some(registration) => registration.end(),
            None => Err(Error::new(
                ErrorKind::InvalidRequest,
                "the memory is registered with another device",
            )),
        };
        result.map_err(|error| UnregisterError {
            registration,
            error,
        })
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        Ok(Arc::new(CudaQueue::create(&self.context)?))
    }

    fn may_be_called(&self) -> bool {
        !host_functions::is_inside()
    }

    fn staging(&self) -> Staging {
        STAGING
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        let memory = match storage {
            StorageMode::Private => &self.private,
            StorageMode::Shared => &self.pinned,
            StorageMode::Managed => &None,
        };
        memory.as_ref().map(|memory| memory as &dyn VirtualMemory)
    }
}

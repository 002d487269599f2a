//! The functions of NVIDIA's driver library, found at run time, one safe or thin wrapper each.
//!
//! Types are `cudarc`'s. The table of functions is ours for two reasons: a library that
//! lacks a function must be an error and not a panic, and what a newer driver answers may be a number that
//! an `enum` does not have.

#![allow(unsafe_code)]
#![allow(non_snake_case, reason = "the driver's names")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use cudarc::driver::sys::{
    CUDA_MEMCPY2D, CUipcMemHandle_st, CUmemAccess_flags_enum, CUmemAccessDesc,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationType_enum, CUmemLocation,
    CUmemLocationType_enum, CUmemorytype,
};
use libloading::Library;

use super::status::Status;
use crate::sync::OnceLock;
use crate::transfer::Rows;

mod sharing;

type Result<T> = std::result::Result<T, Status>;

/// Where physical memory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a device's memory, by the driver's number of the device.
    Device(c_int),
    /// In the host's memory, by the system's number of the node.
    Host(c_int),
}

/// An object of the driver's (context, stream, event), known by a pointer that only the driver follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(pub(super) *mut c_void);

// SAFETY: the driver's functions may be called with a handle from any thread (CUDA C++ programming guide,
// driver API); this side never follows the pointer.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`.
unsafe impl Sync for Handle {}

macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// Pointers to the functions.
        #[derive(Clone, Copy)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> c_uint,)*
        }

        impl Functions {
            /// All of them, or the name of one that the library does not have.
            fn load(library: &'static Library) -> std::result::Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        // SAFETY: the signature is that of the driver's header (cuda.h, 12.0).
                        let symbol = unsafe { library.get(name.as_bytes()) };
                        *symbol.map_err(|_| stringify!($name))?
                    },)*
                })
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuGetErrorName(c_uint, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_uint, c_int);
    cuDeviceGetPCIBusId(*mut c_char, c_int, c_int);
    cuDeviceCanAccessPeer(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut *mut c_void, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxGetCurrent(*mut *mut c_void);
    cuCtxPushCurrent_v2(*mut c_void);
    cuCtxPopCurrent_v2(*mut *mut c_void);
    cuThreadExchangeStreamCaptureMode(*mut c_uint);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemAllocManaged(*mut u64, usize, c_uint);
    cuMemHostRegister_v2(*mut c_void, usize, c_uint);
    cuMemHostUnregister(*mut c_void);
    cuMemHostGetDevicePointer_v2(*mut u64, *mut c_void, c_uint);
    cuMemGetAllocationGranularity(*mut usize, *const CUmemAllocationProp, c_uint);
    cuMemAddressReserve(*mut u64, usize, usize, u64, c_ulonglong);
    cuMemAddressFree(u64, usize);
    cuMemCreate(*mut u64, usize, *const CUmemAllocationProp, c_ulonglong);
    cuMemRelease(u64);
    cuMemMap(u64, usize, usize, u64, c_ulonglong);
    cuMemSetAccess(u64, usize, *const CUmemAccessDesc, usize);
    cuMemUnmap(u64, usize);
    cuStreamCreate(*mut *mut c_void, c_uint);
    cuStreamDestroy_v2(*mut c_void);
    cuStreamGetId(*mut c_void, *mut c_ulonglong);
    cuStreamIsCapturing(*mut c_void, *mut c_uint);
    cuStreamSynchronize(*mut c_void);
    cuStreamWaitEvent(*mut c_void, *mut c_void, c_uint);
    cuLaunchHostFunc(*mut c_void, unsafe extern "C" fn(*mut c_void), *mut c_void);
    cuEventCreate(*mut *mut c_void, c_uint);
    cuEventRecord(*mut c_void, *mut c_void);
    cuEventQuery(*mut c_void);
    cuEventDestroy_v2(*mut c_void);
    cuMemExportToShareableHandle(*mut c_void, u64, c_uint, c_ulonglong);
    cuMemImportFromShareableHandle(*mut u64, *mut c_void, c_uint);
    cuMemGetAllocationPropertiesFromHandle(*mut CUmemAllocationProp, u64);
    cuIpcGetMemHandle(*mut CUipcMemHandle_st, u64);
    cuIpcOpenMemHandle_v2(*mut u64, CUipcMemHandle_st, c_uint);
    cuIpcCloseMemHandle(u64);
    cuMemGetAddressRange_v2(*mut u64, *mut usize, u64);
    cuCtxEnablePeerAccess(*mut c_void, c_uint);
    cuMemcpyAsync(u64, u64, usize, *mut c_void);
    cuMemcpy2DAsync_v2(*const CUDA_MEMCPY2D, *mut c_void);
    cuMemsetD8Async(u64, u8, usize, *mut c_void);
}

/// The driver library of this process.
pub(super) struct Driver {
    functions: Functions,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

/// Why there is no driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// No library could be loaded; what the loader said of each name.
    Library(String),
    /// The library is older than what this crate needs: it lacks this function.
    Function(&'static str),
    /// The library does not work here (`cuInit`); the driver's name of the result, if it has one.
    Init(Status, Option<&'static str>),
}

/// The names of the driver's library: what a driver installs, and what comes with tools for building.
const LIBRARIES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// Everything is readable and writable from the device.
const READ_WRITE: CUmemAccess_flags_enum =
    CUmemAccess_flags_enum::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const CAPTURE_RELAXED: c_uint = 2;
/// `CU_STREAM_NON_BLOCKING`: no order with the legacy default stream.
const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
const REGISTER_PORTABLE_MAPPED: c_uint = 1 | 2;
/// `CU_MEMHOSTREGISTER_READ_ONLY`.
const REGISTER_READ_ONLY: c_uint = 8;
/// `CU_MEM_ATTACH_GLOBAL`.
const ATTACH_GLOBAL: c_uint = 1;
/// Longest name asked for, in bytes.
const NAME_BYTES: usize = 256;

impl Driver {
    /// The driver, opened and initialised by the first call.
    pub(super) fn get() -> std::result::Result<&'static Self, &'static Missing> {
        static DRIVER: OnceLock<std::result::Result<Driver, Missing>> = OnceLock::new();
        DRIVER.get_or_init(Self::open).as_ref()
    }

    fn open() -> std::result::Result<Self, Missing> {
        // It stays for the life of the process, as contexts of others in it may.
        let library = Box::leak(Box::new(Self::load()?));
        let functions = Functions::load(library).map_err(Missing::Function)?;
        let driver = Self { functions };
        // SAFETY: any thread may initialise the driver at any time.
        let number = unsafe { (functions.cuInit)(0) };
        Status::check(number).map_err(|status| Missing::Init(status, driver.error_name(number)))?;
        Ok(driver)
    }

    fn load() -> std::result::Result<Library, Missing> {
        let mut said = Vec::new();
        for name in LIBRARIES {
            // SAFETY: opening NVIDIA's library runs its initialisers, which have no requirement.
            match unsafe { Library::new(name) } {
                Ok(library) => return Ok(library),
                // What the system's loader said, name and all, is behind the crate's own words.
                Err(error) => said.push(match std::error::Error::source(&error) {
                    Some(source) => source.to_string(),
                    None => format!("{name}: {error}"),
                }),
            }
        }
        Err(Missing::Library(said.join("; ")))
    }

    /// What a function wrote to the place it was given, if it succeeded.
    fn written<T>(call: impl FnOnce(*mut T) -> c_uint) -> Result<T> {
        let mut value = MaybeUninit::zeroed();
        Status::check(call(value.as_mut_ptr()))?;
        // SAFETY: it succeeded, so it wrote the value; only numbers, pointers and plain structures of
        // them are asked for, of which zeroes would be one too.
        Ok(unsafe { value.assume_init() })
    }

    /// The driver's name of a result.
    pub(super) fn error_name(&self, number: c_uint) -> Option<&'static str> {
        // SAFETY: the place is writable.
        let name = Self::written(|at| unsafe { (self.functions.cuGetErrorName)(number, at) });
        let name = NonNull::new(name.ok()?.cast_mut())?;
        // SAFETY: the driver gives a string of its own that ends with zero and stays.
        unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().ok()
    }

    pub(super) fn device_count(&self) -> Result<c_int> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuDeviceGetCount)(at) })
    }

    pub(super) fn device(&self, ordinal: c_int) -> Result<c_int> {
        // SAFETY: the place is writable; the driver checks the number.
        Self::written(|at| unsafe { (self.functions.cuDeviceGet)(at, ordinal) })
    }

    /// A text that a function writes to a place of `NAME_BYTES` bytes.
    fn text(call: impl FnOnce(*mut c_char, c_int) -> c_uint) -> Result<String> {
        let mut text = [0_u8; NAME_BYTES];
        Status::check(call(text.as_mut_ptr().cast(), NAME_BYTES as c_int))?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    pub(super) fn device_name(&self, device: c_int) -> Result<String> {
        // SAFETY: the place is writable for as many bytes as are named.
        Self::text(|at, bytes| unsafe { (self.functions.cuDeviceGetName)(at, bytes, device) })
    }

    /// Domain, bus and device, as in `0000:18:00.0`.
    pub(super) fn device_pci_bus_id(&self, device: c_int) -> Result<String> {
        // SAFETY: the place is writable for as many bytes as are named.
        Self::text(|at, bytes| unsafe { (self.functions.cuDeviceGetPCIBusId)(at, bytes, device) })
    }

    pub(super) fn device_attribute(&self, device: c_int, attribute: c_uint) -> Result<c_int> {
        // SAFETY: the place is writable; the driver checks the numbers.
        Self::written(|at| unsafe { (self.functions.cuDeviceGetAttribute)(at, attribute, device) })
    }

    pub(super) fn can_access_peer(&self, device: c_int, peer: c_int) -> Result<bool> {
        // SAFETY: the place is writable.
        let can =
            Self::written(|at| unsafe { (self.functions.cuDeviceCanAccessPeer)(at, device, peer) });
        can.map(|can: c_int| can != 0)
    }

    pub(super) fn retain_primary_context(&self, device: c_int) -> Result<Handle> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuDevicePrimaryCtxRetain)(at, device) })
            .map(Handle)
    }

    pub(super) fn release_primary_context(&self, device: c_int) -> Result<()> {
        // SAFETY: the caller retained it; whatever is left in it is the driver's to clean up.
        Status::check(unsafe { (self.functions.cuDevicePrimaryCtxRelease_v2)(device) })
    }

    pub(super) fn current_context(&self) -> Result<Handle> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuCtxGetCurrent)(at) }).map(Handle)
    }

    pub(super) fn push_context(&self, context: Handle) -> Result<()> {
        // SAFETY: the context is retained by the caller.
        Status::check(unsafe { (self.functions.cuCtxPushCurrent_v2)(context.0) })
    }

    pub(super) fn pop_context(&self) -> Result<()> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuCtxPopCurrent_v2)(at) })
            .map(|_: *mut c_void| ())
    }

    /// Sets the calling thread's mode of stream capture to relaxed, in which no call of it can break a
    /// capture; returns the mode before.
    pub(super) fn relax_capture(&self) -> Result<c_uint> {
        self.exchange_capture_mode(CAPTURE_RELAXED)
    }

    pub(super) fn exchange_capture_mode(&self, mut mode: c_uint) -> Result<c_uint> {
        // SAFETY: the place is readable and writable.
        Status::check(unsafe {
            (self.functions.cuThreadExchangeStreamCaptureMode)(&raw mut mode)
        })?;
        Ok(mode)
    }

    /// Free and total bytes of the current context's device.
    pub(super) fn memory_info(&self) -> Result<(usize, usize)> {
        let mut total = 0;
        // SAFETY: both places are writable.
        let free =
            Self::written(|at| unsafe { (self.functions.cuMemGetInfo_v2)(at, &raw mut total) })?;
        Ok((free, total))
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuMemAlloc_v2)(at, bytes) })
    }

    pub(super) fn allocate_managed(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuMemAllocManaged)(at, bytes, ATTACH_GLOBAL) })
    }

    /// # Safety
    ///
    /// The address is that of an allocation that nothing uses any more.
    pub(super) unsafe fn free(&self, address: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemFree_v2)(address) })
    }

    /// Locks pages and makes them known to every device, which does not write to them if they are read-only.
    ///
    /// # Safety
    ///
    /// The memory is mapped, and stays so until it is unregistered.
    pub(super) unsafe fn register_host(
        &self,
        address: NonNull<u8>,
        bytes: usize,
        read_only: bool,
    ) -> Result<()> {
        let flags = match read_only {
            true => REGISTER_PORTABLE_MAPPED | REGISTER_READ_ONLY,
            false => REGISTER_PORTABLE_MAPPED,
        };
        let address = address.as_ptr().cast();
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemHostRegister_v2)(address, bytes, flags) })
    }

    /// # Safety
    ///
    /// The memory is registered, and no device uses it any more.
    pub(super) unsafe fn unregister_host(&self, address: NonNull<u8>) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemHostUnregister)(address.as_ptr().cast()) })
    }

    /// The device's address of registered memory.
    pub(super) fn host_device_address(&self, address: NonNull<u8>) -> Result<u64> {
        let address = address.as_ptr().cast();
        // SAFETY: the place is writable; the driver looks the address up.
        Self::written(|at| unsafe { (self.functions.cuMemHostGetDevicePointer_v2)(at, address, 0) })
    }

    /// Least size of a handle and of a mapping.
    pub(super) fn granularity(&self, place: Place) -> Result<usize> {
        let properties = physical_properties(place, false);
        // SAFETY: both places are valid; 0 asks for the minimum.
        Self::written(|at| unsafe {
            (self.functions.cuMemGetAllocationGranularity)(at, &raw const properties, 0)
        })
    }

    pub(super) fn reserve_addresses(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the place is writable; the driver picks the addresses.
        Self::written(|at| unsafe { (self.functions.cuMemAddressReserve)(at, bytes, 0, 0, 0) })
    }

    /// # Safety
    ///
    /// The addresses were reserved as one, and nothing is mapped there.
    pub(super) unsafe fn free_addresses(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemAddressFree)(address, bytes) })
    }

    /// Physical memory, as one handle.
    pub(super) fn create_physical(
        &self,
        place: Place,
        bytes: usize,
        exportable: bool,
    ) -> Result<u64> {
        let properties = physical_properties(place, exportable);
        // SAFETY: both places are valid.
        Self::written(|at| unsafe {
            (self.functions.cuMemCreate)(at, bytes, &raw const properties, 0)
        })
    }

    /// # Safety
    ///
    /// The handle is the caller's, and nothing uses its memory any more.
    pub(super) unsafe fn release_physical(&self, handle: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemRelease)(handle) })
    }

    /// # Safety
    ///
    /// The addresses are the caller's, and nothing is mapped there. A handle of another size, longer or shorter, the
    /// driver refuses as not supported.
    pub(super) unsafe fn map(&self, address: u64, bytes: usize, handle: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemMap)(address, bytes, 0, handle, 0) })
    }

    /// Makes mapped memory readable and writable from these places.
    ///
    /// # Safety
    ///
    /// The addresses are the caller's, and memory is mapped everywhere there.
    pub(super) unsafe fn allow_access(
        &self,
        address: u64,
        bytes: usize,
        from: &[Place],
    ) -> Result<()> {
        let access: Vec<_> = from.iter().map(|&place| access_of(place)).collect();
        // SAFETY: the caller's promise; the list is as long as said.
        Status::check(unsafe {
            (self.functions.cuMemSetAccess)(address, bytes, access.as_ptr(), access.len())
        })
    }

    /// # Safety
    ///
    /// Nothing uses the addresses; each mapping is inside altogether.
    pub(super) unsafe fn unmap(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemUnmap)(address, bytes) })
    }

    pub(super) fn create_stream(&self) -> Result<Handle> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuStreamCreate)(at, STREAM_NON_BLOCKING) })
            .map(Handle)
    }

    /// What was submitted is still done.
    ///
    /// # Safety
    ///
    /// The stream is the caller's and not used any more.
    pub(super) unsafe fn destroy_stream(&self, stream: Handle) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuStreamDestroy_v2)(stream.0) })
    }

    /// # Safety
    ///
    /// The stream is alive.
    pub(super) unsafe fn stream_id(&self, stream: Handle) -> Result<u64> {
        // SAFETY: the caller's promise; the place is writable.
        Self::written(|at| unsafe { (self.functions.cuStreamGetId)(stream.0, at) })
    }

    /// Whether work given to the stream is recorded for a graph rather than done.
    ///
    /// # Safety
    ///
    /// The stream is alive.
    pub(super) unsafe fn is_capturing(&self, stream: Handle) -> Result<bool> {
        // SAFETY: the caller's promise; the place is writable.
        let status =
            Self::written(|at| unsafe { (self.functions.cuStreamIsCapturing)(stream.0, at) });
        status.map(|status: c_uint| status != 0)
    }

    /// # Safety
    ///
    /// Stream and event are alive.
    pub(super) unsafe fn wait_event(&self, stream: Handle, event: Handle) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuStreamWaitEvent)(stream.0, event.0, 0) })
    }

    /// # Safety
    ///
    /// The stream is alive; `function` may be called once with `argument` from a thread of the driver's.
    pub(super) unsafe fn launch_host(
        &self,
        stream: Handle,
        function: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuLaunchHostFunc)(stream.0, function, argument) })
    }

    pub(super) fn create_event(&self) -> Result<Handle> {
        // SAFETY: the place is writable.
        Self::written(|at| unsafe { (self.functions.cuEventCreate)(at, EVENT_DISABLE_TIMING) })
            .map(Handle)
    }

    /// # Safety
    ///
    /// Event and stream are alive.
    pub(super) unsafe fn record_event(&self, event: Handle, stream: Handle) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuEventRecord)(event.0, stream.0) })
    }

    /// Whether the work before an event is done.
    ///
    /// # Safety
    ///
    /// The event is alive.
    pub(super) unsafe fn is_event_complete(&self, event: Handle) -> Result<bool> {
        // SAFETY: the caller's promise.
        match Status::check(unsafe { (self.functions.cuEventQuery)(event.0) }) {
            Ok(()) => Ok(true),
            Err(Status::NOT_READY) => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// # Safety
    ///
    /// The event is the caller's and not used any more.
    pub(super) unsafe fn destroy_event(&self, event: Handle) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuEventDestroy_v2)(event.0) })
    }

    /// Blocks until the stream's work is done.
    ///
    /// # Safety
    ///
    /// The stream is alive.
    pub(super) unsafe fn synchronize_stream(&self, stream: Handle) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuStreamSynchronize)(stream.0) })
    }

    /// Addresses are those of one address space for host and devices.
    ///
    /// # Safety
    ///
    /// As for [`DeviceQueue::copy`](crate::device::DeviceQueue::copy).
    pub(super) unsafe fn copy(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: Handle,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemcpyAsync)(to, from, bytes, stream.0) })
    }

    /// Addresses as for [`copy`](Self::copy); pitches of less than 2 GiB.
    ///
    /// # Safety
    ///
    /// As for [`DeviceQueue::copy_rows`](crate::device::DeviceQueue::copy_rows).
    pub(super) unsafe fn copy_rows(
        &self,
        to: u64,
        from: u64,
        rows: Rows,
        stream: Handle,
    ) -> Result<()> {
        // Of unified memory the driver reads the device's address, whichever memory it is of.
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            srcHost: std::ptr::null(),
            srcDevice: from,
            srcArray: std::ptr::null_mut(),
            srcPitch: rows.source_pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            dstPitch: rows.destination_pitch,
            WidthInBytes: rows.bytes,
            Height: rows.count,
        };
        // SAFETY: the caller's promise; the driver reads the structure before it returns.
        Status::check(unsafe { (self.functions.cuMemcpy2DAsync_v2)(&raw const copy, stream.0) })
    }

    /// # Safety
    ///
    /// As for [`DeviceQueue::fill`](crate::device::DeviceQueue::fill).
    pub(super) unsafe fn fill(
        &self,
        to: u64,
        value: u8,
        bytes: usize,
        stream: Handle,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuMemsetD8Async)(to, value, bytes, stream.0) })
    }
}

fn location_of(place: Place) -> CUmemLocation {
    let mut location: CUmemLocation = zeroed();
    (location.type_, location.id) = match place {
        Place::Device(device) => (CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE, device),
        Place::Host(node) => (CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST_NUMA, node),
    };
    location
}

/// Memory that is shared with nobody, or that can be exported as a file descriptor.
fn physical_properties(place: Place, exportable: bool) -> CUmemAllocationProp {
    let mut properties: CUmemAllocationProp = zeroed();
    properties.type_ = CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = if exportable {
        CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    } else {
        CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE
    };
    properties.location = location_of(place);
    properties
}

fn access_of(place: Place) -> CUmemAccessDesc {
    CUmemAccessDesc {
        location: location_of(place),
        flags: READ_WRITE,
    }
}

/// A structure of the driver's with everything zero, as its documentation wants reserved fields.
fn zeroed<T: Copy>() -> T {
    // SAFETY: used for structures of numbers, pointers and enumerations that have a zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

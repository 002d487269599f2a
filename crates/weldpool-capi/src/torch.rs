//! PyTorch's pluggable allocator (`torch.cuda.memory.CUDAPluggableAllocator`), over one pool per device.
//!
//! Memory is allocated and freed in the order of the streams that PyTorch names, as its own allocator does.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use memory::device::cuda::{AdoptedStreams, CudaDevice};
use memory::{Allocator, Config, Device, Error, ErrorKind, Queue, Request, Result, StorageMode};

use crate::frees::Frees;
use crate::last_error::{guarded, note};

/// Devices that a process can have pools for.
const DEVICES_MAX: usize = 64;

/// The pools that were opened, by the number of their device.
static POOLS: [OnceLock<Pool>; DEVICES_MAX] = [const { OnceLock::new() }; DEVICES_MAX];

/// The pool of a device.
struct Pool {
    allocator: Allocator,
    streams: AdoptedStreams,
    frees: Frees<Stream>,
}

/// A stream's handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream(*mut c_void);

// SAFETY: the driver takes a stream's handle from any thread, and nothing else follows it.
unsafe impl Send for Stream {}

impl Pool {
    fn open(device: u32) -> Result<Self> {
        let device = Arc::new(CudaDevice::open(device)?);
        let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>)
            .config(Config::from_env()?)
            .name(format!("torch:{}", device.properties().ordinal))
            .build()?;
        Ok(Self {
            streams: AdoptedStreams::new(allocator.clone(), device),
            allocator,
            frees: Frees::default(),
        })
    }

    /// The pool of a device, opened when it is first asked for; a failure is tried again.
    fn of(device: c_int) -> Result<&'static Self> {
        static OPENING: Mutex<()> = Mutex::new(());
        let place = place_of(device)?;
        if let Some(pool) = place.get() {
            return Ok(pool);
        }
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = place.get() {
            return Ok(pool);
        }
        let pool = Self::open(device.unsigned_abs())?;
        Ok(place.get_or_init(|| pool))
    }

    /// The queue of a stream.
    ///
    /// # Safety
    ///
    /// As for [`AdoptedStreams::queue`].
    unsafe fn queue(&self, Stream(stream): Stream) -> Result<Arc<Queue>> {
        // SAFETY: the caller's promise.
        unsafe { self.streams.queue(stream) }
    }

    /// Tries frees again that are owed.
    fn retry(&self) {
        self.frees.retry(|stream| {
            // SAFETY: a stream that a free names is alive until it is forgotten, which settles that free.
            unsafe { self.queue(stream) }
        });
    }
}

/// Where the pool of a device is, once it is opened.
fn place_of(device: c_int) -> Result<&'static OnceLock<Pool>> {
    let number = usize::try_from(device).ok();
    let place = number.and_then(|number| POOLS.get(number));
    place.ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidRequest,
            "there is no device of this number",
        )
    })
}

/// Memory of `device` for work on `stream`: PyTorch's `alloc_fn`. Null for no bytes, when there is no memory, and on a
/// stream that records a CUDA graph.
///
/// # Safety
///
/// The stream has to be one of the device's primary context, and alive until [`weldpool_torch_forget_stream`] or the
/// end of the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_malloc(
    bytes: isize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { allocate("weldpool_torch_malloc", bytes, 0, device, stream) }
}

/// As [`weldpool_torch_malloc`], at a multiple of `alignment`, a power of two up to 1 GiB. Every address is one of 256.
///
/// # Safety
///
/// The stream has to be as [`weldpool_torch_malloc`] wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_malloc_aligned(
    bytes: isize,
    alignment: usize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    let name = "weldpool_torch_malloc_aligned";
    // SAFETY: the caller's promise.
    unsafe { allocate(name, bytes, alignment, device, stream) }
}

/// What both do; `alignment` is 0 for whichever.
///
/// # Safety
///
/// As for [`weldpool_torch_malloc`].
unsafe fn allocate(
    name: &str,
    bytes: isize,
    alignment: usize,
    device: c_int,
    stream: *mut c_void,
) -> *mut c_void {
    guarded(name, std::ptr::null_mut(), || {
        let bytes = usize::try_from(bytes)
            .map_err(|_| Error::new(ErrorKind::InvalidRequest, "a negative size"))?;
        if bytes == 0 {
            // Callers do that with empty tensors, so nobody's standard error hears of it.
            note(name, "no bytes were asked for");
            return Ok(std::ptr::null_mut());
        }
        let pool = Pool::of(device)?;
        pool.retry();
        // SAFETY: the caller's promise.
        if unsafe { pool.streams.device().is_capturing(stream) }? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "memory for a CUDA graph: what a graph uses would be given to others after the capture",
            ));
        }
        // SAFETY: the caller's promise.
        let queue = unsafe { pool.streams.queue(stream) }?;
        let mut request = Request::new(bytes)
            .storage(StorageMode::Private)
            .queue(&queue);
        if alignment != 0 {
            request = request.alignment(alignment);
        }
        let buffer = pool.allocator.allocate_with(&request)?;
        let address = buffer
            .into_raw()
            .map_err(|_| Error::new(ErrorKind::System, "device memory without an address"))?;
        Ok(address.as_ptr().cast())
    })
}

/// Takes memory back in the order of `stream`: PyTorch's `free_fn`. Where a stream cannot be looked up now, because it
/// records a graph and was not seen before, or 4,096 are known, the memory is freed by a later call of
/// [`weldpool_torch_malloc`] or of this function for the device, when it can; the first such free says so.
///
/// # Safety
///
/// The address has to come from [`weldpool_torch_malloc`] for the same device, and to be used no more but by work
/// submitted to `stream`, or to streams that were recorded; the stream has to be alive, and to stay so until
/// [`weldpool_torch_forget_stream`] or the end of the process. `bytes` is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_free(
    address: *mut c_void,
    #[expect(unused_variables, reason = "PyTorch passes it")] bytes: isize,
    device: c_int,
    stream: *mut c_void,
) {
    let Some(address) = NonNull::new(address.cast()) else {
        return;
    };
    guarded("weldpool_torch_free", (), || {
        let pool = Pool::of(device)?;
        pool.retry();
        // SAFETY: the caller's promise.
        let buffer = unsafe { pool.allocator.reclaim(address) }?;
        let freed = (address.as_ptr().addr(), buffer);
        pool.frees.free(freed, Stream(stream), |stream| {
            // SAFETY: the caller's promise; a stream that uses a tensor outlives it (torch.Tensor.record_stream).
            unsafe { pool.queue(stream) }
        })
    });
}

/// Takes note that work on a further stream uses memory, by any address in it: PyTorch's `record_stream_fn`.
///
/// # Safety
///
/// The stream has to be alive when the memory is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_record_stream(address: *mut c_void, stream: *mut c_void) {
    guarded("weldpool_torch_record_stream", (), || {
        let mut pools = POOLS.iter().filter_map(OnceLock::get);
        let record = |pool: &Pool| {
            let Pool {
                allocator, frees, ..
            } = pool;
            frees.record(allocator, address.addr(), Stream(stream))
        };
        match pools.any(record) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::InvalidRequest,
                "no memory of this library is at the address",
            )),
        }
    });
}

/// Forgets a stream that is about to be destroyed, after which it is not used any more; 0 on success, also where it
/// was not known, or the device has no pool. PyTorch never destroys its own streams.
///
/// # Safety
///
/// The stream has to be alive, and of the device's primary context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_forget_stream(device: c_int, stream: *mut c_void) -> c_int {
    guarded("weldpool_torch_forget_stream", 1, || {
        let Some(pool) = place_of(device)?.get() else {
            return Ok(0);
        };
        let queue_of = |stream| {
            // SAFETY: the caller's promise.
            unsafe { pool.queue(stream) }
        };
        pool.frees
            .settle(Stream(stream), queue_of, |Stream(stream)| {
                // SAFETY: the caller's promise; no memory is freed in the order of this queue.
                unsafe { pool.streams.device().adopt_stream(stream) }?.finish()
            })?;
        // SAFETY: the caller's promise.
        let _known = unsafe { pool.streams.forget(stream) }?;
        Ok(0)
    })
}

/// What a device's pool holds, in bytes. The structure has no size in it and does not grow.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct WeldpoolTorchStats {
    /// Requested by PyTorch and not freed.
    pub live: u64,
    /// Most of it at once.
    pub live_peak: u64,
    /// Held from the driver.
    pub reserved: u64,
    /// Most of it at once.
    pub reserved_peak: u64,
    /// Allocations.
    pub allocations: u64,
    /// Calls of the driver for memory.
    pub driver_calls: u64,
}

/// Fills in what the pool of a device holds; 0 on success.
///
/// # Safety
///
/// `stats` has to point to a place for them; null is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weldpool_torch_stats(
    device: c_int,
    stats: *mut WeldpoolTorchStats,
) -> c_int {
    guarded("weldpool_torch_stats", 1, || {
        let now = Pool::of(device)?.allocator.stats();
        let Some(place) = NonNull::new(stats) else {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "a null place for the statistics",
            ));
        };
        let filled = WeldpoolTorchStats {
            live: now.live.value,
            live_peak: now.live.peak,
            reserved: now.reserved.value,
            reserved_peak: now.reserved.peak,
            allocations: now.allocations,
            driver_calls: now.driver_calls,
        };
        // SAFETY: the caller's promise.
        unsafe { place.write(filled) };
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_a_stream_opens_no_pool() {
        // SAFETY: no pool is open, so the stream is not looked at, here and below.
        let forgotten = unsafe { weldpool_torch_forget_stream(63, std::ptr::null_mut()) };
        assert_eq!(forgotten, 0);
        assert!(POOLS[63].get().is_none());
        for wrong in [-1, DEVICES_MAX as c_int] {
            // SAFETY: as above.
            let forgotten = unsafe { weldpool_torch_forget_stream(wrong, std::ptr::null_mut()) };
            assert_eq!(forgotten, 1);
        }
    }
}

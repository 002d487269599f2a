//! The public handle to the pool of one device.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::address::BlockInfo;
use crate::buffer::Buffer;
use crate::config::{Config, validate_reserved_bytes_max};
use crate::device::host::HostDevice;
use crate::device::{Device, DeviceQueue, StorageMode, Vouched};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::name::Name;
use crate::out_of_memory::{OutOfMemory, OutOfMemoryCallback, OutOfMemoryHandler, Recourse};
use crate::pool::Pool;
use crate::pressure::PressureMonitor;
use crate::queue::Queue;
use crate::report::LeakReport;
use crate::request::Request;
use crate::stats::Stats;
use crate::supervisor::Supervisor;
use crate::sync::Arc;

/// A handle to the pool of one device. Cloning it shares the pool.
///
/// After fork(2) the child must leave allocators alone that were made before: threads that they know of are
/// not there any more.
///
/// Buffers keep the pool alive, so they may outlive every handle; when the last handle is dropped,
/// those that still do are reported, and idle memory goes back to the device.
#[derive(Debug, Clone)]
pub struct Allocator {
    handle: Arc<Handle>,
}

/// What all clones of an [`Allocator`] share; its drop is the drop of the last one.
#[derive(Debug)]
struct Handle {
    pool: Arc<Pool>,
    /// None only while the handle is being dropped.
    supervisor: Option<Arc<Supervisor>>,
}

/// Builds an [`Allocator`].
#[derive(Debug)]
#[must_use]
pub struct AllocatorBuilder {
    device: Arc<dyn Device>,
    config: Config,
    name: String,
}

impl AllocatorBuilder {
    /// Sets the configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Names the pool in reports and logs. Default: the device's kind and number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Validates the configuration and makes the blocks that the size classes start with.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field, or what the device says.
    pub fn build(self) -> Result<Allocator> {
        self.config.validate()?;
        let (pooling, pressure, gc) = (self.config.pooling, self.config.pressure, self.config.gc);
        let pool = Pool::new(self.name, self.device, self.config)?;
        let mut handle = Handle {
            pool,
            supervisor: None,
        };
        handle.supervisor = Some(Supervisor::start(&handle.pool, pressure, gc)?);
        let allocator = Allocator {
            handle: Arc::new(handle),
        };
        if pooling {
            let mut made = Vec::new();
            for class in allocator.handle.pool.classes().classes().as_slice() {
                for _ in 0..class.initial {
                    made.push(allocator.allocate(class.bytes)?);
                }
            }
            drop(made);
            allocator.handle.pool.reset_counters();
        }
        Ok(allocator)
    }
}

impl Allocator {
    /// An allocator of host memory with the default configuration.
    ///
    /// # Errors
    ///
    /// What opening the host says; see [`HostDevice::new`].
    pub fn host() -> Result<Self> {
        Self::builder(Arc::new(HostDevice::new()?)).build()
    }

    /// Starts building an allocator for `device`.
    pub fn builder(device: Arc<dyn Device>) -> AllocatorBuilder {
        let properties = device.properties();
        let name = format!("{}:{}", properties.kind.name(), properties.ordinal);
        AllocatorBuilder {
            device,
            config: Config::default(),
            name,
        }
    }

    /// A buffer of `bytes` bytes of shared storage, aligned to 256 bytes.
    ///
    /// # Errors
    ///
    /// As for [`allocate_with`](Self::allocate_with).
    #[inline]
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        match self.handle.pool.allocate_plain(bytes) {
            Some(buffer) => Ok(buffer),
            None => self.handle.pool.allocate(&Request::new(bytes)),
        }
    }

    /// A buffer as requested.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for zero bytes, a size no buffer can have or a
    /// wrong alignment; [`Unsupported`](ErrorKind::Unsupported) for a storage mode the device lacks;
    /// [`Busy`](ErrorKind::Busy) when the request is for [held memory](Request::held_only) alone and none suffices;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) or [`OutOfMemory`](ErrorKind::OutOfMemory) once
    /// everything idle was given back and nothing in flight ended within
    /// [`Config::wait_max`]; else what the driver says.
    #[inline]
    pub fn allocate_with(&self, request: &Request<'_>) -> Result<Buffer> {
        match self.handle.pool.allocate_warm(request) {
            Some(buffer) => Ok(buffer),
            None => self.handle.pool.allocate(request),
        }
    }

    /// A buffer over memory that another process [exported](Buffer::export), or another owner in this one. It
    /// counts as live and reserved here too, for as long as it keeps the memory alive, and is dropped like
    /// any other: with work in flight, the memory stays mapped until that is over.
    ///
    /// Its storage is as on the exporter's side: `Shared` on the host, `Private` on a GPU. A descriptor may be
    /// closed afterwards. What cannot be verified about an object is not believed: its length is compared with
    /// the object's, and a memory file has to be sealed against shrinking, so that nobody makes an access
    /// fail later.
    ///
    /// # Safety
    ///
    /// Others may touch the memory at any time, unseen by guards and fences. Whoever has it agrees with this
    /// process on who touches it when, as for [`Buffer::export`]; a
    /// [`LegacyIpc`](crate::Export::LegacyIpc) handle's exporter keeps the buffer for longer than this one
    /// lives; and the memory is not touched through two buffers of this process at once.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for what is no exported object, is gone, is of another
    /// device, is smaller than claimed (on GPUs also larger) or can be shrunk;
    /// [`Busy`](ErrorKind::Busy) for what is open in this
    /// allocator already, where the driver gives it the same addresses again, as CUDA does with legacy handles;
    /// [`Unsupported`](ErrorKind::Unsupported) for a form that the device does not know;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) beyond [`Config::reserved_bytes_max`]; else what the
    /// driver says.
    pub unsafe fn import(&self, exported: &Exported, name: impl Into<Name>) -> Result<Buffer> {
        // SAFETY: the caller's promise.
        let vouched = unsafe { Vouched::new(exported) };
        self.handle.pool.import(vouched, name.into())
    }

    /// Makes sure that `count` further buffers of `bytes` bytes can be had without a driver call,
    /// as far as the class keeps so many idle blocks; returns how many blocks were made ready. They
    /// are allocated and freed for it, which the statistics show.
    ///
    /// # Errors
    ///
    /// As for [`allocate`](Self::allocate); what was made ready before stays.
    pub fn pre_allocate(&self, bytes: usize, count: usize) -> Result<usize> {
        let request = Request::new(bytes).name("pre-allocated");
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(self.allocate_with(&request)?);
        }
        Ok(made.len())
    }

    /// Obtains at least `bytes` bytes more from the device and leaves them idle; returns how many, which is
    /// `bytes` rounded up to what the device gives. Where memory can be mapped (see
    /// [`Device::virtual_memory`]), they lie behind memory that is idle if addresses allow, so that both together
    /// serve a larger request; elsewhere they are one segment. The driver is called once for all of it, under no
    /// lock that a request for [held memory](Request::held_only) takes.
    ///
    /// What is reserved is idle memory like other: any request may take it, and it goes back under the same rules.
    /// [Collection](crate::gc) takes it once it was idle for long, or where idle memory is too much in pieces, as
    /// several segments are; requests that exchange segments, memory pressure and a limit on idle memory
    /// ([`Config::cached_bytes_max`]) take it when they need it.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) or [`LimitExceeded`](ErrorKind::LimitExceeded), with nothing given
    /// up for it; [`Unsupported`](ErrorKind::Unsupported) for a storage mode the device lacks,
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) while pooling is off; else what the driver says.
    pub fn reserve(&self, bytes: usize, storage: StorageMode) -> Result<usize> {
        self.handle.pool.obtain_ahead(bytes, storage)
    }

    /// Gives all idle memory back to the device; returns its bytes.
    #[must_use = "says how many bytes went back"]
    pub fn clear(&self) -> usize {
        self.handle.pool.clear()
    }

    /// Switches pooling; returns what it was. Buffers already out return the way they came.
    pub fn set_pooling(&self, on: bool) -> bool {
        self.handle.pool.set_pooling(on)
    }

    /// Sets the hard limit on the bytes held from the driver, or none; returns what it was. Idle
    /// memory beyond it is returned now; what is in use stays until it is freed.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a limit of 0 bytes, as when an allocator is built; the
    /// old one stays in force.
    pub fn set_reserved_bytes_max(&self, bytes: Option<u64>) -> Result<Option<u64>> {
        validate_reserved_bytes_max(bytes)?;
        Ok(self.handle.pool.set_reserved_bytes_max(bytes))
    }

    /// Sets the limit on idle bytes; returns what it was. Idle memory beyond it is returned now. At 0 nothing
    /// stays idle but what threads keep for themselves alone, blocks of up to 8 KiB, for each storage mode and
    /// node of memory a span of about 1 MiB at most that small blocks are cut from, with the segment it lies in
    /// where memory cannot be remapped, and what work in flight still uses.
    pub fn set_cached_bytes_max(&self, bytes: u64) -> u64 {
        self.handle.pool.set_cached_bytes_max(bytes)
    }

    /// Has a function asked for help when memory is out and everything that the allocator can do by
    /// itself was done, before the request fails; for as long as the returned value lives. See
    /// [`OutOfMemoryHandler::new`] for what it may do. A function that owns a handle of this allocator
    /// keeps it alive.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) beyond 64 functions.
    pub fn on_out_of_memory(
        &self,
        callback: impl Fn(&OutOfMemory<'_>) -> Recourse + Send + Sync + 'static,
    ) -> Result<OutOfMemoryCallback> {
        let handler = OutOfMemoryHandler::new(callback);
        self.handle.pool.callbacks().add(handler)
    }

    /// The monitor of memory pressure: the level, statistics, a signal by hand, callbacks. Unless
    /// [`Config::pressure`] is enabled it has no thread and assesses only in
    /// [`check`](PressureMonitor::check), when memory is out, and, while the level is raised, once in an
    /// [`interval`](crate::pressure::PressureConfig::interval) on a thread whose request goes past the
    /// caches, which can only lower it. A callback that owns a handle of this allocator keeps it alive.
    ///
    /// # Errors
    ///
    /// [`System`](ErrorKind::System) when the monitor cannot be made.
    pub fn pressure(&self) -> Result<&PressureMonitor> {
        self.handle.supervisor()?.pressure()
    }

    /// Has idle memory collected now rather than at the end of the interval; false when
    /// [`Config::gc`] is off.
    pub fn collect_soon(&self) -> bool {
        self.handle.supervisor().is_ok_and(Supervisor::collect_soon)
    }

    /// Switches [spans](crate::profiling) around slow paths on or off; returns what it was. Without a configured handler
    /// they go to the platform's tool.
    ///
    /// # Errors
    ///
    /// When there is no such tool, as [`platform_tool`](crate::profiling::platform_tool) says; then they stay off.
    pub fn set_profiling(&self, on: bool) -> Result<bool> {
        self.pool().metered().spans().set(on)
    }

    /// A new queue of the device.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn create_queue(&self) -> Result<Queue> {
        let queue = self.device().create_queue()?;
        Ok(Queue::new(&self.handle.pool, queue, false))
    }

    /// A queue over a stream that somebody else made and submits to. Memory
    /// [freed on it](Buffer::free_on) is ordered after everything submitted so far. Only this queue signals the stream:
    /// it is adopted once.
    #[must_use]
    pub fn adopt_queue(&self, stream: Arc<dyn DeviceQueue>) -> Queue {
        Queue::new(&self.handle.pool, stream, true)
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        self.handle.pool.device()
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        self.handle.pool.name()
    }

    /// The live buffer that contains `address`, from the start of any block to the last requested
    /// byte. Takes no lock and O(1) time for each arena; the address is not dereferenced. Addresses of more than
    /// 50 bits are not known.
    #[must_use]
    pub fn find(&self, address: *const u8) -> Option<BlockInfo> {
        self.handle.pool.find(address.addr())
    }

    /// Takes back a buffer by the address that [`Buffer::into_raw`] gave.
    ///
    /// # Safety
    ///
    /// Nobody uses the address any more, unless through the returned buffer.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when no buffer of this pool was given up at
    /// this address.
    pub unsafe fn reclaim(&self, address: NonNull<u8>) -> Result<Buffer> {
        let number = address.as_ptr().addr();
        self.handle.pool.attach(number).ok_or_else(|| {
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "no buffer of {} was given up at address {number:#x}",
                    self.name()
                ),
            )
        })
    }

    /// Statistics, exact when no call is under way. O(classes + threads x classes that they used), some 20 us with
    /// the default classes, under locks that a thread takes when it begins or ends and past its caches, one after
    /// the other; no warm allocation or free waits for it. The list of classes is on the heap.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.pool.stats()
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.handle.pool
    }

    /// The live buffers by name, and where some of them were allocated; walks all of them.
    #[must_use]
    pub fn live_report(&self) -> LeakReport {
        self.handle.pool.live_report()
    }
}

impl Handle {
    fn supervisor(&self) -> Result<&Supervisor> {
        self.supervisor
            .as_deref()
            .ok_or_else(|| Error::new(ErrorKind::System, "this allocator is closed"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let report = self.pool.live_report();
        if !report.buffers.is_empty() {
            tracing::warn!(pool = self.pool.name(), "{report}");
            self.pool.show_leaks(&report);
            if let Some(handler) = self.pool.on_leak() {
                // A destructor must not unwind.
                let called = catch_unwind(AssertUnwindSafe(|| handler.call(&report)));
                if called.is_err() {
                    tracing::error!(pool = self.pool.name(), "the leak handler panicked");
                }
            }
        }
        self.pool.finish_watching();
        // Its threads end first: they work on the pool. What they did is in what was just printed.
        drop(self.supervisor.take());
        self.pool.close();
    }
}

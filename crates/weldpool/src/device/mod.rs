//! The device layer: the only one that calls a driver.
//!
//! A [`Device`] is one GPU or the host. It gives [`Segment`]s, large regions obtained from the
//! driver, and [`DeviceQueue`]s, ordered streams of device work. The allocator above validates;
//! a device reports only what the caller could not have foreseen.

mod backlog;
#[cfg(all(target_os = "linux", feature = "cuda"))]
pub mod cuda;
mod exposure;
mod external;
pub mod fake;
mod fence;
pub mod host;
mod mapping;
mod mappings;
pub mod metal;
mod metered;
mod pages;
mod properties;
mod raw;
mod registration;
mod staging;
mod topology;
mod virtual_memory;

use std::any::Any;
use std::fmt::Debug;
use std::ptr::NonNull;
use std::time::Duration;

use crate::binding::Resource;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Exported, ExportedHandle};
use crate::registered::CopyReason;
use crate::sync::Arc;
use crate::transfer::Rows;

pub(crate) use exposure::Vouched;
pub use exposure::{Exposure, Imported};
pub use external::ExternalOrder;
pub(crate) use fence::SoftwareTimeline;
pub use fence::Timeline;
pub(crate) use mappings::Mapped;
pub use metal::ChipFamily;
pub(crate) use metered::Metered;
#[cfg(test)]
pub(crate) use pages::NONE_LEFT;
pub(crate) use pages::ZeroedPages;
pub use properties::{Addressing, Budget, DeviceKind, DeviceProperties, StorageMode};
pub use registration::{HostRange, Registration, UnregisterError};
pub use staging::Staging;
pub use topology::{NumaNode, Topology};
pub use virtual_memory::{AddressRange, Physical, VirtualMemory, VirtualMemoryProperties};

/// One GPU or the host.
///
/// Implementations are shared between threads and called without any lock held by the caller.
pub trait Device: Debug + Send + Sync {
    /// What the device is and can do; constant for its life.
    fn properties(&self) -> &DeviceProperties;

    /// Memory of the device now. A system call; not for a hot path.
    ///
    /// # Errors
    ///
    /// [`System`](crate::ErrorKind::System) when the system does not tell,
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost) when the device is gone.
    fn budget(&self) -> Result<Budget>;

    /// Obtains a segment of `bytes` bytes, a multiple of [`DeviceProperties::granularity`], aligned
    /// to it.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) only when the driver says so,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a storage mode the device lacks,
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost), or [`System`](crate::ErrorKind::System).
    /// Nothing stays behind on failure.
    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>>;

    /// As [`create_segment`](Self::create_segment), of the memory of one node; `node` is its position in
    /// [`topology`](Self::topology). Default: of whichever memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) also when only this node has no more.
    fn create_segment_on(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
    ) -> Result<Box<dyn Segment>> {
        let _ = node;
        self.create_segment(bytes, storage)
    }

    /// Takes note that the host wrote to managed memory of the device, for later work to see. No work uses it now. Default:
    /// nothing to do, since both see one memory.
    fn note_host_write(&self, start: &Location, bytes: usize) {
        let _ = (start, bytes);
    }

    /// Whether it has segments of this storage mode for others to reach; constant. Default: none.
    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        let _ = (exposure, storage);
        false
    }

    /// As [`create_segment_on`](Self::create_segment_on), for others to reach. Nothing else lies in the
    /// object that is exported. Only called where the device [`offers`](Self::offers) it; `node` is 0 where
    /// memory is all alike.
    ///
    /// # Errors
    ///
    /// As for [`create_segment`](Self::create_segment).
    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        let _ = (bytes, storage, node, exposure);
        Err(Error::new(
            ErrorKind::Unsupported,
            "the device has no memory that others could reach",
        ))
    }

    /// Opens an exported object: a segment of [`Exported::object_bytes`] bytes, which needs no particular
    /// multiple.
    ///
    /// # Safety
    ///
    /// As for [`Allocator::import`](crate::Allocator::import).
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for what is no such object, is gone, or is smaller than
    /// claimed, [`Unsupported`](ErrorKind::Unsupported) for a form that the device does not know; else as
    /// for [`create_segment`](Self::create_segment). Nothing stays behind on failure.
    #[allow(unsafe_code)]
    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        Err(Error::with_message(
            ErrorKind::Unsupported,
            format!("the device imports no {}", exported.handle().export()),
        ))
    }

    /// Returns a segment to the system at once.
    ///
    /// # Errors
    ///
    /// The driver's error, with the segment, which stays usable and can be released again.
    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError>;

    /// Creates an ordered stream of work.
    ///
    /// # Errors
    ///
    /// As the driver says; see [`ErrorKind`].
    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>>;

    /// Address space and physical memory apart, for memory of this storage mode, if the driver offers
    /// it. Default: it does not, and all memory comes as segments.
    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        let _ = storage;
        None
    }

    /// The nodes (NUMA) by which memory of this storage mode is to be kept apart, two at least; constant,
    /// and the same for all storage modes that have one. An allocator then obtains memory by
    /// [`create_segment_on`](Self::create_segment_on) and [`VirtualMemory::create_on`]. Default: memory is
    /// all alike.
    fn topology(&self, storage: StorageMode) -> Option<&Topology> {
        let _ = storage;
        None
    }

    /// How memory of this process that the device does not know is best copied to and from it. Default: in chunks
    /// through `Shared` memory.
    fn staging(&self) -> Staging {
        Staging::default()
    }

    /// Makes memory of this process known to the device, so that work uses it where it is. Default: not offered.
    ///
    /// # Safety
    ///
    /// The memory is valid for reads, and unless it is read-only for writes, and initialised, until the
    /// registration has ended; the submission of work that uses it answers for races.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the device never does it,
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) where it wants other addresses, or as the driver says; with
    /// the [reason](Error::with_copy_reason) where one fits.
    #[allow(unsafe_code)]
    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        let _ = memory;
        Err(Error::new(
            ErrorKind::Unsupported,
            "the device cannot use memory that it did not give",
        )
        .with_copy_reason(CopyReason::NotOffered))
    }

    /// Has the device forget registered memory. Nothing of the device uses it any more.
    ///
    /// # Errors
    ///
    /// The driver's error, with the registration, which still stands.
    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        drop(registration);
        Ok(())
    }

    /// Whether the driver may be called on this thread now. CUDA forbids it in functions that queues
    /// [call](DeviceQueue::call), where calls are refused as [`Busy`](crate::ErrorKind::Busy). Default: yes.
    fn may_be_called(&self) -> bool {
        true
    }

    /// Nanoseconds that a simulated device has charged for its calls so far, which come on top of the
    /// real time they took. Zero for real devices.
    fn charged_ns(&self) -> u64 {
        0
    }

    /// Nanoseconds that simulated devices have charged for calls of the calling thread so far, so that
    /// what a call was charged can be told from what others were meanwhile. Zero for real devices.
    fn charged_to_thread_ns(&self) -> u64 {
        0
    }
}

/// A segment that could not be returned, and why.
#[derive(Debug)]
pub struct ReleaseError {
    /// The segment, still mapped.
    pub segment: Box<dyn Segment>,
    /// The driver's error.
    pub error: Error,
}

/// One large region obtained from the driver. Dropping it returns it to the system like
/// [`Device::release_segment`], but an error is only logged.
///
/// # Safety
///
/// While the value lives, an address given by [`host_address`](Self::host_address) is valid for
/// reads and writes of [`bytes`](Self::bytes) bytes, every byte of it is initialised, nobody else
/// holds a Rust reference into it, and all methods give the same answers each time.
#[allow(unsafe_code)]
pub unsafe trait Segment: Any + Debug + Send + Sync {
    /// Length in bytes.
    fn bytes(&self) -> usize;
    /// Address for the host; none for memory that only the device can touch.
    fn host_address(&self) -> Option<NonNull<u8>>;
    /// Address for the device, where it has addresses of its own.
    fn device_address(&self) -> Option<u64> {
        None
    }
    /// The driver's object, where a call needs an object and an offset (Metal: the `MTLBuffer`).
    fn resource(&self) -> Option<Resource> {
        None
    }
    /// The driver's object for `bytes` bytes from `offset` on alone, for calls that take an object and no offset (Metal:
    /// an `MTLBuffer`). Both lie inside of the segment. Made when it is first asked for; the segment may keep it for the
    /// next. Whoever has it drops it before the segment goes back.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) where the driver has no such objects, or none for a part of this segment;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) when too many are alive; else what the driver says.
    fn object(&self, offset: usize, bytes: usize) -> Result<Arc<dyn DriverObject>> {
        let _ = (offset, bytes);
        Err(Error::new(
            ErrorKind::Unsupported,
            "the device has no object for each buffer; its memory is known by address",
        ))
    }
    /// Whether it can be [parked](Self::park); constant. Default: no.
    fn parks(&self) -> bool {
        false
    }

    /// Lets the system take the memory when it has none left, contents and all, without touching it now. Nothing uses the
    /// segment until it is [reclaimed](Self::reclaim). Only called where it [can](Self::parks).
    fn park(&self) {}

    /// Whether the system took the memory of a parked segment.
    fn is_discarded(&self) -> bool {
        false
    }

    /// Has the system leave the memory again. False if it took it: the segment is only to be released then.
    fn reclaim(&self) -> bool {
        true
    }

    /// What stands for the segment in another process, where it was
    /// [created](Device::create_exposed) to be exported.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for every other segment; else what the driver says.
    fn export(&self) -> Result<ExportedHandle> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "the memory was not requested to be exportable; see Request::exportable",
        ))
    }
}

/// A driver's object for part of a segment; see [`Segment::object`].
///
/// # Safety
///
/// While the value lives, [`resource`](Self::resource) gives the same object, which is alive and stands for that part.
#[allow(unsafe_code)]
pub unsafe trait DriverObject: Debug + Send + Sync {
    /// The driver's pointer.
    fn resource(&self) -> Resource;
    /// Length of the object in bytes, which may be more than was asked for.
    fn bytes(&self) -> usize;
}

/// A place in device memory, as a driver call needs it.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    /// Address for the host, if it has one.
    pub host: Option<NonNull<u8>>,
    /// Address for the device, if it has one of its own.
    pub device: Option<u64>,
    /// The driver's object and the offset in it, if the driver wants those.
    pub resource: Option<(Resource, usize)>,
}

impl Location {
    /// The place so many bytes further on, which lies in the same memory.
    #[must_use]
    pub fn at(&self, bytes: usize) -> Self {
        let host = |start: NonNull<u8>| NonNull::new(start.as_ptr().wrapping_add(bytes));
        Self {
            host: self.host.and_then(host),
            device: self.device.map(|device| device.wrapping_add(bytes as u64)),
            resource: self
                .resource
                .map(|(object, offset)| (object, offset.wrapping_add(bytes))),
        }
    }
}

/// An ordered stream of device work. Work runs in the order of submission, after the call returned.
///
/// A [`Queue`](crate::Queue) submits and signals under a lock that a function which the queue [calls](Self::call) may
/// want, so submissions and signals do not wait until the queue has gone on. [`wait_for_room`](Self::wait_for_room)
/// does, before them; a submission may be refused when the queue is full nevertheless.
///
/// # Safety
///
/// [`Timeline::completed`] of [`timeline`](Self::timeline) reaches a value that
/// [`signal`](Self::signal) returned only after all work submitted before that call is done and its
/// writes are visible to a thread that saw the value. A signal's value is never more than one above the last.
#[allow(unsafe_code)]
pub unsafe trait DeviceQueue: Debug + Send + Sync {
    /// Copies `bytes` bytes.
    ///
    /// # Safety
    ///
    /// Both ranges are valid for `bytes` bytes and do not overlap; until this work is done neither
    /// is freed, the source is not written and the destination not touched by anybody else.
    ///
    /// # Errors
    ///
    /// As the driver says; nothing was submitted then.
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()>;

    /// Copies rows that lie some way apart. Default: one [`copy`](Self::copy) after the other, each when there is room.
    ///
    /// # Safety
    ///
    /// As for [`copy`](Self::copy), for each row.
    ///
    /// # Errors
    ///
    /// As the driver says; some rows may have been submitted then.
    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        for row in 0..rows.count {
            let from = source.at(row * rows.source_pitch);
            let to = destination.at(row * rows.destination_pitch);
            self.wait_for_room(None)?;
            // SAFETY: the caller's promise.
            unsafe { self.copy(from, to, rows.bytes) }?;
        }
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Safety
    ///
    /// The range is valid for `bytes` bytes and until this work is done neither freed nor touched
    /// by anybody else.
    ///
    /// # Errors
    ///
    /// As the driver says; nothing was submitted then.
    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()>;

    /// Takes note that work which others submitted to the queue writes managed memory, for the host to see once the
    /// queue has passed this point. Default: nothing to do, since both see one memory.
    ///
    /// # Errors
    ///
    /// As the driver says; what the host sees is undefined then.
    fn note_device_write(&self, start: &Location, bytes: usize) -> Result<()> {
        let _ = (start, bytes);
        Ok(())
    }

    /// Calls a host function in the order of the queue. It must not wait for this queue.
    ///
    /// # Errors
    ///
    /// As the driver says; the function is dropped uncalled then.
    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()>;

    /// Makes later work of this queue wait until another queue's `timeline` has reached `value`. Blocks until then
    /// where the device does not [wait by itself](Self::waits_by_itself).
    ///
    /// # Errors
    ///
    /// As the driver says; later work does not wait then.
    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()>;

    /// Whether [`wait_for`](Self::wait_for) leaves it to the device to wait for this timeline. Default: yes.
    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        let _ = timeline;
        true
    }

    /// Whether work that is submitted now is recorded, to be done later and any number of times, rather than done.
    /// Memory for such a queue is never mapped from elsewhere. Default: no.
    fn is_recording(&self) -> bool {
        false
    }

    /// Blocks until the queue has room for a submission, or `timeout` is over; says whether it has. Default: it always
    /// has.
    ///
    /// # Errors
    ///
    /// As the driver says, [`Busy`](ErrorKind::Busy) from where the driver must not be called,
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) when there would never be room.
    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        let _ = timeout;
        Ok(true)
    }

    /// Prepares for work that others submit by themselves, behind the point `value`, which was signalled. Default: what
    /// they submit to the stream is in its order.
    ///
    /// # Errors
    ///
    /// As the driver says.
    fn before_external_submit(&self, value: u64) -> Result<Option<ExternalOrder>> {
        let _ = value;
        Ok(None)
    }

    /// Has later work of this queue wait for what others submitted.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for an order of another queue, otherwise as the driver says; later
    /// work does not wait then.
    fn after_external_submit(&self, order: &ExternalOrder) -> Result<()> {
        let _ = order;
        Ok(())
    }

    /// Marks the present end of the queue and returns the value that [`timeline`](Self::timeline)
    /// reaches there. Values count up from 1.
    ///
    /// # Errors
    ///
    /// As the driver says.
    fn signal(&self) -> Result<u64>;

    /// Blocks until all work submitted before is done. Default: a signal that is waited for.
    ///
    /// # Errors
    ///
    /// As the driver says; whether the work is done is not known then, unless the device is lost.
    fn finish(&self) -> Result<()> {
        let value = self.signal()?;
        self.timeline().wait(value, None).map(drop)
    }

    /// Copies rows and blocks until they are there, and all work before. Default: one after the other.
    ///
    /// # Safety
    ///
    /// As for [`copy_rows`](Self::copy_rows).
    ///
    /// # Errors
    ///
    /// As the driver says; whether anything was submitted, and is done, is not known then.
    unsafe fn copy_now(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.copy_rows(source, destination, rows) }?;
        self.finish()
    }

    /// Counts the signals that have passed; it outlives the queue.
    fn timeline(&self) -> &Arc<dyn Timeline>;
}

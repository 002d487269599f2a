//! Queues of device work.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use memory::{BufferView, Error, ErrorKind, Fence, Queue};

use crate::abi::callback::{DestroyFunction, UserData};
use crate::abi::duration;
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, bytes, bytes_mut, given};
use crate::allocator::{self, AllocatorHandle};
use crate::buffer::BufferHandle;
use crate::failure::{ErrorObject, Result};
use crate::fence::FenceHandle;
use crate::streams::AdoptedStreams;

/// An ordered stream of device work, for memory of one pool. Thread-safe.
#[derive(Debug)]
pub struct QueueHandle {
    pub(crate) queue: Arc<Queue>,
}

/// The queue behind a handle, which has to be there.
pub(crate) fn of(queue: Option<&QueueHandle>) -> Result<&Queue> {
    Ok(&given(queue, "queue")?.queue)
}

/// Notes that work which others submitted to a queue so far uses memory.
pub(crate) fn note_use(queue: &Queue, view: &BufferView) -> memory::Result<()> {
    let fence = queue.fence()?;
    match queue.note_write(&mut view.clone(), &fence) {
        // A guard is held, which is its owner's affair; the use is noted.
        Err(error) if error.kind() != ErrorKind::Busy => Err(error),
        _ => Ok(()),
    }
}

/// A new queue of the allocator's device.
///
/// Errors: what the driver says. Free with weldpool_queue_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_create(
    allocator: Option<&AllocatorHandle>,
    queue: *mut *mut QueueHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(queue, "queue")?;
        let made = allocator::of(allocator)?.create_queue()?;
        place.give(QueueHandle {
            queue: Arc::new(made),
        });
        Ok(())
    })
}

/// The queue over a stream of CUDA (a CUstream or cudaStream_t; null is the legacy default stream) of the primary
/// context of the device. Who made the stream goes on submitting to it; memory that is allocated and freed on the queue
/// is ordered by the stream. Handles of one stream stand for one queue. The stream must not be destroyed before
/// weldpool_queue_forget_cuda.
///
/// Errors: UNSUPPORTED for another device, INVALID_REQUEST for the per-thread default stream, BUSY for a stream that
/// records a graph, LIMIT_EXCEEDED beyond 4096 streams, else what the driver says. Free with weldpool_queue_free, which
/// does not destroy the stream. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_adopt_cuda(
    allocator: Option<&AllocatorHandle>,
    stream: *mut c_void,
    queue: *mut *mut QueueHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(queue, "queue")?;
        let queue = adopt(streams(allocator)?, stream)?;
        place.give(QueueHandle { queue });
        Ok(())
    })
}

/// Forgets an adopted stream that is about to be destroyed: it is used no more, also by handles that are still there,
/// and memory that was freed in its order is reusable once its work is done. Nothing happens where it was not adopted.
///
/// Errors: as for weldpool_queue_adopt_cuda; the stream is still known then. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_forget_cuda(
    allocator: Option<&AllocatorHandle>,
    stream: *mut c_void,
) -> Option<Box<ErrorObject>> {
    fallible(|| forget(streams(allocator)?, stream))
}

/// The streams of CUDA that an allocator adopted.
fn streams(allocator: Option<&AllocatorHandle>) -> Result<&AdoptedStreams> {
    let streams = given(allocator, "allocator")?.streams.as_deref();
    streams.ok_or_else(|| {
        let text = "streams of CUDA are adopted by allocators of a device of CUDA";
        Error::new(ErrorKind::Unsupported, text).into()
    })
}

fn adopt(streams: &AdoptedStreams, stream: *mut c_void) -> Result<Arc<Queue>> {
    // SAFETY: the caller's promise, which the header names.
    Ok(unsafe { streams.queue(stream) }?)
}

fn forget(streams: &AdoptedStreams, stream: *mut c_void) -> Result<()> {
    // SAFETY: the caller's promise: the stream is alive.
    let _known = unsafe { streams.forget(stream) }?;
    Ok(())
}

/// Waits until everything that was submitted so far is done, or for `timeout_ns` nanoseconds.
///
/// Errors: TIMEOUT, DEVICE_LOST, else what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_synchronize(
    queue: Option<&QueueHandle>,
    timeout_ns: u64,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let fence = of(queue)?.fence()?;
        Ok(fence.wait(duration::timeout(timeout_ns))?)
    })
}

/// A fence at the present end of the queue.
///
/// Errors: what the driver says. Free with weldpool_fence_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_fence(
    queue: Option<&QueueHandle>,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(fence, "fence")?;
        let fence = of(queue)?.fence()?;
        place.give(FenceHandle { fence });
        Ok(())
    })
}

/// Submits work, and gives the caller the fence behind it, if he wants it.
fn submit(
    queue: Option<&QueueHandle>,
    fence: *mut *mut FenceHandle,
    work: impl FnOnce(&Queue) -> Result<Fence>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::optional(fence);
        let fence = work(of(queue)?)?;
        place.give(FenceHandle { fence });
        Ok(())
    })
}

/// Submits a copy of all of `source` to the start of `destination`. Work of other queues that uses either comes before
/// it. `fence`, if not null, is behind it. Handles may be freed at once.
///
/// Errors: INVALID_REQUEST when the destination is shorter or overlaps the source, or either is memory that only
/// another device reaches; BUSY while a guard is held; else what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_copy(
    queue: Option<&QueueHandle>,
    source: Option<&BufferHandle>,
    destination: Option<&BufferHandle>,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    submit(queue, fence, |queue| {
        let source = &given(source, "source")?.view;
        let mut destination = given(destination, "destination")?.view.clone();
        Ok(queue.copy(source, &mut destination)?)
    })
}

/// Submits setting every byte of `buffer` to the low eight bits of `value`.
///
/// Errors: as for weldpool_queue_copy, and INVALID_ARGUMENT for a value above 255. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_fill(
    queue: Option<&QueueHandle>,
    buffer: Option<&BufferHandle>,
    value: u32,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    submit(queue, fence, |queue| {
        let mut view = given(buffer, "buffer")?.view.clone();
        let value = u8::try_from(value)
            .map_err(|_| ErrorObject::argument(format!("{value} is no byte")))?;
        Ok(queue.fill(&mut view, value)?)
    })
}

/// Submits a copy of `length` bytes of the caller's memory to the start of `destination`; returns when they were read.
///
/// Errors: INVALID_REQUEST when the destination is shorter or not of this queue's pool, BUSY while a guard is held,
/// else what the driver says; a first part may have been submitted then. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_write(
    queue: Option<&QueueHandle>,
    source: *const c_void,
    length: usize,
    destination: Option<&BufferHandle>,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    submit(queue, fence, |queue| {
        let mut view = given(destination, "destination")?.view.clone();
        Ok(queue.write(bytes(source, length, "source")?, &mut view)?)
    })
}

/// Copies all of `source` to the start of the caller's memory of `length` bytes, in the order of the queue; returns
/// when it is there.
///
/// Errors: as for weldpool_queue_write; what is in the caller's memory is undefined then. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_read(
    queue: Option<&QueueHandle>,
    source: Option<&BufferHandle>,
    destination: *mut c_void,
    length: usize,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let queue = of(queue)?;
        let source = &given(source, "source")?.view;
        let destination = bytes_mut(destination, length, "destination")?;
        Ok(queue.read(source, destination)?)
    })
}

/// A function that a queue calls, or that is called in its order.
pub type CallFunction = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Submits a function of the host's, called once on a thread of the library's or of the driver's. It must not unwind,
/// nor wait for this queue; on CUDA for no queue at all, and what needs the driver is refused there as BUSY. On Metal it
/// must not wait for a thread either that submits to other queues, as by a lock which that holds meanwhile.
///
/// `user_data` is taken over in any case: `destroy`, if given, is called once behind the function, which may be after
/// `fence` has passed, or at once, with the function uncalled, where this call fails. Where the device or the queue is
/// lost before the function was called, it never is: `destroy` is called on any thread, when the loss is noticed or at
/// the latest when the queue has ended. Errors: what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_call(
    queue: Option<&QueueHandle>,
    function: CallFunction,
    user_data: *mut c_void,
    destroy: DestroyFunction,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    let user_data = UserData::new(user_data, destroy);
    submit(queue, fence, |queue| {
        let function = function.ok_or_else(|| ErrorObject::null("function"))?;
        let call = move || {
            // SAFETY: the caller's promise.
            unsafe { function(user_data.get()) }
        };
        Ok(queue.call(call)?)
    })
}

/// Takes note that work which somebody else submitted to the queue so far uses the memory, and may write it: guards are
/// refused, and the memory is not used again, before that work is done.
///
/// Errors: what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_note_use(
    queue: Option<&QueueHandle>,
    buffer: Option<&BufferHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let queue = of(queue)?;
        Ok(note_use(queue, &given(buffer, "buffer")?.view)?)
    })
}

/// Takes note that work of others, which has ended when `fence` has passed, reads the memory.
///
/// Errors: BUSY while a write guard is held, which races with the work; the use is noted. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_note_read(
    queue: Option<&QueueHandle>,
    buffer: Option<&BufferHandle>,
    fence: Option<&FenceHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let queue = of(queue)?;
        let view = &given(buffer, "buffer")?.view;
        Ok(queue.note_read(view, &given(fence, "fence")?.fence)?)
    })
}

/// Takes note that work of others, submitted to this queue before `fence`, writes the memory. `behind`, if not null, is
/// the fence until which nobody else uses it, which for managed storage is a later one.
///
/// Errors: BUSY while a guard is held, which races with the work, or what the driver says. The use is noted.
/// Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_note_write(
    queue: Option<&QueueHandle>,
    buffer: Option<&BufferHandle>,
    fence: Option<&FenceHandle>,
    behind: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    submit(queue, behind, |queue| {
        let mut view = given(buffer, "buffer")?.view.clone();
        Ok(queue.note_write(&mut view, &given(fence, "fence")?.fence)?)
    })
}

/// Frees a handle. Work that was submitted goes on, and memory that was freed in its order is reusable once that is
/// done. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_free(queue: Option<Box<QueueHandle>>) {
    infallible((), || drop(queue));
}

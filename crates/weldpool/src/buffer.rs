//! The unique owner of a block.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::Duration;

use crate::address_map::is_covered;
use crate::binding::Binding;
use crate::block::{Block, ListId, Point};
use crate::device::StorageMode;
use crate::driver_object::ObjectGuard;
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::guard::{BorrowToken, Element, ReadGuard, WriteGuard};
use crate::in_flight::{Access, InFlight, Use};
use crate::pool::{Pool, pool_of};
use crate::queue::{Fence, Part, Queue, sealed};
use crate::sync::{Arc, Mutex};
use crate::thread_cache;
use crate::view::BufferView;
use crate::wait::{Wait, left_out};

/// A piece of device memory with one owner; dropping it returns the memory to its pool.
///
/// Moving a buffer moves a few words; the memory stays where it is. Contents start out undefined
/// but initialised (they are what the block held before) unless the request asked for zeroes.
pub struct Buffer {
    block: Block,
}

impl Buffer {
    #[inline]
    pub(crate) fn new(block: Block) -> Self {
        Self { block }
    }

    /// Length in bytes, as requested; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.block.requested()
    }

    /// Bytes of the block behind it; the difference to [`len`](Self::len) is internal waste.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block.bytes()
    }

    /// Alignment of its address that the request was given, in bytes.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.block.alignment()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.block.name().as_str()
    }

    /// Its storage mode.
    #[must_use]
    pub fn storage_mode(&self) -> StorageMode {
        self.block.storage()
    }

    /// Where it is, for a driver call.
    #[must_use]
    pub fn binding(&self) -> Binding<'_> {
        self.binding_of(0..self.len())
    }

    /// The driver's object for this buffer alone, for calls that take no offset (Metal: an `MTLBuffer`); a
    /// [`binding`](Self::binding) has the object of all the memory around, and the offset in it, and costs nothing. Made
    /// when it is first asked for, in some microseconds; the segment keeps the last of them.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) where the driver has no such objects, or none for this place;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) when as many are alive as the device allows; else what the driver says.
    pub fn object(&self) -> Result<ObjectGuard<'_>> {
        self.object_of(0..self.len())
    }

    pub(crate) fn object_of(&self, range: Range<usize>) -> Result<ObjectGuard<'_>> {
        ObjectGuard::new(&self.block, range)
    }

    /// Read access to the contents.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when length or alignment do not suit `T`,
    /// [`Busy`](ErrorKind::Busy) while submitted work writes the buffer,
    /// [`Unsupported`](ErrorKind::Unsupported) for private storage.
    #[inline]
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        let address = self.host_address()?;
        self.check(Access::Read)?;
        // SAFETY: the block is ours for the borrow of `self`, a write guard needs `&mut self`, and
        // no work writes it.
        unsafe { ReadGuard::new(address, self.len(), None) }
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`Busy`](ErrorKind::Busy) while submitted work reads it.
    #[inline]
    pub fn write<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        match self.block.host() {
            Some(address) if self.block.storage() == StorageMode::Shared => {
                self.check(Access::Write)?;
                // SAFETY: the block is ours, the borrow of `self` is exclusive, and no work uses it.
                unsafe { WriteGuard::new(address, self.len(), None) }
            }
            _ => self.write_unshared(),
        }
    }

    /// The same for memory of which the device may have a copy of its own.
    #[cold]
    fn write_unshared<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        let address = self.host_address()?;
        self.check(Access::Write)?;
        // Told when the buffer is next shown to anybody, since the guard's end costs nothing. Nobody can have it before:
        // the guard borrows it exclusively.
        self.block.note_written();
        // SAFETY: as for `write`.
        unsafe { WriteGuard::new(address, self.len(), None) }
    }

    /// Takes note that the host wrote a range of the contents through an address of the buffer's
    /// [`binding`](Self::binding) instead of a guard, for later work of the device to see. Only managed storage that is
    /// [two copies](crate::device::DeviceProperties::managed_copies) needs it; for other memory it does nothing. No
    /// submitted work uses the buffer meanwhile.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the range does not lie inside.
    pub fn note_host_write(&self, range: Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("range {range:?} of {} bytes", self.len()),
            ));
        }
        if self.storage_mode() == StorageMode::Managed {
            self.tell_written(range);
        }
        Ok(())
    }

    /// Tells the device that the host wrote to managed memory.
    #[cold]
    pub(crate) fn tell_written(&self, range: Range<usize>) {
        if let Some(pool) = pool_of(&self.block) {
            let start = self.block.place().location(range.start);
            pool.device().note_host_write(&start, range.len());
        }
    }

    /// Tells the device of what a guard wrote, before anybody else uses the contents.
    fn tell(&self) {
        if self.block.storage() == StorageMode::Managed && self.block.is_written() {
            self.tell_once();
        }
    }

    /// Several threads may be about to: the others return when the device knows.
    #[cold]
    fn tell_once(&self) {
        static TELLING: Mutex<()> = Mutex::new(());
        let _telling = TELLING.lock();
        if self.block.is_written() {
            self.tell_written(0..self.len());
            self.block.note_told();
        }
    }

    /// Waits until no submitted work uses the buffer.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), or [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.in_flight().wait(timeout)
    }

    /// Makes the buffer shareable. This costs one allocation on the host; plain buffers pay nothing
    /// for it.
    #[must_use]
    pub fn share(self) -> BufferView {
        BufferView::new(self)
    }

    /// Gives up the owner and keeps the address, for callers that can carry only that: the host's, or the
    /// device's for memory that the host has none for. The memory stays live, and in the leak report, until
    /// [`Allocator::reclaim`](crate::Allocator::reclaim).
    ///
    /// # Errors
    ///
    /// The buffer itself, when it has neither, or an address of more than 50 bits, which could not be found again.
    pub fn into_raw(self) -> std::result::Result<NonNull<u8>, Self> {
        let binding = self.binding();
        let device = || {
            let address = usize::try_from(binding.device_address?).ok()?;
            NonNull::new(std::ptr::without_provenance_mut(address))
        };
        let address = binding.host.or_else(device);
        let Some(address) = address.filter(|address| is_covered(address.as_ptr().addr())) else {
            return Err(self);
        };
        self.block.last().detach();
        std::mem::forget(self);
        Ok(address)
    }

    /// What stands for the buffer in another process, in the form that it was
    /// [requested](crate::Request::exportable) in. The buffer stays this process's to free.
    ///
    /// # Safety
    ///
    /// From now on contents may change, and be read, behind the guards' and the fences' back. Whoever
    /// imports the buffer agrees with this process on who touches it when: nobody writes what a guard, a
    /// submitted work item or another process reads or writes at that time. For
    /// [`Export::LegacyIpc`](crate::Export::LegacyIpc) the buffer, and whatever frees it in the end, outlives
    /// every import; CUDA leaves undefined what happens otherwise.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when it was not requested to be exportable, otherwise what the
    /// driver says; an imported buffer cannot be exported again.
    pub unsafe fn export(&self) -> Result<Exported> {
        let pool = pool_of(&self.block);
        let pool = pool.ok_or_else(|| Error::new(ErrorKind::System, "the pool is closed"))?;
        pool.export(&self.block)
    }

    /// Takes note that work which somebody else submitted to `queue` so far uses the contents: guards are
    /// refused, and the memory is not reused, before that work is done. What it wrote to managed storage is then seen by
    /// the host. It is taken to write, so everybody else waits for it; of work that was
    /// [announced](Queue::before_external_submit) it can be said whether it reads or writes:
    /// [`Queue::note_read`], [`Queue::note_write`].
    ///
    /// # Errors
    ///
    /// What the driver says; the work is covered by the next signal of the queue then.
    pub fn note_use(&self, queue: &Queue) -> Result<()> {
        let shown = match self.storage_mode() {
            StorageMode::Managed => queue.show_to_host(&self.block.place().location(0), self.len()),
            StorageMode::Shared | StorageMode::Private => Ok(()),
        };
        let fence = queue.fence();
        self.block.touch();
        self.in_flight().add(Use {
            fence: fence
                .as_ref()
                .map_or_else(|_| queue.fence_or_next(), Fence::clone),
            access: Access::Write,
        });
        shown.and(fence.map(drop))
    }

    /// Frees the buffer in the order of `queue`: work submitted to it so far, by whomever, may still
    /// use the memory. The same queue may have the memory again at once, everybody else after the queue
    /// has passed this point. Uses by other queues are waited for besides.
    pub fn free_on(self, queue: &Queue) {
        let point = self.block.point();
        if point.is_some_and(|point| point.queue != queue.core().number())
            && !left_out(Wait::FreeElsewhere)
        {
            // The memory came from another queue, which may still use it.
            self.settle();
        }
        if !self.block.in_flight().is_unused() {
            self.block.touch();
            // Recorded by `submit`, so dropping takes them into account.
            self.block.in_flight().add(Use {
                fence: queue.fence_or_next(),
                access: Access::Write,
            });
            return;
        }
        queue.free(self.block.last());
        std::mem::forget(self);
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        self.settle();
        self.block.in_flight()
    }

    /// Turns the point that came along with the block into a use of the buffer.
    fn settle(&self) {
        if let Some(point) = self.block.point()
            && !left_out(Wait::Settle)
        {
            self.settle_at(&self.block, point);
        }
    }

    #[cold]
    fn settle_at(&self, block: &Block, point: Point) {
        if let Some(pool) = pool_of(block)
            && let Some(queue) = pool.orders().get(point.queue)
        {
            pool.orders().cover(point);
            block.in_flight().add(Use {
                fence: queue.fence_at(point.value),
                access: Access::Write,
            });
        }
        block.set_point(None);
    }

    /// Whether the host may access the contents now.
    #[inline]
    fn check(&self, access: Access) -> Result<()> {
        if self.block.is_touched() {
            self.in_flight().check(access)
        } else {
            Ok(())
        }
    }

    #[inline]
    fn host_address(&self) -> Result<NonNull<u8>> {
        match self.block.host() {
            Some(address) if self.block.storage() != StorageMode::Private => Ok(address),
            _ => Err(unreachable_by_the_host()),
        }
    }

    pub(crate) fn host_address_of(&self, range: Range<usize>) -> Result<NonNull<u8>> {
        let host = self.binding_of(range).host;
        host.ok_or_else(unreachable_by_the_host)
    }

    pub(crate) fn binding_of(&self, range: Range<usize>) -> Binding<'_> {
        self.tell();
        let block = &self.block;
        let host_visible = block.storage() != StorageMode::Private;
        Binding::new(&block.place(), range, host_visible)
    }

    pub(crate) fn part_of(&self, range: Range<usize>) -> Part<'_> {
        self.tell();
        self.block.touch();
        Part {
            location: self.block.place().location(range.start),
            bytes: range.end - range.start,
            in_flight: self.in_flight(),
            offset: range.start,
            storage: self.block.storage(),
        }
    }
}

#[cold]
fn unreachable_by_the_host() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the host cannot touch private storage; copy through a shared buffer on a queue",
    )
}

impl sealed::Operand for Buffer {
    fn part(&self) -> Part<'_> {
        self.part_of(0..self.len())
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        pool_of(&self.block)
    }

    fn is_visible_to_peers(&self) -> bool {
        let exposed = self.block.list() == ListId::EXPOSED;
        let pool = exposed.then(|| pool_of(&self.block)).flatten();
        pool.is_some_and(|pool| pool.is_visible_to_peers(&self.block))
    }

    // A queue takes `&Buffer` to read and `&mut Buffer` to write, so the compiler has checked.
    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        Ok(None)
    }

    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        Ok(None)
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        let block = self.block.last();
        if block.is_touched() {
            self.drop_touched(block);
        } else {
            block.take_back();
            thread_cache::push(block.pool(), block);
        }
    }
}

impl Buffer {
    #[cold]
    fn drop_touched(&self, block: Block) {
        self.settle();
        if block.in_flight().is_unused() {
            block.take_back();
            thread_cache::push(block.pool(), block);
            return;
        }
        let uses = block.in_flight().take();
        if let Some(pool) = pool_of(&block) {
            let waits = !left_out(Wait::Drop);
            pool.free(block, if waits { uses } else { Vec::new() });
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("name", &self.name())
            .field("len", &self.len())
            .field("alignment", &self.alignment())
            .field("storage", &self.storage_mode())
            .finish_non_exhaustive()
    }
}

//! What a caller asks for, and its validation.

use crate::device::{Exposure, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Export;
use crate::name::Name;
use crate::queue::Queue;

/// Alignment of every buffer unless the request asks for more, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: usize = 256;
/// Largest alignment a request may ask for, in bytes.
pub(crate) const ALIGNMENT_MAX: usize = 1 << 30;

/// Stands for every alignment that cannot be.
const NO_ALIGNMENT: usize = usize::MAX;

/// A request for a buffer.
///
/// ```
/// # fn main() -> weldpool::Result<()> {
/// # let allocator = weldpool::Allocator::host()?;
/// use weldpool::Request;
/// let page = allocator.allocate_with(&Request::new(100).alignment(4096).zeroed(true))?;
/// assert_eq!(page.read::<u8>()?.iter().map(|&byte| u32::from(byte)).sum::<u32>(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub(crate) bytes: usize,
    pub(crate) alignment: usize,
    pub(crate) storage: StorageMode,
    pub(crate) name: Name,
    pub(crate) needs: Needs,
    pub(crate) queue: Option<&'a Queue>,
    pub(crate) held_only: bool,
}

/// What no idle block offers as it lies in a cache, in one byte, so that the warm path asks once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs(u8);

impl Needs {
    const ZEROED: u8 = 1;
    const PEERS: u8 = 2;
    const FILE_DESCRIPTOR: u8 = 4;
    const LEGACY_IPC: u8 = 8;

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_zeroed(self) -> bool {
        self.0 & Self::ZEROED != 0
    }

    /// Who else is to reach the memory, if anybody.
    pub(crate) fn exposure(self) -> Option<Exposure> {
        let export = match self.0 & (Self::FILE_DESCRIPTOR | Self::LEGACY_IPC) {
            0 => None,
            Self::FILE_DESCRIPTOR => Some(Export::FileDescriptor),
            _ => Some(Export::LegacyIpc),
        };
        let peers = self.0 & Self::PEERS != 0;
        (peers || export.is_some()).then_some(Exposure { export, peers })
    }

    fn set(&mut self, bits: u8, on: bool) {
        self.0 = if on { self.0 | bits } else { self.0 & !bits };
    }
}

impl<'a> Request<'a> {
    /// A request for `bytes` bytes of shared storage at the default alignment of 256 bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            alignment: DEFAULT_ALIGNMENT,
            storage: StorageMode::Shared,
            name: Name::default(),
            needs: Needs::default(),
            queue: None,
            held_only: false,
        }
    }

    /// Alignment in bytes: a power of two up to 1 GiB. The result is at least 256 and at least the
    /// device's minimum, whatever is asked.
    #[must_use]
    pub fn alignment(mut self, bytes: usize) -> Self {
        // What a cache serves is not validated, so it must not be taken for a small alignment.
        self.alignment = if bytes.is_power_of_two() {
            bytes
        } else {
            NO_ALIGNMENT
        };
        self
    }

    /// Where the memory lives and who may touch it.
    #[must_use]
    pub fn storage(mut self, mode: StorageMode) -> Self {
        self.storage = mode;
        self
    }

    /// Name for statistics and leak reports; see [`Name::intern`] for names made at run time.
    #[must_use]
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether the contents must be zero. Otherwise they are whatever the block held before. Memory that only a
    /// device reaches (`Private`) is zeroed on the request's [`queue`](Self::queue), and without one refused as
    /// [`InvalidRequest`](ErrorKind::InvalidRequest).
    #[must_use]
    pub fn zeroed(mut self, zeroed: bool) -> Self {
        self.needs.set(Needs::ZEROED, zeroed);
        self
    }

    /// The queue whose work will use the buffer first. A block that work on this queue still uses
    /// may then be handed out at once, because the queue runs in order; host access to the buffer
    /// stays refused until that work is done.
    #[must_use]
    pub fn queue(mut self, queue: &'a Queue) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Whether only memory that the allocator holds already may serve the request: no driver call obtains,
    /// maps or returns memory, nothing is waited for, and none of the steps against
    /// [memory being out](crate::OutOfMemoryStats) is taken. Where nothing held and idle fits as it lies, the
    /// error is of kind [`Busy`](ErrorKind::Busy), at once, and no failure is counted; see
    /// [`Allocator::reserve`](crate::Allocator::reserve) for holding more. So a request never waits for a driver,
    /// though it may come while another thread is inside of one. Default: no.
    #[must_use]
    pub fn held_only(mut self, held_only: bool) -> Self {
        self.held_only = held_only;
        self
    }

    /// Memory that another process can be given, by [`Buffer::export`](crate::Buffer::export), in this
    /// form. It is a segment of its own, in whole [granules](crate::device::DeviceProperties::granularity):
    /// obtained from the driver for this request, shared with no other buffer, and returned when the buffer
    /// is freed and no work uses it any more.
    #[must_use]
    pub fn exportable(mut self, export: Export) -> Self {
        let bits = match export {
            Export::FileDescriptor => Needs::FILE_DESCRIPTOR,
            Export::LegacyIpc => Needs::LEGACY_IPC,
        };
        self.needs
            .set(Needs::FILE_DESCRIPTOR | Needs::LEGACY_IPC, false);
        self.needs.set(bits, true);
        self
    }

    /// Whether queues of the device's peers are to reach the memory at its device address, so that copies
    /// between the devices take no detour: on CUDA every peer's, on Metal those of the device's peer group, which only
    /// Intel Macs have. It is a segment of its own, so its size is rounded up to the device's granularity, and each costs
    /// driver calls.
    #[must_use]
    pub fn visible_to_peers(mut self, visible: bool) -> Self {
        self.needs.set(Needs::PEERS, visible);
        self
    }

    pub(crate) fn validate(&self, bytes_max: usize) -> Result<()> {
        let fail = |message| {
            Err(Error::new(ErrorKind::InvalidRequest, message).for_request(self.bytes, self.name))
        };
        if self.bytes == 0 {
            return fail("a buffer of zero bytes was requested; leave empty tensors without one");
        }
        if self.bytes > bytes_max {
            return fail("the request is larger than any buffer this device can have");
        }
        if !self.alignment.is_power_of_two() || self.alignment > ALIGNMENT_MAX {
            return fail("the alignment is not a power of two of at most 1 GiB");
        }
        Ok(())
    }
}

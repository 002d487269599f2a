//! Memory that can be registered.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::guard::Element;

/// Owned memory that stays where it is.
///
/// Implemented for vectors and boxed slices. Others can be brought by implementing it, such as mapped files, or by
/// [`RawBytes`].
///
/// # Safety
///
/// What [`as_bytes`](Self::as_bytes) gives is valid for reads, and unless
/// [`is_read_only`](Self::is_read_only) for writes, and initialised, from that call until the value is dropped or
/// used again in any way but by being moved; nobody else writes it meanwhile, nor reads it unless it is read-only.
/// Any bytes are a value of what lies there.
pub unsafe trait StableBytes: Send + 'static {
    /// The memory.
    fn as_bytes(&mut self) -> NonNull<[u8]>;

    /// Whether it must not be written to, as a file that is mapped for reading.
    fn is_read_only(&self) -> bool {
        false
    }
}

fn bytes_of<T: Element>(slice: &mut [T]) -> NonNull<[u8]> {
    NonNull::from(bytemuck::cast_slice_mut::<T, u8>(slice))
}

// SAFETY: the elements lie on the heap, where they stay until the vector is dropped or changed, and any bytes are
// values of them.
unsafe impl<T: Element + Send> StableBytes for Vec<T> {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        bytes_of(self.as_mut_slice())
    }
}

// SAFETY: as for a vector.
unsafe impl<T: Element + Send> StableBytes for Box<[T]> {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        bytes_of(self)
    }
}

/// Memory that is somebody else's, by its address.
#[derive(Debug)]
pub struct RawBytes {
    address: NonNull<u8>,
    bytes: usize,
    read_only: bool,
}

// SAFETY: the memory belongs to the process, and whoever made the value answers for it.
unsafe impl Send for RawBytes {}

impl RawBytes {
    /// `bytes` bytes from `address` on.
    ///
    /// # Safety
    ///
    /// Until the value is dropped, which for registered memory is after
    /// [`Registered::into_inner`](super::Registered::into_inner) gave it back, or after its drop, the memory is
    /// valid for reads and writes, initialised, and touched by nobody else.
    #[must_use]
    pub unsafe fn new(address: NonNull<u8>, bytes: usize) -> Self {
        Self {
            address,
            bytes,
            read_only: false,
        }
    }

    /// As [`new`](Self::new), for memory that is only read, by whomever.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new), but it need not be valid for writes, and others may read it.
    #[must_use]
    pub unsafe fn read_only(address: NonNull<u8>, bytes: usize) -> Self {
        Self {
            address,
            bytes,
            read_only: true,
        }
    }
}

// SAFETY: whoever made the value promised it.
unsafe impl StableBytes for RawBytes {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.address, self.bytes)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

//! Host access to contents: the only place that turns an address into a slice.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU32, Ordering};

/// A type whose values are plain bits, any bits: the integers and floats, and every type that is
/// [`bytemuck::Pod`].
pub trait Element: bytemuck::Pod {}

impl<T: bytemuck::Pod> Element for T {}

/// Run-time borrow state of a shared buffer: the number of readers, or one writer.
#[derive(Debug, Default)]
pub(crate) struct Borrow(AtomicU32);

const WRITER: u32 = u32::MAX;

impl Borrow {
    pub(crate) fn shared(&self) -> Result<BorrowToken<'_>> {
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state < WRITER - 1).then(|| state + 1)
            })
            .map(|_| BorrowToken {
                borrow: self,
                kind: Kind::Shared,
            })
            .map_err(|_| Error::new(ErrorKind::Busy, "a write guard holds this shared buffer"))
    }

    pub(crate) fn exclusive(&self) -> Result<BorrowToken<'_>> {
        self.0
            .compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| BorrowToken {
                borrow: self,
                kind: Kind::Exclusive,
            })
            .map_err(|_| Error::new(ErrorKind::Busy, "another guard holds this shared buffer"))
    }
}

/// Holds a [`Borrow`] until dropped.
#[derive(Debug)]
pub struct BorrowToken<'a> {
    borrow: &'a Borrow,
    kind: Kind<'a>,
}

/// Memory whose device is to be told of what the host wrote.
pub(crate) trait Written: fmt::Debug + Sync {
    /// The host wrote to it, and does no more.
    fn note_host_write(&self);
}

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Shared,
    Exclusive,
    /// For the host to write.
    Writing(&'a dyn Written),
}

impl<'a> BorrowToken<'a> {
    /// The same, which tells of what was written when it is dropped. It is an exclusive one.
    pub(crate) fn telling(mut self, written: &'a dyn Written) -> Self {
        self.kind = Kind::Writing(written);
        self
    }
}

impl Drop for BorrowToken<'_> {
    fn drop(&mut self) {
        match self.kind {
            Kind::Shared => {
                self.borrow.0.fetch_sub(1, Ordering::Release);
                return;
            }
            Kind::Exclusive => {}
            // Before anybody else may submit work.
            Kind::Writing(written) => written.note_host_write(),
        }
        self.borrow.0.store(0, Ordering::Release);
    }
}

/// Read access to contents as a slice, for as long as the guard lives.
pub struct ReadGuard<'a, T> {
    contents: &'a [T],
    _token: Option<BorrowToken<'a>>,
}

/// Write access to contents as a slice, for as long as the guard lives.
pub struct WriteGuard<'a, T> {
    contents: &'a mut [T],
    _token: Option<BorrowToken<'a>>,
}

impl<'a, T: Element> ReadGuard<'a, T> {
    /// # Safety
    ///
    /// `address` is valid for reads of `bytes` initialised bytes for `'a`, and nothing writes them
    /// while the guard lives.
    #[inline]
    pub(crate) unsafe fn new(
        address: NonNull<u8>,
        bytes: usize,
        token: Option<BorrowToken<'a>>,
    ) -> Result<Self> {
        let count = check::<T>(address, bytes)?;
        // SAFETY: the caller's promise, alignment and length checked, and any bits are a value of T.
        let contents = unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), count) };
        Ok(Self {
            contents,
            _token: token,
        })
    }
}

impl<'a, T: Element> WriteGuard<'a, T> {
    /// # Safety
    ///
    /// `address` is valid for reads and writes of `bytes` initialised bytes for `'a`, and nothing
    /// else touches them while the guard lives.
    #[inline]
    pub(crate) unsafe fn new(
        address: NonNull<u8>,
        bytes: usize,
        token: Option<BorrowToken<'a>>,
    ) -> Result<Self> {
        let count = check::<T>(address, bytes)?;
        // SAFETY: the caller's promise, alignment and length checked, and any bits are a value of T.
        let contents = unsafe { std::slice::from_raw_parts_mut(address.as_ptr().cast(), count) };
        Ok(Self {
            contents,
            _token: token,
        })
    }
}

#[inline]
fn check<T>(address: NonNull<u8>, bytes: usize) -> Result<usize> {
    let size = size_of::<T>();
    if size == 0 || !bytes.is_multiple_of(size) {
        return Err(not_whole(bytes, size));
    }
    if !address.as_ptr().addr().is_multiple_of(align_of::<T>()) {
        return Err(misaligned(align_of::<T>()));
    }
    Ok(bytes / size)
}

#[cold]
fn not_whole(bytes: usize, size: usize) -> Error {
    let message = format!("{bytes} bytes are not a whole number of elements of {size} bytes");
    Error::with_message(ErrorKind::InvalidRequest, message)
}

#[cold]
fn misaligned(alignment: usize) -> Error {
    let message = format!("the contents do not start at a multiple of {alignment} bytes");
    Error::with_message(ErrorKind::InvalidRequest, message)
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.contents
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.contents
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.contents
    }
}

impl<T> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGuard")
            .field("len", &self.contents.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteGuard")
            .field("len", &self.contents.len())
            .finish_non_exhaustive()
    }
}

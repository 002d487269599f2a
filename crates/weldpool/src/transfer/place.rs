//! What can be copied from and to.

#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;

use super::side::Side;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::guard::{BorrowToken, Element};
use crate::pinned::PinnedBuffer;
use crate::queue::sealed::Operand as Sealed;
use crate::queue::{Operand, Part};
use crate::registered::{Adopted, Registered, StableBytes};
use crate::view::BufferView;

/// Where a copy comes from, for as long as it takes: an [`Operand`], or a slice, an array or a vector of any
/// [`Element`].
#[derive(Clone, Copy)]
pub struct Source<'a>(SourceKind<'a>);

#[derive(Clone, Copy)]
enum SourceKind<'a> {
    Operand(&'a dyn Sealed),
    Slice(&'a [u8]),
}

/// Where a copy goes to, for as long as it takes; see [`Source`].
pub struct Destination<'a>(DestinationKind<'a>);

enum DestinationKind<'a> {
    Operand(&'a dyn Sealed),
    Slice(NonNull<u8>, usize, std::marker::PhantomData<&'a mut [u8]>),
}

impl<'a, O: Operand> From<&'a O> for Source<'a> {
    fn from(operand: &'a O) -> Self {
        Self(SourceKind::Operand(operand))
    }
}

impl<'a, O: Operand> From<&'a mut O> for Source<'a> {
    fn from(operand: &'a mut O) -> Self {
        Self(SourceKind::Operand(operand))
    }
}

impl<'a, T: Element> From<&'a [T]> for Source<'a> {
    fn from(slice: &'a [T]) -> Self {
        Self(SourceKind::Slice(bytemuck::cast_slice(slice)))
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for Source<'a> {
    fn from(array: &'a [T; N]) -> Self {
        array.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Source<'a> {
    fn from(vector: &'a Vec<T>) -> Self {
        vector.as_slice().into()
    }
}

impl<'a, O: Operand> From<&'a mut O> for Destination<'a> {
    fn from(operand: &'a mut O) -> Self {
        Self(DestinationKind::Operand(operand))
    }
}

impl<'a> From<&'a BufferView> for Destination<'a> {
    fn from(view: &'a BufferView) -> Self {
        Self(DestinationKind::Operand(view))
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Destination<'a> {
    fn from(slice: &'a mut [T]) -> Self {
        let bytes = size_of_val(slice);
        Self(DestinationKind::Slice(
            NonNull::from(slice).cast(),
            bytes,
            std::marker::PhantomData,
        ))
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for Destination<'a> {
    fn from(array: &'a mut [T; N]) -> Self {
        array.as_mut_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for Destination<'a> {
    fn from(vector: &'a mut Vec<T>) -> Self {
        vector.as_mut_slice().into()
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            SourceKind::Operand(operand) => write!(f, "Source({} bytes)", operand.part().bytes),
            SourceKind::Slice(slice) => write!(f, "Source(slice of {} bytes)", slice.len()),
        }
    }
}

impl fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            DestinationKind::Operand(operand) => {
                write!(f, "Destination({} bytes)", operand.part().bytes)
            }
            DestinationKind::Slice(_, bytes, _) => write!(f, "Destination(slice of {bytes} bytes)"),
        }
    }
}

impl Source<'_> {
    pub(super) fn part(&self) -> Option<Part<'_>> {
        match self.0 {
            SourceKind::Operand(operand) => Some(operand.part()),
            SourceKind::Slice(_) => None,
        }
    }

    pub(super) fn borrow(&self) -> Result<Option<BorrowToken<'_>>> {
        match self.0 {
            SourceKind::Operand(operand) => operand.borrow_shared(),
            SourceKind::Slice(_) => Ok(None),
        }
    }

    pub(super) fn side(&self) -> Side {
        match self.0 {
            SourceKind::Operand(operand) => Side::of(operand),
            SourceKind::Slice(slice) => Side::of_slice(NonNull::from(slice).cast(), slice.len()),
        }
    }
}

impl Destination<'_> {
    pub(super) fn part(&self) -> Option<Part<'_>> {
        match self.0 {
            DestinationKind::Operand(operand) => Some(operand.part()),
            DestinationKind::Slice(..) => None,
        }
    }

    pub(super) fn borrow(&self) -> Result<Option<BorrowToken<'_>>> {
        match self.0 {
            DestinationKind::Operand(operand) => operand.borrow_exclusive(),
            DestinationKind::Slice(..) => Ok(None),
        }
    }

    pub(super) fn side(&self) -> Side {
        match self.0 {
            DestinationKind::Operand(operand) => Side::of(operand),
            DestinationKind::Slice(start, bytes, _) => Side::of_slice(start, bytes),
        }
    }
}

/// What a copy can own while it is under way: a [`Buffer`], a [`BufferView`], a [`PinnedBuffer`], [`Registered`] or
/// [`Adopted`] memory, or a vector or boxed slice of any [`Element`].
pub trait Owned: sealed::Owned + Any + Send {}

impl Owned for Buffer {}
impl Owned for BufferView {}
impl Owned for PinnedBuffer {}
impl<M: StableBytes> Owned for Registered<M> {}
impl<M: StableBytes> Owned for Adopted<M> {}
impl<T: Element + Send> Owned for Vec<T> {}
impl<T: Element + Send> Owned for Box<[T]> {}

pub(crate) mod sealed {
    use super::{BorrowToken, Part, Result, Side};

    pub trait Owned {
        /// The range of a block that it stands for, if it is of a pool.
        fn part(&self) -> Option<Part<'_>>;
        /// Keeps guards away until the token is dropped: those that write, or all.
        fn borrow(&self, all: bool) -> Result<Option<BorrowToken<'_>>>;
        /// Its memory, which stays where it is when the owner moves.
        fn side(&mut self) -> Side;
        /// Length in bytes.
        fn bytes(&self) -> usize;
    }
}

macro_rules! of_pool {
    ($([$($parameter:tt)*] $owner:ty),*) => {$(
        impl<$($parameter)*> sealed::Owned for $owner {
            fn part(&self) -> Option<Part<'_>> {
                Some(Sealed::part(self))
            }

            fn borrow(&self, all: bool) -> Result<Option<BorrowToken<'_>>> {
                if all { self.borrow_exclusive() } else { self.borrow_shared() }
            }

            fn side(&mut self) -> Side {
                Side::of(self)
            }

            fn bytes(&self) -> usize {
                Sealed::part(self).bytes
            }
        }
    )*};
}

of_pool!([] Buffer, [] BufferView, [] PinnedBuffer, [M: StableBytes] Registered<M>, [M: StableBytes] Adopted<M>);

macro_rules! of_host {
    ($($owner:ty),*) => {$(
        impl<T: Element> sealed::Owned for $owner {
            fn part(&self) -> Option<Part<'_>> {
                None
            }

            fn borrow(&self, _all: bool) -> Result<Option<BorrowToken<'_>>> {
                Ok(None)
            }

            fn side(&mut self) -> Side {
                let slice: &mut [T] = self;
                let bytes = size_of_val(slice);
                Side::of_slice(NonNull::from(slice).cast(), bytes)
            }

            fn bytes(&self) -> usize {
                size_of_val::<[T]>(self)
            }
        }
    )*};
}

of_host!(Vec<T>, Box<[T]>);

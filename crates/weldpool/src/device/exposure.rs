//! Who reaches a segment besides the queues of its device in this process.

#![allow(unsafe_code)]

use super::{Segment, StorageMode};
use crate::export::{Export, Exported};

/// Who is to reach a segment besides its own device in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Exposure {
    /// Other processes, in this form.
    pub export: Option<Export>,
    /// The device's peers.
    pub peers: bool,
}

/// A segment that another process made, or another owner in this one.
#[derive(Debug)]
pub struct Imported {
    /// The memory. Dropped or released, it stays with the others who have it.
    pub segment: Box<dyn Segment>,
    /// Who may touch it here.
    pub storage: StorageMode,
}

/// An exported buffer that its importer vouches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vouched<'a>(&'a Exported);

impl<'a> Vouched<'a> {
    /// # Safety
    ///
    /// As for [`Allocator::import`](crate::Allocator::import), for as long as the buffer lives that is made
    /// of it.
    pub(crate) unsafe fn new(exported: &'a Exported) -> Self {
        Self(exported)
    }

    pub(crate) fn exported(self) -> &'a Exported {
        self.0
    }
}

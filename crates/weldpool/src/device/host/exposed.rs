//! Memory of the host that other processes map too: each segment is a memory file of its own.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::NonNull;

use super::nodes::Nodes;
use crate::device::Segment;
use crate::device::mapping::{Apart, Mapper, SealedMapping};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Exported, ExportedHandle};

/// A memory file as a segment.
#[derive(Debug)]
pub(super) struct ExposedSegment {
    mapping: SealedMapping,
    /// What it counts for its node, if it was made here.
    _apart: Option<Apart>,
}

/// A segment of a node that is to be exported.
pub(super) fn create(nodes: &Nodes, bytes: usize, node: usize) -> Result<ExposedSegment> {
    let apart = Mapper::count_apart(nodes.mapper(node)?, bytes)?;
    let mapping = SealedMapping::create(bytes)?;
    nodes.bind(node, |mode, mask: &[u64]| mapping.bind(mode, mask));
    Ok(ExposedSegment {
        mapping,
        _apart: Some(apart),
    })
}

/// A segment that another process exported.
pub(super) fn import(exported: &Exported) -> Result<ExposedSegment> {
    let ExportedHandle::FileDescriptor(file) = exported.handle() else {
        return Err(Error::with_message(
            ErrorKind::Unsupported,
            format!("the host imports no {}", exported.handle().export()),
        ));
    };
    Ok(ExposedSegment {
        mapping: SealedMapping::import(file.as_fd(), exported.object_bytes())?,
        _apart: None,
    })
}

// SAFETY: the mapping is readable and writable over its whole length until it is dropped, and its length is
// sealed; the pages start out zero and the address never changes. That nobody holds a reference into it while
// another process touches it is promised to `Buffer::export` and `Allocator::import`.
unsafe impl Segment for ExposedSegment {
    fn bytes(&self) -> usize {
        self.mapping.bytes()
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        Some(self.mapping.address())
    }

    fn export(&self) -> Result<ExportedHandle> {
        self.mapping
            .descriptor()
            .map(ExportedHandle::FileDescriptor)
    }
}

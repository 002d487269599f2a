//! A segment whose calls fail on demand.

#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use weldpool::device::fake::Call;
use weldpool::device::{ReleaseError, Segment};
use weldpool::{ExportedHandle, Resource, Result};

use crate::faulty::Faults;

/// A segment that passes calls on to another one, except those told to fail.
#[derive(Debug)]
pub(crate) struct FaultySegment {
    /// None only while it is being unwrapped.
    inner: Option<Box<dyn Segment>>,
    faults: Arc<Faults>,
}

impl FaultySegment {
    pub(crate) fn wrap(inner: Box<dyn Segment>, faults: &Arc<Faults>) -> Box<dyn Segment> {
        Box::new(Self {
            inner: Some(inner),
            faults: Arc::clone(faults),
        })
    }

    /// Gives the segment below to `release`, if it is such a segment, else the segment itself.
    pub(crate) fn unwrapped(
        mut segment: Box<dyn Segment>,
        release: impl FnOnce(Box<dyn Segment>) -> std::result::Result<(), ReleaseError>,
    ) -> std::result::Result<(), ReleaseError> {
        let any: &mut dyn Any = segment.as_mut();
        let inner = any
            .downcast_mut::<Self>()
            .and_then(|faulty| Some((faulty.inner.take()?, Arc::clone(&faulty.faults))));
        match inner {
            None => release(segment),
            Some((inner, faults)) => release(inner).map_err(|refused| ReleaseError {
                segment: Self::wrap(refused.segment, &faults),
                error: refused.error,
            }),
        }
    }

    fn inner(&self) -> Option<&dyn Segment> {
        self.inner.as_deref()
    }
}

// SAFETY: everything is as the segment below says, which is there for as long as anybody else has this value.
unsafe impl Segment for FaultySegment {
    fn bytes(&self) -> usize {
        self.inner().map_or(0, Segment::bytes)
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        self.inner()?.host_address()
    }

    fn device_address(&self) -> Option<u64> {
        self.inner()?.device_address()
    }

    fn resource(&self) -> Option<Resource> {
        self.inner()?.resource()
    }

    fn parks(&self) -> bool {
        self.inner().is_some_and(Segment::parks)
    }

    fn park(&self) {
        if let Some(inner) = self.inner() {
            inner.park();
        }
    }

    fn is_discarded(&self) -> bool {
        self.inner().is_some_and(Segment::is_discarded)
    }

    fn reclaim(&self) -> bool {
        self.inner().is_none_or(Segment::reclaim)
    }

    fn export(&self) -> Result<ExportedHandle> {
        self.faults.check(Call::Export)?;
        match self.inner() {
            Some(inner) => inner.export(),
            None => unreachable!("a segment is unwrapped when it is released"),
        }
    }
}

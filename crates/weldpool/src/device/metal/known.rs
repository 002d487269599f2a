//! The buffers of a device that are alive, by the objects that locations name, and how many there may be.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::Range;

use super::raw::{Buffer, Metal};
use crate::binding::Resource;
use crate::device::Location;
use crate::error::{Error, ErrorKind, Result};
use crate::registered::CopyReason;
use crate::sync::{AtomicUsize, Ordering, RwLock};

/// Buffers by the addresses of their objects. O(1).
#[derive(Debug)]
pub(super) struct Known<M: Metal> {
    buffers: RwLock<HashMap<usize, Entry<M>>>,
    /// Buffers in it, and those being made.
    count: AtomicUsize,
    /// As many as there may be.
    most: usize,
}

#[derive(Debug)]
struct Entry<M: Metal> {
    buffer: M::Buffer,
    /// What of it work may touch: all but what surrounds memory of the program.
    window: Range<usize>,
}

/// The address of an object.
pub(super) fn key(resource: Resource) -> usize {
    resource.as_ptr().addr().get()
}

/// The buffer, if it has as many bytes: a GPU in a virtual machine gave an empty one and no error (runner-images 10663).
fn long_enough<B: Buffer>(buffer: B, bytes: usize) -> Result<B> {
    let length = buffer.length();
    if length >= bytes {
        return Ok(buffer);
    }
    let text = format!("Metal made a buffer of {length} bytes where {bytes} were asked for");
    Err(Error::with_message(ErrorKind::Unsupported, text))
}

impl<M: Metal> Known<M> {
    /// For a device that is to have at most `most` buffers. A system has a number of them from which on each is dear, or
    /// none is made (MLX PR 3512, 3849: 2^19), and all processes' count on some.
    pub(super) fn new(most: usize) -> Self {
        Self {
            buffers: RwLock::default(),
            count: AtomicUsize::new(0),
            most,
        }
    }

    /// Makes a buffer, of which work may touch `window`, and knows it until it is [removed](Self::remove).
    pub(super) fn make(
        &self,
        window: Range<usize>,
        make: impl FnOnce() -> Result<M::Buffer>,
    ) -> Result<M::Buffer> {
        let one_more = |count: usize| (count < self.most).then_some(count + 1);
        let (relaxed, most) = (Ordering::Relaxed, self.most);
        if self.count.fetch_update(relaxed, relaxed, one_more).is_err() {
            let text = format!("{most} buffers of the device are alive, which is the most");
            let error = Error::with_message(ErrorKind::LimitExceeded, text);
            return Err(error
                .with_copy_reason(CopyReason::LimitReached)
                .with_advice("end registrations, objects over blocks or allocators; each has a buffer of its own"));
        }
        let made = make().and_then(|buffer| long_enough(buffer, window.end));
        let buffer = made.inspect_err(|_| {
            self.count.fetch_sub(1, relaxed);
        })?;
        let entry = Entry {
            buffer: buffer.clone(),
            window,
        };
        let before = self.buffers.write().insert(key(buffer.resource()), entry);
        debug_assert!(before.is_none(), "an object is made once");
        Ok(buffer)
    }

    pub(super) fn remove(&self, resource: Resource) {
        let removed = self.buffers.write().remove(&key(resource));
        // Its release is a call, made with the lock free.
        if removed.is_some() {
            drop(removed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn has(&self, resource: Resource) -> bool {
        self.buffers.read().contains_key(&key(resource))
    }

    /// The buffer of a location and the offset in it, which has to hold `bytes` bytes from there.
    pub(super) fn find(
        &self,
        metal: &M,
        location: &Location,
        bytes: usize,
    ) -> Result<(M::Buffer, usize)> {
        let invalid = |text: String| Err(Error::with_message(ErrorKind::InvalidRequest, text));
        let Some((resource, offset)) = location.resource else {
            return invalid("a location without a buffer of this device".into());
        };
        let found = self.buffers.read().get(&key(resource)).map(|entry| {
            let Entry { buffer, window } = entry;
            (buffer.clone(), window.clone())
        });
        let others = || {
            let buffer = metal.find_buffer(resource)?;
            let window = 0..buffer.length();
            Some((buffer, window))
        };
        let Some((buffer, window)) = found.or_else(others) else {
            return invalid(format!(
                "{resource:?} is no buffer of this device, or its end has come"
            ));
        };
        let ends_beyond = offset.checked_add(bytes).is_none_or(|end| end > window.end);
        if offset < window.start || ends_beyond {
            return invalid(format!(
                "work on {bytes} bytes at {offset} of a buffer of {} bytes, of which {window:?} may be touched",
                buffer.length()
            ));
        }
        Ok((buffer, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::StorageMode;
    use crate::device::fake::{FakeApple, Metal as Model};

    #[test]
    fn a_buffer_that_is_shorter_than_asked_for_is_none() {
        let device = FakeApple::new().unwrap();
        let metal = device.metal();
        let known = Known::<Model>::new(1);
        let make = || metal.new_buffer(16_384, StorageMode::Private);
        let error = known.make(0..16_385, make).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            metal.live_objects().is_empty(),
            "{:?}",
            metal.live_objects()
        );
        // It does not count as one that is alive.
        known.make(0..16_384, make).unwrap();
    }
}

//! The buffers of a device that are alive, by the objects that locations name.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::raw::{Buffer, Metal};
use crate::binding::Resource;
use crate::device::Location;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::RwLock;

/// Buffers by the addresses of their objects. O(1).
#[derive(Debug)]
pub(super) struct Known<M: Metal>(RwLock<HashMap<usize, M::Buffer>>);

impl<M: Metal> Default for Known<M> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

/// The address of an object.
pub(super) fn key(resource: Resource) -> usize {
    resource.as_ptr().addr().get()
}

impl<M: Metal> Known<M> {
    pub(super) fn add(&self, buffer: &M::Buffer) {
        let buffer = buffer.clone();
        self.0.write().insert(key(buffer.resource()), buffer);
    }

    pub(super) fn remove(&self, resource: Resource) {
        let removed = self.0.write().remove(&key(resource));
        // Its release is a call, made with the lock free.
        drop(removed);
    }

    pub(super) fn has(&self, resource: Resource) -> bool {
        self.0.read().contains_key(&key(resource))
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
        let found = self.0.read().get(&key(resource)).cloned();
        let Some(buffer) = found.or_else(|| metal.find_buffer(resource)) else {
            return invalid(format!(
                "{resource:?} is no buffer of this device, or its end has come"
            ));
        };
        let length = buffer.length();
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return invalid(format!(
                "work on {bytes} bytes at {offset} of a buffer of {length} bytes"
            ));
        }
        Ok((buffer, offset))
    }
}

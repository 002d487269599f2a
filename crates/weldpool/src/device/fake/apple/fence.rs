//! The model of an `MTLFence`.

#![forbid(unsafe_code)]

use super::labels::Labelled;
use super::metal::Metal;
use super::order::Object;
use crate::device::metal::raw;
use crate::sync::Arc;

/// A fence; cloning it gives another handle.
#[derive(Debug, Clone)]
pub(in crate::device) struct Fence {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metal: Metal,
    label: Labelled,
}

impl Fence {
    pub(super) fn new(metal: &Metal) -> Self {
        Self {
            inner: Arc::new(Inner {
                metal: metal.clone(),
                label: metal.alive("fence"),
            }),
        }
    }

    pub(super) fn object(&self) -> Object {
        Arc::as_ptr(&self.inner).addr()
    }
}

impl raw::Object for Fence {
    fn set_label(&self, label: &str) {
        self.inner.label.set(label);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.metal.order().forget(std::ptr::from_ref(self).addr());
    }
}

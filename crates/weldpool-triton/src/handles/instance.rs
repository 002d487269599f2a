//! `TRITONBACKEND_ModelInstance`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use weldpool_triton_sys as sys;

use super::api::{Api, api, check};
use super::model::Model;
use super::state::Stateful;
use super::text;
use crate::clock::Ordered;
use crate::error::{Error, Result};
use crate::instance::InstanceState;

/// One instance of a model, from its initialisation to its finalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance {
    pub(super) api: &'static Api,
    pub(super) raw: NonNull<sys::ModelInstance>,
}

impl Instance {
    /// Wraps what Triton passes to a function of the backend.
    ///
    /// # Safety
    /// The pointer is null or an instance of Triton's that lives as long as the value is used.
    pub(crate) unsafe fn of(raw: *mut sys::ModelInstance) -> Result<Instance> {
        Ok(Instance {
            api: api()?,
            raw: NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no instance"))?,
        })
    }

    /// The instance's name.
    pub(crate) fn name(&self) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: the instance is alive, and `name` can be written.
        check(unsafe { (self.api.backend.instance_name)(self.raw.as_ptr(), &raw mut name) })?;
        Ok(text::owned(name))
    }

    /// The kind of its group; none if it is one that this backend does not know.
    pub(crate) fn kind(&self) -> Result<Option<sys::InstanceGroupKind>> {
        let mut kind = 0;
        // SAFETY: the instance is alive, and `kind` can be written.
        check(unsafe { (self.api.backend.instance_kind)(self.raw.as_ptr(), &raw mut kind) })?;
        Ok(sys::InstanceGroupKind::of(kind))
    }

    /// The model that it is an instance of.
    pub(crate) fn model(&self) -> Result<Model> {
        let mut raw = ptr::null_mut();
        // SAFETY: the instance is alive, and `raw` can be written.
        check(unsafe { (self.api.backend.instance_model)(self.raw.as_ptr(), &raw mut raw) })?;
        // SAFETY: Triton's model, which lives longer than its instances.
        unsafe { Model::of(raw) }
    }

    /// Counts an execution of a batch of so many.
    pub(crate) fn report_batch(&self, batch_size: u64, times: Ordered) -> Result<()> {
        // SAFETY: the instance is alive.
        check(unsafe {
            (self.api.backend.report_batch_statistics)(
                self.raw.as_ptr(),
                batch_size,
                times.exec_start,
                times.compute_start,
                times.compute_end,
                times.exec_end,
            )
        })
    }
}

// SAFETY: Triton keeps the pointer for the backend alone.
unsafe impl Stateful for Instance {
    type State = InstanceState;

    const NAME: &'static str = "instance";

    fn raw_state(&self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        // SAFETY: the instance is alive, and `state` can be written.
        check(unsafe { (self.api.backend.instance_state)(self.raw.as_ptr(), &raw mut state) })?;
        Ok(state)
    }

    fn set_raw_state(&self, state: *mut c_void) -> Result<()> {
        // SAFETY: the instance is alive; Triton keeps the pointer and does not look behind it.
        check(unsafe { (self.api.backend.instance_set_state)(self.raw.as_ptr(), state) })
    }
}

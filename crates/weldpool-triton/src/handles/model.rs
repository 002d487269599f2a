//! `TRITONBACKEND_Model`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use weldpool_triton_sys as sys;

use super::api::{Api, api, check};
use super::backend::Backend;
use super::message::Message;
use super::state::Stateful;
use super::text;
use crate::error::{Error, ErrorCode, Result};
use crate::model::ModelState;

/// The form of the configuration's JSON: the only one that there is.
const CONFIG_VERSION: u32 = 1;

/// A version of a model, from its initialisation to its finalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    api: &'static Api,
    raw: NonNull<sys::Model>,
}

impl Model {
    /// Wraps what Triton passes to a function of the backend.
    ///
    /// # Safety
    /// The pointer is null or a model of Triton's that lives as long as the value is used.
    pub(crate) unsafe fn of(raw: *mut sys::Model) -> Result<Model> {
        Ok(Model {
            api: api()?,
            raw: NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no model"))?,
        })
    }

    /// The model's name.
    pub(crate) fn name(&self) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: the model is alive, and `name` can be written.
        check(unsafe { (self.api.backend.model_name)(self.raw.as_ptr(), &raw mut name) })?;
        Ok(text::owned(name))
    }

    /// The version that is loaded.
    pub(crate) fn version(&self) -> Result<u64> {
        let mut version = 0;
        // SAFETY: the model is alive, and `version` can be written.
        check(unsafe { (self.api.backend.model_version)(self.raw.as_ptr(), &raw mut version) })?;
        Ok(version)
    }

    /// The folder with the configuration and the folders of the versions.
    pub(crate) fn repository(&self) -> Result<PathBuf> {
        let mut artifact = 0;
        let mut location = ptr::null();
        // SAFETY: the model is alive, and both places can be written.
        check(unsafe {
            (self.api.backend.model_repository)(
                self.raw.as_ptr(),
                &raw mut artifact,
                &raw mut location,
            )
        })?;
        if artifact != sys::ARTIFACT_FILESYSTEM {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!(
                    "models are read from folders, and this one is at a place of kind {artifact}"
                ),
            ));
        }
        Ok(PathBuf::from(text::owned(location)))
    }

    /// The configuration as JSON, as Triton has completed it so far.
    pub(crate) fn config(&self) -> Result<String> {
        Message::take(self.api, |raw| {
            // SAFETY: the model is alive, and `raw` can be written.
            unsafe { (self.api.backend.model_config)(self.raw.as_ptr(), CONFIG_VERSION, raw) }
        })?
        .json()
    }

    /// Replaces the configuration. Allowed while the model is initialised only.
    pub(crate) fn set_config(&self, json: &str) -> Result<()> {
        let message = Message::of_json(self.api, json)?;
        // SAFETY: the model and the message are alive; Triton copies what it takes.
        check(unsafe {
            (self.api.backend.model_set_config)(self.raw.as_ptr(), CONFIG_VERSION, message.raw())
        })
    }

    /// Whether Triton wants the backend to complete the configuration.
    pub(crate) fn auto_complete(&self) -> Result<bool> {
        let mut wanted = false;
        // SAFETY: the model is alive, and `wanted` can be written.
        check(unsafe {
            (self.api.backend.model_auto_complete)(self.raw.as_ptr(), &raw mut wanted)
        })?;
        Ok(wanted)
    }

    /// The backend that the model is of.
    pub(crate) fn backend(&self) -> Result<Backend> {
        let mut raw = ptr::null_mut();
        // SAFETY: the model is alive, and `raw` can be written.
        check(unsafe { (self.api.backend.model_backend)(self.raw.as_ptr(), &raw mut raw) })?;
        // SAFETY: Triton's backend, which lives longer than its models.
        unsafe { Backend::of(raw) }
    }

    /// Tells how many bytes of host memory the model holds.
    pub(crate) fn report_memory(&self, bytes: u64) -> Result<()> {
        let usage = MemoryUsage::host(self.api, bytes)?;
        let mut raw = usage.raw;
        // SAFETY: the model is alive; Triton copies the attributes of the one entry.
        check(unsafe {
            (self.api.backend.model_report_memory_usage)(self.raw.as_ptr(), &raw mut raw, 1)
        })
    }
}

// SAFETY: Triton keeps the pointer for the backend alone.
unsafe impl Stateful for Model {
    type State = ModelState;

    const NAME: &'static str = "model";

    fn raw_state(&self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        // SAFETY: the model is alive, and `state` can be written.
        check(unsafe { (self.api.backend.model_state)(self.raw.as_ptr(), &raw mut state) })?;
        Ok(state)
    }

    fn set_raw_state(&self, state: *mut c_void) -> Result<()> {
        // SAFETY: the model is alive; Triton keeps the pointer and does not look behind it.
        check(unsafe { (self.api.backend.model_set_state)(self.raw.as_ptr(), state) })
    }
}

/// How much memory of one kind is held.
struct MemoryUsage {
    api: &'static Api,
    raw: *mut sys::BufferAttributes,
}

impl MemoryUsage {
    fn host(api: &'static Api, bytes: u64) -> Result<MemoryUsage> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` can be written.
        check(unsafe { (api.core.buffer_attributes_new)(&raw mut raw) })?;
        let usage = MemoryUsage { api, raw };
        // SAFETY: the attributes are ours.
        check(unsafe {
            (api.core.buffer_attributes_set_memory_type)(raw, sys::MemoryType::Cpu.number())
        })?;
        // SAFETY: as above.
        check(unsafe { (api.core.buffer_attributes_set_memory_type_id)(raw, 0) })?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: as above.
        check(unsafe { (api.core.buffer_attributes_set_byte_size)(raw, bytes) })?;
        Ok(usage)
    }
}

impl Drop for MemoryUsage {
    fn drop(&mut self) {
        // SAFETY: the attributes are ours and not used again.
        drop(check(unsafe {
            (self.api.core.buffer_attributes_delete)(self.raw)
        }));
    }
}

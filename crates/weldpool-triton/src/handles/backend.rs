//! `TRITONBACKEND_Backend` and its attributes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use weldpool_triton_sys as sys;

use super::api::{Api, api, check};
use super::message::Message;
use super::state::Stateful;
use super::text;
use crate::backend::BackendState;
use crate::error::{Error, ErrorCode, Result};

/// The backend, from its initialisation to its finalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    api: &'static Api,
    raw: NonNull<sys::BackendHandle>,
}

impl Backend {
    /// Wraps what Triton passes to a function of the backend.
    ///
    /// # Safety
    /// The pointer is null or a backend of Triton's that lives as long as the value is used.
    pub(crate) unsafe fn of(raw: *mut sys::BackendHandle) -> Result<Backend> {
        Ok(Backend {
            api: api()?,
            raw: NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no backend"))?,
        })
    }

    /// Compares the version of Triton's backend API with what this backend is made for.
    ///
    /// # Errors
    /// `Unsupported`, with both versions.
    pub(crate) fn check_api_version(self) -> Result<()> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both places can be written.
        check(unsafe { (self.api.backend.api_version)(&raw mut major, &raw mut minor) })?;
        if api_fits(major, minor) {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "this Triton's backend API is {major}.{minor}, but metal_mps needs {}.{} or a later \
                 {}.x",
                sys::BACKEND_API_MAJOR,
                sys::BACKEND_API_MINOR,
                sys::BACKEND_API_MAJOR,
            ),
        ))
    }

    /// The name that configurations give.
    pub(crate) fn name(self) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: the backend is alive, and `name` can be written.
        check(unsafe { (self.api.backend.name)(self.raw.as_ptr(), &raw mut name) })?;
        Ok(text::owned(name))
    }

    /// The settings of Triton's command line, as JSON.
    pub(crate) fn config(self) -> Result<String> {
        Message::borrowed_json(self.api, |raw| {
            // SAFETY: the backend is alive, and `raw` can be written.
            unsafe { (self.api.backend.config)(self.raw.as_ptr(), raw) }
        })
    }

    /// The folder that this library was loaded from.
    pub(crate) fn directory(self) -> Result<PathBuf> {
        let mut artifact = 0;
        let mut location = ptr::null();
        // SAFETY: the backend is alive, and both places can be written.
        check(unsafe {
            (self.api.backend.artifacts)(self.raw.as_ptr(), &raw mut artifact, &raw mut location)
        })?;
        Ok(PathBuf::from(text::owned(location)))
    }
}

// SAFETY: Triton keeps the pointer for the backend alone.
unsafe impl Stateful for Backend {
    type State = BackendState;

    const NAME: &'static str = "backend";

    fn raw_state(&self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        // SAFETY: the backend is alive, and `state` can be written.
        check(unsafe { (self.api.backend.state)(self.raw.as_ptr(), &raw mut state) })?;
        Ok(state)
    }

    fn set_raw_state(&self, state: *mut c_void) -> Result<()> {
        // SAFETY: the backend is alive; Triton keeps the pointer and does not look behind it.
        check(unsafe { (self.api.backend.set_state)(self.raw.as_ptr(), state) })
    }
}

/// What the backend tells of itself before any model is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    api: &'static Api,
    raw: NonNull<sys::Attributes>,
}

impl Attributes {
    /// Wraps what Triton passes to a function of the backend.
    ///
    /// # Safety
    /// The pointer is null or of Triton's attributes, which live as long as the value is used.
    pub(crate) unsafe fn of(raw: *mut sys::Attributes) -> Result<Attributes> {
        Ok(Attributes {
            api: api()?,
            raw: NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no attributes"))?,
        })
    }

    /// Instances of one model may be made side by side.
    pub(crate) fn set_parallel_instance_loading(self, on: bool) -> Result<()> {
        // SAFETY: the attributes are alive.
        check(unsafe { (self.api.backend.set_parallel_instance_loading)(self.raw.as_ptr(), on) })
    }

    /// What an instance group of `KIND_AUTO` becomes.
    pub(crate) fn add_preferred_instance_group(
        self,
        kind: sys::InstanceGroupKind,
        count: u64,
    ) -> Result<()> {
        // SAFETY: the attributes are alive; a list of no devices may be null.
        check(unsafe {
            (self.api.backend.add_preferred_instance_group)(
                self.raw.as_ptr(),
                kind.number(),
                count,
                ptr::null(),
                0,
            )
        })
    }
}

fn api_fits(major: u32, minor: u32) -> bool {
    major == sys::BACKEND_API_MAJOR && minor >= sys::BACKEND_API_MINOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_major_or_an_older_minor_version_does_not_fit() {
        let (major, minor) = (sys::BACKEND_API_MAJOR, sys::BACKEND_API_MINOR);
        assert!(api_fits(major, minor));
        assert!(api_fits(major, minor + 1));
        assert!(!api_fits(major, minor - 1));
        assert!(!api_fits(major + 1, minor));
        assert!(!api_fits(0, minor));
    }
}

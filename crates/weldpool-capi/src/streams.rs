//! Streams of CUDA that an allocator adopted, where there is CUDA.

#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
pub(crate) use memory::device::cuda::AdoptedStreams;

#[cfg(not(target_os = "linux"))]
pub(crate) use absent::AdoptedStreams;

#[cfg(not(target_os = "linux"))]
mod absent {
    use std::ffi::c_void;
    use std::sync::Arc;

    use memory::{Queue, Result};

    /// None are ever adopted.
    #[derive(Debug)]
    pub(crate) enum AdoptedStreams {}

    impl AdoptedStreams {
        pub(crate) unsafe fn queue(&self, _: *mut c_void) -> Result<Arc<Queue>> {
            match *self {}
        }

        pub(crate) unsafe fn forget(&self, _: *mut c_void) -> Result<bool> {
            match *self {}
        }
    }
}

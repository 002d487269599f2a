//! Setters of the options for loading and for running.
#![allow(unsafe_code)]

use std::ffi::c_int;

use ort_sys as sys;

use super::{Result, RunOptions, SessionOptions, Status, c_string};

impl SessionOptions {
    /// Sets how many threads share one operator; 0 lets the library decide.
    pub(in crate::onnxruntime) fn set_intra_op_threads(&mut self, threads: usize) -> Result<()> {
        let threads = c_int::try_from(threads).map_err(|_| Status::refused("too many threads"))?;
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.handle.api.table.SetIntraOpNumThreads)(self.handle.as_ptr(), threads) };
        self.handle.api.check(status)
    }

    /// Sets how many threads run operators side by side; 0 lets the library decide.
    pub(in crate::onnxruntime) fn set_inter_op_threads(&mut self, threads: usize) -> Result<()> {
        let threads = c_int::try_from(threads).map_err(|_| Status::refused("too many threads"))?;
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.handle.api.table.SetInterOpNumThreads)(self.handle.as_ptr(), threads) };
        self.handle.api.check(status)
    }

    /// Sets whether operators run side by side.
    pub(in crate::onnxruntime) fn set_parallel(&mut self, parallel: bool) -> Result<()> {
        let mode = if parallel {
            sys::ExecutionMode::ORT_PARALLEL
        } else {
            sys::ExecutionMode::ORT_SEQUENTIAL
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.handle.api.table.SetSessionExecutionMode)(self.handle.as_ptr(), mode) };
        self.handle.api.check(status)
    }

    /// Sets how much the graph is rewritten.
    pub(in crate::onnxruntime) fn set_graph_optimization(
        &mut self,
        level: sys::GraphOptimizationLevel,
    ) -> Result<()> {
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe {
            (self.handle.api.table.SetSessionGraphOptimizationLevel)(self.handle.as_ptr(), level)
        };
        self.handle.api.check(status)
    }

    /// Sets whether the library's own arena is used.
    pub(in crate::onnxruntime) fn set_arena(&mut self, on: bool) -> Result<()> {
        let set = if on {
            self.handle.api.table.EnableCpuMemArena
        } else {
            self.handle.api.table.DisableCpuMemArena
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe { set(self.handle.as_ptr()) };
        self.handle.api.check(status)
    }

    /// Sets whether the memory of a run is planned ahead.
    pub(in crate::onnxruntime) fn set_memory_pattern(&mut self, on: bool) -> Result<()> {
        let set = if on {
            self.handle.api.table.EnableMemPattern
        } else {
            self.handle.api.table.DisableMemPattern
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe { set(self.handle.as_ptr()) };
        self.handle.api.check(status)
    }

    /// Sets one of the library's named settings.
    pub(in crate::onnxruntime) fn set_entry(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: the options are alive and borrowed mutably; both strings are copied.
        let status = unsafe {
            (self.handle.api.table.AddSessionConfigEntry)(
                self.handle.as_ptr(),
                name.as_ptr(),
                value.as_ptr(),
            )
        };
        self.handle.api.check(status)
    }
    /// Lets the session take up the allocators that its environment offers.
    pub(in crate::onnxruntime) fn use_env_allocators(&mut self) -> Result<()> {
        self.set_entry("session.use_env_allocators", "1")?;
        self.env_allocators = true;
        Ok(())
    }
}

impl RunOptions {
    /// Sets one of the library's named settings for runs.
    pub(in crate::onnxruntime) fn set_entry(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: the options are alive and borrowed mutably; both strings are copied.
        let status = unsafe {
            (self.api.table.AddRunConfigEntry)(self.handle.as_ptr(), name.as_ptr(), value.as_ptr())
        };
        self.api.check(status)
    }

    /// Sets whether runs with these options, those under way included, end as soon as they can.
    pub(in crate::onnxruntime) fn set_terminate(&self, on: bool) -> Result<()> {
        let set = if on {
            self.api.table.RunOptionsSetTerminate
        } else {
            self.api.table.RunOptionsUnsetTerminate
        };
        // SAFETY: the options are alive; the library means this flag, and no other setting, to be
        // changed while runs read it.
        let status = unsafe { set(self.handle.as_ptr()) };
        self.api.check(status)
    }
}

//! A device's primary context, and how calls are made in it.

#![forbid(unsafe_code)]

use std::ffi::{c_int, c_uint};

use super::host_functions;
use super::raw::{Driver, Handle, Missing};
use super::status::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// The primary context of a device, which the CUDA runtime, and so every other library of the process,
/// uses too. Retained while the value lives.
#[derive(Debug)]
pub(super) struct Context {
    driver: &'static Driver,
    device: c_int,
    handle: Handle,
    lost: AtomicBool,
    /// Of this process's contexts.
    number: u64,
}

impl Context {
    /// Retains the context of the device with this number.
    pub(super) fn retain(ordinal: u32) -> Result<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let driver = driver()?;
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let device = driver.device(ordinal);
        let device = device.map_err(|status| status.error(driver, "cuDeviceGet"))?;
        let handle = driver.retain_primary_context(device);
        let handle = handle.map_err(|status| status.error(driver, "cuDevicePrimaryCtxRetain"))?;
        Ok(Arc::new(Self {
            driver,
            device,
            handle,
            lost: AtomicBool::new(false),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }))
    }

    pub(super) fn device(&self) -> c_int {
        self.device
    }

    /// The driver's number of another device.
    pub(super) fn number_of(&self, ordinal: u32) -> Result<c_int> {
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        self.call("cuDeviceGet", |driver| driver.device(ordinal))
    }

    /// Lets another device's context reach all that this one allocates by `cuMemAlloc`.
    pub(super) fn let_in(&self, peer: &Self) -> Result<()> {
        peer.call("cuCtxEnablePeerAccess", |driver| {
            driver.enable_peer_access(self.handle)
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether a call said that the context is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether the context is gone and no function of ours, of whichever stream, touches memory any more.
    pub(super) fn has_stopped(&self) -> bool {
        if !self.is_lost() {
            return false;
        }
        // Whoever found it lost may not have come to that yet.
        host_functions::forget(self.number);
        !host_functions::any_runs()
    }

    /// Makes a call in this context, whichever the thread's is, and without an effect on a capture that any
    /// thread makes. `name` is that of the driver's function.
    pub(super) fn call<T>(
        &self,
        name: &str,
        call: impl FnOnce(&'static Driver) -> std::result::Result<T, Status>,
    ) -> Result<T> {
        self.check()?;
        let entered =
            Entered::enter(self).map_err(|status| self.error(status, "cuCtxPushCurrent"))?;
        let result = call(self.driver).map_err(|status| self.error(status, name));
        drop(entered);
        result
    }

    /// As [`call`](Self::call), of a function that neither looks at the thread's context nor can break a
    /// capture.
    pub(super) fn ask<T>(
        &self,
        name: &str,
        call: impl FnOnce(&'static Driver) -> std::result::Result<T, Status>,
    ) -> Result<T> {
        self.check()?;
        call(self.driver).map_err(|status| self.error(status, name))
    }

    /// Whether the driver may be called.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_lost() {
            return Err(lost());
        }
        if host_functions::is_inside() {
            return Err(inside());
        }
        Ok(())
    }

    /// As [`call`](Self::call), for what gives something back: on a lost context that is done already.
    pub(super) fn give_back(
        &self,
        name: &str,
        call: impl FnOnce(&'static Driver) -> std::result::Result<(), Status>,
    ) -> Result<()> {
        match self.call(name, call) {
            Err(error) if error.kind() == ErrorKind::DeviceLost => Ok(()),
            result => result,
        }
    }

    fn error(&self, status: Status, name: &str) -> Error {
        if status.is_sticky() && !self.lost.swap(true, Ordering::AcqRel) {
            host_functions::forget(self.number);
            tracing::error!(device = self.device, %status, call = name, "a CUDA context is lost");
        }
        status.error(self.driver, name)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let (driver, device) = (self.driver, self.device);
        let release = move || {
            if let Err(status) = driver.release_primary_context(device) {
                tracing::warn!(%status, "cuDevicePrimaryCtxRelease failed");
            }
        };
        if !host_functions::is_inside() {
            return release();
        }
        // The driver must not be called there.
        let name = "weldpool-release".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(release) {
            tracing::warn!(%error, device, "a primary context stays retained");
        }
    }
}

/// The driver, or the error that says why there is none.
pub(super) fn driver() -> Result<&'static Driver> {
    Driver::get().map_err(|missing| match missing {
        Missing::Library(said) => {
            Error::with_message(ErrorKind::Unsupported, format!("no CUDA driver: {said}"))
        }
        Missing::Function(name) => Error::with_message(
            ErrorKind::Unsupported,
            format!("the CUDA driver has no {name}; version 12.0 or later is needed"),
        ),
        Missing::Init(status, name) => Error::with_message(
            ErrorKind::Unsupported,
            format!(
                "the CUDA driver does not start here: cuInit said {} ({status}){}",
                name.unwrap_or("a result unknown to it"),
                status.hint()
            ),
        ),
    })
}

pub(super) fn inside() -> Error {
    Error::new(
        ErrorKind::Busy,
        "the CUDA driver must not be called from a function that a queue calls; do it elsewhere",
    )
}

pub(super) fn lost() -> Error {
    Error::new(
        ErrorKind::DeviceLost,
        "the CUDA context was lost in an earlier call",
    )
}

/// The calling thread's context and capture mode, while they are ours.
struct Entered {
    driver: &'static Driver,
    /// The thread had another context.
    pushed: bool,
    mode: c_uint,
}

impl Entered {
    fn enter(context: &Context) -> std::result::Result<Self, Status> {
        let driver = context.driver;
        let pushed = driver.current_context()? != context.handle;
        if pushed {
            driver.push_context(context.handle)?;
        }
        let mut entered = Self {
            driver,
            pushed,
            mode: 0,
        };
        // A failure leaves the mode that every thread starts with, which the drop sets again.
        entered.mode = driver.relax_capture()?;
        Ok(entered)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut left = self.driver.exchange_capture_mode(self.mode).map(drop);
        if self.pushed {
            left = left.and(self.driver.pop_context());
        }
        if let Err(status) = left {
            tracing::warn!(%status, "a thread's CUDA context could not be restored");
        }
    }
}

//! Guards: the host's access to contents, which work in flight is kept away from.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use memory::{BufferView, ReadGuard, Result, WriteGuard};

use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, given};
use crate::buffer::BufferHandle;
use crate::failure::ErrorObject;

/// Access to the contents of a buffer, until it is freed. It keeps the memory alive.
pub struct GuardHandle {
    /// Before the view that it borrows, so that it is dropped first.
    access: Access,
    _view: Arc<BufferView>,
}

#[expect(dead_code, reason = "they are held, and end when dropped")]
enum Access {
    Read(ReadGuard<'static, u8>),
    Write(WriteGuard<'static, u8>),
}

impl fmt::Debug for GuardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access {
            Access::Read(_) => f.write_str("GuardHandle(read)"),
            Access::Write(_) => f.write_str("GuardHandle(write)"),
        }
    }
}

impl GuardHandle {
    fn new(
        view: &BufferView,
        access: impl FnOnce(&'static BufferView) -> Result<Access>,
    ) -> Result<Self> {
        let view = Arc::new(view.clone());
        // SAFETY: the guard borrows what is behind the Arc, which does not move, and is dropped before it; it is used
        // nowhere else.
        let borrowed: &'static BufferView = unsafe { &*Arc::as_ptr(&view) };
        Ok(Self {
            access: access(borrowed)?,
            _view: view,
        })
    }
}

/// Read access to a buffer's contents: nothing writes them through this library until the guard is freed. `data` is
/// their address; there are weldpool_buffer_bytes of them. Readers do not exclude each other.
///
/// Errors: BUSY while submitted work writes the memory or a write guard is held on any view of it (weldpool_buffer_wait
/// waits for work), UNSUPPORTED for private storage. Free with weldpool_guard_free, on any thread. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_read(
    buffer: Option<&BufferHandle>,
    guard: *mut *mut GuardHandle,
    data: *mut *const c_void,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let (place, data) = (Place::new(guard, "guard"), Place::new(data, "data"));
        let (place, data) = (place?, data?);
        let handle = given(buffer, "buffer")?;
        let mut address = std::ptr::null();
        let held = GuardHandle::new(&handle.view, |view| {
            let guard = view.read::<u8>()?;
            address = guard.as_ptr().cast();
            Ok(Access::Read(guard))
        })?;
        data.put(address);
        place.give(held);
        Ok(())
    })
}

/// Write access to a buffer's contents: nothing else touches them through this library until the guard is freed.
///
/// Errors: as for weldpool_buffer_read, and BUSY while submitted work reads the memory or any other guard is held on
/// any view of it. Free with weldpool_guard_free, on any thread, before work that reads it is submitted. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_write(
    buffer: Option<&BufferHandle>,
    guard: *mut *mut GuardHandle,
    data: *mut *mut c_void,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let (place, data) = (Place::new(guard, "guard"), Place::new(data, "data"));
        let (place, data) = (place?, data?);
        let handle = given(buffer, "buffer")?;
        let mut address = std::ptr::null_mut();
        let held = GuardHandle::new(&handle.view, |view| {
            let mut guard = view.write::<u8>()?;
            address = guard.as_mut_ptr().cast();
            Ok(Access::Write(guard))
        })?;
        data.put(address);
        place.give(held);
        Ok(())
    })
}

/// Ends the access. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_guard_free(guard: Option<Box<GuardHandle>>) {
    infallible((), || drop(guard));
}

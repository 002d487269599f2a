//! All devices of the machine, and copies between them.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::fmt::Write;

use memory::Runtime;

use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, given};
use crate::abi::text;
use crate::buffer::BufferHandle;
use crate::device::DeviceHandle;
use crate::failure::ErrorObject;

/// The real devices of the machine, and what copies between memories of different devices. Thread-safe.
#[derive(Debug)]
pub struct RuntimeHandle {
    runtime: Runtime,
}

/// Opens every real device there is; what cannot be opened is no error, see weldpool_runtime_absent.
///
/// Errors: what opening the host says. Free with weldpool_runtime_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_open(
    runtime: *mut *mut RuntimeHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(runtime, "runtime")?;
        place.give(RuntimeHandle {
            runtime: Runtime::open()?,
        });
        Ok(())
    })
}

/// How many devices there are, at least one, which is the host; 0 for null. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_device_count(runtime: Option<&RuntimeHandle>) -> usize {
    infallible(0, || {
        runtime.map_or(0, |handle| handle.runtime.devices().len())
    })
}

/// The device at a position, from 0, which is the host.
///
/// Errors: INVALID_REQUEST for a position that there is not, else as for weldpool_device_open. Free with
/// weldpool_device_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_device(
    runtime: Option<&RuntimeHandle>,
    position: usize,
    device: *mut *mut DeviceHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(device, "device")?;
        let devices = given(runtime, "runtime")?.runtime.devices();
        let found = devices.get(position).ok_or_else(|| {
            let text = format!("device {position} of {}", devices.len());
            memory::Error::with_message(memory::ErrorKind::InvalidRequest, text)
        })?;
        place.give(DeviceHandle::of(std::sync::Arc::clone(found))?);
        Ok(())
    })
}

/// What cannot be used here and why, a line for each kind of device, or device. Free the text with
/// weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_absent(
    runtime: Option<&RuntimeHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(text, "text")?;
        let mut lines = String::new();
        for absent in given(runtime, "runtime")?.runtime.absent() {
            // A string takes everything.
            let _infallible = writeln!(lines, "{}: {}", absent.name, absent.error);
        }
        text::give(&place, lines);
        Ok(())
    })
}

/// Copies all of `source` to the start of `destination`, whatever devices they are of, and returns when it is there. On
/// one device weldpool_queue_copy does it without waiting.
///
/// Errors: INVALID_REQUEST when the destination is shorter or overlaps the source, BUSY while a guard is held, else
/// what drivers say. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_copy(
    runtime: Option<&RuntimeHandle>,
    source: Option<&BufferHandle>,
    destination: Option<&BufferHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let runtime = &given(runtime, "runtime")?.runtime;
        let source = &given(source, "source")?.view;
        let destination = &given(destination, "destination")?.view;
        let _how = runtime.copy(source, destination)?;
        Ok(())
    })
}

/// Frees a handle; devices that came from it go on. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_runtime_free(runtime: Option<Box<RuntimeHandle>>) {
    infallible((), || drop(runtime));
}

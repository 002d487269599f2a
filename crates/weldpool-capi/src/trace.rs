//! Traces: recorded from a running program, and replayed.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::sync::Arc;

use memory::trace::{self, Reader, Recorder, Replay, ReplayOptions, Target};
use memory::{Error, ErrorKind};

use crate::abi::guard::fallible;
use crate::abi::pointer::{Place, given};
use crate::abi::text;
use crate::allocator::{self, AllocatorHandle};
use crate::config::ConfigOf;
use crate::device::DeviceHandle;
use crate::failure::ErrorObject;

/// Records every allocation and free of the pool to a file from now on, a binary one, by custom `*.wpt`; the program
/// `weldpool trace` converts and shows it. The file is made, or emptied. A recording that is under way is ended.
///
/// Errors: SYSTEM where the file cannot be made, or one that was under way could not be written; the new one has not
/// begun, or has, respectively. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_record(
    allocator: Option<&AllocatorHandle>,
    path: *const c_char,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let allocator = allocator::of(allocator)?;
        let recorder = Recorder::create(text::given(path, "path")?)?;
        match allocator.record(Some(Arc::new(recorder))) {
            Some(before) => Ok(before.finish().map(drop)?),
            None => Ok(()),
        }
    })
}

/// Ends the recording: what was recorded is in the file. `events` and `dropped`, if not null, are how many events are
/// in it, and for how many there was no room.
///
/// Errors: INVALID_REQUEST where nothing is recorded, SYSTEM where the file could not be written. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_record_stop(
    allocator: Option<&AllocatorHandle>,
    events: *mut u64,
    dropped: *mut u64,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let (events, dropped) = (Place::optional(events), Place::optional(dropped));
        let recorder = allocator::of(allocator)?
            .record(None)
            .ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "nothing is recorded here"))?;
        let recording = recorder.finish()?;
        events.put(recording.events);
        dropped.put(recording.dropped);
        Ok(())
    })
}

/// Replays a trace on fresh allocators of a device: this library's recordings, and the formats that `weldpool trace`
/// reads, gzip included. The result is JSON, on one line: latencies, memory held, failures. `config` may be null.
///
/// Errors: SYSTEM where the file cannot be read, INVALID_REQUEST where it is damaged, UNSUPPORTED for an unknown
/// format, else as for weldpool_allocator_create. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_trace_replay(
    path: *const c_char,
    device: Option<&DeviceHandle>,
    config: *const ConfigOf,
    json: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(json, "json")?;
        let device = given(device, "device")?;
        let reader = Reader::open(text::given(path, "path")?)?;
        // What is wrong with the configuration is told as such, before anything is replayed.
        let mut first = Some(allocator::create(device, config)?);
        let (events, _skipped) = trace::read_all(reader)?;
        let mut refused = None;
        let report = Replay::new(ReplayOptions::default()).run(&events, || {
            let handle = match first.take() {
                Some(handle) => Ok(handle),
                None => allocator::create(device, config),
            };
            match handle {
                Ok(handle) => Ok(Target::new(handle.allocator)),
                Err(error) => {
                    refused = Some(error);
                    Err(Error::new(
                        ErrorKind::System,
                        "the allocator could not be made",
                    ))
                }
            }
        });
        match (report, refused) {
            (Ok(report), _) => {
                text::give(&place, report.to_json());
                Ok(())
            }
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(error.into()),
        }
    })
}

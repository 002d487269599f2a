//! Calls on a device that safe code cannot make, for the suite.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::{AddressRange, DeviceQueue, Location, Physical, Segment, VirtualMemory};
use weldpool::{Device, Result, StorageMode};

/// A device's own queue, and shared memory through which contents are seen.
pub(super) struct Probe {
    queue: Arc<dyn DeviceQueue>,
    seen: Box<dyn Segment>,
}

impl Probe {
    pub(super) fn new(device: &dyn Device, bytes: usize) -> Self {
        Self {
            queue: device.create_queue().unwrap(),
            seen: device.create_segment(bytes, StorageMode::Shared).unwrap(),
        }
    }

    fn wait(&self) {
        let value = self.queue.signal().unwrap();
        assert!(
            self.queue
                .timeline()
                .wait(value, Some(Duration::from_secs(60)))
                .unwrap()
        );
    }

    pub(super) fn fill(&self, range: &dyn AddressRange, at: usize, bytes: usize, value: u8) {
        // SAFETY: the tests map the memory first and wait for the work before they change anything.
        unsafe { self.queue.fill(place(range, at), bytes, value) }.unwrap();
        self.wait();
    }

    /// Whether every byte has this value.
    pub(super) fn holds(
        &self,
        range: &dyn AddressRange,
        at: usize,
        bytes: usize,
        value: u8,
    ) -> bool {
        let host = self.seen.host_address().unwrap();
        let seen = Location {
            host: Some(host),
            device: self.seen.device_address(),
            resource: self.seen.resource().map(|resource| (resource, 0)),
        };
        // SAFETY: as for `fill`, and the segment is long enough.
        unsafe { self.queue.copy(place(range, at), seen, bytes) }.unwrap();
        self.wait();
        // SAFETY: the segment is that long, initialised, and no work uses it any more.
        let contents = unsafe { std::slice::from_raw_parts(host.as_ptr(), bytes) };
        contents.iter().all(|&byte| byte == value)
    }
}

fn place(range: &dyn AddressRange, at: usize) -> Location {
    Location {
        host: range.host_address().map(|host| {
            // SAFETY: the tests stay inside the range.
            unsafe { host.add(at) }
        }),
        device: range.device_address().map(|address| address + at as u64),
        resource: range
            .resource()
            .map(|(resource, start)| (resource, start + at)),
    }
}

pub(super) fn map(
    range: &dyn AddressRange,
    at: usize,
    physical: Physical,
    bytes: usize,
) -> Result<()> {
    // SAFETY: the tests wait for all work before they change a mapping, and write through one mapping
    // of a handle at a time.
    unsafe { range.map(at, physical, bytes) }
}

pub(super) fn unmap(range: &dyn AddressRange, at: usize, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { range.unmap(at, bytes) }
}

pub(super) fn release(memory: &dyn VirtualMemory, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { memory.release(physical, bytes) }
}

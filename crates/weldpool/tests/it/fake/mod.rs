//! What is particular to the devices made of software.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod apple;
mod closing;
mod discrete;
mod intel;
mod peers;
mod pool;
mod queues;
mod untold;

use std::sync::Arc;

use weldpool::device::fake::{Control, FakeApple, FakeDiscrete, Rule};
use weldpool::device::{
    Budget, DeviceProperties, DeviceQueue, Exposure, HostRange, Imported, Location, Registration,
    ReleaseError, Segment, Staging, UnregisterError, VirtualMemory,
};
use weldpool::{Device, Exported, Result, StorageMode};

/// A device made of software.
pub(crate) trait Fake: Device {
    fn control(&self) -> &Control;
}

impl Fake for FakeDiscrete {
    fn control(&self) -> &Control {
        self.control()
    }
}

impl Fake for FakeApple {
    fn control(&self) -> &Control {
        self.control()
    }
}

/// A device that fails the test if a rule was broken by the time of its end.
#[derive(Debug)]
pub(crate) struct Checked<D: Fake>(pub(crate) D);

impl<D: Fake> Drop for Checked<D> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.control().violations(), []);
        }
    }
}

impl<D: Fake> Device for Checked<D> {
    fn properties(&self) -> &DeviceProperties {
        self.0.properties()
    }

    fn budget(&self) -> Result<Budget> {
        self.0.budget()
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.0.create_segment(bytes, storage)
    }

    fn note_host_write(&self, start: &Location, bytes: usize) {
        self.0.note_host_write(start, bytes);
    }

    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        self.0.offers(exposure, storage)
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.0.create_exposed(bytes, storage, node, exposure)
    }

    #[allow(unsafe_code)]
    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.import(exported) }
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        self.0.release_segment(segment)
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        self.0.create_queue()
    }

    #[allow(unsafe_code)]
    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.register(memory) }
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        self.0.unregister(registration)
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        self.0.virtual_memory(storage)
    }

    fn staging(&self) -> Staging {
        self.0.staging()
    }

    fn charged_ns(&self) -> u64 {
        self.0.charged_ns()
    }
}

/// The rules broken, oldest first.
fn broken(control: &Control) -> Vec<Rule> {
    let violations = control.violations();
    violations.iter().map(|violation| violation.rule).collect()
}

//! What is particular to the devices made of software.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod apple;
mod closing;
mod discrete;
mod external;
mod intel;
mod peers;
mod pool;
mod queues;
mod rules;
mod sparse;
mod systems;
mod untold;

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::fake::{Control, FakeApple, FakeDiscrete, LiveObject, Rule};
use weldpool::device::{
    Budget, DeviceProperties, DeviceQueue, Exposure, HostRange, Imported, Location, Registration,
    ReleaseError, Segment, Staging, UnregisterError, VirtualMemory,
};
use weldpool::{Device, Exported, Result, StorageMode};

/// A device made of software.
pub(crate) trait Fake: Device {
    fn control(&self) -> &Control;

    /// The objects of the driver's that are alive besides the device's own.
    fn objects(&self) -> Vec<LiveObject> {
        Vec::new()
    }
}

/// Asserts that all memory and all objects have gone back, once what was submitted is done.
pub(crate) fn assert_all_returned(device: &(impl Fake + ?Sized), about: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let budget = device.budget().unwrap();
        let objects = device.objects();
        if budget.available == Some(budget.total) && objects.is_empty() {
            return;
        }
        assert!(
            Instant::now() < end,
            "{about}: {:?} of {} bytes are back, and alive are {objects:?}",
            budget.available,
            budget.total
        );
        std::thread::sleep(Duration::from_millis(1));
    }
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

    fn objects(&self) -> Vec<LiveObject> {
        // Forgets those that have ended.
        let _alive = self.control().queues();
        let mut objects = self.metal().live_objects();
        // The device's own: residency sets, and what mappings are made with.
        objects.retain(|one| one.what != "residency set" && one.label != "weldpool mappings");
        objects
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

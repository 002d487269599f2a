//! Settings of a discrete fake.

use std::time::Duration;

use super::FakeDiscrete;
use crate::device::Topology;
use crate::device::fake::control::Settings;
use crate::device::fake::costs::Costs;
use crate::device::fake::faults::Fault;
use crate::error::Result;

/// Memory of an H200 as its driver reports it, about 139 GiB.
const MEMORY_BYTES: u64 = 139 << 30;

/// Builds a [`FakeDiscrete`].
#[derive(Debug)]
#[must_use]
pub struct FakeDiscreteBuilder {
    pub(super) memory: u64,
    pub(super) pinned: u64,
    pub(super) topology: Option<Topology>,
    pub(super) costs: Costs,
    pub(super) settings: Settings,
}

impl Default for FakeDiscreteBuilder {
    fn default() -> Self {
        Self {
            memory: MEMORY_BYTES,
            pinned: MEMORY_BYTES,
            topology: None,
            costs: Costs::h200(),
            settings: Settings::default(),
        }
    }
}

impl FakeDiscreteBuilder {
    /// Bytes of device memory. Only what is touched takes memory of this machine. Default: 139 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Bytes of host memory that can be pinned. Default: 139 GiB.
    pub fn pinned_memory(mut self, bytes: u64) -> Self {
        self.pinned = bytes;
        self
    }

    /// The host's nodes, by which pinned memory is kept apart if there are two at least. Each has as many
    /// bytes as it says, or else as many as can be pinned in all. Default: one node.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Number among the devices of its kind; devices of different numbers have no address in common.
    /// Default: 0.
    pub fn ordinal(mut self, ordinal: u16) -> Self {
        self.settings.ordinal = u32::from(ordinal);
        self
    }

    /// Seed of delays, of faults by probability and of the order of
    /// [`Control::run_all`](crate::device::fake::Control::run_all). Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// What calls are charged. Default: [`Costs::h200`].
    pub fn costs(mut self, costs: Costs) -> Self {
        self.costs = costs;
        self
    }

    /// Longest time by which an item of a queue is late; zero for none. Default: 20 us.
    pub fn delays(mut self, max: Duration) -> Self {
        self.settings.delay_max = max;
        self
    }

    /// Whether queues go on only when stepped through
    /// [`Control`](crate::device::fake::Control). Whoever waits for a fence then blocks until another
    /// thread has stepped the queue that far. Default: off.
    pub fn manual(mut self, on: bool) -> Self {
        self.settings.manual = on;
        self
    }

    /// Whether memory of any size is poisoned when it is new and when it is released; otherwise only up
    /// to 4 MiB. Default: off.
    pub fn poison(mut self, on: bool) -> Self {
        self.settings.poison = on;
        self
    }

    /// Adds calls that fail. Default: none.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.settings.faults.extend(faults);
        self
    }

    /// Makes the device.
    ///
    /// # Errors
    ///
    /// [`System`](crate::ErrorKind::System) when the memory file cannot be made (Linux:
    /// `memfd_create`).
    pub fn build(self) -> Result<FakeDiscrete> {
        FakeDiscrete::build(self)
    }
}

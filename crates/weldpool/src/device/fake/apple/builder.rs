//! Settings of an Apple fake.

use std::time::Duration;

use super::FakeApple;
use super::costs::AppleCosts;
use crate::device::fake::control::Settings;
use crate::device::fake::faults::Fault;
use crate::error::Result;

/// Builds a [`FakeApple`]. Sizes that are not given are those of a Mac with 128 GiB, or their share of
/// another memory size.
#[derive(Debug)]
#[must_use]
pub struct FakeAppleBuilder {
    pub(super) memory: u64,
    pub(super) working_set: Option<u64>,
    pub(super) buffer_bytes_max: Option<u64>,
    pub(super) costs: AppleCosts,
    pub(super) settings: Settings,
}

impl Default for FakeAppleBuilder {
    fn default() -> Self {
        Self {
            memory: 128 << 30,
            working_set: None,
            buffer_bytes_max: None,
            costs: AppleCosts::assumed(),
            settings: Settings::default(),
        }
    }
}

impl FakeAppleBuilder {
    /// Bytes of physical memory. Only what is touched takes memory of this machine. Default: 128 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// `recommendedMaxWorkingSetSize` in bytes. Default: 84 % of the memory, as seen on an M4 Max with
    /// 128 GiB.
    pub fn recommended_max_working_set_size(mut self, bytes: u64) -> Self {
        self.working_set = Some(bytes);
        self
    }

    /// `maxBufferLength` in bytes. Default: 63 % of the memory, as seen on the same machine.
    pub fn max_buffer_length(mut self, bytes: u64) -> Self {
        self.buffer_bytes_max = Some(bytes);
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

    /// What calls are charged. Default: [`AppleCosts::assumed`].
    pub fn costs(mut self, costs: AppleCosts) -> Self {
        self.costs = costs;
        self
    }

    /// Longest time by which an item of a queue is late; zero for none. Default: 20 us.
    pub fn delays(mut self, max: Duration) -> Self {
        self.settings.delay_max = max;
        self
    }

    /// Whether queues go on only when stepped through
    /// [`Control`](crate::device::fake::Control). Default: off.
    pub fn manual(mut self, on: bool) -> Self {
        self.settings.manual = on;
        self
    }

    /// Whether new private memory of any size is poisoned; otherwise only up to 4 MiB. What is
    /// discarded is always poisoned. Default: off.
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
    pub fn build(self) -> Result<FakeApple> {
        FakeApple::build(self)
    }
}

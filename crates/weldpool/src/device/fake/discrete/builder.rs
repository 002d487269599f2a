//! Settings that only a discrete fake has.

use super::FakeDiscrete;
use crate::device::fake::builder::Builder;
use crate::device::fake::costs::Costs;
use crate::error::Result;

/// Memory of an H200 as its driver reports it, about 139 GiB.
const MEMORY_BYTES: u64 = 139 << 30;

/// Builds a [`FakeDiscrete`].
pub type FakeDiscreteBuilder = Builder<DiscreteModel>;

/// Sizes and costs of a discrete fake.
#[derive(Debug)]
pub struct DiscreteModel {
    pub(super) memory: u64,
    pub(super) pinned: u64,
    pub(super) costs: Costs,
}

impl Default for DiscreteModel {
    fn default() -> Self {
        Self {
            memory: MEMORY_BYTES,
            pinned: MEMORY_BYTES,
            costs: Costs::h200(),
        }
    }
}

impl FakeDiscreteBuilder {
    /// Bytes of device memory. Only what is touched takes memory of this machine. Default: 139 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.model.memory = bytes;
        self
    }

    /// Bytes of host memory that can be pinned. Default: 139 GiB.
    pub fn pinned_memory(mut self, bytes: u64) -> Self {
        self.model.pinned = bytes;
        self
    }

    /// What calls are charged. Default: [`Costs::h200`].
    pub fn costs(mut self, costs: Costs) -> Self {
        self.model.costs = costs;
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

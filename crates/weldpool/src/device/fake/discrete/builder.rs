//! Settings that only a discrete fake has.

use super::{FakeDiscrete, Link};
use crate::device::Topology;
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
    pub(super) topology: Option<Topology>,
    pub(super) costs: Costs,
    pub(super) link: Option<Link>,
}

impl Default for DiscreteModel {
    fn default() -> Self {
        Self {
            memory: MEMORY_BYTES,
            pinned: MEMORY_BYTES,
            topology: None,
            costs: Costs::h200(),
            link: None,
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

    /// The host's nodes, by which pinned memory is kept apart if there are two at least. Each has as many
    /// bytes as it says, or else as many as can be pinned in all. Default: one node.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.model.topology = Some(topology);
        self
    }

    /// What calls are charged. Default: [`Costs::h200`].
    pub fn costs(mut self, costs: Costs) -> Self {
        self.model.costs = costs;
        self
    }

    /// Joins the device with others as peers. Default: it has none.
    pub fn link(mut self, link: &Link) -> Self {
        self.model.link = Some(link.clone());
        self
    }

    /// Makes the device.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when its number is beyond those of the link,
    /// [`System`](crate::ErrorKind::System) when the memory file cannot be made (Linux:
    /// `memfd_create`).
    pub fn build(self) -> Result<FakeDiscrete> {
        FakeDiscrete::build(self)
    }
}

//! Settings that only an Apple fake has.

use super::FakeApple;
use super::costs::AppleCosts;
use crate::device::fake::builder::Builder;
use crate::device::metal::raw::SparsePageSize;
use crate::error::Result;

/// Builds a [`FakeApple`]. Sizes that are not given are those of a Mac with 128 GiB, or their share of
/// another memory size.
pub type FakeAppleBuilder = Builder<AppleModel>;

/// Sizes and costs of an Apple fake.
#[derive(Debug)]
pub struct AppleModel {
    pub(super) memory: u64,
    pub(super) working_set: Option<u64>,
    pub(super) buffer_bytes_max: Option<u64>,
    pub(super) macos26: bool,
    pub(super) metal4: bool,
    pub(super) placement_sparse: bool,
    pub(super) sparse_page_max: SparsePageSize,
    pub(super) buffers_max: usize,
    pub(super) empty_no_copy: bool,
    pub(super) costs: AppleCosts,
}

impl Default for AppleModel {
    fn default() -> Self {
        Self {
            memory: 128 << 30,
            working_set: None,
            buffer_bytes_max: None,
            macos26: true,
            metal4: true,
            placement_sparse: false,
            sparse_page_max: SparsePageSize::Size256,
            buffers_max: 499_000,
            empty_no_copy: false,
            costs: AppleCosts::assumed(),
        }
    }
}

impl FakeAppleBuilder {
    /// Bytes of physical memory. Only what is touched takes memory of this machine. Default: 128 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.model.memory = bytes;
        self
    }

    /// `recommendedMaxWorkingSetSize` in bytes. Default: 84 % of the memory, as seen on an M4 Max with
    /// 128 GiB.
    pub fn recommended_max_working_set_size(mut self, bytes: u64) -> Self {
        self.model.working_set = Some(bytes);
        self
    }

    /// `maxBufferLength` in bytes. Default: 63 % of the memory, as seen on the same machine.
    pub fn max_buffer_length(mut self, bytes: u64) -> Self {
        self.model.buffer_bytes_max = Some(bytes);
        self
    }

    /// Whether the system is macOS 26, which has the calls of Metal 4. Default: yes.
    pub fn macos26(mut self, it_is: bool) -> Self {
        self.model.macos26 = it_is;
        self
    }

    /// Whether the GPU is of the family Metal 4. Default: yes.
    pub fn metal4(mut self, there: bool) -> Self {
        self.model.metal4 = there;
        self
    }

    /// Whether private memory is mapped into placement sparse buffers instead of coming as segments, where that can be
    /// had; [`FakeApple::placement_sparse`] says. Default: off.
    pub fn placement_sparse(mut self, on: bool) -> Self {
        self.model.placement_sparse = on;
        self
    }

    /// Largest page of placement sparse buffers.
    #[cfg(test)]
    pub(in crate::device) fn sparse_page_max(mut self, page: SparsePageSize) -> Self {
        self.model.sparse_page_max = page;
        self
    }

    /// Buffers that may be alive at once. Default: 499,000, as MLX presumes where the system does not tell.
    pub fn buffers_max(mut self, buffers: usize) -> Self {
        self.model.buffers_max = buffers;
        self
    }

    /// Whether memory that is wrapped without a copy gives a buffer of no bytes and no error, as a GPU in a virtual
    /// machine did (runner-images 10663). Default: off.
    pub fn empty_no_copy(mut self, on: bool) -> Self {
        self.model.empty_no_copy = on;
        self
    }

    /// What calls are charged. Default: [`AppleCosts::assumed`].
    pub fn costs(mut self, costs: AppleCosts) -> Self {
        self.model.costs = costs;
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

//! Settings that only an Apple fake has.

use std::time::Duration;

use super::FakeApple;
use super::costs::AppleCosts;
use crate::device::fake::builder::Builder;
use crate::device::metal::ResidencyConfig;
use crate::device::metal::raw::SparsePageSize;
use crate::error::Result;

/// Builds a [`FakeApple`]. Sizes that are not given are those of a Mac with 128 GiB, or their share of
/// another memory size.
pub type FakeAppleBuilder = Builder<AppleModel>;

/// Which kind of GPU an Apple fake is a model of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AppleGpu {
    /// That of an M3 or M4: one memory with the host.
    #[default]
    Silicon,
    /// The discrete GPU of an Intel Mac: memory of its own, pages of 4 KiB, managed storage, heaps of private storage alone, no
    /// residency sets.
    Discrete,
    /// Apple's GPU in a virtual machine, without what does not work there: heaps, residency sets, and memory wrapped in
    /// other than whole pages, of which it makes a buffer of no bytes (actions/runner-images issue 10663).
    Paravirtual,
}

/// Sizes and costs of an Apple fake.
#[derive(Debug)]
pub struct AppleModel {
    pub(super) gpu: AppleGpu,
    pub(super) peer_group: Option<(u64, u16)>,
    pub(super) host_memory: u64,
    pub(super) memory: u64,
    pub(super) working_set: Option<u64>,
    pub(super) buffer_bytes_max: Option<u64>,
    pub(super) macos: u32,
    pub(super) metal4: bool,
    pub(super) placement_sparse: bool,
    pub(super) residency: ResidencyConfig,
    pub(super) sparse_page_max: SparsePageSize,
    pub(super) buffers_max: usize,
    pub(super) empty_no_copy: bool,
    pub(super) heap_padding: usize,
    pub(super) heap_alignment: usize,
    pub(super) event_wait_max: Option<Duration>,
    pub(super) costs: AppleCosts,
}

impl Default for AppleModel {
    fn default() -> Self {
        Self {
            gpu: AppleGpu::Silicon,
            peer_group: None,
            host_memory: 128 << 30,
            memory: 128 << 30,
            working_set: None,
            buffer_bytes_max: None,
            macos: 26,
            metal4: true,
            placement_sparse: false,
            residency: ResidencyConfig::default(),
            sparse_page_max: SparsePageSize::Size256,
            buffers_max: 499_000,
            empty_no_copy: false,
            heap_padding: 0,
            heap_alignment: 256,
            event_wait_max: None,
            costs: AppleCosts::assumed(),
        }
    }
}

impl FakeAppleBuilder {
    /// Which kind of GPU it is. Default: [`AppleGpu::Silicon`].
    pub fn gpu(mut self, gpu: AppleGpu) -> Self {
        self.model.gpu = gpu;
        self
    }

    /// Makes it one of the `count` devices of a peer group, which have the numbers from 0 on; `group` is not 0. Default: it
    /// is in none.
    pub fn peer_group(mut self, group: u64, count: u16) -> Self {
        self.model.peer_group = Some((group, count));
        self
    }

    /// Bytes of the host's memory, where the GPU has memory of its own. Default: 128 GiB.
    pub fn host_memory(mut self, bytes: u64) -> Self {
        self.model.host_memory = bytes;
        self
    }

    /// Bytes of physical memory, or of the GPU's own. Only what is touched takes memory of this machine. Default: 128 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.model.memory = bytes;
        self
    }

    /// `recommendedMaxWorkingSetSize` in bytes. Default: 84 % of the memory, as seen on an M4 Max with
    /// 128 GiB; all of it, where it is the GPU's own.
    pub fn recommended_max_working_set_size(mut self, bytes: u64) -> Self {
        self.model.working_set = Some(bytes);
        self
    }

    /// `maxBufferLength` in bytes. Default: 63 % of the memory, as seen on the same machine.
    pub fn max_buffer_length(mut self, bytes: u64) -> Self {
        self.model.buffer_bytes_max = Some(bytes);
        self
    }

    /// Version of the system: macOS 13 and 14 have no residency sets, and before macOS 26 there are no placement sparse
    /// buffers and nothing else of Metal 4. Nothing else depends on it. Default: 26.
    pub fn macos(mut self, version: u32) -> Self {
        self.model.macos = version;
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

    /// What is kept resident, and how. Default: [`ResidencyConfig::default`].
    pub fn residency(mut self, residency: ResidencyConfig) -> Self {
        self.model.residency = residency;
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

    /// Bytes that a buffer takes on a heap beyond its length, which is rounded up to the alignment first:
    /// `heapBufferSizeAndAlignWithLength:options:` may say so. Default: 0.
    pub fn heap_padding(mut self, bytes: usize) -> Self {
        self.model.heap_padding = bytes;
        self
    }

    /// The multiple, in bytes, at which a buffer may lie on a heap; a power of two. Default: 256, as on Apple silicon.
    pub fn heap_alignment(mut self, bytes: usize) -> Self {
        self.model.heap_alignment = bytes;
        self
    }

    /// How long a command buffer waits for an event before the system terminates it
    /// (`MTLCommandBufferErrorTimeout`). Default: for ever, since Apple names no time.
    pub fn event_wait_max(mut self, most: Duration) -> Self {
        self.model.event_wait_max = Some(most);
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
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when its number is beyond those of its peer group, the
    /// group is 0, or the alignment on heaps is no power of two; [`System`](crate::ErrorKind::System) when the memory file cannot be made (Linux:
    /// `memfd_create`).
    pub fn build(self) -> Result<FakeApple> {
        FakeApple::build(self)
    }
}

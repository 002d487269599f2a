//! Who is measured, and at which settings.

use std::process::Command;

/// An allocator of device memory at one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// Weldpool with its default configuration, on queues of its own.
    Ours,
    /// The same on streams that somebody else made, found by their handles.
    Adopted,
    /// Weldpool told to spend little driver time: traces only.
    Frugal,
    /// A thread's own stack of numbers: no peer, but what the loop itself costs.
    Reference,
    CudaMalloc,
    CudaMallocAsync,
    RmmPool,
    RmmArena,
    RmmAsync,
    Torch,
    TorchExpandable,
}

use Contender as C;

impl Contender {
    pub(super) const ALL: [Self; 11] = [
        C::Ours,
        C::Adopted,
        C::Frugal,
        C::Reference,
        C::CudaMalloc,
        C::CudaMallocAsync,
        C::RmmPool,
        C::RmmArena,
        C::RmmAsync,
        C::Torch,
        C::TorchExpandable,
    ];

    /// The name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            C::Ours => "weldpool",
            C::Adopted => "weldpool, adopted stream",
            C::Frugal => "weldpool, frugal",
            C::Reference => "reference",
            C::CudaMalloc => "cudaMalloc",
            C::CudaMallocAsync => "cudaMallocAsync",
            C::RmmPool => "RMM pool",
            C::RmmArena => "RMM arena",
            C::RmmAsync => "RMM cuda_async",
            C::Torch => "PyTorch",
            C::TorchExpandable => "PyTorch expandable",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|contender| contender.name() == name)
    }

    pub(super) fn is_peer(self) -> bool {
        self.library().is_some()
    }

    /// The file of `gpu/peers` that it is in.
    pub(super) fn library(self) -> Option<&'static str> {
        match self {
            C::Ours | C::Adopted | C::Frugal | C::Reference => None,
            C::CudaMalloc | C::CudaMallocAsync => Some("driver"),
            C::RmmPool | C::RmmArena | C::RmmAsync => Some("rmm"),
            C::Torch | C::TorchExpandable => Some("torch"),
        }
    }

    /// Whether each operation of it is one call of CUDA's for memory, and nothing else.
    pub(super) fn calls_each_time(self) -> bool {
        matches!(self, C::CudaMalloc | C::CudaMallocAsync | C::RmmAsync)
    }

    /// What `peer_open` is given.
    pub(super) fn setting(self) -> &'static str {
        match self {
            C::CudaMallocAsync | C::RmmAsync => "async",
            C::RmmPool => "pool",
            C::RmmArena => "arena",
            _ => "",
        }
    }

    pub(super) fn set_up(self, command: &mut Command) {
        command.env_remove("PYTORCH_CUDA_ALLOC_CONF");
        if self == C::TorchExpandable {
            command.env("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True");
        }
    }
}

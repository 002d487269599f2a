//! The device suite, `alloc_ops` and cases of its own on a real NVIDIA GPU: `cargo xtask gpu test`.
//!
//! Cargo runs this target only when it is named, since a machine without a GPU fails all of it.

#![cfg(all(target_os = "linux", feature = "cuda"))]
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::{Arc, LazyLock};

use weldpool::Device;
use weldpool::device::cuda::CudaDevice;
use weldpool_testkit::FaultyDevice;

mod capture;
mod counted;
mod device;
mod gpu;
mod growth;
mod heap;
mod lost;
mod operations;
mod pinned;
mod reuse;
mod sharing;
mod streams;

/// Keeps the primary context while tests open and drop devices.
static KEPT: LazyLock<CudaDevice> = LazyLock::new(|| CudaDevice::open(0).unwrap());

fn cuda() -> Arc<dyn Device> {
    LazyLock::force(&KEPT);
    Arc::new(CudaDevice::open(0).unwrap())
}

weldpool_testkit::device_suite!(cuda_device, cuda);
// What a device without handles and mappings has: `cuMemAlloc`, and pages locked in place.
weldpool_testkit::device_suite!(cuda_segments, || Arc::new(
    FaultyDevice::new(cuda()).without_virtual_memory()
));

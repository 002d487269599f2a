//! The device suite on the host and on the fakes, and what is particular to each.

use std::sync::Arc;

use weldpool::device::fake::{AppleGpu, FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;

mod config;
mod exposed;
mod fake;
mod health;
mod host;
mod log;
mod logging;
#[cfg(target_os = "linux")]
mod numa;
mod observe;
mod ordered_reuse;
mod pinned;
mod policy;
mod profiling;
mod recording;
mod refused_signals;
mod registered;
mod thread_caches;
mod trace;
mod transfer;
mod zero_copy;

use self::fake::Checked;

weldpool_testkit::device_suite!(host_device, || Arc::new(HostDevice::new().unwrap()));
// Of two nodes, each thread on one of them.
#[cfg(target_os = "linux")]
weldpool_testkit::device_suite!(host_of_two_nodes, numa::host_of_threads);
weldpool_testkit::device_suite!(fake_discrete, || Arc::new(Checked(
    FakeDiscrete::builder().seed(1).build().unwrap()
)));
weldpool_testkit::device_suite!(fake_apple, || Arc::new(Checked(
    FakeApple::builder().seed(2).build().unwrap()
)));
weldpool_testkit::device_suite!(fake_apple_placement_sparse, || Arc::new(Checked(
    FakeApple::builder()
        .seed(3)
        .placement_sparse(true)
        .build()
        .unwrap()
)));
// Without residency sets, and where buffers take more of a heap than they are long.
weldpool_testkit::device_suite!(fake_macos_14, || Arc::new(Checked(
    FakeApple::builder()
        .macos(14)
        .heap_padding(4096)
        .seed(5)
        .build()
        .unwrap()
)));
weldpool_testkit::device_suite!(fake_intel_mac, || Arc::new(Checked(
    FakeApple::builder()
        .gpu(AppleGpu::Discrete)
        .seed(3)
        .build()
        .unwrap()
)));
weldpool_testkit::device_suite!(fake_paravirtual, || Arc::new(Checked(
    FakeApple::builder()
        .gpu(AppleGpu::Paravirtual)
        .seed(4)
        .build()
        .unwrap()
)));

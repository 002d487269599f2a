//! The devices that operations run on.

use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weldpool::device::DeviceQueue;
use weldpool::device::fake::{Builder, Control, FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
#[cfg(target_os = "linux")]
use weldpool::device::{NumaNode, Topology, host::NumaPolicy};
use weldpool::{Device, Result, StorageMode};

use super::input::Input;
use crate::FaultyDevice;
use crate::fake::Fake;

/// Much longer than another thread takes to close an allocator.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A device, and how its queues go on.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) device: Arc<FaultyDevice>,
    fake: Option<Fake>,
    pub(super) storages: Vec<StorageMode>,
    /// Whether it may run out of memory.
    pub(super) scarce: bool,
    pub(super) queues: u64,
}

/// A fake whose queues go on by hand.
fn by_hand<M>(builder: Builder<M>, seed: u64) -> Builder<M> {
    builder.seed(seed).delays(Duration::ZERO).manual(true)
}

/// The host; with nodes, one whose threads move between two.
fn host(nodes: bool) -> Result<HostDevice> {
    #[cfg(target_os = "linux")]
    if nodes {
        let node = |number| NumaNode {
            number,
            ..NumaNode::default()
        };
        let looks = AtomicU32::new(0);
        let current = move || looks.fetch_add(1, Ordering::Relaxed) / 4 % 2;
        let topology = Topology::fake(vec![node(0), node(1)], current);
        return HostDevice::with_topology(NumaPolicy::Local, topology);
    }
    let _ = nodes;
    HostDevice::new()
}

impl Target {
    #[expect(
        clippy::expect_used,
        reason = "a machine without memory files tests nothing"
    )]
    pub(super) fn choose(input: &mut Input<'_>) -> Self {
        let kind = input.below(4);
        let scarce = input.flag();
        let memory = if scarce { 64 << 20 } else { 16 << 30 };
        let seed = u64::from(input.byte());
        // The host's memory is never scarce here; it may have nodes instead.
        let host = || host(scarce).expect("a host device");
        let (inner, fake): (Arc<dyn Device>, _) = match kind {
            0 | 1 => (Arc::new(host()), None),
            2 => {
                let builder = FakeDiscrete::builder().memory(memory).pinned_memory(memory);
                let device = Arc::new(by_hand(builder, seed).build().expect("a discrete fake"));
                (device.clone(), Some(Fake::Discrete(device)))
            }
            _ => {
                let builder = FakeApple::builder().memory(memory);
                let device = Arc::new(by_hand(builder, seed).build().expect("an Apple fake"));
                (device.clone(), Some(Fake::Apple(device)))
            }
        };
        let storages = inner.properties().storage_modes.clone();
        let device = FaultyDevice::new(inner);
        let device = if kind == 1 {
            device.without_virtual_memory()
        } else {
            device
        };
        Self {
            device: Arc::new(device),
            scarce: scarce && fake.is_some(),
            fake,
            storages,
            queues: 0,
        }
    }

    /// A device that was made by others, whose queues go on by themselves.
    pub(super) fn over(device: Arc<dyn Device>) -> Self {
        Self {
            storages: device.properties().storage_modes.clone(),
            device: Arc::new(FaultyDevice::new(device)),
            fake: None,
            // Others may hold its memory.
            scarce: true,
            queues: 0,
        }
    }

    /// The control of a fake, whose queues go on by hand.
    pub(super) fn control(&self) -> Option<&Control> {
        self.fake.as_ref().map(Fake::control)
    }

    /// A queue of the device and its number.
    pub(super) fn create_queue(&mut self) -> Option<(Arc<dyn DeviceQueue>, u64)> {
        let queue = self.device.create_queue().ok()?;
        self.queues += 1;
        Some((queue, self.queues - 1))
    }

    /// Asserts that nothing is held. A thread that makes or closes another allocator may be the one that closes
    /// this one, and be at it.
    pub(super) fn check_returned(&self) {
        let start = Instant::now();
        while self.device.held().bytes() > 0 && start.elapsed() < CLOSE_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.device.held().bytes(), 0, "memory was not returned");
    }

    /// Asserts that nothing is held and no rule was broken.
    pub(super) fn check_end(&self) {
        self.check_returned();
        if let Some(control) = self.control() {
            assert_eq!(control.violations(), [], "rules were broken");
        }
        if self.fake.is_some()
            && let Ok(budget) = self.device.budget()
        {
            assert_eq!(budget.available, Some(budget.total), "memory was lost");
        }
    }
}

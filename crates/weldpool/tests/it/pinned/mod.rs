//! Requests for held memory alone, memory reserved ahead, and the pool of pinned memory over both.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod failing;
mod held;
mod pool;
mod reserve;
mod stress;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Device, StorageMode};
use weldpool_testkit::FaultyDevice;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

/// The calls that obtain memory.
const OBTAINING: [Call; 2] = [Call::CreateSegment, Call::CreatePhysical];

/// Devices whose memory comes in different ways, with a storage mode for each: divisible and indivisible virtual
/// memory, and segments.
fn devices() -> Vec<(Arc<dyn Device>, StorageMode)> {
    let discrete = Arc::new(FakeDiscrete::new().unwrap());
    vec![
        (Arc::new(HostDevice::new().unwrap()), StorageMode::Shared),
        (discrete.clone(), StorageMode::Private),
        (discrete, StorageMode::Shared),
        (Arc::new(FakeApple::new().unwrap()), StorageMode::Shared),
    ]
}

fn faulty(inner: impl Device + 'static) -> (Arc<FaultyDevice>, Allocator) {
    let device = Arc::new(FaultyDevice::new(Arc::new(inner)));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

/// Holds threads up where they pass it while it is closed.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    closed: bool,
    waiting: usize,
}

impl Gate {
    /// Closes the way to memory of a device.
    fn before(device: &FaultyDevice) -> Self {
        let gate = Self::default();
        gate.close();
        for call in OBTAINING {
            let gate = gate.clone();
            device.before(call, move || gate.pass());
        }
        gate
    }

    fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.waiting += 1;
        self.0.1.notify_all();
        state = self.0.1.wait_while(state, |state| state.closed).unwrap();
        state.waiting -= 1;
    }

    /// Waits until a thread stands before it.
    fn await_caller(&self) {
        let state = self.0.0.lock().unwrap();
        let come = |state: &mut State| state.waiting == 0;
        let waited = self.0.1.wait_timeout_while(state, LONG, come).unwrap();
        assert!(!waited.1.timed_out(), "nobody came");
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

//! Settings of a fake device.

use std::time::Duration;

use super::control::Settings;
use super::faults::Fault;

/// Builds a fake device; what only one of them has is in `M`. See
/// [`FakeAppleBuilder`](super::FakeAppleBuilder) and
/// [`FakeDiscreteBuilder`](super::FakeDiscreteBuilder).
#[derive(Debug)]
#[must_use]
pub struct Builder<M> {
    pub(super) model: M,
    pub(super) settings: Settings,
}

impl<M: Default> Default for Builder<M> {
    fn default() -> Self {
        Self {
            model: M::default(),
            settings: Settings::default(),
        }
    }
}

impl<M> Builder<M> {
    /// Number among the devices of its kind; devices of different numbers have no address in common.
    /// Default: 0.
    pub fn ordinal(mut self, ordinal: u16) -> Self {
        self.settings.ordinal = u32::from(ordinal);
        self
    }

    /// Seed of delays, of faults by probability and of the order of
    /// [`Control::run_all`](super::Control::run_all). Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Longest time by which an item of a queue is late; zero for none. Default: 20 us.
    pub fn delays(mut self, max: Duration) -> Self {
        self.settings.delay_max = max;
        self
    }

    /// Whether queues go on only when stepped through [`Control`](super::Control). Whoever waits for a
    /// fence then blocks until another thread has stepped the queue that far. Default: off.
    pub fn manual(mut self, on: bool) -> Self {
        self.settings.manual = on;
        self
    }

    /// Whether private memory of any size is poisoned when it is new, and by the discrete fake when it
    /// is released; otherwise only up to 4 MiB. What the Apple fake discards is always poisoned.
    /// Default: off.
    pub fn poison(mut self, on: bool) -> Self {
        self.settings.poison = on;
        self
    }

    /// Adds calls that fail. Default: none.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.settings.faults.extend(faults);
        self
    }
}

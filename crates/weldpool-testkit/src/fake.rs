//! A device made of software, whichever of them it is.

use std::sync::Arc;

use weldpool::device::fake::{Control, FakeApple, FakeDiscrete};

/// A fake, to be asked and told what a device cannot be.
#[derive(Debug)]
pub(crate) enum Fake {
    Discrete(Arc<FakeDiscrete>),
    Apple(Arc<FakeApple>),
}

impl Fake {
    pub(crate) fn control(&self) -> &Control {
        match self {
            Self::Discrete(device) => device.control(),
            Self::Apple(device) => device.control(),
        }
    }
}

//! Cases that go wrong on purpose, for the tests of `weldpool doctor`.

use std::time::Duration;

use clap::ValueEnum;
use weldpool::{Allocator, ErrorKind, StorageMode};
use weldpool_testkit::device_suite::MakeDevice;
use weldpool_testkit::{Call, FaultyDevice};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Injected {
    /// An assertion fails.
    Panic,
    /// The process ends itself, as a driver's assertion does.
    Abort,
    /// It never ends.
    Hang,
    /// A driver call fails that nobody expects to.
    Fault,
    /// A rule of the driver is broken, and the error is swallowed.
    Violation,
}

impl Injected {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] = [
        Self::Panic,
        Self::Abort,
        Self::Hang,
        Self::Fault,
        Self::Violation,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Abort => "abort",
            Self::Hang => "hang",
            Self::Fault => "fault",
            Self::Violation => "violation",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let all = Self::value_variants().iter().copied();
        all.into_iter().find(|injected| injected.name() == name)
    }

    /// Goes wrong.
    ///
    /// # Panics
    ///
    /// Where that is how.
    pub(super) fn run(self, make: MakeDevice) {
        match self {
            Self::Panic => panic!("it was to fail, at /a/folder/of/this/machine.rs"),
            Self::Abort => std::process::abort(),
            Self::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Self::Fault => {
                let device = std::sync::Arc::new(FaultyDevice::new(make()));
                for call in [Call::CreateSegment, Call::CreatePhysical] {
                    device.fail(call, ErrorKind::System, usize::MAX);
                }
                let allocator = Allocator::builder(device).build();
                let allocated = allocator.and_then(|allocator| allocator.allocate(8 << 20));
                assert!(allocated.is_ok(), "{allocated:?}");
            }
            Self::Violation => drop(make().create_segment(1, StorageMode::Shared)),
        }
    }
}

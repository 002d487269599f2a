//! The suite as a table, for programs that run it.

use std::fmt;

use weldpool::{Device, StorageMode};

use super::MakeDevice;

/// The cases that need what some devices do not have.
const VIRTUAL_MEMORY: &str = "virtual_memory";

/// A case of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    topic: &'static str,
    name: &'static str,
    run: fn(MakeDevice),
}

impl Case {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(topic: &'static str, name: &'static str, run: fn(MakeDevice)) -> Self {
        Self { topic, name, run }
    }

    /// Every case, in the order of the list that `device_suite!` makes tests of.
    #[must_use]
    pub fn all() -> &'static [Self] {
        const ALL: &[Case] = crate::device_suite!(@list table ());
        ALL
    }

    /// The case that is written so, `topic::name`.
    #[must_use]
    pub fn named(written: &str) -> Option<Self> {
        let (topic, name) = written.split_once("::")?;
        let all = Self::all().iter();
        all.copied()
            .find(|case| case.topic == topic && case.name == name)
    }

    /// What it is about.
    #[must_use]
    pub fn topic(self) -> &'static str {
        self.topic
    }

    /// Whether there is anything to check on this device.
    #[must_use]
    pub fn applies_to(self, device: &dyn Device) -> bool {
        let offered = |storage| device.virtual_memory(storage).is_some();
        self.topic != VIRTUAL_MEMORY || StorageMode::ALL.into_iter().any(offered)
    }

    /// Runs it on devices that `make` makes.
    ///
    /// # Panics
    ///
    /// When the device does not do what it should.
    pub fn run(self, make: MakeDevice) {
        (self.run)(make);
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.topic, self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use weldpool::device::fake::{FakeApple, FakeDiscrete};

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_is_found_by_it() {
        let written: HashSet<String> = Case::all().iter().map(ToString::to_string).collect();
        assert_eq!(written.len(), Case::all().len());
        for name in written {
            assert_eq!(Case::named(&name).unwrap().to_string(), name);
        }
        for wrong in ["", "memory", "memory::", "queues::threads_copy_at_once"] {
            assert!(Case::named(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_device_without_virtual_memory_has_none_of_its_cases() {
        let apple: Arc<dyn Device> = Arc::new(FakeApple::builder().build().unwrap());
        let discrete: Arc<dyn Device> = Arc::new(FakeDiscrete::builder().build().unwrap());
        let of = |device: &dyn Device| Case::all().iter().filter(|c| c.applies_to(device)).count();
        assert_eq!(of(discrete.as_ref()), Case::all().len());
        assert_eq!(of(apple.as_ref()), Case::all().len() - 2);
    }
}

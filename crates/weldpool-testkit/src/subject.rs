//! The device that a program is to test.

use std::sync::Arc;

use weldpool::device::DeviceKind;
use weldpool::device::fake::{Builder, FakeApple, FakeDiscrete, Violation};
use weldpool::{Device, Result, Runtime};

use crate::fake::Fake;

/// A device opened by its name; one made of software tells what rules were broken.
#[derive(Debug)]
pub struct Subject {
    device: Arc<dyn Device>,
    fake: Option<Fake>,
}

fn settings<M>(builder: Builder<M>, ordinal: u32) -> Builder<M> {
    builder.ordinal(ordinal.try_into().unwrap_or(0)).seed(1)
}

impl Subject {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// As for [`Runtime::open_device`].
    pub fn open(name: &str) -> Result<Self> {
        let device = Runtime::open_device(name)?;
        let (kind, ordinal) = (device.properties().kind, device.properties().ordinal);
        Ok(match kind {
            DeviceKind::FakeDiscrete => {
                let fake = Arc::new(settings(FakeDiscrete::builder(), ordinal).build()?);
                Self {
                    device: fake.clone(),
                    fake: Some(Fake::Discrete(fake)),
                }
            }
            DeviceKind::FakeApple => {
                let fake = Arc::new(settings(FakeApple::builder(), ordinal).build()?);
                Self {
                    device: fake.clone(),
                    fake: Some(Fake::Apple(fake)),
                }
            }
            _ => Self { device, fake: None },
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The rules of its driver that were broken; a real device does not tell.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let told = self.fake.as_ref().map(|fake| fake.control().violations());
        told.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use weldpool::StorageMode;

    use super::*;

    #[test]
    fn fakes_tell_what_was_broken() {
        for name in ["fake:apple:3", "fake:discrete:3"] {
            let subject = Subject::open(name).unwrap();
            assert_eq!(subject.device().properties().ordinal, 3);
            assert_eq!(subject.violations(), []);
            let wrong = subject.device().create_segment(1, StorageMode::Shared);
            assert!(wrong.is_err());
            assert_eq!(subject.violations().len(), 1, "{name}");
        }
        assert_eq!(Subject::open("host").unwrap().violations(), []);
        assert!(Subject::open("abacus").is_err());
    }
}

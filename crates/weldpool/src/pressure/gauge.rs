//! Sources of used against limit that need no file: a device's budget, and any pair of numbers.

#![forbid(unsafe_code)]

use std::fmt;

use super::source::{Notice, Reading, Source, Usage};
use crate::device::{Device, DeviceKind};
use crate::error::Result;
use crate::sync::Arc;

/// The memory of a device as its driver tells: what is not available, of what there is.
///
/// A limit from outside is not looked at here, because `available` counts the whole machine; the
/// control group is a source of its own. Of macOS's host nothing is: there most memory is in use at any time, and the
/// system itself says when it is too much.
#[derive(Debug)]
pub struct DeviceBudget {
    device: Arc<dyn Device>,
    name: String,
}

impl DeviceBudget {
    /// Watches a device.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        let properties = device.properties();
        let name = format!("budget {}:{}", properties.kind.name(), properties.ordinal);
        Self { device, name }
    }
}

impl Source for DeviceBudget {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, _notice: Notice) -> Result<Reading> {
        if cfg!(target_os = "macos") && self.device.properties().kind == DeviceKind::Host {
            return Ok(Reading::default());
        }
        let budget = self.device.budget()?;
        let usage = budget.available.map(|available| Usage {
            used: budget.total.saturating_sub(available),
            limit: budget.total,
        });
        Ok(Reading {
            usage,
            ..Reading::default()
        })
    }
}

/// Used against limit as a function gives it, such as an allocator's reserved bytes against its
/// limit. The function returns none while there is no limit.
pub struct Gauge {
    name: String,
    read: Box<dyn FnMut() -> Option<Usage> + Send>,
}

impl Gauge {
    /// Watches what a function returns. It is called at each assessment and must not block; a panic
    /// counts as a failed reading.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        read: impl FnMut() -> Option<Usage> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            read: Box::new(read),
        }
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauge")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source for Gauge {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, _notice: Notice) -> Result<Reading> {
        Ok(Reading {
            usage: (self.read)(),
            ..Reading::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::HostDevice;

    #[test]
    fn the_budget_of_the_host_is_a_ratio() {
        let mut source = DeviceBudget::new(Arc::new(HostDevice::new().unwrap()));
        assert_eq!(source.name(), "budget host:0");
        let reading = source.read(Notice::default()).unwrap();
        if let Some(usage) = reading.usage {
            assert!(usage.limit > 0 && usage.used <= usage.limit, "{usage:?}");
        }
        assert_eq!(reading.signal, None);
    }

    #[test]
    fn a_gauge_without_a_limit_gives_no_ratio() {
        let mut limit = None;
        let mut source = Gauge::new("reserved", move || {
            limit.replace(8).map(|limit| Usage { used: 2, limit })
        });
        let mut usage = || source.read(Notice::default()).unwrap().usage;
        assert_eq!(usage(), None);
        assert_eq!(usage(), Some(Usage { used: 2, limit: 8 }));
    }
}

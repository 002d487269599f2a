//! The devices and presets a trace can be replayed on, by their names.

use weldpool::{Allocator, Config, Preset, Runtime, trace};

use super::table::size;

/// Names of the devices, the default first.
pub(crate) const DEVICES: [&str; Runtime::DEVICE_NAMES.len()] = Runtime::DEVICE_NAMES;

/// A device and a configuration.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) device: String,
    pub(crate) preset: Preset,
    pub(crate) config: Config,
}

impl Target {
    pub(crate) fn new(device: &str, preset: Preset, limit: Option<u64>) -> weldpool::Result<Self> {
        // Opened again for each allocator; here it is only asked whether that works.
        let _device = Runtime::open_device(device)?;
        Ok(Self {
            device: device.to_owned(),
            preset,
            config: Config {
                reserved_bytes_max: limit,
                ..preset.config()
            },
        })
    }

    /// A fresh allocator, and the target that it is.
    pub(crate) fn watched(&self) -> weldpool::Result<(Allocator, trace::Target)> {
        let device = Runtime::open_device(&self.device)?;
        let allocator = Allocator::builder(device)
            .config(self.config.clone())
            .build()?;
        let target = trace::Target::new(allocator.clone())
            .named(&self.device, self.preset.name())
            .limit(self.config.reserved_bytes_max);
        Ok((allocator, target))
    }

    /// The preset, and what its configuration has other than the default one.
    pub(crate) fn summary(&self) -> String {
        let default = Config::default();
        let mut differs = Vec::new();
        if self.config.classes != default.classes {
            differs.push(format!(
                "{} size classes up to {} instead of {}",
                self.config.classes.as_slice().len(),
                size(self.config.classes.largest() as u64),
                default.classes.as_slice().len()
            ));
        }
        if self.config.gc.enabled {
            differs.push(format!("collected every {:?}", self.config.gc.interval));
        }
        if self.config.strategy.is_some() {
            differs.push("a strategy that follows the workload".to_owned());
        }
        if differs.is_empty() {
            differs.push("the default configuration".to_owned());
        }
        format!("{} ({})", self.preset, differs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_target() {
        let absent = Runtime::open().unwrap().absent().to_vec();
        for device in DEVICES {
            if let Some(absent) = absent.iter().find(|absent| absent.name == device) {
                let error = Target::new(device, Preset::Fine, None).unwrap_err();
                assert_eq!(error.to_string(), absent.error.to_string());
                continue;
            }
            for preset in Preset::ALL {
                let target = Target::new(device, preset, Some(1 << 30)).unwrap();
                let words = target.summary();
                assert!(words.starts_with(&format!("{preset} (")), "{words}");
                let default = words.contains("the default configuration");
                assert_eq!(default, preset == Preset::default(), "{words}");
                assert!(words.len() < 80, "{words}");
                assert!(target.watched().is_ok());
            }
        }
        let error = Target::new("fake:none", Preset::Fine, None).unwrap_err();
        assert!(error.to_string().contains("there are host"), "{error}");
    }
}

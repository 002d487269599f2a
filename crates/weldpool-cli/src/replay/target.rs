//! The devices and presets a trace can be replayed on, by their names.

use std::sync::Arc;

use anyhow::{Result, bail};
use weldpool::strategy::Adaptive;
use weldpool::{Allocator, Config, Runtime, SizeClasses, trace};

/// Names of the devices, the default first.
pub(crate) const DEVICES: [&str; 3] = Runtime::DEVICE_NAMES;
/// Names of the presets, the default first.
pub(crate) const PRESETS: [&str; 3] = ["fine", "seed", "adaptive"];

/// A device and a configuration.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) device: String,
    pub(crate) preset: String,
    pub(crate) config: Config,
}

impl Target {
    pub(crate) fn new(device: &str, preset: &str, limit: Option<u64>) -> Result<Self> {
        // Opened again for each allocator; here it is only asked whether that works.
        let _device = Runtime::open_device(device)?;
        Ok(Self {
            device: device.to_owned(),
            preset: preset.to_owned(),
            config: Config {
                reserved_bytes_max: limit,
                ..config_of(preset)?
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
            .named(&self.device, &self.preset, &self.in_words())
            .limit(self.config.reserved_bytes_max);
        Ok((allocator, target))
    }

    /// A target over a fresh allocator.
    pub(crate) fn make(&self) -> weldpool::Result<trace::Target> {
        self.watched().map(|(_, target)| target)
    }

    /// Every field of the configuration, the size classes summed up.
    pub(crate) fn in_words(&self) -> String {
        let classes = self.config.classes.as_slice();
        let summary = format!(
            "{} ({} classes up to {} B)",
            self.preset,
            classes.len(),
            self.config.classes.largest()
        );
        let listed = format!("{:?}", self.config.classes);
        format!("{:?}", self.config).replace(&listed, &summary)
    }
}

fn config_of(preset: &str) -> Result<Config> {
    let classes = match preset {
        "fine" => return Ok(Config::default()),
        "seed" => SizeClasses::seed(),
        "adaptive" => {
            return Ok(Config {
                strategy: Some(Arc::new(Adaptive::default())),
                ..Config::default()
            });
        }
        _ => bail!(
            "there is no preset {preset:?}; there are {}",
            PRESETS.join(", ")
        ),
    };
    Ok(Config {
        classes,
        ..Config::default()
    })
}

/// Bytes with an optional suffix for multiples of 1024.
pub(crate) fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        suffix => return Err(format!("{suffix:?} is none of the suffixes K, M, G and T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{digits:?} is no whole number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text} is not from 1 byte to 16 EiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_suffixes() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("4K", Some(4096)),
            ("3m", Some(3 << 20)),
            ("2GiB", Some(2 << 30)),
            ("1T", Some(1 << 40)),
            ("0", None),
            ("", None),
            ("K", None),
            ("1.5G", None),
            ("-1", None),
            ("1X", None),
            ("99999999999G", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text:?}");
        }
    }

    #[test]
    fn every_name_has_its_target() {
        for device in DEVICES {
            for preset in PRESETS {
                let target = Target::new(device, preset, Some(1 << 30)).unwrap();
                let words = target.in_words();
                assert!(
                    words.contains(preset) && words.contains("1073741824"),
                    "{words}"
                );
                assert!(words.len() < 4000, "{words}");
                assert!(target.make().is_ok());
            }
        }
        let error = Target::new("fake:none", "fine", None).unwrap_err();
        assert!(error.to_string().contains("there are host"), "{error}");
        let error = Target::new("host", "rough", None).unwrap_err();
        assert!(
            error.to_string().contains("fine, seed, adaptive"),
            "{error}"
        );
    }
}

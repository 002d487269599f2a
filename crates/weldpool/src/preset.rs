//! Configurations that have a name.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::gc::GcConfig;
use crate::size_class::SizeClasses;
use crate::strategy::Adaptive;
use crate::sync::Arc;

/// Time between collections of [`Preset::Pooling`].
const POOLING_INTERVAL: Duration = Duration::from_secs(60);

/// A configuration with a name, to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Preset {
    /// `fine`: [`Config::default`], with [`SizeClasses::fine`].
    #[default]
    Fine,
    /// `seed`: [`SizeClasses::seed`], else the default.
    Seed,
    /// `pooling`: [`SizeClasses::pooling`], and a thread that collects idle memory every 60 seconds. Each size
    /// has at most 32 idle blocks in each storage mode and on each node of memory, of which collection leaves
    /// 4; threads keep none for themselves, so an allocation takes a lock.
    Pooling,
    /// `adaptive`: the strategy [`Adaptive`], else the default.
    Adaptive,
}

impl Preset {
    /// All presets, the default first.
    pub const ALL: [Self; 4] = [Self::Fine, Self::Seed, Self::Pooling, Self::Adaptive];

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Seed => "seed",
            Self::Pooling => "pooling",
            Self::Adaptive => "adaptive",
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(self) -> Config {
        let default = Config::default();
        match self {
            Self::Fine => default,
            Self::Seed => Config {
                classes: SizeClasses::seed(),
                ..default
            },
            Self::Pooling => Config {
                classes: SizeClasses::pooling(),
                gc: GcConfig {
                    enabled: true,
                    interval: POOLING_INTERVAL,
                    ..default.gc
                },
                ..default
            },
            Self::Adaptive => Config {
                strategy: Some(Arc::new(Adaptive::default())),
                ..default
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    /// The preset of a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for another name, which lists those there are.
    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = Self::ALL.into_iter();
        all.find(|preset| preset.name() == name).ok_or_else(|| {
            let message = format!(
                "there is no preset {name:?}; there are {}",
                Self::ALL.map(Self::name).join(", ")
            );
            Error::with_message(ErrorKind::InvalidConfig, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_preset() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
            preset.config().validate().unwrap();
        }
        let error = "rough".parse::<Preset>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        assert!(
            text.contains("there are fine, seed, pooling, adaptive"),
            "{text}"
        );
    }

    #[test]
    fn pooling_collects_every_minute() {
        let gc = Preset::Pooling.config().gc;
        assert!(gc.enabled);
        assert_eq!(gc.interval, Duration::from_secs(60));
        assert!(!Preset::Fine.config().gc.enabled, "no thread unasked");
    }
}

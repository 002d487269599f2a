//! The only reader of environment variables in this crate, and only when a program asks for it.
//!
//! | variable | values | what it sets |
//! |---|---|---|
//! | `METAL_ALLOCATOR_DEBUG` | `0`, `off`; `error`, `warn`, `info`; `1`, `debug`; `2`, `trace` | the level of log lines of programs that ask for it; from `debug` on also [`Config::debug_checks`] and [`Config::backtraces`] |
//! | `METAL_ALLOCATOR_STATS` | `0`, `off`; `1`, `summary`; `json`; `full` | [`Config::stats_on_exit`] |
//! | `METAL_ALLOCATOR_PROFILE` | `0`, `off`; `1`, `on` | [`Config::profiling`], to the platform's tool |
//! | `METAL_DEVICE_ID` | a position in [`Runtime::devices`](crate::Runtime::devices), or a name for [`Runtime::open_device`](crate::Runtime::open_device) | what [`Runtime::default_device`](crate::Runtime::default_device) opens |
//!
//! Unset or empty, a variable sets nothing. Any other value is an error that names the variable. Where spans are to go to
//! the platform's tool on Linux, `NVTX_INJECTION64_PATH` is read too: the tool sets it.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::profiling::Profiling;

/// Name of the variable for log lines and checks.
pub const DEBUG: &str = "METAL_ALLOCATOR_DEBUG";
/// Name of the variable for statistics on exit.
pub const STATS: &str = "METAL_ALLOCATOR_STATS";
/// Name of the variable for spans around slow paths.
pub const PROFILE: &str = "METAL_ALLOCATOR_PROFILE";
/// Name of the variable for the default device.
pub const DEVICE_ID: &str = "METAL_DEVICE_ID";

/// What is printed to standard error when the last handle of an allocator is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatsOnExit {
    /// One line.
    Summary,
    /// The detailed report as JSON, on one line. Needs the crate's feature `serde`.
    Json,
    /// The dashboard and the detailed report.
    Full,
}

/// How much is logged, and whether the allocator checks itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DebugLevel {
    /// No log lines.
    Off,
    /// What failed.
    Error,
    /// What may be wrong.
    Warn,
    /// What happened, at long intervals.
    Info,
    /// What is done; checks and backtraces of samples are on.
    Debug,
    /// Everything; checks and backtraces of samples are on.
    Trace,
}

impl DebugLevel {
    /// Lower-case name, as log filters know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// What the environment asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Environment {
    /// `METAL_ALLOCATOR_DEBUG`.
    pub debug: Option<DebugLevel>,
    /// `METAL_ALLOCATOR_STATS`.
    pub stats_on_exit: Option<StatsOnExit>,
    /// `METAL_ALLOCATOR_PROFILE`.
    pub profile: Option<bool>,
    /// `METAL_DEVICE_ID`.
    pub device: Option<String>,
}

impl Environment {
    /// Reads the variables of this process.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the variable whose value is wrong.
    pub fn read() -> Result<Self> {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let value = |name: &'static str| -> Result<Option<String>> {
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
                return Ok(None);
            };
            let text = value.into_string();
            text.map(Some)
                .map_err(|value| wrong(name, &value.to_string_lossy(), "UTF-8"))
        };
        let debug = match value(DEBUG)? {
            None => None,
            Some(text) => Some(match text.to_ascii_lowercase().as_str() {
                "0" | "off" => DebugLevel::Off,
                "error" => DebugLevel::Error,
                "warn" => DebugLevel::Warn,
                "info" => DebugLevel::Info,
                "1" | "debug" => DebugLevel::Debug,
                "2" | "trace" => DebugLevel::Trace,
                _ => {
                    let known = "0, 1, 2, off, error, warn, info, debug or trace";
                    return Err(wrong(DEBUG, &text, known));
                }
            }),
        };
        let stats_on_exit = match value(STATS)? {
            None => None,
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "0" | "off" => None,
                "1" | "summary" => Some(StatsOnExit::Summary),
                "json" if cfg!(feature = "serde") => Some(StatsOnExit::Json),
                "full" => Some(StatsOnExit::Full),
                _ if cfg!(feature = "serde") => {
                    return Err(wrong(STATS, &text, "0, 1, off, summary, json or full"));
                }
                // Without the feature there is no JSON to ask for.
                _ => {
                    let known = "0, 1, off, summary or full (json needs the feature `serde`)";
                    return Err(wrong(STATS, &text, known));
                }
            },
        };
        let profile = match value(PROFILE)? {
            None => None,
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "0" | "off" => Some(false),
                "1" | "on" => Some(true),
                _ => return Err(wrong(PROFILE, &text, "0, 1, off or on")),
            },
        };
        Ok(Self {
            debug,
            stats_on_exit,
            profile,
            device: value(DEVICE_ID)?,
        })
    }

    /// Changes a configuration as the variables say; what they do not say stays.
    pub fn apply(&self, config: &mut Config) {
        if let Some(level) = self.debug {
            let on = level >= DebugLevel::Debug;
            config.debug_checks = on;
            config.backtraces = on;
        }
        if self.stats_on_exit.is_some() {
            config.stats_on_exit = self.stats_on_exit;
        }
        match self.profile {
            None => {}
            Some(true) => config.profiling = Profiling::Platform,
            Some(false) => config.profiling = Profiling::Off,
        }
    }
}

/// The library of the tool that listens to NVTX, if there is one.
#[cfg(all(target_os = "linux", feature = "cuda"))]
pub(crate) fn nvtx_injection() -> Option<OsString> {
    std::env::var_os("NVTX_INJECTION64_PATH").filter(|path| !path.is_empty())
}

impl Config {
    /// The default configuration, changed as the environment says; see [`env`](crate::env).
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the variable whose value is wrong.
    pub fn from_env() -> Result<Self> {
        let mut config = Self::default();
        Environment::read()?.apply(&mut config);
        Ok(config)
    }
}

/// A value that was not understood; it has an end, since it came from outside.
pub(crate) fn wrong(name: &str, value: &str, known: &str) -> Error {
    let value: String = value.chars().take(64).collect();
    Error::with_message(
        ErrorKind::InvalidConfig,
        format!("{name} is {value:?}; it must be {known}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Result<Environment> {
        Environment::of(|wanted| (wanted == name).then(|| OsString::from(value)))
    }

    #[test]
    fn nothing_set_changes_nothing() {
        for environment in [
            Environment::of(|_| None),
            Environment::of(|_| Some("".into())),
        ] {
            let environment = environment.unwrap();
            assert_eq!(environment, Environment::default());
            let mut config = Config {
                backtraces: true,
                ..Config::default()
            };
            environment.apply(&mut config);
            assert!(config.backtraces && config.stats_on_exit.is_none());
        }
    }

    #[test]
    fn every_value_has_its_meaning() {
        for (text, level, checks) in [
            ("0", DebugLevel::Off, false),
            ("off", DebugLevel::Off, false),
            ("warn", DebugLevel::Warn, false),
            ("INFO", DebugLevel::Info, false),
            ("1", DebugLevel::Debug, true),
            ("2", DebugLevel::Trace, true),
            ("trace", DebugLevel::Trace, true),
        ] {
            let environment = of(DEBUG, text).unwrap();
            assert_eq!(environment.debug, Some(level));
            let mut config = Config::default();
            environment.apply(&mut config);
            assert_eq!((config.debug_checks, config.backtraces), (checks, checks));
        }
        for (text, stats) in [
            ("0", None),
            ("1", Some(StatsOnExit::Summary)),
            ("Summary", Some(StatsOnExit::Summary)),
            ("full", Some(StatsOnExit::Full)),
        ] {
            let mut config = Config::default();
            of(STATS, text).unwrap().apply(&mut config);
            assert_eq!(config.stats_on_exit, stats);
        }
        for (text, name) in [("0", "off"), ("1", "platform"), ("On", "platform")] {
            let mut config = Config::default();
            of(PROFILE, text).unwrap().apply(&mut config);
            assert_eq!(config.profiling.name(), name);
        }
        let device = of(DEVICE_ID, "fake:apple").unwrap().device;
        assert_eq!(device.as_deref(), Some("fake:apple"));
    }

    #[test]
    fn wrong_values_are_errors_that_name_the_variable() {
        let long = "x".repeat(10_000);
        for (name, value) in [
            (DEBUG, "yes"),
            (DEBUG, "3"),
            (DEBUG, " 1"),
            (STATS, "2"),
            (STATS, "xml"),
            (STATS, &long),
            (PROFILE, "nsys"),
        ] {
            let error = of(name, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let text = error.to_string();
            assert!(text.starts_with(name) && text.len() < 200, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;

        let value = |name: &str| (name == DEVICE_ID).then(|| OsString::from_vec(vec![0xff]));
        let error = Environment::of(value).unwrap_err();
        assert!(error.to_string().starts_with(DEVICE_ID), "{error}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn json_is_known_where_it_can_be_written() {
        assert_eq!(
            of(STATS, "json").unwrap().stats_on_exit,
            Some(StatsOnExit::Json)
        );
    }
}

//! What is set for the backend as a whole: by environment variables, the names of which are a
//! contract with users, and by Triton's `--backend-config=metal_mps,NAME=VALUE`, which outranks
//! them.
//!
//! | variable | command line | value | default |
//! |---|---|---|---|
//! | `MPS_VERBOSE` | `verbose` | 0 or 1: whether what the backend does is logged as information | 0: it goes to Triton's verbose log |
//! | `MPS_MAX_POOL_SIZE` | `max-pool-size` | bytes that the pool may hold, with K, M or G for powers of 1024 | four fifths of the device's memory |
//! | `MPS_MAX_BUFFER_AGE` | `max-buffer-age` | seconds that memory may be idle before it goes back, from 1 to 86400 | 120 |
//! | | `onnxruntime-library` | file or folder of the onnxruntime shared library | beside the backend, else where the engine looks |
//! | | any of the engine's parameters | as in a model's configuration, for models that do not set it | |

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use weldpool_engine::Engine;

use crate::error::{Error, Result};

const VERBOSE: &str = "MPS_VERBOSE";
const MAX_POOL_SIZE: &str = "MPS_MAX_POOL_SIZE";
const MAX_BUFFER_AGE: &str = "MPS_MAX_BUFFER_AGE";

/// What Triton itself passes to every backend.
const TRITONS: [&str; 4] = [
    "auto-complete-config",
    "backend-directory",
    "default-max-batch-size",
    "min-compute-capability",
];

/// The longest that memory may be told to be idle.
const BUFFER_AGE_MAX: u64 = 24 * 3600;

/// The settings of the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whether what the backend does is logged as information.
    pub(crate) verbose: bool,
    /// The most bytes that the pool may hold.
    pub(crate) pool_bytes_max: Option<u64>,
    /// How long memory may be idle.
    pub(crate) buffer_age_max: Duration,
    /// Where the onnxruntime shared library is.
    pub(crate) onnxruntime_library: Option<PathBuf>,
    /// The `max_batch_size` that is filled in for models that can be batched.
    pub(crate) default_max_batch_size: u32,
    /// The engine's parameters for models that do not set them.
    pub(crate) engine_parameters: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the variables of this process and the settings of the command line, which Triton
    /// gives as JSON.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the variable or setting and what is allowed.
    pub(crate) fn read(backend_config: &str) -> Result<Settings> {
        Settings::of(|name| std::env::var_os(name), backend_config)
    }

    /// Refuses settings that are neither the backend's nor the engine's, and values that the engine
    /// could load no model with.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the setting and those that there are, or what is allowed.
    pub(crate) fn check_engine_parameters(&self, engine: &dyn Engine) -> Result<()> {
        let known = engine.parameters();
        let unknown = self
            .engine_parameters
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()));
        match unknown {
            None => engine
                .check_parameters(&self.engine_parameters)
                .map_err(|error| Error::from(error).context("--backend-config=metal_mps")),
            Some((name, value)) => Err(Error::invalid(format!(
                "--backend-config=metal_mps,{name}={value}: there is no such setting; there are \
                 verbose, max-pool-size, max-buffer-age, onnxruntime-library, {}",
                known.join(", ")
            ))),
        }
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>, backend_config: &str) -> Result<Settings> {
        let mut given = command_line(backend_config)?;
        let mut text = |name: &'static str, setting: &'static str| -> Result<_> {
            if let Some(value) = given.remove(setting) {
                return Ok(Some((setting, value)));
            }
            match variable(name).filter(|value| !value.is_empty()) {
                None => Ok(None),
                Some(value) => match value.into_string() {
                    Ok(value) => Ok(Some((name, value))),
                    Err(value) => Err(wrong(name, &value.to_string_lossy(), "UTF-8")),
                },
            }
        };
        let verbose = match text(VERBOSE, "verbose")? {
            None => false,
            Some((name, value)) => {
                flag(&value).ok_or_else(|| wrong(name, &value, "0, 1, off, on, false or true"))?
            }
        };
        let pool_bytes_max = match text(MAX_POOL_SIZE, "max-pool-size")? {
            None => None,
            Some((name, value)) => Some(bytes(&value).ok_or_else(|| {
                wrong(
                    name,
                    &value,
                    "a number of bytes above 0, which K, M or G may follow",
                )
            })?),
        };
        let buffer_age_max = match text(MAX_BUFFER_AGE, "max-buffer-age")? {
            None => Duration::from_secs(120),
            Some((name, value)) => value
                .trim()
                .parse()
                .ok()
                .filter(|seconds| (1..=BUFFER_AGE_MAX).contains(seconds))
                .map(Duration::from_secs)
                .ok_or_else(|| wrong(name, &value, "whole seconds from 1 to 86400"))?,
        };
        let default_max_batch_size = match given.remove("default-max-batch-size") {
            None => 4,
            Some(value) => value
                .trim()
                .parse()
                .map_err(|_| wrong("default-max-batch-size", &value, "a whole number"))?,
        };
        let onnxruntime_library = given.remove("onnxruntime-library").map(PathBuf::from);
        given.retain(|name, _| !TRITONS.contains(&name.as_str()));
        Ok(Settings {
            verbose,
            pool_bytes_max,
            buffer_age_max,
            onnxruntime_library,
            default_max_batch_size,
            engine_parameters: given,
        })
    }
}

/// The settings in `{"cmdline":{"NAME":"VALUE"}}`.
fn command_line(json: &str) -> Result<BTreeMap<String, String>> {
    if json.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let value: Value = serde_json::from_str(json).map_err(|error| {
        Error::internal(format!(
            "Triton's settings of the backend are no JSON: {error}"
        ))
    })?;
    let Some(Value::Object(entries)) = value.get("cmdline") else {
        return Ok(BTreeMap::new());
    };
    Ok(entries
        .iter()
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (name.clone(), text)
        })
        .collect())
}

fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "true" => Some(true),
        "0" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// A number of bytes; K, M and G, in any case, stand for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.char_indices().next_back()? {
        (end, 'k' | 'K') => (&text[..end], 10),
        (end, 'm' | 'M') => (&text[..end], 20),
        (end, 'g' | 'G') => (&text[..end], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

fn wrong(name: &str, value: &str, allowed: &str) -> Error {
    Error::invalid(format!(
        "{name} is '{}'; it must be {allowed}",
        value.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn read(variables: &[(&str, &str)], config: &str) -> Result<Settings> {
        Settings::of(
            |name| {
                let found = variables.iter().find(|(known, _)| *known == name)?;
                Some(OsString::from(found.1))
            },
            config,
        )
    }

    #[test]
    fn unset_or_empty_sets_nothing() {
        let settings = read(&[], "").unwrap();
        assert!(!settings.verbose);
        assert_eq!(settings.pool_bytes_max, None);
        assert_eq!(settings.buffer_age_max, Duration::from_secs(120));
        assert_eq!(settings.default_max_batch_size, 4);
        assert_eq!(
            read(&[(VERBOSE, ""), (MAX_POOL_SIZE, "")], "{}"),
            Ok(settings)
        );
    }

    #[test]
    fn variables_have_their_units() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("3k", 3 << 10),
            ("64M", 64 << 20),
            ("2G", 2 << 30),
            (" 5m ", 5 << 20),
        ] {
            let settings = read(&[(MAX_POOL_SIZE, text)], "").unwrap();
            assert_eq!(settings.pool_bytes_max, Some(bytes), "{text}");
        }
        let settings = read(&[(MAX_BUFFER_AGE, "30"), (VERBOSE, "1")], "").unwrap();
        assert_eq!(settings.buffer_age_max, Duration::from_secs(30));
        assert!(settings.verbose);
    }

    #[test]
    fn wrong_values_name_the_variable() {
        for (name, value) in [
            (MAX_POOL_SIZE, "0"),
            (MAX_POOL_SIZE, "-1"),
            (MAX_POOL_SIZE, "+5"),
            (MAX_POOL_SIZE, "K"),
            (MAX_POOL_SIZE, "1T"),
            (MAX_POOL_SIZE, "1.5G"),
            (MAX_POOL_SIZE, "99999999999G"),
            (MAX_POOL_SIZE, "\u{e9}"),
            (MAX_BUFFER_AGE, "0"),
            (MAX_BUFFER_AGE, "86401"),
            (MAX_BUFFER_AGE, "soon"),
            (VERBOSE, "2"),
        ] {
            let error = read(&[(name, value)], "").unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().starts_with(name), "{error}");
        }
    }

    #[test]
    fn the_command_line_outranks_variables() {
        let config = r#"{"cmdline":{"auto-complete-config":"true","backend-directory":"/b",
            "min-compute-capability":"6.000000","default-max-batch-size":"8","max-pool-size":"1M",
            "max-buffer-age":"7","verbose":"true","onnxruntime-library":"/o.so",
            "intra_op_thread_count":"2"}}"#;
        let settings = read(&[(MAX_POOL_SIZE, "wrong"), (VERBOSE, "0")], config).unwrap();
        assert_eq!(settings.pool_bytes_max, Some(1 << 20));
        assert_eq!(settings.buffer_age_max, Duration::from_secs(7));
        assert!(settings.verbose);
        assert_eq!(settings.default_max_batch_size, 8);
        assert_eq!(settings.onnxruntime_library, Some(PathBuf::from("/o.so")));
        assert_eq!(
            settings.engine_parameters.get("intra_op_thread_count"),
            Some(&"2".to_owned())
        );
    }

    #[test]
    fn settings_that_do_not_exist_are_errors() {
        let error = checked(r#"{"cmdline":{"max-pol-size":"1"}}"#).unwrap_err();
        assert!(error.message().contains("max-pol-size=1"), "{error}");
        assert!(error.message().contains("max-pool-size"), "{error}");
        assert!(read(&[], "{").is_err());
        assert!(read(&[], r#"{"cmdline":7}"#).is_ok());
    }

    /// What the engine says of the settings of a command line.
    fn checked(config: &str) -> Result<()> {
        read(&[], config)
            .unwrap()
            .check_engine_parameters(&OneParameter)
    }

    /// Knows the parameter `speed`, which is a number.
    #[derive(Debug)]
    struct OneParameter;

    impl Engine for OneParameter {
        fn name(&self) -> &'static str {
            "one"
        }

        fn version(&self) -> &'static str {
            "1"
        }

        fn parameters(&self) -> &'static [&'static str] {
            &["speed"]
        }

        fn check_parameters(
            &self,
            parameters: &BTreeMap<String, String>,
        ) -> weldpool_engine::Result<()> {
            match parameters.get("speed") {
                Some(speed) if speed.parse::<u8>().is_err() => Err(weldpool_engine::Error::new(
                    weldpool_engine::ErrorKind::InvalidOption,
                    format!("speed is '{speed}'"),
                )),
                _ => Ok(()),
            }
        }

        fn load(
            &self,
            _: weldpool_engine::ModelSource<'_>,
            _: &weldpool_engine::LoadOptions,
        ) -> weldpool_engine::Result<std::sync::Arc<dyn weldpool_engine::Model>> {
            unreachable!("nothing is loaded")
        }
    }

    #[test]
    fn wrong_values_of_the_engines_parameters_are_errors() {
        checked(r#"{"cmdline":{"speed":"7"}}"#).unwrap();
        let error = checked(r#"{"cmdline":{"speed":"fast"}}"#).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        for part in ["--backend-config=metal_mps", "speed is 'fast'"] {
            assert!(error.message().contains(part), "{error}");
        }
    }
}

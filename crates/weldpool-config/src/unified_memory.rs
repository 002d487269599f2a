//! What a configuration says about unified memory, in parameters named
//! `optimization.unified_memory...`.
//!
//! They are parameters because Triton's schema has no field for them and refuses unknown ones.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::error::{Error, Result};
use super::parameters::{Parameters, truth};
use super::proto::ModelConfig;

/// The parameter that holds all settings as one JSON object; each setting is a parameter too, with
/// a dot between this name and its own.
pub const UNIFIED_MEMORY: &str = "optimization.unified_memory";

/// The most patterns that a configuration may give.
pub const TENSOR_PATTERNS_MAX: usize = 1024;

const ENABLE: &str = "enable";
const BATCH_OPTIMIZATION: &str = "batch_optimization";
const ZERO_COPY_THRESHOLD: &str = "zero_copy_threshold";
const TENSOR_PATTERNS: &str = "tensor_patterns";
const SETTINGS: [&str; 4] = [
    ENABLE,
    BATCH_OPTIMIZATION,
    ZERO_COPY_THRESHOLD,
    TENSOR_PATTERNS,
];

/// Who touches a tensor, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccessPattern {
    /// Mostly the CPU.
    CpuDominant,
    /// Mostly the GPU.
    GpuDominant,
    /// Both alike.
    Balanced,
    /// Once, from front to back.
    Streaming,
}

impl AccessPattern {
    /// Every pattern.
    pub const ALL: [AccessPattern; 4] = [
        AccessPattern::CpuDominant,
        AccessPattern::GpuDominant,
        AccessPattern::Balanced,
        AccessPattern::Streaming,
    ];

    /// The name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AccessPattern::CpuDominant => "cpu_dominant",
            AccessPattern::GpuDominant => "gpu_dominant",
            AccessPattern::Balanced => "balanced",
            AccessPattern::Streaming => "streaming",
        }
    }
}

impl fmt::Display for AccessPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The settings of unified memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnifiedMemory {
    /// `enable`: whether tensors are placed in unified memory where the device has it. True by
    /// default.
    pub enable: bool,
    /// `batch_optimization`: whether tensors of one batch are allocated together. True by default.
    pub batch_optimization: bool,
    /// `zero_copy_threshold`: from how many bytes a tensor is used where it is instead of being
    /// copied. 1 MiB by default.
    pub zero_copy_threshold: u64,
    /// `tensor_patterns`: how tensors are used, by their names; these need not be inputs or
    /// outputs. At most [`TENSOR_PATTERNS_MAX`].
    pub tensor_patterns: BTreeMap<String, AccessPattern>,
}

impl Default for UnifiedMemory {
    fn default() -> UnifiedMemory {
        UnifiedMemory {
            enable: true,
            batch_optimization: true,
            zero_copy_threshold: 1 << 20,
            tensor_patterns: BTreeMap::new(),
        }
    }
}

impl UnifiedMemory {
    /// Reads them from a configuration; what it leaves out has its default.
    ///
    /// # Errors
    /// `Invalid`, naming the key, its value and what is allowed: for a wrong value, for a setting
    /// that does not exist, and for one that is given twice.
    pub fn of(config: &ModelConfig) -> Result<UnifiedMemory> {
        let parameters = Parameters::of(config);
        let mut reader = Reader {
            model: &config.name,
            settings: UnifiedMemory::default(),
            given: Vec::new(),
        };
        if let Some(text) = parameters.text(UNIFIED_MEMORY) {
            let Ok(Value::Object(settings)) = serde_json::from_str(text) else {
                return Err(reader.wrong(UNIFIED_MEMORY, text, "a JSON object"));
            };
            for (setting, value) in &settings {
                let key = format!("{UNIFIED_MEMORY}.{setting}");
                reader.setting(setting, &key, value)?;
            }
        }
        for (key, parameter) in &config.parameters {
            let Some(setting) = setting_of(key) else {
                continue;
            };
            let text = &parameter.string_value;
            let value = match setting {
                TENSOR_PATTERNS => serde_json::from_str(text)
                    .map_err(|_| reader.wrong(key, text, PATTERNS_EXPECTED))?,
                _ => Value::String(text.clone()),
            };
            reader.setting(setting, key, &value)?;
        }
        Ok(reader.settings)
    }
}

/// Whether a parameter of this name is read here.
pub(super) fn is_unified_memory(parameter: &str) -> bool {
    parameter == UNIFIED_MEMORY || setting_of(parameter).is_some()
}

fn setting_of(parameter: &str) -> Option<&str> {
    parameter.strip_prefix(UNIFIED_MEMORY)?.strip_prefix('.')
}

const PATTERNS_EXPECTED: &str =
    r#"a JSON list such as [{"name": "input", "pattern": "cpu_dominant"}]"#;

struct Reader<'a> {
    model: &'a str,
    settings: UnifiedMemory,
    given: Vec<String>,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, value: impl fmt::Display, expected: impl fmt::Display) -> Error {
        Error::invalid(format!(
            "parameter '{key}' of '{}' must be {expected}, not {}",
            self.model,
            quoted(&value.to_string())
        ))
    }

    fn setting(&mut self, setting: &str, key: &str, value: &Value) -> Result<()> {
        if !SETTINGS.contains(&setting) {
            return Err(Error::invalid(format!(
                "parameter '{}' of '{}' does not exist; '{UNIFIED_MEMORY}' has the settings {}",
                key.escape_debug(),
                self.model,
                SETTINGS.join(", ")
            )));
        }
        if self.given.iter().any(|given| given == setting) {
            return Err(Error::invalid(format!(
                "parameter '{key}' of '{}' is given twice: by itself and in '{UNIFIED_MEMORY}'",
                self.model
            )));
        }
        self.given.push(setting.to_owned());
        match setting {
            ENABLE => self.settings.enable = self.flag(key, value)?,
            BATCH_OPTIMIZATION => self.settings.batch_optimization = self.flag(key, value)?,
            ZERO_COPY_THRESHOLD => {
                self.settings.zero_copy_threshold = scalar(value)
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or_else(|| {
                        let expected = format!("a whole number of bytes from 0 to {}", u64::MAX);
                        self.wrong(key, text_of(value), expected)
                    })?;
            }
            _ => self.settings.tensor_patterns = self.patterns(key, value)?,
        }
        Ok(())
    }

    fn flag(&self, key: &str, value: &Value) -> Result<bool> {
        scalar(value)
            .and_then(|text| truth(text.trim()))
            .ok_or_else(|| self.wrong(key, text_of(value), "true or false"))
    }

    fn patterns(&self, key: &str, value: &Value) -> Result<BTreeMap<String, AccessPattern>> {
        let Value::Array(entries) = value else {
            return Err(self.wrong(key, text_of(value), PATTERNS_EXPECTED));
        };
        if entries.len() > TENSOR_PATTERNS_MAX {
            return Err(self.wrong(
                key,
                format_args!("{} patterns", entries.len()),
                format_args!("a list of at most {TENSOR_PATTERNS_MAX}"),
            ));
        }
        let mut patterns = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let (name, pattern) = self.pattern(&key, entry)?;
            if patterns.contains_key(name) {
                return Err(self.wrong(
                    &format!("{key}.name"),
                    name,
                    "a tensor that has no pattern yet",
                ));
            }
            patterns.insert(name.to_owned(), pattern);
        }
        Ok(patterns)
    }

    fn pattern<'v>(&self, key: &str, entry: &'v Value) -> Result<(&'v str, AccessPattern)> {
        let known = |fields: &serde_json::Map<String, Value>| {
            fields
                .keys()
                .all(|field| field == "name" || field == "pattern")
        };
        let fields = entry
            .as_object()
            .filter(|fields| known(fields))
            .ok_or_else(|| self.wrong(key, entry, "an object of 'name' and 'pattern'"))?;
        let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
        let name = field("name")
            .as_str()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| {
                self.wrong(
                    &format!("{key}.name"),
                    text_of(field("name")),
                    "a tensor's name",
                )
            })?;
        let pattern = field("pattern")
            .as_str()
            .and_then(|text| {
                AccessPattern::ALL
                    .into_iter()
                    .find(|pattern| pattern.name() == text)
            })
            .ok_or_else(|| {
                let allowed = AccessPattern::ALL.map(AccessPattern::name).join(", ");
                self.wrong(
                    &format!("{key}.pattern"),
                    text_of(field("pattern")),
                    format_args!("one of {allowed}"),
                )
            })?;
        Ok((name, pattern))
    }
}

/// The text of a value that is one word, in JSON or as a parameter.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_) | Value::Bool(_) | Value::Number(_) => Some(text_of(value)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value for a message: on one line, and not all of a long one.
fn quoted(value: &str) -> String {
    /// More than any word that is allowed.
    const CHARACTERS_MAX: usize = 80;
    let mut shown: String = value.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < value.len() {
        shown.push_str("...");
    }
    format!("'{}'", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::super::proto::ModelParameter;
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<UnifiedMemory> {
        let parameters = parameters.iter().map(|(name, value)| {
            let value = ModelParameter {
                string_value: (*value).to_owned(),
            };
            ((*name).to_owned(), value)
        });
        UnifiedMemory::of(&ModelConfig {
            name: "m".into(),
            parameters: parameters.collect(),
            ..Default::default()
        })
    }

    fn patterns(patterns: &[(&str, AccessPattern)]) -> BTreeMap<String, AccessPattern> {
        let owned = patterns
            .iter()
            .map(|(name, pattern)| ((*name).to_owned(), *pattern));
        owned.collect()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let settings = read(&[("optimization.unified_memory_size", "7")]).unwrap();
        assert_eq!(settings, UnifiedMemory::default());
        assert!(settings.enable && settings.batch_optimization);
        assert_eq!(settings.zero_copy_threshold, 1_048_576);
        let one = read(&[("optimization.unified_memory", r#"{"enable": false}"#)]).unwrap();
        let expected = UnifiedMemory {
            enable: false,
            ..UnifiedMemory::default()
        };
        assert_eq!(one, expected);
    }

    #[test]
    fn settings_are_parameters_or_one_object() {
        let expected = UnifiedMemory {
            enable: false,
            batch_optimization: false,
            zero_copy_threshold: 65536,
            tensor_patterns: patterns(&[
                ("a.b", AccessPattern::Streaming),
                ("input", AccessPattern::CpuDominant),
                ("output", AccessPattern::GpuDominant),
                ("weights", AccessPattern::Balanced),
            ]),
        };
        let list = r#"[{"name":"input","pattern":"cpu_dominant"},
            {"name":"output","pattern":"gpu_dominant"},{"name":"weights","pattern":"balanced"},
            {"pattern":"streaming","name":"a.b"}]"#;
        let object = format!(
            r#"{{"enable":false,"batch_optimization":"off","zero_copy_threshold":65536,
            "tensor_patterns":{list}}}"#
        );
        assert_eq!(read(&[(UNIFIED_MEMORY, &object)]).unwrap(), expected);
        let apart = [
            ("optimization.unified_memory.enable", "No"),
            ("optimization.unified_memory.batch_optimization", "0"),
            ("optimization.unified_memory.zero_copy_threshold", " 65536 "),
            ("optimization.unified_memory.tensor_patterns", list),
        ];
        assert_eq!(read(&apart).unwrap(), expected);
        let mixed = [
            (
                UNIFIED_MEMORY,
                r#"{"enable":false,"batch_optimization":false}"#,
            ),
            apart[2],
            apart[3],
        ];
        assert_eq!(read(&mixed).unwrap(), expected);
    }

    #[test]
    fn wrong_values_name_key_value_and_what_is_allowed() {
        let whole = |value| (UNIFIED_MEMORY, value);
        let cases = [
            (
                whole("yes"),
                "parameter 'optimization.unified_memory' of 'm' must be a JSON object, not 'yes'",
            ),
            (
                whole(r#"{"enabled":true}"#),
                "parameter 'optimization.unified_memory.enabled' of 'm' does not exist; \
                 'optimization.unified_memory' has the settings enable, batch_optimization, \
                 zero_copy_threshold, tensor_patterns",
            ),
            (
                whole(r#"{"enable":[true]}"#),
                "parameter 'optimization.unified_memory.enable' of 'm' must be true or false, not \
                 '[true]'",
            ),
            (
                ("optimization.unified_memory.batch_optimization", "maybe"),
                "parameter 'optimization.unified_memory.batch_optimization' of 'm' must be true \
                 or false, not 'maybe'",
            ),
            (
                ("optimization.unified_memory.zero_copy_threshold", "1MB"),
                "parameter 'optimization.unified_memory.zero_copy_threshold' of 'm' must be a \
                 whole number of bytes from 0 to 18446744073709551615, not '1MB'",
            ),
            (
                whole(r#"{"zero_copy_threshold":-1}"#),
                "parameter 'optimization.unified_memory.zero_copy_threshold' of 'm' must be a \
                 whole number of bytes from 0 to 18446744073709551615, not '-1'",
            ),
            (
                ("optimization.unified_memory.tensor_patterns", "input=fast"),
                "parameter 'optimization.unified_memory.tensor_patterns' of 'm' must be a JSON \
                 list such as [{\"name\": \"input\", \"pattern\": \"cpu_dominant\"}], not \
                 'input=fast'",
            ),
            (
                whole(r#"{"tensor_patterns":[{"name":"x","pattern":"fast"}]}"#),
                "parameter 'optimization.unified_memory.tensor_patterns[0].pattern' of 'm' must \
                 be one of cpu_dominant, gpu_dominant, balanced, streaming, not 'fast'",
            ),
            (
                whole(r#"{"tensor_patterns":[{"pattern":"balanced"}]}"#),
                "parameter 'optimization.unified_memory.tensor_patterns[0].name' of 'm' must be a \
                 tensor's name, not 'null'",
            ),
            (
                whole(r#"{"tensor_patterns":[7]}"#),
                "parameter 'optimization.unified_memory.tensor_patterns[0]' of 'm' must be an \
                 object of 'name' and 'pattern', not '7'",
            ),
            (
                (
                    "optimization.unified_memory.tensor_patterns",
                    r#"[{"name":"x","pattern":"balanced"},{"name":"x","pattern":"streaming"}]"#,
                ),
                "parameter 'optimization.unified_memory.tensor_patterns[1].name' of 'm' must be a \
                 tensor that has no pattern yet, not 'x'",
            ),
        ];
        for (parameter, expected) in cases {
            let error = read(&[parameter]).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        let twice = read(&[
            whole(r#"{"enable":true}"#),
            ("optimization.unified_memory.enable", "true"),
        ]);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "parameter 'optimization.unified_memory.enable' of 'm' is given twice: by itself and \
             in 'optimization.unified_memory'"
        );
    }

    #[test]
    fn long_values_are_cut_and_long_lists_refused() {
        let long = "x\n".repeat(500);
        let error = read(&[("optimization.unified_memory.enable", &long)]).unwrap_err();
        assert!(error.message().len() < 250, "{error}");
        assert!(!error.message().contains('\n'), "{error}");
        let entry = |index: usize| format!(r#"{{"name":"t{index}","pattern":"balanced"}}"#);
        let list = |count: usize| {
            let entries: Vec<String> = (0..count).map(entry).collect();
            format!("[{}]", entries.join(","))
        };
        let name = "optimization.unified_memory.tensor_patterns";
        let most = read(&[(name, &list(TENSOR_PATTERNS_MAX))]).unwrap();
        assert_eq!(most.tensor_patterns.len(), TENSOR_PATTERNS_MAX);
        let error = read(&[(name, &list(TENSOR_PATTERNS_MAX + 1))]).unwrap_err();
        assert_eq!(
            error.message(),
            "parameter 'optimization.unified_memory.tensor_patterns' of 'm' must be a list of at \
             most 1024, not '1025 patterns'"
        );
    }
}

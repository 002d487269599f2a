//! The `parameters` of a configuration, by type, and the engine's settings among them.

use std::collections::BTreeMap;
use std::str::FromStr;

use weldpool_engine::{ExecutionMode, GraphOptimization, LoadOptions};

use super::error::{Error, Result};
use super::proto::{ModelConfig, ModelParameter};
use super::unified_memory::is_unified_memory;

const EXECUTION_MODE: &str = "execution_mode";
const INTRA_OP_THREADS: &str = "intra_op_thread_count";
const INTER_OP_THREADS: &str = "inter_op_thread_count";
const MEMORY_PATTERN: &str = "enable_mem_pattern";

/// Parameters that [`EngineSettings`] reads itself.
pub(super) const TYPED: [&str; 4] = [
    EXECUTION_MODE,
    INTRA_OP_THREADS,
    INTER_OP_THREADS,
    MEMORY_PATTERN,
];

/// The most threads that a configuration may ask for.
const THREADS_MAX: usize = 1024;

/// The `parameters` of a configuration, by type.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    entries: &'a BTreeMap<String, ModelParameter>,
    model: &'a str,
}

impl<'a> Parameters<'a> {
    /// The parameters of this configuration.
    #[must_use]
    pub fn of(config: &'a ModelConfig) -> Parameters<'a> {
        Parameters {
            entries: &config.parameters,
            model: &config.name,
        }
    }

    /// A parameter's text.
    #[must_use]
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.entries
            .get(name)
            .map(|parameter| parameter.string_value.as_str())
    }

    /// A parameter as a number.
    ///
    /// # Errors
    /// `Invalid` if it is there and not such a number.
    pub fn number<T: FromStr>(self, name: &str) -> Result<Option<T>> {
        self.read(name, "a whole number in range", |text| text.parse().ok())
    }

    /// A parameter as a truth value: `true`, `1`, `on` or `yes`, or the opposites, in any case.
    ///
    /// # Errors
    /// `Invalid` if it is there and none of these.
    pub fn flag(self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", truth)
    }

    fn read<T>(
        self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match read(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, expected)),
        }
    }

    fn wrong(self, name: &str, expected: &str) -> Error {
        Error::invalid(format!(
            "parameter '{name}' of '{}' must be {expected}, not '{}'",
            self.model,
            self.text(name).unwrap_or_default().escape_debug()
        ))
    }
}

/// Reads a truth value; see [`Parameters::flag`].
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" => Some(false),
        _ => None,
    }
}

/// What a configuration says about how the engine loads the model, by onnxruntime-backend's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineSettings {
    /// `optimization.graph.level`: -1 is basic, 1 extended, 2 none, anything else all.
    pub graph_optimization: GraphOptimization,
    /// Parameter `execution_mode`: 0 or 1.
    pub execution_mode: ExecutionMode,
    /// Parameter `intra_op_thread_count`; absent if 0.
    pub intra_op_threads: Option<usize>,
    /// Parameter `inter_op_thread_count`; absent if 0.
    pub inter_op_threads: Option<usize>,
    /// Parameter `enable_mem_pattern`.
    pub memory_pattern: Option<bool>,
    /// Every other parameter, as it is, but for those of [`UnifiedMemory`](super::UnifiedMemory):
    /// engines take those they know.
    pub others: BTreeMap<String, String>,
}

impl EngineSettings {
    /// Reads them from a configuration.
    ///
    /// # Errors
    /// `Invalid`, naming the parameter.
    pub fn of(config: &ModelConfig) -> Result<EngineSettings> {
        let parameters = Parameters::of(config);
        let threads = |name| match parameters.number::<usize>(name)? {
            Some(count) if count > THREADS_MAX => {
                Err(parameters.wrong(name, &format!("at most {THREADS_MAX}")))
            }
            count => Ok(count.filter(|count| *count > 0)),
        };
        let level = config
            .optimization
            .as_ref()
            .and_then(|optimization| optimization.graph)
            .map_or(0, |graph| graph.level);
        Ok(EngineSettings {
            graph_optimization: match level {
                -1 => GraphOptimization::Basic,
                1 => GraphOptimization::Extended,
                2 => GraphOptimization::Disabled,
                _ => GraphOptimization::All,
            },
            execution_mode: match parameters.number::<u8>(EXECUTION_MODE)? {
                None | Some(0) => ExecutionMode::Sequential,
                Some(1) => ExecutionMode::Parallel,
                Some(_) => return Err(parameters.wrong(EXECUTION_MODE, "0 or 1")),
            },
            intra_op_threads: threads(INTRA_OP_THREADS)?,
            inter_op_threads: threads(INTER_OP_THREADS)?,
            memory_pattern: parameters.flag(MEMORY_PATTERN)?,
            others: config
                .parameters
                .iter()
                .filter(|(name, _)| !TYPED.contains(&name.as_str()) && !is_unified_memory(name))
                .map(|(name, parameter)| (name.clone(), parameter.string_value.clone()))
                .collect(),
        })
    }

    /// Writes them into load options; what the configuration leaves open stays as it is there.
    pub fn apply(&self, options: &mut LoadOptions) {
        options.graph_optimization = self.graph_optimization;
        options.execution_mode = self.execution_mode;
        options.intra_op_threads = self.intra_op_threads.or(options.intra_op_threads);
        options.inter_op_threads = self.inter_op_threads.or(options.inter_op_threads);
        options.memory_pattern = self.memory_pattern.unwrap_or(options.memory_pattern);
        options.parameters.extend(
            self.others
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{ModelOptimizationPolicy, model_optimization_policy::Graph};
    use super::*;

    fn config(level: Option<i32>, parameters: &[(&str, &str)]) -> ModelConfig {
        ModelConfig {
            name: "m".into(),
            optimization: level.map(|level| ModelOptimizationPolicy {
                graph: Some(Graph { level }),
                ..Default::default()
            }),
            parameters: parameters
                .iter()
                .map(|(name, value)| {
                    let value = ModelParameter {
                        string_value: (*value).to_owned(),
                    };
                    ((*name).to_owned(), value)
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn levels_are_those_of_onnxruntime_backend() {
        for (level, expected) in [
            (None, GraphOptimization::All),
            (Some(0), GraphOptimization::All),
            (Some(-1), GraphOptimization::Basic),
            (Some(1), GraphOptimization::Extended),
            (Some(2), GraphOptimization::Disabled),
            (Some(7), GraphOptimization::All),
        ] {
            let settings = EngineSettings::of(&config(level, &[])).unwrap();
            assert_eq!(settings.graph_optimization, expected, "{level:?}");
        }
    }

    #[test]
    fn parameters_are_read_by_type_and_the_rest_is_handed_on() {
        let settings = EngineSettings::of(&config(
            None,
            &[
                ("execution_mode", "1"),
                ("intra_op_thread_count", " 3 "),
                ("inter_op_thread_count", "0"),
                ("enable_mem_pattern", "FALSE"),
                ("enable_mem_arena", "0"),
                ("mine", "x"),
                ("optimization.unified_memory.enable", "true"),
            ],
        ))
        .unwrap();
        assert_eq!(settings.execution_mode, ExecutionMode::Parallel);
        assert_eq!(settings.intra_op_threads, Some(3));
        assert_eq!(settings.inter_op_threads, None);
        assert_eq!(settings.memory_pattern, Some(false));
        assert_eq!(
            settings.others.into_iter().collect::<Vec<_>>(),
            [
                ("enable_mem_arena".to_owned(), "0".to_owned()),
                ("mine".to_owned(), "x".to_owned())
            ]
        );
    }

    #[test]
    fn wrong_values_name_the_parameter() {
        for (name, value, expected) in [
            (
                "execution_mode",
                "2",
                "parameter 'execution_mode' of 'm' must be 0 or 1, not '2'",
            ),
            (
                "intra_op_thread_count",
                "many",
                "parameter 'intra_op_thread_count' of 'm' must be a whole number in range, not 'many'",
            ),
            (
                "inter_op_thread_count",
                "5000",
                "parameter 'inter_op_thread_count' of 'm' must be at most 1024, not '5000'",
            ),
            (
                "enable_mem_pattern",
                "maybe",
                "parameter 'enable_mem_pattern' of 'm' must be true or false, not 'maybe'",
            ),
        ] {
            let error = EngineSettings::of(&config(None, &[(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}

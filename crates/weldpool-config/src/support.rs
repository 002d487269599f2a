//! What a configuration asks for and is not done, by the server or by the backend in Triton.
//!
//! The report is made by walking every field that is set, so a field that nobody thought of is
//! reported too.

use std::fmt;

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::parameters::TYPED;
use super::proto::{self, ModelConfig, model_instance_group::Kind};
use super::unified_memory::is_unified_memory;

/// What comes of a field that is not implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Impact {
    /// The model is served, and answers as if the field were not there.
    Ignored,
    /// The model cannot be served: without the field its answers would be wrong.
    Refused,
}

use Impact::{Ignored, Refused};

/// A field that is set and not implemented.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsupported {
    /// The field, such as `input[0].allow_ragged_batch`.
    pub path: String,
    /// What comes of it.
    pub impact: Impact,
    /// What happens instead, or why it cannot.
    pub effect: &'static str,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let impact = match self.impact {
            Ignored => "ignored",
            Refused => "refused",
        };
        write!(f, "{}: {impact}: {}", self.path, self.effect)
    }
}

/// What runs the model: some fields are for the server around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Host {
    /// `weldpool serve`.
    #[default]
    Weldpool,
    /// Triton, in which a backend of ours runs: batching by its scheduler, the response cache,
    /// warm-up, rate limiter and the like are its own.
    Triton,
}

/// Fields that are implemented, with everything below them.
const IMPLEMENTED: [&str; 22] = [
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input.name",
    "input.data_type",
    "input.dims",
    "input.reshape",
    // Compared with the model, which refuses what it cannot do.
    "input.optional",
    // Refused with their own words by the validation.
    "input.is_shape_tensor",
    "input.is_non_linear_format_io",
    "output.is_shape_tensor",
    "output.is_non_linear_format_io",
    "output.name",
    "output.data_type",
    "output.dims",
    "output.reshape",
    "output.label_filename",
    "optimization.graph.level",
    "instance_group.count",
    "default_model_filename",
];

/// Fields that are not, with everything below them.
const NOT_IMPLEMENTED: [(&str, Impact, &str); 26] = [
    ("runtime", Ignored, "the engine is built in"),
    ("input.format", Ignored, "ONNX models have one layout"),
    (
        "input.allow_ragged_batch",
        Refused,
        "requests of different shapes cannot share a batch",
    ),
    ("batch_input", Refused, "inputs are not made from the batch"),
    ("batch_output", Refused, "outputs are not split by shape"),
    (
        "optimization.execution_accelerators",
        Ignored,
        "the model runs without an accelerator",
    ),
    (
        "optimization.cuda",
        Ignored,
        "the model does not run on CUDA",
    ),
    (
        "optimization.priority",
        Ignored,
        "models have equal priority",
    ),
    (
        "optimization.input_pinned_memory",
        Ignored,
        "inputs are read in place",
    ),
    (
        "optimization.output_pinned_memory",
        Ignored,
        "outputs are written in place",
    ),
    (
        "dynamic_batching",
        Ignored,
        "each request is executed by itself",
    ),
    (
        "sequence_batching",
        Refused,
        "requests of a sequence are not kept together",
    ),
    (
        "ensemble_scheduling",
        Refused,
        "models are not combined to ensembles",
    ),
    (
        "instance_group.rate_limiter",
        Ignored,
        "instances run without a rate limiter",
    ),
    (
        "instance_group.gpus",
        Ignored,
        "the instances run on the CPU",
    ),
    (
        "instance_group.secondary_devices",
        Ignored,
        "instances use one device",
    ),
    (
        "instance_group.passive",
        Ignored,
        "the instances receive requests",
    ),
    (
        "instance_group.host_policy",
        Ignored,
        "there are no host policies",
    ),
    (
        "cc_model_filenames",
        Ignored,
        "default_model_filename is used on every device",
    ),
    ("metric_tags", Ignored, "metrics have no further labels"),
    ("model_metrics", Ignored, "every model has the same metrics"),
    (
        "model_warmup",
        Ignored,
        "the first request warms the model up",
    ),
    (
        "model_operations",
        Refused,
        "libraries of operators are not loaded",
    ),
    (
        "model_transaction_policy.decoupled",
        Refused,
        "a request has exactly one response",
    ),
    (
        "model_repository_agents",
        Refused,
        "the agents would not have prepared the model's directory",
    ),
    ("response_cache.enable", Ignored, "responses are not cached"),
];

/// Fields that Triton heeds itself, or fills in when nobody wrote them, with everything below them.
const TRITONS: [&str; 14] = [
    "runtime",
    "optimization.input_pinned_memory",
    "optimization.output_pinned_memory",
    "dynamic_batching",
    "instance_group.kind",
    "instance_group.rate_limiter",
    "instance_group.gpus",
    "instance_group.passive",
    "instance_group.host_policy",
    "metric_tags",
    "model_metrics",
    "model_warmup",
    "model_repository_agents",
    "response_cache",
];

/// Lists the fields that are set and not implemented, in the order of the schema.
///
/// `config` is the configuration as it was written: values filled in by
/// [`prepare`](super::prepare) would be listed like any other. `engine_parameters` are the names
/// of the `parameters` that the engine understands.
#[must_use]
pub fn report(config: &ModelConfig, engine_parameters: &[&str], host: Host) -> Vec<Unsupported> {
    let mut walk = Walk {
        engine_parameters,
        host,
        found: Vec::new(),
    };
    walk.message(&proto::to_dynamic(config), "", "");
    walk.found
}

struct Walk<'a> {
    engine_parameters: &'a [&'a str],
    host: Host,
    found: Vec<Unsupported>,
}

impl Walk<'_> {
    /// `path` is what is reported, `pattern` the same without indices.
    fn message(&mut self, message: &DynamicMessage, path: &str, pattern: &str) {
        let descriptor = message.descriptor();
        for declared in &descriptor.descriptor_proto().field {
            let Some(field) = descriptor.get_field_by_name(declared.name()) else {
                continue;
            };
            if !message.has_field(&field) {
                continue;
            }
            let pattern = join(pattern, field.name());
            let path = join(path, field.name());
            match &*message.get_field(&field) {
                _ if pattern == "parameters" => self.parameters(message, &field),
                Value::List(values)
                    if values
                        .iter()
                        .all(|value| matches!(value, Value::Message(_))) =>
                {
                    for (index, value) in values.iter().enumerate() {
                        self.value(value, &format!("{path}[{index}]"), &pattern);
                    }
                }
                value => self.value(value, &path, &pattern),
            }
        }
    }

    fn value(&mut self, value: &Value, path: &str, pattern: &str) {
        if IMPLEMENTED.contains(&pattern) {
            return;
        }
        if self.host == Host::Triton {
            if TRITONS.contains(&pattern) {
                return;
            }
            if pattern == "sequence_batching" {
                // Triton keeps the requests together; the model would miss what comes with them.
                self.add(
                    path,
                    Refused,
                    "controls and states of a sequence are not passed on",
                );
                return;
            }
        }
        if pattern == "instance_group.name" || pattern == "instance_group.profile" {
            return;
        }
        if pattern == "instance_group.kind" {
            self.kind(value, path);
            return;
        }
        if let Some((_, impact, effect)) =
            NOT_IMPLEMENTED.iter().find(|(field, ..)| *field == pattern)
        {
            self.add(path, *impact, effect);
            return;
        }
        match value {
            Value::Message(message) => self.message(message, path, pattern),
            _ => self.add(path, Ignored, "not implemented"),
        }
    }

    fn kind(&mut self, value: &Value, path: &str) {
        match value
            .as_enum_number()
            .and_then(|kind| Kind::try_from(kind).ok())
        {
            Some(Kind::Gpu) => self.add(path, Ignored, "the instances run on the CPU"),
            Some(Kind::Model) => self.add(path, Ignored, "the server places the instances"),
            Some(Kind::Auto | Kind::Cpu) | None => {}
        }
    }

    fn parameters(&mut self, message: &DynamicMessage, field: &prost_reflect::FieldDescriptor) {
        let value = message.get_field(field);
        let Some(entries) = value.as_map() else {
            return;
        };
        let mut names: Vec<&str> = entries.keys().filter_map(|key| key.as_str()).collect();
        names.sort_unstable();
        for name in names {
            let path = format!("parameters[{name:?}]");
            if is_unified_memory(name) {
                self.add(&path, Ignored, "it is checked, and has no effect yet");
            } else if !TYPED.contains(&name) && !self.engine_parameters.contains(&name) {
                self.add(&path, Ignored, "the engine has no such parameter");
            }
        }
    }

    fn add(&mut self, path: &str, impact: Impact, effect: &'static str) {
        self.found.push(Unsupported {
            path: path.to_owned(),
            impact,
            effect,
        });
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::Kind as FieldKind;

    use super::*;

    #[test]
    fn every_listed_field_is_in_the_schema() {
        let listed = IMPLEMENTED
            .into_iter()
            .chain(NOT_IMPLEMENTED.map(|(field, ..)| field))
            .chain(TRITONS);
        for path in listed {
            let mut message = Some(proto::model_config_descriptor());
            for name in path.split('.') {
                let field = message
                    .as_ref()
                    .and_then(|message| message.get_field_by_name(name))
                    .unwrap_or_else(|| panic!("{path} has no {name}"));
                message = match field.kind() {
                    FieldKind::Message(message) => Some(message),
                    _ => None,
                };
            }
        }
    }
}

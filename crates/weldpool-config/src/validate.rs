//! What must hold of a configuration.
//!
//! [`general`] needs nothing but the configuration; [`tensors`] wants inputs and outputs complete.
//! Messages are those of Triton where it has one.

use std::collections::BTreeSet;

use weldpool_engine::{DataType, RANK_MAX};

use super::error::{Error, ErrorKind, Result};
use super::proto::model_config::SchedulingChoice;
use super::proto::model_input::Format;
use super::proto::model_instance_group::Kind;
use super::proto::model_version_policy::PolicyChoice;
use super::proto::{self, ModelConfig, ModelDynamicBatching, ModelTensorReshape};

/// The most inputs, and the most outputs, that a configuration may have.
pub const TENSORS_MAX: usize = 1024;

/// Checks everything but inputs and outputs. Values left out must have been filled in.
pub(super) fn general(config: &ModelConfig, model: &str, instances_max: u32) -> Result<()> {
    if config.name != model {
        return Err(Error::invalid(format!(
            "unexpected directory name '{model}' for model '{}', directory name must equal model \
             name",
            config.name
        )));
    }
    if config.max_batch_size < 0 {
        return Err(Error::invalid(format!(
            "'max_batch_size' must be non-negative value for {model}"
        )));
    }
    version_policy(config, model)?;
    instance_groups(config, model, instances_max)?;
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        dynamic_batching(batching, config.max_batch_size, model)?;
    }
    Ok(())
}

fn version_policy(config: &ModelConfig, model: &str) -> Result<()> {
    let choice = config
        .version_policy
        .as_ref()
        .and_then(|policy| policy.policy_choice.as_ref());
    match choice {
        Some(PolicyChoice::Latest(latest)) if latest.num_versions == 0 => Err(Error::invalid(
            format!("version_policy of '{model}': 'num_versions' must be at least 1"),
        )),
        Some(PolicyChoice::Specific(specific)) if specific.versions.is_empty() => {
            Err(Error::invalid(format!(
                "version_policy of '{model}' names no specific version"
            )))
        }
        Some(PolicyChoice::Specific(specific)) => {
            match specific.versions.iter().find(|version| **version < 0) {
                Some(version) => Err(Error::invalid(format!(
                    "version_policy of '{model}': version {version} must not be negative"
                ))),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn instance_groups(config: &ModelConfig, model: &str, instances_max: u32) -> Result<()> {
    let mut instances = 0_u64;
    for group in &config.instance_group {
        let name = &group.name;
        let Ok(kind) = Kind::try_from(group.kind) else {
            return Err(Error::invalid(format!(
                "instance group {name} of model {model} has unknown kind {}",
                group.kind
            )));
        };
        if kind != Kind::Gpu && !group.gpus.is_empty() {
            return Err(Error::invalid(format!(
                "instance group {name} of model {model} has kind {} but specifies one or more GPUs",
                kind.as_str_name()
            )));
        }
        if !group.profile.is_empty() {
            return Err(Error::invalid(format!(
                "instance group {name} of model {model} specifies profile field which is only \
                 supported for TensorRT models"
            )));
        }
        instances += u64::try_from(group.count).unwrap_or(0);
    }
    if instances > u64::from(instances_max) {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "instance_group of '{model}' asks for {instances} instances, more than the \
                 {instances_max} allowed"
            ),
        ));
    }
    Ok(())
}

fn dynamic_batching(
    batching: &ModelDynamicBatching,
    max_batch_size: i32,
    model: &str,
) -> Result<()> {
    for size in &batching.preferred_batch_size {
        if *size <= 0 {
            return Err(Error::invalid(format!(
                "dynamic batching preferred size must be positive for {model}"
            )));
        }
        if *size > max_batch_size {
            return Err(Error::invalid(format!(
                "dynamic batching preferred size must be <= max batch size for {model}"
            )));
        }
    }
    let levels = batching.priority_levels;
    if levels == 0 {
        return Ok(());
    }
    if levels > 1 && batching.preserve_ordering {
        return Err(Error::invalid(format!(
            "Only one priority level is allowed when 'preserve_ordering' is true for {model}"
        )));
    }
    if !(1..=levels).contains(&batching.default_priority_level) {
        return Err(Error::invalid(format!(
            "default priority level must be in range [1, {levels}] for {model}"
        )));
    }
    for level in batching.priority_queue_policy.keys() {
        if !(1..=levels).contains(level) {
            return Err(Error::invalid(format!(
                "priority queue policy must have priority level in range [1, {levels}] for {model}"
            )));
        }
    }
    Ok(())
}

/// Checks inputs and outputs, which must be complete.
pub(super) fn tensors(config: &ModelConfig) -> Result<()> {
    let model = config.name.as_str();
    if config.input.len() > TENSORS_MAX || config.output.len() > TENSORS_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("'{model}' has more than {TENSORS_MAX} inputs or outputs"),
        ));
    }
    let mut seen = BTreeSet::new();
    for input in &config.input {
        let what = Tensor {
            model,
            what: "input",
            name: &input.name,
        };
        what.check(
            input.data_type,
            &input.dims,
            input.reshape.as_ref(),
            input.is_shape_tensor,
            input.is_non_linear_format_io,
            &mut seen,
        )?;
        let format = Format::try_from(input.format)
            .map_err(|_| what.error(format!("has unknown format {}", input.format)))?;
        if format != Format::None && input.dims.len() != 3 {
            return Err(Error::invalid(format!(
                "model input NHWC/NCHW require 3 dims for {model}"
            ))
            .about_tensor(&input.name));
        }
    }
    seen.clear();
    for output in &config.output {
        let what = Tensor {
            model,
            what: "output",
            name: &output.name,
        };
        what.check(
            output.data_type,
            &output.dims,
            output.reshape.as_ref(),
            output.is_shape_tensor,
            output.is_non_linear_format_io,
            &mut seen,
        )?;
    }
    Ok(())
}

struct Tensor<'a> {
    model: &'a str,
    /// `input` or `output`.
    what: &'static str,
    name: &'a str,
}

impl<'a> Tensor<'a> {
    fn error(&self, wrong: impl std::fmt::Display) -> Error {
        Error::invalid(format!(
            "model {} '{}' {wrong} for {}",
            self.what, self.name, self.model
        ))
        .about_tensor(self.name)
    }

    fn check(
        &self,
        data_type: i32,
        dims: &[i64],
        reshape: Option<&ModelTensorReshape>,
        is_shape: bool,
        is_non_linear: bool,
        seen: &mut BTreeSet<&'a str>,
    ) -> Result<()> {
        if self.name.is_empty() {
            return Err(Error::invalid(format!(
                "model {} must specify 'name' for {}",
                self.what, self.model
            )));
        }
        if !seen.insert(self.name) {
            return Err(self.error("is given more than once"));
        }
        if data_type == i32::from(proto::DataType::TypeInvalid) {
            return Err(self.error("must specify 'data_type'"));
        }
        if engine_type(data_type).is_none() {
            return Err(self.error(format!("has unknown data_type {data_type}")));
        }
        if dims.is_empty() {
            return Err(self.error("must specify 'dims'"));
        }
        if dims.len() >= RANK_MAX {
            return Err(self.error(format!(
                "has {} dimensions, more than the {} allowed",
                dims.len(),
                RANK_MAX - 1
            )));
        }
        if dims.iter().any(|size| *size < 1 && *size != -1) {
            return Err(self.error(
                "dimension must be integer >= 1, or -1 to indicate a variable-size dimension",
            ));
        }
        if is_shape || is_non_linear {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "shape tensors and non-linear formats are only supported for TensorRT \
                     platform: {} '{}' of {}",
                    self.what, self.name, self.model
                ),
            )
            .about_tensor(self.name));
        }
        let Some(sizes) = segments(dims) else {
            return Err(self.error("has more elements than can be counted"));
        };
        let Some(reshape) = reshape else {
            return Ok(());
        };
        if reshape.shape.len() >= RANK_MAX {
            return Err(self.error(format!(
                "has a reshape of {} dimensions, more than the {} allowed",
                reshape.shape.len(),
                RANK_MAX - 1
            )));
        }
        if reshape.shape.iter().any(|size| *size < 1 && *size != -1) {
            return Err(self.error(
                "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size \
                 dimension",
            ));
        }
        let reshaped = segments(&reshape.shape);
        if reshaped
            .as_ref()
            .is_some_and(|reshaped| reshaped.len() != sizes.len() && !reshape.shape.is_empty())
        {
            return Err(
                self.error("has different number of variable-size dimensions for dims and reshape")
            );
        }
        if reshaped != Some(sizes) {
            return Err(self.error("has different size for dims and reshape"));
        }
        Ok(())
    }
}

/// The element counts before, between and after the variable dimensions: what a reshape must keep,
/// since each variable dimension keeps its place among them. `None` if one cannot be counted.
fn segments(dims: &[i64]) -> Option<Vec<i64>> {
    let mut segments = vec![1_i64];
    for size in dims {
        if *size == -1 {
            segments.push(1);
        } else {
            let last = segments.last_mut()?;
            *last = last.checked_mul(*size)?;
        }
    }
    // Together they must be countable too, since requests fill the gaps with at least one.
    segments
        .iter()
        .try_fold(1_i64, |product, size| product.checked_mul(*size))?;
    Some(segments)
}

/// The engine's name for a type of the schema; `None` for `TYPE_INVALID` and unknown numbers.
pub(super) fn engine_type(data_type: i32) -> Option<DataType> {
    let data_type = proto::DataType::try_from(data_type).ok()?;
    DataType::from_config_name(data_type.as_str_name())
}

/// The schema's number for a type of the engine.
pub(super) fn schema_type(data_type: DataType) -> i32 {
    proto::DataType::from_str_name(data_type.config_name())
        .unwrap_or(proto::DataType::TypeInvalid)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_its_schema_number() {
        for data_type in DataType::ALL {
            let number = schema_type(data_type);
            assert_ne!(number, 0, "{data_type}");
            assert_eq!(engine_type(number), Some(data_type));
        }
        assert_eq!(engine_type(0), None);
        assert_eq!(engine_type(99), None);
    }

    #[test]
    fn segments_are_what_a_reshape_keeps() {
        assert_eq!(segments(&[-1, 4, 2]), segments(&[-1, 8]));
        assert_eq!(segments(&[1]), segments(&[]));
        assert_ne!(segments(&[2, -1, 4]), segments(&[4, -1, 2]));
        assert_eq!(segments(&[i64::MAX, 2]), None);
        assert_eq!(segments(&[i64::MAX, -1, 2]), None);
    }
}

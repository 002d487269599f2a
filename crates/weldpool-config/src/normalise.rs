//! Values that a configuration leaves out, as Triton fills them in.

use super::backend::{Backend, ONNXRUNTIME_PLATFORM};
use super::proto::model_config::SchedulingChoice;
use super::proto::model_instance_group::Kind;
use super::proto::model_optimization_policy::PinnedMemoryBuffer;
use super::proto::model_sequence_batching::StrategyChoice;
use super::proto::model_version_policy::{Latest, PolicyChoice};
use super::proto::{ModelConfig, ModelInstanceGroup, ModelVersionPolicy};

/// The model's file within a version's directory, when the configuration names none.
pub const MODEL_FILENAME: &str = "model.onnx";

/// How long a sequence may be idle, in microseconds.
const SEQUENCE_IDLE_MICROSECONDS: u64 = 1_000_000;

/// Fills in what does not depend on the model's own inputs and outputs.
pub(super) fn normalise(config: &mut ModelConfig, model: &str, backend: Backend) {
    if config.name.is_empty() {
        model.clone_into(&mut config.name);
    }
    backend.name().clone_into(&mut config.backend);
    if config.platform.is_empty() && backend == Backend::OnnxRuntime {
        ONNXRUNTIME_PLATFORM.clone_into(&mut config.platform);
    }
    if config.default_model_filename.is_empty() {
        MODEL_FILENAME.clone_into(&mut config.default_model_filename);
    }
    config.version_policy.get_or_insert(ModelVersionPolicy {
        policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
    });
    let optimization = config.optimization.get_or_insert_default();
    let pinned = PinnedMemoryBuffer { enable: true };
    optimization.input_pinned_memory.get_or_insert(pinned);
    optimization.output_pinned_memory.get_or_insert(pinned);
    instance_groups(&mut config.instance_group, model, backend);
    scheduling(config);
}

/// Fills in what depends on `max_batch_size`, which completion may have set.
pub(super) fn scheduling(config: &mut ModelConfig) {
    let preferred = |sizes: &mut Vec<i32>| {
        if sizes.is_empty() && config.max_batch_size > 0 {
            sizes.push(config.max_batch_size);
        }
    };
    match &mut config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => {
            preferred(&mut batching.preferred_batch_size);
        }
        Some(SchedulingChoice::SequenceBatching(batching)) => {
            if batching.max_sequence_idle_microseconds == 0 {
                batching.max_sequence_idle_microseconds = SEQUENCE_IDLE_MICROSECONDS;
            }
            if let Some(StrategyChoice::Oldest(oldest)) = &mut batching.strategy_choice {
                preferred(&mut oldest.preferred_batch_size);
            }
        }
        Some(SchedulingChoice::EnsembleScheduling(_)) | None => {}
    }
}

fn instance_groups(groups: &mut Vec<ModelInstanceGroup>, model: &str, backend: Backend) {
    if groups.is_empty() {
        groups.push(ModelInstanceGroup {
            name: model.to_owned(),
            ..Default::default()
        });
    }
    for (index, group) in groups.iter_mut().enumerate() {
        if group.name.is_empty() {
            group.name = format!("{model}_{index}");
        }
        // Compared as numbers: an unknown one must stay for the validation to see.
        if group.kind == i32::from(Kind::Auto) {
            group.set_kind(Kind::Cpu);
        }
        if group.count < 1 {
            group.count = match group.kind() {
                Kind::Cpu => backend.default_instance_count(),
                Kind::Auto | Kind::Gpu | Kind::Model => 1,
            };
        }
    }
}

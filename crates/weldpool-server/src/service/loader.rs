//! From a model's directory to versions that can run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::Allocator;
use weldpool_engine::{Engine, LoadOptions, ModelSource};

use super::model::{LoadedModel, ModelHandle};
use super::options::ServiceOptions;
use super::statistics::ModelStatistics;
use crate::config::{self, Backend, Context, ModelConfig, ModelSignature, Prepared, Served};
use crate::repository::{ModelDirectory, ModelFile, select};

/// Most instances one model may have.
const INSTANCES_MAX: u32 = 256;

/// Loads models onto one engine.
#[derive(Debug)]
pub(crate) struct Loader {
    engine: Arc<dyn Engine>,
    allocator: Allocator,
    auto_complete: bool,
    default_max_batch_size: u32,
    queue_length_max: usize,
    engine_parameters: BTreeMap<String, String>,
}

/// What came of each version that the policy selects: the model and the time loading took, or the
/// reason why it cannot run.
pub(crate) type LoadedVersions = BTreeMap<u64, Result<(ModelHandle, Duration), String>>;

impl Loader {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        allocator: Allocator,
        options: &ServiceOptions,
    ) -> Self {
        Self {
            engine,
            allocator,
            auto_complete: options.auto_complete,
            default_max_batch_size: options.default_max_batch_size,
            queue_length_max: options.queue_length_max,
            engine_parameters: options.engine_parameters.clone(),
        }
    }

    /// Loads every version that the policy selects. A configuration given in JSON replaces the
    /// directory's. Blocks for as long as the engine takes.
    ///
    /// # Errors
    ///
    /// The reason, in one line, when nothing could even be tried.
    pub(crate) fn load(
        &self,
        directory: &ModelDirectory,
        config_json: Option<&str>,
    ) -> Result<LoadedVersions, String> {
        let prepared = self.prepare(directory, config_json)?;
        let name = directory.name();
        for ignored in prepared.ignored() {
            tracing::warn!(model = %name, "configuration: {ignored}");
        }
        if prepared.backend() == Backend::MetalMps {
            tracing::warn!(
                model = %name,
                "backend metal_mps: served by {} on the CPU, because this server has no MPSGraph \
                 engine yet",
                self.engine.name()
            );
        }
        let found = directory.versions().map_err(text)?;
        for skipped in &found.skipped {
            tracing::warn!(model = %name, "{skipped}");
        }
        let policy = prepared.config().version_policy.as_ref();
        let selection = select(&found.available, policy);
        let mut versions = LoadedVersions::new();
        for version in selection.missing {
            let reason = format!("version {version} is at no place in the repository");
            versions.insert(version, Err(reason));
        }
        for version in selection.versions {
            let start = Instant::now();
            let loaded = self.version(directory, &prepared, version);
            versions.insert(
                version,
                loaded.map(|model| (Arc::new(model), start.elapsed())),
            );
        }
        if versions.is_empty() {
            return Err(format!(
                "at least one version must be available under the version policy of model '{name}'"
            ));
        }
        Ok(versions)
    }

    fn prepare(
        &self,
        directory: &ModelDirectory,
        config_json: Option<&str>,
    ) -> Result<Prepared, String> {
        let config = match config_json {
            Some(json) => config::json::parse(json).map_err(text)?,
            None => match directory.config().map_err(text)? {
                Some(file) => config::text::parse(&file.text, &file.path).map_err(text)?,
                None if self.auto_complete => ModelConfig::default(),
                None => {
                    return Err(format!(
                        "model '{}' has no config.pbtxt, and completing is switched off",
                        directory.name()
                    ));
                }
            },
        };
        let context = Context::new(directory.name().as_str())
            .model_files(directory.model_files().map_err(text)?)
            .engine_parameters(self.engine.parameters().iter().copied())
            .instances_max(INSTANCES_MAX)
            .auto_complete(self.auto_complete)
            .default_max_batch_size(self.default_max_batch_size);
        config::prepare(config, &context).map_err(text)
    }

    fn version(
        &self,
        directory: &ModelDirectory,
        prepared: &Prepared,
        version: u64,
    ) -> Result<LoadedModel, String> {
        let config = prepared.config();
        let file = directory
            .model_file(version, &config.default_model_filename)
            .map_err(text)?;
        let source = match &file {
            ModelFile::Path(path) => ModelSource::Path(path),
            ModelFile::Bytes(bytes) => ModelSource::Bytes(bytes),
        };
        let mut options = LoadOptions::new(self.allocator.clone());
        let server_wide = self.engine_parameters.iter();
        options.parameters = server_wide
            .filter(|(name, _)| !config.parameters.contains_key(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        prepared.engine_settings().apply(&mut options);
        let model = self.engine.load(source, &options).map_err(text)?;
        let signature = ModelSignature {
            inputs: model.inputs(),
            optional_inputs: model.optional_inputs(),
            outputs: model.outputs(),
        };
        let served = prepared.clone().complete(signature).map_err(text)?;
        let labels = labels(directory, &served)?;
        let statistics = Arc::<ModelStatistics>::default();
        LoadedModel::start(
            version,
            served,
            labels,
            model.as_ref(),
            statistics,
            self.queue_length_max,
        )
        .map_err(text)
    }
}

fn labels(
    directory: &ModelDirectory,
    served: &Served,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut labels = BTreeMap::new();
    for output in served.outputs() {
        if let Some(filename) = &output.label_filename {
            labels.insert(
                output.name.clone(),
                directory.labels(filename).map_err(text)?,
            );
        }
    }
    Ok(labels)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

//! The state of one version of a model: configuration, engine's model, and what requests may ask.

use std::ffi::CString;
use std::sync::Arc;

use weldpool::Allocator;
use weldpool_config::{self as config, Context, Host, ModelSignature, Served};
use weldpool_engine::{LoadOptions, Model as EngineModel, ModelSource};

use crate::backend::BackendState;
use crate::batch::{Port, Ports};
use crate::error::{Error, ErrorCode, Result};
use crate::faults::Faults;
use crate::handles::{Model, Stateful as _};
use crate::instance::GPU_REFUSED;
use crate::watch::Watcher;

/// Most instances one model may have.
const INSTANCES_MAX: u32 = 256;

/// A version of a model that is loaded.
#[derive(Debug)]
pub(crate) struct ModelState {
    pub(crate) name: String,
    pub(crate) model: Arc<dyn EngineModel>,
    pub(crate) ports: Ports,
    pub(crate) allocator: Allocator,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) faults: Faults,
}

/// Loads a model, completes its configuration if Triton asks for it, and compares both.
///
/// # Errors
/// What is wrong with configuration or model, in words that name it.
pub(crate) fn initialise(model: Model) -> Result<()> {
    let name = model.name()?;
    let state = load(&model, &name).map_err(|error| error.context(format!("model '{name}'")))?;
    model.set_state(Box::new(state))
}

fn load(model: &Model, name: &str) -> Result<ModelState> {
    let backend = model.backend()?;
    let backend = backend.state()?;
    let auto_complete = model.auto_complete()?;
    let json = model.config()?;
    let written = config::json::parse_lenient(&json)?;
    for unknown in &written.unknown {
        tracing::debug!("model '{name}': configuration: {unknown} is not known here");
    }
    let written = written.config;
    let faults = Faults::of(&written)?;
    let context = Context::new(name)
        .host(Host::Triton)
        .engine_parameters(
            backend
                .engine
                .parameters()
                .iter()
                .copied()
                .chain(Faults::PARAMETERS.iter().copied()),
        )
        .instances_max(INSTANCES_MAX)
        .auto_complete(auto_complete)
        .default_max_batch_size(backend.settings.default_max_batch_size);
    let prepared = config::prepare(written, &context)?;
    for ignored in prepared.ignored() {
        tracing::warn!("model '{name}': configuration: {ignored}");
    }
    refuse_gpu(prepared.config())?;

    let file = model
        .repository()?
        .join(model.version()?.to_string())
        .join(&prepared.config().default_model_filename);
    let mut options = LoadOptions::new(backend.allocator.clone());
    options.parameters = defaults(backend, prepared.config());
    prepared.engine_settings().apply(&mut options);
    let load = backend.loads.begin(&backend.allocator);
    let loaded = backend.engine.load(ModelSource::Path(&file), &options)?;
    let held = load.end();
    let served = prepared.complete(ModelSignature {
        inputs: loaded.inputs(),
        optional_inputs: loaded.optional_inputs(),
        outputs: loaded.outputs(),
    })?;
    if auto_complete {
        model.set_config(&config::json::completed(&json, served.config())?)?;
    }
    if let Some(bytes) = held
        && let Err(error) = model.report_memory(bytes)
    {
        tracing::debug!("model '{name}': its memory is not reported: {error}");
    }
    tracing::debug!(
        "model '{name}' version {}: {} with {} inputs, {} outputs, max_batch_size {}",
        model.version()?,
        file.display(),
        loaded.inputs().len(),
        loaded.outputs().len(),
        served.max_batch_size()
    );
    Ok(ModelState {
        name: name.to_owned(),
        ports: ports(&served, loaded.as_ref()),
        model: loaded,
        allocator: backend.allocator.clone(),
        watcher: Arc::clone(&backend.watcher),
        faults,
    })
}

/// The parameters of the command line that the model's own configuration does not set.
fn defaults(
    backend: &BackendState,
    config: &config::ModelConfig,
) -> std::collections::BTreeMap<String, String> {
    backend
        .settings
        .engine_parameters
        .iter()
        .filter(|(name, _)| !config.parameters.contains_key(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Instances on a GPU are refused when the model is loaded, before any instance is made.
fn refuse_gpu(config: &config::ModelConfig) -> Result<()> {
    use config::proto::model_instance_group::Kind;

    let group = config
        .instance_group
        .iter()
        .find(|group| group.kind() == Kind::Gpu);
    match group {
        None => Ok(()),
        Some(group) => Err(Error::new(
            ErrorCode::Unsupported,
            format!("instance group '{}' {GPU_REFUSED}", group.name),
        )),
    }
}

/// What requests may ask for, by the model's own order.
fn ports(served: &Served, model: &dyn EngineModel) -> Ports {
    let batched = served.max_batch_size() > 0;
    let port = |spec: &weldpool_engine::TensorSpec, optional| Port {
        name: spec.name.clone(),
        c_name: CString::new(spec.name.as_str()).unwrap_or_default(),
        data_type: spec.data_type,
        scalar: spec.dims.is_empty() && !batched,
        optional,
    };
    Ports {
        // Those that requests need, then those that the configuration makes optional.
        inputs: model
            .inputs()
            .iter()
            .chain(model.optional_inputs())
            .filter_map(|spec| Some(port(spec, served.input(&spec.name)?.optional)))
            .collect(),
        outputs: model
            .outputs()
            .iter()
            .map(|spec| port(spec, false))
            .collect(),
        max_batch_size: served.max_batch_size(),
    }
}

//! The state of one version of a model: configuration, engine's model, and what requests may ask.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

use weldpool::Allocator;
use weldpool_config::{self as config, Context, EngineSettings, Host, ModelSignature, Served};
use weldpool_engine::{LoadOptions, Model as EngineModel, ModelSource, TensorSpec};
use weldpool_triton_sys::InstanceGroupKind;

use crate::batch::{Port, Ports};
use crate::error::{Error, Result};
use crate::faults::Faults;
use crate::handles::{Model, Stateful as _};
use crate::instance::check_kind;
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
        tracing::warn!("model '{name}': configuration: {unknown} is not known here, and left out");
    }
    if written.unnamed > 0 {
        let more = written.unnamed;
        tracing::warn!("model '{name}': configuration: {more} more fields are left out");
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
    let own = prepared.engine_settings();
    options.parameters = defaults(&backend.settings.engine_parameters, prepared.config(), own);
    own.apply(&mut options);
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
        ports: ports(&served, loaded.as_ref())?,
        model: loaded,
        allocator: backend.allocator.clone(),
        watcher: Arc::clone(&backend.watcher),
        faults,
    })
}

/// The parameters of the command line for a model that does not set them itself. The engine takes
/// parameters before fields of the same meaning, so those that the model has as a field are left out.
fn defaults(
    command_line: &BTreeMap<String, String>,
    config: &config::ModelConfig,
    own: &EngineSettings,
) -> BTreeMap<String, String> {
    let graph = config.optimization.as_ref().and_then(|one| one.graph);
    let sets = |name: &str| match name {
        // Zero is as if nothing was set.
        "optimization.graph.level" => graph.is_some_and(|graph| graph.level != 0),
        "intra_op_thread_count" => own.intra_op_threads.is_some(),
        "inter_op_thread_count" => own.inter_op_threads.is_some(),
        _ => config.parameters.contains_key(name),
    };
    command_line
        .iter()
        .filter(|(name, _)| !sets(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Instances on a GPU are refused when the model is loaded, before any instance is made.
fn refuse_gpu(config: &config::ModelConfig) -> Result<()> {
    use config::proto::model_instance_group::Kind;

    let mut groups = config.instance_group.iter();
    match groups.find(|group| group.kind() == Kind::Gpu) {
        None => Ok(()),
        Some(group) => check_kind(
            Some(InstanceGroupKind::Gpu),
            &format!("instance group '{}'", group.name),
        ),
    }
}

/// What requests may ask for, by the model's own order.
///
/// # Errors
/// `InvalidArgument` for a name that Triton cannot be told.
fn ports(served: &Served, model: &dyn EngineModel) -> Result<Ports> {
    let batched = served.max_batch_size() > 0;
    let port = |spec: &TensorSpec, optional| {
        let c_name = CString::new(spec.name.as_str())
            .map_err(|_| Error::invalid(format!("{:?} has a zero in its name", spec.name)))?;
        Ok(Port {
            name: spec.name.clone(),
            c_name,
            data_type: spec.data_type,
            scalar: spec.dims.is_empty() && !batched,
            optional,
        })
    };
    let inputs = model.inputs().iter().chain(model.optional_inputs());
    let outputs = model.outputs().iter();
    Ok(Ports {
        // Those that requests need, then those that the configuration makes optional.
        inputs: inputs
            .filter_map(|spec| Some(port(spec, served.input(&spec.name)?.optional)))
            .collect::<Result<_>>()?,
        outputs: outputs
            .map(|spec| port(spec, false))
            .collect::<Result<_>>()?,
        max_batch_size: served.max_batch_size(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of the command line's parameters is left for a model of this configuration.
    fn left(written: &str) -> Vec<String> {
        let command_line = [
            ("optimization.graph.level", "2"),
            ("intra_op_thread_count", "3"),
            ("enable_mem_pattern", "0"),
        ];
        let command_line = command_line.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = config::json::parse_lenient(written).unwrap().config;
        let own = EngineSettings::of(&config).unwrap();
        let left = defaults(&BTreeMap::from(command_line), &config, &own);
        left.into_keys().collect()
    }

    #[test]
    fn what_a_model_sets_outranks_the_command_line() {
        let all = [
            "enable_mem_pattern",
            "intra_op_thread_count",
            "optimization.graph.level",
        ];
        assert_eq!(left("{}"), all);
        assert_eq!(left(r#"{"optimization":{"graph":{"level":1}}}"#), all[..2]);
        let parameter = |name: &str, value: &str| {
            format!(r#"{{"parameters":{{"{name}":{{"string_value":"{value}"}}}}}}"#)
        };
        assert_eq!(left(&parameter("enable_mem_pattern", "1")), all[1..]);
        assert_eq!(
            left(&parameter("intra_op_thread_count", "1")),
            [all[0], all[2]]
        );
    }

    #[test]
    fn zero_is_as_if_nothing_was_set() {
        let zero = r#"{"optimization":{"graph":{"level":0}},
            "parameters":{"intra_op_thread_count":{"string_value":"0"}}}"#;
        assert_eq!(left(zero).len(), 3);
    }

    #[test]
    fn a_group_on_a_gpu_is_refused() {
        let config = |kind: &str| {
            let json = format!(r#"{{"instance_group":[{{"name":"g","kind":"{kind}"}}]}}"#);
            config::json::parse_lenient(&json).unwrap().config
        };
        for kind in ["KIND_CPU", "KIND_AUTO", "KIND_MODEL"] {
            refuse_gpu(&config(kind)).unwrap();
        }
        let error = refuse_gpu(&config("KIND_GPU")).unwrap_err();
        assert!(
            error
                .message()
                .contains("instance group 'g' is of KIND_GPU"),
            "{error}"
        );
    }
}

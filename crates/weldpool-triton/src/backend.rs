//! The state of the backend as a whole: the engine and the pool that all models share.

use std::path::Path;
use std::sync::Arc;

use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::pressure::PressureConfig;
use weldpool::{Allocator, Config, Runtime};
use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{Engine, ErrorKind};
use weldpool_triton_sys::InstanceGroupKind;

use crate::error::Result;
use crate::handles::{Attributes, Backend, Stateful as _};
use crate::loads::Loads;
use crate::log;
use crate::metrics::PoolMetrics;
use crate::settings::Settings;
use crate::watch::Watcher;

/// What all models share.
#[derive(Debug)]
pub(crate) struct BackendState {
    pub(crate) settings: Settings,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) allocator: Allocator,
    pub(crate) loads: Loads,
    pub(crate) watcher: Arc<Watcher>,
    /// Missing where Triton has metrics switched off.
    _metrics: Option<PoolMetrics>,
}

/// Checks Triton's version, reads the settings, and makes engine and pool.
///
/// # Errors
/// `Unsupported` for another Triton, `InvalidArgument` for wrong settings, `NotFound` without
/// onnxruntime.
pub(crate) fn initialise(backend: Backend) -> Result<()> {
    backend.check_api_version()?;
    log::start(false);
    let config = backend.config()?;
    let settings = Settings::read(&config)?;
    log::start(settings.verbose);
    let engine = open_engine(&settings, &backend.directory()?)?;
    settings.check_engine_parameters(&engine)?;
    let allocator = make_pool(&settings)?;
    let metrics = PoolMetrics::start(&allocator)
        .inspect_err(|error| tracing::debug!("the pool is not among the metrics: {error}"))
        .ok();
    tracing::info!(
        "backend '{}': {} {} on {}, pool of at most {} bytes, idle memory goes back after {} s",
        backend.name()?,
        engine.name(),
        engine.version(),
        allocator.device().properties().name,
        allocator.stats().limit.unwrap_or(u64::MAX),
        settings.buffer_age_max.as_secs()
    );
    backend.set_state(Box::new(BackendState {
        settings,
        engine: Arc::new(engine),
        allocator,
        loads: Loads::default(),
        watcher: Arc::new(Watcher::start()?),
        _metrics: metrics,
    }))
}

/// What Triton asks before it loads the first model.
pub(crate) fn describe(attributes: Attributes) -> Result<()> {
    // Instances share a loaded model; making one is quick and needs no other to be finished.
    attributes.set_parallel_instance_loading(true)?;
    // What an instance group of KIND_AUTO becomes: no engine of this build uses a GPU.
    attributes.add_preferred_instance_group(InstanceGroupKind::Cpu, 1)
}

/// The library that was named; one that lies beside the backend; or one that the engine finds.
fn open_engine(settings: &Settings, directory: &Path) -> Result<OnnxRuntime> {
    if let Some(named) = &settings.onnxruntime_library {
        return Ok(OnnxRuntime::load(Some(named))?);
    }
    match OnnxRuntime::load(Some(directory)) {
        Err(error) if error.kind() == ErrorKind::LibraryMissing => Ok(OnnxRuntime::load(None)?),
        found => Ok(found?),
    }
}

fn make_pool(settings: &Settings) -> Result<Allocator> {
    let device = Runtime::default_device()?;
    let limit = match settings.pool_bytes_max {
        Some(bytes) => bytes,
        None => device.budget()?.ceiling() / 5 * 4,
    };
    let age = settings.buffer_age_max;
    let config = Config {
        reserved_bytes_max: Some(limit),
        pressure: PressureConfig::default(),
        gc: GcConfig {
            enabled: true,
            // Memory is given back at most a quarter of its age too late.
            interval: age / 4,
            policy: GcPolicy {
                idle_max: Some(age),
                ..GcPolicy::default()
            },
        },
        ..Config::default()
    };
    Ok(Allocator::builder(device)
        .config(config)
        .name("metal_mps")
        .build()?)
}

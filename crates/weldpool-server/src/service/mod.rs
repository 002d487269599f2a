//! The service that every protocol is a thin skin over.
//!
//! A [`Service`] holds the models of a repository, runs requests on them, and tells about both. It
//! knows no protocol: requests and answers are the plain types of [`types`].

mod histogram;
mod lifecycle;
mod loader;
mod model;
mod options;
mod registry;
mod scheduler;
mod statistics;
pub mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use weldpool::Allocator;
use weldpool_engine::Engine;

pub use histogram::Histogram;
pub use model::{LoadedModel, ModelHandle};
pub use options::{LoadObserver, ModelControl, ServiceOptions};
pub use statistics::{FailureReason, ModelStatistics, Pending, Phases, StatisticsSnapshot, Total};

use self::lifecycle::Lifecycle;
use self::loader::Loader;
use self::registry::Registry;
use self::types::{
    IndexEntry, InferRequest, InferResponse, LoadRequest, ModelMetadata, ServerMetadata,
};
use crate::error::{Error, Result};
use crate::repository::{Limits as RepositoryLimits, Repository};

/// Protocol extensions that work, by the names Triton gives them.
const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
];

/// A request that was let in; dropping it makes room for another.
#[derive(Debug)]
pub struct Admission<'a>(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>);

/// The models of a repository, and what runs on them.
#[derive(Debug)]
pub struct Service {
    allocator: Allocator,
    registry: Arc<Registry>,
    lifecycle: Lifecycle,
    options: ServiceOptions,
    requests: Semaphore,
    /// Whether the models of the start were loaded, well or not.
    started: AtomicBool,
    closing: AtomicBool,
}

impl Service {
    /// Opens the repositories; loads nothing yet.
    ///
    /// # Errors
    ///
    /// One line that names the repository that cannot be read, and why.
    pub fn open(
        options: ServiceOptions,
        allocator: Allocator,
        engine: Arc<dyn Engine>,
    ) -> Result<Self> {
        let repository = Repository::open(options.repositories.iter(), RepositoryLimits::default())
            .map_err(|error| Error::invalid_argument(error.to_string()))?;
        let registry = Arc::new(Registry::default());
        let loader = Loader::new(engine, allocator.clone(), &options);
        let lifecycle = Lifecycle::new(
            repository,
            loader,
            Arc::clone(&registry),
            options.control,
            options.load_threads,
        );
        Ok(Self {
            allocator,
            registry,
            lifecycle,
            requests: Semaphore::new(options.requests_max.min(Semaphore::MAX_PERMITS)),
            started: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            options,
        })
    }

    /// Loads the models of the start; returns those that failed, and why.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub async fn load_models(&self, observer: &dyn LoadObserver) -> Result<Vec<(String, String)>> {
        let loaded = self
            .lifecycle
            .load_startup(&self.options.startup_models, observer)
            .await;
        self.started.store(true, Ordering::Release);
        loaded
    }

    /// Follows the changes of the repository until the service is closed. Returns at once unless
    /// it was opened with [`ModelControl::Poll`].
    pub async fn follow_repository(&self) {
        if self.options.control != ModelControl::Poll {
            return;
        }
        while !self.closing.load(Ordering::Acquire) {
            tokio::time::sleep(self.options.poll_interval).await;
            self.lifecycle.poll().await;
        }
    }

    /// Is not ready from now on; requests are still answered.
    pub fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Unloads every model. Blocks its caller, not its thread, until the models that run no request
    /// have given their memory back.
    pub async fn close(&self) {
        self.begin_close();
        self.lifecycle.unload_all().await;
    }

    /// The pool that tensors of requests and answers live in.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Name, version and extensions.
    #[must_use]
    pub fn metadata(&self) -> ServerMetadata {
        ServerMetadata {
            name: self.options.server_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }
    }

    /// Whether the server answers at all.
    #[must_use]
    pub fn is_live(&self) -> bool {
        true
    }

    /// Whether the server takes requests: the models of the start were loaded, all of them if
    /// readiness is strict, and it is not closing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.started.load(Ordering::Acquire)
            && !self.closing.load(Ordering::Acquire)
            && (!self.options.strict_readiness || self.registry.is_all_ready())
    }

    /// The version asked for, or the latest that is ready.
    ///
    /// # Errors
    ///
    /// `NotFound` for what is not there, `Unavailable` for what is not ready, `InvalidArgument` for
    /// a version that is no number.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<ModelHandle> {
        self.registry.find(name, version)
    }

    /// Whether a version, or any, can run.
    #[must_use]
    pub fn is_model_ready(&self, name: &str, version: Option<&str>) -> bool {
        self.registry.find(name, version).is_ok()
    }

    /// What a model tells about itself: all ready versions, or the one asked for.
    ///
    /// # Errors
    ///
    /// As [`model`](Self::model).
    pub fn model_metadata(&self, name: &str, version: Option<&str>) -> Result<ModelMetadata> {
        let model = self.model(name, version)?;
        let versions = match version {
            Some(_) => vec![model.version().to_owned()],
            None => {
                let ready = self.registry.ready_versions(name);
                ready
                    .iter()
                    .map(|model| model.version().to_owned())
                    .collect()
            }
        };
        Ok(model.metadata(versions))
    }

    /// The statistics of one version, of all versions of a model, or of all models.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a model or version that cannot run.
    pub fn model_statistics(&self, name: Option<&str>, version: Option<&str>) -> Result<Value> {
        let models: Vec<ModelHandle> = match name {
            None => self
                .registry
                .all_ready()
                .into_iter()
                .map(|(model, _)| model)
                .collect(),
            Some(name) => {
                let ready = self.registry.ready_versions(name);
                if ready.is_empty() {
                    return Err(Error::invalid_argument(format!(
                        "requested model '{name}' is not available"
                    )));
                }
                match version {
                    None => ready,
                    Some(_) => vec![self.model(name, version).map_err(|_| {
                        Error::invalid_argument(format!(
                            "requested model version is not available for model '{name}'"
                        ))
                    })?],
                }
            }
        };
        let entries = models.iter();
        let entries: Vec<Value> = entries
            .map(|model| model.statistics().json(model.name(), model.version()))
            .collect();
        Ok(json!({ "model_stats": entries }))
    }

    /// The models of the repository and the states of their versions.
    pub async fn repository_index(&self, ready_only: bool) -> Vec<IndexEntry> {
        let names = self.lifecycle.repository_names().await;
        self.registry.index(&names, ready_only)
    }

    /// Loads a model, or loads it anew.
    ///
    /// # Errors
    ///
    /// `Unavailable` unless clients control the models; `Internal` with the reason when it cannot
    /// be loaded. What ran before goes on running then.
    pub async fn load(&self, name: &str, request: LoadRequest) -> Result<()> {
        self.lifecycle.load(name, request).await
    }

    /// Unloads a model. No further request reaches it; requests under way are answered, and its
    /// memory goes back with the last of them. `unload_dependents` concerns ensembles, which do not
    /// exist yet.
    ///
    /// # Errors
    ///
    /// `Unavailable` unless clients control the models.
    pub async fn unload(&self, name: &str, _unload_dependents: bool) -> Result<()> {
        self.lifecycle.unload(name).await
    }

    /// Lets a request in, before anything of its body is read, so that what is under way is bounded.
    ///
    /// # Errors
    ///
    /// `Unavailable` when too much is under way.
    pub fn admit(&self, model: &ModelHandle) -> Result<Admission<'_>> {
        self.requests.try_acquire().map(Admission).map_err(|_| {
            model
                .statistics()
                .failed(FailureReason::Rejected, Duration::ZERO);
            Error::unavailable(format!(
                "{} requests are under way, which is the limit",
                self.options.requests_max
            ))
        })
    }

    /// Runs a request whose tensors were checked against the model's signature.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the queue is full or the time is over, else what the engine says.
    ///
    /// # Cancellation
    ///
    /// A request whose future is dropped while it waits is not run.
    pub async fn infer(
        &self,
        _admission: &Admission<'_>,
        model: &ModelHandle,
        request: InferRequest,
    ) -> Result<InferResponse> {
        model.infer(request, self.options.request_time_max).await
    }

    /// The versions that can run, and the time that loading each took.
    #[must_use]
    pub fn ready_models(&self) -> Vec<(ModelHandle, Duration)> {
        self.registry.all_ready()
    }
}

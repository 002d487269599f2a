//! Loading and unloading: at the start, when clients ask, and when the repository changes.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::task::JoinSet;

use super::loader::{LoadedVersions, Loader};
use super::model::LoadedModel;
use super::options::{LoadObserver, ModelControl};
use super::registry::{Registry, UNKNOWN_VERSION, VersionState};
use super::types::LoadRequest;
use crate::error::{Error, Result};
use crate::repository::{ModelDirectory, ModelName, Overrides, Repository, Scan, Snapshot};

/// Why a model is not there whose loading panicked.
const PANICKED: &str = "loading the model panicked";

/// Loads models of a repository into a registry, one at a time for each name.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    repository: Repository,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    control: ModelControl,
    load_threads: usize,
    /// One lock per model that is being loaded or unloaded.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// What the repository held at the last look.
    seen: tokio::sync::Mutex<Snapshot>,
}

impl Lifecycle {
    pub(crate) fn new(
        repository: Repository,
        loader: Loader,
        registry: Arc<Registry>,
        control: ModelControl,
        load_threads: usize,
    ) -> Self {
        Self {
            repository,
            loader: Arc::new(loader),
            registry,
            control,
            load_threads: load_threads.max(1),
            locks: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// Names of all models in the repository; none when it cannot be read.
    pub(crate) async fn repository_names(&self) -> Vec<String> {
        match self.scan().await {
            Ok(scan) => scan
                .models
                .into_keys()
                .map(|name| name.as_str().to_owned())
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "the model repository cannot be read");
                Vec::new()
            }
        }
    }

    /// Loads the models of the start, several at a time; returns those that failed, and why.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub(crate) async fn load_startup(
        &self,
        startup_models: &[String],
        observer: &dyn LoadObserver,
    ) -> Result<Vec<(String, String)>> {
        let scan = self.scan().await?;
        for skipped in &scan.skipped {
            tracing::warn!("{skipped}");
        }
        let (snapshot, errors) = Snapshot::take(scan.models.values());
        for error in errors {
            tracing::warn!(%error, "a model cannot be watched");
        }
        *self.seen.lock().await = snapshot;

        let all =
            self.control != ModelControl::Explicit || startup_models.iter().any(|name| name == "*");
        let mut failed = Vec::new();
        let mut directories: Vec<ModelDirectory> = Vec::new();
        if all {
            for (name, error) in &scan.duplicates {
                failed.push((name.as_str().to_owned(), error.to_string()));
            }
            directories.extend(scan.models.into_values());
        } else {
            for name in startup_models {
                match self.find(name) {
                    Ok(directory) => directories.push(directory),
                    Err(reason) => failed.push((name.clone(), reason)),
                }
            }
        }
        if all && directories.is_empty() && failed.is_empty() {
            let roots = self
                .repository
                .roots()
                .iter()
                .map(|root| root.display().to_string());
            tracing::warn!(
                "no model in {}: a model is a folder with a folder per version, such as \
                 NAME/1/model.onnx",
                roots.collect::<Vec<_>>().join(", ")
            );
        }
        observer.begin(directories.len() + failed.len());
        for (name, reason) in &failed {
            observer.failed(name, reason);
        }

        for directory in &directories {
            let state = (UNKNOWN_VERSION, VersionState::Loading);
            self.registry.set(directory.name().as_str(), [state]);
        }
        let mut waiting = directories.into_iter();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < self.load_threads
                && let Some(directory) = waiting.next()
            {
                observer.loading(directory.name().as_str());
                let loader = Arc::clone(&self.loader);
                tasks.spawn_blocking(move || {
                    let start = Instant::now();
                    let name = directory.name().as_str().to_owned();
                    let load = AssertUnwindSafe(|| loader.load(&directory, None));
                    (
                        name,
                        catch_unwind(load).unwrap_or_else(|_| Err(PANICKED.into())),
                        start.elapsed(),
                    )
                });
            }
            let Some(joined) = tasks.join_next().await else {
                break;
            };
            // The task catches panics itself, and nobody aborts it.
            let Ok((name, result, time)) = joined else {
                continue;
            };
            match self.install(&name, result) {
                Ok(versions) => observer.loaded(&name, &versions, time),
                Err(reason) => {
                    observer.failed(&name, &reason);
                    failed.push((name, reason));
                }
            }
        }
        observer.end();
        Ok(failed)
    }

    /// Loads a model anew because a client asks.
    ///
    /// # Errors
    ///
    /// `Unavailable` unless clients control the models; else why the model cannot be loaded.
    pub(crate) async fn load(&self, name: &str, request: LoadRequest) -> Result<()> {
        self.check_control()?;
        let failed = |reason: &dyn std::fmt::Display| {
            Error::internal(format!("failed to load '{name}', {reason}"))
        };
        let LoadRequest { config, files } = request;
        let directory = if files.is_empty() {
            self.find(name).map_err(|reason| failed(&reason))?
        } else if config.is_none() {
            return Err(failed(&"files are given without a configuration"));
        } else {
            let limits = self.repository.limits();
            let overrides = Overrides::new(files, limits).map_err(|error| failed(&error))?;
            let name = ModelName::new(name).map_err(|error| failed(&error))?;
            ModelDirectory::in_memory(name, overrides, limits)
        };
        self.reload(directory, config)
            .await
            .map_err(|reason| failed(&reason))
    }

    /// Unloads a model because a client asks; one that is not loaded is no error, as in Triton.
    ///
    /// # Errors
    ///
    /// `Unavailable` unless clients control the models.
    pub(crate) async fn unload(&self, name: &str) -> Result<()> {
        self.check_control()?;
        self.remove(name).await;
        Ok(())
    }

    /// Unloads every model.
    pub(crate) async fn unload_all(&self) {
        for name in self.registry.names() {
            self.remove(&name).await;
        }
    }

    /// Looks at the repository and follows what changed since the last look.
    pub(crate) async fn poll(&self) {
        let mut seen = self.seen.lock().await;
        let scan = match self.scan().await {
            Ok(scan) => scan,
            Err(error) => {
                tracing::warn!(%error, "the model repository cannot be read; models stay as they are");
                return;
            }
        };
        let (now, errors) = Snapshot::take(scan.models.values());
        for error in errors {
            tracing::warn!(%error, "a model cannot be watched");
        }
        let diff = seen.diff(&now);
        for name in diff.removed {
            tracing::info!(model = %name, "gone from the repository; unloading");
            self.remove(name.as_str()).await;
        }
        for name in diff.added.into_iter().chain(diff.modified) {
            let Some(directory) = scan.models.get(&name) else {
                continue;
            };
            match self.reload(directory.clone(), None).await {
                Ok(()) => tracing::info!(model = %name, "loaded from the changed repository"),
                Err(reason) => tracing::error!(model = %name, %reason, "cannot be loaded"),
            }
        }
        *seen = now;
    }

    fn check_control(&self) -> Result<()> {
        match self.control {
            ModelControl::Explicit => Ok(()),
            ModelControl::None => Err(Error::unavailable(
                "explicit model load / unload is not allowed; start the server with \
                 --model-control-mode=explicit",
            )),
            ModelControl::Poll => Err(Error::unavailable(
                "explicit model load / unload is not allowed if polling is enabled",
            )),
        }
    }

    fn find(&self, name: &str) -> std::result::Result<ModelDirectory, String> {
        let directory = ModelName::new(name).and_then(|name| self.repository.find(&name));
        directory.map_err(|error| format!("failed to poll from model repository: {error}"))
    }

    fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    async fn scan(&self) -> Result<Scan> {
        let repository = self.repository.clone();
        let scan = tokio::task::spawn_blocking(move || repository.scan()).await;
        match scan {
            Ok(Ok(scan)) => Ok(scan),
            Ok(Err(error)) => Err(Error::internal(error.to_string())),
            Err(_) => Err(Error::internal("looking at the model repository panicked")),
        }
    }

    async fn reload(
        &self,
        directory: ModelDirectory,
        config: Option<String>,
    ) -> std::result::Result<(), String> {
        let name = directory.name().as_str().to_owned();
        let lock = self.lock_of(&name);
        let _loading = lock.lock().await;
        let loader = Arc::clone(&self.loader);
        let loading =
            tokio::task::spawn_blocking(move || loader.load(&directory, config.as_deref()));
        let result = loading.await.unwrap_or_else(|_| Err(PANICKED.into()));
        self.install(&name, result).map(drop)
    }

    /// Puts loaded versions into the registry; versions that failed are told, together.
    fn install(
        &self,
        name: &str,
        result: std::result::Result<LoadedVersions, String>,
    ) -> std::result::Result<Vec<u64>, String> {
        let versions = match result {
            Ok(versions) => versions,
            Err(reason) => {
                // What runs goes on running.
                if self.registry.ready_versions(name).is_empty() {
                    let state = VersionState::Unavailable(reason.clone());
                    self.registry
                        .replace(name, BTreeMap::from([(UNKNOWN_VERSION, state)]));
                }
                return Err(reason);
            }
        };
        let mut ready = Vec::new();
        let mut reasons = Vec::new();
        let mut states = BTreeMap::new();
        for (version, loaded) in versions {
            let state = match loaded {
                Ok((model, time)) => {
                    ready.push(version);
                    VersionState::Ready(model, time)
                }
                Err(reason) => {
                    reasons.push(format!("version {version}: {reason}"));
                    // What runs goes on running.
                    self.registry
                        .ready_state(name, version)
                        .unwrap_or(VersionState::Unavailable(reason))
                }
            };
            states.insert(version, state);
        }
        self.registry.replace(name, states);
        if reasons.is_empty() {
            Ok(ready)
        } else {
            Err(reasons.join("; "))
        }
    }

    /// Unloads a model. What still runs requests goes when they are answered.
    async fn remove(&self, name: &str) {
        if !self.registry.knows(name) {
            return;
        }
        let lock = self.lock_of(name);
        let _unloading = lock.lock().await;
        let unloaded = self.registry.unload(name);
        // The end of a model joins its threads.
        let stopping = tokio::task::spawn_blocking(move || {
            unloaded
                .into_iter()
                .filter_map(Arc::into_inner)
                .for_each(LoadedModel::stop);
        });
        if stopping.await.is_err() {
            tracing::error!(model = name, "unloading panicked");
        }
    }
}

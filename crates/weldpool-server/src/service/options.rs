//! How the service behaves, apart from what the repository says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Who decides when models are loaded and unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelControl {
    /// All models at the start, and that is all.
    #[default]
    None,
    /// All models at the start; afterwards the repository is looked at again and again, and what
    /// changed there is loaded, reloaded or unloaded.
    Poll,
    /// Those named at the start; afterwards clients load and unload.
    Explicit,
}

/// Options of a [`Service`](super::Service).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// Folders with models.
    pub repositories: Vec<PathBuf>,
    /// Who decides when models are loaded. Default: none.
    pub control: ModelControl,
    /// Models to load at the start with [`ModelControl::Explicit`]; `*` is all of them.
    pub startup_models: Vec<String>,
    /// Time between two looks with [`ModelControl::Poll`]. Default: 15 s.
    pub poll_interval: Duration,
    /// Whether the server is ready only when every model is. Default: yes.
    pub strict_readiness: bool,
    /// Whether configurations are completed from the models. Default: yes.
    pub auto_complete: bool,
    /// Batch size of models that can be batched and whose configuration does not say. Default: 4.
    pub default_max_batch_size: u32,
    /// Settings of the engine for models whose configuration does not have them, by name.
    pub engine_parameters: BTreeMap<String, String>,
    /// Name of the server in its metadata. Default: `weldpool`.
    pub server_name: String,
    /// Models loaded at the same time. Default: the number of processors.
    pub load_threads: usize,
    /// Requests that may wait for one model. Default: 1024.
    pub queue_length_max: usize,
    /// Requests under way in all. Default: 4096.
    pub requests_max: usize,
    /// Longest time a request may take once it is read. Default: 5 minutes.
    pub request_time_max: Duration,
}

impl ServiceOptions {
    /// The defaults for these repositories.
    #[must_use]
    pub fn new(repositories: Vec<PathBuf>) -> Self {
        Self {
            repositories,
            control: ModelControl::None,
            startup_models: Vec::new(),
            poll_interval: Duration::from_secs(15),
            strict_readiness: true,
            auto_complete: true,
            default_max_batch_size: 4,
            engine_parameters: BTreeMap::new(),
            server_name: "weldpool".into(),
            load_threads: std::thread::available_parallelism().map_or(1, usize::from),
            queue_length_max: 1024,
            requests_max: 4096,
            request_time_max: Duration::from_secs(300),
        }
    }
}

/// Is told of models coming and going, for progress displays and logs. Called from any thread.
pub trait LoadObserver: Send + Sync {
    /// So many models are about to be loaded.
    fn begin(&self, models: usize);
    /// A model is being loaded.
    fn loading(&self, model: &str);
    /// A model is loaded, all of its versions.
    fn loaded(&self, model: &str, versions: &[u64], time: Duration);
    /// A model could not be loaded.
    fn failed(&self, model: &str, reason: &str);
    /// Loading is over.
    fn end(&self);
}

//! The onnxruntime engine: runs models on the CPU with the onnxruntime shared library.
//!
//! # Memory
//! - Inputs are passed as they lie, in the pool or in borrowed memory; only byte strings are copied,
//!   in both directions.
//! - Outputs are written to the caller's memory, or to a tensor of the pool, made before the run
//!   where the model fixes the shape. An output whose shape only the run decides is taken over with the
//!   block that onnxruntime allocated for it ([`Arena::Pool`](crate::Arena::Pool)), or written to a
//!   tensor of the shape that the last run with equal input shapes produced (other arenas); the
//!   first such run costs one copy.
//! - With [`Arena::Pool`](crate::Arena::Pool), the default, the memory between operators and the
//!   weights that kernels repack come from the pool as well, under the name `onnxruntime` in its
//!   statistics. What does not come from it: the graph and the weights as the library keeps them
//!   after parsing, its threads, and some 100 KB of bookkeeping that a run of a model with a few
//!   hundred nodes takes from `malloc` and gives back. docs/benchmarks/engine-arena.json has the
//!   figures, beside latency and memory with the library's own arena.
//! - After each load `malloc` is asked to give its unused pages back to the system.
//!
//! Several engines, models and pools may live in one process: see `environment.rs` for how the
//! library, which knows one allocator per environment, is brought to use several.
//!
//! # Limits
//! Any onnxruntime from 1.17 on. Inputs and outputs must be tensors of Triton's element types.
//! A model whose file gives an output no shape at all looks like one with a scalar output; the
//! engine then lets each run decide.

mod allocator;
mod cancellation;
mod environment;
mod library;
mod opset;
mod options;
mod plan;
mod predicted;
mod raw;
mod run;
mod session;
mod signature;
mod status;
mod strings;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::{Engine, LoadOptions, Model, ModelSource, Result};

use environment::Environment;

/// A list that is short, as those of a run's inputs and outputs are, and takes no memory of its own then.
type Few<T> = SmallVec<[T; 4]>;

/// The engine's name.
const NAME: &str = "onnxruntime";

/// The onnxruntime engine. Cheap to clone; all clones and all models share one environment per
/// library, which is closed with the last of them.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    environment: Arc<Environment>,
}

impl OnnxRuntime {
    /// Opens the shared library: at this path, or where it is found. Looked at, in this order:
    /// `ORT_DYLIB_PATH`; beside the executable; the cache `weldpool/onnxruntime/<version>` in the
    /// folders above the executable, newest first; the active Python virtual environment, then the
    /// Python on the path; the system's loader.
    ///
    /// A path, given or in `ORT_DYLIB_PATH`, may be the file or a folder with it, and must work.
    ///
    /// # Errors
    /// `LibraryMissing`, with how to get it; `LibraryUnsuitable` for a file that is not an
    /// onnxruntime of 1.17 or later; `Execution` if the library cannot be started.
    pub fn load(path: Option<&Path>) -> Result<OnnxRuntime> {
        let found = library::open(path)?;
        tracing::debug!(
            "onnxruntime {} from {}",
            found.api.version(),
            found.path.display()
        );
        Ok(OnnxRuntime {
            environment: Environment::of(found)?,
        })
    }

    /// The file the library was loaded from, or the name the system's loader knows it by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.environment.path()
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        self.environment.api().version()
    }

    fn parameters(&self) -> &'static [&'static str] {
        options::PARAMETERS
    }

    fn check_parameters(&self, parameters: &BTreeMap<String, String>) -> Result<()> {
        options::check(parameters)
    }

    fn load(&self, source: ModelSource<'_>, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        Ok(Arc::new(session::OrtModel::load(
            &self.environment,
            source,
            options,
        )?))
    }
}

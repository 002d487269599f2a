//! Loading a model, and what a loaded one says about itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use weldpool::Allocator;

use super::NAME;
use super::environment::Environment;
use super::opset;
use super::options::Settings;
use super::predicted::Predicted;
use super::raw::{self, AllocatorTable, Session, Side};
use super::run::OrtInstance;
use super::signature::{self, Signature};
use super::status::{During, error};
use crate::{
    Arena, Error, ErrorKind, Instance, LoadOptions, Model, ModelMetadata, ModelSource, Result,
    TensorSpec,
};

/// A model that onnxruntime has loaded.
#[derive(Clone, Debug)]
pub(super) struct OrtModel(Arc<Loaded>);

/// Fields are dropped in this order: the session before what it uses.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) session: Session,
    pub(super) table: Option<Arc<AllocatorTable>>,
    pub(super) environment: Arc<Environment>,
    pub(super) allocator: Allocator,
    pub(super) settings: Settings,
    /// Those that a run needs, then those that it may leave out.
    pub(super) inputs: Signature,
    /// How many a run needs.
    pub(super) required_inputs: usize,
    pub(super) outputs: Signature,
    metadata: ModelMetadata,
    pub(super) predicted: Predicted,
}

impl OrtModel {
    /// Loads a model.
    pub(super) fn load(
        environment: &Arc<Environment>,
        source: ModelSource<'_>,
        options: &LoadOptions,
    ) -> Result<OrtModel> {
        let settings = Settings::new(options)?;
        check_source(source)?;
        let at = |error: Error| error.context(source.describe());
        let (session, table, settings) = if settings.arena() == Arena::Pool {
            let table = environment.allocator_table(&options.allocator)?;
            match environment.offer(&table) {
                Ok(share) => {
                    let refusals = table.memory().refusals();
                    let session = open(environment, source, &settings)
                        .map_err(|error| refused(error, Some(&table), refusals))
                        .map_err(at)?;
                    drop(share);
                    (session, Some(table), settings)
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    let settings = settings.without_pool().ok_or_else(|| at(error))?;
                    let session = open(environment, source, &settings).map_err(at)?;
                    (session, None, settings)
                }
            }
        } else {
            let session = open(environment, source, &settings).map_err(at)?;
            (session, None, settings)
        };

        let mut inputs = Signature::read(&session, Side::Input).map_err(at)?;
        let required_inputs = inputs.specs.len();
        inputs.append(Signature::read(&session, Side::OptionalInput).map_err(at)?);
        let outputs = Signature::read(&session, Side::Output).map_err(at)?;
        let mut metadata = signature::metadata(&session).map_err(at)?;
        metadata.opset = match source {
            ModelSource::Path(path) => opset::of_file(path),
            ModelSource::Bytes(bytes) => opset::of_bytes(bytes),
        };
        raw::trim_heap();
        Ok(OrtModel(Arc::new(Loaded {
            session,
            table,
            environment: Arc::clone(environment),
            allocator: options.allocator.clone(),
            settings,
            predicted: Predicted::new(&inputs.specs, &outputs.specs),
            inputs,
            required_inputs,
            outputs,
            metadata,
        })))
    }
}

/// Makes a session.
fn open(
    environment: &Environment,
    source: ModelSource<'_>,
    settings: &Settings,
) -> Result<Session> {
    let options = settings.session_options(environment.api())?;
    let env = environment.env();
    match source {
        ModelSource::Path(path) => env.session_from_file(path, &options),
        ModelSource::Bytes(bytes) => env.session_from_bytes(bytes, &options),
    }
    .map_err(|status| error(status, During::Load))
}

/// Tells a missing or empty model from a broken one before the library sees it.
fn check_source(source: ModelSource<'_>) -> Result<()> {
    let empty = match source {
        ModelSource::Path(path) => check_file(path)? == 0,
        ModelSource::Bytes(bytes) => bytes.is_empty(),
    };
    if empty {
        return Err(Error::new(
            ErrorKind::ModelInvalid,
            format!("{}: the file is empty", source.describe()),
        ));
    }
    Ok(())
}

/// The length of a model's file.
fn check_file(path: &Path) -> Result<u64> {
    let unreadable = |why: std::io::Error| {
        Error::new(
            ErrorKind::ModelNotFound,
            format!("cannot read {}", path.display()),
        )
        .caused_by(why)
    };
    let metadata = fs::File::open(path)
        .and_then(|file| file.metadata())
        .map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Error::new(
            ErrorKind::ModelNotFound,
            format!("{} is a folder, not a model's file", path.display()),
        ));
    }
    Ok(metadata.len())
}

/// Puts the pool's reason in place of the library's when the pool refused it memory meanwhile.
pub(super) fn refused(error: Error, table: Option<&AllocatorTable>, seen: u64) -> Error {
    match table.and_then(|table| table.memory().refusal_since(seen)) {
        Some(reason) => Error::from(reason),
        None => error,
    }
}

impl Model for OrtModel {
    fn inputs(&self) -> &[TensorSpec] {
        &self.0.inputs.specs[..self.0.required_inputs]
    }

    fn optional_inputs(&self) -> &[TensorSpec] {
        &self.0.inputs.specs[self.0.required_inputs..]
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.0.outputs.specs
    }

    fn metadata(&self) -> &ModelMetadata {
        &self.0.metadata
    }

    fn engine(&self) -> &str {
        NAME
    }

    fn arena(&self) -> Arena {
        self.0.settings.arena()
    }

    fn expected_shapes(&self, inputs: &[(&str, &[usize])]) -> Vec<Option<Vec<usize>>> {
        self.0.expected_shapes(inputs)
    }

    fn instance(&self) -> Result<Box<dyn Instance>> {
        Ok(Box::new(OrtInstance::new(Arc::clone(&self.0))?))
    }
}

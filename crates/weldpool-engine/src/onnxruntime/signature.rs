//! Reads a model's inputs, outputs and metadata from a loaded session.

use std::collections::BTreeMap;
use std::ffi::CString;

use ort_sys::ONNXType;

use super::raw::{self, Session, Side, Status};
use super::status::{During, error};
use crate::{Dim, Error, ErrorKind, ModelMetadata, Result, TensorSpec};

/// How many inputs, outputs or metadata entries a model may have.
const COUNT_MAX: usize = 65_536;

/// The inputs or outputs of a model: as callers see them, and their names as the library wants them.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) specs: Vec<TensorSpec>,
    pub(super) names: Vec<CString>,
}

impl Signature {
    /// Reads one side of a session's signature.
    pub(super) fn read(session: &Session, side: Side) -> Result<Signature> {
        let load = |status| error(status, During::Load);
        let count = session.count(side).map_err(load)?;
        if count > COUNT_MAX {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the model has {count} {}s; {COUNT_MAX} are allowed",
                    noun(side)
                ),
            ));
        }
        let mut signature = Signature {
            specs: Vec::with_capacity(count),
            names: Vec::with_capacity(count),
        };
        for index in 0..count {
            let name = session.name(side, index).map_err(load)?;
            let spec = spec(session, side, index, &name)
                .map_err(load)
                .flatten()
                .map_err(|error| error.about_tensor(&name))?;
            signature.names.push(CString::new(name).map_err(|_| {
                Error::new(
                    ErrorKind::ModelInvalid,
                    "a tensor's name has a zero byte in it",
                )
            })?);
            signature.specs.push(spec);
        }
        Ok(signature)
    }

    /// Adds another signature behind this one.
    pub(super) fn append(&mut self, other: Signature) {
        self.specs.extend(other.specs);
        self.names.extend(other.names);
    }
}

fn noun(side: Side) -> &'static str {
    match side {
        Side::Input => "input",
        Side::OptionalInput => "optional input",
        Side::Output => "output",
    }
}

/// One input or output. The outer result is the library's failure, the inner one our refusal.
fn spec(
    session: &Session,
    side: Side,
    index: usize,
    name: &str,
) -> std::result::Result<Result<TensorSpec>, Status> {
    let noun = noun(side);
    let info = session.type_info(side, index)?;
    let onnx_type = info.onnx_type()?;
    if onnx_type != ONNXType::ONNX_TYPE_TENSOR as i32 {
        return Ok(Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the model's {noun} '{name}' is {}; only tensors can be served",
                type_name(onnx_type)
            ),
        )));
    }
    let Some(tensor) = info.tensor()? else {
        return Ok(Err(Error::new(
            ErrorKind::ModelInvalid,
            format!("the model's {noun} '{name}' has no tensor type"),
        )));
    };
    let Some(data_type) = raw::data_type(tensor.element_type) else {
        return Ok(Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the model's {noun} '{name}' has elements of ONNX type {}, which the \
                 protocol does not know",
                tensor.element_type
            ),
        )));
    };
    let dims = tensor
        .dims
        .iter()
        .zip(tensor.symbols)
        .map(|(size, symbol)| match usize::try_from(*size) {
            Ok(size) => Dim::Known(size),
            Err(_) => Dim::Symbolic(Some(symbol).filter(|symbol| !symbol.is_empty())),
        })
        .collect();
    Ok(Ok(TensorSpec {
        name: name.to_owned(),
        data_type,
        dims,
    }))
}

fn type_name(onnx_type: i32) -> &'static str {
    let is = |expected: ONNXType| onnx_type == expected as i32;
    if is(ONNXType::ONNX_TYPE_SEQUENCE) {
        "a sequence"
    } else if is(ONNXType::ONNX_TYPE_MAP) {
        "a map"
    } else if is(ONNXType::ONNX_TYPE_OPTIONAL) {
        "an optional"
    } else if is(ONNXType::ONNX_TYPE_SPARSETENSOR) {
        "a sparse tensor"
    } else {
        "not a tensor"
    }
}

/// What the model says about itself, less the operator set.
pub(super) fn metadata(session: &Session) -> Result<ModelMetadata> {
    let read = || {
        let metadata = session.metadata()?;
        let mut custom = BTreeMap::new();
        for key in metadata.keys()?.into_iter().take(COUNT_MAX) {
            let value = metadata.entry(&key)?;
            custom.insert(key, value);
        }
        Ok(ModelMetadata {
            producer: metadata.producer()?,
            graph: metadata.graph()?,
            domain: metadata.domain()?,
            description: metadata.description()?,
            version: metadata.version()?,
            opset: None,
            custom,
        })
    };
    read().map_err(|status| error(status, During::Load))
}

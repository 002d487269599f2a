//! Runs ONNX models on tensors that live in [`weldpool`] memory.
//!
//! # Contracts
//! - An [`Engine`] loads models, a [`Model`] is shared by threads, an [`Instance`] runs on one
//!   thread at a time: `run` takes `&mut self`.
//! - Inputs are read in place: from tensors, or from borrowed memory of any kind
//!   ([`TensorSlice`]). Outputs are written to memory the caller gives, tensors or borrowed
//!   ([`TensorSliceMut`]), or to memory of the load options' pool. Byte strings are the one type
//!   that is copied.
//! - The engine validates what it is given against the model's signature before anything runs. An
//!   error's [`ErrorKind`] says whose fault it is, [`Error::tensor`] which tensor is meant.
//! - Not promised: that an engine's results equal another engine's bit for bit.
//!
//! # Engines
//! [`onnxruntime::OnnxRuntime`] runs models on the CPU with the onnxruntime shared library, which
//! is opened at run time; nothing is linked.
//!
//! ```no_run
//! use weldpool::Allocator;
//! use weldpool_engine::onnxruntime::OnnxRuntime;
//! use weldpool_engine::{DataType, Engine, LoadOptions, ModelSource, OutputRequest, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let allocator = Allocator::host()?;
//! let engine = OnnxRuntime::load(None)?;
//! let model = engine.load(
//!     ModelSource::Path("model.onnx".as_ref()),
//!     &LoadOptions::new(allocator.clone()),
//! )?;
//! let input = Tensor::from_values(&allocator, DataType::Fp32, vec![1, 3], &[1.0_f32, 2.0, 3.0])?;
//! let mut instance = model.instance()?;
//! let outputs = instance.run(&[("x", &input)], &[OutputRequest::new("y")])?;
//! println!("{:?}", &outputs[0].values::<f32>()?[..]);
//! # Ok(())
//! # }
//! ```

mod datatype;
mod engine;
mod env;
mod error;
mod instance;
mod shape;
mod slice;
mod tensor;

pub mod onnxruntime;

pub use datatype::DataType;
pub use engine::{
    Arena, Engine, ExecutionMode, GraphOptimization, LoadOptions, Model, ModelMetadata, ModelSource,
};
pub use error::{Error, ErrorKind, Result};
pub use instance::{Canceller, Input, InputData, Instance, Output, OutputRequest, OutputTarget};
pub use shape::{Dim, RANK_MAX, TensorSpec, element_count};
pub use slice::{TensorSlice, TensorSliceMut};
pub use tensor::{Scalar, Strings, StringsIter, Tensor, TensorBytes, Values};

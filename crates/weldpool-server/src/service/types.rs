//! What passes between the service and its protocols: plain data, whichever protocol carries it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weldpool_engine::{DataType, Tensor};

/// Named values that travel beside a request, a tensor or a response.
pub type Parameters = BTreeMap<String, ParameterValue>;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above the range of `i64`.
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A text.
    String(String),
}

/// One request for inference.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// The client's name for the request, echoed in the response; may be empty.
    pub id: String,
    /// Parameters for the model. Those that the protocol itself acts on are taken out;
    /// `sequence_id`, `sequence_start` and `sequence_end` stay, with their types checked.
    pub parameters: Parameters,
    /// The client's priority, 1 being the highest; 0 asks for the model's default.
    pub priority: u64,
    /// How long the client is willing to wait for the model to take the request up.
    pub timeout: Option<Duration>,
    /// The tensors to run the model on. Names do not repeat.
    pub inputs: Vec<InputTensor>,
    /// The tensors wanted back; all of the model's if empty. Names do not repeat.
    pub outputs: Vec<RequestedOutput>,
    /// When the first byte of the request was seen.
    pub arrival: Instant,
}

/// One input of a request.
#[derive(Clone, Debug)]
pub struct InputTensor {
    /// The name of the model's input.
    pub name: String,
    /// The elements, in pool memory.
    pub tensor: Tensor,
    /// Parameters of this input that the protocol does not act on.
    pub parameters: Parameters,
}

/// One output that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestedOutput {
    /// The name of the model's output.
    pub name: String,
    /// Whether the client wants raw bytes rather than text, where the protocol has both.
    pub binary: bool,
    /// How many of the highest-scoring classes the client wants instead of the elements.
    pub classification: Option<u32>,
    /// Parameters of this output that the protocol does not act on.
    pub parameters: Parameters,
}

/// The answer to an [`InferRequest`].
#[derive(Clone, Debug)]
pub struct InferResponse {
    /// The model that ran.
    pub model_name: String,
    /// The version that ran.
    pub model_version: String,
    /// The request's id.
    pub id: String,
    /// Parameters the model adds to the answer.
    pub parameters: Parameters,
    /// The outputs, in the order requested, or in the model's order if none was requested.
    pub outputs: Vec<OutputTensor>,
    /// How long the engine ran.
    pub compute_time: Duration,
}

/// One output of a response.
#[derive(Clone, Debug)]
pub struct OutputTensor {
    /// The name of the model's output.
    pub name: String,
    /// The elements, in pool memory.
    pub tensor: Tensor,
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub datatype: DataType,
    /// Its dimensions, -1 where the request decides; the batch dimension included, as -1.
    pub shape: Vec<i64>,
}

/// What a model tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMetadata {
    /// The model's name.
    pub name: String,
    /// The versions that can be asked for.
    pub versions: Vec<String>,
    /// The platform, or the engine if the configuration names no platform.
    pub platform: String,
    /// The inputs.
    pub inputs: Vec<TensorMeta>,
    /// The outputs.
    pub outputs: Vec<TensorMeta>,
}

/// What the server tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMetadata {
    /// The server's name.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// The protocol extensions it speaks.
    pub extensions: Vec<String>,
}

/// One version of a model in the repository's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model's name.
    pub name: String,
    /// The version; empty if none was ever loaded.
    pub version: String,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; empty if the model was never loaded.
    pub state: String,
    /// Why it is not ready; empty if it is.
    pub reason: String,
}

/// How a model is to be loaded, beyond what the repository says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// A configuration in JSON that replaces the repository's.
    pub config: Option<String>,
    /// Files that replace the model's directory, by their path in it, such as `1/model.onnx`.
    pub files: Vec<(String, Vec<u8>)>,
}

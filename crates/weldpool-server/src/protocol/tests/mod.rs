//! Tests of the protocol as a whole, with a model that returns its inputs.

mod limits;
mod pool;
mod recorded;
mod round_trip;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weldpool::Allocator;
use weldpool_engine::{DataType, Dim, TensorSpec};

use super::body::tests::MemoryBody;
use super::request::{Context, Decoded, Layout};
use super::response::{self, Encoded};
use super::{Limits, request};
use crate::Result;
use crate::config::{self, ModelSignature, Served};
use crate::http1::Chunk;
use crate::service::types::{InferResponse, OutputTensor, Parameters};

fn allocator() -> &'static Allocator {
    static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();
    ALLOCATOR.get_or_init(|| Allocator::host().unwrap())
}

/// A model with the inputs `INPUT0`, `INPUT1`, .. and outputs `OUTPUT0`, `OUTPUT1`, .. of these
/// types and shapes, without a batch.
fn model(tensors: &[(DataType, &[i64])]) -> Served {
    let list = |prefix: &str| -> Vec<Value> {
        let tensor = |(index, (data_type, dims)): (usize, &(DataType, &[i64]))| json!({ "name": format!("{prefix}{index}"), "data_type": data_type.config_name(), "dims": dims });
        tensors.iter().enumerate().map(tensor).collect()
    };
    served(
        &json!({ "name": "m", "max_batch_size": 0, "input": list("INPUT"), "output": list("OUTPUT") }),
    )
}

/// A model that has just the inputs and outputs of this configuration.
fn served(config: &Value) -> Served {
    let batched = config["max_batch_size"].as_u64().unwrap() > 0;
    let specs = |key: &str| -> Vec<TensorSpec> {
        let spec = |tensor: &Value| {
            let dims = tensor
                .pointer("/reshape/shape")
                .unwrap_or(&tensor["dims"])
                .as_array()
                .unwrap()
                .clone();
            let dims = dims
                .into_iter()
                .map(|size| match usize::try_from(size.as_i64().unwrap()) {
                    Ok(size) => Dim::Known(size),
                    Err(_) => Dim::Symbolic(None),
                });
            TensorSpec {
                name: tensor["name"].as_str().unwrap().to_owned(),
                data_type: DataType::from_config_name(tensor["data_type"].as_str().unwrap())
                    .unwrap(),
                dims: batched
                    .then_some(Dim::Symbolic(None))
                    .into_iter()
                    .chain(dims)
                    .collect(),
            }
        };
        config[key].as_array().unwrap().iter().map(spec).collect()
    };
    let mut config = config.clone();
    for key in ["versions", "labels"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["backend"] = "onnxruntime".into();
    let context = config::Context::new(config["name"].as_str().unwrap());
    let prepared =
        config::prepare(config::json::parse(&config.to_string()).unwrap(), &context).unwrap();
    let signature = ModelSignature {
        inputs: &specs("input"),
        optional_inputs: &[],
        outputs: &specs("output"),
    };
    prepared.complete(signature).unwrap()
}

fn decode(model: &Served, header: Option<&str>, body: &[u8], limits: &Limits) -> Result<Decoded> {
    let sized = decode_from(
        model,
        header,
        MemoryBody {
            bytes: body,
            sized: true,
        },
        limits,
    );
    // A body whose length is not known before must come to the same.
    let streamed = decode_from(
        model,
        header,
        MemoryBody {
            bytes: body,
            sized: false,
        },
        limits,
    );
    match (&sized, &streamed) {
        (Ok(_), Ok(_)) => {}
        (Err(sized), Err(streamed)) => {
            assert_eq!(sized.status(), streamed.status(), "{sized} / {streamed}")
        }
        _ => panic!("{sized:?} / {streamed:?}"),
    }
    sized
}

fn decode_from(
    model: &Served,
    header: Option<&str>,
    mut body: MemoryBody<'_>,
    limits: &Limits,
) -> Result<Decoded> {
    let layout = Layout::of_header(header.map(str::as_bytes))?;
    let context = Context {
        model,
        allocator: allocator(),
        limits,
        arrival: Instant::now(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(request::read(&mut body, layout, context))
}

/// Runs a request on a model that returns its inputs.
fn identity(model: &Served, decoded: &Decoded) -> InferResponse {
    let request = &decoded.request;
    let names: Vec<&str> = match request.outputs.as_slice() {
        [] => model
            .outputs()
            .iter()
            .map(|output| output.name.as_str())
            .collect(),
        outputs => outputs.iter().map(|output| output.name.as_str()).collect(),
    };
    let output = |name: &str| {
        let input = name.replace("OUTPUT", "INPUT");
        let input = request
            .inputs
            .iter()
            .find(|given| given.name == input)
            .unwrap();
        OutputTensor {
            name: name.to_owned(),
            tensor: input.tensor.clone(),
        }
    };
    InferResponse {
        model_name: model.name().to_owned(),
        model_version: "1".to_owned(),
        id: request.id.clone(),
        parameters: Parameters::new(),
        outputs: names.into_iter().map(output).collect(),
        compute_time: Duration::ZERO,
    }
}

/// An answer as a client sees it.
#[derive(Debug)]
struct Answer {
    /// The length of the JSON part, if blobs follow.
    header: Option<usize>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        parse(&self.body[..self.header.unwrap_or(self.body.len())])
    }

    fn blobs(&self) -> &[u8] {
        &self.body[self.header.unwrap_or(self.body.len())..]
    }
}

/// Parses JSON in which numbers may be NaN or infinite; those become strings.
fn parse(json: &[u8]) -> Value {
    let text = std::str::from_utf8(json).unwrap();
    let text = text
        .replace("NaN", "\"NaN\"")
        .replace("Infinity", "\"Infinity\"")
        .replace("-\"Infinity\"", "\"-Infinity\"");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn exchange(model: &Served, header: Option<&str>, body: &[u8]) -> Result<Answer> {
    exchange_labelled(model, &[], header, body)
}

/// Sends a request to a model whose classes have these names.
fn exchange_labelled(
    model: &Served,
    labels: &[String],
    header: Option<&str>,
    body: &[u8],
) -> Result<Answer> {
    let decoded = decode(model, header, body, &Limits::default())?;
    let of_model = response::Model {
        batched: model.max_batch_size() > 0,
        labels: &|_| labels,
    };
    let encoded = Encoded::new(&identity(model, &decoded), &decoded.form, of_model)?;
    let mut body = encoded.json;
    let header = encoded.blobs.is_some().then_some(body.len());
    for blob in encoded.blobs.into_iter().flatten() {
        match blob {
            Chunk::Owned(bytes) => body.extend(bytes),
            Chunk::View(view) => body.extend_from_slice(&view.read::<u8>().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    Ok(Answer { header, body })
}

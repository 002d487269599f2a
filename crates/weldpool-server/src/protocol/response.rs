//! Writes the answer to a request for inference.

use super::classification::{self, Classes};
use super::elements;
use crate::Result;
use crate::http1::Chunk;
use crate::service::types::{
    InferResponse, OutputTensor, ParameterValue, Parameters, RequestedOutput,
};

/// In which form a client wants the outputs: kept aside while the model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// For outputs that were not requested by name.
    binary: bool,
    requested: Vec<(String, OutputForm)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutputForm {
    binary: bool,
    classification: Option<u32>,
}

impl Form {
    /// All outputs of the model, as bytes or as JSON.
    pub(crate) fn all(binary: bool) -> Form {
        Form {
            binary,
            requested: Vec::new(),
        }
    }

    /// Each output as it was requested; all of them, `binary` or not, if none was.
    pub(crate) fn new(binary: bool, requested: &[RequestedOutput]) -> Form {
        let form = |output: &RequestedOutput| {
            let form = OutputForm {
                binary: output.binary,
                classification: output.classification,
            };
            (output.name.clone(), form)
        };
        Form {
            binary,
            requested: requested.iter().map(form).collect(),
        }
    }

    fn of(&self, output: &str) -> OutputForm {
        let requested = self.requested.iter().find(|(name, _)| name == output);
        requested.map_or(
            OutputForm {
                binary: self.binary,
                classification: None,
            },
            |(_, form)| *form,
        )
    }
}

/// What of a model an answer needs.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    /// Whether the first dimension of every output is the batch.
    pub(crate) batched: bool,
    /// The names of an output's classes; none if its configuration gives no label file.
    pub(crate) labels: &'a dyn Fn(&str) -> &'a [String],
}

/// The body of an answer: JSON, and the blobs behind it.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) json: Vec<u8>,
    /// `None` if no output is binary.
    pub(crate) blobs: Option<Vec<Chunk>>,
}

impl Encoded {
    /// Roughly how many bytes of text the outputs of a response will take, for the choice of the
    /// thread that writes them.
    pub(crate) fn json_bytes_estimate(response: &InferResponse, form: &Form) -> usize {
        let text = |output: &&OutputTensor| !form.of(&output.name).binary;
        response
            .outputs
            .iter()
            .filter(text)
            .map(|output| output.tensor.byte_len().saturating_mul(3))
            .sum()
    }

    /// Writes a response in the form wanted. Binary outputs are not copied: their blobs are views
    /// of the memory that the model wrote.
    ///
    /// # Errors
    /// `InvalidArgument` if an output cannot be given in the form wanted; `Unavailable` if its
    /// memory is being written.
    pub(crate) fn new(response: &InferResponse, form: &Form, model: Model<'_>) -> Result<Encoded> {
        let mut json = Vec::with_capacity(256);
        let mut blobs = None;
        json.push(b'{');
        if !response.id.is_empty() {
            member("id", &mut json);
            elements::string_to(&mut json, &response.id);
            json.push(b',');
        }
        member("model_name", &mut json);
        elements::string_to(&mut json, &response.model_name);
        json.push(b',');
        member("model_version", &mut json);
        elements::string_to(&mut json, &response.model_version);
        json.push(b',');
        if !response.parameters.is_empty() {
            member("parameters", &mut json);
            parameters(&response.parameters, &mut json)?;
            json.push(b',');
        }
        member("outputs", &mut json);
        elements::list(&response.outputs, &mut json, |output, json| {
            let form = form.of(&output.name);
            if let Some(blob) = write_output(output, form, model, json)? {
                blobs.get_or_insert_with(Vec::new).extend(blob.0);
            }
            Ok(())
        })?;
        json.push(b'}');
        Ok(Encoded { json, blobs })
    }
}

/// The bytes of a binary output, if it has any.
struct Blob(Option<Chunk>);

/// Writes one output and returns its blob, if it is binary.
fn write_output(
    output: &OutputTensor,
    form: OutputForm,
    model: Model<'_>,
    json: &mut Vec<u8>,
) -> Result<Option<Blob>> {
    let subject = format!("output '{}'", output.name);
    let classes = match form.classification {
        None => None,
        Some(count) => {
            let labels = (model.labels)(&output.name);
            Some(classification::classify(
                &subject,
                &output.tensor,
                model.batched,
                count,
                labels,
            )?)
        }
    };
    let (datatype, shape) = match &classes {
        Some(classes) => ("BYTES", classes.shape.as_slice()),
        None => (output.tensor.data_type().name(), output.tensor.shape()),
    };
    json.push(b'{');
    member("name", json);
    elements::string_to(json, &output.name);
    json.push(b',');
    member("datatype", json);
    elements::string_to(json, datatype);
    json.push(b',');
    member("shape", json);
    json.extend_from_slice(elements::ShapeText(shape).to_string().as_bytes());
    json.push(b',');
    let blob = if form.binary {
        let blob = blob_of(output, classes.as_ref());
        let bytes = blob.0.as_ref().map_or(0, Chunk::len);
        member("parameters", json);
        member_object("binary_data_size", bytes, json);
        Some(blob)
    } else {
        member("data", json);
        match &classes {
            Some(classes) => elements::list(&classes.strings, json, |string, json| {
                elements::string_to(json, string);
                Ok(())
            })?,
            None => elements::write(&subject, &output.tensor, json)?,
        }
        None
    };
    json.push(b'}');
    Ok(blob)
}

fn blob_of(output: &OutputTensor, classes: Option<&Classes>) -> Blob {
    Blob(match classes {
        Some(classes) => Some(Chunk::from(classes.to_binary())),
        None => output.tensor.data().cloned().map(Chunk::from),
    })
}

fn parameters(parameters: &Parameters, json: &mut Vec<u8>) -> Result<()> {
    json.push(b'{');
    for (index, (name, value)) in parameters.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        elements::string_to(json, name);
        json.push(b':');
        match value {
            ParameterValue::Bool(value) => json.extend_from_slice(value.to_string().as_bytes()),
            ParameterValue::Int(value) => json.extend_from_slice(value.to_string().as_bytes()),
            ParameterValue::Uint(value) => json.extend_from_slice(value.to_string().as_bytes()),
            ParameterValue::Double(value) => elements::float(json, *value),
            ParameterValue::String(value) => elements::string_to(json, value),
        }
    }
    json.push(b'}');
    Ok(())
}

/// Writes the name of a member, which needs no escapes, and its colon.
fn member(name: &str, json: &mut Vec<u8>) {
    json.push(b'"');
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
}

/// Writes an object with a single number in it.
fn member_object(name: &str, value: usize, json: &mut Vec<u8>) {
    json.push(b'{');
    member(name, json);
    json.extend_from_slice(value.to_string().as_bytes());
    json.push(b'}');
}

//! Parameters: of a request, of an input, of a requested output.
//!
//! Some names are reserved, because the protocol itself acts on them. Each of the three places
//! takes its own reserved names out and keeps the others for the model.

use std::time::Duration;

use super::errors::{field, unsupported_shared_memory, within};
use super::json::{Kind, Number, Reader};
use super::limits::Limits;
use crate::service::types::{ParameterValue, Parameters};
use crate::{Error, Result};

/// What the reserved parameters of a request ask for.
#[derive(Debug, Default)]
pub(crate) struct RequestOptions {
    /// `binary_data_output`: outputs as bytes, unless outputs are requested by name.
    pub(crate) binary_data_output: bool,
    pub(crate) priority: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) parameters: Parameters,
}

/// What the reserved parameters of an input ask for.
#[derive(Debug, Default)]
pub(crate) struct InputOptions {
    /// `binary_data_size`: the bytes of the input behind the JSON part.
    pub(crate) binary_data_size: Option<u64>,
    pub(crate) parameters: Parameters,
}

/// What the reserved parameters of a requested output ask for.
#[derive(Debug, Default)]
pub(crate) struct OutputOptions {
    pub(crate) binary_data: bool,
    /// `classification`, unless it is 0.
    pub(crate) classification: Option<u32>,
    pub(crate) parameters: Parameters,
}

impl RequestOptions {
    pub(crate) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Result<RequestOptions> {
        let mut options = RequestOptions::default();
        each("the request", reader, limits, |name, value| {
            match name.as_str() {
                "binary_data_output" => options.binary_data_output = boolean(&name, &value)?,
                "priority" => options.priority = unsigned(&name, &value)?,
                "timeout" => {
                    let microseconds = unsigned(&name, &value)?;
                    options.timeout =
                        (microseconds > 0).then(|| Duration::from_micros(microseconds));
                }
                "sequence_id" if !matches!(value, ParameterValue::String(_)) => {
                    unsigned(&name, &value)?;
                    options.parameters.insert(name, value);
                }
                "sequence_start" | "sequence_end" => {
                    boolean(&name, &value)?;
                    options.parameters.insert(name, value);
                }
                _ if name.starts_with("triton_") => {
                    return Err(Error::invalid_argument(format!(
                        "parameter '{name}' begins with 'triton_', which is reserved for the server"
                    )));
                }
                _ => drop(options.parameters.insert(name, value)),
            }
            Ok(())
        })?;
        Ok(options)
    }
}

impl InputOptions {
    /// Reads the parameters of `input`, which is the input's name in messages.
    pub(crate) fn read(
        input: &str,
        reader: &mut Reader<'_>,
        limits: &Limits,
    ) -> Result<InputOptions> {
        let mut options = InputOptions::default();
        each(input, reader, limits, |name, value| {
            match name.as_str() {
                "binary_data_size" => options.binary_data_size = Some(unsigned(&name, &value)?),
                _ if name.starts_with("shared_memory_") => return Err(unsupported_shared_memory()),
                _ => drop(options.parameters.insert(name, value)),
            }
            Ok(())
        })?;
        Ok(options)
    }
}

impl OutputOptions {
    /// Reads the parameters of `output`, which is the output's name in messages.
    pub(crate) fn read(
        output: &str,
        reader: &mut Reader<'_>,
        limits: &Limits,
    ) -> Result<OutputOptions> {
        let mut options = OutputOptions::default();
        each(output, reader, limits, |name, value| {
            match name.as_str() {
                "binary_data" => options.binary_data = boolean(&name, &value)?,
                "classification" => {
                    let count = u32::try_from(unsigned(&name, &value)?).map_err(|_| {
                        Error::invalid_argument("parameter 'classification' must be below 2^32")
                    })?;
                    options.classification = (count > 0).then_some(count);
                }
                _ if name.starts_with("shared_memory_") => return Err(unsupported_shared_memory()),
                _ => drop(options.parameters.insert(name, value)),
            }
            Ok(())
        })?;
        Ok(options)
    }
}

/// Reads an object of parameters of `subject` and calls `parameter` with each.
fn each(
    subject: &str,
    reader: &mut Reader<'_>,
    limits: &Limits,
    mut parameter: impl FnMut(String, ParameterValue) -> Result<()>,
) -> Result<()> {
    let invalid = |what: String| Error::invalid_argument(format!("{subject}: {what}"));
    field(
        format_args!("{subject}: 'parameters'"),
        reader.expect(Kind::Object),
    )?;
    let mut names = Vec::new();
    reader.object(|reader, name| {
        let name = name.into_owned();
        if name.len() > limits.name_bytes_max {
            return Err(invalid(format!(
                "a parameter's name is longer than {} bytes",
                limits.name_bytes_max
            )));
        }
        if names.len() >= limits.parameters_max {
            return Err(invalid(format!(
                "more than {} parameters",
                limits.parameters_max
            )));
        }
        if names.contains(&name) {
            return Err(invalid(format!("parameter '{name}' is given twice")));
        }
        names.push(name.clone());
        let value = value(&name, reader).map_err(|error| within(subject, &error))?;
        parameter(name, value).map_err(|error| within(subject, &error))
    })
}

fn value(name: &str, reader: &mut Reader<'_>) -> Result<ParameterValue> {
    let kind = reader.kind()?;
    Ok(match kind {
        Kind::Bool => ParameterValue::Bool(reader.bool()?),
        Kind::String => ParameterValue::String(reader.string()?.into_owned()),
        Kind::Number => number(reader.number()?).ok_or_else(|| {
            Error::invalid_argument(format!(
                "parameter '{name}' is beyond the range of a number"
            ))
        })?,
        Kind::Null | Kind::Array | Kind::Object => {
            reader.skip()?;
            return Err(Error::invalid_argument(format!(
                "parameter '{name}' must be a number, a boolean or a string, not {kind}"
            )));
        }
    })
}

fn number(number: Number<'_>) -> Option<ParameterValue> {
    if let Some(value) = number.integer() {
        return Some(ParameterValue::Int(value));
    }
    if let Some(value) = number.integer() {
        return Some(ParameterValue::Uint(value));
    }
    number.float().map(ParameterValue::Double)
}

fn boolean(name: &str, value: &ParameterValue) -> Result<bool> {
    match value {
        ParameterValue::Bool(value) => Ok(*value),
        _ => Err(Error::invalid_argument(format!(
            "parameter '{name}' must be true or false"
        ))),
    }
}

fn unsigned(name: &str, value: &ParameterValue) -> Result<u64> {
    match value {
        ParameterValue::Int(value) => u64::try_from(*value).ok(),
        ParameterValue::Uint(value) => Some(*value),
        _ => None,
    }
    .ok_or_else(|| {
        Error::invalid_argument(format!(
            "parameter '{name}' must be a whole number that is not negative"
        ))
    })
}

//! The JSON part of a request for inference.

use std::ops::Range;

use weldpool::Allocator;
use weldpool_engine::{DataType, Tensor, element_count};

use super::elements::{self, Described};
use super::errors::field;
use super::json::{Kind, Reader};
use super::limits::Limits;
use super::parameters::{InputOptions, OutputOptions, RequestOptions};
use crate::service::types::{Parameters, RequestedOutput};
use crate::{Error, Result};

/// All that the JSON part of a request says.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) options: RequestOptions,
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<RequestedOutput>,
}

/// One input, with its elements or with the size of the blob that holds them.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<usize>,
    /// The product of the shape.
    pub(crate) count: usize,
    pub(crate) parameters: Parameters,
    pub(crate) source: Source,
}

#[derive(Debug)]
pub(crate) enum Source {
    /// The elements were part of the JSON.
    Json(Tensor),
    /// They follow behind the JSON and take this many bytes.
    Binary(u64),
}

/// What of a request could be told when the rest of it turned out to be wrong.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) error: Error,
    /// The request's id, if it came before the fault.
    pub(crate) id: String,
}

impl Head {
    /// Reads the JSON part of a request. JSON tensors are put into memory of `allocator`.
    ///
    /// # Errors
    /// `InvalidArgument` with a message that names the tensor or the place; `Unsupported` for
    /// shared memory; `Unavailable` if there is no memory.
    pub(crate) fn parse(
        json: &[u8],
        allocator: &Allocator,
        limits: &Limits,
    ) -> std::result::Result<Head, Rejected> {
        let mut id = String::new();
        Parser {
            allocator,
            limits,
            id: &mut id,
        }
        .head(json)
        .map_err(|error| Rejected {
            error,
            id: std::mem::take(&mut id),
        })
        .map(|head| Head { id, ..head })
    }
}

struct Parser<'a> {
    allocator: &'a Allocator,
    limits: &'a Limits,
    id: &'a mut String,
}

impl Parser<'_> {
    fn head(&mut self, json: &[u8]) -> Result<Head> {
        let mut reader = Reader::new(json, self.limits.json_depth_max)?;
        field("the request", reader.expect(Kind::Object))?;
        let mut options = None;
        let mut inputs = None;
        let mut outputs = None;
        let mut id_given = false;
        reader.object(|reader, name| -> Result<()> {
            match name.as_ref() {
                "id" => {
                    once(std::mem::replace(&mut id_given, true), "'id'")?;
                    *self.id = self.text("'id'", reader, self.limits.id_bytes_max)?;
                }
                "parameters" => {
                    once(options.is_some(), "'parameters'")?;
                    options = Some(RequestOptions::read(reader, self.limits)?);
                }
                "inputs" => {
                    once(inputs.is_some(), "'inputs'")?;
                    inputs = Some(self.inputs(reader)?);
                }
                "outputs" => {
                    once(outputs.is_some(), "'outputs'")?;
                    outputs = Some(self.outputs(reader)?);
                }
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(Head {
            id: String::new(),
            options: options.unwrap_or_default(),
            inputs: inputs.ok_or_else(|| Error::invalid_argument("the request has no 'inputs'"))?,
            outputs: outputs.unwrap_or_default(),
        })
    }

    fn inputs(&self, reader: &mut Reader<'_>) -> Result<Vec<Input>> {
        let mut inputs: Vec<Input> = Vec::new();
        field("'inputs'", reader.expect(Kind::Array))?;
        reader.array(|reader| -> Result<()> {
            if inputs.len() >= self.limits.inputs_max {
                return Err(Error::invalid_argument(format!(
                    "more than {} inputs",
                    self.limits.inputs_max
                )));
            }
            inputs.push(self.input(inputs.len(), reader)?);
            Ok(())
        })?;
        Ok(inputs)
    }

    fn input(&self, index: usize, reader: &mut Reader<'_>) -> Result<Input> {
        let mut draft = Draft {
            subject: format!("input {index}"),
            ..Draft::default()
        };
        field(&draft.subject, reader.expect(Kind::Object))?;
        reader.object(|reader, member| -> Result<()> {
            let member = member.as_ref();
            if let Some(repeated) = draft.repeats(member) {
                return Err(draft.invalid(format_args!("'{repeated}' is given twice")));
            }
            match member {
                "name" => {
                    let what = format!("{}: 'name'", draft.subject);
                    let name = self.text(&what, reader, self.limits.name_bytes_max)?;
                    draft.subject = format!("input '{name}'");
                    draft.name = Some(name);
                }
                "datatype" => draft.data_type = Some(data_type(&draft, reader)?),
                "shape" => draft.shape = Some(self.shape(&draft, reader)?),
                "parameters" => {
                    draft.options = Some(InputOptions::read(&draft.subject, reader, self.limits)?);
                }
                "data" => {
                    draft.data = Some(match self.described(&draft)? {
                        Some(tensor) => {
                            Data::Read(elements::read(tensor, reader, self.allocator, self.limits)?)
                        }
                        // The elements cannot be read before their type is known.
                        None => Data::Skipped(reader.skip()?),
                    });
                }
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        self.finished(draft, reader)
    }

    /// Makes an input out of what its object held.
    fn finished(&self, mut draft: Draft, reader: &Reader<'_>) -> Result<Input> {
        let data = draft.data.take();
        let size = draft
            .options
            .as_ref()
            .and_then(|options| options.binary_data_size);
        let Some(tensor) = self.described(&draft)? else {
            let missing = [
                ("name", draft.name.is_none()),
                ("shape", draft.shape.is_none()),
                ("datatype", draft.data_type.is_none()),
            ];
            let missing = missing
                .iter()
                .find(|(_, missing)| *missing)
                .map_or("", |(member, _)| *member);
            return Err(draft.invalid(format_args!("'{missing}' is missing")));
        };
        let source = match (data, size) {
            (Some(Data::Read(tensor)), None) => Source::Json(tensor),
            (Some(Data::Skipped(range)), None) => {
                let mut reader = reader.part(range);
                Source::Json(elements::read(
                    tensor,
                    &mut reader,
                    self.allocator,
                    self.limits,
                )?)
            }
            (None, Some(size)) => Source::Binary(size),
            (Some(_), Some(_)) => {
                return Err(
                    draft.invalid("it has both 'data' and the parameter 'binary_data_size'")
                );
            }
            (None, None) => {
                return Err(
                    draft.invalid("it has neither 'data' nor the parameter 'binary_data_size'")
                );
            }
        };
        let (data_type, count) = (tensor.data_type, tensor.count);
        Ok(Input {
            name: draft.name.unwrap_or_default(),
            data_type,
            shape: draft.shape.unwrap_or_default().0,
            count,
            parameters: draft.options.unwrap_or_default().parameters,
            source,
        })
    }

    /// What is known of an input's elements, or `None` if name, type or shape is not known yet.
    fn described<'d>(&self, draft: &'d Draft) -> Result<Option<Described<'d>>> {
        let (Some(_), Some(data_type), Some((shape, count))) =
            (&draft.name, draft.data_type, &draft.shape)
        else {
            return Ok(None);
        };
        Ok(Some(Described {
            subject: &draft.subject,
            data_type,
            shape,
            count: *count,
        }))
    }

    /// Reads a shape and counts its elements.
    fn shape(&self, draft: &Draft, reader: &mut Reader<'_>) -> Result<(Vec<usize>, usize)> {
        let mut shape = Vec::new();
        field(
            format_args!("{}: 'shape'", draft.subject),
            reader.expect(Kind::Array),
        )?;
        reader.array(|reader| -> Result<()> {
            if shape.len() >= self.limits.rank_max {
                return Err(draft.invalid(format_args!(
                    "more than {} dimensions",
                    self.limits.rank_max
                )));
            }
            let index = shape.len();
            let number = field(
                format_args!("{}: dimension {index}", draft.subject),
                reader.number(),
            )?;
            shape.push(number.integer().ok_or_else(|| {
                draft.invalid(format_args!(
                    "dimension {index} is {}, which is not a whole number from 0 up",
                    elements::abbreviated(number.text())
                ))
            })?);
            Ok(())
        })?;
        let count = element_count(&shape).filter(|count| *count <= self.limits.elements_max);
        let count = count.ok_or_else(|| {
            draft.invalid(format_args!(
                "shape {} has more than {} elements",
                elements::ShapeText(&shape),
                self.limits.elements_max
            ))
        })?;
        Ok((shape, count))
    }

    fn outputs(&self, reader: &mut Reader<'_>) -> Result<Vec<RequestedOutput>> {
        let mut outputs: Vec<RequestedOutput> = Vec::new();
        let mut count = 0;
        field("'outputs'", reader.expect(Kind::Array))?;
        reader.array(|reader| -> Result<()> {
            if count >= self.limits.outputs_max {
                return Err(Error::invalid_argument(format!(
                    "more than {} outputs",
                    self.limits.outputs_max
                )));
            }
            let output = self.output(count, reader)?;
            count += 1;
            // Asking twice for the same is asking once; asking for it in two forms is a mistake.
            match outputs.iter().find(|other| other.name == output.name) {
                None => outputs.push(output),
                Some(other) if *other == output => {}
                Some(_) => {
                    return Err(Error::invalid_argument(format!(
                        "output '{}' is requested twice, with different parameters",
                        output.name
                    )));
                }
            }
            Ok(())
        })?;
        Ok(outputs)
    }

    fn output(&self, index: usize, reader: &mut Reader<'_>) -> Result<RequestedOutput> {
        let mut subject = format!("output {index}");
        let mut name = None;
        let mut options = None;
        field(&subject, reader.expect(Kind::Object))?;
        reader.object(|reader, member| -> Result<()> {
            match member.as_ref() {
                "name" => {
                    once(name.is_some(), format_args!("{subject}: 'name'"))?;
                    let text = self.text(
                        &format!("{subject}: 'name'"),
                        reader,
                        self.limits.name_bytes_max,
                    )?;
                    subject = format!("output '{text}'");
                    name = Some(text);
                }
                "parameters" => {
                    once(options.is_some(), format_args!("{subject}: 'parameters'"))?;
                    options = Some(OutputOptions::read(&subject, reader, self.limits)?);
                }
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        let options = options.unwrap_or_default();
        Ok(RequestedOutput {
            name: name
                .ok_or_else(|| Error::invalid_argument(format!("{subject}: 'name' is missing")))?,
            binary: options.binary_data,
            classification: options.classification,
            parameters: options.parameters,
        })
    }

    /// Reads a string of at most `bytes_max` bytes.
    fn text(&self, what: &str, reader: &mut Reader<'_>, bytes_max: usize) -> Result<String> {
        let text = field(what, reader.string())?;
        if text.len() > bytes_max {
            return Err(Error::invalid_argument(format!(
                "{what} is longer than {bytes_max} bytes"
            )));
        }
        Ok(text.into_owned())
    }
}

/// An input while its object is being read.
#[derive(Debug, Default)]
struct Draft {
    /// The input in messages.
    subject: String,
    name: Option<String>,
    data_type: Option<DataType>,
    shape: Option<(Vec<usize>, usize)>,
    options: Option<InputOptions>,
    data: Option<Data>,
}

#[derive(Debug)]
enum Data {
    Read(Tensor),
    /// Where the elements stand in the text.
    Skipped(Range<usize>),
}

impl Draft {
    /// The name of a member, if it was read before.
    fn repeats(&self, member: &str) -> Option<&'static str> {
        [
            ("name", self.name.is_some()),
            ("datatype", self.data_type.is_some()),
            ("shape", self.shape.is_some()),
            ("parameters", self.options.is_some()),
            ("data", self.data.is_some()),
        ]
        .into_iter()
        .find(|(name, given)| *given && *name == member)
        .map(|(name, _)| name)
    }

    fn invalid(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid_argument(format!("{}: {what}", self.subject))
    }
}

fn data_type(draft: &Draft, reader: &mut Reader<'_>) -> Result<DataType> {
    let name = field(
        format_args!("{}: 'datatype'", draft.subject),
        reader.string(),
    )?;
    DataType::from_name(&name).ok_or_else(|| {
        draft.invalid(format_args!(
            "'{}' is not a datatype",
            elements::abbreviated(&name)
        ))
    })
}

/// Refuses a member that was given before.
fn once(given: bool, what: impl std::fmt::Display) -> Result<()> {
    if given {
        Err(Error::invalid_argument(format!("{what} is given twice")))
    } else {
        Ok(())
    }
}

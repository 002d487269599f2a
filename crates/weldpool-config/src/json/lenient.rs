//! Reading what a Triton of another version wrote: fields that this schema lacks are left out and
//! named, and all else is as strict as it always is.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use super::{check_length, parse, syntax, to_value};
use crate::error::{Error, Result};
use crate::proto::{self, ModelConfig};

/// A configuration, and what of its text this schema has no field for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Lenient {
    /// The configuration without those fields.
    pub config: ModelConfig,
    /// The fields left out, such as `input[0].colour`, in the order of the text; at most
    /// [`UNKNOWN_MAX`], and counted beyond in [`unnamed`](Self::unnamed).
    pub unknown: Vec<String>,
    /// How many more were left out than are named.
    pub unnamed: usize,
}

/// The most fields that [`Lenient::unknown`] names.
pub const UNKNOWN_MAX: usize = 64;

/// Reads the JSON form as a Triton gives it that may be newer than this schema, as in
/// `TRITONBACKEND_ModelConfig`.
///
/// Fields that are not in the schema are left out and named in the result. An enumeration name
/// that is not in the schema stays an error: the field is known, and without its value the
/// configuration would mean something else.
///
/// # Errors
/// `Syntax`, with line and column unless a field was left out; `LimitExceeded`.
pub fn parse_lenient(json: &str) -> Result<Lenient> {
    check_length(json)?;
    let mut value: Value = serde_json::from_str(json).map_err(|error| syntax(&error))?;
    let mut left_out = LeftOut::default();
    left_out.message(&mut value, &proto::model_config_descriptor(), "");
    let config = if left_out.is_empty() {
        parse(json)?
    } else {
        // Places in this text are not those of the text that was given.
        parse(&value.to_string()).map_err(Error::without_position)?
    };
    Ok(Lenient {
        config,
        unknown: left_out.named,
        unnamed: left_out.unnamed,
    })
}

/// The fields that completion fills in.
const COMPLETED: [&str; 5] = [
    "max_batch_size",
    "input",
    "output",
    "dynamic_batching",
    "default_model_filename",
];

/// The JSON that a Triton gave, with what was completed put in its place, for
/// `TRITONBACKEND_ModelSetConfig`: nothing else of it changes, known to this schema or not.
///
/// # Errors
/// `Syntax` if the text is no JSON object; `LimitExceeded`.
pub fn completed(json: &str, config: &ModelConfig) -> Result<String> {
    check_length(json)?;
    let mut text: serde_json::Map<String, Value> =
        serde_json::from_str(json).map_err(|error| syntax(&error))?;
    if let Value::Object(mut ours) = to_value(config) {
        for field in COMPLETED {
            if let Some(value) = ours.remove(field) {
                text.insert(field.to_owned(), value);
            }
        }
    }
    Ok(Value::Object(text).to_string())
}

#[derive(Default)]
struct LeftOut {
    named: Vec<String>,
    unnamed: usize,
}

impl LeftOut {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed == 0
    }

    /// Takes fields without a descriptor out of an object. What is no object is for the strict
    /// reader to refuse; the depth is limited by `serde_json`.
    fn message(&mut self, value: &mut Value, descriptor: &MessageDescriptor, path: &str) {
        let Value::Object(fields) = value else {
            return;
        };
        fields.retain(|name, value| {
            let path = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            let field = descriptor
                .get_field_by_json_name(name)
                .or_else(|| descriptor.get_field_by_name(name));
            match field {
                Some(field) => {
                    self.field(value, &field, &path);
                    true
                }
                None => {
                    self.add(path);
                    false
                }
            }
        });
    }

    fn field(&mut self, value: &mut Value, field: &FieldDescriptor, path: &str) {
        let Kind::Message(message) = field.kind() else {
            return;
        };
        match value {
            Value::Object(entries) if field.is_map() => {
                let Kind::Message(message) = message.map_entry_value_field().kind() else {
                    return;
                };
                for (key, value) in entries {
                    self.message(value, &message, &format!("{path}[{key:?}]"));
                }
            }
            Value::Array(values) if field.is_list() => {
                for (index, value) in values.iter_mut().enumerate() {
                    self.message(value, &message, &format!("{path}[{index}]"));
                }
            }
            value => self.message(value, &message, path),
        }
    }

    fn add(&mut self, path: String) {
        if self.named.len() < UNKNOWN_MAX {
            self.named.push(path);
        } else {
            self.unnamed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::json::to_text;

    #[test]
    fn fields_of_a_newer_triton_are_left_out_and_named() {
        let json = r#"{"name":"m","colour":{"red":1},"maxBatchSize":"4",
            "input":[{"name":"x","dims":["3"],"layout":[1]},{"name":"y"}],
            "optimization":{"graph":{"level":1,"fast":true}},
            "parameters":{"a":{"string_value":"1","bool_value":true}},
            "cc_model_filenames":{"colour":"red"}}"#;
        let lenient = parse_lenient(json).unwrap();
        assert_eq!(
            lenient.unknown,
            [
                "colour",
                "input[0].layout",
                "optimization.graph.fast",
                "parameters[\"a\"].bool_value"
            ]
        );
        assert_eq!(lenient.unnamed, 0);
        let expected = parse(
            r#"{"name":"m","max_batch_size":4,"input":[{"name":"x","dims":[3]},{"name":"y"}],
            "optimization":{"graph":{"level":1}},"parameters":{"a":{"string_value":"1"}},
            "cc_model_filenames":{"colour":"red"}}"#,
        )
        .unwrap();
        assert_eq!(lenient.config, expected);
        assert_eq!(parse(json).unwrap_err().kind(), ErrorKind::Syntax);
    }

    #[test]
    fn all_else_is_strict() {
        let cases = [
            (
                r#"{"input":[{"data_type":"TYPE_ZZ"}]}"#,
                "1:32: unrecognized enum value 'TYPE_ZZ'",
            ),
            (
                r#"{"colour":1,"input":[{"data_type":"TYPE_ZZ"}]}"#,
                "unrecognized enum value 'TYPE_ZZ'",
            ),
            (r#"{"max_batch_size":1.5}"#, "1:21: expected integer value"),
            ("{} x", "1:4: trailing characters"),
            ("", "1:1: EOF while parsing a value"),
        ];
        for (json, expected) in cases {
            let error = parse_lenient(json).unwrap_err();
            assert_eq!(error.to_string(), expected, "{json}");
            assert_eq!(error.kind(), ErrorKind::Syntax, "{json}");
        }
        assert!(parse_lenient("[]").is_err());
        assert!(parse_lenient(r#"{"input":{"colour":1}}"#).is_err());
        assert!(parse_lenient(&"[".repeat(100_000)).is_err());
        assert_eq!(
            parse_lenient(&" ".repeat(crate::text::TEXT_BYTES_MAX + 1))
                .unwrap_err()
                .kind(),
            ErrorKind::LimitExceeded
        );
    }

    #[test]
    fn only_so_many_fields_are_named() {
        let fields: Vec<String> = (0..UNKNOWN_MAX + 3)
            .map(|index| format!("\"z{index}\":0"))
            .collect();
        let lenient = parse_lenient(&format!("{{{}}}", fields.join(","))).unwrap();
        assert_eq!(lenient.unknown.len(), UNKNOWN_MAX);
        assert_eq!(lenient.unnamed, 3);
        assert_eq!(lenient.config, ModelConfig::default());
    }

    #[test]
    fn what_triton_says_is_written_back_as_it_was() {
        #[derive(serde::Deserialize)]
        struct Recorded {
            name: String,
            answer: String,
        }
        let answers: Vec<Recorded> =
            serde_json::from_str(include_str!("../../tests/data/triton-config/answers.json"))
                .unwrap();
        assert!(answers.len() > 30);
        for Recorded { name, answer } in answers {
            let lenient = parse_lenient(&answer).unwrap();
            assert_eq!(lenient.unknown, Vec::<String>::new(), "{name}");
            let ours: Value = serde_json::from_str(&to_text(&lenient.config)).unwrap();
            assert_eq!(
                ours,
                serde_json::from_str::<Value>(&answer).unwrap(),
                "{name}"
            );
        }
    }
}

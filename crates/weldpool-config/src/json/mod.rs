//! The JSON form: what `GET /v2/models/M/config` answers, what a load request may bring, and what
//! a backend in Triton is given (`TRITONBACKEND_ModelConfig`) and gives back
//! (`TRITONBACKEND_ModelSetConfig`).
//!
//! The output is Triton's: every field is printed, unset messages and alternatives are left out,
//! fields keep the order of the schema, and 64-bit numbers are numbers except where Triton leaves
//! protobuf's own form, a string.

mod lenient;

use prost_reflect::{
    DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey,
    ReflectMessage as _, Value,
};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::error::{Error, ErrorKind, Position, Result};
use super::proto::{self, ModelConfig};
use super::text::TEXT_BYTES_MAX;

pub use lenient::{Lenient, UNKNOWN_MAX, completed, parse_lenient};

/// 64-bit fields that Triton prints as strings.
const STRINGS: [&str; 3] = [
    "inference.ModelInstanceGroup.SecondaryDevice.device_id",
    "inference.ModelOptimizationPolicy.Cuda.GraphSpec.Shape.dim",
    "inference.ModelSequenceBatching.InitialState.dims",
];

/// Reads the JSON form, as in the `config` parameter of a load request.
///
/// Fields go by their schema names or in camel case; numbers may be written as strings. Unknown
/// fields and enumeration names are errors; see [`parse_lenient`].
///
/// # Errors
/// `Syntax` with line and column, `LimitExceeded`.
pub fn parse(json: &str) -> Result<ModelConfig> {
    check_length(json)?;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize_with_options(
        proto::model_config_descriptor(),
        &mut deserializer,
        &DeserializeOptions::new().deny_unknown_fields(true),
    )
    .map_err(|error| syntax(&error))?;
    deserializer.end().map_err(|error| syntax(&error))?;
    message
        .transcode_to()
        .map_err(|error| Error::new(ErrorKind::Syntax, format!("cannot be represented: {error}")))
}

fn check_length(json: &str) -> Result<()> {
    if json.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::LimitExceeded,
        format!(
            "the configuration has {} bytes, more than the {TEXT_BYTES_MAX} allowed",
            json.len()
        ),
    ))
}

/// An error of `serde_json`, which appends the place to the message; it is kept apart here.
fn syntax(error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    Error::new(
        ErrorKind::Syntax,
        message.strip_suffix(&place).unwrap_or(&message),
    )
    .at(Position {
        line: error.line().max(1),
        column: error.column().max(1),
    })
}

/// The configuration as JSON text, without spaces; Triton reads it too.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "no configuration leads there")]
pub fn to_text(config: &ModelConfig) -> String {
    serde_json::to_string(&Message(&proto::to_dynamic(config)))
        .expect("keys are strings, and writing to memory cannot fail")
}

/// The configuration as a JSON value.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "no configuration leads there")]
pub fn to_value(config: &ModelConfig) -> serde_json::Value {
    serde_json::to_value(Message(&proto::to_dynamic(config)))
        .expect("keys are strings, and every number is finite")
}

struct Message<'a>(&'a DynamicMessage);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let descriptor = self.0.descriptor();
        let mut map = serializer.serialize_map(None)?;
        // The schema's order; the descriptor's own iterator goes by number.
        for declared in &descriptor.descriptor_proto().field {
            let Some(field) = descriptor.get_field_by_name(declared.name()) else {
                continue;
            };
            let is_message = matches!(field.kind(), Kind::Message(_));
            let optional = field.containing_oneof().is_some()
                || (is_message && !field.is_list() && !field.is_map());
            if optional && !self.0.has_field(&field) {
                continue;
            }
            let value = self.0.get_field(&field);
            map.serialize_entry(
                field.name(),
                &FieldValue {
                    value: &value,
                    field: &field,
                },
            )?;
        }
        map.end()
    }
}

struct FieldValue<'a> {
    value: &'a Value,
    field: &'a FieldDescriptor,
}

impl Serialize for FieldValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.value {
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&FieldValue {
                        value,
                        field: self.field,
                    })?;
                }
                list.end()
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = self.field.kind() else {
                    return serializer.serialize_map(Some(0))?.end();
                };
                let value_field = entry.map_entry_value_field();
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(
                        &key_text(key),
                        &FieldValue {
                            value,
                            field: &value_field,
                        },
                    )?;
                }
                map.end()
            }
            Value::Message(message) => Message(message).serialize(serializer),
            Value::EnumNumber(number) => match self.field.kind() {
                Kind::Enum(descriptor) => enum_value(&descriptor, *number, serializer),
                _ => serializer.serialize_i32(*number),
            },
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::I64(value) if STRINGS.contains(&self.field.full_name()) => {
                serializer.collect_str(value)
            }
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::U64(value) => serializer.serialize_u64(*value),
            // Through the shortest decimal form, so that 0.7 stays 0.7 in double precision.
            Value::F32(value) => number(
                value.to_string().parse().unwrap_or(f64::from(*value)),
                serializer,
            ),
            Value::F64(value) => number(*value, serializer),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.collect_str(&String::from_utf8_lossy(value)),
        }
    }
}

fn enum_value<S: Serializer>(
    descriptor: &EnumDescriptor,
    number: i32,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match descriptor.get_value(number) {
        Some(value) => serializer.serialize_str(value.name()),
        None => serializer.serialize_i32(number),
    }
}

/// Whole numbers have no fraction; what JSON has no number for is protobuf's string.
fn number<S: Serializer>(value: f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    /// Up to here every whole number is exact.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        serializer.serialize_str("NaN")
    } else if value.is_infinite() {
        serializer.serialize_str(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked to be whole and in range"
        )]
        let whole = value as i64;
        serializer.serialize_i64(whole)
    } else {
        serializer.serialize_f64(value)
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_what_triton_accepts() {
        let expected = ModelConfig {
            max_batch_size: 4,
            input: vec![proto::ModelInput {
                name: "x".into(),
                data_type: proto::DataType::TypeFp32.into(),
                dims: vec![3],
                ..Default::default()
            }],
            ..Default::default()
        };
        for json in [
            r#"{"max_batch_size":4,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[3]}]}"#,
            r#"{"maxBatchSize":"4","input":[{"name":"x","dataType":11,"dims":["3"]}],"output":null}"#,
        ] {
            assert_eq!(parse(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        let cases = [
            (r#"{"colour": 1}"#, "1:9: unrecognized field name 'colour'"),
            (
                "{\n\"max_batch_size\": 1.5}",
                "2:21: expected integer value",
            ),
            (
                r#"{"input": [{"data_type": "TYPE_ZZ"}]}"#,
                "1:34: unrecognized enum value 'TYPE_ZZ'",
            ),
            ("{", "1:1: EOF while parsing an object"),
            ("", "1:1: EOF while parsing a value"),
            ("{} x", "1:4: trailing characters"),
        ];
        for (json, expected) in cases {
            let error = parse(json).unwrap_err();
            assert_eq!(error.to_string(), expected, "{json}");
            assert_eq!(error.kind(), ErrorKind::Syntax);
        }
        assert!(parse("[]").is_err());
        assert!(parse(r#"{"dynamic_batching":{},"sequence_batching":{}}"#).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert_eq!(
            parse(&" ".repeat(TEXT_BYTES_MAX + 1)).unwrap_err().kind(),
            ErrorKind::LimitExceeded
        );
    }

    #[test]
    fn numbers_that_json_lacks_survive() {
        let json = r#"{"sequence_batching":{"control_input":[{"control":[{"fp32_false_true":["NaN","-Infinity",0.7,1e30]}]}]}}"#;
        let config = parse(json).unwrap();
        let text = to_text(&config);
        assert!(
            text.contains(r#""fp32_false_true":["NaN","-Infinity",0.7,1e+30]"#),
            "{text}"
        );
        assert_eq!(to_text(&parse(&text).unwrap()), text);
        assert_eq!(
            to_value(&config)["sequence_batching"]["iterative_sequence"],
            false
        );
    }

    proptest! {
        #[test]
        fn mutated_json_never_panics(
            edits in proptest::collection::vec(
                (any::<prop::sample::Index>(), prop::sample::select(b"{}[]:,\"\\0-9.eEntX \n\xff".to_vec()), 0..3_u8),
                1..6,
            )
        ) {
            let kitchen_sink = include_str!("../../tests/data/triton-config/kitchen_sink.pbtxt");
            let config = super::super::text::parse(kitchen_sink, "f".as_ref()).unwrap();
            let mut bytes = to_text(&config).into_bytes();
            for (place, byte, kind) in edits {
                let at = place.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => { bytes.remove(at); }
                }
            }
            if let Ok(config) = parse(&String::from_utf8_lossy(&bytes)) {
                prop_assert_eq!(parse(&to_text(&config)).unwrap(), config);
            }
        }
    }
}

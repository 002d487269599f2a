//! The protobuf text format of `config.pbtxt`.

mod lexer;
mod parser;

use std::path::Path;

use super::error::{Error, ErrorKind, Position, Result};
use super::proto::{self, ModelConfig};

/// The longest configuration that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Reads a configuration text, which came from `file`.
///
/// Unknown fields and enumeration names, and a field given twice that is not a list, are errors,
/// as they are in Triton.
///
/// # Errors
/// `Syntax` with file, line and column, `LimitExceeded`.
pub fn parse(text: &str, file: &Path) -> Result<ModelConfig> {
    parse_message(text).map_err(|error| error.in_file(file))
}

fn parse_message(text: &str) -> Result<ModelConfig> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "the configuration has {} bytes, more than the {TEXT_BYTES_MAX} allowed",
                text.len()
            ),
        ));
    }
    let message = parser::parse(text, proto::model_config_descriptor()).map_err(|wrong| {
        Error::new(ErrorKind::Syntax, wrong.message).at(Position::of_offset(text, wrong.at))
    })?;
    message
        .transcode_to()
        .map_err(|error| Error::new(ErrorKind::Syntax, format!("cannot be represented: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Context, ModelSignature, json, prepare};
    use super::*;

    #[test]
    fn errors_say_where_and_what() {
        for (text, expected) in [
            (
                "max_batch_size: 4\ncolour: \"red\"\n",
                "2:1: ModelConfig has no field 'colour'",
            ),
            (
                "input { name: \"x\"\n  data_type: TYPE_FP99 }",
                "2:14: DataType has no value 'TYPE_FP99'",
            ),
            (
                "input [\n",
                "2:1: expected '{', but found the end of the text",
            ),
            (
                "input {\n",
                "1:7: no '}' closes the message that begins here",
            ),
            (
                "optimization < graph { } }",
                "1:26: expected the name of a field or '>', but found '}'",
            ),
            (
                "input [ { }\n{ } ]",
                "2:1: expected ',' or ']', but found '{'",
            ),
            ("input [ { }, ]", "1:14: expected '{', but found ']'"),
            (
                "name: \"a\" name: \"b\"",
                "1:11: 'name' is given more than once",
            ),
            (
                "name \"a\"",
                "1:6: expected ':' after 'name', but found the string \"a\"",
            ),
            ("name: a", "1:7: expected a string, but found 'a'"),
            ("name: \"a", "1:7: the string is not closed on its line"),
            ("name: \"\\377\"", "1:7: the string is not valid UTF-8"),
            (
                "max_batch_size: [ 4 ]",
                "1:17: expected a 32-bit integer, but found '['",
            ),
            (
                "max_batch_size: 4.0",
                "1:17: expected a 32-bit integer, but found '4.0'",
            ),
            (
                "max_batch_size: -99999999999",
                "1:17: -99999999999 is not a 32-bit integer",
            ),
            (
                "version_policy { latest { num_versions: -1 } }",
                "1:41: -1 is not an unsigned 32-bit integer",
            ),
            (
                "input { optional: yes }",
                "1:19: expected true or false, but found 'yes'",
            ),
            (
                "dynamic_batching { }\nsequence_batching { }",
                "2:1: 'sequence_batching' cannot be given beside 'dynamic_batching'",
            ),
            (
                "[a/inference.ModelConfig] { }",
                "1:1: expected the name of a field, but found '['",
            ),
            ("}", "1:1: expected the name of a field, but found '}'"),
        ] {
            let error = parse(text, Path::new("m/config.pbtxt")).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("m/config.pbtxt:{expected}"),
                "{text}"
            );
            assert_eq!(error.kind(), ErrorKind::Syntax, "{text}");
        }
    }

    #[test]
    fn long_texts_are_refused_and_deep_ones_are_not_followed() {
        let error = |text: &str| parse_message(text).unwrap_err().kind();
        assert_eq!(
            error(&" ".repeat(TEXT_BYTES_MAX + 1)),
            ErrorKind::LimitExceeded
        );
        assert_eq!(
            error(&"[a/inference.ModelConfig] {".repeat(30_000)),
            ErrorKind::Syntax
        );
        assert_eq!(error(&"optimization {".repeat(30_000)), ErrorKind::Syntax);
    }

    const VALID: &str = include_str!("../../tests/data/triton-config/kitchen_sink.pbtxt");

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_message(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn random_tokens_never_panic(text in r#"([a-z_]{1,8}|[{}<>\[\]:;,./#'"\\-]|[0-9]{1,22}|0x[0-9a-f]{1,20}|[0-9]\.[0-9]e[0-9]{1,4}|\n| ){0,60}"#) {
            let _ = parse_message(&text);
        }

        #[test]
        fn mutated_configurations_never_panic(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8)
        ) {
            let mut bytes = VALID.as_bytes().to_vec();
            for (place, byte, kind) in edits {
                if bytes.is_empty() {
                    break;
                }
                let at = place.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => { bytes.remove(at); }
                    _ => bytes.truncate(at),
                }
            }
            if let Ok(config) = parse_message(&String::from_utf8_lossy(&bytes)) {
                // What was read can be printed and read again, and is served or refused.
                let json = json::to_text(&config);
                prop_assert_eq!(json::to_text(&json::parse(&json).unwrap()), json);
                let context = Context::new("kitchen_sink").model_files(["model.onnx".into()]);
                if let Ok(prepared) = prepare(config, &context) {
                    let empty = ModelSignature { inputs: &[], optional_inputs: &[], outputs: &[] };
                    let _ = prepared.complete(empty);
                }
            }
        }
    }
}

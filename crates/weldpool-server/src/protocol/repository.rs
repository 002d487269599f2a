//! The bodies of the model repository extension: index, load, unload.
//!
//! A body may be absent, which is the same as one that says nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::errors::field;
use super::json::{Kind, Reader};
use super::limits::Limits;
use super::metadata::json;
use crate::service::types::{IndexEntry, LoadRequest};
use crate::{Error, Result};

/// The prefix of parameters that hold a file, before its path.
const FILE_PREFIX: &str = "file:";

/// Reads the body of an index request: whether only models that are ready are wanted.
///
/// # Errors
/// `InvalidArgument` if it is not such a body.
pub(crate) fn read_index(body: &[u8], limits: &Limits) -> Result<bool> {
    let mut ready = false;
    members(body, limits, |reader, name| {
        if name == "ready" {
            ready = field("'ready'", reader.bool())?;
        } else {
            reader.skip()?;
        }
        Ok(())
    })?;
    Ok(ready)
}

/// Reads the body of a load request.
///
/// # Errors
/// `InvalidArgument` if it is not such a body: a parameter that is neither `config` nor
/// `file:PATH`, a file that is not base64, or a file without `config`.
pub(crate) fn read_load(body: &[u8], limits: &Limits) -> Result<LoadRequest> {
    let mut request = LoadRequest::default();
    parameters(body, limits, |reader, name| {
        let text = |reader: &mut Reader<'_>| {
            field(format_args!("parameter '{name}'"), reader.string()).map(|text| text.into_owned())
        };
        if name == "config" {
            request.config = Some(text(reader)?);
        } else if let Some(path) = name.strip_prefix(FILE_PREFIX) {
            let content = STANDARD.decode(text(reader)?).map_err(|error| {
                Error::invalid_argument(format!("parameter '{name}' is not base64: {error}"))
            })?;
            request.files.push((path.to_owned(), content));
        } else {
            return Err(unknown(name, "'config' and 'file:PATH'"));
        }
        Ok(())
    })?;
    if request.config.is_none() && !request.files.is_empty() {
        return Err(Error::invalid_argument(
            "files can only be given together with the parameter 'config'",
        ));
    }
    Ok(request)
}

/// Reads the body of an unload request: whether the models it depends on are to go too.
///
/// # Errors
/// `InvalidArgument` if it is not such a body.
pub(crate) fn read_unload(body: &[u8], limits: &Limits) -> Result<bool> {
    let mut unload_dependents = false;
    parameters(body, limits, |reader, name| {
        if name != "unload_dependents" {
            return Err(unknown(name, "'unload_dependents'"));
        }
        unload_dependents = field("parameter 'unload_dependents'", reader.bool())?;
        Ok(())
    })?;
    Ok(unload_dependents)
}

/// Writes the repository's index.
#[must_use]
pub(crate) fn index(entries: &[IndexEntry]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Entry<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        version: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        state: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        reason: &'a str,
    }
    let entries: Vec<Entry<'_>> = entries
        .iter()
        .map(
            |IndexEntry {
                 name,
                 version,
                 state,
                 reason,
             }| Entry {
                name,
                version,
                state,
                reason,
            },
        )
        .collect();
    json(&entries)
}

/// Reads the object `parameters` in a body, and each member of it with `parameter`.
fn parameters(
    body: &[u8],
    limits: &Limits,
    mut parameter: impl FnMut(&mut Reader<'_>, &str) -> Result<()>,
) -> Result<()> {
    members(body, limits, |reader, name| {
        if name != "parameters" {
            reader.skip()?;
            return Ok(());
        }
        field("'parameters'", reader.expect(Kind::Object))?;
        let mut names = Vec::new();
        reader.object(|reader, name| {
            let name = name.into_owned();
            if names.len() >= limits.parameters_max {
                return Err(Error::invalid_argument(format!(
                    "more than {} parameters",
                    limits.parameters_max
                )));
            }
            if names.contains(&name) {
                return Err(Error::invalid_argument(format!(
                    "parameter '{name}' is given twice"
                )));
            }
            parameter(reader, &name)?;
            names.push(name);
            Ok(())
        })
    })
}

/// Reads a body that is an object, or nothing, and each member of it with `member`.
fn members(
    body: &[u8],
    limits: &Limits,
    mut member: impl FnMut(&mut Reader<'_>, &str) -> Result<()>,
) -> Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(body, limits.json_depth_max)?;
    field("the request", reader.expect(Kind::Object))?;
    reader.object(|reader, name| member(reader, &name))?;
    reader.end()?;
    Ok(())
}

fn unknown(name: &str, known: &str) -> Error {
    Error::invalid_argument(format!("unknown parameter '{name}'; known are {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
        let error = result.expect_err(expected);
        assert_eq!(error.status(), 400);
        assert!(error.message().contains(expected), "{error}");
    }

    #[test]
    fn an_index_can_be_of_what_is_ready() {
        let read = |body: &str| read_index(body.as_bytes(), &Limits::default());
        for (body, ready) in [
            ("", false),
            ("{}", false),
            (r#"{"ready":true,"x":[1]}"#, true),
        ] {
            assert_eq!(read(body), Ok(ready), "{body}");
        }
        refused(read("{"), "at byte 1");
        refused(read("[]"), "the request must be an object");
        refused(read(r#"{"ready":"yes"}"#), "'ready' must be a boolean");
    }

    #[test]
    fn a_load_can_bring_its_files() {
        let read = |body: &str| read_load(body.as_bytes(), &Limits::default());
        assert_eq!(read(""), Ok(LoadRequest::default()));
        assert_eq!(read(r#"{"parameters":{}}"#), Ok(LoadRequest::default()));
        let request = read(r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAEC"}}"#).unwrap();
        assert_eq!(request.config.as_deref(), Some("{}"));
        assert_eq!(request.files, [("1/model.onnx".to_owned(), vec![0, 1, 2])]);
        refused(
            read(r#"{"parameters":{"config":1}}"#),
            "'config' must be a string",
        );
        refused(
            read(r#"{"parameters":3}"#),
            "'parameters' must be an object",
        );
        refused(
            read(r#"{"parameters":{"foo":"x"}}"#),
            "unknown parameter 'foo'",
        );
        refused(
            read(r#"{"parameters":{"file:1/x":"AA=="}}"#),
            "together with the parameter 'config'",
        );
        refused(
            read(r#"{"parameters":{"config":"{}","file:1/x":"*"}}"#),
            "'file:1/x' is not base64",
        );
        refused(
            read(r#"{"parameters":{"config":"{}","config":"{}"}}"#),
            "'config' is given twice",
        );
    }

    #[test]
    fn an_unload_can_take_dependents_along() {
        let read = |body: &str| read_unload(body.as_bytes(), &Limits::default());
        assert_eq!(read(""), Ok(false));
        assert_eq!(
            read(r#"{"parameters":{"unload_dependents":true}}"#),
            Ok(true)
        );
        refused(
            read(r#"{"parameters":{"unload_dependents":"x"}}"#),
            "must be a boolean",
        );
        refused(
            read(r#"{"parameters":{"foo":1}}"#),
            "unknown parameter 'foo'",
        );
    }

    #[test]
    fn an_index_leaves_out_what_is_empty() {
        let entry = |name: &str, version: &str, state: &str, reason: &str| IndexEntry {
            name: name.into(),
            version: version.into(),
            state: state.into(),
            reason: reason.into(),
        };
        let entries = [
            entry("a", "1", "READY", ""),
            entry("b", "2", "UNAVAILABLE", "unloaded"),
            entry("c", "", "", ""),
        ];
        assert_eq!(
            String::from_utf8(index(&entries)).unwrap(),
            r#"[{"name":"a","version":"1","state":"READY"},{"name":"b","version":"2","state":"UNAVAILABLE","reason":"unloaded"},{"name":"c"}]"#
        );
    }
}

//! What onnxruntime's failures mean here.

use ort_sys::OrtErrorCode as Code;

use super::raw::Status;
use crate::{Error, ErrorKind};

/// What was going on when the library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum During {
    /// Setting the library up.
    Start,
    /// Loading a model, options included.
    Load,
    /// Running one.
    Run,
}

/// The error for a failure of the library.
pub(super) fn error(status: Status, during: During) -> Error {
    Error::new(kind(&status, during), status.message)
}

fn kind(status: &Status, during: During) -> ErrorKind {
    let is = |code: Code| status.code == code as i32;
    if out_of_memory(&status.message) {
        ErrorKind::OutOfMemory
    } else if is(Code::ORT_NOT_IMPLEMENTED) {
        ErrorKind::Unsupported
    } else if is(Code::ORT_NO_SUCHFILE) {
        ErrorKind::ModelNotFound
    } else if during == During::Load {
        // Whatever else loading trips over is in the model: its encoding, its graph, its weights.
        ErrorKind::ModelInvalid
    } else {
        ErrorKind::Execution
    }
}

/// The library has no code for a lack of memory; these are the texts of its arena and of C++.
fn out_of_memory(message: &str) -> bool {
    [
        "bad_alloc",
        "Failed to allocate memory",
        "Memory allocation failed",
    ]
    .iter()
    .any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds() {
        let cases = [
            (
                Code::ORT_NO_SUCHFILE,
                "",
                During::Load,
                ErrorKind::ModelNotFound,
            ),
            (
                Code::ORT_INVALID_PROTOBUF,
                "",
                During::Load,
                ErrorKind::ModelInvalid,
            ),
            (Code::ORT_FAIL, "", During::Load, ErrorKind::ModelInvalid),
            (Code::ORT_FAIL, "", During::Run, ErrorKind::Execution),
            (
                Code::ORT_FAIL,
                "std::bad_alloc",
                During::Run,
                ErrorKind::OutOfMemory,
            ),
            (
                Code::ORT_NOT_IMPLEMENTED,
                "",
                During::Load,
                ErrorKind::Unsupported,
            ),
            (Code::ORT_FAIL, "", During::Start, ErrorKind::Execution),
        ];
        for (code, message, during, expected) in cases {
            let status = Status {
                code: code as i32,
                message: message.into(),
            };
            assert_eq!(
                kind(&status, during),
                expected,
                "{code:?} {message:?} {during:?}"
            );
        }
    }
}

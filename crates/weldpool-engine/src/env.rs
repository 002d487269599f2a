//! The only reader of environment variables in this crate.

use std::env;
use std::path::PathBuf;

/// Names the shared library of onnxruntime: a file, or a folder that holds it.
pub(crate) const ORT_DYLIB_PATH: &str = "ORT_DYLIB_PATH";

/// The library the user names, if any; an empty value counts as none.
pub(crate) fn onnxruntime_library() -> Option<PathBuf> {
    path(ORT_DYLIB_PATH)
}

/// The active Python virtual environment, if any.
pub(crate) fn virtual_environment() -> Option<PathBuf> {
    path("VIRTUAL_ENV")
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

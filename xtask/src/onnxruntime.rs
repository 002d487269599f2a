//! The onnxruntime shared library, taken out of the pinned wheel to where the engine looks for it.

use std::fs;
use std::path::PathBuf;

use crate::error::{Failure, Result};
use crate::paths::{self, Paths};
use crate::python::Venv;

/// The name that the engine looks for; in the wheel a version stands in it.
const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

/// Returns the library in the cache, `target/weldpool/onnxruntime/VERSION/`, putting it there first when needed.
pub(crate) fn ensure(paths: &Paths, venv: &Venv) -> Result<PathBuf> {
    let requirements = paths::read(&paths.requirements("runtime.txt"))?;
    let version = pinned_version(&requirements)?;
    let library = paths
        .cache()
        .join("onnxruntime")
        .join(version)
        .join(LIBRARY);
    let wheel = venv.site_packages()?.join("onnxruntime").join("capi");
    let entries = fs::read_dir(&wheel).map_err(|error| Failure::file("read", &wheel, &error))?;
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let name = names.iter().find(|name| is_library(name)).ok_or_else(|| {
        Failure::new(format!(
            "the onnxruntime wheel has no shared library in {}",
            wheel.display()
        ))
    })?;
    paths::place(&wheel.join(name), &library)?;
    Ok(library)
}

/// `libonnxruntime.so.1.31.1` or `libonnxruntime.1.31.1.dylib`, but not the libraries of its providers.
fn is_library(name: &str) -> bool {
    name.strip_prefix("libonnxruntime.")
        .is_some_and(|rest| rest.starts_with("so") || rest.ends_with("dylib"))
}

fn pinned_version(requirements: &str) -> Result<&str> {
    requirements
        .lines()
        .find_map(|line| line.trim().strip_prefix("onnxruntime=="))
        .ok_or_else(|| Failure::new("requirements/runtime.txt does not pin onnxruntime"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_told_from_its_neighbours() {
        assert!(is_library("libonnxruntime.so.1.31.1"));
        assert!(is_library("libonnxruntime.1.31.1.dylib"));
        assert!(!is_library("libonnxruntime_providers_shared.so"));
        assert!(!is_library(
            "onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so"
        ));
    }

    #[test]
    fn the_version_comes_from_the_requirements() {
        assert_eq!(
            pinned_version("# text\nonnx==1\nonnxruntime==1.2.3\n").unwrap(),
            "1.2.3"
        );
        assert!(pinned_version("onnx==1\n").is_err());
    }
}

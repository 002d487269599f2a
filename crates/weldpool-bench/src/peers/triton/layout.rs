//! The folders that Triton reads: models, and the libraries of backends.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::peers::fetch::make_executable;
use crate::repository::write_model;

/// A model repository and a backend directory.
#[derive(Debug)]
pub struct Layout {
    pub(super) repository: PathBuf,
    pub(super) backends: PathBuf,
}

impl Layout {
    /// Empty ones in the folder `scratch`.
    ///
    /// # Errors
    /// `Io` when they cannot be made.
    pub fn below(scratch: &Path) -> Result<Self> {
        let layout = Self {
            repository: scratch.join("triton-models"),
            backends: scratch.join("triton-backends"),
        };
        create(&layout.repository)?;
        create(&layout.backends)?;
        Ok(layout)
    }

    /// Adds the library of the backend `name`.
    ///
    /// # Errors
    /// `Io` when it cannot be copied.
    pub fn add_backend(&self, name: &str, library: &Path) -> Result<()> {
        self.add_backend_file(name, library, &format!("libtriton_{name}.so"))
    }

    /// Adds a file of the backend `name` under the name `file`; it may be a program.
    ///
    /// # Errors
    /// `Io` when it cannot be copied.
    pub fn add_backend_file(&self, name: &str, source: &Path, file: &str) -> Result<()> {
        let home = self.backends.join(name);
        create(&home)?;
        let target = home.join(file);
        fs::copy(source, &target)
            .map_err(|error| Error::io(format!("copying {}", source.display()), error))?;
        make_executable(&target)
    }

    /// Adds version 1 of the model `name` with its configuration and its files by their names.
    ///
    /// # Errors
    /// `Io` when they cannot be written.
    pub fn add_model(&self, name: &str, config: &str, files: &[(&str, &[u8])]) -> Result<()> {
        write_model(&self.repository, name, config, files)
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .map_err(|error| Error::io(format!("creating {}", folder.display()), error))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn triton_finds_what_it_looks_for() {
        let scratch = tempfile::tempdir().unwrap();
        let library = scratch.path().join("built.so");
        fs::write(&library, "library").unwrap();
        let layout = Layout::below(scratch.path()).unwrap();
        layout.add_backend("b", &library).unwrap();
        layout.add_backend_file("b", &library, "stub").unwrap();
        layout
            .add_model("m", "config", &[("model.onnx", b"onnx")])
            .unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(layout.backends.join("b/libtriton_b.so")), "library");
        assert_eq!(read(layout.repository.join("m/config.pbtxt")), "config");
        assert_eq!(read(layout.repository.join("m/1/model.onnx")), "onnx");
        let stub = fs::metadata(layout.backends.join("b/stub")).unwrap();
        assert_ne!(stub.permissions().mode() & 0o100, 0);
        assert!(layout.add_backend("c", Path::new("/nothing")).is_err());
    }
}

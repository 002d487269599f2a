//! Model repositories for the tests, made by `examples/make_models.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// A variable that the tests cannot do without.
fn required(name: &str) -> PathBuf {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set; run these tests with `cargo xtask test`"))
}

/// A command of the program under test, with the engine's library known to it.
pub(crate) fn weldpool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command.env("ORT_DYLIB_PATH", required("ORT_DYLIB_PATH"));
    command
}

/// Python with numpy and onnx.
pub(crate) fn python() -> Command {
    Command::new(required("WELDPOOL_TEST_PYTHON"))
}

/// The file of one of the script's models.
pub(crate) fn file(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/make_models.py");
        let made = python()
            .arg(script)
            .arg("--output-dir")
            .arg(&folder)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        folder
    });
    folder.join(name).join("1/model.onnx")
}

/// A folder that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _absent = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a file there, and the folders above it.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Puts a model there, as a version of a name.
    pub(crate) fn add(&self, name: &str, version: u32, model: &str) {
        self.write(
            &format!("{name}/{version}/model.onnx"),
            fs::read(file(model)).unwrap(),
        );
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _kept = fs::remove_dir_all(&self.0);
    }
}

//! Triton's Python backend, which runs a model's `model.py` in a process beside the server, the stub.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{LIBRARIES, Layout};
use crate::error::{Error, ErrorKind, Result};
use crate::peers::fetch::{Wheel, make_executable};

/// The backend's name in configurations.
pub const PYTHON: &str = "python";

/// The program that the backend starts for each instance.
const STUB: &str = "triton_python_backend_stub";
/// What it needs of Python's packages.
const MODULES: [&str; 1] = ["onnxruntime"];

/// The last NumPy that the stub can use, for each Python that has it and a stub: with NumPy 2 the stub takes every
/// array for an empty one.
const NUMPY: [(&str, Wheel); 2] = [
    (
        "3.11",
        numpy("666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5"),
    ),
    (
        "3.12",
        numpy("675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed"),
    ),
];

const fn numpy(sha256: &'static str) -> Wheel {
    Wheel {
        name: "numpy",
        version: "1.26.4",
        platform: "manylinux_2_17_x86_64",
        sha256,
    }
}

/// Asks an interpreter where the stub finds its parts.
const QUESTION: &str = r#"
import importlib.metadata, importlib.util, json, sys, sysconfig
paths = sysconfig.get_paths()
there = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "packages": sorted({paths["purelib"], paths["platlib"]}),
    "libraries": sysconfig.get_config_var("LIBDIR") or "",
    "missing": [name for name in sys.argv[1:] if name not in there],
    "versions": {name: importlib.metadata.version(name) for name in there},
}))
"#;

/// What an interpreter says of itself.
#[derive(Debug, Deserialize)]
struct Interpreter {
    /// Such as `3.11`.
    version: String,
    /// Where its packages are.
    packages: Vec<PathBuf>,
    /// Where a shared libpython is, if it has one.
    libraries: PathBuf,
    /// Modules that it does not have.
    missing: Vec<String>,
    /// Versions of the modules that it has.
    versions: BTreeMap<String, String>,
}

/// The backend's files, and what its stub needs in the environment.
#[derive(Debug)]
pub struct PythonBackend {
    home: PathBuf,
    stub: PathBuf,
    packages: Vec<PathBuf>,
    environment: Vec<(&'static str, OsString)>,
    versions: BTreeMap<String, String>,
}

impl PythonBackend {
    /// Finds the backend in Triton's unpacked `wheel` for the interpreter `python` and its packages, and fetches
    /// the NumPy that it needs to the folder `peers`. The inner error is the reason why it cannot be used here.
    ///
    /// # Errors
    /// `Environment` when the interpreter cannot be asked, `Download` when NumPy cannot be had.
    pub fn find(
        wheel: &Path,
        python: &Path,
        peers: &Path,
    ) -> Result<std::result::Result<Self, String>> {
        let mut interpreter = Interpreter::ask(python)?;
        let version = interpreter.version.clone();
        if !interpreter.missing.is_empty() {
            let missing = interpreter.missing.join(" and ");
            return Ok(Err(format!("Python {version} has no {missing}")));
        }
        let server = wheel.join("pytriton/tritonserver");
        let stub = server
            .join("python_backend_stubs")
            .join(&version)
            .join(STUB);
        if !stub.is_file() {
            return Ok(Err(format!("the wheel has no stub for Python {version}")));
        }
        make_executable(&stub)?;
        let Some((_, numpy)) = NUMPY.iter().find(|(own, _)| *own == version) else {
            return Ok(Err(format!("there is no NumPy 1 for Python {version}")));
        };
        // A folder for each Python, since the wheels of all are called alike.
        let folder = numpy.unpacked(python, &peers.join(format!("python{version}")))?;
        interpreter.packages.insert(0, folder);
        interpreter
            .versions
            .insert(numpy.name.to_owned(), numpy.version.to_owned());
        let backend = Self {
            home: server.join("backends/python"),
            stub,
            environment: interpreter.environment(wheel)?,
            packages: interpreter.packages,
            versions: interpreter.versions,
        };
        Ok(backend.try_stub().map(|()| backend))
    }

    /// What Triton's process needs in its environment for the stub, which inherits it.
    pub fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// Folders of packages for models to add to their path: the stub reads none of Python's variables.
    pub fn packages(&self) -> &[PathBuf] {
        &self.packages
    }

    /// Versions of the packages that models run on.
    pub fn versions(&self) -> &BTreeMap<String, String> {
        &self.versions
    }

    /// Adds the backend.
    ///
    /// # Errors
    /// `Io` when its files cannot be copied.
    pub fn add_to(&self, layout: &Layout) -> Result<()> {
        layout.add_backend(PYTHON, &self.home.join("libtriton_python.so"))?;
        let utilities = "triton_python_backend_utils.py";
        layout.add_backend_file(PYTHON, &self.home.join(utilities), utilities)?;
        layout.add_backend_file(PYTHON, &self.stub, STUB)
    }

    /// Starts the stub without arguments, which ends at once; without libpython the loader says so.
    fn try_stub(&self) -> std::result::Result<(), String> {
        let output = Command::new(&self.stub)
            .envs(self.environment.iter().cloned())
            .output()
            .map_err(|error| format!("the stub does not start: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let complaint = text
            .lines()
            .find(|line| line.contains("error while loading shared libraries"));
        complaint.map_or(Ok(()), |line| Err(line.to_owned()))
    }
}

impl Interpreter {
    fn ask(python: &Path) -> Result<Self> {
        let failed = |what: String| {
            let message = format!("asking {} for its folders: {what}", python.display());
            Error::new(ErrorKind::Environment, message)
        };
        let output = Command::new(python)
            .args(["-c", QUESTION])
            .args(MODULES)
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }

    fn environment(&self, wheel: &Path) -> Result<Vec<(&'static str, OsString)>> {
        // The copied stub does not find the wheel's libraries by itself. The interpreter's libpython is used where
        // it has a shared one, else the system's of the same minor version.
        let mut libraries = vec![wheel.join(LIBRARIES)];
        let shared = format!("libpython{}.so.1.0", self.version);
        if self.libraries.join(shared).is_file() {
            libraries.push(self.libraries.clone());
        }
        let joined = std::env::join_paths(libraries).map_err(|error| {
            let message = "the folders of libraries";
            Error::caused(ErrorKind::Environment, message, error)
        })?;
        Ok(vec![("LD_LIBRARY_PATH", joined)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn interpreter(libraries: PathBuf) -> Interpreter {
        Interpreter {
            version: "3.11".to_owned(),
            packages: vec!["/a".into(), "/b".into()],
            libraries,
            missing: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    fn libraries(interpreter: &Interpreter) -> Vec<PathBuf> {
        let environment = interpreter.environment(Path::new("/wheel")).unwrap();
        let [("LD_LIBRARY_PATH", value)] = &environment[..] else {
            panic!("{environment:?}");
        };
        std::env::split_paths(value).collect()
    }

    #[test]
    fn a_shared_libpython_of_the_interpreter_is_used() {
        let wheel = || Path::new("/wheel").join(LIBRARIES);
        let folder = tempfile::tempdir().unwrap();
        let interpreter = interpreter(folder.path().to_owned());
        assert_eq!(libraries(&interpreter), [wheel()]);
        fs::write(folder.path().join("libpython3.11.so.1.0"), "").unwrap();
        assert_eq!(libraries(&interpreter), [wheel(), folder.path().to_owned()]);
    }
}

//! Fetches a pinned Python wheel once and unpacks it; wheels are archives, nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};

/// Names the Python interpreter whose `pip` and `zipfile` are used.
pub const PYTHON_VARIABLE: &str = "WELDPOOL_TEST_PYTHON";

/// A wheel, by name, version and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheel {
    /// Name of the distribution.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The platform tag of the wheel.
    pub platform: &'static str,
    /// SHA-256 of the wheel, in hexadecimal; pip refuses any other content.
    pub sha256: &'static str,
}

/// The interpreter from `WELDPOOL_TEST_PYTHON`.
///
/// # Errors
/// `Environment` when the variable is not set.
pub fn python() -> Result<PathBuf> {
    std::env::var_os(PYTHON_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(|| {
            let message = format!("{PYTHON_VARIABLE} is not set; run `cargo xtask bench serve`");
            Error::new(ErrorKind::Environment, message)
        })
}

impl Wheel {
    /// The unpacked wheel in the folder `peers`, fetched with `python` if it is not there yet.
    ///
    /// # Errors
    /// `Download` when pip cannot fetch the pinned content or it cannot be unpacked, `Io` when a folder cannot
    /// be written.
    pub fn unpacked(&self, python: &Path, peers: &Path) -> Result<PathBuf> {
        let place = peers.join(format!("{}-{}", self.name, self.version));
        if place.is_dir() {
            return Ok(place);
        }
        fs::create_dir_all(peers)
            .map_err(|error| Error::io(format!("creating {}", peers.display()), error))?;
        let scratch = tempfile::tempdir_in(peers)
            .map_err(|error| Error::io("creating a folder for a download", error))?;
        eprintln!("fetching {} {}", self.name, self.version);
        let wheel = self.download(python, scratch.path())?;
        let content = scratch.path().join("content");
        eprintln!("unpacking {} {}", self.name, self.version);
        self.run(
            Command::new(python)
                .args(["-m", "zipfile", "-e"])
                .arg(&wheel)
                .arg(&content),
        )?;
        // A whole wheel appears at once or not at all. Another run may have been first; its copy is as good.
        match fs::rename(&content, &place) {
            Err(error) if !place.is_dir() => {
                Err(Error::io(format!("moving {} into place", self.name), error))
            }
            _ => Ok(place),
        }
    }

    /// Downloads the wheel into `directory` and returns its path.
    fn download(&self, python: &Path, directory: &Path) -> Result<PathBuf> {
        let requirements = directory.join("requirements.txt");
        let pin = format!(
            "{}=={} --hash=sha256:{}\n",
            self.name, self.version, self.sha256
        );
        fs::write(&requirements, pin).map_err(|error| Error::io("writing a pin", error))?;
        let wheels = directory.join("wheels");
        let mut command = Command::new(python);
        command
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ])
            .args([
                "--only-binary",
                ":all:",
                "--platform",
                self.platform,
                "--require-hashes",
            ])
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(&wheels);
        self.run(&mut command)?;
        let mut files =
            fs::read_dir(&wheels).map_err(|error| Error::io("listing a download", error))?;
        match files.next() {
            Some(Ok(file)) => Ok(file.path()),
            _ => Err(self.failed("pip fetched nothing")),
        }
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let output = command
            .output()
            .map_err(|error| self.failed(&error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(self.failed(String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn failed(&self, what: &str) -> Error {
        let message = format!("fetching {} {}: {what}", self.name, self.version);
        Error::new(ErrorKind::Download, message)
    }
}

/// The only file in `directory` whose name starts with `start`.
///
/// # Errors
/// `Download` when there is none, `Io` when the folder cannot be read.
pub fn file_starting(directory: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)
        .map_err(|error| Error::io(format!("listing {}", directory.display()), error))?;
    entries
        .filter_map(std::result::Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Download,
                format!("the wheel has no file {start}*"),
            )
        })
}

/// Makes `file` executable; unpacking an archive with `zipfile` loses that.
///
/// # Errors
/// `Io` when the file is not there.
#[cfg(unix)]
pub fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .map_err(|error| Error::io(format!("making {} executable", file.display()), error))
}

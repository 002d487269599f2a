//! Where things lie.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};

/// The places of one checkout; nothing is created until somebody writes there.
#[derive(Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    target: PathBuf,
}

/// How the program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl fmt::Display for Profile {
    /// The name of the directory that cargo builds into.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Release => "release",
        })
    }
}

impl Paths {
    /// Finds the workspace that this program belongs to, from wherever it is called.
    pub(crate) fn discover() -> Result<Self> {
        // Cargo sets the variable when it runs the program; the built-in value serves a direct call.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().unwrap_or(&manifest).to_path_buf();
        if !root.join("Cargo.lock").is_file() {
            return Err(
                Failure::new(format!("{} is no Weldpool checkout", root.display()))
                    .hint("run `cargo xtask` inside the checkout"),
            );
        }
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => std::path::absolute(&directory)
                .map_err(|error| Failure::file("resolve", Path::new(&directory), &error))?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is downloaded or derived from downloads.
    pub(crate) fn cache(&self) -> PathBuf {
        self.target.join("weldpool")
    }

    /// Where a build with flags of its own goes.
    pub(crate) fn variant(&self, name: &str) -> PathBuf {
        self.cache().join("builds").join(name)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.cache().join("logs")
    }

    pub(crate) fn requirements(&self, name: &str) -> PathBuf {
        self.root.join("requirements").join(name)
    }

    /// The built program `weldpool`.
    pub(crate) fn program(&self, profile: Profile) -> PathBuf {
        self.binary(profile, "weldpool")
    }

    /// A file that a build makes, by its name.
    pub(crate) fn artifact(&self, profile: Profile, name: &str) -> PathBuf {
        self.target.join(profile.to_string()).join(name)
    }

    /// A built program of the workspace.
    pub(crate) fn binary(&self, profile: Profile, name: &str) -> PathBuf {
        self.target
            .join(profile.to_string())
            .join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }
}

/// Creates a directory and those above it.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Failure::file("create", path, &error))
}

/// Removes a directory and what is in it; its absence is fine.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::file("remove", path, &error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Failure::file("write", path, &error))
}

/// Puts `from` at `to` unless a file of the same length is there: linked where the file system can, copied elsewhere.
/// `to` appears complete or not at all.
pub(crate) fn place(from: &Path, to: &Path) -> Result<()> {
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    let wanted = length(from).map_err(|error| Failure::file("read", from, &error))?;
    if length(to).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        create_directory(directory)?;
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(partial);
    fs::hard_link(from, &partial)
        .or_else(|_| fs::copy(from, &partial).map(drop))
        .and_then(|()| fs::rename(&partial, to))
        .map_err(|error| Failure::file("write", to, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_writes_once_and_replaces_another_length() {
        let directory =
            env::temp_dir().join(format!("weldpool-xtask-place-{}", std::process::id()));
        create_directory(&directory).unwrap();
        let (from, to) = (directory.join("from"), directory.join("below/to"));
        fs::write(&from, "first").unwrap();
        place(&from, &to).unwrap();
        place(&from, &to).unwrap();
        assert_eq!(read(&to).unwrap(), "first");
        fs::remove_file(&from).unwrap();
        fs::write(&from, "another").unwrap();
        place(&from, &to).unwrap();
        assert_eq!(read(&to).unwrap(), "another");
        let names = fs::read_dir(directory.join("below")).unwrap().count();
        assert_eq!(names, 1, "no partial file stays behind");
        remove_directory(&directory).unwrap();
        remove_directory(&directory).unwrap();
    }
}

//! Model repositories on disk: what models and versions there are, and their files.
//!
//! ```text
//! repository/
//!   model/
//!     config.pbtxt        optional
//!     labels.txt          optional; named by the configuration
//!     1/model.onnx        one directory per version
//!     2/model.onnx
//! ```
//!
//! Several repositories are served as one; a model that is in two of them is a problem of its own
//! and does not disturb the others. Links are followed. Directories whose name begins with a dot,
//! and version directories whose name is not a number, are skipped and reported.
//!
//! A load request may bring the model's files itself ([`Overrides`]); they are kept in memory and
//! written nowhere.
//!
//! Names that come from outside become paths only as [`ModelName`], or checked to stay within the
//! model's directory. Everything here is blocking file access without state; no engine, no tasks.

mod changes;
mod error;
mod limits;
mod model;
mod name;
mod overrides;
mod read;
mod version;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub use changes::{Diff, Fingerprint, Snapshot};
pub use error::{Error, ErrorKind, Result};
pub use limits::Limits;
pub use model::{CONFIG_FILENAME, ConfigText, ModelDirectory, ModelFile, Versions};
pub use name::ModelName;
pub use overrides::Overrides;
pub use version::{Selection, select};

/// A directory that is not what its place suggests, and is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub reason: &'static str,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is skipped: {}", self.path.display(), self.reason)
    }
}

/// One or several directories with models.
#[derive(Clone, Debug)]
pub struct Repository {
    roots: Vec<PathBuf>,
    limits: Limits,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scan {
    /// The models, by name.
    pub models: BTreeMap<ModelName, ModelDirectory>,
    /// Models that are in two repositories; they are not among `models`.
    pub duplicates: BTreeMap<ModelName, Error>,
    /// Directories that are not models.
    pub skipped: Vec<Skipped>,
}

impl Repository {
    /// Opens repositories, each of which must be a directory that can be read.
    ///
    /// # Errors
    /// `NotFound` and `Unreadable` with path and reason; `Duplicate` for a path given twice.
    pub fn open(
        paths: impl IntoIterator<Item = impl Into<PathBuf>>,
        limits: Limits,
    ) -> Result<Repository> {
        let mut roots = Vec::<PathBuf>::new();
        let mut real = Vec::new();
        for path in paths {
            let path = path.into();
            let what = "cannot open model repository";
            let resolved =
                fs::canonicalize(&path).map_err(|error| Error::io(what, &path, &error))?;
            fs::read_dir(&resolved).map_err(|error| Error::io(what, &path, &error))?;
            if real.contains(&resolved) {
                return Err(Error::new(
                    ErrorKind::Duplicate,
                    format!("model repository '{}' is given twice", path.display()),
                )
                .at(&path));
            }
            real.push(resolved);
            roots.push(path);
        }
        Ok(Repository { roots, limits })
    }

    /// The repositories, in the order given.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lists the models of every repository.
    ///
    /// # Errors
    /// `NotFound` and `Unreadable` if a repository cannot be read, `LimitExceeded`.
    pub fn scan(&self) -> Result<Scan> {
        let mut scan = Scan::default();
        for root in &self.roots {
            for entry in read::directory(root)? {
                let path = entry.path();
                if !path.is_dir() {
                    continue;
                }
                let name = entry.file_name().into_string().ok();
                match name.and_then(|name| ModelName::new(name).ok()) {
                    Some(name) => scan.add(name, path, self.limits),
                    None => scan.skipped.push(Skipped {
                        path,
                        reason: "its name cannot be that of a model",
                    }),
                }
                if scan.models.len() > self.limits.models_max {
                    return Err(Error::new(
                        ErrorKind::LimitExceeded,
                        format!(
                            "the model repositories have more than {} models",
                            self.limits.models_max
                        ),
                    )
                    .at(root));
                }
            }
        }
        Ok(scan)
    }

    /// Finds one model, in whichever repository it is.
    ///
    /// # Errors
    /// `NotFound`, and `Duplicate` naming both places.
    pub fn find(&self, name: &ModelName) -> Result<ModelDirectory> {
        let mut places = self
            .roots
            .iter()
            .map(|root| root.join(name.as_str()))
            .filter(|path| path.is_dir());
        let Some(path) = places.next() else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("model '{name}' is not found in any model repository"),
            ));
        };
        match places.next() {
            Some(other) => Err(duplicate(name, &path, &other)),
            None => Ok(ModelDirectory::on_disk(name.clone(), path, self.limits)),
        }
    }
}

impl Scan {
    fn add(&mut self, name: ModelName, path: PathBuf, limits: Limits) {
        if self.duplicates.contains_key(&name) {
            return;
        }
        match self.models.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(ModelDirectory::on_disk(name, path, limits));
            }
            Entry::Occupied(entry) => {
                let first = entry.remove();
                let error = duplicate(&name, first.path(), &path);
                self.duplicates.insert(name, error);
            }
        }
    }
}

fn duplicate(name: &ModelName, first: &Path, second: &Path) -> Error {
    Error::new(
        ErrorKind::Duplicate,
        format!(
            "model '{name}' appears in two repositories: '{}' and '{}'",
            first.display(),
            second.display()
        ),
    )
    .at(second)
}

#[cfg(test)]
mod tests;

//! One model's directory: its configuration, versions, model files and labels.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::changes::Fingerprint;
use super::error::{Error, ErrorKind, Result};
use super::limits::Limits;
use super::name::{ModelName, relative};
use super::overrides::Overrides;
use super::{Skipped, read, version};

/// The configuration's file name.
pub const CONFIG_FILENAME: &str = "config.pbtxt";

/// The model's file where its path is a directory.
const NESTED_FILENAME: &str = "model.onnx";

/// One model's directory, on disk or brought by a load request.
#[derive(Clone, Debug)]
pub struct ModelDirectory {
    name: ModelName,
    /// Where it is, or would be if it were on disk.
    path: PathBuf,
    overrides: Option<Overrides>,
    limits: Limits,
}

/// The text of a configuration, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigText {
    /// The file, for messages.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// The version directories of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versions {
    /// Their numbers, ascending.
    pub available: Vec<u64>,
    /// Directories that are none.
    pub skipped: Vec<Skipped>,
}

/// Where the engine gets a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelFile {
    /// A file on disk.
    Path(PathBuf),
    /// What a load request brought; weights in files beside it cannot be found.
    Bytes(Arc<[u8]>),
}

impl ModelDirectory {
    pub(super) fn on_disk(name: ModelName, path: PathBuf, limits: Limits) -> ModelDirectory {
        ModelDirectory {
            name,
            path,
            overrides: None,
            limits,
        }
    }

    /// A directory that consists of the files of a load request.
    #[must_use]
    pub fn in_memory(name: ModelName, overrides: Overrides, limits: &Limits) -> ModelDirectory {
        ModelDirectory {
            path: PathBuf::from(name.as_str()),
            name,
            overrides: Some(overrides),
            limits: *limits,
        }
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.name
    }

    /// Where it is; for files of a load request, the model's name alone.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its files came with a load request.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.overrides.is_some()
    }

    /// The text of `config.pbtxt`, or `None` if there is none.
    ///
    /// # Errors
    /// `Unreadable`, `LimitExceeded`.
    pub fn config(&self) -> Result<Option<ConfigText>> {
        let text = self.text(Path::new(CONFIG_FILENAME), self.limits.config_bytes_max)?;
        Ok(text.map(|text| ConfigText {
            path: self.path.join(CONFIG_FILENAME),
            text,
        }))
    }

    /// The version directories.
    ///
    /// # Errors
    /// `Unreadable`, `LimitExceeded`, `NotFound` if the model's directory is gone.
    pub fn versions(&self) -> Result<Versions> {
        let mut versions = Versions::default();
        for name in self.directories()? {
            match version::parse(&name) {
                Ok(number) => versions.available.push(number),
                Err(reason) => versions.skipped.push(Skipped {
                    path: self.path.join(name),
                    reason,
                }),
            }
            if versions.available.len() > self.limits.versions_max {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!(
                        "'{}' has more than {} versions",
                        self.path.display(),
                        self.limits.versions_max
                    ),
                )
                .at(&self.path));
            }
        }
        versions.available.sort_unstable();
        Ok(versions)
    }

    /// The names in the version directories, each once: what tells the backend when
    /// the configuration does not.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub fn model_files(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for number in self.versions()?.available {
            let directory = PathBuf::from(number.to_string());
            match &self.overrides {
                Some(overrides) => {
                    let below = overrides
                        .paths()
                        .filter_map(|path| path.strip_prefix(&directory).ok())
                        .filter_map(|path| path.iter().next()?.to_str());
                    names.extend(below.map(str::to_owned));
                }
                None => names.extend(
                    read::directory(&self.path.join(directory))?
                        .into_iter()
                        .filter_map(|entry| entry.file_name().into_string().ok()),
                ),
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The model's file in a version's directory. Where `filename` is a directory, it is
    /// `model.onnx` in there.
    ///
    /// # Errors
    /// `InvalidName` if `filename` leads out of the directory, `NotFound` if there is no such
    /// file, `Unreadable`.
    pub fn model_file(&self, version: u64, filename: &str) -> Result<ModelFile> {
        let filename = relative(
            filename,
            &format!(
                "the version directories of '{}', as default_model_filename",
                self.name
            ),
        )?;
        let path = Path::new(&version.to_string()).join(filename);
        let not_found = |path: &Path| {
            let path = self.path.join(path);
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "unable to find '{}' for version {version} of model '{}'",
                    path.display(),
                    self.name
                ),
            )
            .at(&path)
        };
        if let Some(overrides) = &self.overrides {
            return overrides
                .get(&path)
                .or_else(|| overrides.get(&path.join(NESTED_FILENAME)))
                .map(|bytes| ModelFile::Bytes(Arc::clone(bytes)))
                .ok_or_else(|| not_found(&path));
        }
        let mut full = self.path.join(&path);
        if full.is_dir() {
            full.push(NESTED_FILENAME);
        }
        match fs::metadata(&full) {
            Ok(metadata) if metadata.is_file() => Ok(ModelFile::Path(full)),
            Ok(_) => Err(not_found(&full)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(&full)),
            Err(error) => Err(Error::io("cannot open", &full, &error)),
        }
    }

    /// The labels of a label file in the model's directory, one a line.
    ///
    /// # Errors
    /// `InvalidName` if `filename` leads out of the directory, `NotFound`, `Unreadable`,
    /// `LimitExceeded`.
    pub fn labels(&self, filename: &str) -> Result<Vec<String>> {
        let file = relative(
            filename,
            &format!("the directory of '{}', as label_filename", self.name),
        )?;
        let text = self
            .text(&file, self.limits.label_bytes_max)?
            .ok_or_else(|| {
                let path = self.path.join(&file);
                Error::new(
                    ErrorKind::NotFound,
                    format!(
                        "unable to find the label file '{}' of model '{}'",
                        path.display(),
                        self.name
                    ),
                )
                .at(&path)
            })?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What tells whether anything in it has changed; files of a load request never do.
    ///
    /// # Errors
    /// `NotFound` if the directory is gone, `Unreadable`, `LimitExceeded`.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        match self.overrides {
            Some(_) => Ok(Fingerprint::default()),
            None => Fingerprint::of(&self.path, self.limits.entries_max),
        }
    }

    fn text(&self, file: &Path, bytes_max: u64) -> Result<Option<String>> {
        let path = self.path.join(file);
        match &self.overrides {
            Some(overrides) => overrides
                .get(file)
                .map(|bytes| read::decode(bytes.to_vec(), &path, bytes_max))
                .transpose(),
            None => read::text(&path, bytes_max),
        }
    }

    /// The names of the directories directly below.
    fn directories(&self) -> Result<Vec<String>> {
        if let Some(overrides) = &self.overrides {
            let mut names: Vec<String> = overrides
                .paths()
                .filter(|path| path.components().count() > 1)
                .filter_map(|path| path.iter().next()?.to_str().map(str::to_owned))
                .collect();
            names.dedup();
            return Ok(names);
        }
        Ok(read::directory(&self.path)?
            .into_iter()
            // Links are followed.
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }
}

//! What has changed in the repositories between two looks, for poll mode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{Error, ErrorKind, Result};
use super::model::ModelDirectory;
use super::name::ModelName;
use super::read;

/// How deep below a model's directory files are watched.
const DEPTH_MAX: usize = 8;

/// What tells whether anything below a model's directory has changed: path, size and time of the
/// last modification of every file and directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Fingerprint {
    /// Looks at a model's directory. Files that vanish meanwhile are left out.
    ///
    /// # Errors
    /// `NotFound` if the directory itself is gone, `Unreadable`, `LimitExceeded`.
    pub(super) fn of(directory: &Path, entries_max: usize) -> Result<Fingerprint> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(directory, 0, entries_max)?;
        Ok(fingerprint)
    }

    fn add(&mut self, directory: &Path, depth: usize, entries_max: usize) -> Result<()> {
        for entry in read::directory(directory)? {
            let path = entry.path();
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if self.entries.len() >= entries_max {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!(
                        "'{}' has more than the {entries_max} files and directories that can be \
                         watched",
                        directory.display()
                    ),
                )
                .at(directory));
            }
            let is_directory = metadata.is_dir();
            self.entries.push(Entry {
                path: path.clone(),
                // The size of a directory means nothing.
                bytes: if is_directory { 0 } else { metadata.len() },
                modified: metadata.modified().ok(),
            });
            // Links may form cycles; depth ends them.
            if is_directory && depth < DEPTH_MAX {
                match self.add(&path, depth + 1, entries_max) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// The models of the repositories at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    models: BTreeMap<ModelName, Fingerprint>,
}

/// The models that differ between two snapshots, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff {
    /// Only in the newer one.
    pub added: Vec<ModelName>,
    /// In both, with another content.
    pub modified: Vec<ModelName>,
    /// Only in the older one.
    pub removed: Vec<ModelName>,
}

impl Diff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

impl Snapshot {
    /// Looks at these models. One that cannot be looked at differs from what it was when it could,
    /// and is the same as long as it cannot; the reason is returned beside.
    pub fn take<'a>(
        models: impl IntoIterator<Item = &'a ModelDirectory>,
    ) -> (Snapshot, Vec<Error>) {
        let mut snapshot = Snapshot::default();
        let mut problems = Vec::new();
        for model in models {
            let fingerprint = model.fingerprint().unwrap_or_else(|error| {
                problems.push(error);
                Fingerprint {
                    entries: vec![Entry {
                        path: model.path().to_owned(),
                        bytes: 0,
                        modified: None,
                    }],
                }
            });
            snapshot.models.insert(model.name().clone(), fingerprint);
        }
        (snapshot, problems)
    }

    /// What differs in `newer`.
    #[must_use]
    pub fn diff(&self, newer: &Snapshot) -> Diff {
        let mut diff = Diff::default();
        for (name, fingerprint) in &newer.models {
            match self.models.get(name) {
                None => diff.added.push(name.clone()),
                Some(older) if older != fingerprint => diff.modified.push(name.clone()),
                Some(_) => {}
            }
        }
        let gone = self
            .models
            .keys()
            .filter(|name| !newer.models.contains_key(*name));
        diff.removed.extend(gone.cloned());
        diff
    }
}

//! Files that a load request brings in place of those in the model's directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Error, ErrorKind, Result};
use super::limits::Limits;
use super::name::relative;

/// The prefix of the parameters that carry files.
const PREFIX: &str = "file:";

/// The files of a load request, kept in memory. They are all the model has: its directory on disk
/// is not consulted.
#[derive(Clone, Debug)]
pub struct Overrides {
    files: BTreeMap<PathBuf, Arc<[u8]>>,
}

impl Overrides {
    /// Checks the files of a load request. A name is that of the parameter, such as
    /// `file:1/model.onnx`; the prefix may be missing.
    ///
    /// # Errors
    /// `InvalidName` for a path that is empty or leaves the model's directory, or for a path given
    /// twice; `LimitExceeded`.
    pub fn new(
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
        limits: &Limits,
    ) -> Result<Overrides> {
        let mut kept = BTreeMap::new();
        let mut bytes = 0_u64;
        for (name, contents) in files {
            let path = relative(
                name.strip_prefix(PREFIX).unwrap_or(&name),
                "the model's directory, as the file of a load request",
            )?;
            bytes = bytes.saturating_add(u64::try_from(contents.len()).unwrap_or(u64::MAX));
            if kept.len() >= limits.override_files_max || bytes > limits.override_bytes_max {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!(
                        "the load request has more than {} files or {} bytes of files",
                        limits.override_files_max, limits.override_bytes_max
                    ),
                ));
            }
            if kept.contains_key(&path) {
                return Err(Error::new(
                    ErrorKind::InvalidName,
                    format!("the load request has the file '{}' twice", path.display()),
                ));
            }
            kept.insert(path, contents.into());
        }
        Ok(Overrides { files: kept })
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Arc<[u8]>> {
        self.files.get(path)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_by_clean_paths() {
        let limits = Limits::default();
        let files = [
            ("file:1/./model.onnx".to_owned(), vec![1]),
            ("a".to_owned(), vec![]),
        ];
        let overrides = Overrides::new(files, &limits).unwrap();
        assert!(!overrides.is_empty());
        assert_eq!(overrides.get(Path::new("1/model.onnx")).unwrap()[..], [1]);
        assert_eq!(overrides.paths().count(), 2);
        assert!(Overrides::new([], &limits).unwrap().is_empty());
    }

    #[test]
    fn bad_files_are_refused() {
        let kind = |names: &[&str], limits: &Limits| {
            let files = names.iter().map(|name| ((*name).to_owned(), vec![0; 4]));
            Overrides::new(files, limits).unwrap_err().kind()
        };
        let limits = Limits::default();
        for name in ["file:", "file:../m", "file:/etc/m", "file:1/../../m", ""] {
            assert_eq!(kind(&[name], &limits), ErrorKind::InvalidName, "{name}");
        }
        assert_eq!(
            kind(&["file:a", "file:./a"], &limits),
            ErrorKind::InvalidName
        );
        let few = Limits {
            override_files_max: 1,
            ..limits
        };
        assert_eq!(kind(&["file:a", "file:b"], &few), ErrorKind::LimitExceeded);
        let small = Limits {
            override_bytes_max: 7,
            ..limits
        };
        assert_eq!(
            kind(&["file:a", "file:b"], &small),
            ErrorKind::LimitExceeded
        );
    }
}

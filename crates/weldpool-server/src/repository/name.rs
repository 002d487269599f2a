//! Names that come from outside and become part of a path.

use std::borrow::Borrow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::error::{Error, ErrorKind, Result};

/// The longest name of a model, in bytes: what file systems allow.
const NAME_BYTES_MAX: usize = 255;

/// The name of a model: one component of a path, which cannot lead anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// Checks a name that came from outside.
    ///
    /// # Errors
    /// `InvalidName` if it is empty, longer than 255 bytes, begins with a dot, or has a path
    /// separator or a control character.
    pub fn new(name: impl Into<String>) -> Result<ModelName> {
        let name = name.into();
        let wrong = if name.is_empty() {
            "is empty"
        } else if name.len() > NAME_BYTES_MAX {
            "is longer than 255 bytes"
        } else if name.starts_with('.') {
            "begins with a dot"
        } else if name.contains(['/', '\\']) {
            "has a path separator"
        } else if name.contains(char::is_control) {
            "has a control character"
        } else {
            return Ok(ModelName(name));
        };
        let shown: String = name.chars().take(64).collect();
        Err(Error::new(
            ErrorKind::InvalidName,
            format!("'{}' is not a model name: it {wrong}", shown.escape_debug()),
        ))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Checks a path that a configuration or a request gives, relative to `what`'s directory, and
/// returns it without `.` components. Symbolic links in the directory are the owner's affair.
///
/// # Errors
/// `InvalidName` if it is empty, absolute, or leads upwards.
pub(super) fn relative(path: &str, what: &str) -> Result<PathBuf> {
    let wrong = |reason: &str| {
        let shown: String = path.chars().take(256).collect();
        Error::new(
            ErrorKind::InvalidName,
            format!("'{}' {reason} {what}", shown.escape_debug()),
        )
    };
    if path.contains(['\0', '\\']) {
        return Err(wrong("has a character that is not allowed in a path in"));
    }
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(wrong("must stay within"));
            }
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(wrong("does not name a file in"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        for name in ["resnet", "a b", "1", "modèle", "a..b", "a.b-c_d"] {
            assert_eq!(ModelName::new(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(256);
        for name in [
            "", ".", "..", ".git", "a/b", "/", "a\\b", "a\0", "a\n", "../a", &long,
        ] {
            let error = ModelName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{name}");
        }
    }

    #[test]
    fn paths_stay_within() {
        for (path, clean) in [
            ("model.onnx", "model.onnx"),
            ("./a//b/", "a/b"),
            ("1/m", "1/m"),
        ] {
            assert_eq!(relative(path, "it").unwrap(), Path::new(clean), "{path}");
        }
        for path in [
            "",
            ".",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a/../../b",
            "a\0b",
            "a\\b",
        ] {
            assert_eq!(
                relative(path, "it").unwrap_err().kind(),
                ErrorKind::InvalidName,
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn joined_paths_stay_below(path in r"([a-z.]{0,3}[/\\]?){0,6}") {
            if let Ok(clean) = relative(&path, "it") {
                prop_assert!(clean.components().all(|part| matches!(part, Component::Normal(_))));
            }
            if let Ok(name) = ModelName::new(path) {
                prop_assert_eq!(Path::new("root").join(name.as_str()).components().count(), 2);
            }
        }
    }
}

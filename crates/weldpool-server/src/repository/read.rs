//! Reading small files and directories, within limits.

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read as _};
use std::path::Path;

use super::error::{Error, ErrorKind, Result};

/// Reads a text file; `None` if there is none.
pub(super) fn text(path: &Path, bytes_max: u64) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("cannot open", path, &error)),
    };
    let mut bytes = Vec::new();
    // One byte beyond the limit tells a file that is longer.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("cannot read", path, &error))?;
    decode(bytes, path, bytes_max).map(Some)
}

/// Checks the length and the encoding of a text.
pub(super) fn decode(bytes: Vec<u8>, path: &Path, bytes_max: u64) -> Result<String> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "'{}' is longer than the {bytes_max} bytes allowed",
                path.display()
            ),
        )
        .at(path));
    }
    String::from_utf8(bytes).map_err(|error| {
        Error::new(
            ErrorKind::Unreadable,
            format!(
                "'{}' is not UTF-8 text: byte {} is wrong",
                path.display(),
                error.utf8_error().valid_up_to()
            ),
        )
        .at(path)
    })
}

/// The entries of a directory, by name.
pub(super) fn directory(path: &Path) -> Result<Vec<fs::DirEntry>> {
    let cannot = |error: &std::io::Error| Error::io("cannot read directory", path, error);
    let mut entries = fs::read_dir(path)
        .map_err(|error| cannot(&error))?
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|error| cannot(&error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

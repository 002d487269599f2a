//! Writes model repositories, the form of which all servers share.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes version 1 of the model `name` into `repository`: its configuration and its files by their names.
///
/// # Errors
/// `Io` when a file cannot be written.
pub fn write_model(
    repository: &Path,
    name: &str,
    config: &str,
    files: &[(&str, &[u8])],
) -> Result<()> {
    let home = repository.join(name);
    let version = home.join("1");
    let write = || {
        fs::create_dir_all(&version)?;
        fs::write(home.join("config.pbtxt"), config)?;
        files
            .iter()
            .try_for_each(|(file, content)| fs::write(version.join(file), content))
    };
    write().map_err(|error| Error::io(format!("writing the model {name}"), error))
}

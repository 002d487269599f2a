//! How much of a repository is read.

/// Limits on what is read from model repositories and kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Model directories in all repositories together.
    pub models_max: usize,
    /// Version directories of one model.
    pub versions_max: usize,
    /// Files and directories below one model's directory that are watched for changes.
    pub entries_max: usize,
    /// Bytes of one `config.pbtxt`.
    pub config_bytes_max: u64,
    /// Bytes of one label file.
    pub label_bytes_max: u64,
    /// Files that one load request may bring.
    pub override_files_max: usize,
    /// Bytes of those files together.
    pub override_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            models_max: 4096,
            versions_max: 1024,
            entries_max: 16_384,
            config_bytes_max: 1 << 20,
            label_bytes_max: 16 << 20,
            override_files_max: 1024,
            override_bytes_max: 2 << 30,
        }
    }
}

//! Limits of the system: a control group of our own, or the process's address space.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::error::{Error, ErrorKind, Result};

const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

/// A control group made for one process, and removed again.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
}

impl Group {
    /// Makes a group with a hard limit in `parent`. Nothing of the parent is changed.
    pub(super) fn create(parent: &Path, limit_bytes: u64) -> Result<Self> {
        let unusable = |message: String, error| {
            Err(Error::caused(
                ErrorKind::Environment,
                message,
                error as std::io::Error,
            ))
        };
        let directory = parent.join(format!("weldpool-bench-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&directory) {
            return unusable(format!("no group in {}", parent.display()), error);
        }
        let group = Self { directory };
        let file = group.file("memory.max", "memory.limit_in_bytes");
        if !file.exists() {
            return Err(Error::new(
                ErrorKind::Environment,
                format!(
                    "groups in {} have no memory controller; in version 2 its cgroup.subtree_control has to \
                     name memory",
                    parent.display()
                ),
            ));
        }
        if let Err(error) = fs::write(&file, limit_bytes.to_string()) {
            return unusable(format!("writing {}", file.display()), error);
        }
        // Without these the kernel would move pages out instead of running out.
        for (name, value) in [
            ("memory.swap.max", 0),
            ("memory.memsw.limit_in_bytes", limit_bytes),
        ] {
            let swap = group.directory.join(name);
            if swap.exists()
                && let Err(error) = fs::write(&swap, value.to_string())
            {
                return unusable(format!("writing {}", swap.display()), error);
            }
        }
        Ok(group)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn file(&self, version_2: &str, version_1: &str) -> PathBuf {
        pick(&self.directory, version_2, version_1)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed leaves its group a moment after it was waited for.
        for _ in 0..REMOVALS {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(BETWEEN_REMOVALS);
        }
        eprintln!("warning: {} is left behind", self.directory.display());
    }
}

fn pick(directory: &Path, version_2: &str, version_1: &str) -> PathBuf {
    let file = directory.join(version_2);
    if file.exists() {
        file
    } else {
        directory.join(version_1)
    }
}

/// Moves this process into a group.
pub(super) fn enter(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string())
        .map_err(|error| Error::io(format!("writing {}", file.display()), error))
}

/// Bytes charged to a group.
pub(super) fn charged(group: &Path) -> Result<u64> {
    let file = pick(group, "memory.current", "memory.usage_in_bytes");
    number(&file)
}

/// Bytes of address space of this process (proc_pid_statm(5)).
pub(super) fn address_space() -> Result<u64> {
    let pages = number(Path::new("/proc/self/statm"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Refuses this process more address space than this from now on.
pub(super) fn limit_address_space(bytes: u64) -> Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(Resource::As, limit).map_err(|error| Error::io("setting a limit", error.into()))
}

fn number(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::io(format!("reading {}", file.display()), error))?;
    text.split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Environment,
                format!("{} begins with no number", file.display()),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_controller_is_refused_and_left_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let error = Group::create(parent.path(), 1 << 28).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Environment);
        assert!(error.to_string().contains("subtree_control"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn either_version_says_what_is_charged() {
        for name in ["memory.current", "memory.usage_in_bytes"] {
            let group = tempfile::tempdir().unwrap();
            fs::write(group.path().join(name), "4096\n").unwrap();
            assert_eq!(charged(group.path()).unwrap(), 4096);
        }
    }
}

//! Limits of the system: a control group of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

/// Limits of a group in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Beyond it processes are killed.
    pub(super) max: u64,
    /// Beyond it they are slowed down; version 2 only.
    pub(super) high: Option<u64>,
}

/// A control group made for one process, and removed again.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
}

impl Group {
    /// Makes a group with limits in `parent`. Nothing of the parent is changed.
    pub(super) fn create(parent: &Path, limits: Limits) -> Result<Self> {
        let directory = parent.join(format!("weldpool-bench-{}", std::process::id()));
        fs::create_dir(&directory)
            .map_err(|error| unusable(format!("no group in {}", parent.display()), error))?;
        let group = Self { directory };
        let file = pick(&group.directory, "memory.max", "memory.limit_in_bytes");
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
        write(&file, limits.max)?;
        if let Some(high) = limits.high {
            write(&group.directory.join("memory.high"), high)?;
        }
        // Without these the kernel would move pages out instead of running out.
        for (name, value) in [
            ("memory.swap.max", 0),
            ("memory.memsw.limit_in_bytes", limits.max),
        ] {
            let swap = group.directory.join(name);
            if swap.exists() {
                write(&swap, value)?;
            }
        }
        Ok(group)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
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

/// Counters of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counted {
    /// Times it was beyond `memory.high`.
    pub(super) high: u64,
    /// Times it ran into the hard limit.
    pub(super) max: u64,
    /// Processes killed for want of memory.
    pub(super) oom_kill: u64,
    /// The most that was charged.
    pub(super) peak_bytes: u64,
}

impl Counted {
    pub(super) fn read(group: &Path) -> Result<Self> {
        let read = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
        let (high, max, oom_kill) = if has_version_2(group) {
            let events = read("memory.events");
            let value = |key| value(&events, key);
            (value("high"), value("max"), value("oom_kill"))
        } else {
            // Where swap is accounted for, the limit of both together is looked at first.
            let with_swap = number(&group.join("memory.memsw.failcnt")).unwrap_or(0);
            let max = number(&group.join("memory.failcnt"))?.saturating_add(with_swap);
            (0, max, value(&read("memory.oom_control"), "oom_kill"))
        };
        Ok(Self {
            high,
            max,
            oom_kill,
            // Linux 5.19 brought it to version 2.
            peak_bytes: number(&pick(group, "memory.peak", "memory.max_usage_in_bytes"))
                .unwrap_or(0),
        })
    }
}

/// A group as the process in it finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes charged.
    pub(super) charged: u64,
    /// The lower of its limits.
    pub(super) limit: u64,
}

impl Found {
    pub(super) fn read(group: &Path) -> Result<Self> {
        let max = number(&pick(group, "memory.max", "memory.limit_in_bytes"))?;
        // It says "max", or is not there in version 1.
        let high = number(&group.join("memory.high")).unwrap_or(u64::MAX);
        Ok(Self {
            charged: number(&pick(group, "memory.current", "memory.usage_in_bytes"))?,
            limit: max.min(high),
        })
    }
}

/// Whether groups in a directory are of version 2, the one with a limit that slows down.
pub(super) fn has_version_2(directory: &Path) -> bool {
    directory.join("cgroup.controllers").exists()
}

fn pick(directory: &Path, version_2: &str, version_1: &str) -> PathBuf {
    directory.join(if has_version_2(directory) {
        version_2
    } else {
        version_1
    })
}

/// Moves this process into a group.
pub(super) fn enter(group: &Path) -> Result<()> {
    write(&group.join("cgroup.procs"), u64::from(std::process::id()))
}

fn write(file: &Path, value: u64) -> Result<()> {
    fs::write(file, value.to_string())
        .map_err(|error| unusable(format!("writing {}", file.display()), error))
}

fn unusable(message: String, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Environment, message, error)
}

/// The number behind a key in lines of `KEY NUMBER`; 0 where there is none.
fn value(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

fn number(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::io(format!("reading {}", file.display()), error))?;
    text.trim().parse().map_err(|error| {
        Error::caused(
            ErrorKind::Environment,
            format!("{} is no number", file.display()),
            error,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max: 1 << 28,
        high: None,
    };

    #[test]
    fn a_directory_without_a_controller_is_refused_and_left_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let error = Group::create(parent.path(), LIMITS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Environment);
        assert!(error.to_string().contains("subtree_control"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    /// A group that is plain files.
    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn version_2_says_what_is_charged_and_counted() {
        let group = fake(&[
            ("cgroup.controllers", "memory\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "65536\n"),
            ("memory.high", "49152\n"),
            ("memory.peak", "8192\n"),
            (
                "memory.events",
                "low 0\nhigh 3\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
            ),
        ]);
        let found = Found::read(group.path()).unwrap();
        assert_eq!((found.charged, found.limit), (4096, 49152));
        let counted = Counted {
            high: 3,
            max: 2,
            oom_kill: 1,
            peak_bytes: 8192,
        };
        assert_eq!(Counted::read(group.path()).unwrap(), counted);
        fs::write(group.path().join("memory.high"), "max\n").unwrap();
        assert_eq!(Found::read(group.path()).unwrap().limit, 65536);
    }

    #[test]
    fn version_1_says_what_is_charged_and_counted() {
        let group = fake(&[
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "65536\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
            ("memory.failcnt", "4\n"),
            ("memory.memsw.failcnt", "3\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
        ]);
        let found = Found::read(group.path()).unwrap();
        assert_eq!((found.charged, found.limit), (4096, 65536));
        let counted = Counted {
            high: 0,
            max: 7,
            oom_kill: 2,
            peak_bytes: 8192,
        };
        assert_eq!(Counted::read(group.path()).unwrap(), counted);
    }
}

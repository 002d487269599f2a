//! The memory control groups of this process, as files of the kernel tell (cgroups(7); the kernel's
//! documents "Control Group v2" and "Memory Resource Controller").

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Longest file that is read; the longest real one, `mountinfo`, has some 100 bytes a mount.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Groups looked at on the way up. Deeper nesting than this is nobody's.
const GROUPS_MAX: usize = 32;

/// Version 1 writes "no limit" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Which interface a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// How often a group ran into its limits since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Events {
    /// Over `memory.high`, and therefore slowed down.
    pub(crate) high: u64,
    /// At the hard limit.
    pub(crate) max: u64,
    /// Out of memory, the limit being hard and nothing left to reclaim.
    pub(crate) oom: u64,
    /// Processes killed.
    pub(crate) oom_kill: u64,
}

/// A group with a memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryGroup {
    version: Version,
    directory: PathBuf,
}

impl MemoryGroup {
    /// The groups of this process, its own first and then those around it as far as they are
    /// visible. Empty where the system has no memory controller.
    pub(crate) fn of_this_process() -> Result<Vec<Self>> {
        let groups = read("/proc/self/cgroup".as_ref())?;
        let mounts = read("/proc/self/mountinfo".as_ref())?;
        Ok(locate(&groups, &mounts).map_or_else(Vec::new, |place| place.groups()))
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The hard limit in bytes, if there is one.
    pub(crate) fn limit(&self) -> Result<Option<u64>> {
        self.limit_in(match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        })
    }

    /// The smaller of the hard limit and the one beyond which the group is slowed down.
    pub(crate) fn effective_limit(&self) -> Result<Option<u64>> {
        let high = match self.version {
            // Version 1 has no such limit: its soft limit only guides reclaim of the whole machine.
            Version::One => None,
            Version::Two => self.limit_in("memory.high")?,
        };
        Ok(self.limit()?.into_iter().chain(high).min())
    }

    fn limit_in(&self, name: &str) -> Result<Option<u64>> {
        let path = self.directory.join(name);
        limit(&read(&path)?).ok_or_else(|| malformed(&path, "neither a number nor \"max\""))
    }

    /// Bytes charged to the group, less the file pages that nobody used lately: the kernel takes
    /// those away before anything runs short, so counting them would report pressure for having
    /// read a large file.
    pub(crate) fn used(&self) -> Result<u64> {
        let (charged, inactive) = match self.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "inactive_file"),
        };
        let path = self.directory.join(charged);
        let charged =
            number(&read(&path)?).ok_or_else(|| malformed(&path, "not a number of bytes"))?;
        let path = self.directory.join("memory.stat");
        let inactive = value(&read(&path)?, inactive)
            .ok_or_else(|| malformed(&path, format!("no number for {inactive}")))?;
        Ok(charged.saturating_sub(inactive))
    }

    /// The counters of limits run into. `file` is the group's [open one](Self::open_events).
    pub(crate) fn events(&self, file: Option<&File>) -> Result<Events> {
        match self.version {
            Version::Two => {
                let path = self.directory.join("memory.events");
                let text = match file {
                    Some(file) => read_open(file, &path)?,
                    None => read(&path)?,
                };
                events(&text).ok_or_else(|| malformed(&path, "no counters of high, max and oom"))
            }
            Version::One => {
                let path = self.directory.join("memory.failcnt");
                let max = number(&read(&path)?).ok_or_else(|| malformed(&path, "not a number"))?;
                // Where memory and swap together have a limit, it is looked at first. Without
                // accounting of swap there is no such file.
                let with_swap = read(&self.directory.join("memory.memsw.failcnt"))
                    .ok()
                    .and_then(|text| number(&text))
                    .unwrap_or(0);
                // The line came with Linux 4.13.
                let kills = read(&self.directory.join("memory.oom_control"))
                    .ok()
                    .and_then(|text| value(&text, "oom_kill"))
                    .unwrap_or(0);
                Ok(Events {
                    high: 0,
                    max: max.saturating_add(with_swap),
                    oom: kills,
                    oom_kill: kills,
                })
            }
        }
    }

    /// The file whose `POLLPRI` tells that a counter changed; version 1 has none.
    pub(crate) fn open_events(&self) -> Result<Option<File>> {
        match self.version {
            Version::One => Ok(None),
            Version::Two => open(&self.directory.join("memory.events")).map(Some),
        }
    }
}

/// Opens a file of the kernel for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

/// Reads a file of the kernel, as far as files of the kernel go.
pub(crate) fn read(path: &Path) -> Result<String> {
    read_open(&open(path)?, path)
}

/// Reads an open file from its start, wherever an earlier reading ended.
pub(crate) fn read_open(file: &File, path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let offset = bytes.len() as u64;
        match file.read_at(&mut chunk, offset) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(malformed(path, format!("longer than {FILE_BYTES_MAX} B")));
        }
    }
    // Mount points may be any bytes; what is compared with them is read the same way.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::with_message(
        ErrorKind::System,
        format!("read of {} failed: {error}", path.display()),
    )
}

/// An error that names a file of the kernel and what is wrong with it.
pub(crate) fn malformed(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::with_message(ErrorKind::System, format!("{}: {what}", path.display()))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A limit: a number, or none for `max` and for what version 1 writes instead.
fn limit(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" => Some(None),
        text => {
            let bytes: u64 = text.parse().ok()?;
            Some((bytes < UNLIMITED).then_some(bytes))
        }
    }
}

/// The number behind a key in a file of `KEY NUMBER` lines.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| number(line.strip_prefix(key)?.strip_prefix(' ')?))
}

fn events(text: &str) -> Option<Events> {
    Some(Events {
        high: value(text, "high")?,
        max: value(text, "max")?,
        oom: value(text, "oom")?,
        // The line came with Linux 4.13.
        oom_kill: value(text, "oom_kill").unwrap_or(0),
    })
}

/// Where the memory controller's files of this process are.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    mount: PathBuf,
    directory: PathBuf,
}

impl Place {
    /// The group and those around it that have a memory controller's files; the root of version 2
    /// has none.
    fn groups(&self) -> Vec<MemoryGroup> {
        let proof = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        self.directory
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.mount))
            .take(GROUPS_MAX)
            .filter(|directory| directory.join(proof).exists())
            .map(|directory| MemoryGroup {
                version: self.version,
                directory: directory.to_owned(),
            })
            .collect()
    }
}

/// Finds the memory controller from `/proc/self/cgroup` and `/proc/self/mountinfo`. A controller is
/// in one hierarchy only, so version 2 has it unless a line of version 1 names it.
fn locate(groups: &str, mounts: &str) -> Option<Place> {
    let lines = || groups.lines().filter_map(group_line);
    let (version, group) = lines()
        .find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"))
        .map(|(_, path)| (Version::One, path))
        .or_else(|| {
            let (_, path) = lines().find(|(controllers, _)| controllers.is_empty())?;
            Some((Version::Two, path))
        })?;
    let mount = mounts
        .lines()
        .filter_map(mount_line)
        .find(|mount| match version {
            Version::One => {
                mount.kind == "cgroup" && mount.options.split(',').any(|name| name == "memory")
            }
            Version::Two => mount.kind == "cgroup2",
        })?;
    let point = PathBuf::from(unescape(mount.point));
    // A mount may show only a part of the hierarchy. A group outside of that part is not visible,
    // but what a container's mount shows as its root is then the container's own group.
    let inside = Path::new(group)
        .strip_prefix(unescape(mount.root))
        .unwrap_or(Path::new(""));
    let outside = inside
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    let directory = if outside {
        point.clone()
    } else {
        point.join(inside)
    };
    Some(Place {
        version,
        mount: point,
        directory,
    })
}

/// `ID:CONTROLLERS:PATH` as controllers and path.
fn group_line(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')?.1.split_once(':')
}

/// What matters of a line of mountinfo.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS] - TYPE SOURCE OPTIONS` (proc_pid_mountinfo(5)).
fn mount_line(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let mut right = right.split(' ');
    Some(Mount {
        root: left.next()?,
        point: left.next()?,
        kind: right.next()?,
        options: right.nth(1)?,
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (escape, plain) = escapes
            .into_iter()
            .find(|(escape, _)| rest.starts_with(escape))
            .unwrap_or(("\\", "\\"));
        out.push_str(plain);
        rest = &rest[escape.len()..];
    }
    out + rest
}

#[cfg(test)]
pub(crate) mod tests;

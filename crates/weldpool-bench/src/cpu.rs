//! Processor time and resident memory of another process, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// User and system time that all threads of process `pid` have used since it started.
///
/// Two sources are read. The sum of the threads' scheduler clocks is exact to the nanosecond but loses threads
/// that have ended; the process's own count keeps them but is cut to ticks of 10 ms twice. Both only ever err
/// low, so the larger one is right.
///
/// # Errors
/// `Io` when the process is gone or the system has no `/proc`.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let threads = read("reading the threads' clocks", || threads_time(pid))?;
    let process = read("reading the process's clock", || process_time(pid))?;
    Ok(threads.max(process))
}

/// Process `pid` and all processes below it that there are now, the ids ascending.
///
/// # Errors
/// `Io` when the process is gone or the system has no `/proc`.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    read("reading the process", || {
        fs::metadata(format!("/proc/{pid}"))
    })?;
    let processes = read("listing processes", || fs::read_dir("/proc"))?;
    let mut parents = Vec::new();
    for process in processes.filter_map(io::Result::ok) {
        let Some(child) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Processes may end while they are read.
        let parent = process_field(child, 1).ok().flatten();
        parents.extend(parent.map(|parent| (child, parent)));
    }
    Ok(below(pid, &parents))
}

/// `pid` and all that descend from it by `parents`, pairs of a child and its parent.
fn below(pid: u32, parents: &[(u32, u64)]) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        next += 1;
        for (child, _) in parents.iter().filter(|(_, own)| *own == u64::from(parent)) {
            if !family.contains(child) {
                family.push(*child);
            }
        }
    }
    family.sort_unstable();
    family
}

/// The processor time of every thread of other processes at one moment.
///
/// The kernel's totals are counted in ticks, which work that sleeps many times between two ticks escapes, so the
/// threads' own clocks are read one by one. What runs in other containers or on the host is not seen.
#[derive(Debug, Clone, Default)]
pub struct Others(HashMap<String, u64>);

impl Others {
    /// Reads the clocks of all threads but those of the processes `own`.
    ///
    /// # Errors
    /// `Io` when the system has no `/proc`.
    pub fn read(own: &[u32]) -> Result<Self> {
        let mut threads = HashMap::new();
        let processes = read("listing processes", || fs::read_dir("/proc"))?;
        for process in processes.filter_map(io::Result::ok) {
            let name = process.file_name();
            let pid: Option<u32> = name.to_str().and_then(|name| name.parse().ok());
            if pid.is_none_or(|pid| own.contains(&pid)) {
                continue;
            }
            // Processes and threads may end while they are read.
            let Ok(tasks) = fs::read_dir(process.path().join("task")) else {
                continue;
            };
            for task in tasks.filter_map(io::Result::ok) {
                let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                    continue;
                };
                let id = task.file_name().to_string_lossy().into_owned();
                threads.insert(id, field(&text, 0).unwrap_or_default());
            }
        }
        Ok(Self(threads))
    }

    /// The time they have used up to the moment of `later`; that of threads which have ended is lost.
    pub fn used_until(&self, later: &Self) -> Duration {
        let used = later.0.iter().map(|(thread, now)| {
            now.saturating_sub(self.0.get(thread).copied().unwrap_or_default())
        });
        Duration::from_nanos(used.sum())
    }
}

/// Resident memory of process `pid`, in bytes.
///
/// # Errors
/// `Io` when the process is gone or the system has no `/proc`.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = read("reading resident memory", || {
        fs::read_to_string(format!("/proc/{pid}/statm"))
    })?;
    let pages = field(&text, 1).ok_or_else(|| malformed("/proc/PID/statm"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Memory of process `pid` in bytes: its own (heap and stacks), and shared (here the pools' memory files).
///
/// # Errors
/// `Io` when the process is gone or the system has no `/proc`.
pub fn resident_parts(pid: u32) -> Result<(u64, u64)> {
    let text = read("reading resident memory", || {
        fs::read_to_string(format!("/proc/{pid}/status"))
    })?;
    let part = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes =
            line.and_then(|rest| rest.trim_end_matches("kB").trim().parse::<u64>().ok());
        kibibytes
            .map(|kibibytes| kibibytes << 10)
            .ok_or_else(|| malformed("/proc/PID/status"))
    };
    Ok((part("RssAnon:")?, part("RssShmem:")?))
}

fn threads_time(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the read; without scheduler statistics no file is there.
        let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else {
            continue;
        };
        nanoseconds += field(&text, 0).unwrap_or_default();
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn process_time(pid: u32) -> io::Result<Duration> {
    let (Some(user), Some(system)) = (process_field(pid, 11)?, process_field(pid, 12)?) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/PID/stat has too few fields",
        ));
    };
    let ticks = (user + system) as f64;
    Ok(Duration::from_secs_f64(
        ticks / rustix::param::clock_ticks_per_second() as f64,
    ))
}

/// A field of `/proc/PID/stat` by its place behind the command's name, where the state is field 0.
fn process_field(pid: u32, index: usize) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name, in parentheses, may hold spaces: count from its end.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    Ok(field(rest, index))
}

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn read<T>(what: &str, read: impl FnOnce() -> io::Result<T>) -> Result<T> {
    read().map_err(|error| Error::io(what, error))
}

fn malformed(file: &str) -> Error {
    Error::new(
        ErrorKind::Environment,
        format!("{file} has an unknown form"),
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_shows_as_processor_time() {
        let before = processor_time(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let used = processor_time(std::process::id()).unwrap() - before;
        assert!(used >= Duration::from_millis(20), "{used:?}");
    }

    #[test]
    fn a_family_is_a_process_and_what_descends_from_it() {
        let parents = [(5, 1), (9, 5), (7, 9), (8, 2), (6, 5)];
        assert_eq!(below(5, &parents), [5, 6, 7, 9]);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found = family(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&std::process::id()) && found.contains(&child.id()));
        assert_eq!(family(u32::MAX).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn only_others_are_others() {
        let before = Others::read(&[std::process::id()]).unwrap();
        assert!(!before.0.contains_key(&std::process::id().to_string()));
        let everybody = Others::read(&[]).unwrap();
        assert!(everybody.0.contains_key(&std::process::id().to_string()));
        let busy = Others(HashMap::from([("1".to_owned(), 10), ("2".to_owned(), 5)]));
        let later = Others(HashMap::from([("1".to_owned(), 30), ("3".to_owned(), 7)]));
        assert_eq!(busy.used_until(&later), Duration::from_nanos(27));
    }

    #[test]
    fn memory_in_use_is_resident() {
        let before = resident_bytes(std::process::id()).unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident_bytes(std::process::id()).unwrap();
        assert!(after >= before + (48 << 20), "{before} -> {after}");
        drop(block);
    }

    #[test]
    fn memory_of_its_own_is_told_from_shared() {
        let pid = std::process::id();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let (own, shared) = resident_parts(pid).unwrap();
        assert!(own >= 64 << 20 && own + shared <= resident_bytes(pid).unwrap() + (8 << 20));
        drop(block);
        assert_eq!(resident_parts(u32::MAX).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert_eq!(processor_time(u32::MAX).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(resident_bytes(u32::MAX).unwrap_err().kind(), ErrorKind::Io);
    }
}

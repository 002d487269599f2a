//! By the files of `/proc` and `/sys`.

#![forbid(unsafe_code)]

use std::fs;

use crate::device::Budget;
use crate::device::host::control_group::MemoryGroup;
use crate::error::{Error, ErrorKind, Result};

/// Memory by `/proc/meminfo`, and the smallest limit of the process's control groups.
pub(crate) fn budget() -> Result<Budget> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| Error::system(ErrorKind::System, "read of /proc/meminfo", &error))?;
    let total = meminfo(&text, "MemTotal")
        .ok_or_else(|| Error::new(ErrorKind::System, "/proc/meminfo has no line for MemTotal"))?;
    Ok(Budget {
        total,
        available: meminfo(&text, "MemAvailable"),
        limit: group_limit(),
    })
}

/// A value of `/proc/meminfo` in bytes; the file has kibibytes (proc_meminfo(5)).
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// A value of a node's `meminfo` in bytes, whose lines are as those of `/proc/meminfo` behind the node.
pub(crate) fn node_memory(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(key))?;
    let (at, _) = line.match_indices(key).next()?;
    meminfo(&line[at..], key)
}

/// The smallest hard limit on the way from the process's control group to the root.
fn group_limit() -> Option<u64> {
    let groups = MemoryGroup::of_this_process().ok()?;
    groups
        .iter()
        .filter_map(|group| group.limit().ok().flatten())
        .min()
}

/// The nodes that are online, from sysfs; node 0 alone where it is not mounted.
pub(crate) fn numa_nodes() -> Vec<u32> {
    fs::read_to_string("/sys/devices/system/node/online")
        .ok()
        .and_then(|text| list(text.trim()))
        .unwrap_or_else(|| vec![0])
}

/// A list as the kernel writes it: `0-1,3`.
pub(crate) fn list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // The kernel supports at most 1024 nodes; more is not a list of nodes.
        if last < first || last > 4096 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// The processor's name from `/proc/cpuinfo`, or the architecture.
pub(crate) fn processor_name() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       24689764 kB\nMemFree: 1 kB\nMemAvailable:   99 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_689_764 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(99 * 1024));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(
            meminfo("MemTotal: 99999999999999999999 kB", "MemTotal"),
            None
        );
    }

    #[test]
    fn node_lists() {
        assert_eq!(list("0"), Some(vec![0]));
        assert_eq!(list("0-2,5"), Some(vec![0, 1, 2, 5]));
        for wrong in ["", "a", "3-1", "0-4294967295"] {
            assert_eq!(list(wrong), None, "{wrong:?}");
        }
    }
}

//! Stalls for want of memory (PSI), as the kernel's document "Pressure Stall Information" describes
//! them: shares of time over a while, and triggers that wake a waiter.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FsWord, PROC_SUPER_MAGIC};

use super::control_group::{malformed, read};
use crate::error::{Error, ErrorKind, Result};

/// Type of the file system of control groups, version 2 (linux/magic.h).
const CGROUP2_SUPER_MAGIC: FsWord = 0x6367_7270;

/// Time over which stalls are added up, in microseconds. Without privilege only multiples of two
/// seconds are accepted.
const WINDOW_US: u64 = 1_000_000;
const WINDOW_UNPRIVILEGED_US: u64 = 2_000_000;

/// A file that wakes whoever waits for it.
#[derive(Debug)]
pub(crate) struct Trigger {
    pub(crate) file: File,
    /// Time over which stalls are added up.
    pub(crate) window: Duration,
}

/// Whose stalls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// At least one task waits for memory.
    Some,
    /// All tasks that could run wait for memory.
    Full,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Some => "some",
            Self::Full => "full",
        })
    }
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stalls {
    /// The share of the last ten seconds that was stalled, from 0 to 1.
    pub(crate) recent_share: f64,
    /// Time stalled since the system started, or the group was made.
    pub(crate) total: Duration,
}

/// Reads a line.
pub(crate) fn stalls(path: &Path, line: Line) -> Result<Stalls> {
    parse(&read(path)?, line).ok_or_else(|| {
        let what = format!("no line \"{line} avg10=... total=...\", the average from 0 to 100");
        malformed(path, what)
    })
}

fn parse(text: &str, line: Line) -> Option<Stalls> {
    let name = line.to_string();
    text.lines().find_map(|text| {
        let mut words = text.split(' ');
        if words.next()? != name {
            return None;
        }
        let percent: f64 = words.next()?.strip_prefix("avg10=")?.parse().ok()?;
        let total = words.find_map(|word| word.strip_prefix("total="))?;
        (0.0..=100.0).contains(&percent).then_some(Stalls {
            recent_share: percent / 100.0,
            total: Duration::from_micros(total.parse().ok()?),
        })
    })
}

/// Asks to be woken, by `POLLPRI` on the file returned, when the stalls of a window exceed `share`
/// of it. The trigger lasts as long as the file is open.
pub(crate) fn trigger(path: &Path, line: Line, share: f64) -> Result<Trigger> {
    let refused = |error: &std::io::Error| {
        Error::with_message(
            ErrorKind::Unsupported,
            format!("the trigger was refused: {error}"),
        )
    };
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| refused(&error))
    };
    let mut file = open()?;
    // Anything but the kernel's own file would be overwritten.
    let kind = rustix::fs::fstatfs(&file)
        .map_err(|error| refused(&error.into()))?
        .f_type;
    if kind != PROC_SUPER_MAGIC && kind != CGROUP2_SUPER_MAGIC {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a trigger needs a file of the kernel",
        ));
    }
    let mut window = WINDOW_US;
    if file.write_all(&description(line, share, window)).is_err() {
        window = WINDOW_UNPRIVILEGED_US;
        file = open()?;
        file.write_all(&description(line, share, window))
            .map_err(|error| refused(&error))?;
    }
    Ok(Trigger {
        file,
        window: Duration::from_micros(window),
    })
}

/// `LINE STALL WINDOW` in microseconds, ended by a zero byte as the kernel's example does.
fn description(line: Line, share: f64, window: u64) -> Vec<u8> {
    let stall = (share * window as f64).round() as u64;
    format!("{line} {stall} {window}\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = include_str!("../../../tests/data/kernel/memory.pressure");
    const SOME: &str = include_str!("../../../tests/data/kernel/memory.pressure-some-only");

    #[test]
    fn both_lines_are_read() {
        let parsed = |text, line| {
            let stalls = parse(text, line)?;
            Some((stalls.recent_share, stalls.total.as_micros()))
        };
        assert_eq!(parsed(BOTH, Line::Some), Some((0.165, 48_123_456)));
        assert_eq!(parsed(BOTH, Line::Full), Some((0.1125, 21_000_000)));
        assert_eq!(parsed(SOME, Line::Some), Some((0.0, 99)));
        assert_eq!(parsed(SOME, Line::Full), None);
    }

    #[test]
    fn malformed_lines_are_not_taken() {
        for text in [
            "",
            "some",
            "some avg10=",
            "some avg10=x avg60=0 total=1",
            "some avg60=1.0 avg10=1.0 total=1",
            "some avg10=-1.0 avg60=0 total=1",
            "some avg10=101 avg60=0 total=1",
            "some avg10=NaN avg60=0 total=1",
            "something avg10=1.0 total=1",
            "some avg10=1.0 avg60=0",
            "some avg10=1.0 avg60=0 total=",
            "some avg10=1.0 avg60=0 total=-1",
        ] {
            assert_eq!(parse(text, Line::Some), None, "{text:?}");
        }
    }

    #[test]
    fn triggers_are_written_as_the_kernel_reads_them() {
        assert_eq!(
            description(Line::Some, 0.15, WINDOW_US),
            b"some 150000 1000000\0"
        );
        assert_eq!(
            description(Line::Full, 0.1, WINDOW_UNPRIVILEGED_US),
            b"full 200000 2000000\0"
        );
    }

    #[test]
    fn a_plain_file_is_never_overwritten() {
        let path = std::env::temp_dir().join(format!("weldpool-psi-{}", std::process::id()));
        std::fs::write(&path, BOTH).unwrap();
        let error = trigger(&path, Line::Some, 0.15).unwrap_err();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(text, BOTH);
    }

    #[test]
    fn the_systems_own_file_is_readable_or_the_error_names_it() {
        let path = Path::new("/proc/pressure/memory");
        match stalls(path, Line::Some) {
            Ok(stalls) => assert!((0.0..=1.0).contains(&stalls.recent_share)),
            Err(error) => assert!(error.to_string().contains("/proc/pressure/memory")),
        }
    }
}

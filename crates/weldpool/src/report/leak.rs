//! Which buffers are alive, and where some of them were allocated.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::name::Name;
use crate::sampler::LiveSample;
use crate::text;

/// Names that [`LeakReport`]'s text has at most; the rest is summed up in one line.
const NAMES_MAX: usize = 20;
/// Samples that a report has, the largest of each name and of all.
const SAMPLES_MAX: usize = 64;
/// Lines of a backtrace that a report keeps.
const BACKTRACE_LINES_MAX: usize = 48;
/// Bytes of a line of a backtrace.
const LINE_BYTES_MAX: usize = 240;

/// Buffers of one name that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LeakedBuffer {
    /// Their name.
    pub name: Name,
    /// How many there are.
    pub count: usize,
    /// Bytes requested for them.
    pub bytes: usize,
}

/// A live buffer that was sampled when it was allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SampledBuffer {
    /// Its name.
    pub name: Name,
    /// Bytes requested for it.
    pub bytes: usize,
    /// Buffers of its size that it stands for, rounded.
    pub stands_for: u64,
    /// How long ago it was allocated.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "age_seconds", serialize_with = "crate::serial::seconds")
    )]
    pub age: Duration,
    /// Where, innermost call first; kept when [`Config::backtraces`](crate::Config::backtraces) is
    /// on. Text of this program, with files and lines if it has debug information.
    pub backtrace: Option<String>,
}

impl SampledBuffer {
    pub(crate) fn of(sample: &LiveSample) -> Self {
        Self {
            name: sample.name,
            bytes: sample.bytes,
            stands_for: sample.weight.round() as u64,
            age: sample.since.elapsed(),
            backtrace: sample
                .backtrace
                .as_ref()
                .map(|backtrace| frames(&backtrace.to_string())),
        }
    }
}

/// A backtrace without the frames that took it, those below the program, and with an end.
fn frames(backtrace: &str) -> String {
    let is_frame = |line: &str| {
        line.trim_start()
            .split_once(": ")
            .is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let inner = ["std::backtrace", "weldpool::sampler", "weldpool::pool::"];
    let outer = [
        "std::rt::lang_start",
        "std::sys::backtrace::__rust_begin_short_backtrace",
    ];
    let mut text = String::new();
    let (mut skipped, mut lines) = (true, 0);
    for line in backtrace.lines() {
        if is_frame(line) {
            if outer.iter().any(|name| line.contains(name)) {
                break;
            }
            let own = inner.iter().any(|name| line.contains(name));
            skipped = text.is_empty() && own;
        }
        if skipped {
            continue;
        }
        if lines == BACKTRACE_LINES_MAX {
            break;
        }
        lines += 1;
        let _infallible = writeln!(text, "{}", text::clean(line, LINE_BYTES_MAX, true));
    }
    text
}

/// Buffers that were alive when an allocator's last handle was dropped, or when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LeakReport {
    /// Name of the allocator.
    pub allocator: String,
    /// By name, largest bytes first.
    pub buffers: Vec<LeakedBuffer>,
    /// Those of them that were sampled: the largest of each name, then the largest others; at most 64.
    pub samples: Vec<SampledBuffer>,
}

impl LeakReport {
    pub(crate) fn new(allocator: &str) -> Self {
        Self {
            allocator: allocator.to_owned(),
            buffers: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Adds a live buffer.
    pub(crate) fn add(&mut self, name: Name, bytes: usize) {
        let known = self.buffers.binary_search_by_key(&name, |one| one.name);
        match known {
            Ok(index) => {
                self.buffers[index].count += 1;
                self.buffers[index].bytes += bytes;
            }
            Err(index) => self.buffers.insert(
                index,
                LeakedBuffer {
                    name,
                    count: 1,
                    bytes,
                },
            ),
        }
    }

    /// Sorted by bytes, largest first, with samples, which are sorted so already.
    pub(crate) fn sorted(mut self, samples: &[LiveSample]) -> Self {
        self.buffers.sort_by_key(|one| std::cmp::Reverse(one.bytes));
        let mut named: Vec<Name> = Vec::new();
        let (first, others): (Vec<_>, Vec<_>) = samples.iter().partition(|sample| {
            let first = named.len() < SAMPLES_MAX && !named.contains(&sample.name);
            if first {
                named.push(sample.name);
            }
            first
        });
        let chosen = first.into_iter().chain(others).take(SAMPLES_MAX);
        self.samples = chosen.map(SampledBuffer::of).collect();
        self
    }

    /// Where the largest sampled buffer of a name was allocated, if that is known.
    #[must_use]
    pub fn backtrace_of(&self, name: Name) -> Option<&str> {
        let mut samples = self.samples.iter();
        samples.find_map(|one| one.backtrace.as_deref().filter(|_| one.name == name))
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|one| one.bytes).sum()
    }

    /// Number of all of them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.buffers.iter().map(|one| one.count).sum()
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} buffers of {} bytes are alive",
            self.allocator,
            self.count(),
            self.bytes()
        )?;
        for one in self.buffers.iter().take(NAMES_MAX) {
            write!(
                f,
                "\n  {:?}: {} of {} bytes",
                one.name, one.count, one.bytes
            )?;
            for frame in self.backtrace_of(one.name).unwrap_or_default().lines() {
                write!(f, "\n      {frame}")?;
            }
        }
        if let Some(rest) = self
            .buffers
            .get(NAMES_MAX..)
            .filter(|rest| !rest.is_empty())
        {
            let bytes: usize = rest.iter().map(|one| one.bytes).sum();
            write!(f, "\n  and {} more names of {bytes} bytes", rest.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_allocator_and_below_main_are_left_out() {
        let backtrace = "   0: std::backtrace::Backtrace::force_capture\n\
                         \x20            at /rustc/library/std/src/backtrace.rs:313:9\n\
                         \x20  1: weldpool::sampler::Sampler::allocated\n\
                         \x20  2: program::load\n\
                         \x20            at ./src/main.rs:7:5\n\
                         \x20  3: weldpool::pool::Pool::seen_again\n\
                         \x20  4: std::sys::backtrace::__rust_begin_short_backtrace\n\
                         \x20  5: main\n";
        let kept: Vec<_> = frames(backtrace).lines().map(str::to_owned).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert!(kept[0].ends_with("program::load") && kept[1].ends_with("main.rs:7:5"));
        let long = "   7: f\n             at x:1\n".repeat(1000);
        assert_eq!(frames(&long).lines().count(), BACKTRACE_LINES_MAX);
    }
}

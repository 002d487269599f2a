//! Memory of the program that a buffer is over (`newBufferWithBytesNoCopy:length:options:deallocator:`).

#![forbid(unsafe_code)]

use std::fmt;

use super::PAGE;
use crate::device::HostRange;
use crate::device::fake::address_space::Reach;
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::mapping::is_mapped;
use crate::sync::Mutex;

/// Pages that are looked at one by one for whether any is still mapped.
const LOOKED_AT_MAX: usize = 1 << 16;

/// What the call wants of memory: whole pages, one at least, all of them mapped, no more than a buffer may have.
pub(super) fn check(memory: &HostRange, length_max: u64) -> Result<(), Violation> {
    let (start, bytes) = (memory.address.as_ptr().addr(), memory.bytes);
    if bytes as u64 > length_max {
        return broken(
            Rule::BufferLength,
            format!("{bytes} bytes without a copy; maxBufferLength is {length_max}"),
        );
    }
    let whole = start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && bytes > 0;
    if !whole || !is_mapped(start, bytes) {
        return broken(
            Rule::WholePages,
            format!("{bytes} bytes at {start:#x} without a copy"),
        );
    }
    Ok(())
}

/// Whether memory of the program that work touches is still mapped.
pub(super) fn check_reach(reach: &Reach) -> Result<(), Violation> {
    let Some(start) = reach.store.others_address() else {
        return Ok(());
    };
    let start = start + reach.offset;
    if is_mapped(start, reach.bytes) {
        return Ok(());
    }
    broken(
        Rule::StaysMapped,
        format!(
            "work on {} bytes at {start:#x}, which were unmapped before the end of their buffer",
            reach.bytes
        ),
    )
}

/// Memory that somebody else keeps mapped until the buffer's end.
pub(super) struct Others {
    start: usize,
    bytes: usize,
    read_only: bool,
    /// The deallocator.
    ended: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Others {
    pub(super) fn new(memory: HostRange, ended: Box<dyn FnOnce() + Send>) -> Self {
        Self {
            start: memory.address.as_ptr().addr(),
            bytes: memory.bytes,
            read_only: memory.read_only,
            ended: Mutex::new(Some(ended)),
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The end of the buffer: calls the deallocator. Whoever has part of the first or last page may have unmapped that,
    /// where the system's pages are smaller, but not all of it.
    pub(super) fn end(&self) -> Result<(), Violation> {
        let system = rustix::param::page_size();
        let mut pages = (self.start..self.start + self.bytes)
            .step_by(system)
            .take(LOOKED_AT_MAX);
        let is_there = pages.any(|page| is_mapped(page, 1));
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            ended();
        }
        if is_there {
            return Ok(());
        }
        broken(
            Rule::StaysMapped,
            format!(
                "{} bytes at {:#x} were unmapped before the end of their buffer",
                self.bytes, self.start
            ),
        )
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

//! What happened, and what a reader left out.

/// What an [`Event`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Memory was handed out.
    Allocate,
    /// Memory was given back.
    Free,
}

/// One allocation or free, with the names of the CSV format's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// What was done.
    pub op: Op,
    /// Which memory: from an allocation to its free no other allocation has the same number.
    pub id: u64,
    /// Bytes requested; a free repeats them.
    pub bytes: u64,
    /// The stream of device work in whose order it was done.
    pub stream: u64,
    /// When, in microseconds since the trace began.
    pub time_us: u64,
    /// The thread that did it.
    pub thread: u64,
}

/// What a reader found in a file and left out of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Skipped {
    /// Frees of memory that was allocated before the recording began.
    pub frees: u64,
    /// Allocations that failed in the recorded program.
    pub failures: u64,
    /// Allocations of zero bytes, and null pointers.
    pub empty: u64,
    /// Lines and entries that are neither an allocation nor a free.
    pub markers: u64,
    /// Events that the recorder had no room for.
    pub dropped: u64,
    /// Events of other devices than the one that was read.
    pub other_devices: u64,
    /// Frees that the file lacks and that were added, because the same memory was allocated again.
    pub implied_frees: u64,
    /// Blocks that were allocated before the recording began and still live at its end, added as
    /// allocations at the start.
    pub live_before: u64,
    /// Whether the file ends before its end mark, as it does when the recorded program was killed.
    pub truncated: bool,
}

//! The waits that ordered reuse depends on, by name, so that a build can leave one out.
//!
//! `cargo xtask mutants` builds with `--cfg weldpool_mutation` and leaves out each wait in turn; a test
//! must fail then. Other builds contain none of this.

#![forbid(unsafe_code)]

/// A place where memory or contents wait for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Host access, for work that was submitted with the buffer.
    HostAccess,
    /// Any access, for work of whoever had the memory before.
    Settle,
    /// A free in the order of one queue, for another that the memory came from.
    FreeElsewhere,
    /// Memory of a buffer that was dropped, for work that was submitted with it.
    Drop,
    /// Memory freed on a queue, for what was submitted since its last signal.
    Here,
    /// Memory freed on a queue, for the queue.
    Free,
    /// Pending memory that is collected, for its queue.
    Collect,
    /// Memory that several queues use, for all of them.
    SeveralQueues,
    /// Work, for the work of other queues on the same buffer.
    OtherQueue,
    /// A dropped queue, for its work.
    Ended,
    /// Addresses whose memory was mapped elsewhere, for their last use.
    Unmap,
    /// Windows of indivisible memory that hold nothing any more, for their last use.
    UnmapWindow,
    /// Memory mapped elsewhere, for its use at the old addresses.
    Remap,
    /// Memory of a closed pool, for work in flight.
    Close,
    /// Memory of a closed pool that threads keep, for the queues in whose order they freed it.
    CloseKept,
    /// Registered memory that is given back, for the work that uses it.
    Unregister,
}

/// Whether this build leaves the wait out.
#[cfg(not(weldpool_mutation))]
#[inline(always)]
pub(crate) const fn left_out(_wait: Wait) -> bool {
    false
}

/// Whether the environment says that the wait is left out.
#[cfg(weldpool_mutation)]
pub(crate) fn left_out(wait: Wait) -> bool {
    static NAME: crate::sync::OnceLock<String> = crate::sync::OnceLock::new();
    let name = NAME.get_or_init(|| std::env::var("WELDPOOL_MUTATION").unwrap_or_default());
    *name == format!("{wait:?}")
}

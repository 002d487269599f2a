//! The dispatch source of memory pressure, one foreign call per function, and a twin of it in software.
//!
//! | file | what it is |
//! |---|---|
//! | `raw.rs` | libdispatch and sysctl(3), on macOS |
//! | `twin.rs` | the same rules in software, for tests everywhere; it records who breaks them |
//!
//! The rules, by dispatch/source.h and dispatch_source_create(3):
//!
//! - a source is made inactive, and must be activated before it is released;
//! - its handler is called on threads of the system's, by one at a time; events meanwhile are coalesced: the next call
//!   gets the bits of all of them, without their order;
//! - what happened is asked for within the handler alone;
//! - a cancel returns at once. A call under way ends, no further one begins, and then the cancellation handler is called
//!   once; only then may go what the handler uses;
//! - the system keeps a source that is not cancelled, so releasing it alone leaves its handler to be called.

#[cfg(target_os = "macos")]
pub(crate) mod raw;
#[cfg(test)]
pub(crate) mod twin;

use std::fmt::Debug;

use crate::error::Result;

/// Bits of an event, and of the system's present level (dispatch/source.h: `DISPATCH_MEMORYPRESSURE_*`).
pub(crate) const NORMAL: usize = 0x01;
pub(crate) const WARN: usize = 0x02;
pub(crate) const CRITICAL: usize = 0x04;

/// Gets the bits of each event.
pub(crate) type Handler = Box<dyn Fn(usize) + Send + Sync>;

/// What the system offers.
pub(crate) trait Dispatch: Debug + Send {
    /// A source; releases it when dropped.
    type Source: Debug + Send;

    /// A source that is not active yet. The handler is dropped by the cancellation handler.
    fn create(&self, mask: usize, handler: Handler) -> Result<Self::Source>;

    /// Lets events come.
    fn activate(&self, source: &Self::Source);

    /// Has no further event come; returns at once.
    fn cancel(&self, source: &Self::Source);

    /// The bit of the present level, if the system tells.
    fn level(&self) -> Option<usize>;
}

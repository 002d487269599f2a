//! The device's side of a fence.

use std::fmt::Debug;
use std::time::Duration;

use crate::error::Result;

/// An ascending count of the signals a queue has passed (Metal: a shared event's value; CUDA: the
/// number of the last event that completed).
pub trait Timeline: Debug + Send + Sync {
    /// The greatest value passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost) when the queue died before reaching its end.
    fn completed(&self) -> Result<u64>;

    /// Blocks until `value` has passed or `timeout` is over; says whether it passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost) when the queue died before reaching it.
    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool>;
}

//! What is kept for the life of the process, because work that never ended may still use it.

#![forbid(unsafe_code)]

use std::any::Any;

use crate::sync::Mutex;

/// Listed rather than forgotten, so that a leak checker tells it from what was lost.
static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

/// Keeps something for ever.
pub(crate) fn keep(what: impl Any + Send) {
    KEPT.lock().push(Box::new(what));
}

//! The formats of trace files.

pub mod compact;
#[cfg(feature = "trace")]
mod csv;
#[cfg(feature = "trace")]
mod file;
#[cfg(feature = "trace")]
mod ids;
#[cfg(feature = "trace")]
mod lines;
#[cfg(feature = "trace")]
mod pickle;
#[cfg(feature = "trace")]
mod pytorch;
#[cfg(feature = "trace")]
mod rmm;
#[cfg(feature = "trace")]
mod sniff;
#[cfg(feature = "trace")]
mod stalloc;

#[cfg(feature = "trace")]
pub use file::{EVENTS_MAX, Format, ReadOptions, Reader, Writer, read_all};

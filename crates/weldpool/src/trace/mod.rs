//! Allocation traces: recorded from a running program, read and written in several formats, and
//! replayed on any device and configuration.
//!
//! A trace is a sequence of [`Event`]s. [`Recorder`] writes them while a program runs, in the
//! compact format of [`compact`]. With the cargo feature `trace` the crate also reads and writes the
//! formats of others (`Format`), plain or compressed with gzip, and replays a trace (`Replay`).
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use weldpool::trace::{Op, Recorder, compact};
//!
//! let path = std::env::temp_dir().join(format!("weldpool-doc-{}.wpt", std::process::id()));
//! let recorder = Recorder::create(&path)?;
//! recorder.record(Op::Allocate, 1, 4096, 0);
//! recorder.record(Op::Free, 1, 4096, 0);
//! assert_eq!(recorder.finish()?.events, 2);
//!
//! let events: Vec<_> = compact::Reader::open(&path)?.collect::<Result<_, _>>()?;
//! assert_eq!((events[0].op, events[0].bytes), (Op::Allocate, 4096));
//! # std::fs::remove_file(&path)?;
//! # Ok(())
//! # }
//! ```

mod error;
mod event;
mod formats;
mod recorder;
#[cfg(feature = "trace")]
mod replay;

pub use error::{TraceError, TraceErrorKind, TraceResult};
pub use event::{Event, Op, Skipped};
pub use formats::compact;
#[cfg(feature = "trace")]
pub use formats::{EVENTS_MAX, Format, ReadOptions, Reader, Writer, read_all};
pub use recorder::{Recorder, RecorderOptions, Recording};
#[cfg(feature = "trace")]
pub use replay::{Progress, Replay, ReplayOptions, ReplayReport, Sample, Target};

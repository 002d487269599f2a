//! Shows the allocator's slow paths to the platform's profilers.
//!
//! Each [`SlowPath`] is a span of time with a name and bytes: an interval of `os_signpost` for Instruments on macOS, a
//! range of NVTX for Nsight Systems on Linux with the feature `cuda`. It is off unless [`Config::profiling`] or the
//! environment asks for it, and then costs one relaxed load on each slow path; what a thread's cache serves has none.
//! Recipes are in docs/profiling.md.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use weldpool::profiling::{Profiling, SlowPath, SpanEvent, SpanHandler};
//! use weldpool::{Allocator, Config};
//! use weldpool::device::host::HostDevice;
//!
//! # fn main() -> weldpool::Result<()> {
//! let seen = Arc::new(Mutex::new(Vec::new()));
//! let noted = Arc::clone(&seen);
//! let handler = SpanHandler::new(move |event: SpanEvent| noted.lock().unwrap().push(event.path));
//! let config = Config { profiling: Profiling::Handler(handler), ..Config::default() };
//! let allocator = Allocator::builder(Arc::new(HostDevice::new()?)).config(config).build()?;
//! let buffer = allocator.allocate(1 << 20)?;
//! assert_eq!(*seen.lock().unwrap(), [SlowPath::Growth, SlowPath::Growth]); // begin and end
//! # drop(buffer);
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! | file | what it is |
//! |---|---|
//! | `spans.rs` | what an allocator holds, and the guard of one span |
//! | `tool.rs` | the tool of this platform, or none |
//! | `nvtx/` | NVTX: `protocol.rs` its tables and the calls, `mod.rs` the ranges |
//! | `signpost/` | `os_signpost`: `raw.rs` the calls, `message.rs` how a number is encoded, `mod.rs` the intervals |
//!
//! [`Config::profiling`]: crate::Config::profiling

#[cfg(all(target_os = "linux", feature = "cuda"))]
pub(crate) mod nvtx;
#[cfg(any(target_os = "macos", test))]
mod signpost;
mod spans;
mod tool;

use std::ffi::CStr;
use std::fmt;

pub(crate) use self::spans::{Span, Spans};
use crate::error::Result;
use crate::sync::Arc;

/// What takes long: a driver call or more, a wait, or a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowPath {
    /// Memory that is not free in one piece is obtained or mapped together, waiting for others who do included.
    /// Bytes: of the block.
    Growth,
    /// Holes are mapped together, or empty segments or handles exchanged; within a growth. Bytes: of the block.
    Remap,
    /// Free memory goes back to the device. Bytes: asked to go back, all for the greatest number; in the end, that went.
    Trim,
    /// The collecting thread, or who stands in for it, gives idle memory back. Bytes: in the end, that went back.
    Collection,
    /// Memory is out and [steps](crate::RecoveryStep) are taken. Bytes: of the request.
    Recovery,
    /// [Steps](crate::pressure::Step) against memory pressure. Bytes: in the end, that went back.
    Pressure,
    /// A copy through pinned memory, on each thread that takes part. Bytes: of the whole copy.
    StagedCopy,
    /// Work in flight is waited for. Bytes: that wait for it, or of the request.
    Wait,
}

impl SlowPath {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Growth,
        Self::Remap,
        Self::Trim,
        Self::Collection,
        Self::Recovery,
        Self::Pressure,
        Self::StagedCopy,
        Self::Wait,
    ];

    /// The name that profilers show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.c_name().to_str() {
            Ok(name) => name,
            Err(_) => "",
        }
    }

    pub(crate) const fn c_name(self) -> &'static CStr {
        match self {
            Self::Growth => c"growth",
            Self::Remap => c"remap",
            Self::Trim => c"trim",
            Self::Collection => c"collection",
            Self::Recovery => c"out-of-memory recovery",
            Self::Pressure => c"pressure response",
            Self::StagedCopy => c"staged copy",
            Self::Wait => c"wait",
        }
    }
}

/// Which end of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanPhase {
    /// It begins.
    Begin,
    /// It is over. Spans of a thread end in the reverse order of their beginnings.
    End,
}

/// One end of a span, as a [`SpanHandler`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanEvent {
    /// What it is a span of.
    pub path: SlowPath,
    /// Whether it begins or is over.
    pub phase: SpanPhase,
    /// What the path says of bytes.
    pub bytes: u64,
}

/// Gets every begin and end, on the thread of the span.
#[derive(Clone)]
pub struct SpanHandler(Arc<dyn Fn(SpanEvent) + Send + Sync>);

impl SpanHandler {
    /// Wraps a function. Locks of the allocator may be held while it is called, so it must neither use the allocator nor
    /// wait for who does. A panic in it is caught and logged, and ends the calls.
    pub fn new(handler: impl Fn(SpanEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }

    fn call(&self, event: SpanEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for SpanHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanHandler(..)")
    }
}

/// Where an allocator's spans go.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Profiling {
    /// Nowhere, until [`Allocator::set_profiling`](crate::Allocator::set_profiling).
    #[default]
    Off,
    /// To the [platform's tool](platform_tool). Where there is none, a log line says so and it is as off.
    Platform,
    /// To a function.
    Handler(SpanHandler),
}

impl Profiling {
    /// Lower-case name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Platform => "platform",
            Self::Handler(_) => "handler",
        }
    }
}

/// The name of the tool that listens to this process: `os_signpost`, or `NVTX`. The first call, or the first allocator
/// that asks for it, decides for the life of the process.
///
/// # Errors
///
/// [`Unsupported`](crate::ErrorKind::Unsupported) where the platform has none or none listens,
/// [`System`](crate::ErrorKind::System) where the library of the one that does cannot be used; the message says why.
pub fn platform_tool() -> Result<&'static str> {
    tool::get().map(|_tool| tool::Tool::NAME)
}

//! Reports that walk; kept apart from the counters, which do not.

#![forbid(unsafe_code)]

mod detailed;
mod leak;
mod page;

pub use detailed::{ArenaReport, Report, ReportOptions};
pub use leak::{LeakReport, LeakedBuffer, SampledBuffer};

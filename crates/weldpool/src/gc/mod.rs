//! When idle memory goes back without anybody asking.
//!
//! [`GcPolicy`] decides from a few numbers, and [`GcThread`] asks it at an interval and has a
//! [`Collector`], the allocator, carry the plan out.
//!
//! ```
//! use weldpool::gc::{GcPolicy, Observation};
//!
//! let observation = Observation {
//!     live_bytes: 500,
//!     reserved_bytes: 950,
//!     limit_bytes: Some(1000),
//!     ..Observation::default()
//! };
//! let plan = GcPolicy::default().decide(&observation);
//! assert_eq!(plan.trim_to_bytes, Some(700)); // above the high watermark, down to the low one
//! ```

mod ages;
mod policy;
mod thread;

pub(crate) use ages::Ages;
pub use policy::{GcPlan, GcPolicy, Observation};
pub use thread::{Collector, GcConfig, GcStats, GcThread};

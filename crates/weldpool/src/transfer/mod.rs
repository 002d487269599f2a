//! Copies between any two places: pools of any devices, and memory of the host.
//!
//! [`Copier`] decides which way the bytes take ([`CopyPath`]), and who does the work. The steps, each in a file:
//! what is copied and how it is cut (`extent`), the two sides (`place`, `side`), the way (`path`), who takes which chunk
//! (`schedule`), the queues and pinned memory that a pool keeps for it (`means`, `room`), how a copy uses
//! them (`line`), the work itself (`job`, `memory`, or `short` where one thread
//! is enough), threads (`workers`) and futures (`future`).

mod copier;
mod extent;
mod future;
mod job;
mod line;
mod means;
mod memory;
mod options;
mod path;
mod place;
mod room;
mod schedule;
mod short;
mod side;
mod stats;
mod workers;

pub use copier::Copier;
pub use extent::Rows;
pub use future::{AllocateFuture, CopyFuture, Outcome};
pub use job::Copied;
pub(crate) use means::Means;
pub use options::{CopierConfig, CopyOptions, CopyProgress};
pub use path::CopyPath;
pub(crate) use path::is_addressed_by;
pub use place::{Destination, Owned, Source};
pub(crate) use room::{Room, SLOTS};
pub use stats::{CopyStats, PathStats};

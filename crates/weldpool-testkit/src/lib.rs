//! What the tests of several crates and `weldpool doctor` share: a suite that every device runs, a device whose calls can be
//! made to fail, and a machine that turns any bytes into operations on an allocator.

pub mod alloc_ops;
pub mod device_suite;
mod fake;
mod faulty;
mod faulty_queue;
mod faulty_segment;
mod foreign;
mod held;
mod pages;
mod sharing;
mod subject;
pub mod trace_readers;
mod waiting;

pub use faulty::FaultyDevice;
pub use held::Held;
pub use pages::{PagePart, Pages};
pub use sharing::{export, import, offered};
pub use subject::Subject;
pub use waiting::{block, in_time};
pub use weldpool::device::fake::Call;
